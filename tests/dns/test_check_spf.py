"""The lint of SPF records."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.checks import CHECKS
from agent.dns.checks.base import Subject, Verdict, drive
from agent.dns.follow import run_check
from agent.dns.resolver import Resolver
from tests.dns.zone import Zone, answers, findings, only, txt
from tests.servers.dns import dns_server

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
    "eleven.com": {"MX": [f"10 m{i}.com." for i in range(11)]},
    "hollow.com": {"MX": ["10 a.hollow.com.", "20 b.hollow.com."]},
    "partly.com": {"MX": ["10 a.partly.com.", "20 host.com."]},
    "uncertain.com": {"MX": ["10 lost.com."]},
    "null.com": {"MX": ["0 ."]},
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
        ("v=spf1 a:gone.host.com -all", "warn", "void_limit"),
        ("v=spf1 a:gone.host.com mx:gone.host.com -all", "warn", "void_limit"),
        ("v=spf1 a:gone.host.com mx:gone.host.com a:gone2.host.com -all", "fail", "void_limit"),
        ("v=spf1 a:gone.com -all", "fail", "target_unregistered"),
        ("v=spf1 redirect=_spf.host.com", "fail", "include_dangling"),
        ("v=spf1 a/15 -all", "warn", "network_too_wide"),
        ("v=spf1 a//31 -all", "warn", "network_too_wide"),
        ("v=spf1 mx:mail.com/16 -all", "ok", "ok"),
        ("v=spf1 mx:eleven.com -all", "fail", "mx_limit"),
        ("v=spf1 mx:hollow.com -all", "warn", "mx_without_address"),
        ("v=spf1 mx:partly.com -all", "ok", "ok"),
        ("v=spf1 mx:uncertain.com -all", "ok", "ok"),
        ("v=spf1 mx:null.com -all", "warn", "mx_without_address"),
        ("v=spf1 ip4:192.0.2.1 -all google-site-verification=abc", "warn", "dead_terms"),
        ("v=spf1 ip4:192.0.2.1 -all exp=why.example.com", "ok", "ok"),
        ("v=spf1 +a:host.com a:host.com -all", "warn", "duplicate_term"),
    ],
)
def test_lint(record: str, verdict: str, reason: str) -> None:
    finding = only("spf", {**NESTED, "example.com": {"TXT": ["verification=123", record], "A": ["192.0.2.1"]}})
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


@pytest.mark.parametrize(
    ("record", "publish"),
    [
        ("v=spf1 ipv4:192.0.2.1 -all", "v=spf1 ip4:192.0.2.1 -all"),
        ("v=spf1 ip:2001:db8::1 ~all", "v=spf1 ip6:2001:db8::1 ~all"),
        ("v=spf1 ip4:192.0.2.1, ip4:192.0.2.2, -all", "v=spf1 ip4:192.0.2.1 ip4:192.0.2.2 -all"),
        ("v=spf1 -a:192.0.2.1 -all", "v=spf1 -ip4:192.0.2.1 -all"),
        ("v=spf1 ip6:192.0.2.0/24 -all", "v=spf1 ip4:192.0.2.0/24 -all"),
        ("v=spf1 ip4:192.0.2.0/24include:good.com -all", "v=spf1 ip4:192.0.2.0/24 include:good.com -all"),
        ("v=spf1 include=good.com oops -all", ""),
        ('v=spf1 include:good.com -all"', "v=spf1 include:good.com -all"),
        ("v=spf1 INCLUDE;good.com -all", ""),
        ("v=spf1 " + "ipv4:192.0.2.1 " * 9 + "-all", "v=spf1 " + "ip4:192.0.2.1 " * 9 + "-all"),
        ("v=spf1 " + " ".join(f"ipv4:192.0.2.{i}" for i in range(9)) + " -all", ""),
    ],
)
def test_4_6_what_was_meant_is_offered_and_can_be_read(record: str, publish: str) -> None:
    finding = only("spf", {**NESTED, "example.com": txt(record)})
    assert finding.reason == "syntax_error"
    assert (f'Publish: example.com TXT "{publish}"' == finding.advice) if publish else ("Publish" not in finding.advice)


def test_4_6_every_term_that_cannot_be_read_has_its_fix() -> None:
    finding = only("spf", {**NESTED, "example.com": txt("v=spf1 ipv4:192.0.2.1 a:192.0.2.2 mx:host mx:host ~all")})
    assert [p.advice for p in finding.problems] == [
        "Write 'ip4:192.0.2.1' instead of 'ipv4:192.0.2.1' in the record of example.com.",
        "Write 'ip4:192.0.2.2' instead of 'a:192.0.2.2' in the record of example.com.",
        "Correct or remove 'mx:host' in the record of example.com.",
    ]
    both = only("spf", {**NESTED, "example.com": txt("v=spf1 ipv4:192.0.2.1 a:192.0.2.2 ~all")})
    assert both.advice == 'Publish: example.com TXT "v=spf1 ip4:192.0.2.1 ip4:192.0.2.2 ~all"'
    assert len(both.problems) == 2


def test_what_closes_the_record_is_kept_in_the_advice() -> None:
    def advice(record: str) -> str:
        return only("spf", {**NESTED, "example.com": txt(record)}).advice

    assert '"v=spf1 ip4:192.0.2.1 -all exp=w.a.com"' in advice("v=spf1 exp=w.a.com ip4:192.0.2.1 -all a:host.com")
    assert '"v=spf1 ip4:192.0.2.1 ~all"' in advice("v=spf1 redirect=good.com ip4:192.0.2.1 ?all")
    assert '"v=spf1 a:host.com -all"' in advice("v=spf1 a:host.com a:host.com -all")


def test_11_2_an_include_whose_whole_domain_is_gone_can_be_taken_over() -> None:
    taken = only("spf", {"example.com": txt("v=spf1 include:spf.cancelled-esp.com -all")})
    assert (taken.verdict, taken.reason) == (Verdict.FAIL, "include_dangling")
    assert "whoever registers it can send in the name of example.com" in taken.detail
    held: Zone = {"example.com": txt("v=spf1 include:spf.esp.com -all"), "esp.com": {"NS": ["ns.esp.com"]}}
    kept = only("spf", held)
    assert kept.reason == "include_dangling"
    assert "registers" not in kept.detail
    unsure = only("spf", {"example.com": txt("v=spf1 include:spf.esp.com -all"), "esp.com": Outcome.SERVFAIL})
    assert "registers" not in unsure.detail


def test_an_unregistered_domain_deep_in_the_tree_names_who_refers_to_it() -> None:
    zone: Zone = {"example.com": txt("v=spf1 include:mid.com -all"), "mid.com": txt("v=spf1 include:old.net -all")}
    assert "can send in the name of mid.com" in only("spf", zone).detail


def test_sender_id_is_pointed_out() -> None:
    zone = {"example.com": txt("v=spf1 ip4:192.0.2.1 -all", "spf2.0/mfrom,pra include:good.com -all")}
    finding = only("spf", zone)
    assert (finding.verdict, finding.reason) == (Verdict.WARN, "sender_id")


def test_an_ok_record_says_what_it_costs_and_how_it_ends() -> None:
    detail = only("spf", {**NESTED, "example.com": txt("v=spf1 include:good.com a:host.com ~all")}).detail
    assert "2 of 10 lookups" in detail
    assert "~all" in detail


@pytest.mark.parametrize(
    ("records", "verdict", "reason"),
    [(["v=spf1 -all"], "ok", "ok"), (["V=SPF1  -ALL "], "ok", "ok"), (["v=spf1 ~all"], "warn", "parked_open"),
     (["v=spf1 a:host.com -all"], "warn", "parked_open"), (["v=spf1 +all"], "fail", "plus_all"),
     ([], "fail", "missing_record")],
)  # fmt: skip
def test_10_1_2_a_parked_domain_refuses_everybody(records: list[str], verdict: str, reason: str) -> None:
    (finding,) = findings("spf", Subject("example.com", parked=True), {**NESTED, "example.com": {"TXT": records}})
    if not records:
        finding = findings("spf", Subject("example.com", parked=True), {"example.com": {"A": ["192.0.2.1"]}})[0]
    assert (finding.verdict, finding.reason) == (verdict, reason)
    assert verdict == "ok" or 'Publish: example.com TXT "v=spf1 ' in finding.advice
    assert reason == "plus_all" or verdict == "ok" or '"v=spf1 -all"' in finding.advice


def test_the_cost_is_told_for_every_declared_address() -> None:
    zone = {**NESTED, "example.com": txt("v=spf1 ip4:192.0.2.1 include:good.com -all")}
    _, first, second = findings("spf", Subject("example.com", (), ("192.0.2.1", "198.51.100.1")), zone)
    assert "(0 lookups)" in first.detail
    assert "(1 lookups)" in second.detail
    assert "good.com" in second.detail


def test_3_1_the_old_record_type_is_pointed_out_and_never_in_the_way() -> None:
    record = "v=spf1 ip4:192.0.2.1 -all"
    finding = only("spf", {"example.com": {"TXT": [record], "SPF": [record]}})
    assert (finding.verdict, finding.reason) == (Verdict.WARN, "type_spf")
    held = answers({"example.com": txt(record)})

    def refusing(question: Question) -> Answer:
        return Answer(question, Outcome.REFUSED) if question.type == "SPF" else held(question)

    (kept,) = drive(CHECKS["spf"].plan(Subject("example.com")), refusing)
    assert kept.verdict is Verdict.OK


async def test_3_1_the_old_record_type_of_a_real_server(tmp_path: Path) -> None:
    zone = '@ TXT "v=spf1 -all"\n@ SPF "v=spf1" " -all"\n'
    with dns_server(tmp_path, {"example.test": zone}) as server:
        resolver = Resolver([server.address], timeout=2.0)
        assert (await resolver.ask(Question("example.test", "SPF"))).records == ("v=spf1 -all",)
        (finding,) = await run_check(resolver, CHECKS["spf"], Subject("example.test"))
        assert finding.reason == "type_spf"
        await resolver.aclose()


@pytest.mark.parametrize(
    "record",
    ["ip4:192.0.2.1 +ip4:192.0.2.1 ip4:10.0.0.1 ?all ip4:192.0.2.9", "ip4:127.0.0.1 ip4:192.0.2.1 IP4:192.0.2.1",
     "redirect=good.com ip4:10.0.0.1 ip4:192.0.2.1 all", "a:host.com a:host.com exp=w.a.com ?all mx"],
)  # fmt: skip
def test_no_fix_undoes_another(record: str) -> None:
    zone = {**NESTED, "host.com": {"A": ["192.0.2.1"]}}
    found = only("spf", {**zone, "example.com": txt(f"v=spf1 {record}")})
    records = {p.advice.partition(' TXT "')[2][:-1] for p in found.problems if p.advice.startswith("Publish: ")}
    for text in records:
        again = only("spf", {**zone, "example.com": txt(text)})
        assert again.problems == (), text
    assert len(records) == 1
