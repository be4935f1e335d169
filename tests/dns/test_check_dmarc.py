"""DMARC after RFC 9989."""

from __future__ import annotations

import pytest

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.checks.base import Subject, Verdict
from agent.dns.dmarc_record import is_dmarc, read, walk, walk_names
from tests.dns.zone import Zone, answers, findings, only, txt

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
        (f"v=DMARC1; p=reject; x=y; fo=1:d:s; ruf=mailto:f@example.com; {RUA}", "ok", "ok"),
        ("v=DMARC1; p=reject; rua=mailto:a@collect.com, https://x.com/", "ok", "ok"),
        (f"v=DMARC1; p=reject; pct=100; {RUA}", "warn", "removed_tag"),
        (f"v=DMARC1; p=reject; ri=3600; {RUA}", "warn", "removed_tag"),
        (f"v=DMARC1; p=reject; rf=afrf; {RUA}", "warn", "removed_tag"),
        ("v=DMARC1; p=reject; rua=mailto:a@example.com!10m", "warn", "removed_tag"),
        ("v=DMARC1; p=reject; rua=mailto:a@example.com,mailto:b@example.com,mailto:c@example.com", "warn", "rua_many"),
        (f"v=DMARC1; {RUA}; p=reject", "warn", "policy_late"),
        (f"v=DMARC1; p=reject; fo=0:1; {RUA}", "warn", "syntax_error"),
        (f"v=DMARC1; p=reject; fo=x; {RUA}", "warn", "syntax_error"),
        (f"v=DMARC1; p=reject; ruf=mailto:f@closed.com; {RUA}", "warn", "rua_unauthorised"),
        (f"v=DMARC1; p=reject; ruf=mailto:f@collect.com; {RUA}", "ok", "ok"),
        ("v=DMARC1; rua=https://x.com/r", "warn", "policy_invalid"),
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
        ("v=DMARC1; p=reject; rua=mailto:a@example.com!10m", "v=DMARC1; p=reject; rua=mailto:a@example.com"),
        (f"v=DMARC1; {RUA}; p=reject", f"v=DMARC1; p=reject; {RUA}"),
        (f"v=DMARC1; p=reject; adkim=x; t=maybe; {RUA}", f"v=DMARC1; p=reject; {RUA}"),
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


def parked(zone: Zone) -> tuple[str, str, str]:
    (finding,) = findings("dmarc", Subject("example.com", parked=True), zone)
    return finding.verdict, finding.reason, finding.advice


@pytest.mark.parametrize(
    ("record", "reason"),
    [("p=reject", "ok"), ("p=reject; sp=reject; np=reject", "ok"), ("p=quarantine", "parked_open"),
     ("p=none", "parked_open"), ("p=reject; sp=none", "parked_open"), ("p=reject; t=y", "parked_open"),
     ("p=reject; rua=mailto:a@closed.com", "rua_unauthorised"), ("p=x", "policy_invalid")],
)  # fmt: skip
def test_a_parked_domain_rejects_everything(record: str, reason: str) -> None:
    verdict, found, advice = parked({**BASE, "_dmarc.example.com": txt(f"v=DMARC1; {record}")})
    assert found == reason
    assert verdict == ("ok" if reason == "ok" else "fail" if reason == "policy_invalid" else "warn")
    assert reason != "parked_open" or '_dmarc.example.com TXT "v=DMARC1; p=reject"' in advice


def test_a_parked_domain_without_a_record_is_told_the_strictest() -> None:
    assert parked(BASE) == ("fail", "missing_record", 'Publish: _dmarc.example.com TXT "v=DMARC1; p=reject"')


def test_a_dangling_cname_is_a_failure_even_where_the_organization_has_a_policy() -> None:
    zone: Zone = {**BASE, "_dmarc.example.com": txt(f"v=DMARC1; p=reject; {RUA}"),
                  "news.example.com": {"A": ["192.0.2.1"]},
                  "_dmarc.news.example.com": {"CNAME": ["gone.vendor.com"]}}  # fmt: skip
    finding = only("dmarc", zone, "news.example.com")
    assert (finding.verdict, finding.reason) == (Verdict.FAIL, "cname_dangling")
    assert f'_dmarc.news.example.com TXT "v=DMARC1; p=reject; {RUA}"' in finding.advice


def test_a_record_behind_a_cname_is_as_good_as_any() -> None:
    zone: Zone = {**BASE, "_dmarc.example.com": {"CNAME": ["d.vendor.com"]},
                  "d.vendor.com": txt(f"v=DMARC1; p=reject; {RUA}")}  # fmt: skip
    assert only("dmarc", zone).verdict is Verdict.OK


