"""DNSSEC and DANE: what is signed holds; what is not need not be."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
import pytest

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.checks import CHECKS
from agent.dns.checks.base import Finding, Subject, drive
from agent.dns.checks.dane import usable
from tests.dns.zone import Zone, web

# RFC 4509 section 2.3 and RFC 4034 section 5.4: a key and its DS records.
KEY = (
    "256 3 5 AQOeiiR0GOMYkDshWoSKz9XzfwJr1AYtsmx3TGkJaNXVbfi/2pHm822aJ5iI9BMzNXxeYCmZDRD99WYwYqUSdjMmmAphXdvx"
    "egXd/M5+X7OrzKBaMbCVdFLUUh6DhweJBjEVv5f2wwjM9XzcnOf+EPbtG9DMBmADjFDc2w/rljwvFw=="
)
DS1 = "60485 5 1 2bb183af5f22588179a53b0a98631fad1a292118"
DS2 = "60485 5 2 d4b7d520e7bb5f0f67674a0cceb1e3e0614b93c4f9e99b8383f6a1e4469da50a"
ZONE = "dskey.example.com"
SIGNED = {"AD": ["y"], "SOA": ["ns h 1 2 3 4 5"]}


def look(check: str, zone: Zone, domain: str) -> Finding:
    (finding,) = drive(CHECKS[check].plan(Subject(domain)), web(zone, {}))
    return finding


@pytest.mark.parametrize(
    ("held", "verdict", "reason"),
    [
        ({**SIGNED, "DS": [DS2, DS1], "DNSKEY": [KEY]}, "warn", "dnssec_weak"),
        ({**SIGNED, "DS": [DS2.upper()], "DNSKEY": [KEY]}, "warn", "dnssec_weak"),
        ({**SIGNED, "DS": ["60485 13 4 00"], "DNSKEY": [KEY]}, "fail", "ds_mismatch"),
        ({**SIGNED, "DS": [DS2[:-1] + "b"], "DNSKEY": [KEY]}, "fail", "ds_mismatch"),
        ({**SIGNED, "DS": [DS2], "DNSKEY": [KEY.replace("AQOe", "AQOf")]}, "fail", "ds_mismatch"),
        ({**SIGNED, "DS": [DS2]}, "fail", "dnskey_missing"),
        ({**SIGNED, "DS": [DS2], "DNSKEY": ["nonsense"]}, "fail", "dnskey_missing"),
        ({**SIGNED, "DS": ["60485 13 9 00"], "DNSKEY": ["257 3 13 AAAA"]}, "ok", "ok"),
        ({"SOA": SIGNED["SOA"], "DS": ["60485 13 9 00"], "DNSKEY": ["257 3 13 AAAA"]}, "ok", "unvalidated"),
        ({"SOA": SIGNED["SOA"]}, "ok", "dnssec_absent"),
        (Outcome.BOGUS, "fail", "dnssec_bogus"),
        (Outcome.SERVFAIL, "unknown", "indeterminate"),
    ],
)
def test_the_zones_signatures(held: dict[str, Sequence[str]] | Outcome, verdict: str, reason: str) -> None:
    finding = look("dnssec", {ZONE: held}, ZONE)
    assert (finding.verdict, finding.reason) == (verdict, reason), finding.detail


DAY = 86_400.0
NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("lifetime", "left", "authentic", "verdict", "reason"),
    [
        (30.0, 3.5, True, "ok", "ok"),
        (30.0, 2.9, True, "warn", "dnssec_expiring"),
        (30.0, 2.9, False, "warn", "dnssec_expiring"),
        (2.0, 1.0, True, "ok", "ok"),  # made for each answer
        (2.0, 0.3, True, "warn", "dnssec_expiring"),
        (30.0, -0.5, False, "fail", "dnssec_expired"),
        (30.0, -0.5, True, "ok", "ok"),  # who validates knows better: it is this machine's clock
    ],
)
def test_when_signatures_end(lifetime: float, left: float, authentic: bool, verdict: str, reason: str) -> None:
    ad = {"AD": ["y"]} if authentic else {}
    zone: Zone = {ZONE: {"SOA": SIGNED["SOA"], "DS": ["60485 13 9 00"], "DNSKEY": ["257 3 13 AAAA"], **ad}}
    end = NOW + left * DAY

    def answer(question: Question) -> Answer:
        signed = (end - lifetime * DAY, end) if question.type != "DS" else (0.0, 0.0)
        return msgspec.structs.replace(web(zone, {})(question), signed=signed, at=NOW)

    (finding,) = drive(CHECKS["dnssec"].plan(Subject(ZONE)), answer)
    assert (finding.verdict, finding.reason) == (verdict, reason), finding.detail
    if verdict != "ok":
        assert datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%d %H:%M UTC") in finding.detail


def test_a_name_is_judged_by_its_zone() -> None:
    finding = look("dnssec", {"example.com": {**SIGNED, "DS": ["1 13 9 00"], "DNSKEY": ["257 3 13 AAAA"]},
                              "a.b.example.com": {"A": ["192.0.2.1"]}}, "a.b.example.com")  # fmt: skip
    assert (finding.reason, finding.records) == ("ok", ("example.com DS 1 13 9 00",))


GOOD, OTHER, FULL = "3 1 1 " + "ab" * 32, "2 1 1 " + "cd" * 32, "3 0 0 3082"


def dane(one: Sequence[str], two: Sequence[str] | Outcome, *, signed: bool = True, validating: bool = True) -> Finding:
    ad = {"AD": ["y"]} if signed else {}
    zone: Zone = {
        "example.com": {"MX": ["10 mx1.example.com.", "20 mx2.example.com."], **ad},
        "_25._tcp.mx1.example.com": {"TLSA": one, **ad} if one else Outcome.NXDOMAIN,
        "_25._tcp.mx2.example.com": two if isinstance(two, Outcome) else {"TLSA": two, **ad} if two else Outcome.NODATA,
        "org": {"SOA": ["x"], **({"AD": ["y"]} if validating else {})},
    }
    return look("dane", zone, "example.com")


@pytest.mark.parametrize(
    ("one", "two", "verdict", "reason"),
    [
        ([GOOD, OTHER], [GOOD, FULL], "ok", "ok"),
        ([GOOD], [GOOD, OTHER], "warn", "tlsa_single"),
        ([GOOD, OTHER], [], "warn", "tlsa_partial"),
        ([GOOD, OTHER], ["1 1 1 " + "ab" * 32], "fail", "tlsa_unusable"),
        ([GOOD, OTHER], ["0 0 1 " + "ab" * 32, "1 1 1 " + "ab" * 32], "fail", "tlsa_unusable"),
        ([GOOD, OTHER], [GOOD, "1 1 1 " + "ab" * 32], "warn", "tlsa_unusable"),
        ([], [], "ok", "dane_absent"),
        ([GOOD, OTHER], Outcome.BOGUS, "fail", "dnssec_bogus"),
        ([], Outcome.BOGUS, "fail", "dnssec_bogus"),
        ([], Outcome.SERVFAIL, "unknown", "indeterminate"),
        ([GOOD, OTHER], Outcome.TIMEOUT, "unknown", "indeterminate"),
    ],
)
def test_the_mail_hosts_keys(one: Sequence[str], two: Sequence[str] | Outcome, verdict: str, reason: str) -> None:
    finding = dane(one, two)
    assert (finding.verdict, finding.reason) == (verdict, reason), finding.detail


def test_records_count_only_with_dnssec() -> None:
    insecure = dane([GOOD, OTHER], [GOOD, OTHER], signed=False)
    assert (insecure.verdict, insecure.reason) == ("warn", "tlsa_insecure")
    blind = dane([GOOD, OTHER], [GOOD, OTHER], signed=False, validating=False)
    assert (blind.verdict, blind.reason) == ("ok", "unvalidated"), "nobody could tell, so nothing is held against it"
    assert f"_25._tcp.mx1.example.com TLSA {GOOD}" in insecure.records


@pytest.mark.parametrize(
    ("record", "good"),
    [(GOOD, True), (OTHER, True), (FULL, True), ("3 1 2 " + "ab" * 64, True), ("3 1 2 " + "ab" * 32, False),
     ("3 1 1 ab", False), ("0 1 1 " + "ab" * 32, False), ("1 0 1 " + "ab" * 32, False), ("3 2 1 " + "ab" * 32, False),
     ("3 1 3 " + "ab" * 32, False), ("4 1 1 " + "ab" * 32, False), ("3 0 0", False), ("", False)],
)  # fmt: skip
def test_parameters_that_serve_smtp(record: str, good: bool) -> None:
    assert usable(record) is good
