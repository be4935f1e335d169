"""How plans meet the live DNS, and the Web."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Generic, TypeVar

from agent.dns.answer import Answer, Asks, Outcome, Question
from agent.dns.checks.base import Check, Finding, Subject
from agent.dns.page import Fetch
from agent.dns.pages import Pages
from agent.dns.shared import DomainAnswers

T = TypeVar("T")

CHECK_LIMIT = 45.0  # seconds
_STEPS = 50  # that a plan takes on answers that are there already, before others have their turn
_PAGES = Pages()


async def follow(
    resolver: Asks,
    plan: Generator[tuple[Question, ...], tuple[Answer, ...], T],
    *,
    limit: float = CHECK_LIMIT,
    pages: Pages = _PAGES,
    anew: bool = False,
) -> T:
    """Lead a plan to its end on answers no older than this call. After ``limit`` seconds every further question is
    answered with a time-out, so that the plan still ends by its own rules. What it asks of the Web goes to
    ``pages``; ``anew`` has them fetched although they are kept."""
    resolver.fresh()
    followed = _Followed(resolver, plan, limit, pages, anew)
    try:
        return await followed.result
    finally:
        followed.close()


class _Followed(Generic[T]):
    """A plan on its way. It goes on as its answers come, without a task of its own and a timer for each step: a look at
    a domain has some fifty steps, and there are thousands of domains."""

    def __init__(
        self,
        resolver: Asks,
        plan: Generator[tuple[Question, ...], tuple[Answer, ...], T],
        limit: float,
        pages: Pages,
        anew: bool,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.result: asyncio.Future[T] = self._loop.create_future()
        self._resolver, self._plan = resolver, plan
        self._pages, self._anew = pages, anew
        self._known = resolver.known if isinstance(resolver, DomainAnswers) else {}
        self._asked: list[tuple[Question, Answer | asyncio.Future[Answer]]] = []
        self._started = self._late = False
        self._missing = 0
        self._end = self._loop.call_later(limit, self._too_late)
        self._go_on()

    def _go_on(self) -> None:
        try:
            for _ in range(_STEPS):
                if self.result.done():
                    return
                if self._ask(self._step()):
                    return
            self._loop.call_soon(self._go_on)
        except StopIteration as stop:
            self.result.set_result(stop.value)
        except Exception as error:
            self.result.set_exception(error)

    def _step(self) -> tuple[Question, ...]:
        if not self._started:
            self._started = True
            return next(self._plan)
        answers = [
            got if isinstance(got, Answer) else Answer(question, Outcome.TIMEOUT) if got.cancelled() else got.result()
            for question, got in self._asked
        ]
        return self._plan.send(tuple(answers))

    def _ask(self, questions: tuple[Question, ...]) -> int:
        """How many answers have to be waited for."""
        self._asked = [(question, self._known.get(question) or self._begun(question)) for question in questions]
        for _, got in self._asked:
            if not isinstance(got, Answer) and not got.done():
                self._missing += 1
                got.add_done_callback(self._came)
        return self._missing

    def _begun(self, question: Question) -> Answer | asyncio.Future[Answer]:
        if self._late:
            return Answer(question, Outcome.TIMEOUT)
        if isinstance(question, Fetch):
            return asyncio.ensure_future(self._pages.get(question, self._resolver, anew=self._anew))
        return asyncio.ensure_future(self._resolver.ask(question))

    def _came(self, _: asyncio.Future[Answer]) -> None:
        self._missing -= 1
        if not self._missing:
            self._go_on()

    def _too_late(self) -> None:
        self._late = True
        self._give_up()

    def _give_up(self) -> None:
        for _, got in self._asked:
            if not isinstance(got, Answer) and not got.done():
                got.cancel()

    def close(self) -> None:
        self._end.cancel()
        self._give_up()
        self._plan.close()


async def run_check(
    resolver: Asks, check: Check, subject: Subject, *, limit: float = CHECK_LIMIT, anew: bool = False
) -> tuple[Finding, ...]:
    """The findings of one check of one subject, now; ends within about ``limit`` seconds. ``anew`` is for a look that
    confirms another."""
    return await follow(resolver, check.plan(subject), limit=limit, anew=anew)
