"""Answers that many domains need, asked for once per TTL; and no more questions than resolvers and zones can bear."""

from __future__ import annotations

import asyncio
import functools
from collections import OrderedDict
from collections.abc import Callable

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

Then = Callable[[Question, Answer | BaseException | None], None]  # told what came of a question; None: given up


class SharedAnswers:
    """``rate`` is questions a second in all; about one registered domain there is a tenth of it. What fails is not
    kept, but a question that is under way is not asked a second time."""

    def __init__(self, resolver: Resolver, *, rate: float = 500.0) -> None:
        self._resolver = resolver
        self._rate, self._zone_rate = rate, rate / 10
        self._kept: OrderedDict[Question, tuple[float, Answer]] = OrderedDict()
        self._asking: dict[Question, list[Then]] = {}
        self._under_way: set[asyncio.Future[Answer]] = set()
        self._due = 0.0
        self._zone_due: dict[str, float] = {}
        self.hits = 0

    def ask(self, question: Question, *, domain: str) -> asyncio.Future[Answer]:
        """The answer, as ``tell`` gives it."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if answer := self.tell(question, functools.partial(_settle, future), domain=domain):
            future.set_result(answer)
        return future

    def tell(self, question: Question, then: Then, *, domain: str) -> Answer | None:
        """The answer, for a check of ``domain``: its own names and servers asked directly are always asked anew, an
        answer for any other name serves every domain until its TTL has run out, which ``ttl`` counts down. ``None``
        when it is not known yet: then ``then`` is told, in a later turn of the loop."""
        name = question.name
        own = name.endswith(domain) and (len(name) == len(domain) or name[-len(domain) - 1] == ".")
        sharable = not own and not question.server
        if sharable and (kept := self._kept.get(question)):
            until, answer = kept
            if (now := asyncio.get_running_loop().time()) < until:
                self.hits += 1
                self._kept.move_to_end(question)
                return msgspec.structs.replace(answer, ttl=max(1, int(until - now)))
            del self._kept[question]
        if (waiting := self._asking.get(question)) is not None:
            self.hits += 1
            waiting.append(then)
            return None
        self._asking[question] = [then]
        if (delay := self._delay(_registered(domain if own else name))) > 0:
            asyncio.get_running_loop().call_later(delay, self._begin, question, sharable)
        else:
            self._begin(question, sharable)
        return None

    def _begin(self, question: Question, sharable: bool) -> None:
        asking = self._resolver.ask(question)
        asked = asking if isinstance(asking, asyncio.Future) else asyncio.ensure_future(asking)
        self._under_way.add(asked)
        asked.add_done_callback(functools.partial(self._came, question, sharable))

    def _came(self, question: Question, sharable: bool, asked: asyncio.Future[Answer]) -> None:
        self._under_way.discard(asked)
        got: Answer | BaseException | None
        if asked.cancelled():
            got = None
        elif (got := asked.exception()) is None:
            got = asked.result()
            if sharable:
                self._keep(question, got)
        for then in self._asking.pop(question):
            then(question, got)

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


def _registered(name: str) -> str:
    return registered_domain(name) or name


class DomainAnswers:
    """Stands in for the resolver while one domain is looked at, by all checks that look at it together: what one of
    them was told serves the others. ``born`` is when this began, on the loop's clock, ``known`` what it has learnt."""

    def __init__(self, shared: SharedAnswers, domain: str, *, born: float = 0.0) -> None:
        self._shared, self._domain = shared, domain
        self.born = born
        self.known: dict[Question, Answer] = {}
        self._waiting: dict[Question, list[Then]] = {}

    def fresh(self) -> None:
        """The resolver's channels are given up within a second, and so is this: nothing is older than that."""

    def ask(self, question: Question) -> asyncio.Future[Answer]:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if answer := self.tell(question, functools.partial(_settle, future)):
            future.set_result(answer)
        return future

    def tell(self, question: Question, then: Then) -> Answer | None:
        """The answer; ``None`` when it is not known yet: then ``then`` is told, in a later turn of the loop."""
        if (answer := self.known.get(question)) is not None:
            return answer
        if (waiting := self._waiting.get(question)) is not None:
            waiting.append(then)
            return None
        self._waiting[question] = waiting = [then]
        answer = self._shared.tell(question, self._came, domain=self._domain)
        if answer is not None:
            del self._waiting[question]
            self.known[question] = answer  # what is kept was definitive
        return answer

    def _came(self, question: Question, got: Answer | BaseException | None) -> None:
        if isinstance(got, Answer) and got.outcome.definitive:
            self.known[question] = got
        for then in self._waiting.pop(question):
            then(question, got)


def _settle(future: asyncio.Future[Answer], _: Question, got: Answer | BaseException | None) -> None:
    if future.done():
        return
    if isinstance(got, Answer):
        future.set_result(got)
    elif got is None:
        future.cancel()
    else:
        future.set_exception(got)
