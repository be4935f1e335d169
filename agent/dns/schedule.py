"""When each thing is due: one queue for all of them, so that ten thousand domains are not as many tasks."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K")

_TOGETHER = 0.005  # seconds within which what is due counts as due at once


class Schedule(Generic[K]):
    """Has every key begun when it is due, at most ``most`` at once. ``begin`` is given those that are due together, and
    sees to it that ``again`` is called for each of them when its work is done."""

    def __init__(self, begin: Callable[[list[K]], None], *, most: int = 64) -> None:
        self._begin = begin
        self._most = most
        self._queue: list[tuple[float, int, K]] = []
        self._order = itertools.count()
        self._working = 0
        self._changed = asyncio.Event()

    async def run(self, keys: Iterable[tuple[float, K]]) -> None:
        """Work until cancelled. ``keys`` come with the seconds until their first time."""
        now = asyncio.get_running_loop().time
        for delay, key in keys:
            heapq.heappush(self._queue, (now() + delay, next(self._order), key))
        while True:
            self._changed.clear()
            due: list[K] = []
            while self._queue and self._queue[0][0] <= now() + _TOGETHER and self._working < self._most:
                due.append(heapq.heappop(self._queue)[2])
                self._working += 1
            if due:
                self._begin(due)
                await asyncio.sleep(0)
            waiting = self._queue and self._working < self._most
            try:
                async with asyncio.timeout_at(self._queue[0][0] if waiting else None):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def again(self, key: K, delay: float) -> None:
        """A key that was begun is done, and is due again in ``delay`` seconds."""
        self._working -= 1
        heapq.heappush(self._queue, (asyncio.get_running_loop().time() + delay, next(self._order), key))
        self._changed.set()

    def late(self) -> float:
        """Seconds by which the next key in turn is overdue; 0 when nothing is."""
        return max(0.0, asyncio.get_running_loop().time() - self._queue[0][0]) if self._queue else 0.0
