"""Good news that the zone's own servers do not share: a resolver that serves what is long gone."""

from __future__ import annotations

from pathlib import Path

import dns.flags
import dns.message
import msgspec
import pytest

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.audit import CHECKED
from agent.dns.checks import CHECKS
from agent.dns.checks.base import Subject, Verdict
from agent.dns.resolver import Resolver
from agent.dns.watch import Watch
from tests.dns.test_watch import Fake, Now, look, watch
from tests.servers.faulty_dns import FaultyDns, faulty
from tests.servers.unbound import unbound

GOOD: dict[str, dict[str, list[str]] | Outcome] = {"a.com": {"TXT": ["ok"]}}
OWN = "192.0.2.1:53"
HOUR = 3600.0


class Countdown(Fake):
    """``ttl`` is what the resolver says of its answers."""

    ttl = 3600

    async def ask(self, question: Question) -> Answer:
        answer = await super().ask(question)
        return answer if question.server or not answer.ttl else msgspec.structs.replace(answer, ttl=self.ttl)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Countdown:
    monkeypatch.setattr("agent.dns.audit.CHECKED", {"probe"})
    fake = Countdown()
    fake.zone = dict(GOOD)
    return fake


def audits(fake: Fake) -> int:
    return sum(q.type == "TXT" for q in fake.seconds)


async def test_what_is_gone_from_the_zone_is_missed_within_the_hour_whatever_the_resolver_says(fake: Countdown) -> None:
    now = Now()
    w = watch(fake, now)
    assert (await look(w)).finding.verdict is Verdict.OK
    fake.authority = {OWN: {}}
    for _ in range(12):
        now.at += 300
        found = await look(w)
    assert (found.finding.verdict, found.finding.reason) == (Verdict.FAIL, "fail")
    assert "still gives an older answer" in found.finding.detail
    now.at += 60
    assert (await look(w)).finding.verdict is Verdict.FAIL, "until they agree it is asked at every look"
    fake.authority = {OWN: Outcome.TIMEOUT}
    now.at += 60
    unsure = await look(w)
    assert (unsure.finding.verdict, unsure.last_definitive) == (Verdict.UNKNOWN, found.finding)
    fake.authority = {OWN: Outcome.ANSWER}
    now.at += 60
    assert (await look(w)).finding.verdict is Verdict.OK
    asked = audits(fake)
    now.at += 60
    await look(w)
    assert audits(fake) == asked, "and then in its turn again"


async def test_a_ttl_of_an_expired_answer_is_looked_into_at_once(fake: Countdown) -> None:
    now = Now()
    w = watch(fake, now)
    await look(w)
    assert audits(fake) == 0
    fake.authority, fake.ttl = {OWN: {}}, 30
    assert (await look(w)).finding.verdict is Verdict.FAIL


@pytest.mark.parametrize(
    "authority", [{OWN: {}, "192.0.2.2:53": GOOD}, {OWN: Outcome.TIMEOUT}, {OWN: Outcome.SERVFAIL}, {}]
)
async def test_servers_that_disagree_or_are_silent_take_nothing_back(fake: Countdown, authority: object) -> None:
    now = Now()
    w = watch(fake, now)
    fake.authority = authority  # type: ignore[assignment]
    for _ in range(3):
        now.at += HOUR
        assert (await look(w)).finding.verdict is Verdict.OK


async def test_good_news_costs_one_question_an_hour(fake: Countdown) -> None:
    now = Now()
    w = watch(fake, now)
    for _ in range(8 * 12):
        await look(w)
        now.at += 300
    assert 7 <= audits(fake) <= 9


def test_what_is_audited_is_there() -> None:
    assert CHECKS.keys() >= CHECKED


async def test_a_resolver_that_serves_stale_hides_no_failure(tmp_path: Path) -> None:
    """A real resolver that has lost its way to the zone, and goes on answering (RFC 8767)."""

    def lost_to_resolvers(
        server: FaultyDns, query: dns.message.Message, truth: dns.message.Message, tcp: bool
    ) -> object:
        return None if query.ednsflags & dns.flags.DO else truth.to_wire()

    records = {
        "com": {"SOA": ["ns.com. h.com. 1 60 60 60 1"], "NS": ["ns.com."]}, "ns.com": {"A": ["127.0.0.1"]},
        "a.com": {"SOA": ["ns.a.com. h.a.com. 1 60 60 60 1"], "NS": ["ns.a.com."], "TXT": ['"v=spf1 -all"']},
        "ns.a.com": {"A": ["127.0.0.1"]},
    }  # fmt: skip
    async with faulty(records, zones=("com", "a.com"), ttl=1) as owner:
        with unbound(tmp_path, {"com": owner.address, "a.com": owner.address}, stale=True) as address:
            resolver, now = Resolver([address], timeout=2.0), Now()
            w = Watch(
                resolver, [Subject("a.com", parked=True)], checks={"spf": CHECKS["spf"]}, clock=now, confirm_after=0.1,
                authority_port=owner.port,
            )  # fmt: skip
            try:
                (spf,) = await w.check_now("a.com")
                assert spf.finding.reason == "ok", spf
                for question in (Question("a.com", "NS"), Question("ns.a.com", "A")):  # as the check of them does
                    assert (await resolver.ask(question)).records
                gone = dict(records)
                gone["a.com"] = {kind: held for kind, held in records["a.com"].items() if kind != "TXT"}
                owner.records, owner.fault = gone, lost_to_resolvers  # type: ignore[assignment]
                now.at += HOUR
                stale = await resolver.ask(Question("a.com", "TXT"))
                (spf,) = await w.check_now("a.com")
            finally:
                await resolver.aclose()
    assert stale.records == ("v=spf1 -all",), "the resolver does not serve stale"
    assert (spf.finding.verdict, spf.finding.reason) == (Verdict.FAIL, "missing_record"), spf
