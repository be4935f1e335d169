"""MTA-STS and TLS-RPT: what is published about TLS is right, and need not be published at all."""

from __future__ import annotations

import msgspec
import pytest

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.checks import CHECKS
from agent.dns.checks.base import Finding, Subject, drive
from agent.dns.checks.mta_sts import Policy, covers, read
from agent.dns.page import Page
from tests.dns.zone import Zone, only, txt, web

URL = "https://mta-sts.example.com/.well-known/mta-sts.txt"
ZONE: Zone = {
    "example.com": {"MX": ["10 mx1.example.com.", "20 mx2.host.net."]},
    "_mta-sts.example.com": txt("v=STSv1; id=20260101T000000;"),
    "mta-sts.example.com": {"A": ["192.0.2.1"]},
}
LINES = ("version: STSv1", "mode: enforce", "mx: mx1.example.com", "mx: *.host.net", "max_age: 1209600")
GOOD = "\n".join(LINES).encode()


def look(page: bytes | int | str = GOOD, zone: Zone = {}, *, kind: str = "text/plain") -> Finding:  # noqa: B006
    (finding,) = drive(CHECKS["mta_sts"].plan(Subject("example.com")), web({**ZONE, **zone}, {URL: page}, kind=kind))
    return finding


@pytest.mark.parametrize(
    ("lifetime", "left", "reason"),
    [(90, 14.5, "ok"), (90, 13.5, "sts_cert_expiring"), (6, 2, "ok"), (6, 1, "sts_cert_expiring"), (0, 0, "ok")],
)
def test_a_certificate_about_to_end(lifetime: float, left: float, reason: str) -> None:
    end = 1_800_000_000.0
    span = (end - lifetime * 86_400, end) if lifetime else (0.0, 0.0)

    def answer(question: Question) -> Answer:
        said = web(ZONE, {URL: GOOD}, at=end - left * 86_400)(question)
        return msgspec.structs.replace(said, certificate=span) if isinstance(said, Page) else said

    (finding,) = drive(CHECKS["mta_sts"].plan(Subject("example.com")), answer)
    assert finding.reason == reason, finding.detail
    assert ("2027-01-15" in finding.detail) == (reason != "ok")


def without(line: str, *instead: str) -> bytes:
    return "\r\n".join([each for each in LINES if not each.startswith(line)] + list(instead)).encode()


@pytest.mark.parametrize(
    ("page", "verdict", "reason"),
    [
        (GOOD, "ok", "ok"),
        (without("mode", "mode: testing"), "ok", "sts_testing"),
        (without("mode", "mode: none"), "ok", "sts_none"),
        (without("mx: mx1"), "fail", "sts_mx"),
        (without("mx: mx1", "mx: *.sub.example.com", "mode: testing"), "fail", "sts_mx"),
        (b"mode: testing\n" + without("mx: mx1"), "warn", "sts_mx"),
        (without("mx", "mx: *.example.com", "mx: *.host.net", "mx: old.example.net"), "warn", "sts_pattern"),
        (without("max_age", "max_age: 86400"), "warn", "sts_max_age"),
        (without("max_age", "max_age: 31557601"), "fail", "sts_policy"),
        (without("max_age", "max_age: soon"), "fail", "sts_policy"),
        (without("version"), "fail", "sts_policy"),
        (without("mode", "mode: on"), "fail", "sts_policy"),
        (without("mx"), "fail", "sts_policy"),
        (without("mx", "mx: *.*.net"), "fail", "sts_policy"),
        (b"<html>", "fail", "sts_policy"),
        (404, "fail", "sts_fetch"),
        (403, "fail", "sts_fetch"),
        ("redirect", "fail", "sts_fetch"),
        (b"x" * 70_000, "fail", "sts_fetch"),
        ("tls", "fail", "sts_cert"),
        (500, "unknown", "indeterminate"),
        (503, "unknown", "indeterminate"),
        (429, "unknown", "indeterminate"),
        ("timeout", "unknown", "indeterminate"),
        ("connect", "unknown", "indeterminate"),
        ("http", "unknown", "indeterminate"),
        ("address", "unknown", "indeterminate"),
    ],
)
def test_the_policy(page: bytes | int | str, verdict: str, reason: str) -> None:
    finding = look(page)
    assert (finding.verdict, finding.reason) == (verdict, reason), finding.detail


