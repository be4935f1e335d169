"""A core's side of the bus, put together: what edges relay comes in, verdicts and findings go out."""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any
from urllib.parse import urlsplit

import structlog

from agent.bus.client import Broker, Client, Incoming
from agent.bus.consume import Consumer, Labels
from agent.bus.outward import Outward
from agent.bus.wire import EVENTS_BYTES, HEADER_BYTES, PREFIX, Seal
from agent.dns.checks.base import Watched
from agent.intake.gate import Gate
from agent.ledger.base import Applied, Ledger, StoreUnavailable
from agent.ledger.columns import Columns
from agent.settings import Bus, Settings
from agent.views.metrics import Metrics
from agent.vitals.types import Snapshot

GROUP = f"$share/{PREFIX}"  # the cores that share the work
FINISH = 5.0  # seconds that what is under way may take to be committed

log = structlog.get_logger()


def broker(bus: Bus) -> Broker:
    """Where the broker of the settings is and what proves us to it."""
    parts = urlsplit(bus.url or "")
    tls = parts.scheme == "mqtts"
    return Broker(
        parts.hostname or "", parts.port or (8883 if tls else 1883), tls, bus.username,
        bus.password.get_secret_value() if bus.password else "", bus.tls_ca, bus.tls_certificate, bus.tls_key,
    )  # fmt: skip


def own_name(bus: Bus) -> str:
    """The agent's name on the bus."""
    kept = "".join(c for c in bus.name or socket.gethostname() if c.isascii() and (c.isalnum() or c in "._-"))
    return kept.lstrip("._-")[:64] or "mailvitals"


def connect(
    bus: Bus, subscriptions: Sequence[str], receive: Callable[[Incoming], None], on_connect: Callable[[], None],
    metrics: Metrics, *, keep_session: bool,
) -> Client:  # fmt: skip
    """A client, to be run."""
    where, name = broker(bus), own_name(bus)
    shown = f"{where.host}:{where.port}"
    metrics.declare_bus(shown)
    return Client(
        where, name, subscriptions=subscriptions, receive=receive, keep_session=keep_session,
        status_topic=f"{PREFIX}/status/{name}", needed_packet=EVENTS_BYTES + HEADER_BYTES,
        on_connect=on_connect, on_state=lambda connected: metrics.bus_connected(shown, connected),
    )  # fmt: skip


class Hub:
    """See above. ``snapshot`` gives the newest one, ``findings`` what goes with it; ``heard`` is told the source,
    the time and the number of new events of each message; ``clock`` gives Unix seconds, ``doubt`` why it cannot be
    believed now."""

    def __init__(
        self,
        settings: Settings,
        gate: Gate,
        ledger: Ledger,
        mailbox: Callable[[str], str],
        metrics: Metrics,
        *,
        snapshot: Callable[[], Snapshot | None],
        findings: Callable[[], Sequence[Watched]],
        heard: Callable[[str, float, int], None],
        clock: Callable[[], float],
        doubt: Callable[[], str],
    ) -> None:
        self._gate, self._ledger, self._metrics = gate, ledger, metrics
        self._snapshot, self._findings, self._doubt = snapshot, findings, doubt
        self._outward: Outward | None = None
        key = settings.store.identity_key
        self._consumer = Consumer(
            self._submit, ledger.quarantine, self._publish, self._acknowledge,
            Labels([d.name for d in settings.domains], mailbox), Seal(key.get_secret_value().encode() if key else b""),
            metrics, keys=settings.bus.keys, heard=heard, clock=clock,
        )  # fmt: skip
        self.client = connect(
            settings.bus, [f"{GROUP}/{PREFIX}/events/+", f"{GROUP}/{PREFIX}/quarantine/+"], self._consumer.receive,
            self._reconnected, metrics, keep_session=True,
        )  # fmt: skip

    def run(self) -> Coroutine[Any, Any, None]:
        """Keep the connection and count what comes, until cancelled."""
        return self.client.run()

    def speak(self, epoch: int) -> Coroutine[Any, Any, None]:
        """Publish verdicts and findings, as the leader of ``epoch``, until cancelled."""
        self._outward = Outward(
            self._snapshot,
            self._findings,
            self._publish,
            lambda: self.client.connected,
            self._ledger,
            self._metrics,
            epoch=epoch,
        )
        return self._outward.run()

    async def leave(self) -> None:
        """Take no more messages and finish those under way, while the gate still commits."""
        self.client.leave()
        await self._consumer.finish(FINISH)

    def _reconnected(self) -> None:
        if self._outward:
            self._outward.reconnected()

    async def _submit(self, batch: Columns) -> Applied:
        if doubt := self._doubt():
            raise StoreUnavailable(doubt)  # By a wrong clock every event would be refused, for good.
        return await self._gate.submit(batch)

    async def _publish(self, topic: str, payload: bytes, *arguments: Any, **options: Any) -> None:
        await self.client.publish(topic, payload, *arguments, **options)

    def _acknowledge(self, message: Incoming) -> None:
        self.client.acknowledge(message)
