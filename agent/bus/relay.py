"""The edge's side: what was verified goes to a core, or onto the disk until one has it.

``submit`` and ``quarantine`` keep the promises of ``Gate`` and ``Ledger`` towards the intake: they return once a core
has committed, or once the message lies in the spool. That the broker acknowledged is not enough: it may drop what
nobody subscribes to, what its queues do not hold, and what was in its memory when it died. Sent twice is counted once.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec
import structlog

from agent.bus.client import Denied, Incoming, NotDelivered, TooLarge
from agent.bus.spool import Spool, SpoolBroken, SpoolFull
from agent.bus.wire import (
    BODY_BYTES,
    EVENTS_A_MESSAGE,
    PREFIX,
    SEALED_BYTES,
    Confirmation,
    Header,
    Rejected,
    Seal,
    What,
    confirmed,
    fits,
    join,
    pack,
    sign,
    to_wire,
)
from agent.intake.gate import QUEUE_EVENTS, Overloaded
from agent.ledger.base import MAX_AGE, Applied, Batch, StoreUnavailable

AT_ONCE = 16  # messages under way
# Seconds a sender waits for a core before the spool is taken: the shortest webhook time-out is 3.
PATIENCE = 1.5
DRAIN_PATIENCE = 15.0  # the same for what lies on the disk, for which nobody waits
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between two tries to reach a core
DENIED_FOR = 30.0  # seconds in which nothing is sent of a source that the broker does not let us publish
INLINE_EVENTS = EVENTS_A_MESSAGE  # more are made ready in a thread
_LATE = 10_000

log = structlog.get_logger()


class RelayMetrics(Protocol):
    """What the relay reports of itself."""

    def bus(self, direction: str, outcome: str, n: int = 1) -> None:
        """Messages by what became of them."""

    def spool(self, size: int, messages: int) -> None:
        """What lies in the spool, in bytes and messages."""


class Publish(Protocol):
    """``Client.publish``."""

    async def __call__(
        self, topic: str, payload: bytes, properties: Mapping[str, str], *, expiry: float, needs_reader: bool
    ) -> None: ...


class _Piece(msgspec.Struct, eq=False):
    """Events of one request that wait for a message to carry them."""

    source: str
    scope: str
    received_at: float
    events: Sequence[bytes]  # encoded
    size: int
    done: asyncio.Future[None]


class Relay:
    """See above. ``run`` must be running; ``receive`` is given what comes on the edge's own topic."""

    def __init__(
        self,
        publish: Publish,
        acknowledge: Callable[[Incoming], None],
        spool: Spool,
        seal: Seal,
        metrics: RelayMetrics,
        *,
        name: str,
        keys: Sequence[bytes],
        domains: Mapping[str, str],
        providers: Mapping[str, str],
        recipient_hash: Callable[[str], bytes],
        host: Callable[[str], bool],
        max_payload: Callable[[], float],
        rng: random.Random | None = None,
    ) -> None:
        """``domains`` and ``providers`` by source: the sending domain of events that name none, and who speaks. The
        first of ``keys`` signs; of what comes, any may have. ``host`` tells whether a recipient's domain is a host
        name, ``max_payload`` how many bytes the broker takes."""
        self._publish = publish
        self._acknowledge = acknowledge
        self._spool = spool
        self._seal = seal
        self._metrics = metrics
        self._name = name
        self._keys = keys
        self._domains = domains
        self._providers = providers
        self._recipient_hash = recipient_hash
        self._host = host
        self._max_payload = max_payload
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._waiting: dict[str, deque[_Piece]] = {}  # by source, none empty
        self._events = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._unconfirmed: dict[str, asyncio.Future[Confirmation]] = {}
        self._late: deque[str] = deque(maxlen=_LATE)
        # Whether the last message reached a core; while not, senders are not made to wait for one.
        self._through = True
        self._drain = asyncio.Event()
        self._denied: dict[str, float] = {}

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
                _Piece(batch.source, batch.scope, batch.received_at, part, sum(map(len, part)), loop.create_future())
                for part in parts
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

    def _pack(self, batch: Batch) -> list[list[bytes]]:
        return pack(to_wire(batch, self._recipient_hash, self._host))

    async def quarantine(self, source: str, reason: str, body: bytes, headers: Mapping[str, str], now: float) -> int:
        """Hand a body on, sealed. Raises ``StoreUnavailable``, also when it is larger than a message may be: it can be
        kept nowhere but where it comes from."""
        plain = await asyncio.to_thread(zlib.compress, msgspec.msgpack.encode((dict(headers), body)), 6)
        if len(body) > BODY_BYTES - 4096 or len(plain) > min(SEALED_BYTES, self._max_payload()):
            raise StoreUnavailable("the body is too large to be relayed")
        header = self._header("quarantine", source, source, now, reason[:200])
        await self._send(header, self._seal.close(plain, secrets.token_bytes(12), f"quarantine {source}"))
        return 0

    # What the broker brings.

    def receive(self, message: Incoming) -> None:
        """A core's word on a message."""
        self._acknowledge(message)
        try:
            word = confirmed(message.properties, message.payload, self._keys)
        except Rejected as e:
            self._metrics.bus("in", e.reason)
            return
        waiting = self._unconfirmed.get(word.id)
        if waiting is None:
            # Its sender was answered meanwhile, from the disk.
            self._late.append(word.id)
            self._drain.set()
        elif not waiting.done():
            waiting.set_result(word)

    def connected(self) -> None:
        """There is a broker again."""
        self._through = True
        self._denied.clear()
        self._drain.set()

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
                await self._send(header, join(event for piece in pieces for event in piece.events))
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
        events, size = len(taken[0].events), taken[0].size
        while queue and fits(events + len(queue[0].events), size + queue[0].size):
            events += len(queue[0].events)
            size += queue[0].size
            taken.append(queue.popleft())
        if queue:
            self._waiting[source] = queue  # Behind the others.
        return taken

    async def _send(self, header: Header, payload: bytes) -> None:
        """To a core, else to the disk. Raises ``StoreUnavailable``."""
        if self._through and header.source not in self._denied:
            try:
                await self._deliver(header, payload, PATIENCE)
            except (NotDelivered, Denied) as e:
                self._failed(header, e)
            else:
                return
        try:
            await self._spool.add([(header, payload)])
        except SpoolFull:
            self._metrics.bus("out", "spool_full")
            raise StoreUnavailable("no core can be reached and the spool is full") from None
        except SpoolBroken as e:
            log.error("spool.broken", error=str(e))
            raise StoreUnavailable("no core can be reached and the spool takes nothing") from None
        self._metrics.bus("out", "spooled")
        self._show()
        self._drain.set()

    async def _deliver(self, header: Header, payload: bytes, patience: float) -> None:
        """Returns once a core has said what became of it. Raises ``NotDelivered`` or ``Denied``."""
        word = self._unconfirmed[header.id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(patience):
                await self._publish(
                    f"{PREFIX}/{header.what}/{header.source}", payload, sign(header, payload, self._keys[0]),
                    expiry=MAX_AGE, needs_reader=True,
                )  # fmt: skip
                outcome = (await word).outcome
        except TimeoutError:
            raise NotDelivered("no core confirmed it in time") from None
        finally:
            del self._unconfirmed[header.id]
        self._metrics.bus("out", outcome)
        if outcome == "refused":
            log.error("bus.refused", source=header.source, id=header.id)

    def _failed(self, header: Header, error: NotDelivered | Denied) -> None:
        self._metrics.bus("out", "denied" if isinstance(error, Denied) else "not_delivered")
        if isinstance(error, TooLarge):
            return  # This message alone.
        if isinstance(error, Denied):
            if header.source not in self._denied:
                log.error("bus.denied", source=header.source, reason=str(error))
            self._denied[header.source] = time.monotonic()
        elif self._through:
            self._through = False
            log.warning("bus.not_delivered", reason=str(error))

    async def _drain_for_ever(self) -> None:
        pause = FIRST_PAUSE
        while True:
            await self._drain.wait()
            self._drain.clear()
            try:
                await self._forget_late()
                good = await self._drain_once()
            except SpoolBroken as e:
                log.error("spool.broken", error=str(e))
                good = False
            self._show()
            if good:
                pause = FIRST_PAUSE
                continue
            await asyncio.sleep(pause * self._rng.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE)
            self._drain.set()

    async def _drain_once(self) -> bool:
        """Send the oldest: many while they get through, else one to try. Whether all is well."""
        now = time.monotonic()
        self._denied = {name: at for name, at in self._denied.items() if now - at < DENIED_FOR}
        oldest = await self._spool.oldest(AT_ONCE if self._through else 1, self._denied)
        if not oldest:
            self._through = True
            return not self._denied
        results = await asyncio.gather(
            *(self._deliver(header, payload, DRAIN_PATIENCE) for header, payload in oldest), return_exceptions=True
        )
        delivered = []
        for (header, _), result in zip(oldest, results, strict=True):
            if isinstance(result, TooLarge):
                # Nothing will make it smaller; it came while nobody could tell what the broker takes.
                self._metrics.bus("out", "too_large")
                log.error("bus.body_lost", source=header.source, reason=str(result))
                delivered.append(header.id)
            elif isinstance(result, NotDelivered | Denied):
                self._failed(header, result)
            elif isinstance(result, BaseException):
                raise result
            else:
                delivered.append(header.id)
        await self._spool.remove(delivered)
        if delivered:
            self._through = True
            self._drain.set()
        return len(delivered) == len(oldest)

    async def _forget_late(self) -> None:
        if self._late:
            late, self._late = list(self._late), deque(maxlen=_LATE)
            await self._spool.remove(late)

    def _header(self, what: What, source: str, scope: str, received_at: float, reason: str = "") -> Header:
        return Header(
            what, secrets.token_hex(16), source, self._providers[source], scope, self._name, received_at,
            self._domains.get(source, ""), reason,
        )  # fmt: skip

    def _show(self) -> None:
        self._metrics.spool(self._spool.size, self._spool.messages)
