"""The resolver: questions go out through c-ares, answers come back as values, trouble is an outcome.

c-ares keeps its own cache, in which "no such data" stays for an hour whatever the zone says, and lets what it learned
of a server's speed shorten later time-outs. Both live in a channel, so channels are short-lived here.
"""

from __future__ import annotations

import asyncio
import functools
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from typing import Any

import dns.exception
import msgspec
import pycares

from agent.dns.answer import Answer, Outcome, Question, valid_name
from agent.dns.ares import TYPES
from agent.dns.channel import AGE, Channel
from agent.dns.nameservers import host_and_port, is_address, joined, looked_up, system
from agent.dns.places import Places
from agent.dns.wire import Asked, exchange

_CHANNELS = 32  # that may still have questions under way before new ones are made less often
_BACKOFF = (0.2, 0.6)  # seconds before another attempt: c-ares itself repeats a SERVFAIL at once
_HOST_NAME = re.compile(r"[A-Za-z0-9_/*-]{1,63}(?:\.[A-Za-z0-9_/*-]{1,63})*")  # what c-ares asks for

_BY_HAND = frozenset({"CAA", "DNSKEY", "DS", "HTTPS", "RRSIG", "SPF", "SRV", "SVCB", "TLSA"})
_FINAL = (Outcome.MALFORMED, Outcome.LAME)  # asking the same server again would not help
_PER_SERVER = 4  # questions under way to one server that is asked directly
_DIRECT = 256  # and to all of them


