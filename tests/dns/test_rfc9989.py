"""DMARC policy discovery and organizational domains, section by section of RFC 9989."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.dmarc import discover
from agent.dns.dmarc_discovery import Discovery, discovered, discovery, discovery_questions
from agent.dns.dmarc_record import is_dmarc, read, walk_names
from agent.dns.resolver import Resolver
from tests.dns.zone import Zone, answers, txt
from tests.servers.dns import dns_server


def found(domain: str, records: dict[str, str], *, exists: bool = True, **lost: Outcome) -> Discovery:
    """What is discovered where ``records`` (without ``v=DMARC1``) are all there is."""
    zone: Zone = {f"_dmarc.{name}": txt(f"v=DMARC1; {rest}") for name, rest in records.items()}
    held = answers(zone)

    def answer(question: Question) -> Answer:
        if question.type == "A":
            return Answer(question, Outcome.NODATA if exists else Outcome.NXDOMAIN)
        name = question.name.removeprefix("_dmarc.")
        return Answer(question, lost[name.replace(".", "_")]) if name.replace(".", "_") in lost else held(question)

    *read, existence = map(answer, discovery_questions(domain))
    return discovered(domain, read, existence)


def told(d: Discovery) -> tuple[str, str, str]:
    return d.organizational_domain, d.policy_domain, d.policy


SHOP = {"shop.test": "p=reject; sp=none"}
SHOP_NP = {"shop.test": "p=reject; sp=none; np=quarantine"}
SHOP_MAIL = {"shop.test": "p=reject; sp=none", "mail.shop.test": "p=quarantine"}
SHOP_ORG = {"shop.test": "p=reject; sp=none", "mail.shop.test": "p=quarantine; psd=n"}
PSD = {"test": "psd=y; p=reject"}


@pytest.mark.parametrize(
    ("records", "start", "exists", "expected"),
    [
        (SHOP, "news.mail.shop.test", True, ("shop.test", "shop.test", "none")),
        (SHOP, "news.mail.shop.test", False, ("shop.test", "shop.test", "none")),
        (SHOP_NP, "x.shop.test", False, ("shop.test", "shop.test", "quarantine")),
        (SHOP_NP, "x.shop.test", True, ("shop.test", "shop.test", "none")),
        ({"shop.test": "p=quarantine"}, "x.shop.test", False, ("shop.test", "shop.test", "quarantine")),
        (SHOP_MAIL, "mail.shop.test", True, ("shop.test", "mail.shop.test", "quarantine")),
        (SHOP_MAIL, "a.mail.shop.test", True, ("shop.test", "shop.test", "none")),
        (SHOP_ORG, "a.mail.shop.test", True, ("mail.shop.test", "mail.shop.test", "quarantine")),
        (SHOP_ORG, "mail.shop.test", True, ("mail.shop.test", "mail.shop.test", "quarantine")),
        (SHOP_ORG, "shop.test", True, ("shop.test", "shop.test", "reject")),
        (PSD, "x.shop.test", True, ("shop.test", "test", "reject")),
        ({"test": "psd=y; p=reject; sp=quarantine; np=none"}, "x.shop.test", True, ("shop.test", "test", "quarantine")),
        ({"test": "psd=y; p=reject; sp=quarantine; np=none"}, "x.shop.test", False, ("shop.test", "test", "none")),
        (PSD, "shop.test", True, ("shop.test", "test", "reject")),
        (PSD, "test", True, ("test", "test", "reject")),
        ({**PSD, "shop.test": "p=none"}, "a.shop.test", True, ("shop.test", "shop.test", "none")),
        ({**PSD, "a.shop.test": "p=none"}, "b.a.shop.test", True, ("shop.test", "test", "reject")),
        ({}, "x.shop.test", True, ("x.shop.test", "", "")),
        ({}, "test", True, ("test", "", "")),
    ],
)  # fmt: skip
def test_4_10_policy_and_organizational_domain(
    records: dict[str, str], start: str, exists: bool, expected: tuple[str, str, str]
) -> None:
    assert told(found(start, records, exists=exists)) == expected


def test_4_10_a_name_of_twelve_labels_is_walked_in_eight_questions() -> None:
    start = "a.b.c.d.e.f.g.h.i.j.mail.test"
    plan = discovery(start)
    asked = [q.name for q in next(plan) if q.type == "TXT"]
    assert asked == ["_dmarc." + name for name in walk_names(start)]
    assert len(asked) == 8
    assert "_dmarc.f.g.h.i.j.mail.test" in asked
    assert "_dmarc.e.f.g.h.i.j.mail.test" not in asked


def test_4_10_what_stands_at_a_skipped_name_is_not_seen() -> None:
    start = "a.b.c.d.e.f.g.h.i.test"
    assert told(found(start, {"b.c.d.e.f.g.h.i.test": "p=reject"})) == (start, "", "")
    assert told(found(start, {"d.e.f.g.h.i.test": "p=reject"})) == ("d.e.f.g.h.i.test", "d.e.f.g.h.i.test", "reject")


def test_4_10_psd_ends_the_walk() -> None:
    records = {"a.shop.test": "p=none; psd=n", "shop.test": "p=reject"}
    assert [r.name for r in found("x.a.shop.test", records).walk.records] == ["a.shop.test"]
    unset = {"a.shop.test": "p=none; psd=u", "shop.test": "p=reject"}
    assert [r.name for r in found("x.a.shop.test", unset).walk.records] == ["a.shop.test", "shop.test"]


def test_4_10_several_records_at_a_name_are_none_and_the_walk_goes_on() -> None:
    zone = answers({"_dmarc.a.shop.test": txt("v=DMARC1; p=none", "v=DMARC1; p=reject"),
                    "_dmarc.shop.test": txt("v=DMARC1; p=quarantine")})  # fmt: skip
    *held, exists = map(zone, discovery_questions("a.shop.test"))
    d = discovered("a.shop.test", held, exists)
    assert (d.discarded, *told(d)) == (("a.shop.test",), "shop.test", "shop.test", "quarantine")


def test_4_10_other_texts_beside_one_record_do_not_count() -> None:
    zone = answers({"_dmarc.shop.test": txt("v=spf1", "v=DMARC1; p=reject", "v=DMARC2; p=none", " v=DMARC1; p=none")})
    *held, exists = map(zone, discovery_questions("shop.test"))
    assert told(discovered("shop.test", held, exists)) == ("shop.test", "shop.test", "reject")


def test_4_10_1_trouble_above_a_record_of_its_own_leaves_the_policy_certain() -> None:
    d = found("a.shop.test", {"a.shop.test": "p=reject"}, shop_test=Outcome.SERVFAIL)
    assert (d.policy, d.lost is not None) == ("reject", True)
    d = found("a.shop.test", {}, shop_test=Outcome.TIMEOUT)
    assert (d.record, d.policy) == (None, "")
    assert d.lost is not None
    assert d.lost.outcome is Outcome.TIMEOUT
    d = found("a.shop.test", {"a.shop.test": "p=reject; psd=n"}, shop_test=Outcome.SERVFAIL)
    assert (d.lost, d.organizational_domain) == (None, "a.shop.test")


@pytest.mark.parametrize(
    ("record", "policy"),
    [
        ("p=reject", "reject"), ("p=Reject", "reject"), ("P=QUARANTINE", "quarantine"), ("p=rejct", ""),
        ("p=rejct; rua=mailto:a@b.test", "none"), ("rua=mailto:a@b.test", "none"), ("", ""), ("rua=a@b.test", ""),
        ("p=reject; sp=bad", ""), ("p=reject; sp=bad; rua=mailto:a@b.test", "none"),
        ("p=reject; rua=https://b.test", "reject"),
        ("p=reject; np=bad; rua=https://b.test/r", "none"), ("p=", ""), ("adkim=s; p=quarantine; aspf=s", "quarantine"),
        ("p=none; p=reject", "none"), ("p=reject; t=x", "reject"),
    ],
)  # fmt: skip
def test_4_10_1_missing_and_invalid_policies(record: str, policy: str) -> None:
    assert found("shop.test", {"shop.test": record}).policy == policy


@pytest.mark.parametrize(
    ("record", "effective"),
    [("p=reject; t=y", "quarantine"), ("p=quarantine; t=Y", "none"), ("p=none; t=y", "none"),
     ("p=reject; t=n", "reject"), ("p=reject; t=yes", "reject"), ("t=y", "")],
)  # fmt: skip
def test_4_7_t_asks_for_one_level_less(record: str, effective: str) -> None:
    assert found("shop.test", {"shop.test": record}).effective_policy == effective


def test_4_7_t_of_the_organization_covers_subdomains() -> None:
    d = found("a.shop.test", {"shop.test": "p=none; sp=reject; t=y"})
    assert (d.policy, d.effective_policy) == ("reject", "quarantine")


@pytest.mark.parametrize(
    ("text", "is_record"),
    [("v=DMARC1", True), ("v=DMARC1;p=none", True), ("V=DMARC1; p=none", True), ("v = DMARC1 ;p=none", True),
     ("v\t=\tDMARC1\t;", True), ("v=dmarc1; p=none", False), ("v=Dmarc1", False), (" v=DMARC1", False),
     ("v=DMARC1.1", False),
     ("v=DMARC10; p=none", False), ("p=none; v=DMARC1", False), ("v=DMARC1 p=none", False), ("v=DMARC1\n", False),
     ("", False)],
)  # fmt: skip
def test_4_8_what_begins_a_record(text: str, is_record: bool) -> None:
    assert is_dmarc(text) is is_record


def test_4_8_tags_are_read_generously_and_the_rest_is_named() -> None:
    record = read("a.test", "v=DMARC1;; P = Reject ;aspf=S; adkim=q; x-y=1; fo=1:d; junk; sp=none;sp=reject;")
    assert (record.level("p"), record.level("sp")) == ("reject", "none")
    assert (record.flag("aspf"), record.flag("adkim")) == ("s", "")
    assert len(record.faults) == 4


def test_4_7_pct_rf_and_ri_are_named_as_removed() -> None:
    assert read("a.test", "v=DMARC1; p=none; ri=1; pct=20; rf=afrf").removed == ["pct", "rf", "ri"]


@pytest.mark.parametrize(
    ("value", "hosts"),
    [("mailto:a@b.test", ["b.test"]), ("MAILTO:a@B.test.", ["b.test"]),
     ("mailto:a@b.test!10m,mailto:c@d.test", ["b.test", "d.test"]),
     ("mailto:a%2Cb@c.test", ["c.test"]), ("mailto:a@b.test?subject=x", ["b.test"]),
     ("mailto:a@b.test, mailto:c@b.test", ["b.test"]),
     ("https://b.test/r", []), ("a@b.test", []), ("mailto:a@localhost", []), ("mailto:@@", []), ("", [])],
)  # fmt: skip
def test_4_7_where_reports_go(value: str, hosts: list[str]) -> None:
    assert read("a.test", f"v=DMARC1; rua={value}").report_hosts() == hosts


def test_3_2_13_only_a_name_error_makes_a_domain_not_exist() -> None:
    records = {"shop.test": "p=none; sp=quarantine; np=reject"}
    assert found("x.shop.test", records, exists=False).policy == "reject"
    for outcome in (Outcome.NODATA, Outcome.TIMEOUT, Outcome.SERVFAIL, Outcome.ANSWER):
        *held, last = discovery_questions("x.shop.test")
        zone = answers({"_dmarc.shop.test": txt("v=DMARC1; p=none; sp=quarantine; np=reject")})
        assert discovered("x.shop.test", [zone(q) for q in held], Answer(last, outcome)).policy == "quarantine"


def test_both_organizational_domains_are_told() -> None:
    d = found("news.shop.co.uk", {"news.shop.co.uk": "p=none"})
    assert (d.organizational_domain, d.registered_domain) == ("news.shop.co.uk", "shop.co.uk")
    assert found("co.uk", {}).registered_domain == ""


LABELS = st.lists(st.sampled_from(["a", "b", "shop", "test"]), min_size=1, max_size=14).map(".".join)
TAGS = st.sampled_from(["p=none", "p=reject; psd=y", "psd=n; sp=x", "", "p=quarantine; t=y"])
RECORDS = st.dictionaries(LABELS, TAGS, max_size=6)


@given(LABELS, RECORDS, st.booleans())
@settings(max_examples=150, deadline=None)
def test_4_10_2_the_organizational_domain_is_the_domain_or_above_it(
    start: str, records: dict[str, str], exists: bool
) -> None:
    d = found(start, records, exists=exists)
    assert start == d.organizational_domain or start.endswith("." + d.organizational_domain)
    assert d.policy_domain == "" or start == d.policy_domain or start.endswith("." + d.policy_domain)
    assert d.policy in ("", "none", "quarantine", "reject")
    assert (d.policy_domain == "") == (d.record is None)
    assert len(discovery_questions(start)) <= 9


async def test_discovery_against_a_real_server(tmp_path: Path) -> None:
    zone = '@ A 192.0.2.1\n_dmarc TXT "v=DMARC1; p=rej" "ect; sp=quarantine; np=none"\nnews A 192.0.2.1\n'
    zone += '_dmarc.own TXT "v=DMARC1; p=none"\nown A 192.0.2.2\n_dmarc.alias CNAME _dmarc.own\nalias A 192.0.2.2\n'
    with dns_server(tmp_path, {"shop.test": zone, "test": ""}) as server:
        resolver = Resolver([server.address], timeout=2.0)
        for domain, expected in (
            ("shop.test", ("shop.test", "shop.test", "reject")),
            ("News.Shop.Test.", ("shop.test", "shop.test", "quarantine")),
            ("gone.shop.test", ("shop.test", "shop.test", "none")),
            ("own.shop.test", ("shop.test", "own.shop.test", "none")),
            ("alias.shop.test", ("shop.test", "alias.shop.test", "none")),
        ):
            d = await discover(resolver, domain)
            assert told(d) == expected, domain
            assert d.lost is None
        with pytest.raises(ValueError, match="not a domain name"):
            await discover(resolver, "a..b")
        with pytest.raises(ValueError, match="not a domain name"):
            await discover(resolver, "\xe9" * 70 + ".test")
        await resolver.aclose()
