"""check_host() where RFC 7208 is read wrongly most often, section by section; the plain cases are in test_spf_eval."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.follow import follow
from agent.dns.resolver import Resolver
from agent.dns.spf import check_host
from agent.dns.spf_eval import SpfCheck, evaluate
from tests.dns.test_spf_eval import check, drive, spf
from tests.dns.zone import Zone, answers, txt
from tests.servers.dns import dns_server

LOCAL = {"A": ["127.0.0.2"]}


def watched(zone: Zone, *, ip: str = "192.0.2.1", sender: str = "me@example.com") -> tuple[SpfCheck, list[Question]]:
    """The result, and every question asked on the way."""
    asked: list[Question] = []
    held = answers(zone)

    def answer(question: Question) -> Answer:
        asked.append(question)
        return held(question)

    return drive(evaluate(ip, sender, "mta.example.com", receiver="mx.example.org"), answer), asked


def names(asked: Iterable[Question], type_: str) -> list[str]:
    return [q.name for q in asked if q.type == type_]


def test_2_4_a_null_reverse_path_with_an_address_literal_as_helo_cannot_be_checked() -> None:
    assert check({}, sender="", helo="[192.0.2.1]").result == "none"
    assert check({}, sender="", helo="mta").result == "none"


def test_2_4_an_empty_sender_fails_as_the_helo_name_says() -> None:
    assert check({"mta.example.com": txt("v=spf1 -all")}, sender="").result == "fail"


def test_3_1_only_txt_is_asked_for_the_record() -> None:
    _, asked = watched({"example.com": txt("v=spf1 include:b.com -all"), "b.com": txt("v=spf1 -all")})
    assert asked == [Question("example.com", "TXT"), Question("b.com", "TXT")]


async def test_3_3_strings_are_joined_without_a_space(tmp_path: Path) -> None:
    zone = '@ TXT "v=spf1 ip4:192.0.2" ".1 -a" "ll"\nseam TXT "v=spf1 ip4:192.0.2.0/24" "include:x.example.test -all"\n'
    zone += f'long TXT "v=spf1 {"ip4:203.0.113.1 " * 15}" "{"ip4:203.0.113.2 " * 15}" "ip4:192.0.2.1 -all"\n'
    with dns_server(tmp_path, {"example.test": zone}) as server:
        resolver = Resolver([server.address], timeout=2.0)
        for name, result in (
            ("example.test", "pass"),
            ("seam.example.test", "permerror"),
            ("long.example.test", "pass"),
        ):
            found = await check_host(resolver, ip="192.0.2.1", sender=f"me@{name}", helo="mta.example.test")
            assert found.result == result, (name, found.explanation)
        other = await check_host(resolver, ip="192.0.2.2", sender="me@example.test", helo="mta.example.test")
        assert other.result == "fail"
        await resolver.aclose()


@pytest.mark.parametrize("sender", ["me@EXAMPLE.com", "me@example.com.", "Me@Example.Com"])
def test_4_1_domains_are_compared_without_case_and_without_the_final_dot(sender: str) -> None:
    assert spf("v=spf1 ip4:192.0.2.1 -all", sender=sender) == "pass"


def test_4_3_two_final_dots_are_an_empty_label() -> None:
    result, asked = watched({"example.com": txt("v=spf1 +all")}, sender="me@example.com..")
    assert (result.result, asked) == ("none", [])


def test_4_3_labels_of_63_octets_are_the_longest() -> None:
    for size, result in ((63, "pass"), (64, "none")):
        name = "a" * size + ".example.com"
        assert check({name: txt("v=spf1 +all")}, sender=f"me@{name}").result == result


def test_4_3_u_labels_are_asked_for_as_a_labels() -> None:
    zone = {"xn--caf-dma.example": txt("v=spf1 ip4:192.0.2.1 -all")}
    assert check(zone, sender="me@caf\xe9.example").result == "pass"
    assert check(zone, sender="", helo="caf\xe9.example").result == "pass"


@pytest.mark.parametrize("term", ["include:%{d1}", "redirect=%{d1}", "include:%{o1}."])
def test_4_3_a_single_label_reached_by_macros_has_no_record(term: str) -> None:
    result, asked = watched({"example.com": txt(f"v=spf1 {term}"), "com": txt("v=spf1 +all")})
    assert result.result == "permerror"
    assert names(asked, "TXT") == ["example.com"]


def test_4_5_a_single_record_among_other_versions_and_other_texts() -> None:
    zone = {"example.com": txt("v=spf2.0 x", "v=spf1-all", "V=spf1 -ALL", "spf2.0/pra ?all", "v=DMARC1; p=none")}
    assert check(zone).result == "fail"


def test_4_6_the_whole_record_is_read_before_anything_is_asked() -> None:
    result, asked = watched({"example.com": txt("v=spf1 a:b.com ip4:192.0.2.1 -all oops"), "b.com": LOCAL})
    assert (result.result, len(asked)) == ("permerror", 1)


def test_4_6_1_mechanism_and_modifier_names_have_no_case() -> None:
    zone = {"b.com": txt("v=spf1 IP4:192.0.2.1"), "c.com": txt("v=spf1 -ALL ExP=w.com"), "w.com": txt("why")}
    assert spf("v=spf1 InClUdE:b.com -aLL", zone) == "pass"
    assert check({"example.com": txt("v=spf1 ReDiReCt=c.com"), **zone}).explanation == "why"


def test_4_6_2_the_qualifier_of_a_match_is_the_result() -> None:
    for qualifier, result in (("", "pass"), ("+", "pass"), ("-", "fail"), ("~", "softfail"), ("?", "neutral")):
        for term in ("ip4:192.0.2.1", "a:b.com", "mx:b.com", "exists:b.com", "include:p.com", "all"):
            zone: Zone = {"b.com": {"A": ["192.0.2.1"], "MX": ["0 b.com."]}, "p.com": txt("v=spf1 +all")}
            assert spf(f"v=spf1 {qualifier}{term}", zone) == result, (qualifier, term)


COSTLY = {
    "include:%s": txt("v=spf1 -all"), "a:%s": LOCAL, "mx:%s": {"MX": ["0 h.com."]}, "ptr:%s": LOCAL,
}  # fmt: skip


@pytest.mark.parametrize("term", COSTLY)
def test_4_6_4_each_of_the_querying_mechanisms_counts(term: str) -> None:
    def result(times: int) -> SpfCheck:
        zone: Zone = {
            "example.com": txt(f"v=spf1 {' '.join([term % 'b.com'] * times)} -all"), "b.com": COSTLY[term],
            "h.com": LOCAL, "1.2.0.192.in-addr.arpa": {"PTR": ["h.com."]},
        }  # fmt: skip
        return check(zone)

    assert (result(10).result, result(10).lookups) == ("fail", 10)
    assert result(11).result == "permerror"


def test_4_6_4_exists_counts() -> None:
    zone: Zone = {"h.com": LOCAL}
    assert spf("v=spf1 " + "a:h.com " * 9 + "exists:h.com -all", zone) == "pass"
    assert spf("v=spf1 " + "a:h.com " * 10 + "exists:h.com -all", zone) == "permerror"


def test_4_6_4_redirect_counts_and_terms_behind_it_too() -> None:
    host = "a:h.com " * 9
    zone = {"h.com": LOCAL, "b.com": txt("v=spf1 -all"), "c.com": txt("v=spf1 a:h.com -all")}
    assert spf(f"v=spf1 {host}redirect=b.com", zone) == "fail"
    assert spf(f"v=spf1 {host}redirect=c.com", zone) == "permerror"


def test_4_6_4_terms_that_ask_nothing_cost_nothing() -> None:
    many = " ".join(f"ip4:203.0.113.{i} ip6:2001:db8::{i}" for i in range(20))
    found = check({"example.com": txt(f"v=spf1 {many} x=y -all exp=w.com"), "w.com": txt("no")})
    assert (found.result, found.lookups, found.explanation) == ("fail", 0, "no")


def test_4_6_4_macros_and_explanations_do_not_count() -> None:
    zone: Zone = {
        "example.com": txt("v=spf1 " + "a:h.com " * 9 + "exists:%{p}.x.com -all exp=%{p}.w.com"), "h.com": LOCAL,
        "1.2.0.192.in-addr.arpa": {"PTR": ["m.com."]}, "m.com": {"A": ["192.0.2.1"]}, "m.com.w.com": txt("no"),
    }  # fmt: skip
    found = check({**zone, "m.com.x.com": Outcome.NODATA})
    assert (found.result, found.lookups, found.explanation) == ("fail", 10, "no")


def test_4_6_4_the_limits_run_through_includes() -> None:
    zone = {"b.com": txt("v=spf1 a:v1.gone.com -all"), "c.com": txt("v=spf1 mx:v2.gone.com -all")}
    assert spf("v=spf1 include:b.com include:c.com -all", zone) == "fail"
    assert spf("v=spf1 include:b.com include:c.com a:v3.gone.com -all", zone) == "permerror"
    assert spf("v=spf1 include:b.com include:c.com a:v3.gone.com ip4:192.0.2.1 -all", zone) == "permerror"
    assert spf("v=spf1 include:b.com include:c.com ip4:192.0.2.1 a:v3.gone.com -all", zone) == "pass"


@pytest.mark.parametrize("empty", [Outcome.NODATA, Outcome.NXDOMAIN])
def test_4_6_4_no_data_and_no_name_are_both_void(empty: Outcome) -> None:
    zone: Zone = {"v.com": empty}
    assert spf("v=spf1 a:v.com mx:v.com -all", zone) == "fail"
    assert spf("v=spf1 a:v.com mx:v.com exists:v.com -all", zone) == "permerror"


def test_4_6_4_the_void_limit_can_be_set_and_says_itself() -> None:
    held = answers({"example.com": txt("v=spf1 a:1.gone.com a:2.gone.com a:3.gone.com -all")})
    assert drive(evaluate("192.0.2.1", "a@example.com", "", void_limit=3), held).result == "fail"
    assert "2 void lookups" in drive(evaluate("192.0.2.1", "a@example.com", ""), held).explanation


def test_4_6_4_an_eleventh_mail_exchange_is_an_error_for_ipv6_too() -> None:
    def zone(n: int) -> Zone:
        hosts: dict[str, dict[str, list[str]]] = {f"m{i}.com": {"AAAA": [f"2001:db8::{i}"]} for i in range(n)}
        return {**hosts, "many.com": {"MX": [f"{i} m{i}.com." for i in range(n)]}}

    assert spf("v=spf1 mx:many.com -all", zone(10), ip="2001:db8::9") == "pass"
    assert spf("v=spf1 mx:many.com -all", zone(11), ip="2001:db8::1") == "permerror"


def test_4_6_4_a_mail_exchange_without_address_is_no_void_lookup() -> None:
    zone: Zone = {"many.com": {"MX": [f"{i} m{i}.gone.com." for i in range(9)]}}
    found = check({"example.com": txt("v=spf1 mx:many.com -all"), **zone})
    assert (found.result, found.voids) == ("fail", 0)


async def test_4_6_4_an_evaluation_that_takes_too_long_is_a_temperror() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        resolver = Resolver([f"127.0.0.1:{silent.getsockname()[1]}"], timeout=5.0)
        begun = time.monotonic()
        found = await follow(resolver, evaluate("192.0.2.1", "me@example.com", ""), limit=0.3)
        assert time.monotonic() - begun < 3
        assert found.result == "temperror"
        assert "timeout" in found.explanation
        await resolver.aclose()


@pytest.mark.parametrize("lost", [o for o in Outcome if not o.definitive])
def test_4_4_trouble_anywhere_before_the_match_is_a_temperror(lost: Outcome) -> None:
    zone: Zone = {"lost.com": lost, "b.com": txt("v=spf1 include:lost.com -all")}
    for term in ("a:lost.com", "mx:lost.com", "exists:lost.com", "include:lost.com", "include:b.com"):
        assert spf(f"v=spf1 {term} ip4:192.0.2.1 -all", zone) == "temperror", term
        assert spf(f"v=spf1 ip4:192.0.2.1 {term} -all", zone) == "pass", term
    assert spf("v=spf1 redirect=lost.com", zone) == "temperror"


def test_4_7_redirect_comes_after_every_mechanism_wherever_it_stands() -> None:
    zone = {"b.com": txt("v=spf1 -all")}
    assert spf("v=spf1 redirect=b.com ip4:192.0.2.1", zone) == "pass"
    assert spf("v=spf1 redirect=b.com ip4:192.0.2.9", zone) == "fail"


def test_5_1_mechanisms_after_all_are_never_asked_for() -> None:
    _, asked = watched({"example.com": txt("v=spf1 ~all a:b.com include:c.com exists:d.com")})
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("inner", "outer"),
    [("v=spf1 x", "permerror"), ("v=spf1 include:lost.com", "temperror"), ("v=spf1 include:none.com", "permerror"),
     ("v=spf1 redirect=none.com", "permerror"), ("v=spf1 include:example.com", "permerror"), ("v=spf1", "softfail"),
     ("v=spf1 ?ip4:192.0.2.1", "softfail"), ("v=spf1 -ip4:192.0.2.1 +all", "softfail"), ("v=spf1 +all", "pass")],
)  # fmt: skip
def test_5_2_what_an_include_within_an_include_means(inner: str, outer: str) -> None:
    zone: Zone = {"b.com": txt("v=spf1 include:c.com -all"), "c.com": txt(inner), "lost.com": Outcome.TIMEOUT}
    assert spf("v=spf1 include:b.com ~all", zone) == outer


def test_5_2_the_qualifier_stands_at_the_include_not_in_the_included_record() -> None:
    assert spf("v=spf1 -include:b.com +all", {"b.com": txt("v=spf1 ip4:192.0.2.1 ?all")}) == "fail"


@pytest.mark.parametrize(("ip", "result"), [("192.0.2.200", "pass"), ("192.0.3.1", "fail"), ("2001:db8::ff", "pass"),
                                            ("2001:db9::1", "fail")])  # fmt: skip
def test_5_3_both_prefix_lengths_apply_each_to_its_family(ip: str, result: str) -> None:
    zone: Zone = {"b.com": {"A": ["192.0.2.1"], "AAAA": ["2001:db8::1"], "MX": ["0 b.com."]}}
    assert spf("v=spf1 a:b.com/24//32 -all", zone, ip=ip) == result
    assert spf("v=spf1 mx:b.com/24//32 -all", zone, ip=ip) == result


def test_5_3_only_addresses_of_the_clients_family_are_asked_for() -> None:
    zone: Zone = {"example.com": txt("v=spf1 a:b.com mx:b.com -all"), "b.com": {"MX": ["0 b.com."], **LOCAL}}
    for ip, type_ in (("192.0.2.1", "A"), ("2001:db8::1", "AAAA")):
        _, asked = watched(zone, ip=ip)
        assert {q.type for q in asked} == {"TXT", "MX", type_}


def test_5_4_the_implicit_mx_does_not_exist() -> None:
    assert spf("v=spf1 mx:b.com -all", {"b.com": {"A": ["192.0.2.1"]}}) == "fail"


def test_5_4_an_exchange_that_matches_outweighs_one_that_is_lost() -> None:
    zone: Zone = {
        "b.com": {"MX": ["1 lost.com.", "2 h.com."]},
        "lost.com": Outcome.SERVFAIL,
        "h.com": {"A": ["192.0.2.1"]},
    }
    assert spf("v=spf1 mx:b.com -all", zone) == "pass"


@pytest.mark.parametrize(
    ("term", "name", "result"),
    [("ptr:other.com", "mta.other.com", "pass"), ("ptr:OTHER.com.", "other.com", "pass"),
     ("ptr:other.com", "mta.another.com", "fail"), ("ptr:mta.other.com", "other.com", "fail"),
     ("ptr:%{d2}", "mta.example.com", "pass")],
)  # fmt: skip
def test_5_5_the_name_must_be_the_domain_or_below_it(term: str, name: str, result: str) -> None:
    zone: Zone = {"1.2.0.192.in-addr.arpa": {"PTR": [name]}, name: {"A": ["192.0.2.1"]}}
    assert spf(f"v=spf1 {term} -all", zone) == result


def test_5_5_ipv6_clients_are_reversed_in_nibbles() -> None:
    reverse = ".".join("20010db8000000000000000000000001"[::-1]) + ".ip6.arpa"
    zone: Zone = {reverse: {"PTR": ["m.example.com"]}, "m.example.com": {"AAAA": ["2001:db8::1"]}}
    assert spf("v=spf1 ptr -all", zone, ip="2001:db8::1") == "pass"


def test_5_5_a_lost_address_lookup_skips_that_name_alone() -> None:
    zone: Zone = {"1.2.0.192.in-addr.arpa": {"PTR": ["lost.example.com", "m.example.com"]},
                  "lost.example.com": Outcome.SERVFAIL, "m.example.com": {"A": ["192.0.2.1"]}}  # fmt: skip
    assert spf("v=spf1 ptr -all", zone) == "pass"


def test_5_6_ip6_matches_however_the_address_is_written() -> None:
    for text in ("2001:db8:0:0:0:0:0:1", "2001:DB8::1", "2001:0db8::0001/128", "2001:db8::/127"):
        assert spf(f"v=spf1 ip6:{text} -all", ip="2001:db8::1") == "pass", text


def test_5_7_exists_asks_for_an_ipv4_address_always_and_any_will_do() -> None:
    for ip in ("192.0.2.1", "2001:db8::1"):
        result, asked = watched({"example.com": txt("v=spf1 exists:b.com -all"), "b.com": LOCAL}, ip=ip)
        assert (result.result, asked[-1]) == ("pass", Question("b.com", "A"))
    assert spf("v=spf1 exists:b.com -all", {"b.com": {"AAAA": ["2001:db8::1"]}}) == "fail"


def test_6_unknown_modifiers_are_ignored_wherever_they_stand() -> None:
    assert spf("v=spf1 foo=bar ip4:192.0.2.1 default=deny -all x.y-z_1=%{d}%%") == "pass"


def test_6_1_a_redirect_replaces_the_domain_and_keeps_the_sender() -> None:
    zone: Zone = {"b.com": txt("v=spf1 exists:%{l}.%{o}.%{d}.x.com -all"), "me.example.com.b.com.x.com": LOCAL}
    assert spf("v=spf1 redirect=b.com", zone) == "pass"
    assert spf("v=spf1 redirect=%{d1r}.b.com", {"example.b.com": txt("v=spf1 ?all")}) == "neutral"


def test_6_1_redirects_can_be_chained_but_not_in_a_circle() -> None:
    zone = {
        "b.com": txt("v=spf1 redirect=c.com"),
        "c.com": txt("v=spf1 ~all"),
        "d.com": txt("v=spf1 redirect=example.com"),
    }
    assert spf("v=spf1 redirect=b.com", zone) == "softfail"
    assert spf("v=spf1 redirect=d.com", zone) == "permerror"


@pytest.mark.parametrize("end", ["~all", "?all", "+all", ""])
def test_6_2_only_a_fail_is_explained(end: str) -> None:
    result, asked = watched({"example.com": txt(f"v=spf1 {end} exp=why.com"), "why.com": txt("no")})
    assert result.explanation != "no"
    assert "why.com" not in names(asked, "TXT")


def test_6_2_the_explanation_is_the_one_of_the_record_that_failed() -> None:
    zone = {"b.com": txt("v=spf1 redirect=c.com exp=w1.com"), "c.com": txt("v=spf1 -all"), "w1.com": txt("first")}
    found = check({"example.com": txt("v=spf1 redirect=b.com exp=w1.com"), **zone})
    assert found.explanation == "192.0.2.1 matches '-all' of c.com"


def test_6_2_macros_in_the_explanations_name_see_the_redirected_domain() -> None:
    zone = {"b.com": txt("v=spf1 -all exp=%{d}.why.com"), "b.com.why.com": txt("%{d} refuses %{o}")}
    assert check({"example.com": txt("v=spf1 redirect=b.com"), **zone}).explanation == "b.com refuses example.com"


@pytest.mark.parametrize(
    ("spec", "sender", "expanded"),
    [
        ("%{l1r+}", "me+tag@example.com", "me"), ("%{l+}", "me+tag@example.com", "me.tag"),
        ("%{lr-+_}", "a-b+c_d@example.com", "d.c.b.a"), ("%{l2r/}", "a/b/c@example.com", "b.a"),
        ("%{l=,}", "a=b,c@example.com", "a.b.c"), ("%{l}", "a..b@example.com", None),
        ("%{d9}", "a@example.com", "example.com"),
        ("%{d2}", "a@x.y.example.com", "example.com"), ("%{dr}", "a@x.example.com", "com.example.x"),
        ("%{L}", "a%b@example.com", "a%25b"), ("%{S}", "a b@example.com", "a%20b%40example.com"),
        ("%{d2}%%", "a@example.com", "example.com%"), ("a%-b", "a@example.com", "a%20b"),
        ("%{v}", "a@example.com", "in-addr"),
        ("%{H1}", "a@example.com", "com"), ("%{i1}", "a@example.com", "1"), ("%{i2r}", "a@example.com", "0.192"),
    ],
)  # fmt: skip
def test_7_3_transformers(spec: str, sender: str, expanded: str | None) -> None:
    domain = sender.rpartition("@")[2]
    _, asked = watched({domain: txt(f"v=spf1 exists:{spec}.x.com -all")}, sender=sender)
    assert names(asked, "A") == ([f"{expanded}.x.com".lower()] if expanded else [])


def test_7_3_the_local_part_keeps_its_own_at_sign() -> None:
    _, asked = watched({"example.com": txt("v=spf1 exists:%{l}.x.com -all")}, sender='"a@b"@example.com')
    assert names(asked, "A") == ['"a@b".x.com']


@pytest.mark.parametrize(
    ("reverse", "expanded"),
    [(["m.other.com", "m.example.com", "example.com"], "example.com"),
     (["m.other.com", "m.example.com"], "m.example.com"),
     (["m.other.com"], "m.other.com"), (["liar.com"], "unknown"), ([], "unknown")],
)  # fmt: skip
def test_7_3_p_prefers_the_domain_then_what_is_below_it_then_anything(reverse: list[str], expanded: str) -> None:
    mine = {"A": ["192.0.2.1"]}
    zone: Zone = {
        "example.com": {"TXT": ["v=spf1 exists:%{p}.x.com -all"], **mine}, "m.example.com": mine, "m.other.com": mine,
        "liar.com": LOCAL, "1.2.0.192.in-addr.arpa": {"PTR": reverse} if reverse else Outcome.SERVFAIL,
    }  # fmt: skip
    _, asked = watched(zone)
    assert names(asked, "A")[-1] == f"{expanded}.x.com"


def test_7_3_p_looks_at_ten_names_and_no_more() -> None:
    zone: Zone = {
        "example.com": txt("v=spf1 exists:%{p}.x.com -all"), "m.com": {"A": ["192.0.2.1"]},
        "1.2.0.192.in-addr.arpa": {"PTR": [f"{i}.gone.com" for i in range(10)] + ["m.com"]},
    }  # fmt: skip
    _, asked = watched(zone)
    assert names(asked, "A")[-1] == "unknown.x.com"


@pytest.mark.parametrize("letter", "crtCRT")
def test_7_2_c_r_and_t_are_for_explanations_alone(letter: str) -> None:
    assert spf(f"v=spf1 exists:%{{{letter}}}.x.com +all") == "permerror"


def test_7_2_an_ipv6_client_is_shown_readably_in_explanations() -> None:
    zone = {"example.com": txt("v=spf1 -all exp=w.com"), "w.com": txt("%{c} is not %{ir}")}
    shown = check(zone, ip="2001:db8::1").explanation.split(" is not ")
    assert shown[0] == "2001:db8::1"
    assert shown[1].lower() == ".".join("20010db8000000000000000000000001"[::-1])


def test_7_1_a_name_that_a_macro_makes_impossible_matches_nothing_and_still_counts() -> None:
    found = check({"example.com": txt("v=spf1 a:%{l}.x.com -all")}, sender="a..b@example.com")
    assert (found.result, found.lookups, found.voids) == ("fail", 1, 0)


def test_11_1_absurd_records_end_within_the_limits() -> None:
    zone = {
        f"n{i}.com": txt(f"v=spf1 include:n{i + 1}.com include:n{i + 1}.com include:n{i + 1}.com") for i in range(30)
    }
    found, asked = watched(zone, sender="me@n0.com")
    assert found.result == "permerror"
    assert len(asked) <= 11
