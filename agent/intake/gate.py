"""The gate between requests and the ledger: a bounded queue whose waiting entries share one commit.

While one commit runs the next one gathers, so its size follows the load and the speed of the disk by itself. Whoever
waits at ``submit`` is answered after the commit that holds its events.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from agent.ledger.base import Applied, Batch, Ledger, StoreUnavailable

# What one transaction holds at most: large enough for throughput, small enough for the shortest webhook time-out (3 s).
COMMIT_EVENTS = 16_384
# What may wait; beyond it senders are told to come back. At most about 100 MB of events.
QUEUE_EVENTS = 100_000

log = structlog.get_logger()


class Overloaded(Exception):
    """The queue is full; the sender should come back."""


class GateMetrics(Protocol):
    """What the gate reports of itself."""

    def commit(self, seconds: float, events: int) -> None:
        """One durable transaction."""

    def queue_depth(self, events: int) -> None:
        """Events waiting for their commit."""


_Waiting = tuple[Batch, "asyncio.Future[Applied]"]


class Gate:
    """Group commit in front of a ledger. ``run`` must be running for ``submit`` to return."""

    def __init__(
        self, ledger: Ledger, metrics: GateMetrics, *, clock: Callable[[], float] = time.time,
        queue_events: int = QUEUE_EVENTS,
    ) -> None:  # fmt: skip
        self._ledger = ledger
        self._metrics = metrics
        self._clock = clock
        self._queue_events = queue_events
        self._waiting: list[_Waiting] = []
        self._events = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._failing = False

    async def submit(self, batch: Batch) -> Applied:
        """Count a batch. Returns after its commit. Raises ``Overloaded``, or ``StoreUnavailable`` when nothing of it
        was counted."""
        size = len(batch.events) + 1  # Empty batches take room too.
        if self._closing or (self._events + size > self._queue_events and self._waiting):
            raise Overloaded
        future: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
        self._waiting.append((batch, future))
        self._events += size
        self._wake.set()
        return await future

    async def run(self) -> None:
        """Commit what waits, until ``close``; then the rest, and return."""
        while True:
            await self._wake.wait()
            if not self._waiting:
                if self._closing:
                    return
                self._wake.clear()
                continue
            group = self._next_group()
            self._metrics.queue_depth(self._events)
            await self._commit(group)

    def close(self) -> None:
        """Take nothing more; ``run`` returns once everything that waits is committed."""
        self._closing = True
        self._wake.set()

    def _next_group(self) -> list[_Waiting]:
        size = taken = 0
        for batch, _ in self._waiting:
            if taken and size + len(batch.events) > COMMIT_EVENTS:
                break
            size += len(batch.events) + 1
            taken += 1
        group = self._waiting[:taken]
        del self._waiting[:taken]
        self._events -= size
        return group

    async def _commit(self, group: list[_Waiting]) -> None:
        start = time.perf_counter()
        try:
            results = await self._ledger.apply([batch for batch, _ in group], self._clock())
        except StoreUnavailable as e:
            if not self._failing:
                self._failing = True
                log.error("store.unavailable", error=str(e))
            # Those who came meanwhile have waited as long; their senders should not run into a time-out.
            for _, future in (*group, *self._waiting):
                if not future.done():
                    future.set_exception(e)
            self._waiting.clear()
            self._events = 0
            return
        except Exception as e:
            # A defect that one batch brings out must not take its neighbours with it: each alone, then.
            if len(group) == 1:
                log.exception("ledger.batch_failed", source=group[0][0].source)
                if not group[0][1].done():
                    group[0][1].set_exception(StoreUnavailable(f"internal error: {type(e).__name__}"))
                return
            for one in group:
                await self._commit([one])
            return
        if self._failing:
            self._failing = False
            log.info("store.available")
        self._metrics.commit(time.perf_counter() - start, sum(len(batch.events) for batch, _ in group))
        for (_, future), result in zip(group, results, strict=True):
            if not future.done():
                future.set_result(result)
