"""The lint of SPF records."""

from __future__ import annotations

import pytest

from agent.dns.answer import Outcome
from agent.dns.checks.base import Subject, Verdict
from tests.dns.zone import Zone, findings, only, txt

NESTED: Zone = {
    "good.com": txt("v=spf1 ip4:198.51.100.0/24 -all"),
    "open.com": txt("v=spf1 +all"),
    "none.com": txt("hello"),
    "two.com": txt("v=spf1 -all", "v=spf1 ~all"),
    "bad.com": txt("v=spf1 ip4:nonsense -all"),
    "loop.com": txt("v=spf1 include:example.com -all"),
    "lost.com": Outcome.SERVFAIL,
    "six.com": {"A": [], "AAAA": ["2001:db8::1"]},
    "host.com": {"A": ["192.0.2.1"]},
    "mail.com": {"MX": ["10 host.com."]},
    "nine.com": txt("v=spf1 " + "a:host.com " * 8 + "-all"),
    "ten.com": txt("v=spf1 " + "a:host.com " * 9 + "-all"),
    "tree.com": txt("v=spf1 include:tree2.com include:tree2.com -all"),
    "tree2.com": txt("v=spf1 include:tree3.com include:tree3.com -all"),
    "tree3.com": txt("v=spf1 include:nine.com include:nine.com -all"),
}


@pytest.mark.parametrize(
    ("record", "verdict", "reason"),
    [
        ("v=spf1 ip4:192.0.2.1 ~all", "ok", "ok"),
        ("v=spf1 ip4:192.0.2.1 -all", "ok", "ok"),
        ("v=spf1 -all", "ok", "ok"),
        ("v=spf1 include:good.com a:host.com mx:mail.com a:six.com -all", "ok", "ok"),
        ("v=spf1 redirect=good.com", "ok", "ok"),
        ("v=spf1 exists:%{i}._spf.example.com include:%{d2}.good.com -all", "ok", "ok"),
        ("v=spf1 exists:absent.com ~all exp=why.example.com", "ok", "ok"),
        ("v=spf1 ip4:192.0.2.1 +all", "fail", "plus_all"),
        ("v=spf1 ip4:192.0.2.1 all", "fail", "plus_all"),
        ("v=spf1 include:open.com -all", "fail", "plus_all"),
        ("v=spf1 ip4:192.0.2.1 ?all", "warn", "neutral_all"),
        ("v=spf1 ip4:192.0.2.1", "warn", "neutral_all"),
        ("v=spf1 -all ip4:192.0.2.1", "warn", "dead_terms"),
        ("v=spf1 redirect=good.com -all", "warn", "dead_terms"),
        ("v=spf1 ptr -all", "warn", "ptr_used"),
        ("v=spf1 ip4:192.0.2.1 ip4:192.0.2.1 -all", "warn", "duplicate_term"),
        ("v=spf1 ip4:10.0.0.0/24 -all", "warn", "network_not_public"),
        ("v=spf1 ip6:fe80::/64 -all", "warn", "network_not_public"),
        ("v=spf1 ip4:192.0.0.0/15 -all", "warn", "network_too_wide"),
        ("v=spf1 ip6:2000::/31 -all", "warn", "network_too_wide"),
        ("v=spf1 ip4=192.0.2.1 -all", "warn", "unknown_modifier"),
        ("v=spf1 " + " ".join(f"ip4:192.0.2.{i}" for i in range(40)) + " -all", "warn", "too_long"),
        ("v=spf1 ipv4:192.0.2.1 -all", "fail", "syntax_error"),
        ("v=spf1 ip4:192.0.2.1, -all", "fail", "syntax_error"),
        ("v=spf1 include:bad.com -all", "fail", "syntax_error"),
        ("v=spf1 include:none.com -all", "fail", "include_dangling"),
        ("v=spf1 include:gone.com -all", "fail", "include_dangling"),
        ("v=spf1 redirect=gone.com", "fail", "include_dangling"),
        ("v=spf1 include:two.com -all", "fail", "multiple_records"),
        ("v=spf1 include:loop.com -all", "fail", "loop"),
        ("v=spf1 include:example.com -all", "fail", "loop"),
        ("v=spf1 include:lost.com -all", "unknown", "indeterminate"),
        ("v=spf1 include:lost.com +all", "fail", "plus_all"),
        ("v=spf1 a:lost.com -all", "unknown", "indeterminate"),
        ("v=spf1 include:nine.com -all", "warn", "lookup_limit"),
        ("v=spf1 include:ten.com -all", "warn", "lookup_limit"),
        ("v=spf1 include:ten.com a:host.com -all", "fail", "lookup_limit"),
        ("v=spf1 include:tree.com -all", "fail", "lookup_limit"),
        ("v=spf1 a:gone.com -all", "warn", "void_limit"),
        ("v=spf1 a:gone.com mx:gone.com -all", "warn", "void_limit"),
        ("v=spf1 a:gone.com mx:gone.com a:gone2.com -all", "fail", "void_limit"),
    ],
)
def test_lint(record: str, verdict: str, reason: str) -> None:
    finding = only("spf", {**NESTED, "example.com": txt("verification=123", record)})
    assert (finding.verdict, finding.reason) == (verdict, reason), finding.detail
    assert finding.records == (record,)


