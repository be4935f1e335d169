"""From an edge to a core: a message is delivered when a core says so, not when the broker does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import structlog

from agent.bus.client import Denied, Incoming, NotDelivered, TooLarge
from agent.bus.wire import PREFIX, Confirmation, Header, Rejected, confirmed, sign
from agent.ledger.base import MAX_AGE

DENIED_FOR = 30.0  # seconds in which nothing is sent of a source that the broker does not let us publish
_LATE = 10_000  # late words kept; what is forgotten is sent again

log = structlog.get_logger()


class DeliveryMetrics(Protocol):
    """What is reported of it."""

    def bus(self, direction: str, outcome: str, n: int = 1) -> None:
        """Messages by what became of them."""


class Publish(Protocol):
    """``Client.publish``."""

    async def __call__(
        self, topic: str, payload: bytes, properties: Mapping[str, str], *, expiry: float, needs_reader: bool
    ) -> None: ...


class Delivery:
    """Sends, and hears what became of it. ``receive`` is given what comes on the edge's own topic."""

    def __init__(
        self,
        publish: Publish,
        acknowledge: Callable[[Incoming], None],
        metrics: DeliveryMetrics,
        keys: Sequence[bytes],
    ) -> None:
        """``publish`` and ``acknowledge`` are the client's. The first of ``keys`` signs; of what comes, any may
        have."""
        self._publish = publish
        self._acknowledge = acknowledge
        self._metrics = metrics
        self._keys = keys
        self._unconfirmed: dict[str, asyncio.Future[Confirmation]] = {}
        self._late: list[str] = []
        self._denied: dict[str, float] = {}
        self.through = True
        """Whether the last message reached a core; while not, nobody need wait for one."""
        self.news: Callable[[], None] = lambda: None
        """Called when there is a broker again, or a late word."""
        self.back = asyncio.Event()
        """Set when there is a broker again."""

    def promising(self, source: str) -> bool:
        """Whether a message of the source is likely to be delivered now."""
        return self.through and source not in self.denied()

    def denied(self) -> Mapping[str, float]:
        """The sources that the broker has lately not let us publish."""
        now = time.monotonic()
        self._denied = {name: at for name, at in self._denied.items() if now - at < DENIED_FOR}
        return self._denied

    def late(self) -> list[str]:
        """The messages of which a core has spoken when nobody waited for it any more, since this was last asked."""
        late, self._late = self._late, []
        return late

    def connected(self) -> None:
        """There is a broker again."""
        self.through = True
        self._denied.clear()
        self.back.set()
        self.news()

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
            if len(self._late) < _LATE:
                self._late.append(word.id)
            self.news()
        elif not waiting.done():
            waiting.set_result(word)

    async def deliver(self, header: Header, payload: bytes, patience: float) -> None:
        """Returns once a core has said what became of the message, within ``patience`` seconds. Raises
        ``NotDelivered`` or ``Denied``."""
        word = self._unconfirmed[header.id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(patience):
                await self._publish(
                    f"{PREFIX}/{header.what}/{header.source}", payload, sign(header, payload, self._keys[0]),
                    expiry=MAX_AGE, needs_reader=True,
                )  # fmt: skip
                outcome = (await word).outcome
        except TimeoutError:
            self._lost("no core confirmed it in time")
            raise NotDelivered("no core confirmed it in time") from None
        except NotDelivered as e:
            self._lost(str(e))
            raise
        except TooLarge:  # This message alone.
            raise
        except Denied as e:
            self._metrics.bus("out", "denied")
            if header.source not in self._denied:
                log.error("bus.denied", source=header.source, reason=str(e))
            self._denied[header.source] = time.monotonic()
            raise
        finally:
            del self._unconfirmed[header.id]
        self.through = True
        self._metrics.bus("out", outcome)
        if outcome == "refused":
            log.error("bus.refused", source=header.source, id=header.id)

    def _lost(self, reason: str) -> None:
        self._metrics.bus("out", "not_delivered")
        if self.through:
            self.through = False
            log.warning("bus.not_delivered", reason=reason)
