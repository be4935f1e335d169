"""Answers that many domains need, asked for once per TTL; and no more questions than resolvers and zones can bear."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import msgspec

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.resolver import Resolver
from agent.suffix import registered_domain

_ANSWERS = 50_000  # kept at most
_RECORDS = 20_000  # characters of one answer; a larger one is not kept
_NEGATIVE = 900.0  # seconds that a negative answer is kept at most, whatever its zone says
_POSITIVE = 86_400.0  # and any other
_ZONES = 4096  # that are paced at once before those at rest are forgotten
_BURST = 1.0  # seconds' worth of questions that may go at once


class SharedAnswers:
    """``rate`` is questions a second in all; about one registered domain there is a tenth of it. What fails is not
    kept, but a question that is under way is not asked a second time."""

    def __init__(self, resolver: Resolver, *, rate: float = 500.0) -> None:
        self._resolver = resolver
        self._rate, self._zone_rate = rate, rate / 10
        self._kept: OrderedDict[Question, tuple[float, Answer]] = OrderedDict()
        self._asking: dict[Question, asyncio.Task[Answer]] = {}
        self._due = 0.0
        self._zone_due: dict[str, float] = {}
        self.hits = 0

    async def ask(self, question: Question, *, domain: str) -> Answer:
        """The answer, for a check of ``domain``: its own names and servers asked directly are always asked anew, an
        answer for any other name serves every domain until its TTL has run out, which ``ttl`` counts down."""
        now = asyncio.get_running_loop().time()
        sharable = not question.server and question.name != domain and not question.name.endswith("." + domain)
        if sharable and (kept := self._kept.get(question)):
            until, answer = kept
            if now < until:
                self.hits += 1
                self._kept.move_to_end(question)
                return msgspec.structs.replace(answer, ttl=max(1, int(until - now)))
            del self._kept[question]
        task = self._asking.get(question)
        if task is None:
            task = self._asking[question] = asyncio.create_task(self._paced(question))
            task.add_done_callback(lambda _: self._asking.pop(question, None))
        else:
            self.hits += 1
        # One that waits no longer must not take the answer from the others.
        answer = await asyncio.shield(task)
        if sharable:
            self._keep(question, answer)
        return answer

    def _keep(self, question: Question, answer: Answer) -> None:
        limit = _POSITIVE if answer.outcome is Outcome.ANSWER else _NEGATIVE
        ttl = min(float(answer.ttl), limit)
        if not answer.outcome.definitive or ttl <= 0 or sum(map(len, answer.records)) > _RECORDS:
            return
        until = asyncio.get_running_loop().time() + ttl
        if question in self._kept and self._kept[question][0] <= until:
            return  # an answer that several waited for is kept from when it came
        self._kept[question] = (until, answer)
        if len(self._kept) > _ANSWERS:
            self._kept.popitem(last=False)

    async def _paced(self, question: Question) -> Answer:
        now = asyncio.get_running_loop().time()
        zone = registered_domain(question.name) or question.name
        self._due = max(self._due, now) + 1 / self._rate
        zone_due = max(self._zone_due.get(zone, 0.0), now) + 1 / self._zone_rate
        if len(self._zone_due) >= _ZONES:
            self._zone_due = {z: due for z, due in self._zone_due.items() if due > now}
        self._zone_due[zone] = zone_due
        delay = max(self._due, zone_due) - now - _BURST
        if delay > 0:
            await asyncio.sleep(delay)
        return await self._resolver.ask(question)


class DomainAnswers:
    """Stands in for the resolver while one domain is looked at."""

    def __init__(self, shared: SharedAnswers, domain: str) -> None:
        self._shared, self._domain = shared, domain

    def fresh(self) -> None:
        """The resolver's channels are given up within a second: nothing is older than that."""

    async def ask(self, question: Question) -> Answer:
        return await self._shared.ask(question, domain=self._domain)
