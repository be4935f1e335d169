"""When each thing is due: one queue for all of them, so that ten thousand domains are not as many tasks."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K")


class Schedule(Generic[K]):
    """Does ``work`` for every key when it is due, at most ``most`` at once; ``work`` returns the seconds until the next
    time."""

    def __init__(self, work: Callable[[K], Awaitable[float]], *, most: int = 64) -> None:
        self._work = work
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
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                while self._queue and self._queue[0][0] <= now() and self._working < self._most:
                    _, _, key = heapq.heappop(self._queue)
                    self._working += 1
                    group.create_task(self._do(key))
                waiting = self._queue and self._working < self._most
                try:
                    async with asyncio.timeout_at(self._queue[0][0] if waiting else None):
                        await self._changed.wait()
                except TimeoutError:
                    continue

    def late(self) -> float:
        """Seconds by which the next key in turn is overdue; 0 when nothing is."""
        return max(0.0, asyncio.get_running_loop().time() - self._queue[0][0]) if self._queue else 0.0

    async def _do(self, key: K) -> None:
        try:
            delay = await self._work(key)
        finally:
            self._working -= 1
        heapq.heappush(self._queue, (asyncio.get_running_loop().time() + delay, next(self._order), key))
        self._changed.set()
