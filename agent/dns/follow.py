"""How plans meet the live DNS, and the Web."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from typing import TypeVar

from agent.dns.answer import Answer, Asks, Outcome, Question
from agent.dns.checks.base import Check, Finding, Subject
from agent.dns.page import Fetch
from agent.dns.pages import Pages

T = TypeVar("T")

CHECK_LIMIT = 45.0  # seconds
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

    def ask(question: Question) -> Awaitable[Answer]:
        return pages.get(question, resolver, anew=anew) if isinstance(question, Fetch) else resolver.ask(question)

    resolver.fresh()
    end = asyncio.get_running_loop().time() + limit
    try:
        questions = next(plan)
        while True:
            asked = [asyncio.ensure_future(ask(question)) for question in questions]
            await _all(asked, end)
            questions = plan.send(
                tuple(
                    [
                        future.result() if not future.cancelled() else Answer(question, Outcome.TIMEOUT)
                        for question, future in zip(questions, asked, strict=True)
                    ]
                )
            )
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        plan.close()


async def _all(asked: list[asyncio.Future[Answer]], end: float) -> None:
    """Wait for all of them until ``end`` on the loop's clock; what is not there then is cancelled."""
    if all([future.done() for future in asked]):
        await asyncio.sleep(0)  # a plan that never ends must not stop the loop
        return
    try:
        left = max(0.0, end - asyncio.get_running_loop().time())
        await asyncio.wait(asked, timeout=left)
    finally:
        late = [future for future in asked if not future.done()]
        for future in late:
            future.cancel()
        if late:
            await asyncio.wait(late)


async def run_check(
    resolver: Asks, check: Check, subject: Subject, *, limit: float = CHECK_LIMIT, anew: bool = False
) -> tuple[Finding, ...]:
    """The findings of one check of one subject, now; ends within about ``limit`` seconds. ``anew`` is for a look that
    confirms another."""
    return await follow(resolver, check.plan(subject), limit=limit, anew=anew)
