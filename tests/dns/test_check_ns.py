"""NS and SOA: the zone is served, by enough servers, in one version. The servers' own answers are in the dict too."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.checks import CHECKS
from agent.dns.checks.base import Finding, Subject, drive
from tests.dns.zone import Zone, answers

A1, A2, A3, SIX, PARENT = "8.8.8.1", "9.9.9.2", "1.1.1.3", "2600::1", "11.0.0.1"
SOA = "ns1.dns.net hostmaster.example.com {} 3600 900 1209600 3600"
GOOD: Zone = {
    "com": {"NS": ["a.gtld.net"]},
    "a.gtld.net": {"A": [PARENT]},
    "example.com": {"NS": ["ns1.dns.net", "ns2.dns.net"], "SOA": [SOA.format(7)]},
    "ns1.dns.net": {"A": [A1]},
    "ns2.dns.net": {"A": [A2], "AAAA": [SIX]},
    "ns3.dns.net": {"A": [A3]},
    "near.dns.net": {"A": ["8.8.8.77"]},
    "alias.dns.net": {"CNAME": ["ns1.dns.net"]},
    "doc.dns.net": {"A": ["192.0.2.1"]},
    "lost.dns.net": Outcome.SERVFAIL,
}
Direct = Mapping[str, Outcome | tuple[str, ...]]


def look(check: str, zone: Zone = {}, direct: Direct = {}, domain: str = "example.com") -> Finding:  # noqa: B006
    """``direct``: server to an outcome, or its SOA or NS records; a parent's are a referral."""
    held = answers({**GOOD, **zone})
    said = {A1: (SOA.format(7),), A2: (SOA.format(7),), A3: (SOA.format(7),), SIX: (SOA.format(7),), **direct}

    def answer(question: Question) -> Answer:
        if not question.server:
            return held(question)
        told = said.get(question.server, Outcome.TIMEOUT)
        if isinstance(told, Outcome):
            return Answer(question, told)
        if question.type == "NS":
            return Answer(question, Outcome.LAME, told)
        return Answer(question, Outcome.ANSWER, told, ttl=3600, authoritative=True)

    (finding,) = drive(CHECKS[check].plan(Subject(domain)), answer)
    return finding


def ns(*hosts: str) -> Zone:
    return {"example.com": {"NS": hosts, "SOA": [SOA.format(7)]}}


@pytest.mark.parametrize(
    ("zone", "direct", "verdict", "reason"),
    [
        ({}, {}, "ok", "ok"),
        (ns("ns1.dns.net"), {}, "fail", "ns_single"),
        (ns("ns1.dns.net", "near.dns.net"), {"8.8.8.77": (SOA.format(7),)}, "warn", "ns_one_network"),
        (ns("ns1.dns.net", "gone.dns.net"), {}, "warn", "ns_dangling"),
        (ns("gone.dns.net", "gone2.dns.net"), {}, "fail", "ns_dangling"),
        (ns("alias.dns.net", "ns2.dns.net"), {}, "warn", "ns_cname"),
        (ns("lost.dns.net", "ns2.dns.net"), {}, "unknown", "indeterminate"),
        ({}, {A2: Outcome.LAME, SIX: Outcome.LAME}, "fail", "ns_lame"),
        ({}, {A2: Outcome.REFUSED}, "fail", "ns_lame"),
        (ns("ns1.dns.net", "ns2.dns.net", "ns3.dns.net"), {A3: Outcome.SERVFAIL}, "warn", "ns_lame"),
        (ns("ns1.dns.net", "ns3.dns.net"), {A3: Outcome.TIMEOUT}, "warn", "ns_silent"),
        ({}, {SIX: Outcome.UNREACHABLE}, "ok", "ok"),
        ({}, {A1: Outcome.TIMEOUT, A2: Outcome.TIMEOUT, SIX: Outcome.UNREACHABLE}, "ok", "ok"),
        ({}, {PARENT: ("ns1.dns.net", "ns2.dns.net")}, "ok", "ok"),
        ({}, {PARENT: ("ns1.dns.net", "old.dns.net")}, "warn", "ns_differs"),
        ({}, {PARENT: ("ns1.dns.net",)}, "warn", "ns_differs"),
        ({}, {PARENT: Outcome.REFUSED}, "ok", "ok"),
        ({"example.com": Outcome.NXDOMAIN}, {}, "fail", "missing_name"),
        ({"example.com": Outcome.NODATA}, {}, "fail", "ns_missing"),
        ({"example.com": Outcome.SERVFAIL}, {}, "unknown", "indeterminate"),
    ],
)
def test_name_servers(zone: Zone, direct: Direct, verdict: str, reason: str) -> None:
    finding = look("ns", zone, direct)
    assert (finding.verdict, finding.reason) == (verdict, reason), finding.detail


