"""c-ares on the thread of the event loop: a question goes out, and whoever waits is told the answer.

aiodns would give every channel a thread of its own, which has to wrest the interpreter from the loop for each answer;
its other way, for systems that do not allow such threads, has the loop watch the sockets of c-ares.
"""

from __future__ import annotations

import asyncio
import functools
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import aiodns
import pycares

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.ares import OUTCOMES, TYPES, read

AGE = 1.0  # seconds; the longest that anything can come out of c-ares' cache
_TOGETHER = 16  # answers told before the loop has its turn

Then = Callable[[Answer], None]
_Came = Callable[[pycares.DNSResult | None, int | None], None]


class _OnLoop(aiodns.DNSResolver):
    def _make_channel(self, **options: Any) -> tuple[bool, pycares.Channel]:
        weak = weakref.ref(self)

        def changed(fd: int, readable: bool, writable: bool) -> None:
            if (this := weak()) is not None:
                this._sock_state_cb(fd, readable, writable)

        return False, pycares.Channel(sock_state_cb=changed, timeout=self._timeout, **options)

    def begin(self, name: str, type_: int, came: _Came) -> None:
        """Ask without a future; ``came`` may be called before this returns, and in the middle of c-ares' work."""
        self._channel.query(name, type_, callback=came)


class Channel:
    """Asks ``nameservers``, or the system's where there are none. ``timeout`` is seconds for each of them. c-ares gives
    up by itself well before ``limit`` seconds after a question; what it still holds that long after ``AGE`` is given up
    for it as a time-out, and ``hangs`` is told. ``at_rest`` is told whenever the last question under way has been
    answered."""

    def __init__(
        self,
        nameservers: Sequence[str],
        timeout: float,
        limit: float,
        *,
        at_rest: Callable[[Channel], None],
        hangs: Callable[[Channel], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._dns = _OnLoop(nameservers=list(nameservers) or None, timeout=timeout, tries=1)
        self._server = nameservers[0] if len(nameservers) == 1 else ""
        self._at_rest, self._hangs = at_rest, hangs
        self.born = time.monotonic()
        self.used = False
        self._number = 0
        self._waiting: dict[int, tuple[Question, Then]] = {}
        self._arrived: deque[tuple[Question, Then, pycares.DNSResult | None, int | None]] = deque()
        self._end = self._loop.call_later(AGE + limit, self._give_up)

    @property
    def resting(self) -> bool:
        """Whether no question is under way."""
        return not self._waiting and not self._arrived

    def ask(self, question: Question, then: Then) -> None:
        """``then`` is told in a later turn of the loop, whatever happens."""
        self.used = True
        self._number = number = self._number + 1
        self._waiting[number] = question, then
        try:
            self._dns.begin(question.name, TYPES[question.type], functools.partial(self._came, number))
        except (pycares.AresError, RuntimeError) as error:  # c-ares refuses, or was closed meanwhile
            code = error.args[0] if isinstance(error, pycares.AresError) and error.args else 0
            self._came(number, None, code)

    def _came(self, number: int, result: pycares.DNSResult | None, error: int | None) -> None:
        if (waits := self._waiting.pop(number, None)) is None:
            return
        if not self._arrived:
            self._loop.call_soon(self._tell)
        self._arrived.append((*waits, result, error))

    def _tell(self) -> None:
        for _ in range(min(_TOGETHER, len(self._arrived))):
            question, then, result, error = self._arrived.popleft()
            if result is not None and error is None:
                then(read(question, result, self._server))
            else:
                then(Answer(question, OUTCOMES.get(error, Outcome.UNREACHABLE), server=self._server))
        if self._arrived:
            self._loop.call_soon(self._tell)
        elif not self._waiting:
            self._at_rest(self)

    def _give_up(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, {}
        self._hangs(self)
        for question, then in waiting.values():
            then(Answer(question, Outcome.TIMEOUT, server=self._server))
        if not self._arrived:
            self._at_rest(self)

    async def close(self) -> None:
        """Questions under way end as ``unreachable``."""
        self._end.cancel()
        await self._dns.close()
