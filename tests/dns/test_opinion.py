"""The second opinion: what is believed of bad news, and of whom."""

from __future__ import annotations

import random
from collections.abc import Sequence

import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.checks.base import SEVERITY, Finding, Verdict
from agent.dns.health import Health, judge, self_check
from agent.dns.opinion import Authority, Weight, weigh
from agent.dns.resolver import Resolver
from tests.dns.test_watch import Fake, Now, look, watch
from tests.servers.faulty_dns import Fault, FaultyDns, faulty, lame, losing, rcode, rewriting, silent

GOOD, BAD = {"a.com": {"TXT": ["ok"]}}, Outcome.NXDOMAIN


def finding(verdict: Verdict) -> Finding:
    return Finding("probe", "", verdict, verdict.value, "!")


@settings(max_examples=100)
@given(
    st.sampled_from([Verdict.FAIL, Verdict.WARN]),
    st.lists(st.sampled_from(list(Verdict)), max_size=5),
    st.integers(1, 3),
)
def test_only_what_enough_others_say_is_believed(first: Verdict, others: list[Verdict], needed: int) -> None:
    weight, result = weigh(finding(first), [finding(v) for v in others], needed=needed)
    definite = [v for v in others if v is not Verdict.UNKNOWN]
    assert (weight is Weight.SPLIT) == (Verdict.OK in definite)
    assert (weight is Weight.CONFIRMED) == (Verdict.OK not in definite and len(definite) >= needed)
    if weight is Weight.CONFIRMED:
        assert result.verdict is max((first, *definite), key=SEVERITY.index)
    else:
        assert result.verdict is Verdict.UNKNOWN
        assert result.reason in ("split_answers", "unconfirmed")


@pytest.mark.parametrize(
    ("authority", "others", "reason"),
    [
        ({"192.0.2.1:53": BAD, "192.0.2.2:53": {}}, {}, "fail"),
        ({"192.0.2.1:53": {}, "192.0.2.2:53": GOOD}, {}, "split_answers"),
        ({"192.0.2.1:53": GOOD}, {"r1": {}, "r2": {}}, "split_answers"),
        ({"192.0.2.1:53": Outcome.TIMEOUT}, {}, "unconfirmed"),
        ({}, {}, "unconfirmed"),
        ({}, {"r1": {}}, "unconfirmed"),
        ({}, {"r1": {}, "r2": {}}, "fail"),
        ({}, {"r1": {}, "r2": GOOD}, "split_answers"),
        ({}, {"r1": {}, "r2": {"a.com": Outcome.SERVFAIL}}, "unconfirmed"),
        ({"192.0.2.1:53": {}}, {"r1": {}, "r2": GOOD}, "fail"),
    ],
)
async def test_bad_news_is_what_the_zones_servers_or_two_resolvers_say(
    authority: dict[str, object], others: dict[str, object], reason: str
) -> None:
    fake, now = Fake(), Now()
    fake.zone = dict(GOOD)  # type: ignore[arg-type]
    weights: list[Weight] = []
    w = watch(fake, now, on_opinion=weights.append)
    good = await look(w)
    fake.zone = {"a.com": BAD}
    fake.authority = {s: {"a.com": held} if held is BAD else held for s, held in authority.items()}  # type: ignore
    fake.others = others  # type: ignore[assignment]
    now.at = 1300.0
    found = await look(w)
    assert found.finding.reason == reason
    assert len(weights) == 1
    if reason != "fail":
        assert found.finding.verdict is Verdict.UNKNOWN
        assert (found.last_definitive, found.definitive_at) == (good.finding, 1000)


async def test_where_nobody_else_can_be_asked_a_healthy_resolver_is_believed_after_an_hour() -> None:
    fake, now = Fake(), Now()
    fake.authority = {}
    w = watch(fake, now)
    w._belief.health = {"192.0.2.53:53": Health.HEALTHY}
    assert (await look(w)).finding.reason == "unconfirmed"
    now.at += 3599
    assert (await look(w)).finding.reason == "unconfirmed"
    now.at += 2
    assert (await look(w)).finding.reason == "fail"


