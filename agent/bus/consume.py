"""The core's side: batches from the broker, counted like those that come by HTTP.

A message is acknowledged after its commit, and its edge told so. While the store is down nothing is acknowledged, and
the broker, which knows how much may be under way, sends no more. What cannot be read goes to a dead-letter topic.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import structlog

from agent.bus.client import Denied, Incoming, NotDelivered
from agent.bus.wire import (
    BODY_BYTES,
    EVENTS_BYTES,
    PREFIX,
    Confirmation,
    Header,
    Rejected,
    Seal,
    WireEvent,
    confirm,
    unpack,
    verify,
)
from agent.intake.gate import Overloaded
from agent.intake.http import unpack as inflate
from agent.intake.source import OTHER_DOMAIN, configured_domain
from agent.ledger.base import QUARANTINE_AGE, Applied, Cell, StoreUnavailable
from agent.ledger.columns import Columns
from agent.mailbox import PENDING

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0  # seconds between two tries to commit
DEAD_LETTER_EXPIRY = 7 * 86400.0
FRESH = 600.0  # seconds: what is older says nothing of a source's rhythm
LOG_EVERY = 60.0
_CACHE = 50_000
_BODIES = 10_000
_body = msgspec.msgpack.Decoder(tuple[dict[str, str], bytes])

log = structlog.get_logger()


class ConsumerMetrics(Protocol):
    """What the consumer reports of itself."""

    def bus(self, direction: str, outcome: str, n: int = 1) -> None:
        """Messages by what became of them."""

    def applied(self, source: str, result: Applied) -> None:
        """What became of a batch."""


class Quarantine(Protocol):
    """``Ledger.quarantine``."""

    async def __call__(
        self, source: str, reason: str, body: bytes, headers: Mapping[str, str], now: float
    ) -> int: ...  # fmt: skip


class Labels:
    """The cell of a relayed event. Pure but for a bounded cache."""

    def __init__(self, domains: Collection[str], mailbox: Callable[[str], str]) -> None:
        """``domains`` are the configured ones; ``mailbox`` tells a recipient domain's mailbox provider, or
        ``?domain`` until it knows."""
        self._domains = frozenset(domains)
        self._mailbox = mailbox
        self._cells: dict[tuple[str, str, str, str, str], Cell] = {}
        self._hour = 0.0

    def cell(self, header: Header, event: WireEvent) -> Cell:
        """Where an event counts."""
        key = (header.provider, header.domain, event.domain, event.stream, event.recipient_domain)
        cell = self._cells.get(key)
        if cell is None:
            domain = configured_domain(event.domain, self._domains) or header.domain or OTHER_DOMAIN
            cell = Cell(domain, header.provider, event.stream, self._mailbox(event.recipient_domain))
            if not cell.mailbox_provider.startswith(PENDING):
                if len(self._cells) >= _CACHE:
                    self._cells.clear()
                self._cells[key] = cell
        return cell

    def refresh(self, now: float) -> None:
        """Forget once an hour: a domain may have moved to another mailbox provider."""
        if self._hour != now // 3600:
            self._hour = now // 3600
            self._cells.clear()


class Consumer:
    """``receive`` takes what the client brings. At most as much is under way as the client lets the broker send."""

    def __init__(
        self,
        submit: Callable[[Columns], Awaitable[Applied]],
        quarantine: Quarantine,
        publish: Callable[..., Coroutine[Any, Any, None]],
        acknowledge: Callable[[Incoming], None],
        labels: Labels,
        seal: Seal,
        metrics: ConsumerMetrics,
        *,
        keys: Sequence[bytes],
        heard: Callable[[str, float, int], None],
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        """``submit`` is the gate's, ``publish`` and ``acknowledge`` the client's; ``heard`` is told the source, the
        time and the number of new events of each batch."""
        self._submit = submit
        self._quarantine = quarantine
        self._publish = publish
        self._acknowledge = acknowledge
        self._labels = labels
        self._seal = seal
        self._metrics = metrics
        self._keys = keys
        self._heard = heard
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._tasks: set[asyncio.Task[None]] = set()
        self._bodies: OrderedDict[str, None] = OrderedDict()
        self._logged_at: dict[str, float] = {}

    def receive(self, message: Incoming) -> None:
        """Work on a message in the background."""
        task = asyncio.create_task(self._work(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self, patience: float) -> None:
        """Wait for what is under way, ``patience`` seconds; the broker brings again what is left."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience)
        for task in self._tasks:
            task.cancel()

    async def _work(self, message: Incoming) -> None:
        try:
            outcome = await self._take(message)
        except Rejected as e:
            await self._bury(message, e)
            outcome = e.reason
        except Exception as e:
            # A defect: without an acknowledgement it would come back for ever.
            log.exception("bus.message_failed", topic=message.topic)
            await self._bury(message, Rejected("unreadable", f"internal error: {type(e).__name__}"))
            outcome = "unreadable"
        self._metrics.bus("in", outcome)
        self._acknowledge(message)

    async def _take(self, message: Incoming) -> str:
        if len(message.payload) <= EVENTS_BYTES:
            header = verify(message.properties, message.payload, self._keys)
        else:
            header = await asyncio.to_thread(verify, message.properties, message.payload, self._keys)
        if message.topic != f"{PREFIX}/{header.what}/{header.source}":
            # Who may publish for one source must not speak for another.
            raise Rejected("forged", "published under another source's name")
        if header.what == "quarantine":
            await self._keep(header, message.payload)
        else:
            self._labels.refresh(self._clock())
            batches = unpack(header, message.payload, self._labels.cell)
            results = await asyncio.gather(*(self._until_stored(self._submit, batch) for batch in batches))
            new = 0
            for result in results:
                self._metrics.applied(header.source, result)
                new += sum(result.counted.values())
            empty = not any(batch.size for batch in batches)
            if new or (empty and abs(self._clock() - header.received_at) < FRESH):
                self._heard(header.source, header.received_at, new)
        await self._tell(header, "counted")
        return "counted"

    async def _keep(self, header: Header, sealed: bytes) -> None:
        try:
            plain = await asyncio.to_thread(self._unseal, header, sealed)
            if len(plain) > BODY_BYTES:
                raise ValueError("too large")
            headers, body = _body.decode(plain)
        except (ValueError, msgspec.MsgspecError) as e:
            raise Rejected("unreadable", f"sealed body: {e}", header) from None
        # No identity tells two bodies apart. What is older would not be kept, what was seen is.
        if header.id in self._bodies or self._clock() - header.received_at > QUARANTINE_AGE:
            return
        gone = await self._until_stored(
            self._quarantine, header.source, header.reason, body, headers, header.received_at
        )
        self._bodies[header.id] = None
        if len(self._bodies) > _BODIES:
            self._bodies.popitem(last=False)
        if gone:
            log.warning("quarantine.full", source=header.source, dropped=gone)

    def _unseal(self, header: Header, sealed: bytes) -> bytes:
        return inflate(self._seal.open(sealed, f"quarantine {header.source}"), BODY_BYTES)

    async def _until_stored(self, work: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        pause = FIRST_PAUSE
        while True:
            try:
                return await work(*arguments)
            except (StoreUnavailable, Overloaded):
                await asyncio.sleep(pause * self._rng.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _tell(self, header: Header, outcome: Any) -> None:
        """The edge's message is done with. If the word is lost, the edge sends it again, and is told again."""
        properties, payload = confirm(Confirmation(header.id, outcome), self._keys[0])
        try:
            await self._publish(f"{PREFIX}/confirmed/{header.edge}", payload, properties, qos=0)
        except (NotDelivered, Denied) as e:
            self._log("bus.not_confirmed", edge=header.edge, reason=str(e))

    async def _bury(self, message: Incoming, why: Rejected) -> None:
        """To the dead letters, for people. The edge drops only what no later version of us could read."""
        source = message.topic.rpartition("/")[2]
        self._log("bus.dead_letter", source=source, why=why.reason, reason=str(why))
        about = {**message.properties, "dead_reason": why.reason, "dead_text": str(why)[:200]}
        try:
            await self._publish(
                f"{PREFIX}/dead/{source}", message.payload, about, expiry=DEAD_LETTER_EXPIRY
            )  # fmt: skip
        except (NotDelivered, Denied) as e:
            self._log("bus.dead_letter_lost", source=source, reason=str(e))
        if why.header is not None and why.reason in ("unreadable", "too_large"):
            await self._tell(why.header, "refused")

    def _log(self, what: str, **about: str) -> None:
        """Unless the same was logged a moment ago: no stranger fills the log."""
        now = time.monotonic()
        if now - self._logged_at.get(what, -LOG_EVERY) >= LOG_EVERY:
            self._logged_at[what] = now
            log.warning(what, **about)
