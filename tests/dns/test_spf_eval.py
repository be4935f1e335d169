"""check_host(), clause by clause of RFC 7208."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.spf_eval import SpfCheck, SpfPlan, evaluate
from agent.dns.spf_record import SpfSyntaxError, is_spf, macro_string, parse
from tests.dns.zone import Zone, answers, txt


def drive(plan: SpfPlan, answer: Callable[[Question], Answer], most: int = 1000) -> SpfCheck:
    asked = 0
    try:
        questions = next(plan)
        while True:
            asked += len(questions)
            assert asked < most
            questions = plan.send(tuple(map(answer, questions)))
    except StopIteration as stop:
        result: SpfCheck = stop.value
        return result


def check(
    zone: Zone, *, ip: str = "192.0.2.1", sender: str = "me@example.com", helo: str = "mta.example.com"
) -> SpfCheck:
    return drive(evaluate(ip, sender, helo, receiver="mx.example.org", now=1234567.9), answers(zone))


def spf(record: str, zone: Zone | None = None, **kwargs: str) -> str:
    return check({"example.com": txt(record), **(zone or {})}, **kwargs).result.value


# Section 2.4, 4.3: what is checked


def test_2_4_null_sender_checks_postmaster_at_helo() -> None:
    zone = {"mta.example.com": txt("v=spf1 exists:%{l}.%{o} -all"), "postmaster.mta.example.com": {"A": ["127.0.0.1"]}}
    assert check(zone, sender="").result == "pass"


@pytest.mark.parametrize(
    "sender",
    [
        "me@localhost",
        "me@[192.0.2.1]",
        "me@a..example.com",
        "me@" + "a" * 64 + ".example.com",
        "me@" + "\xe9" * 70 + ".example",
        "@",
    ],
)
def test_4_3_malformed_domains_are_none_without_a_question(sender: str) -> None:
    with pytest.raises(StopIteration) as stop:
        next(evaluate("192.0.2.1", sender, "localhost"))
    assert stop.value.value.result == "none"


def test_4_3_a_missing_local_part_is_postmaster() -> None:
    assert (
        spf("v=spf1 exists:%{l}.x.com -all", {"postmaster.x.com": {"A": ["127.0.0.1"]}}, sender="@example.com")
        == "pass"
    )


def test_an_impossible_client_address_is_the_callers_error() -> None:
    with pytest.raises(ValueError, match="address"):
        next(evaluate("192.0.2", "me@example.com", ""))


# Sections 3.1, 4.4, 4.5: finding the record


@pytest.mark.parametrize("outcome", [Outcome.TIMEOUT, Outcome.SERVFAIL, Outcome.REFUSED, Outcome.MALFORMED])
def test_4_4_a_failed_lookup_is_temperror(outcome: Outcome) -> None:
    assert check({"example.com": outcome}).result == "temperror"


@pytest.mark.parametrize("outcome", [Outcome.NXDOMAIN, Outcome.NODATA])
def test_4_5_no_record_is_none(outcome: Outcome) -> None:
    assert check({"example.com": outcome}).result == "none"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("v=spf1", True), ("v=spf1 -all", True), ("V=SPF1 -all", True), ("v=spf10 -all", False), (" v=spf1 -all", False),
     ("v=spf1\t-all", False), ("spf2.0/pra -all", False), ("", False)],
)  # fmt: skip
def test_4_5_which_texts_are_records(text: str, expected: bool) -> None:
    assert is_spf(text) is expected


def test_4_5_several_records_are_permerror_and_others_do_not_count() -> None:
    assert check({"example.com": txt("v=spf1 -all", "v=spf1 ~all")}).result == "permerror"
    assert check({"example.com": txt("caf\xe9", "v=spf10 x", "v=spf1 ~all")}).result == "softfail"


@pytest.mark.parametrize(
    "terms",
    [
        "moo", "-all moo", "ip4:192.0.2.1 moo", "a:caf\xe9.example.com", "all:x", "all/8", "-all.", "include",
        "include:",
        "include/24", "include:a.b/24", "exists", "exists:", "exists:/8", "redirect=", "exp=", "a:", "mx:", "ptr:",
        "ptr/24",
        "redirect=a.b redirect=a.b", "exp=a.b exp=a.b", "redirect:a.b", "ip4", "ip4:", "ip4:192.0.2",
        "ip4:192.0.2.1/33",
        "ip4:192.0.2.1/", "ip4:192.0.2.1/024", "ip4:192.0.2.01", "ip4:192.0.2.1//24", "ip4:2001:db8::1",
        "ip4=192.0.2.1 ip5:1",
        "ip6:192.0.2.1", "ip6:2001:db8::1/129", "ip6:2001:db8::1%eth0", "ip6:::g", "a/33", "a/024", "a//129",
        "a/24//", "a/-1",
        "mx/", "a:localhost", "a:foo.123", "a:foo.-com", "a:foo.com-", "a:museum.", "a:example.com:8080", "a:%{x}.com",
        "a:%{d0}.com", "a:%{d", "a:%d.com", "a:%.com", "a:%{c}.com", "a:%{r}.com", "a:%{t}.com", "exists:%(ir).x.com",
        "a:%{d}x", "?x=%", "moo.cow/far=x", "a\tmx", "=x", "1a=x", "-redirect=a.b", "v=spf1\tx",
    ],
)  # fmt: skip
def test_4_6_syntax_errors_anywhere_are_permerror(terms: str) -> None:
    if terms == "ip4=192.0.2.1 ip5:1":
        parse("v=spf1 ip4=192.0.2.1")  # an unknown modifier by itself
    with pytest.raises(SpfSyntaxError):
        parse(f"v=spf1 {terms}")
    assert spf(f"v=spf1 ip4:192.0.2.1 {terms}") == "permerror"


@pytest.mark.parametrize(
    "terms",
    [
        "", "  -all  ", "ALL", "A MX PTR", "a/0 mx//0 a/24//64", "a:foo.com/24", "a:foo:bar/baz.com", "ptr:x.com",
        "ip4:0.0.0.0/0 ip6:::/0 ip6:::ffff:192.0.2.1", "exists:%{ir}.%{v}._spf.%{d2}", "redirect=%{d}",
        "exp=%{l1r-+,/_=}",
        "a:%%.com a:x%%", "moo.cow-far_out=man:dog/cat", "x=", "unknown=%{s}", "a:example.co-m", "a:example.com.",
        "include:_spf.%{D}",
    ],
)  # fmt: skip
def test_4_6_valid_syntax(terms: str) -> None:
    parse(f"v=spf1 {terms}")


# Section 4.7, 4.6.2: results


@pytest.mark.parametrize(
    ("record", "result"),
    [("v=spf1", "neutral"), ("v=spf1 all", "pass"), ("v=spf1 +all", "pass"), ("v=spf1 -all", "fail"),
     ("v=spf1 ~all", "softfail"), ("v=spf1 ?all", "neutral"), ("v=spf1 -ip4:192.0.2.0/24 all", "fail"),
     ("v=spf1 ip4:198.51.100.0/24", "neutral"), ("v=spf1 -all ip4:192.0.2.1", "fail")],
)  # fmt: skip
def test_4_6_2_qualifiers_and_order(record: str, result: str) -> None:
    assert spf(record) == result


# Section 5: mechanisms


@pytest.mark.parametrize(
    ("term", "ip", "matches"),
    [("ip4:192.0.2.1", "192.0.2.1", True), ("ip4:192.0.2.0/25", "192.0.2.128", False), ("ip4:0.0.0.0/0", "8.8.8.8",
    True),
     ("ip4:192.0.2.9/24", "192.0.2.1", True), ("ip4:0.0.0.0/0", "2001:db8::1", False), ("ip6:::/0", "192.0.2.1", False),
     ("ip6:2001:db8::/32", "2001:db8:1::1", True), ("ip6:2001:db8::1", "2001:db8::2", False),
     ("ip4:192.0.2.1", "::ffff:192.0.2.1", True), ("ip6:::ffff:192.0.2.1", "::ffff:192.0.2.1", False)],
)  # fmt: skip
def test_5_6_networks(term: str, ip: str, matches: bool) -> None:
    assert spf(f"v=spf1 {term} -all", ip=ip) == ("pass" if matches else "fail")


HOSTS: Zone = {
    "host.com": {"A": ["198.51.100.7", "192.0.2.1"], "AAAA": ["2001:db8::1"], "MX": ["10 mail.host.com."]},
    "mail.host.com": {"A": ["192.0.2.77"], "AAAA": ["2001:db8::77"]},
    "null.com": {"MX": ["0 ."]},
    "broken.com": Outcome.SERVFAIL,
    "halfbroken.com": {"MX": ["10 broken.com.", "20 mail.host.com."]},
}


@pytest.mark.parametrize(
    ("term", "ip", "result"),
    [
        ("a:host.com", "192.0.2.1", "pass"), ("a:host.com", "192.0.2.2", "fail"), ("a:host.com/24", "192.0.2.2",
        "pass"),
        ("a:host.com/0", "8.8.8.8", "pass"), ("a:host.com", "2001:db8::1", "pass"), ("a:host.com//64", "2001:db8::2",
        "pass"),
        ("a:host.com/24", "2001:db8::2", "fail"), ("a:gone.com", "192.0.2.1", "fail"), ("a:broken.com", "192.0.2.1",
        "temperror"),
        ("a:HOST.com.", "192.0.2.1", "pass"), ("a:a..host.com", "192.0.2.1", "fail"),
        ("mx:host.com", "192.0.2.77", "pass"), ("mx:host.com", "192.0.2.1", "fail"), ("mx:host.com/24", "192.0.2.1",
        "pass"),
        ("mx:host.com", "2001:db8::77", "pass"), ("mx:null.com", "192.0.2.1", "fail"), ("mx:gone.com", "192.0.2.1",
        "fail"),
        ("mx:broken.com", "192.0.2.1", "temperror"), ("mx:halfbroken.com", "192.0.2.77", "pass"),
        ("mx:halfbroken.com", "192.0.2.1", "temperror"),
        ("exists:host.com", "2001:db8::9", "pass"), ("exists:mail.gone.com", "192.0.2.1", "fail"),
        ("exists:broken.com", "192.0.2.1", "temperror"),
    ],
)  # fmt: skip
def test_5_3_5_4_5_7_a_mx_exists(term: str, ip: str, result: str) -> None:
    assert spf(f"v=spf1 {term} -all", HOSTS, ip=ip) == result


def test_5_3_without_a_domain_the_current_one_is_meant() -> None:
    zone = {"example.com": {"TXT": ["v=spf1 a mx -all"], "A": ["192.0.2.1"], "MX": ["1 mail.host.com."]}, **HOSTS}
    assert check(zone).result == "pass"
    assert check(zone, ip="192.0.2.77").result == "pass"


@pytest.mark.parametrize(
    ("nested", "result"),
    [(txt("v=spf1 ip4:192.0.2.1"), "pass"), (txt("v=spf1 -all"), "softfail"), (txt("v=spf1 ~all"), "softfail"),
     (txt("v=spf1 ?all"), "softfail"), (txt("v=spf1 x"), "permerror"), (txt("none"), "permerror"),
     (Outcome.NXDOMAIN, "permerror"), (Outcome.TIMEOUT, "temperror"), (txt("v=spf1 -all", "v=spf1 -all"), "permerror")],
)  # fmt: skip
def test_5_2_include(nested: Zone | Outcome, result: str) -> None:
    assert spf("v=spf1 include:other.com ~all", {"other.com": nested}) == result  # type: ignore[dict-item]


REVERSE = "1.2.0.192.in-addr.arpa"


@pytest.mark.parametrize(
    ("names", "result"),
    [(["mta.example.com"], "pass"), (["MTA.Example.com."], "pass"), (["notexample.com"], "fail"),
    (["liar.example.com"], "fail"),
     (["a..b", "mta.example.com"], "pass"), (["x.com"] * 10 + ["mta.example.com"], "fail")],
)  # fmt: skip
def test_5_5_ptr(names: list[str], result: str) -> None:
    zone = {REVERSE: {"PTR": names}, "mta.example.com": {"A": ["192.0.2.1"]}, "liar.example.com": {"A": ["192.0.2.2"]},
            "notexample.com": {"A": ["192.0.2.1"]}}  # fmt: skip
    assert spf("v=spf1 ptr -all", zone) == result


def test_5_5_an_error_of_ptr_is_no_match() -> None:
    assert spf("v=spf1 ptr -all", {REVERSE: Outcome.SERVFAIL}) == "fail"


# Section 6: modifiers


@pytest.mark.parametrize(
    ("nested", "result"),
    [(txt("v=spf1 -all"), "fail"), (txt("v=spf1"), "neutral"), (txt("v=spf1 x"), "permerror"), (Outcome.NXDOMAIN,
    "permerror"),
     (txt("none"), "permerror"), (Outcome.SERVFAIL, "temperror")],
)  # fmt: skip
def test_6_1_redirect(nested: Zone | Outcome, result: str) -> None:
    assert spf("v=spf1 redirect=other.com ip4:192.0.2.9", {"other.com": nested}) == result  # type: ignore[dict-item]
    assert spf("v=spf1 redirect=other.com ip4:192.0.2.1", {"other.com": nested}) == "pass"  # type: ignore[dict-item]


def test_6_1_all_disables_redirect() -> None:
    assert spf("v=spf1 redirect=other.com ~all", {"other.com": txt("v=spf1 +all")}) == "softfail"


@pytest.mark.parametrize(
    ("texts", "explanation"),
    [
        (("%{i} is not one of %{d}'s MTAs, says %{r} at %{t}: %{c}%_%%%-",),
         "192.0.2.9 is not one of example.com's MTAs, says mx.example.org at 1234567: 192.0.2.9 %%20"),
        (("two", "records"), None), (("caf\xe9",), None), (("%{x}",), None), (("100%",), None),
    ],
)  # fmt: skip
def test_6_2_exp(texts: tuple[str, ...], explanation: str | None) -> None:
    zone = {"example.com": txt("v=spf1 -all exp=why.%{d}"), "why.example.com": txt(*texts)}
    result = check(zone, ip="192.0.2.9")
    assert result.result == "fail"
    assert result.explanation == (explanation or "192.0.2.9 matches '-all' of example.com")
    lost = check({**zone, "why.example.com": Outcome.TIMEOUT}, ip="192.0.2.9")
    assert (lost.result, lost.explanation) == ("fail", "192.0.2.9 matches '-all' of example.com")


def test_6_2_exp_of_the_redirect_target_counts_and_of_an_include_does_not() -> None:
    zone = {
        "r.com": txt("v=spf1 redirect=other.com exp=mine.com"), "other.com": txt("v=spf1 -all exp=theirs.com"),
        "i.com": txt("v=spf1 include:other.com -all exp=mine.com"), "mine.com": txt("mine"),
        "theirs.com": txt("theirs"),
    }  # fmt: skip
    assert check(zone, sender="me@r.com").explanation == "theirs"
    assert check(zone, sender="me@i.com").explanation == "mine"


# Section 7: macros


@pytest.mark.parametrize(
    ("spec", "expanded"),
    [
        ("%{s}", "strong-bad@email.example.com"), ("%{o}", "email.example.com"), ("%{d}", "email.example.com"),
        ("%{d4}", "email.example.com"), ("%{d3}", "email.example.com"), ("%{d2}", "example.com"), ("%{d1}", "com"),
        ("%{dr}", "com.example.email"), ("%{d2r}", "example.email"), ("%{l}", "strong-bad"), ("%{l-}", "strong.bad"),
        ("%{lr}", "strong-bad"), ("%{lr-}", "bad.strong"), ("%{l1r-}", "strong"), ("%{ir}.%{v}", "3.2.0.192.in-addr"),
        ("%{h}", "mta.example.com"), ("%{p}", "mx.example.org"), ("%{S}", "strong-bad%40email.example.com"),
    ],
)  # fmt: skip
def test_7_4_the_expansion_examples_of_the_rfc(spec: str, expanded: str) -> None:
    asked: list[str] = []
    zone = answers({
        "email.example.com": txt(f"v=spf1 exists:{spec}.end.com -all"),
        "3.2.0.192.in-addr.arpa": {"PTR": ["mx.example.org"]},
        "mx.example.org": {"A": ["192.0.2.3"]},
    })  # fmt: skip

    def answer(question: Question) -> Answer:
        asked.append(question.name)
        return zone(question)

    drive(evaluate("192.0.2.3", "strong-bad@email.example.com", "mta.example.com"), answer)
    assert f"{expanded}.end.com".lower() in asked


def test_7_3_ipv6_is_nibbles() -> None:
    nibbles = ".".join("20010db8000000000000000000000001"[::-1]) + ".ip6.x.com"
    assert spf("v=spf1 exists:%{ir}.%{v}.x.com -all", {nibbles: {"A": ["127.0.0.1"]}}, ip="2001:db8::1") == "pass"


def test_7_3_long_names_lose_labels_on_the_left() -> None:
    local = ".".join(["a" * 30] * 9)
    kept = f"{'.'.join(['a' * 30] * 8)}.x.com"
    assert len(kept) == 253
    assert spf("v=spf1 exists:%{l}.x.com -all", {kept: {"A": ["1.1.1.1"]}}, sender=f"{local}@example.com") == "pass"


def test_7_2_p_without_a_confirmed_name_is_unknown() -> None:
    assert spf("v=spf1 exists:%{p}.x.com -all", {"unknown.x.com": {"A": ["127.0.0.1"]}}) == "pass"


@given(st.text(max_size=60))
def test_7_1_macro_strings_are_read_or_refused(text: str) -> None:
    with contextlib.suppress(SpfSyntaxError):
        parts = macro_string(text, explanation=True)
        assert "".join(p for p in parts if isinstance(p, str)).isascii()


# Section 4.6.4: limits


def chain(n: int) -> Zone:
    zone: dict[str, dict[str, list[str]]] = {
        f"i{i}.com": {"TXT": [f"v=spf1 include:i{i + 1}.com -all"]} for i in range(n)
    }
    zone[f"i{n}.com"] = {"TXT": ["v=spf1 +all"]}
    return zone


def test_4_6_4_ten_lookups_are_allowed_eleven_are_not() -> None:
    at = check(chain(10), sender="me@i0.com")
    assert (at.result, at.lookups) == ("pass", 10)
    over = check(chain(11), sender="me@i0.com")
    assert over.result == "permerror"
    assert "10 lookups" in over.explanation


def test_4_6_4_loops_end_in_permerror() -> None:
    assert spf("v=spf1 include:example.com -all") == "permerror"
    assert spf("v=spf1 redirect=example.com") == "permerror"


def test_4_6_4_terms_after_the_match_cost_nothing() -> None:
    assert spf("v=spf1 ip4:192.0.2.1 " + "a:host.com " * 20 + "-all", HOSTS) == "pass"


def test_4_6_4_ten_exchanges_are_allowed_eleven_are_not() -> None:
    def zone(n: int) -> Zone:
        hosts: dict[str, dict[str, list[str]]] = {f"m{i}.com": {"A": [f"192.0.2.{i}"]} for i in range(n)}
        hosts["many.com"] = {"MX": [f"10 m{i}.com." for i in range(n)]}
        return hosts

    assert spf("v=spf1 mx:many.com -all", zone(10)) == "pass"
    assert spf("v=spf1 mx:many.com -all", zone(11)) == "permerror"


def test_4_6_4_two_void_lookups_are_allowed_three_are_not() -> None:
    assert spf("v=spf1 a:v1.gone.com mx:v2.gone.com -all") == "fail"
    assert spf("v=spf1 a:v1.gone.com mx:v2.gone.com exists:v3.gone.com -all") == "permerror"
    assert spf("v=spf1 ptr a:v1.gone.com a:v2.gone.com -all") == "permerror"


# Hostile input

LINES = st.one_of(
    st.text(max_size=40),
    st.sampled_from(["a", "mx", "ptr", "-all", "include:b.com", "redirect=c.com", "exists:%{l}.%{p}.b.com", "exp=c.com",
                     "a:%{d}.b.com/0", "ip4:192.0.2.0/0", "include:example.com"]),
)  # fmt: skip


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_answers_lead_to_a_result(data: st.DataObject) -> None:
    sender = data.draw(st.text(max_size=20)) + "@example.com"
    result = drive(evaluate("192.0.2.1", sender, data.draw(st.text(max_size=20))), lambda q: _random(q, data), most=400)
    assert result.result in ("none", "neutral", "pass", "fail", "softfail", "temperror", "permerror")


def _random(question: Question, data: st.DataObject) -> Answer:
    outcome = data.draw(st.sampled_from([Outcome.ANSWER] * 4 + list(Outcome)))
    texts = data.draw(st.lists(LINES, max_size=4))
    if question.type == "TXT":
        texts = ["v=spf1 " + " ".join(texts)]
    return Answer(question, outcome, tuple(texts) if outcome is Outcome.ANSWER else ())
