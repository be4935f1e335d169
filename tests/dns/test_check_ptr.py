"""PTR: sending addresses have names that lead back to them."""

from __future__ import annotations

import pytest

from agent.dns.answer import Outcome
from agent.dns.checks.base import Finding, Subject
from tests.dns.zone import Zone, findings

FOUR, SIX = "198.51.100.25", "2001:db8::25"
R4, R6 = "25.100.51.198.in-addr.arpa", "5.2" + ".0" * 22 + ".8.b.d.0.1.0.0.2.ip6.arpa"
NAMES: Zone = {
    "mail.example.com": {"A": [FOUR], "AAAA": ["2001:0DB8:0::25"]},
    "mail2.example.com": {"A": [FOUR]},
    "other.example.com": {"A": ["198.51.100.99"]},
    "198-51-100-25.isp.net": {"A": [FOUR]},
    "host25.100.isp.net": {"A": [FOUR]},
    "dsl7.city.isp.net": {"A": [FOUR]},
    "a100-25.smtp-out.amazonses.com": {"A": [FOUR]},
    "mail-25.shipping.net": {"A": [FOUR]},
    "lost.example.com": Outcome.TIMEOUT,
}


def look(zone: Zone, ip: str = FOUR, helo: str = "") -> Finding:
    (finding,) = findings("ptr", Subject("example.com", (), (ip,), helo={ip: helo} if helo else {}), {**NAMES, **zone})
    assert (finding.check, finding.subject) == ("ptr", ip)
    return finding


@pytest.mark.parametrize(
    ("reverse", "verdict", "reason"),
    [
        ({"PTR": ["mail.example.com"]}, "ok", "ok"),
        (Outcome.NXDOMAIN, "fail", "ptr_missing"),
        (Outcome.NODATA, "fail", "ptr_missing"),
        ({"PTR": ["other.example.com"]}, "fail", "ptr_unconfirmed"),
        ({"PTR": ["gone.example.com"]}, "fail", "ptr_unconfirmed"),
        ({"PTR": ["lost.example.com"]}, "unknown", "indeterminate"),
        ({"PTR": ["lost.example.com", "mail.example.com"]}, "warn", "ptr_several"),
        ({"PTR": ["mail.example.com", "mail2.example.com"]}, "warn", "ptr_several"),
        ({"PTR": ["198-51-100-25.isp.net"]}, "warn", "ptr_generic"),
        ({"PTR": ["host25.100.isp.net"]}, "warn", "ptr_generic"),
        ({"PTR": ["dsl7.city.isp.net"]}, "warn", "ptr_generic"),
        ({"PTR": ["a100-25.smtp-out.amazonses.com"]}, "ok", "ok"),
        ({"PTR": ["mail-25.shipping.net"]}, "ok", "ok"),
        (Outcome.SERVFAIL, "unknown", "indeterminate"),
        (Outcome.REFUSED, "unknown", "indeterminate"),
    ],
)
def test_reverse_names(reverse: dict[str, list[str]] | Outcome, verdict: str, reason: str) -> None:
    finding = look({R4: reverse})
    assert (finding.verdict, finding.reason) == (verdict, reason), finding.detail


def test_ipv6_is_held_to_the_same() -> None:
    assert look({R6: {"PTR": ["mail.example.com"]}}, SIX).reason == "ok"
    missing = look({}, SIX)
    assert (missing.verdict, missing.reason) == ("fail", "ptr_missing")
    assert f"{R6} PTR mail.example.com." in missing.advice
    assert look({R6: {"PTR": ["mail2.example.com"]}}, SIX).reason == "ptr_unconfirmed"


def test_a_classless_delegation_is_followed() -> None:
    zone: Zone = {R4: {"CNAME": ["25.0-63.100.51.198.in-addr.arpa"]},
                  "25.0-63.100.51.198.in-addr.arpa": {"PTR": ["mail.example.com"]}}  # fmt: skip
    assert look(zone).reason == "ok"


@pytest.mark.parametrize(
    ("helo", "verdict", "reason"),
    [
        ("mail.example.com", "ok", "ok"),
        ("MAIL.example.com.", "ok", "ok"),
        ("mail2.example.com", "warn", "helo_differs"),
        ("gone.example.com", "fail", "helo_bad"),
        ("localhost", "fail", "helo_bad"),
        ("localhost.localdomain", "fail", "helo_bad"),
        ("mailhost", "fail", "helo_bad"),
        (FOUR, "fail", "helo_bad"),
        ("lost.example.com", "unknown", "indeterminate"),
    ],
)
def test_the_greeting(helo: str, verdict: str, reason: str) -> None:
    finding = look({R4: {"PTR": ["mail.example.com"]}}, helo=helo)
    assert (finding.verdict, finding.reason) == (verdict, reason), finding.detail


def test_a_greeting_of_another_address_is_not_this_ones() -> None:
    zone: Zone = {**NAMES, R4: {"PTR": ["mail.example.com"]}, R6: {"PTR": ["mail.example.com"]}}
    subject = Subject("example.com", (), (FOUR, SIX), helo={SIX: "localhost"})
    assert [f.reason for f in findings("ptr", subject, zone)] == ["ok", "helo_bad"]


def test_the_advice_says_what_to_publish() -> None:
    assert look({}, helo="mail.example.com").advice.startswith("Have the owner of the address publish: "
                                                               f"{R4} PTR mail.example.com.")  # fmt: skip
    assert look({R4: {"PTR": ["other.example.com"]}}).advice == f"Publish: other.example.com A {FOUR}"


def test_without_sending_addresses_there_is_nothing_to_say() -> None:
    assert findings("ptr", Subject("example.com"), {}) == ()
