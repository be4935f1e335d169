"""How plans meet the live DNS, and the Web."""

from __future__ import annotations

import asyncio
import functools
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
    answered with a time-out, so that the plan still ends by its own rules; one that does not within as long again is
    given up with ``TimeoutError``. What it asks of the Web goes to ``pages``; ``anew`` has them fetched although they
    are kept."""
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
        self._view = resolver if isinstance(resolver, DomainAnswers) else None
        self._questions: tuple[Question, ...] = ()
        self._got: dict[Question, Answer] = {}  # of this step
        self._futures: list[asyncio.Future[Answer]] = []
        self._started = self._late = False
        self._missing = 0
        self._limit = limit
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
        got = self._got
        return self._plan.send(tuple([got[q] if q in got else Answer(q, Outcome.TIMEOUT) for q in self._questions]))

    def _ask(self, questions: tuple[Question, ...]) -> int:
        """How many answers have to be waited for."""
        self._questions = questions
        self._got = got = {}
        view, missing = self._view, 0
        for question in questions:
            answer = view.known.get(question) if view is not None else None
            if answer is None and not self._late:
                if view is None or isinstance(question, Fetch):
                    answer = self._begun(question)
                else:
                    answer = view.tell(question, self._came)
                missing += answer is None
            if answer is not None:
                got[question] = answer
        self._missing = missing
        return missing

    def _begun(self, question: Question) -> Answer | None:
        future: asyncio.Future[Answer]
        if isinstance(question, Fetch):
            future = asyncio.ensure_future(self._pages.get(question, self._resolver, anew=self._anew))
        else:
            future = asyncio.ensure_future(self._resolver.ask(question))
        if future.done() and not future.cancelled() and future.exception() is None:
            return future.result()
        self._futures.append(future)
        future.add_done_callback(functools.partial(self._ended, question))
        return None

    def _ended(self, question: Question, future: asyncio.Future[Answer]) -> None:
        if future in self._futures:
            self._futures.remove(future)
            self._came(question, None if future.cancelled() else future.exception() or future.result())

    def _came(self, question: Question, got: Answer | BaseException | None) -> None:
        """``None`` is what somebody gave up."""
        if not self._missing:  # given up meanwhile
            return
        if isinstance(got, Answer):
            self._got[question] = got
        elif got is not None:
            self._missing = 0
            if not self.result.done():
                self.result.set_exception(got)
            return
        self._missing -= 1
        if not self._missing:
            self._go_on()

    def _too_late(self) -> None:
        if self._late:  # a plan that does not end
            if not self.result.done():
                self.result.set_exception(TimeoutError())
            return
        self._late = True
        self._end = self._loop.call_later(self._limit, self._too_late)
        if self._missing:
            self._give_up()
            self._go_on()

    def _give_up(self) -> None:
        self._missing = 0
        futures, self._futures = self._futures, []
        for future in futures:
            future.cancel()

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