async def test_a_resolver_not_known_to_be_healthy_is_never_believed_alone() -> None:
    fake, now = Fake(), Now()
    fake.authority = {}
    w = watch(fake, now)
    for _ in range(10):
        now.at += 1800
        assert (await look(w)).finding.reason == "unconfirmed"
    w._belief.health = {"192.0.2.53:53": Health.HEALTHY}
    fake.zone = dict(GOOD)  # type: ignore[arg-type]
    assert (await look(w)).finding.reason == "ok"
    fake.zone = {}
    for _ in range(2):  # what was heard before the good news counts no more
        now.at += 1
        assert (await look(w)).finding.reason == "unconfirmed"


async def test_a_vanished_record_is_confirmed_though_the_verdict_stays() -> None:
    fake, now = Fake(), Now()
    w = watch(fake, now)
    old = Finding("probe", "", Verdict.FAIL, "broken", "!", records=("it was here",))
    w.published.publish("a.com", "probe", (old,), 1.0)
    fake.authority = {"192.0.2.1:53": GOOD}  # type: ignore[dict-item]
    assert (await look(w)).finding.reason == "split_answers"


async def test_when_every_resolver_is_broken_nothing_is_believed() -> None:
    fake, now = Fake(), Now()
    fake.zone = dict(GOOD)  # type: ignore[arg-type]
    w = watch(fake, now)
    good = await look(w)
    w._belief.health = {"r1": Health.BROKEN, "r2": Health.BROKEN}
    found = await look(w)
    assert (found.finding.verdict, found.finding.reason) == (Verdict.UNKNOWN, "resolver_broken")
    assert found.last_definitive == good.finding
    w._belief.health = {"r1": Health.BROKEN, "r2": Health.UNKNOWN}
    assert (await look(w)).finding.reason == "ok"


def answered(outcome: Outcome) -> Answer:
    return Answer(Question("x", "A"), outcome)


@pytest.mark.parametrize(
    ("known", "absent", "health"),
    [
        ("answer", ("nxdomain", "nxdomain"), "healthy"),
        ("answer", ("timeout", "nxdomain"), "healthy"),
        ("answer", ("answer", "nxdomain"), "broken"),
        ("answer", ("nxdomain", "answer"), "broken"),
        ("timeout", ("nxdomain", "answer"), "broken"),
        ("nxdomain", ("nxdomain", "nxdomain"), "broken"),
        ("nodata", ("timeout", "timeout"), "broken"),
        ("answer", ("timeout", "servfail"), "unknown"),
        ("timeout", ("nxdomain", "nxdomain"), "unknown"),
        ("refused", ("refused", "refused"), "unknown"),
        ("answer", ("nodata", "nodata"), "unknown"),
    ],
)
def test_health_follows_from_what_is_known(known: str, absent: Sequence[str], health: str) -> None:
    assert judge(answered(Outcome(known)), [answered(Outcome(a)) for a in absent]) == health


# Real packets

ZONE = {
    "com": {"NS": ["ns.test."]},
    "test": {"NS": ["ns.test."], "SOA": ["ns.test. h.test. 1 60 60 60 60"]},
    "ns.test": {"A": ["127.0.0.1"]},
    "a.test": {"TXT": ['"here"']},
    "alias.test": {"CNAME": ["a.sub.test."]},
    "sub.test": {"NS": ["ns.test."], "SOA": ["ns.test. h.test. 1 60 60 60 60"]},
    "a.sub.test": {"TXT": ['"beyond"'], "DS": ["1 13 2 " + "00" * 32]},
}