def test_what_differs_above_is_named() -> None:
    finding = look("ns", direct={PARENT: ("ns1.dns.net", "old.dns.net")})
    assert "only there: old.dns.net; only in the zone: ns2.dns.net" in finding.detail
    assert "ns1.dns.net, ns2.dns.net" in finding.advice


@pytest.mark.parametrize("check", ["ns", "soa"])
def test_a_name_within_a_zone_is_judged_by_its_zone(check: str) -> None:
    finding = look(check, {"mail.news.example.com": {"A": ["192.0.2.1"]}}, domain="mail.news.example.com")
    assert (finding.reason, list(finding.records)) == ("ok", GOOD["example.com"][check.upper()])  # type: ignore[index]


def test_only_public_servers_are_asked() -> None:
    asked: list[str] = []
    hosts = {f"n{n}.dns.net": {"A": [ip]} for n, ip in enumerate(("10.0.0.1", "127.0.0.1", "192.0.2.1", "169.254.1.1"))}
    held = answers({**ns(*hosts), **hosts})

    def answer(question: Question) -> Answer:
        asked.append(question.server)
        return held(msgspec.structs.replace(question, server=""))

    for check in ("ns", "soa"):
        drive(CHECKS[check].plan(Subject("example.com")), answer)
    assert set(asked) == {""}


@pytest.mark.parametrize(
    ("soa", "direct", "verdict", "reason"),
    [
        (SOA.format(7), {}, "ok", "ok"),
        (SOA.format(7), {A2: (SOA.format(6),)}, "warn", "serial_skew"),
        (SOA.format(7), {A2: Outcome.TIMEOUT}, "ok", "ok"),
        ("ns1 host 7 3600 900 1209600 86400", {}, "warn", "negative_ttl"),
        ("ns1 host 7 60 900 1209600 3600", {}, "ok", "soa_unusual"),
        ("ns1 host 7 3600 900 86400 3600", {}, "ok", "soa_unusual"),
        ("ns1 host seven 3600 900 86400 3600", {}, "fail", "soa_missing"),
    ],
)
def test_the_zones_version_and_times(soa: str, direct: Direct, verdict: str, reason: str) -> None:
    zone: Zone = {"example.com": {"NS": ["ns1.dns.net", "ns2.dns.net"], "SOA": [soa]}}
    held = {A1: (SOA.format(7),), A2: (SOA.format(7),), SIX: (SOA.format(7),), **direct}
    finding = _with_ttl(zone, 86400) if reason == "negative_ttl" else look("soa", zone, held)
    assert (finding.verdict, finding.reason) == (verdict, reason), finding.detail


def _with_ttl(zone: Zone, ttl: int) -> Finding:
    held = answers({**GOOD, **zone}, ttl=ttl)
    (finding,) = drive(
        CHECKS["soa"].plan(Subject("example.com")),
        lambda q: Answer(q, Outcome.TIMEOUT) if q.server else held(q),
    )
    return finding


def test_a_ttl_beyond_a_day_is_slow_to_correct() -> None:
    zone: Zone = {"example.com": {**GOOD["example.com"], "MX": ["10 mx.example.com."]}}  # type: ignore[dict-item]
    assert _with_ttl(zone, 86400).reason == "ok"
    finding = _with_ttl(zone, 86401)
    assert (finding.verdict, finding.reason) == ("warn", "ttl_long")
    assert "example.com" in finding.advice
