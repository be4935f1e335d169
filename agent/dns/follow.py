"""How plans meet the live DNS, and the Web."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Generator, Mapping
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
    result: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def ended(_: str, got: T | Exception) -> None:
        if result.done():
            return
        if isinstance(got, Exception):
            result.set_exception(got)
        else:
            result.set_result(got)

    followed = Together(resolver, {"": plan}, ended, limit=limit, pages=pages, anew=anew)
    try:
        return await result
    finally:
        followed.close()


class Together(Generic[T]):
    """Several plans on their way at once, as ``follow`` leads each of them, with one limit for all. ``ended`` is told
    the key of each that comes to its end, and what it returned or raised; the first perhaps before this is made. Their
    answers drive them, without tasks: a look at a domain has some fifty steps, and there are thousands of domains."""

    def __init__(
        self,
        resolver: Asks,
        plans: Mapping[str, Generator[tuple[Question, ...], tuple[Answer, ...], T]],
        ended: Callable[[str, T | Exception], None],
        *,
        limit: float = CHECK_LIMIT,
        pages: Pages = _PAGES,
        anew: bool = False,
    ) -> None:
        resolver.fresh()
        self._loop = asyncio.get_running_loop()
        self._ended, self._limit = ended, limit
        self._late = False
        self._end = self._loop.call_later(limit, self._too_late)
        self._going = {
            key: _Followed(resolver, plan, functools.partial(self._over, key), pages=pages, anew=anew)
            for key, plan in plans.items()
        }
        for followed in list(self._going.values()):
            followed.go_on()

    def _over(self, key: str, got: T | Exception) -> None:
        if self._going.pop(key, None) is None:
            return
        if not self._going:
            self._end.cancel()
        self._ended(key, got)

    def _too_late(self) -> None:
        going = list(self._going.values())
        if not self._late:
            self._late = True
            self._end = self._loop.call_later(self._limit, self._too_late)
            for followed in going:
                followed.too_late()
        else:
            for followed in going:
                followed.give_up(TimeoutError())

    def close(self) -> None:
        """Give up what has not ended; nobody is told."""
        self._end.cancel()
        going, self._going = self._going, {}
        for followed in going.values():
            followed.close()


class _Followed(Generic[T]):
    """A plan on its way."""

    __slots__ = (
        "_anew", "_ended", "_futures", "_got", "_late", "_loop", "_missing", "_over", "_pages", "_plan", "_questions",
        "_resolver", "_started", "_view",
    )  # fmt: skip

    def __init__(
        self,
        resolver: Asks,
        plan: Generator[tuple[Question, ...], tuple[Answer, ...], T],
        ended: Callable[[T | Exception], None],
        *,
        pages: Pages,
        anew: bool,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._resolver, self._plan, self._ended = resolver, plan, ended
        self._pages, self._anew = pages, anew
        self._view = resolver if isinstance(resolver, DomainAnswers) else None
        self._questions: tuple[Question, ...] = ()
        self._got: dict[Question, Answer] = {}  # of this step
        self._futures: list[asyncio.Future[Answer]] = []
        self._started = self._late = self._over = False
        self._missing = 0

    def go_on(self) -> None:
        """Take steps for as long as no answer has to be waited for."""
        got: T | Exception
        try:
            for _ in range(_STEPS):
                if self._over or self._ask(self._step()):
                    return
            self._loop.call_soon(self.go_on)
            return
        except StopIteration as stop:
            got = stop.value
        except Exception as error:
            got = error
        self._over = True
        self._ended(got)

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
        future.add_done_callback(functools.partial(self._answered, question))
        return None

    def _answered(self, question: Question, future: asyncio.Future[Answer]) -> None:
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
            self.give_up(got if isinstance(got, Exception) else RuntimeError(type(got).__name__))
            return
        self._missing -= 1
        if not self._missing:
            self.go_on()

    def too_late(self) -> None:
        """Answer what is waited for, and all further questions, with a time-out."""
        self._late = True
        if self._missing:
            self._wait_no_more()
            self.go_on()

    def give_up(self, error: Exception) -> None:
        """End with this error."""
        if not self._over:
            self.close()
            self._ended(error)

    def _wait_no_more(self) -> None:
        self._missing = 0
        futures, self._futures = self._futures, []
        for future in futures:
            future.cancel()

    def close(self) -> None:
        """Leave the plan where it is."""
        self._over = True
        self._wait_no_more()
        self._plan.close()


async def run_check(
    resolver: Asks, check: Check, subject: Subject, *, limit: float = CHECK_LIMIT, anew: bool = False
) -> tuple[Finding, ...]:
    """The findings of one check of one subject, now; ends within about ``limit`` seconds. ``anew`` is for a look that
    confirms another."""
    return await follow(resolver, check.plan(subject), limit=limit, anew=anew)
