"""BIMI: a logo that is announced is fit to be shown."""

from __future__ import annotations

import pytest

from agent.dns.answer import Outcome
from agent.dns.checks import CHECKS
from agent.dns.checks.base import Finding, Subject, drive
from agent.dns.checks.bimi import faults
from tests.dns.zone import Zone, txt, web

URL = "https://example.com/logo.svg"
SVG = b'<?xml version="1.0"?><svg version="1.2" baseProfile="tiny-ps" viewBox="0 0 9 9"><title>Example</title></svg>'
RECORD = f"v=BIMI1; l={URL}; a=https://example.com/vmc.pem"
ZONE: Zone = {
    "example.com": {"A": ["192.0.2.1"]},
    "_dmarc.example.com": txt("v=DMARC1; p=reject"),
    "default._bimi.example.com": txt(RECORD),
}


def look(zone: Zone = {}, page: bytes | int | str = SVG, domain: str = "example.com") -> Finding:  # noqa: B006
    (finding,) = drive(CHECKS["bimi"].plan(Subject(domain)), web({**ZONE, **zone}, {URL: page}))
    return finding


@pytest.mark.parametrize(
    ("record", "verdict", "reason"),
    [
        (RECORD, "ok", "ok"),
        (f"v=BIMI1; l={URL}", "warn", "bimi_unproven"),
        (f"v=BIMI1; l={URL}; a=http://example.com/vmc.pem", "fail", "bimi_proof"),
        ("v=BIMI1; l=; a=https://example.com/vmc.pem", "fail", "bimi_logo"),
        ("v=BIMI1; l=; a=", "ok", "bimi_declined"),
        ("something else", "ok", "bimi_absent"),
    ],
)
def test_the_record(record: str, verdict: str, reason: str) -> None:
    finding = look({"default._bimi.example.com": txt(record)})
    assert (finding.verdict, finding.reason) == (verdict, reason), finding.detail


@pytest.mark.parametrize(
    ("page", "verdict", "reason"),
    [
        (404, "fail", "bimi_logo"),
        (b" " * 32_769, "fail", "bimi_logo"),
        (b"<html></html>", "fail", "bimi_logo"),
        ("url", "fail", "bimi_logo"),
        ("timeout", "unknown", "indeterminate"),
        ("tls", "unknown", "indeterminate"),
        (503, "unknown", "indeterminate"),
    ],
)
def test_the_logo(page: bytes | int | str, verdict: str, reason: str) -> None:
    finding = look(page=page)
    assert (finding.verdict, finding.reason) == (verdict, reason), finding.detail


@pytest.mark.parametrize(
    ("zone", "verdict", "reason"),
    [
        ({"_dmarc.example.com": txt("v=DMARC1; p=none")}, "fail", "not_enforced"),
        ({"_dmarc.example.com": txt("v=DMARC1; p=quarantine; t=y")}, "fail", "not_enforced"),
        ({"_dmarc.example.com": Outcome.NXDOMAIN}, "fail", "not_enforced"),
        ({"_dmarc.example.com": Outcome.TIMEOUT}, "unknown", "indeterminate"),
        ({"default._bimi.example.com": Outcome.SERVFAIL}, "unknown", "indeterminate"),
        ({"default._bimi.example.com": txt(RECORD, RECORD)}, "warn", "multiple_records"),
        ({"default._bimi.example.com": Outcome.NXDOMAIN}, "ok", "bimi_absent"),
    ],
)
def test_what_surrounds_it(zone: Zone, verdict: str, reason: str) -> None:
    finding = look(zone)
    assert (finding.verdict, finding.reason) == (verdict, reason), finding.detail


def test_a_subdomain_has_its_organizations_logo() -> None:
    finding = look({"news.example.com": {"A": ["192.0.2.1"]}}, domain="news.example.com")
    assert (finding.reason, finding.records) == ("ok", (RECORD,))


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (b' baseProfile="tiny-ps"', b"", "has no baseProfile tiny-ps"),
        (b"<title>Example</title>", b"", "has no title"),
        (b"viewBox", b'x="0" viewBox', "has x or y at its root"),
        (b"</svg>", b"<script/></svg>", "holds a script"),
        (b"</svg>", b'<g onload="x()"/></svg>', "holds a script"),
        (b"</svg>", b'<use xlink:href="https://a.com/b"/></svg>', "refers to something outside"),
        (b"</svg>", b'<image href="#a"/></svg>', "refers to something outside"),
        (b"<svg", b"<gif", "is no SVG"),
    ],
)
def test_what_the_profile_forbids(old: bytes, new: bytes, fault: str) -> None:
    assert faults(SVG) == []
    assert faults(SVG.replace(old, new)) == [fault]
