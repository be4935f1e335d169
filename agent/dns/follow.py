"""How plans meet the live DNS, and the Web."""

from __future__ import annotations

import asyncio
import contextlib
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
    now = asyncio.get_running_loop().time
    end = now() + limit
    try:
        questions = next(plan)
        while True:
            answers = tuple(Answer(q, Outcome.TIMEOUT) for q in questions)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, end - now())):
                    answers = tuple(await asyncio.gather(*map(ask, questions)))
            questions = plan.send(answers)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        plan.close()


async def run_check(
    resolver: Asks, check: Check, subject: Subject, *, limit: float = CHECK_LIMIT, anew: bool = False
) -> tuple[Finding, ...]:
    """The findings of one check of one subject, now; ends within about ``limit`` seconds. ``anew`` is for a look that
    confirms another."""
    return await follow(resolver, check.plan(subject), limit=limit, anew=anew)