def test_4_7_sp_of_a_subdomain_is_read_by_nobody() -> None:
    zone: Zone = {**BASE, "_dmarc.example.com": txt(f"v=DMARC1; p=reject; {RUA}"),
                  "news.example.com": {"A": ["192.0.2.1"]},
                  "_dmarc.news.example.com": txt(f"v=DMARC1; p=reject; sp=none; {RUA}")}  # fmt: skip
    finding = only("dmarc", zone, "news.example.com")
    assert (finding.verdict, finding.reason) == (Verdict.WARN, "sub_ignored")
    assert f'_dmarc.news.example.com TXT "v=DMARC1; p=reject; {RUA}"' in finding.advice


@pytest.mark.parametrize(
    ("domain", "records", "walked", "listed"),
    [
        ("news.example.com", {"news.example.com": ""}, "news.example.com", "example.com"),
        ("news.example.com", {"news.example.com": "psd=n; ", "example.com": ""}, "news.example.com", "example.com"),
        ("shop.github.io", {"github.io": ""}, "github.io", "shop.github.io"),
    ],
)
def test_4_10_2_where_tree_walk_and_suffix_list_differ(
    domain: str, records: dict[str, str], walked: str, listed: str
) -> None:
    zone: Zone = {domain: {"A": ["192.0.2.1"]}, "example.com": {"MX": ["10 mx.example.com."]},
                  "github.io._report._dmarc.example.com": txt("v=DMARC1"),
                  **{f"_dmarc.{n}": txt(f"v=DMARC1; p=reject; {t}{RUA}") for n, t in records.items()}}  # fmt: skip
    finding = only("dmarc", zone, domain)
    assert (finding.verdict, finding.reason) == (Verdict.WARN, "org_mismatch"), finding.detail
    assert f"is {walked}, by the public suffix list it is {listed}" in finding.detail


def test_4_10_2_a_public_suffix_that_says_so_agrees_with_the_list() -> None:
    zone: Zone = {"shop.github.io": {"A": ["192.0.2.1"], "MX": ["10 mx.example.com."]},
                  "_dmarc.github.io": txt("v=DMARC1; p=reject; psd=y; rua=mailto:a@shop.github.io"),
                  "github.io._report._dmarc.shop.github.io": txt("v=DMARC1;")}  # fmt: skip
    finding = only("dmarc", zone, "shop.github.io")
    assert finding.verdict is Verdict.OK, finding.detail
    assert "from github.io" in finding.detail


def test_rfc_9990_4_every_external_destination_must_agree() -> None:
    record = "v=DMARC1; p=reject; rua=mailto:a@collect.com,mailto:b@closed.com"
    finding = only("dmarc", {**BASE, "_dmarc.example.com": txt(record)})
    assert 'Have closed.com publish: example.com._report._dmarc.closed.com TXT "v=DMARC1"' in finding.advice
    assert "collect.com" not in finding.detail
    wildcard: Zone = {**BASE, "example.com._report._dmarc.closed.com": txt("x", "v=DMARC1; rua=mailto:c@closed.com"),
                      "_dmarc.example.com": txt(record)}  # fmt: skip
    assert only("dmarc", wildcard).verdict is Verdict.OK


def test_rfc_9990_4_the_organizations_other_names_need_not_agree() -> None:
    zone: Zone = {**BASE, "_dmarc.example.com": txt(f"v=DMARC1; p=reject; sp=reject; {RUA}"),
                  "news.example.com": {"A": ["192.0.2.1"]},
                  "_dmarc.news.example.com": txt(f"v=DMARC1; p=reject; {RUA}")}  # fmt: skip
    assert only("dmarc", zone, "news.example.com").verdict is Verdict.OK


@pytest.mark.parametrize(
    "record",
    ["p=nonee; sp=bad; pct=50", "p=none; pct=50; ri=1", "sp=none; rua=mailto:a@example.com!10m; fo=1; fo=1",
     "p=quarantine; pct=9; rua=" + ",".join(f"mailto:{n}@example.com" for n in range(4))],
)  # fmt: skip
def test_no_fix_undoes_another(record: str) -> None:
    found = only("dmarc", {**BASE, "_dmarc.example.com": txt(f"v=DMARC1; {record}")})
    records = [p.advice.partition(' TXT "')[2][:-1] for p in found.problems if p.advice.startswith("Publish: _dmarc.")]
    assert len(records) > 1
    for text in records:
        again = only("dmarc", {**BASE, "_dmarc.example.com": txt(text)})
        # What is left is no mistake but a step to be taken when the reports are clean.
        assert {p.reason for p in again.problems} <= {"policy_none"}, text
