"""Plans on their way: what they share, what becomes of one that does not end, and the first attempt that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Generator

import pytest

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.follow import Together, follow
from agent.dns.resolver import Resolver
from agent.dns.shared import DomainAnswers, SharedAnswers
from tests.dns.virtual import VirtualLoop

A, B = Question("a.com", "TXT"), Question("b.net", "TXT")
Steps = Generator[tuple[Question, ...], tuple[Answer, ...], list[Outcome]]


class Source(Resolver):
    """Answers after a second, with what it has; what it has nothing for, never."""

    def __init__(self, *outcomes: Outcome) -> None:
        super().__init__()
        self.outcomes = list(outcomes)
        self.asked: list[Question] = []

    async def ask(self, question: Question) -> Answer:
        self.asked.append(question)
        if not self.outcomes:
            await asyncio.Event().wait()
        outcome = self.outcomes.pop(0)
        await asyncio.sleep(1)
        return Answer(question, outcome, ttl=60)


def virtually(main: object) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main)  # type: ignore[arg-type]


def unending(seen: list[Outcome]) -> Steps:
    try:
        while True:
            answers = yield (A,)
            seen += [a.outcome for a in answers]
    finally:
        seen.append(Outcome.REFUSED)  # stands for its end


def once(*questions: Question) -> Steps:
    answers = yield questions
    return [a.outcome for a in answers]


def test_a_plan_that_does_not_end_is_given_up_at_twice_the_limit() -> None:
    async def main() -> None:
        seen: list[Outcome] = []
        now = asyncio.get_running_loop().time
        begun = now()
        # A question more for each answer: of those after the limit the loop still has its turns in between.
        ticks: list[float] = []
        beside = asyncio.create_task(ticking(ticks))
        with pytest.raises(TimeoutError):
            await follow(Source(*[Outcome.ANSWER] * 3), unending(seen), limit=5)
        beside.cancel()
        assert seen[:3] == [Outcome.ANSWER] * 3
        assert set(seen[3:-1]) == {Outcome.TIMEOUT}
        assert seen[-1] is Outcome.REFUSED
        assert 10 <= now() - begun < 10.2
        assert len(ticks) > 8

    with asyncio.Runner(loop_factory=Advancing) as runner:
        runner.run(main())


async def ticking(ticks: list[float]) -> None:
    while True:
        ticks.append(asyncio.get_running_loop().time())
        await asyncio.sleep(1)


class Advancing(VirtualLoop):
    """A turn of the loop takes some time, even of one that always has something to do."""

    def _run_once(self) -> None:
        self.now += 0.001
        super()._run_once()  # type: ignore[misc]


def test_each_of_several_plans_ends_by_itself_and_one_limit_ends_the_rest() -> None:
    async def main() -> None:
        ended: list[tuple[str, float, object]] = []
        source, now = Source(Outcome.ANSWER), asyncio.get_running_loop().time

        def broken() -> Steps:
            yield (A,)
            raise KeyError("bug")

        def note(key: str, got: object) -> None:
            ended.append((key, round(now()), got if isinstance(got, list) else type(got)))

        plans = {"one": once(A), "none": once(), "broken": broken(), "lost": once(A, B)}
        Together(DomainAnswers(SharedAnswers(source), "a.com"), plans, note, limit=7)
        await asyncio.sleep(20)
        assert ended == [
            ("none", 0, []), ("one", 1, [Outcome.ANSWER]), ("broken", 1, KeyError),
            ("lost", 7, [Outcome.ANSWER, Outcome.TIMEOUT]),
        ]  # fmt: skip
        assert source.asked == [A, B], "what several ask is asked once"

    virtually(main())


def test_what_is_closed_tells_nobody() -> None:
    async def main() -> None:
        ended: list[str] = []
        together = Together(Source(Outcome.ANSWER), {"one": once(A)}, lambda key, _: ended.append(key))
        together.close()
        await asyncio.sleep(100)
        assert not ended

    virtually(main())


def test_tell_answers_at_once_what_is_known_and_later_what_is_not() -> None:
    async def main() -> None:
        source = Source(Outcome.ANSWER, Outcome.SERVFAIL, Outcome.NXDOMAIN)
        shared = SharedAnswers(source)
        view = DomainAnswers(shared, "a.com")
        told: list[tuple[str, Outcome]] = []

        def then(who: str, got: object) -> None:
            assert isinstance(got, Answer)
            told.append((who, got.outcome))

        assert view.tell(B, lambda _, got: then("one", got)) is None
        assert view.tell(B, lambda _, got: then("two", got)) is None
        assert DomainAnswers(shared, "c.com").tell(B, lambda _, got: then("three", got)) is None
        assert not told, "never before it returns"
        await asyncio.sleep(2)
        assert told == [("one", Outcome.ANSWER), ("two", Outcome.ANSWER), ("three", Outcome.ANSWER)]
        known = view.tell(B, lambda *_: pytest.fail("told twice"))
        assert known is not None
        assert known.outcome is Outcome.ANSWER
        other = DomainAnswers(shared, "d.com").tell(B, lambda *_: pytest.fail("told twice"))
        assert other is not None
        assert other.ttl in (58, 59), "counted down"
        assert source.asked == [B]
        # What failed is asked again by the next that asks.
        for expected in (Outcome.SERVFAIL, Outcome.NXDOMAIN):
            assert view.tell(A, lambda _, got: then("four", got)) is None
            await asyncio.sleep(2)
            assert told[-1] == ("four", expected)
        assert view.tell(A, lambda *_: None) is not None

    virtually(main())