@pytest.mark.parametrize(
    ("zone", "verdict", "reason"),
    [
        ({"_mta-sts.example.com": txt("v=STSv1; id=1"), "mta-sts.example.com": {"TXT": ["x"]}}, "fail", "sts_fetch"),
        ({"_mta-sts.example.com": txt("v=STSv1;")}, "fail", "syntax_error"),
        ({"_mta-sts.example.com": txt("v=STSv1; id=2026-01-01")}, "fail", "syntax_error"),
        ({"_mta-sts.example.com": txt("v=STSv1; id=" + "1" * 33)}, "fail", "syntax_error"),
        ({"_mta-sts.example.com": txt("V=stsv1; id=1")}, "fail", "syntax_error"),
        ({"_mta-sts.example.com": txt("v=STSv1; id=1", "v=STSv1; id=2")}, "fail", "multiple_records"),
        ({"_mta-sts.example.com": txt("v=STSv1; id=1", "other")}, "ok", "ok"),
        ({"_mta-sts.example.com": {"CNAME": ["sts.host.net"]}, "sts.host.net": txt("v=STSv1; id=1")}, "ok", "ok"),
        ({"_mta-sts.example.com": Outcome.NXDOMAIN}, "warn", "sts_txt_missing"),
        ({"_mta-sts.example.com": Outcome.SERVFAIL}, "unknown", "indeterminate"),
        ({"mta-sts.example.com": Outcome.TIMEOUT}, "unknown", "indeterminate"),
        ({"example.com": Outcome.TIMEOUT}, "unknown", "indeterminate"),
    ],
)
def test_the_record(zone: Zone, verdict: str, reason: str) -> None:
    finding = look(GOOD, zone)
    assert (finding.verdict, finding.reason) == (verdict, reason), finding.detail


@pytest.mark.parametrize("page", [404, "timeout", b"hello", "tls"])
def test_without_a_record_nothing_is_held_against_a_web_server(page: bytes | int | str) -> None:
    finding = look(page, {"_mta-sts.example.com": Outcome.NODATA})
    assert (finding.verdict, finding.reason) == ("ok", "sts_absent")


def test_the_evidence_and_the_advice() -> None:
    finding = look(without("mx: mx1"))
    assert finding.records[0].startswith("v=STSv1; id=")
    assert "mode: enforce" in finding.records
    assert finding.advice.startswith("Add to the policy: mx: mx1.example.com")
    assert look(GOOD, kind="text/html").reason == "sts_type"


def test_the_first_of_a_repeated_key_counts() -> None:
    assert read(b"version: STSv1\nmode: testing\nmode: enforce\nmax_age: 5\nmax_age: 6\nmx: A.B.com.\n") == (
        Policy("testing", 5, ("a.b.com",)), "",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "host", "covered"),
    [("a.b.com", "a.b.com", True), ("*.b.com", "a.b.com", True), ("*.b.com", "b.com", False),
     ("*.b.com", "x.a.b.com", False), ("a.b.com", "x.a.b.com", False)],
)  # fmt: skip
def test_a_star_is_one_label(pattern: str, host: str, covered: bool) -> None:
    assert covers(pattern, host) is covered


@pytest.mark.parametrize(
    ("records", "verdict", "reason"),
    [
        (["v=TLSRPTv1; rua=mailto:tls@example.com"], "ok", "ok"),
        (["v=TLSRPTv1;rua=https://reports.example.net/x,mailto:tls@example.com"], "ok", "ok"),
        (["v=TLSRPTv1; rua=mailto:tls@example.com", "other"], "ok", "ok"),
        (["v=TLSRPTv1; rua=mailto:a@b.com", "v=TLSRPTv1; rua=mailto:c@d.com"], "fail", "multiple_records"),
        (["v=TLSRPTv1;"], "fail", "rua_missing"),
        (["v=TLSRPTv1; rua=http://example.com"], "fail", "syntax_error"),
        (["v=TLSRPTv1; rua=tls@example.com"], "fail", "syntax_error"),
        (["v=tlsrptv1; rua=mailto:tls@example.com"], "fail", "syntax_error"),
        (["v=spf1 -all"], "ok", "rpt_absent"),
    ],
)
def test_tls_reports(records: list[str], verdict: str, reason: str) -> None:
    finding = only("tls_rpt", {"_smtp._tls.example.com": {"TXT": records}})
    assert (finding.verdict, finding.reason) == (verdict, reason), finding.detail


def test_mta_sts_without_reports_is_a_warning() -> None:
    finding = only("tls_rpt", {"_mta-sts.example.com": txt("v=STSv1; id=1")})
    assert (finding.verdict, finding.reason) == ("warn", "rpt_missing")
    assert '_smtp._tls.example.com TXT "v=TLSRPTv1; rua=mailto:tls-reports@example.com"' in finding.advice
    assert only("tls_rpt", {"_smtp._tls.example.com": Outcome.REFUSED}).verdict == "unknown"