def test_a_repeated_include_counts_again() -> None:
    finding = only("spf", {"example.com": txt("v=spf1 " + "include:good.com " * 11 + "-all"), **NESTED})
    assert (finding.verdict, finding.reason) == (Verdict.FAIL, "lookup_limit")
    assert "11 DNS lookups of the 10 allowed" in finding.detail


def test_two_records_are_merged_in_the_advice() -> None:
    zone = {"example.com": txt("v=spf1 a include:x.com -all", "v=spf1 include:x.com ip4:192.0.2.1 ~all")}
    finding = only("spf", zone)
    assert (finding.verdict, finding.reason) == (Verdict.FAIL, "multiple_records")
    assert 'example.com TXT "v=spf1 a include:x.com ip4:192.0.2.1 ~all"' in finding.advice
    assert len(finding.records) == 2


def test_advice_holds_the_record_to_publish() -> None:
    assert (
        '"v=spf1 ip4:192.0.2.1 include:all.com ~all"'
        in only(
            "spf", {"example.com": txt("v=spf1 ip4:192.0.2.1 include:all.com +all ptr"), "all.com": txt("v=spf1 -all")}
        ).advice
    )
    missing, *_ = findings("spf", Subject("example.com", (), ("192.0.2.1", "2001:db8::1")), {"example.com": txt("x")})
    assert missing.reason == "missing_record"
    assert '"v=spf1 ip4:192.0.2.1 ip6:2001:db8::1 ~all"' in missing.advice
    assert only("spf", {}).reason == "missing_name"


@pytest.mark.parametrize(
    ("record", "ip", "verdict", "reason"),
    [
        ("v=spf1 ip4:192.0.2.1 -all", "192.0.2.1", "ok", "ok"),
        ("v=spf1 include:good.com -all", "198.51.100.9", "ok", "ok"),
        ("v=spf1 a:host.com -all", "192.0.2.1", "ok", "ok"),
        ("v=spf1 ip4:192.0.2.1 -all", "192.0.2.2", "fail", "ip_not_authorised"),
        ("v=spf1 ip4:192.0.2.1 ~all", "2001:db8::1", "fail", "ip_not_authorised"),
        ("v=spf1 ip4:192.0.2.1 ?all", "192.0.2.2", "fail", "ip_not_authorised"),
        ("v=spf1 oops", "192.0.2.1", "fail", "ip_not_authorised"),
        ("hello", "192.0.2.1", "fail", "ip_not_authorised"),
        ("v=spf1 +all", "192.0.2.1", "warn", "plus_all"),
        ("v=spf1 ip4:192.0.0.0/8 -all", "192.0.2.1", "warn", "network_too_wide"),
        ("v=spf1 include:lost.com -all", "192.0.2.1", "unknown", "indeterminate"),
        ("v=spf1 ip4:192.0.2.1 include:lost.com -all", "192.0.2.1", "ok", "ok"),
        ("v=spf1 -all", "192.0.2.1.5", "unknown", "bad_address"),
    ],
)
def test_declared_addresses(record: str, ip: str, verdict: str, reason: str) -> None:
    _, finding = findings("spf", Subject("example.com", (), (ip, ip)), {**NESTED, "example.com": txt(record)})
    assert (finding.subject, finding.verdict, finding.reason) == (ip, verdict, reason), finding.detail


def test_a_missing_address_is_added_to_the_record() -> None:
    zone = {"example.com": txt("v=spf1 a:host.com ~all"), **NESTED}
    _, finding = findings("spf", Subject("example.com", (), ("192.0.2.2",)), zone)
    assert 'example.com TXT "v=spf1 ip4:192.0.2.2 a:host.com ~all"' in finding.advice
    assert "softfail" in finding.detail


def test_ptr_alone_is_weak() -> None:
    zone = {"example.com": txt("v=spf1 ptr -all"), "1.2.0.192.in-addr.arpa": {"PTR": ["a.example.com"]},
            "a.example.com": {"A": ["192.0.2.1"]}}  # fmt: skip
    _, finding = findings("spf", Subject("example.com", (), ("192.0.2.1",)), zone)
    assert (finding.verdict, finding.reason) == (Verdict.WARN, "ptr_used")
