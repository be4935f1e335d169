"""DMARC after RFC 9989."""

from __future__ import annotations

import pytest

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.checks.base import Verdict
from agent.dns.dmarc_record import is_dmarc, read, walk, walk_names
from tests.dns.zone import Zone, answers, only, txt

BASE: Zone = {
    "example.com": {"A": ["192.0.2.1"], "MX": ["10 mx.example.com."]},
    "mx.example.com": {"A": ["192.0.2.1"]},
    "collect.com": {"MX": ["10 mx.example.com."]},
    "example.com._report._dmarc.collect.com": txt("v=DMARC1"),
    "closed.com": {"A": ["192.0.2.1"]},
    "null.com": {"MX": ["0 ."]},
    "lost.com": Outcome.TIMEOUT,
}
RUA = "rua=mailto:dmarc@example.com"


@pytest.mark.parametrize(
    ("record", "verdict", "reason"),
    [
        (f"v=DMARC1; p=reject; {RUA}", "ok", "ok"),
        (f"v=DMARC1;p=Quarantine;sp=reject;{RUA};", "ok", "ok"),
        (f"V = DMARC1 ; p = reject ; {RUA}", "ok", "ok"),
        (f"v=DMARC1; p=reject; pct=100; ri=3600; x=y; {RUA}", "ok", "ok"),
        ("v=DMARC1; p=reject; rua=mailto:a@collect.com!10m, https://x.com/", "ok", "ok"),
        (f"v=DMARC1; p=none; {RUA}", "warn", "policy_none"),
        (f"v=DMARC1; p=reject; t=y; {RUA}", "warn", "policy_test"),
        (f"v=DMARC1; p=reject; sp=none; {RUA}", "warn", "sub_weaker"),
        (f"v=DMARC1; p=reject; np=quarantine; {RUA}", "warn", "sub_weaker"),
        (f"v=DMARC1; p=reject; pct=50; {RUA}", "warn", "removed_tag"),
        (f"v=DMARC1; p=reject; p=none; {RUA}", "warn", "syntax_error"),
        (f"v=DMARC1; p=reject; adkim=x; {RUA}", "warn", "syntax_error"),
        (f"v=DMARC1; p=reject; nonsense; {RUA}", "warn", "syntax_error"),
        (f"v=DMARC1; {RUA}", "warn", "policy_invalid"),
        (f"v=DMARC1; p=rejct; {RUA}", "warn", "policy_invalid"),
        (f"v=DMARC1; p=reject; sp=x; {RUA}", "warn", "policy_invalid"),
        ("v=DMARC1; p=rejct", "fail", "policy_invalid"),
        ("v=DMARC1", "fail", "policy_invalid"),
        ("v=DMARC1; p=reject", "warn", "rua_missing"),
        ("v=DMARC1; p=reject; rua=dmarc@example.com", "warn", "rua_missing"),
        ("v=DMARC1; p=reject; rua=mailto:a@closed.com", "warn", "rua_unauthorised"),
        ("v=DMARC1; p=reject; rua=mailto:a@null.com", "warn", "rua_undeliverable"),
        ("v=DMARC1; p=reject; rua=mailto:a@gone.example.com", "warn", "rua_undeliverable"),
        ("v=DMARC1; p=reject; rua=mailto:a@lost.com", "unknown", "indeterminate"),
        (f"v=DMARC1x; p=reject; {RUA}", "fail", "syntax_error"),
        (f"v=dmarc1; p=reject; {RUA}", "fail", "syntax_error"),
        (f"p=reject; v=DMARC1; {RUA}", "fail", "syntax_error"),
        ("v=spf1 -all", "fail", "syntax_error"),
    ],
)
def test_records(record: str, verdict: str, reason: str) -> None:
    finding = only("dmarc", {**BASE, "_dmarc.example.com": txt(record)})
    assert (finding.verdict, finding.reason) == (verdict, reason), finding.detail
    assert finding.records == (record,)


@pytest.mark.parametrize(
    ("record", "publish"),
    [
        (f"v=DMARC1; p=none; adkim=s; {RUA}", f"v=DMARC1; p=quarantine; adkim=s; {RUA}"),
        (f"v=DMARC1; p=reject; t=y; {RUA}", f"v=DMARC1; p=reject; {RUA}"),
        (f"v=DMARC1; p=reject; sp=none; {RUA}", f"v=DMARC1; p=reject; sp=reject; {RUA}"),
        (f"v=DMARC1; p=reject; pct=5; rf=afrf; {RUA}", f"v=DMARC1; p=reject; {RUA}"),
        (f"v=DMARC1; p=x; sp=y; {RUA}", f"v=DMARC1; p=none; {RUA}"),
        (f"v=DMARC1; {RUA}", f"v=DMARC1; p=none; {RUA}"),
        ("v=DMARC1; p=reject", "v=DMARC1; p=reject; rua=mailto:dmarc@example.com"),
    ],
)
def test_advice_holds_the_record_to_publish(record: str, publish: str) -> None:
    advice = only("dmarc", {**BASE, "_dmarc.example.com": txt(record)}).advice
    assert f'_dmarc.example.com TXT "{publish}"' in advice
    assert is_dmarc(publish)


def test_two_records_are_none() -> None:
    zone = {**BASE, "_dmarc.example.com": txt("v=DMARC1; p=none", "v=DMARC1; p=reject")}
    finding = only("dmarc", zone)
    assert (finding.verdict, finding.reason, len(finding.records)) == (Verdict.FAIL, "multiple_records", 2)


