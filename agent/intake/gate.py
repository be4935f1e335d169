"""The gate between requests and the ledger: a bounded queue whose waiting entries share one commit.

While one commit runs the next one gathers, so its size follows the load and the speed of the disk by itself. Whoever
waits at ``submit`` is answered after the commit that holds its events.

Sources take turns, and none may have more waiting than there is room left (dynamic thresholds: Choudhury and Hahne,
IEEE/ACM Transactions on Networking, 1998): whatever one of them sends, another finds room and soon has its turn.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Protocol

import structlog

from agent.ledger.base import Applied, Batch, Ledger, StoreUnavailable
from agent.ledger.columns import Columns

# What one transaction holds at most: large enough for throughput, small enough for the shortest webhook time-out (3 s).
COMMIT_EVENTS = 16_384
# What may wait; beyond it senders are told to come back. One source alone fills half of it, about 100 MB.
QUEUE_EVENTS = 200_000

log = structlog.get_logger()


class Overloaded(Exception):
    """The queue is full, or the source has its share of it; the sender should come back."""


class GateMetrics(Protocol):
    """What the gate reports of itself."""

    def commit(self, seconds: float, events: int) -> None:
        """One durable transaction."""

    def queue_depth(self, events: int) -> None:
        """Events waiting for their commit."""


_Waiting = tuple[Batch | Columns, "asyncio.Future[Applied]"]


class _Line:
    """What one source has waiting."""

    __slots__ = ("entries", "events")

    def __init__(self) -> None:
        self.entries: deque[_Waiting] = deque()
        self.events = 0


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
        # By source, in the order of their turns; who has nothing waiting is not in it.
        self._waiting: OrderedDict[str, _Line] = OrderedDict()
        self._events = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._failing = False

    async def submit(self, batch: Batch | Columns) -> Applied:
        """Count a batch. Returns after its commit. Raises ``Overloaded``, or ``StoreUnavailable`` when nothing of it
        was counted."""
        size = batch.size + 1  # Empty batches take room too.
        line = self._waiting.get(batch.source)
        wanted = size + (line.events if line else 0)
        if self._closing or (wanted > self._queue_events - self._events and self._waiting):
            raise Overloaded
        if line is None:
            line = self._waiting[batch.source] = _Line()
        future: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
        line.entries.append((batch, future))
        line.events = wanted
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
        group: list[_Waiting] = []
        size = 0
        while self._waiting:
            source, line = next(iter(self._waiting.items()))
            events = line.entries[0][0].size
            if group and size + events > COMMIT_EVENTS:
                break
            group.append(line.entries.popleft())
            size += events + 1
            line.events -= events + 1
            if line.entries:
                self._waiting.move_to_end(source)
            else:
                del self._waiting[source]
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
            waiting = [entry for line in self._waiting.values() for entry in line.entries]
            for _, future in (*group, *waiting):
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
        self._metrics.commit(time.perf_counter() - start, sum(batch.size for batch, _ in group))
        for (_, future), result in zip(group, results, strict=True):
            if not future.done():
                future.set_result(result)
