"""Answers that many domains need, asked for once per TTL; and no more questions than resolvers and zones can bear."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from functools import lru_cache

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
        self._asking: dict[Question, tuple[asyncio.Task[None], list[asyncio.Future[Answer]]]] = {}
        self._due = 0.0
        self._zone_due: dict[str, float] = {}
        self.hits = 0

    def ask(self, question: Question, *, domain: str) -> asyncio.Future[Answer]:
        """The answer, for a check of ``domain``: its own names and servers asked directly are always asked anew, an
        answer for any other name serves every domain until its TTL has run out, which ``ttl`` counts down."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        name = question.name
        own = name.endswith(domain) and (len(name) == len(domain) or name[-len(domain) - 1] == ".")
        sharable = not own and not question.server
        if sharable and (kept := self._kept.get(question)):
            until, answer = kept
            if (now := loop.time()) < until:
                self.hits += 1
                self._kept.move_to_end(question)
                future.set_result(msgspec.structs.replace(answer, ttl=max(1, int(until - now))))
                return future
            del self._kept[question]
        if under_way := self._asking.get(question):
            self.hits += 1
            under_way[1].append(future)
        else:
            # One that waits no longer takes the answer from nobody: each has a future of its own.
            task = asyncio.create_task(self._ask(question, domain if own else name, sharable))
            self._asking[question] = (task, [future])
        return future

    async def _ask(self, question: Question, zone: str, sharable: bool) -> None:
        try:
            if (delay := self._delay(_registered(zone))) > 0:
                await asyncio.sleep(delay)
            answer = await self._resolver.ask(question)
        except BaseException as error:
            for future in self._asking.pop(question)[1]:
                if future.done():
                    continue
                if isinstance(error, Exception):
                    future.set_exception(error)
                else:
                    future.cancel()
            if not isinstance(error, Exception):
                raise
            return
        if sharable:
            self._keep(question, answer)
        for future in self._asking.pop(question)[1]:
            if not future.done():
                future.set_result(answer)

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

    def _delay(self, zone: str) -> float:
        """Seconds until the next question about a zone may go out."""
        now = asyncio.get_running_loop().time()
        self._due = max(self._due, now) + 1 / self._rate
        zone_due = max(self._zone_due.get(zone, 0.0), now) + 1 / self._zone_rate
        if len(self._zone_due) >= _ZONES:
            self._zone_due = {z: due for z, due in self._zone_due.items() if due > now}
        self._zone_due[zone] = zone_due
        return max(self._due, zone_due) - now - _BURST


@lru_cache(_ZONES)
def _registered(name: str) -> str:
    return registered_domain(name) or name


class DomainAnswers:
    """Stands in for the resolver while one domain is looked at, by all checks that look at it together: what one of
    them was told serves the others. ``born`` is when this began, on the loop's clock, ``known`` what it has learnt."""

    def __init__(self, shared: SharedAnswers, domain: str, *, born: float = 0.0) -> None:
        self._shared, self._domain = shared, domain
        self.born = born
        self.known: dict[Question, Answer] = {}

    def fresh(self) -> None:
        """The resolver's channels are given up within a second, and so is this: nothing is older than that."""

    def ask(self, question: Question) -> asyncio.Future[Answer]:
        future = self._shared.ask(question, domain=self._domain)
        future.add_done_callback(self._remember)
        return future

    def _remember(self, future: asyncio.Future[Answer]) -> None:
        if not future.cancelled() and future.exception() is None:
            answer = future.result()
            if answer.outcome.definitive:
                self.known[answer.question] = answer
