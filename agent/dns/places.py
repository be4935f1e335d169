"""A semaphore for a great many who wait."""

from __future__ import annotations

import asyncio
from collections import deque


class Places:
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
        """Leave a place that was taken."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