async def test_the_self_check_finds_the_resolver_that_rewrites_and_it_is_avoided() -> None:
    options = {"recursive": True, "zones": ("test", "com", "invalid")}
    async with (
        faulty(ZONE, rewriting, **options) as liar,
        faulty(ZONE, **options) as honest,
        faulty(ZONE, silent) as mute,
    ):
        resolver = Resolver([liar.address, honest.address, mute.address], timeout=0.3, tries=1)
        assert await self_check(resolver) == {
            liar.address: Health.BROKEN, honest.address: Health.HEALTHY, mute.address: Health.UNKNOWN,
        }  # fmt: skip
        resolver.avoid([liar.address])
        liar.asked.clear()
        for _ in range(5):
            resolver.fresh()
            assert (await resolver.ask(Question("gone.test", "A"))).outcome is Outcome.NXDOMAIN
            assert (await resolver.ask(Question("gone+x.test", "A"))).outcome is Outcome.NXDOMAIN
        assert not liar.asked
        resolver.avoid([liar.address, honest.address, mute.address])
        assert (await resolver.ask(Question("a.test", "TXT"))).records == ("here",), "all bad is as good as none bad"
        await resolver.aclose()


async def test_the_zones_server_is_found_and_asked_without_recursion() -> None:
    async with faulty(ZONE, recursive=True) as recursive, faulty(ZONE, zones=("test", "sub.test")) as owner:
        resolver = Resolver([recursive.address], timeout=0.5, tries=1)
        authority = Authority(resolver, port=owner.port)
        answer = await authority.ask(Question("a.test", "TXT"), 0)
        assert (answer.records, answer.authoritative, answer.server) == (("here",), True, owner.address)
        assert (await authority.ask(Question("gone.test", "TXT"), 1)).outcome is Outcome.NXDOMAIN
        assert (await authority.ask(Question("alias.test", "TXT"), 0)).records == ("beyond",)
        assert (await authority.ask(Question("a.sub.test", "DS"), 0)).records
        assert ("a.test", "TXT") not in recursive.asked
        authority.close()
        await resolver.aclose()


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (lame, Outcome.UNREACHABLE),
        (silent, Outcome.UNREACHABLE),
        (rcode(dns.rcode.REFUSED), Outcome.UNREACHABLE),
        (losing(0.05, random.Random(3)), Outcome.NXDOMAIN),
    ],
)
async def test_without_an_authoritative_answer_there_is_none(fault: Fault, outcome: Outcome) -> None:
    async with faulty(ZONE, recursive=True) as recursive, faulty(ZONE, fault) as owner:
        resolver = Resolver([recursive.address], timeout=0.2, tries=2)
        authority = Authority(resolver, port=owner.port)
        assert (await authority.ask(Question("gone.test", "TXT"), 0)).outcome is outcome
        await resolver.aclose()


async def test_a_filter_that_claims_authority_for_one_name_is_not_believed() -> None:
    def blocking(server: FaultyDns, query: dns.message.Message, truth: dns.message.Message, tcp: bool) -> bytes:
        if query.question[0].name.to_text() == "a.test.":
            truth = rcode_nxdomain(query)
        return truth.to_wire()

    def rcode_nxdomain(query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA
        response.set_rcode(dns.rcode.NXDOMAIN)
        return response

    async with faulty(ZONE, blocking, recursive=True) as recursive, faulty(ZONE, silent) as owner:
        resolver = Resolver([recursive.address], timeout=0.2, tries=1)
        assert (await resolver.ask(Question("a.test", "TXT"))).outcome is Outcome.NXDOMAIN
        authority = Authority(resolver, port=owner.port)
        assert not (await authority.ask(Question("a.test", "TXT"), 0)).outcome.definitive
        await resolver.aclose()


async def test_the_server_configured_counts_where_it_is_the_zones_own() -> None:
    async with faulty(ZONE) as both, faulty(ZONE, silent) as owner:
        resolver = Resolver([both.address], timeout=0.2, tries=1)
        answer = await Authority(resolver, port=owner.port).ask(Question("gone.test", "TXT"), 0)
        assert (answer.outcome, answer.server) == (Outcome.NXDOMAIN, both.address)
        await resolver.aclose()
