"""The edge's side: what was verified goes to a core, or onto the disk until one has it.

``submit`` and ``quarantine`` keep the promises of ``Gate`` and ``Ledger`` towards the intake: they return once a core
has committed, or once the message lies in the spool. That the broker acknowledged is not enough: it may drop what
nobody subscribes to, what its queues do not hold, and what was in its memory when it died. Sent twice is counted once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec
import structlog

from agent.bus.client import Denied, NotDelivered, TooLarge
from agent.bus.delivery import Delivery
from agent.bus.spool import Spool, SpoolBroken, SpoolFull
from agent.bus.wire import (
    BODY_BYTES,
    EVENTS_A_MESSAGE,
    SEALED_BYTES,
    Header,
    Seal,
    What,
    fits,
    join,
    pack,
    to_wire,
)
from agent.intake.gate import QUEUE_EVENTS, Overloaded
from agent.ledger.base import Applied, Batch, StoreUnavailable

AT_ONCE = 16  # messages under way
# Seconds a sender waits for a core before the spool is taken: the shortest webhook time-out is 3.
PATIENCE = 1.5
DRAIN_PATIENCE = 5.0  # the same for what lies on the disk, for which nobody waits
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0  # seconds between two tries to reach a core
INLINE_EVENTS = EVENTS_A_MESSAGE  # more are made ready in a thread

log = structlog.get_logger()


class RelayMetrics(Protocol):
    """What the relay reports of itself."""

    def bus(self, direction: str, outcome: str, n: int = 1) -> None:
        """Messages by what became of them."""

    def spool(self, size: int, messages: int) -> None:
        """What lies in the spool, in bytes and messages."""


class _Piece(msgspec.Struct, eq=False):
    """Events of one request, encoded, that wait for a message to carry them."""

    source: str
    scope: str
    received_at: float
    events: int
    payload: bytes
    done: asyncio.Future[None]


class Relay:
    """See above. ``run`` must be running."""

    def __init__(
        self,
        delivery: Delivery,
        spool: Spool,
        seal: Seal,
        metrics: RelayMetrics,
        *,
        name: str,
        domains: Mapping[str, str],
        providers: Mapping[str, str],
        recipient_hashes: Callable[[Iterable[str]], Sequence[bytes]],
        host: Callable[[str], bool],
        max_payload: Callable[[], float],
        rng: random.Random | None = None,
    ) -> None:
        """``domains`` and ``providers`` by source: the sending domain of events that name none, and who speaks.
        ``host`` tells whether a recipient's domain is a host name, ``max_payload`` how many bytes the broker takes."""
        self._delivery = delivery
        self._spool = spool
        self._seal = seal
        self._metrics = metrics
        self._name = name
        self._domains = domains
        self._providers = providers
        self._recipient_hashes = recipient_hashes
        self._host = host
        self._max_payload = max_payload
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._waiting: dict[str, deque[_Piece]] = {}  # by source, none empty
        self._events = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._drain = asyncio.Event()
        self._broken = ""
        delivery.news = self._drain.set

    # What the intake calls.

    async def submit(self, batch: Batch) -> Applied:
        """Hand a batch on. Returns once a core has counted it or it is on the disk; what was counted is known there.
        Raises ``Overloaded``, or ``StoreUnavailable`` when nothing of it is safe."""
        size = len(batch.events) + 1
        if self._closing or (self._events + size > QUEUE_EVENTS and self._waiting):
            raise Overloaded
        self._events += size
        try:
            parts = (
                await asyncio.to_thread(self._pack, batch) if len(batch.events) > INLINE_EVENTS else self._pack(batch)
            )
            loop = asyncio.get_running_loop()
            pieces = [
                _Piece(batch.source, batch.scope, batch.received_at, *part, loop.create_future()) for part in parts
            ]
            self._waiting.setdefault(batch.source, deque()).extend(pieces)
            self._wake.set()
            results = await asyncio.gather(*(piece.done for piece in pieces), return_exceptions=True)
        finally:
            self._events -= size
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return Applied()

    def _pack(self, batch: Batch) -> list[tuple[int, bytes]]:
        return pack(to_wire(batch, self._recipient_hashes, self._host))

    async def quarantine(self, source: str, reason: str, body: bytes, headers: Mapping[str, str], now: float) -> int:
        """Hand a body on, sealed. Raises ``StoreUnavailable``, also when it is larger than a message may be: it can be
        kept nowhere but where it comes from."""
        plain = await asyncio.to_thread(zlib.compress, msgspec.msgpack.encode((dict(headers), body)), 6)
        if len(body) > BODY_BYTES - 4096 or len(plain) > min(SEALED_BYTES, self._max_payload()):
            raise StoreUnavailable("the body is too large to be relayed")
        header = self._header("quarantine", source, source, now, reason[:200])
        await self._send(header, self._seal.close(plain, secrets.token_bytes(12), f"quarantine {source}"))
        return 0

    # The loops.

    async def run(self) -> None:
        """Send what waits and drain the spool. After ``close``, send or spool what still waits, and return."""
        self._show()
        async with asyncio.TaskGroup() as group:
            draining = group.create_task(self._drain_for_ever())
            senders = [group.create_task(self._send_for_ever()) for _ in range(AT_ONCE)]
            await asyncio.gather(*senders)
            draining.cancel()

    def close(self) -> None:
        """Take nothing more."""
        self._closing = True
        self._wake.set()

    async def _send_for_ever(self) -> None:
        while True:
            pieces = self._next()
            if not pieces:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            first = pieces[0]
            header = self._header("events", first.source, first.scope, max(piece.received_at for piece in pieces))
            try:
                await self._send(header, join(piece.payload for piece in pieces))
            except Exception as e:
                if not isinstance(e, StoreUnavailable):
                    log.exception("bus.batch_failed", source=first.source)
                    e = StoreUnavailable(f"internal error: {type(e).__name__}")
                for piece in pieces:
                    if not piece.done.done():
                        piece.done.set_exception(e)
            else:
                for piece in pieces:
                    if not piece.done.done():
                        piece.done.set_result(None)

    def _next(self) -> list[_Piece]:
        """What one message can carry of the source whose turn it is."""
        if not self._waiting:
            return []
        source = next(iter(self._waiting))
        queue = self._waiting.pop(source)
        taken = [queue.popleft()]
        events, size = taken[0].events, len(taken[0].payload)
        while queue and fits(events + queue[0].events, size + len(queue[0].payload)):
            events += queue[0].events
            size += len(queue[0].payload)
            taken.append(queue.popleft())
        if queue:
            self._waiting[source] = queue  # Behind the others.
        return taken

    async def _send(self, header: Header, payload: bytes) -> None:
        """To a core, else to the disk. Raises ``StoreUnavailable``."""
        if self._delivery.promising(header.source):
            with contextlib.suppress(NotDelivered, Denied):
                await self._delivery.deliver(header, payload, PATIENCE)
                return
        try:
            await self._spool.add([(header, payload)])
        except SpoolFull:
            self._metrics.bus("out", "spool_full")
            raise StoreUnavailable("no core can be reached and the spool is full") from None
        except SpoolBroken as e:
            self._say(str(e))
            raise StoreUnavailable("no core can be reached and the spool takes nothing") from None
        self._broken = ""
        self._metrics.bus("out", "spooled")
        self._show()
        self._drain.set()

    async def _drain_for_ever(self) -> None:
        pause = FIRST_PAUSE
        while True:
            await self._drain.wait()
            self._drain.clear()
            self._delivery.back.clear()
            try:
                good = await self._drain_once()
            except SpoolBroken as e:
                self._say(str(e))
                good = False
            self._show()
            if good:
                pause = FIRST_PAUSE
                continue
            try:
                await asyncio.wait_for(self._delivery.back.wait(), pause * self._rng.uniform(0.5, 1.0))
                pause = FIRST_PAUSE
            except TimeoutError:
                pause = min(2 * pause, LONGEST_PAUSE)
            self._drain.set()

    async def _drain_once(self) -> bool:
        """Send the oldest: many while they get through, else one to try. Whether it is worth while to go on."""
        if late := self._delivery.late():
            await self._spool.remove(late)
        denied = self._delivery.denied()
        oldest = await self._spool.oldest(AT_ONCE if self._delivery.through else 1, denied)
        if not oldest:
            self._delivery.through = True
            return not denied
        results = await asyncio.gather(
            *(self._delivery.deliver(header, payload, DRAIN_PATIENCE) for header, payload in oldest),
            return_exceptions=True,
        )
        done = []
        for (header, _), result in zip(oldest, results, strict=True):
            if isinstance(result, TooLarge):
                # Nothing will make it smaller; it came while nobody could tell what the broker takes.
                self._metrics.bus("out", "too_large")
                log.error("bus.body_lost", source=header.source, reason=str(result))
            elif isinstance(result, NotDelivered | Denied):
                continue
            elif isinstance(result, BaseException):
                raise result
            done.append(header.id)
        await self._spool.remove(done)
        if done:
            self._drain.set()
        return bool(done)

    def _say(self, broken: str) -> None:
        if broken != self._broken:
            self._broken = broken
            log.error("spool.broken", error=broken)

    def _header(self, what: What, source: str, scope: str, received_at: float, reason: str = "") -> Header:
        return Header(
            what, secrets.token_hex(16), source, self._providers[source], scope, self._name, received_at,
            self._domains.get(source, ""), reason,
        )  # fmt: skip

    def _show(self) -> None:
        self._metrics.spool(self._spool.size, self._spool.messages)
