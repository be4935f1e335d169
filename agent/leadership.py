"""Which of several agents on one store does what must be done once: DNS watch, verdicts, incidents, alerts.

The store decides (``Ledger.lead``). A leader believes in its lease by its own clock only, from before it asked until
``seconds`` later: an agent that was stopped for a while finds its lease lapsed before it does anything. What it still
writes after that is refused by the store, which knows the newer epoch. An Alertmanager knows no epochs: what is sent
there leaves within the lease or not at all (``remaining``), so that the next leader is the only one that speaks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from agent.ledger.base import Ledger, StoreUnavailable

LEASE = 6.0  # seconds
EVERY = 2.0  # seconds between two times of asking: a dead leader is followed within the sum of both

Duty = Callable[[int], Coroutine[Any, Any, None]]
"""What the leader of an epoch does."""

log = structlog.get_logger()


class Leadership:
    """This process among those that share ``ledger``. ``holder`` names it. ``clock`` is monotonic, and goes on while
    the machine sleeps."""

    def __init__(
        self,
        ledger: Ledger,
        holder: str,
        *,
        lease: float = LEASE,
        every: float = EVERY,
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self.leader = ""
        """Who leads, as last heard."""
        self._ledger, self._holder = ledger, holder
        self._lease, self._every, self._clock = lease, every, clock
        self._until = float("-inf")
        self._epoch = 0

    @property
    def epoch(self) -> int:
        """Above 0 while this process leads; it grows with every change of the leader."""
        return self._epoch if self.remaining else 0

    @property
    def remaining(self) -> float:
        """Seconds for which this process leads, if it is not told otherwise; 0 when it does not."""
        return max(0.0, self._until - self._clock())

    def lost(self) -> None:
        """The store said that another process leads."""
        self._until = float("-inf")

    async def ask(self) -> bool:
        """Ask the store once. Returns whether this process leads. Raises nothing."""
        asked = self._clock()
        try:
            async with asyncio.timeout(self._lease):
                found = await self._ledger.lead(self._holder, self._lease)
        except (StoreUnavailable, TimeoutError):
            return self.epoch > 0
        if found.holder != self.leader:
            log.info("leadership.changed", leader=found.holder, epoch=found.epoch, own=found.holder == self._holder)
        self.leader = found.holder
        if found.holder == self._holder:
            self._epoch, self._until = found.epoch, asked + self._lease
        else:
            self.lost()
        return self.epoch > 0

    async def run(self, duty: Duty) -> None:
        """Ask for ever, and have ``duty`` run while this process leads. ``duty`` is cancelled at the end of an epoch
        and begun anew in the next; a store that fails it has it tried again."""
        task: asyncio.Task[None] | None = None
        epoch = 0
        try:
            while True:
                asked = self._clock()
                await self.ask()
                if task is not None and (self.epoch != epoch or task.done()):
                    await _ended(task)
                    task = None
                if task is None and self.epoch:
                    epoch = self.epoch
                    task = asyncio.create_task(duty(epoch), name="leading")
                # A slow answer has used up some of the lease.
                pause = max(0.0, asked + self._every - self._clock())
                if task is None:
                    await asyncio.sleep(pause)
                else:
                    await asyncio.wait((task,), timeout=pause)
        finally:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def resign(self) -> None:
        """Let another process lead at once."""
        if self.epoch:
            self.lost()
            try:
                await self._ledger.lead(self._holder, 0.0)
            except StoreUnavailable as e:
                log.warning("leadership.not_resigned", error=str(e))


async def _ended(task: asyncio.Task[None]) -> None:
    """Raises what ``task`` raised, unless that was the store's fault or the cancelling."""
    task.cancel()
    await asyncio.wait((task,))
    if task.cancelled() or (error := task.exception()) is None:
        return
    if not isinstance(error, StoreUnavailable):
        raise error
    log.error("leadership.interrupted", error=str(error))