class Resolver:
    """Asks recursive name servers.

    ``nameservers`` are ``host``, ``host:port``, ``[v6]:port`` or a bare IPv6 address; a host that is a name is looked
    up through the system. None at all means the system's own. ``timeout`` is seconds per attempt and server, ``tries``
    the number of attempts, ``concurrency`` how many questions are under way at once (more of them would make c-ares'
    time-outs lie). ``on_query`` is told the outcome and the seconds of every attempt,
    ``on_restart`` that c-ares hung and was started anew.
    """

    def __init__(
        self,
        nameservers: Sequence[str] = (),
        *,
        timeout: float = 3.0,
        tries: int = 2,
        concurrency: int = 64,
        on_query: Callable[[str, float], None] | None = None,
        on_restart: Callable[[], None] | None = None,
    ) -> None:
        self._servers = [host_and_port(text) for text in nameservers]
        self._server = nameservers[0] if len(nameservers) == 1 else ""
        # Without names among them nothing is to be looked up.
        self._numbers = self._servers if all(is_address(host) for host, _ in self._servers) else []
        self._timeout = timeout
        self._limit = timeout * max(1, len(self._servers)) * 2 + 1  # seconds, after which c-ares must have hung
        self._tries = max(1, tries)
        self._turns = Places(concurrency)
        self._direct_limit = Places(_DIRECT)
        self._places: dict[str, asyncio.Semaphore] = {}
        self._waiting: Counter[str] = Counter()
        self._avoided: frozenset[str] = frozenset()
        self._on_query, self._on_restart = on_query, on_restart
        self._channel: Channel | None = None
        self._retired: set[Channel] = set()
        self._sent: set[Asked] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    def ask(self, question: Question) -> Awaitable[Answer]:
        """The answer, whatever happens. Raises ``ValueError`` for a record type that is not known here, and for a
        ``server`` that is no IP address. What can go out at once needs no task, and is a future."""
        begin = self._way(question)
        if begin is None or not self._turns.take():
            return self._persist(question)
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        begin(question, functools.partial(self._answered, question, answered, time.monotonic()))
        return answered

    def _way(self, question: Question) -> Callable[[Question, Callable[[Answer | None], None]], None] | None:
        """How to ask it without a task, if there is a way."""
        if question.server or self._closed:
            return None
        if self._for_c_ares(question):
            channel = self._channel
            return channel.ask if channel is not None and time.monotonic() - channel.born <= AGE else None
        plain = question.type in TYPES or question.type in _BY_HAND
        return self._send if plain and self._numbers and not self._avoided and valid_name(question.name) else None

    def _send(self, question: Question, then: Callable[[Answer | None], None]) -> None:
        """Ask the first of the servers without c-ares; where it has no answer, all of them are asked in turn."""
        (host, port), *others = self._numbers

        def came(answer: Answer | None) -> None:
            self._sent.discard(asked)
            if answer is not None and (answer.outcome.definitive or not others):
                then(msgspec.structs.replace(answer, server=self._server))
            else:
                then(None)

        asked = Asked(question, host, port, seconds=self._timeout, then=came)
        self._sent.add(asked)

    def _answered(
        self, question: Question, answered: asyncio.Future[Answer], begun: float, answer: Answer | None
    ) -> None:
        self._turns.give_back()
        if answer is not None and self._on_query:
            self._on_query(answer.outcome.value, time.monotonic() - begun)
        if answered.done():
            return
        if answer is not None and self._ends(answer):
            answered.set_result(answer)
            return
        again = asyncio.get_running_loop().create_task(self._persist(question, answer, begun))
        answered.add_done_callback(lambda _: again.cancel())
        again.add_done_callback(functools.partial(_pass_on, answered))

    def _ends(self, answer: Answer) -> bool:
        return answer.outcome.definitive or answer.outcome in _FINAL or self._closed

    async def _persist(self, question: Question, answer: Answer | None = None, begun: float = 0.0) -> Answer:
        """``answer`` is that of the first attempt, where it has been made, at the time ``begun``."""
        if question.type not in TYPES and question.type not in _BY_HAND:
            raise ValueError(f"unknown record type {question.type!r}")
        if not valid_name(question.name):
            return Answer(question, Outcome.MALFORMED, server=question.server or self._server)
        made = answer is not None
        answer = answer or Answer(question, Outcome.UNREACHABLE, server=question.server or self._server)
        for attempt in range(self._tries):
            if attempt:
                await asyncio.sleep(random.uniform(*_BACKOFF))  # noqa: S311 - jitter
            if attempt or not made:
                begun = time.monotonic()
                if question.server:
                    answer = await self._timed(question, self._direct(question))
                else:
                    async with self._turns:
                        answer = await self._timed(question, self._once(question))
            if self._ends(answer):
                return answer
            if not question.server and self._channel is not None and self._channel.born <= begun:
                self.fresh()
        if answer.outcome is Outcome.SERVFAIL and not question.server:
            async with self._turns:
                return await self._validated(question, answer)
        return answer

    def fresh(self) -> None:
        """Let no question asked from now on be answered from a cache of this process. While a great many questions
        wait for slow servers, what was answered within the last second still counts as fresh."""
        channel = self._channel
        if channel is None or not channel.used:
            return
        if len(self._retired) >= _CHANNELS and time.monotonic() - channel.born <= AGE:
            return
        self._channel = None
        self._retired.add(channel)
        self._release(channel)

    async def servers(self) -> tuple[str, ...]:
        """The addresses of the name servers, as ``Question.server`` has them; those avoided too."""
        try:
            return tuple(joined(host, port) for host, port in await self._every_address())
        except OSError:
            return ()

    async def ask_one(self, question: Question, server: str) -> Answer:
        """What one of the name servers says, asked once, with recursion."""
        host, port = host_and_port(server)
        if not valid_name(question.name):
            return Answer(question, Outcome.MALFORMED, server=server)
        async with self._turns:
            if self._closed:
                return Answer(question, Outcome.UNREACHABLE, server=server)
            return await self._timed(question, exchange(question, host, port, seconds=self._timeout))

    def avoid(self, servers: Collection[str]) -> None:
        """Ask these of the name servers no more, unless there are no others."""
        if self._avoided != frozenset(servers):
            self._avoided = frozenset(servers)
            self.fresh()

    async def aclose(self) -> None:
        """Close everything; questions under way end as ``unreachable``. Safe to call twice."""
        self._closed = True
        channels = {*self._retired, *([self._channel] if self._channel else [])}
        self._channel = None
        self._retired.clear()
        for asked in list(self._sent):
            asked.close()
        await asyncio.gather(*self._closing, *(channel.close() for channel in channels))

    async def _timed(self, question: Question, asking: Coroutine[Any, Any, Answer]) -> Answer:
        begun = time.monotonic()
        answer = await asking
        if self._on_query:
            self._on_query(answer.outcome.value, time.monotonic() - begun)
        return answer

    async def _once(self, question: Question) -> Answer:
        if self._closed:
            return Answer(question, Outcome.UNREACHABLE, server=self._server)
        try:
            if self._for_c_ares(question):
                return await self._through_channel(question)
            return await self._by_hand(question)
        except TimeoutError:
            return Answer(question, Outcome.TIMEOUT, server=self._server)
        except (OSError, dns.exception.DNSException, pycares.AresError):  # no server to be had, no socket for it
            return Answer(question, Outcome.UNREACHABLE, server=self._server)

    def _for_c_ares(self, question: Question) -> bool:
        return (
            question.type in TYPES
            and not question.dnssec
            and len(question.name) <= 253
            and _HOST_NAME.fullmatch(question.name) is not None
        )

    async def _through_channel(self, question: Question) -> Answer:
        channel = self._channel
        if channel is None or time.monotonic() - channel.born > AGE:
            async with asyncio.timeout(self._limit):
                channel = await self._current()
        waiting: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        channel.ask(question, functools.partial(_give, waiting))
        return await waiting

    def _hangs(self, channel: Channel) -> None:
        if channel is self._channel:
            self.fresh()
        if self._on_restart:
            self._on_restart()

    async def _current(self) -> Channel:
        if self._channel is not None and time.monotonic() - self._channel.born > AGE:
            self.fresh()
        if self._channel is None:
            addresses = [joined(host, port) for host, port in await self._addresses()]
            # Another question may have made one while a server's name was looked up.
            self._channel = self._channel or Channel(
                addresses, self._timeout, self._limit, at_rest=self._release, hangs=self._hangs
            )
        return self._channel

    def _release(self, channel: Channel) -> None:
        if channel in self._retired and channel.resting:
            self._retired.discard(channel)
            task = asyncio.get_running_loop().create_task(channel.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _addresses(self) -> list[tuple[str, int]]:
        found = await self._every_address()
        if not self._avoided:
            return found if self._servers else []  # none: c-ares reads the system's list itself
        return [at for at in found if joined(*at) not in self._avoided] or found

    async def _usable(self) -> list[tuple[str, int]]:
        async with asyncio.timeout(self._limit):
            return await self._addresses() or system()

    async def _every_address(self) -> list[tuple[str, int]]:
        return await looked_up(self._servers) if self._servers else system()

    async def _by_hand(self, question: Question, *, unchecked: bool = False) -> Answer:
        """Ask without c-ares, which refuses to ask for some names (SPF's macros make ``user+tag.example.com``), knows
        few types and hides every flag. The servers are asked in turn until one has an answer."""
        answer = Answer(question, Outcome.UNREACHABLE, server=self._server)
        for host, port in await self._usable() if self._avoided or not self._numbers else self._numbers:
            got = await exchange(question, host, port, seconds=self._timeout, unchecked=unchecked)
            answer = msgspec.structs.replace(got, server=self._server)
            if answer.outcome.definitive:
                break
        return answer

    async def _validated(self, question: Question, answer: Answer) -> Answer:
        """What a SERVFAIL means: ``bogus`` if there is an answer as soon as validation is switched off, and still
        none with it (RFC 4035 section 5.5)."""
        unchecked = await self._timed(question, self._by_hand(question, unchecked=True))
        if not unchecked.outcome.definitive:
            return answer
        again = await self._timed(question, self._by_hand(question))
        if again.outcome is not Outcome.SERVFAIL:
            return again
        return msgspec.structs.replace(answer, outcome=Outcome.BOGUS, signed=unchecked.signed, at=unchecked.at)

    async def _direct(self, question: Question) -> Answer:
        """Ask the question's own server. Each has places of its own, so that a slow one keeps nobody else waiting."""
        host, port = host_and_port(question.server)
        if not is_address(host):
            raise ValueError(f"{question.server!r} is no IP address")
        place = self._places.setdefault(question.server, asyncio.Semaphore(_PER_SERVER))
        self._waiting[question.server] += 1
        try:
            async with place, self._direct_limit:
                if self._closed:
                    return Answer(question, Outcome.UNREACHABLE, server=question.server)
                return await exchange(question, host, port, seconds=self._timeout, recurse=False)
        finally:
            self._waiting[question.server] -= 1
            if not self._waiting[question.server]:
                del self._waiting[question.server], self._places[question.server]


def _give(waiting: asyncio.Future[Answer], answer: Answer) -> None:
    if not waiting.done():
        waiting.set_result(answer)


def _pass_on(to: asyncio.Future[Answer], task: asyncio.Task[Answer]) -> None:
    if to.done():
        return
    if task.cancelled():
        to.cancel()
    elif (error := task.exception()) is not None:
        to.set_exception(error)
    else:
        to.set_result(task.result())
