"""An edge: takes webhooks, proves them, and relays them to a core. It counts nothing and watches nothing."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Mapping

import structlog

from agent import __version__
from agent.assembly import build_sources, reveal
from agent.bus.client import Incoming
from agent.bus.delivery import Delivery
from agent.bus.relay import Relay
from agent.bus.spool import Spool
from agent.bus.wire import PREFIX, Seal
from agent.clock import ClockWatch
from agent.fetch import fetch
from agent.hub import connect, own_name
from agent.intake.http import Intake
from agent.intake.mailboxes import is_host
from agent.intake.outgoing import Get
from agent.ledger.identity import Identifier, derive
from agent.ledger.process import settle_garbage
from agent.listeners import PROBE_EVERY, LoopWatch, listening, private_tls
from agent.mailbox import mailbox_provider
from agent.settings import Settings
from agent.views.http import create_app
from agent.views.metrics import Metrics
from agent.views.state import Readiness, SourceView, State

log = structlog.get_logger()


class Edge:
    """The running edge. ``run`` ends after ``stop`` (or SIGTERM, SIGINT) once everything taken is safe."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time, get: Get = fetch) -> None:
        """``get`` is how URLs that vendors name are fetched. ``settings.bus.mode`` is ``edge``."""
        self._settings = settings
        self._clock = clock
        self._started_at = clock()
        self._stop, self._at_once = asyncio.Event(), asyncio.Event()
        self._clock_watch = ClockWatch(clock, lambda: time.clock_gettime(time.CLOCK_BOOTTIME))
        self._ready = {"spool": "not open yet", "intake": "not open yet", "clock": ""}
        self.metrics = Metrics(self.state, version=__version__)
        self._loop_watch = LoopWatch(self.metrics.loop_lag)
        for source in settings.sources:
            self.metrics.declare_source(source.name, source.provider)
        key = reveal(settings.store.identity_key).encode()
        identifier, seal = Identifier(derive(key)[0]), Seal(key)
        self._spool = Spool(settings.store.path, seal, settings.bus.spool_max_bytes)
        delivery = Delivery(self._publish, self._acknowledge, self.metrics, settings.bus.keys)
        self._relay = Relay(
            delivery, self._spool, seal, self.metrics, name=own_name(settings.bus),
            domains={s.name: s.domain or "" for s in settings.sources},
            providers={s.name: s.provider for s in settings.sources},
            recipient_hashes=lambda some: identifier.digests(f"recipient\0{one}" for one in some), host=is_host,
            max_payload=lambda: self._client.max_payload,
        )  # fmt: skip
        self._client = connect(
            settings.bus, [f"{PREFIX}/confirmed/{own_name(settings.bus)}"], delivery.receive, delivery.connected,
            self.metrics, keep_session=False,
        )  # fmt: skip
        self._intake = Intake(
            # Whose mailboxes the recipients' are, a core says.
            build_sources(settings, identifier.of, mailbox_provider), self._relay, self._relay, self.metrics,
            max_body_bytes=settings.listen.max_body_bytes, clock=clock, get=get, doubt=self._clock_watch.doubt,
        )  # fmt: skip
        self._tls = private_tls(settings.listen)
        self.addresses: dict[str, str] = {}

    def stop(self, at_once: bool = False) -> None:
        """Begin an orderly end; ``at_once`` without the time that load balancers are given to notice."""
        if at_once:
            self._at_once.set()
        self._stop.set()

    async def run(self) -> None:
        """Serve until stopped. Raises ``OSError`` when an address cannot be bound, ``SpoolError``."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGINT, self.stop, True)
        await self._spool.open()
        listen = self._settings.listen
        private = create_app(
            self.metrics, self.state, private_token=reveal(listen.private_token) or None,
            healthy=self._loop_watch.healthy, client_certificates=bool(self._tls and self._tls.asks_clients),
        )  # fmt: skip
        try:
            async with (
                listening(listen, self._intake, private, self._tls) as (public, self.addresses),
                asyncio.TaskGroup() as group,
            ):
                relaying = group.create_task(self._relay.run(), name="relay")
                loops = [
                    group.create_task(self._client.run(), name="bus"),
                    group.create_task(self._probe_for_ever(), name="probe"),
                    group.create_task(self._loop_watch.run(), name="lag"),
                ]
                self._ready["intake"] = ""
                log.info("edge.started", version=__version__, **self.addresses)
                await self._stop.wait()
                log.info("edge.stopping")
                self._ready["intake"] = "shutting down"
                self._intake.draining = True
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._at_once.wait(), listen.drain)
                await public.cleanup()
                self._relay.close()
                await relaying
                self._client.leave()
                for task in loops:
                    task.cancel()
        finally:
            await self._spool.close()
        log.info("edge.stopped")

    async def _publish(
        self, topic: str, payload: bytes, properties: Mapping[str, str], *, expiry: float, needs_reader: bool
    ) -> None:
        await self._client.publish(topic, payload, properties, expiry=expiry, needs_reader=needs_reader)

    def _acknowledge(self, message: Incoming) -> None:
        self._client.acknowledge(message)

    async def _probe_for_ever(self) -> None:
        while True:
            # A broker that is away is no reason to turn webhooks away, a disk that takes nothing is one.
            self._ready["spool"] = await self._spool.problem()
            self._ready["clock"] = self._clock_watch.doubt()
            if self._tls:
                self._tls.renew()
            await asyncio.sleep(PROBE_EVERY)

    def state(self) -> State:
        """What the views show: readiness and sources. All else is a core's to say."""
        doors = self._intake.doors
        return State(
            version=__version__, now=self._clock(), started_at=self._started_at, demo=False, leader=False,
            readiness=tuple(Readiness(name, not why, why) for name, why in self._ready.items()),
            snapshot=None, phases={}, findings=(), incidents=(), recent_bounces=(), alertmanagers=(),
            sources=tuple(
                SourceView(
                    s.name, s.provider, s.domain or "", 0.0, 0.0, dict(doors[s.name].requests),
                    doors[s.name].quarantined, doors[s.name].last_error, doors[s.name].last_error_at,
                    dict(doors[s.name].tests),
                )
                for s in self._settings.sources
            ),
        )  # fmt: skip


def serve(settings: Settings) -> None:
    """Run the edge in this process until a signal ends it. Raises as ``Edge.run`` does."""
    import uvloop

    sys.setswitchinterval(0.001)  # As in the daemon.
    settle_garbage()

    async def main() -> None:
        await Edge(settings).run()

    uvloop.run(main())