def test_other_texts_are_pointed_out() -> None:
    assert (
        only("dmarc", {**BASE, "_dmarc.example.com": txt(f"v=DMARC1; p=reject; {RUA}", "hi")}).reason == "unrelated_txt"
    )
    assert only("dmarc", {**BASE, "_dmarc.example.com": txt("hi")}).reason == "missing_record"


@pytest.mark.parametrize("where", ["example.com", "dmarc.example.com", "_dmarc.example.com.example.com"])
def test_a_misplaced_record_is_found(where: str) -> None:
    record = f"v=DMARC1; p=reject; {RUA}"
    finding = only("dmarc", {**BASE, where: {"TXT": [record], "A": ["192.0.2.1"]}})
    assert (finding.verdict, finding.reason) == (Verdict.FAIL, "wrong_location")
    assert f'_dmarc.example.com TXT "{record}"' in finding.advice


def test_absent_and_dangling() -> None:
    assert only("dmarc", BASE).reason == "missing_record"
    assert "v=DMARC1; p=none; rua=" in only("dmarc", BASE).advice
    assert only("dmarc", {**BASE, "_dmarc.example.com": {"CNAME": ["gone.vendor.com"]}}).reason == "cname_dangling"
    assert only("dmarc", {"_dmarc.example.com": txt(f"v=DMARC1; p=reject; {RUA}"),
    "example.com": Outcome.NXDOMAIN}).reason == (
        "missing_name"
    )  # fmt: skip


def test_a_subdomain_inherits() -> None:
    zone = {
        **BASE,
        "_dmarc.example.com": txt(f"v=DMARC1; p=reject; sp=none; {RUA}"),
        "news.example.com": {"A": ["192.0.2.1"]},
    }
    finding = only("dmarc", zone, "news.example.com")
    assert (finding.verdict, finding.reason) == (Verdict.WARN, "policy_none")
    assert f'_dmarc.example.com TXT "v=DMARC1; p=reject; sp=quarantine; {RUA}"' in finding.advice
    zone["_dmarc.example.com"] = txt(f"v=DMARC1; p=reject; {RUA}")
    finding = only("dmarc", zone, "news.example.com")
    assert finding.verdict is Verdict.OK
    assert "from example.com" in finding.detail


def test_a_lost_answer_matters_only_where_the_walk_needs_it() -> None:
    zone = {**BASE, "_dmarc.example.com": txt(f"v=DMARC1; p=reject; {RUA}"), "_dmarc.com": Outcome.SERVFAIL}
    assert only("dmarc", zone).verdict is Verdict.OK
    assert only("dmarc", {**BASE, "_dmarc.com": Outcome.SERVFAIL}).verdict is Verdict.UNKNOWN
    zone["_dmarc.example.com"] = txt(f"v=DMARC1; p=reject; psd=n; {RUA}")
    zone["news.example.com"] = {"A": ["192.0.2.1"]}
    assert only("dmarc", zone, "news.example.com").verdict is Verdict.OK


def test_4_10_the_walk_asks_at_most_eight_names() -> None:
    assert walk_names("a.example.com") == ["a.example.com", "example.com", "com"]
    assert walk_names("com") == ["com"]
    long = walk_names("a.b.c.d.e.f.g.h.i.j.mail.com")
    assert [name.count(".") + 1 for name in long] == [12, 7, 6, 5, 4, 3, 2, 1]
    assert [name.count(".") + 1 for name in walk_names("a.b.c.d.e.f.g.com")] == [8, 7, 6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize(
    ("records", "start", "organization", "source", "policy"),
    [
        ({"shop.test": "p=reject; sp=none"}, "news.mail.shop.test", "shop.test", "shop.test", "none"),
        ({"shop.test": "p=reject", "mail.shop.test": "p=quarantine"}, "mail.shop.test", "shop.test", "mail.shop.test",
         "quarantine"),
        ({"shop.test": "p=reject", "mail.shop.test": "p=quarantine; psd=n"}, "a.mail.shop.test", "mail.shop.test",
         "mail.shop.test", "quarantine"),
        ({"test": "p=reject; psd=y"}, "x.shop.test", "shop.test", "test", "reject"),
        ({"test": "p=reject; psd=y"}, "test", "test", "test", "reject"),
        ({}, "x.shop.test", "x.shop.test", None, None),
    ],
)  # fmt: skip
def test_4_10_2_organizational_domain(
    records: dict[str, str], start: str, organization: str, source: str | None, policy: str | None
) -> None:
    zone = answers({f"_dmarc.{name}": txt(f"v=DMARC1; {rest}") for name, rest in records.items()})
    names = walk_names(start)
    found = walk(names, [zone(Question(f"_dmarc.{name}", "TXT")) for name in names])
    assert found.organizational_domain == organization
    record = found.policy_record
    assert (record.name if record else None) == source
    assert (record.policy(own=record.name == start) if record else None) == policy


def test_4_10_1_subdomains_that_do_not_exist_have_their_own_policy() -> None:
    record = read("a.com", "v=DMARC1; p=reject; sp=quarantine; np=none")
    assert record.policy(own=True) == "reject"
    assert record.policy(own=False) == "quarantine"
    assert record.policy(own=False, exists=False) == "none"
    assert read("a.com", "v=DMARC1; p=reject").policy(own=False, exists=False) == "reject"


def test_several_records_are_skipped_in_the_walk() -> None:
    names = walk_names("a.com")
    held = [Answer(Question("_dmarc.a.com", "TXT"), Outcome.ANSWER, ("v=DMARC1; p=none",) * 2),
            Answer(Question("_dmarc.com", "TXT"), Outcome.ANSWER, ("v=DMARC1; p=reject; psd=y",))]  # fmt: skip
    assert [r.name for r in walk(names, held).records] == ["com"]
