"""The resolver: questions go out through c-ares, answers come back as values, trouble is an outcome.

c-ares keeps its own cache, in which "no such data" stays for an hour whatever the zone says, and lets what it learned
of a server's speed shorten later time-outs. Both live in a channel, so channels are short-lived here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import re
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from ipaddress import ip_address
from typing import Any

import aiodns
import dns.exception
import dns.resolver
import msgspec
import pycares

from agent.dns.answer import Answer, Outcome, Question, valid_name
from agent.dns.ares import OUTCOMES, TYPES, read
from agent.dns.wire import exchange

_CHANNEL_AGE = 1.0  # seconds; the longest that anything can come out of c-ares' cache
_CHANNELS = 32  # that may still have questions under way before new ones are made less often
_HUNG = 8  # channels, each of them a thread, after which c-ares is given up until one of them comes back
_BACKOFF = (0.2, 0.6)  # seconds before another attempt: c-ares itself repeats a SERVFAIL at once
_HOST_NAME = re.compile(r"[A-Za-z0-9_./*-]+")  # what c-ares asks for

_BY_HAND = frozenset({"CAA", "DNSKEY", "DS", "HTTPS", "RRSIG", "SPF", "SRV", "SVCB", "TLSA"})
_FINAL = (Outcome.MALFORMED, Outcome.LAME)  # asking the same server again would not help
_PER_SERVER = 4  # questions under way to one server that is asked directly
_DIRECT = 256  # and to all of them


_Then = Callable[[Answer | None], None]  # told the answer, or that c-ares hangs


class _Channel:
    """One c-ares channel, closed when it is retired and the last question on it is answered. It must not hang who asks:
    c-ares gives up by itself well before ``limit`` seconds after the last question."""

    def __init__(self, nameservers: Sequence[str], timeout: float, limit: float) -> None:
        self.dns = aiodns.DNSResolver(nameservers=list(nameservers) or None, timeout=timeout, tries=1)
        self.born = time.monotonic()
        self.in_flight = 0
        self.waiting: dict[asyncio.Future[pycares.DNSResult], tuple[Question, _Then]] = {}
        self.used = False
        self._end = asyncio.get_running_loop().call_later(_CHANNEL_AGE + limit, self._give_up)

    def _give_up(self) -> None:
        waiting, self.waiting = self.waiting, {}
        for _, then in waiting.values():
            then(None)

    async def close(self) -> None:
        self._end.cancel()
        await self.dns.close()


class _Places:
    """A semaphore whose cost does not grow with those who wait: a place that is given back goes to the next."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """A place without waiting, if there is one: to be given back."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def __aenter__(self) -> None:
        if self.take():
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.give_back()
            raise

    async def __aexit__(self, *_: object) -> None:
        self.give_back()

    def give_back(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


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
        self._servers = [_host_and_port(text) for text in nameservers]
        self._server = nameservers[0] if len(nameservers) == 1 else ""
        # Without names among them nothing is to be looked up.
        self._numbers = self._servers if all(_is_address(host) for host, _ in self._servers) else []
        self._timeout = timeout
        self._limit = timeout * max(1, len(self._servers)) * 2 + 1  # seconds, after which c-ares must have hung
        self._tries = max(1, tries)
        self._turns = _Places(concurrency)
        self._direct_limit = _Places(_DIRECT)
        self._places: dict[str, asyncio.Semaphore] = {}
        self._waiting: Counter[str] = Counter()
        self._avoided: frozenset[str] = frozenset()
        self._on_query, self._on_restart = on_query, on_restart
        self._channel: _Channel | None = None
        self._retired: set[_Channel] = set()
        self._hung: set[_Channel] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    def ask(self, question: Question) -> Awaitable[Answer]:
        """The answer, whatever happens. Raises ``ValueError`` for a record type that is not known here, and for a
        ``server`` that is no IP address. What can go to c-ares at once needs no task, and is a future."""
        channel = self._channel
        if (
            channel is None
            or question.server
            or not self._for_c_ares(question)
            or time.monotonic() - channel.born > _CHANNEL_AGE
            or self._closed
            or not self._turns.take()
        ):
            return self._persist(question)
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        then = functools.partial(self._answered, channel, question, answered, time.monotonic())
        try:
            self._begin(channel, question, then)
        except BaseException:
            self._turns.give_back()
            raise
        return answered

    def _answered(
        self,
        channel: _Channel,
        question: Question,
        answered: asyncio.Future[Answer],
        begun: float,
        answer: Answer | None,
    ) -> None:
        self._turns.give_back()
        if answer is None:
            self._hangs(channel)
            answer = Answer(question, Outcome.TIMEOUT, server=self._server)
        if self._on_query:
            self._on_query(answer.outcome.value, time.monotonic() - begun)
        if answered.done():
            return
        if self._ends(answer):
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
        if len(self._retired) >= _CHANNELS and time.monotonic() - channel.born <= _CHANNEL_AGE:
            return
        self._channel = None
        self._retired.add(channel)
        self._release(channel)

    async def servers(self) -> tuple[str, ...]:
        """The addresses of the name servers, as ``Question.server`` has them; those avoided too."""
        try:
            return tuple(_joined(host, port) for host, port in await self._every_address())
        except OSError:
            return ()

    async def ask_one(self, question: Question, server: str) -> Answer:
        """What one of the name servers says, asked once, with recursion."""
        host, port = _host_and_port(server)
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
        channels = {*self._retired, *([self._channel] if self._channel else [])} - self._hung
        self._channel = None
        self._retired.clear()
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
        able = question.type in TYPES and not question.dnssec and len(self._hung) < _HUNG
        return able and _HOST_NAME.fullmatch(question.name) is not None and valid_name(question.name)

    async def _through_channel(self, question: Question) -> Answer:
        channel = self._channel
        if channel is None or time.monotonic() - channel.born > _CHANNEL_AGE:
            async with asyncio.timeout(self._limit):
                channel = await self._current()
        waiting: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()

        def then(answer: Answer | None) -> None:
            if not waiting.done():
                waiting.set_result(answer)

        self._begin(channel, question, then)
        answer = await waiting
        if answer is None:
            self._hangs(channel)
            return Answer(question, Outcome.TIMEOUT, server=self._server)
        return answer

    def _begin(self, channel: _Channel, question: Question, then: _Then) -> None:
        try:
            asked = channel.dns.query_dns(question.name, question.type)
        except RuntimeError:  # the channel was closed meanwhile
            closed = Answer(question, Outcome.UNREACHABLE, server=self._server)
            asyncio.get_running_loop().call_soon(then, closed)
            return
        channel.in_flight += 1
        channel.used = True
        # Who waits no longer does not end it: a channel is at rest when c-ares says so.
        channel.waiting[asked] = question, then
        asked.add_done_callback(functools.partial(self._ended, channel))

    def _ended(self, channel: _Channel, asked: asyncio.Future[pycares.DNSResult]) -> None:
        channel.in_flight -= 1
        error = asyncio.CancelledError() if asked.cancelled() else asked.exception()
        if waits := channel.waiting.pop(asked, None):
            question, then = waits
            if error is None:
                then(read(question, asked.result(), self._server))
            else:
                number = error.args[0] if isinstance(error, aiodns.error.DNSError) and error.args else None
                then(Answer(question, OUTCOMES.get(number, Outcome.UNREACHABLE), server=self._server))
        if not channel.in_flight:
            self._hung.discard(channel)
            self._release(channel)

    def _hangs(self, channel: _Channel) -> None:
        """Go on without a channel that hangs. It is not closed before its questions end, since to close it c-ares
        would wait for it, and with it for ever all that are to be closed later."""
        self._hung.add(channel)
        self.fresh()
        if self._on_restart:
            self._on_restart()

    async def _current(self) -> _Channel:
        if self._channel is not None and time.monotonic() - self._channel.born > _CHANNEL_AGE:
            self.fresh()
        if self._channel is None:
            addresses = [_joined(host, port) for host, port in await self._addresses()]
            # Another question may have made one while a server's name was looked up.
            self._channel = self._channel or _Channel(addresses, self._timeout, self._limit)
        return self._channel

    def _release(self, channel: _Channel) -> None:
        if channel in self._retired and not channel.in_flight:
            self._retired.discard(channel)
            task = asyncio.get_running_loop().create_task(channel.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _addresses(self) -> list[tuple[str, int]]:
        found = await self._every_address()
        if not self._avoided:
            return found if self._servers else []  # none: c-ares reads the system's list itself
        return [at for at in found if _joined(*at) not in self._avoided] or found

    async def _looked_up(self) -> list[tuple[str, int]]:
        async with asyncio.timeout(self._limit):
            return await self._addresses() or _system()

    async def _every_address(self) -> list[tuple[str, int]]:
        if not self._servers:
            return _system()
        found: list[tuple[str, int]] = []
        for host, port in self._servers:
            if _is_address(host):
                found.append((host, port))
            else:
                infos = await asyncio.get_running_loop().getaddrinfo(host, port)
                found += [(str(info[4][0]), port) for info in infos[:1]]
        return found

    async def _by_hand(self, question: Question, *, unchecked: bool = False) -> Answer:
        """Ask without c-ares, which refuses to ask for some names (SPF's macros make ``user+tag.example.com``), knows
        few types and hides every flag. The servers are asked in turn until one has an answer."""
        answer = Answer(question, Outcome.UNREACHABLE, server=self._server)
        for host, port in await self._looked_up() if self._avoided or not self._numbers else self._numbers:
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
        host, port = _host_and_port(question.server)
        if not _is_address(host):
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


def _pass_on(to: asyncio.Future[Answer], task: asyncio.Task[Answer]) -> None:
    if to.done():
        return
    if task.cancelled():
        to.cancel()
    elif (error := task.exception()) is not None:
        to.set_exception(error)
    else:
        to.set_result(task.result())


def _system() -> list[tuple[str, int]]:
    return [(str(server), 53) for server in dns.resolver.Resolver().nameservers if _is_address(str(server))]


def _is_address(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ip_address(host))
    return False


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _host_and_port(text: str) -> tuple[str, int]:
    """Raises ``ValueError`` when the text is no ``host``, ``host:port``, ``[v6]:port`` or IPv6 address."""
    if _is_address(text):
        return text, 53
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, "53"
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    valid = _is_address(host) if bracketed else valid_name(host) and ":" not in host
    if not (valid and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r} is no name server: give host, host:port or [IPv6 address]:port")
    return host, int(port)
