"""Answers shared between domains, the pace of questions, and the one queue of looks."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable

import msgspec
import pytest

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.resolver import Resolver
from agent.dns.schedule import Schedule
from agent.dns.shared import DomainAnswers, SharedAnswers
from tests.dns.virtual import VirtualLoop

ESP = Question("_spf.esp.net", "TXT")


class Slow(Resolver):
    """Answers after 0.1 s; counts."""

    def __init__(self, outcome: Outcome = Outcome.ANSWER, ttl: int = 100) -> None:
        super().__init__()
        self.answer = Answer(ESP, outcome, ("x",) * (outcome is Outcome.ANSWER), ttl=ttl)
        self.asked: Counter[Question] = Counter()
        self.times: list[float] = []

    async def ask(self, question: Question) -> Answer:
        self.asked[question] += 1
        self.times.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.1)
        return msgspec.structs.replace(self.answer, question=question)


def virtually(main: object) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main)  # type: ignore[arg-type]


def test_an_include_of_many_domains_is_asked_once_per_ttl() -> None:
    async def main() -> None:
        dns = Slow()
        shared = SharedAnswers(dns)
        answers = await asyncio.gather(*(shared.ask(ESP, domain=f"d{i}.com") for i in range(100)))
        assert {a.ttl for a in answers} == {100}
        assert dns.asked[ESP] == 1, "those who ask together share one question"
        await asyncio.sleep(60)
        assert (await shared.ask(ESP, domain="a.com")).ttl in (39, 40), "what is left of the TTL"
        await asyncio.sleep(39.9)
        await shared.ask(ESP, domain="a.com")
        assert dns.asked[ESP] == 1
        await asyncio.sleep(0.2)
        await shared.ask(ESP, domain="a.com")
        assert dns.asked[ESP] == 2, "never beyond the TTL"

    virtually(main())


def test_a_domains_own_names_and_servers_asked_directly_are_asked_anew() -> None:
    async def main() -> None:
        dns = Slow()
        shared = SharedAnswers(dns)
        for question in (
            Question("a.com", "TXT"),
            Question("_dmarc.a.com", "TXT"),
            Question("esp.net", "SOA", server="192.0.2.1:53"),
        ):
            for n in (1, 2):
                await DomainAnswers(shared, "a.com").ask(question)
                assert dns.asked[question] == n
        for _ in range(2):
            await shared.ask(Question("nota.com", "TXT"), domain="a.com")
        assert dns.asked[Question("nota.com", "TXT")] == 1

    virtually(main())


@pytest.mark.parametrize(
    ("outcome", "ttl", "kept"),
    [
        (Outcome.NXDOMAIN, 50, 50),
        (Outcome.NODATA, 50_000, 900),
        (Outcome.NXDOMAIN, 0, 0),
        (Outcome.ANSWER, 0, 0),
        (Outcome.ANSWER, 10_000_000, 86_400),
        (Outcome.SERVFAIL, 100, 0),
        (Outcome.TIMEOUT, 100, 0),
        (Outcome.BOGUS, 100, 0),
    ],
)
def test_what_is_kept_and_how_long(outcome: Outcome, ttl: int, kept: int) -> None:
    async def main() -> None:
        dns = Slow(outcome, ttl)
        shared = SharedAnswers(dns)
        await shared.ask(ESP, domain="a.com")
        if kept:
            await asyncio.sleep(kept - 1)
            await shared.ask(ESP, domain="a.com")
            assert dns.asked[ESP] == 1
            await asyncio.sleep(1.1)
        await shared.ask(ESP, domain="a.com")
        assert dns.asked[ESP] == 2

    virtually(main())


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr("agent.dns.shared._ANSWERS", 10)
        monkeypatch.setattr("agent.dns.shared._ZONES", 10)
        dns = Slow()
        shared = SharedAnswers(dns)
        for i in range(100):
            await shared.ask(Question(f"x.n{i}.net", "A"), domain="a.com")
        assert len(shared._kept) == 10
        assert len(shared._zone_due) <= 12
        assert not shared._asking
        dns.answer = msgspec.structs.replace(dns.answer, records=("x" * 30_000,))
        await shared.ask(Question("big.net", "TXT"), domain="a.com")
        assert Question("big.net", "TXT") not in shared._kept

    virtually(main())


def test_one_that_gives_up_does_not_take_the_answer_from_others() -> None:
    async def main() -> None:
        shared = SharedAnswers(Slow())
        first = asyncio.ensure_future(shared.ask(ESP, domain="a.com"))
        second = asyncio.ensure_future(shared.ask(ESP, domain="b.com"))
        await asyncio.sleep(0.05)
        first.cancel()
        assert (await second).outcome is Outcome.ANSWER

    virtually(main())


def test_questions_keep_to_the_pace_in_all_and_for_one_domain() -> None:
    async def main() -> None:
        dns = Slow()
        shared = SharedAnswers(dns, rate=100)
        now = asyncio.get_running_loop().time
        begun = now()
        await asyncio.gather(*(shared.ask(Question(f"n{i}.net", "A"), domain="a.com") for i in range(500)))
        assert now() - begun == pytest.approx(4.1, abs=0.1), "500 at 100/s, a second's worth at once"
        for second in range(5):
            assert sum(second <= t - begun < second + 1 for t in dns.times) <= 201
        await asyncio.sleep(5)
        begun = now()
        await asyncio.gather(*(shared.ask(Question(f"n{i}.one.net", "A"), domain="a.com") for i in range(50)))
        assert now() - begun == pytest.approx(4.1, abs=0.1), "50 at a tenth of that"

    virtually(main())


class Work:
    """Takes some seconds for each key, which is due again some seconds later."""

    def __init__(self, most: int, takes: float, again: float) -> None:
        self.schedule: Schedule[int] = Schedule(self.begin, most=most)
        self.takes, self.pause = takes, again
        self.at_work = self.most = 0
        self.done = Counter[int]()
        self.batches: list[list[int]] = []

    def begin(self, keys: list[int]) -> None:
        self.at_work += len(keys)
        self.most = max(self.most, self.at_work)
        self.batches.append(keys)
        for key in keys:
            asyncio.get_running_loop().call_later(self.takes, self.end, key)

    def end(self, key: int) -> None:
        self.at_work -= 1
        self.done[key] += 1
        self.schedule.again(key, self.pause)

    @contextlib.asynccontextmanager
    async def going(self, keys: Iterable[tuple[float, int]]) -> AsyncIterator[Schedule[int]]:
        task = asyncio.create_task(self.schedule.run(keys))
        yield self.schedule
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_the_queue_does_what_is_due_no_more_at_once_than_allowed() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        work = Work(5, takes=0.5, again=10.0)
        begun = loop.time()
        async with work.going((0.1 * i, i) for i in range(50)) as schedule:
            await asyncio.sleep(4)
            assert schedule.late() < 0.01
            await asyncio.sleep(100)
        done = work.done
        assert work.most == 5
        assert set(done) == set(range(50))
        assert max(done.values()) - min(done.values()) <= 1
        assert min(done.values()) == pytest.approx((loop.time() - begun) / 10.5, abs=1.5)

    virtually(main())


def test_what_is_due_together_is_begun_together() -> None:
    async def main() -> None:
        work = Work(64, takes=1.0, again=10.0)
        async with work.going([(1.0, 1), (1.001, 2), (1.004, 3), (1.2, 4)]):
            await asyncio.sleep(5)
        assert work.batches == [[1, 2, 3], [4]]

    virtually(main())


def test_too_much_work_shows_as_lateness_and_is_shared_fairly() -> None:
    async def main() -> None:
        work = Work(2, takes=1.0, again=1.0)
        async with work.going((0, i) for i in range(20)) as schedule:
            await asyncio.sleep(100.5)
            assert schedule.late() > 5
        assert set(work.done.values()) == {10}

    virtually(main())
