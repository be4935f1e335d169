"""The whole program on one page: built from the settings, run in one task group, ended in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp import web

from agent import __version__
from agent.alerts.alertmanager import Endpoint, Notifier
from agent.alerts.bounce_hints import Hints
from agent.alerts.sources import SourceHealth
from agent.assembly import build_sources, open_ledger, reveal
from agent.bounce_rules import shipped
from agent.clock import DAY, MINUTE, ClockWatch
from agent.dns.checks.base import Watched
from agent.dns.dependents import share
from agent.dns.resolver import Resolver
from agent.fetch import fetch
from agent.intake.gate import Gate
from agent.intake.http import Door, Intake
from agent.intake.mailboxes import Mailboxes
from agent.intake.outgoing import Get
from agent.intake.pulse import Pulse
from agent.leadership import Leadership
from agent.ledger.base import Deposed, RecentBounce, Row, SourceState, StoreUnavailable
from agent.ledger.process import settle_garbage
from agent.listeners import PROBE_EVERY, LoopWatch, listening, private_tls
from agent.mailbox import mailbox_provider
from agent.oncall import Decision, OnCall, bounce_hints
from agent.posture import Posture
from agent.settings import Settings
from agent.trends import TrendWatch
from agent.views.http import NotLeading, create_app
from agent.views.metrics import Metrics
from agent.views.state import AlertmanagerView, Readiness, SourceView, State
from agent.vitals.phases import Phase
from agent.vitals.rounds import FEW, Rounds, Steps
from agent.vitals.sums import Wanted
from agent.vitals.trends import Plan
from agent.vitals.types import Snapshot

if TYPE_CHECKING:
    from agent.hub import Hub

PRUNE_EVERY = 600.0  # seconds
BREATH = 0.002  # seconds that an evaluation rests after a domain
PULSE_EVERY = 60.0
UNKEPT_FOR = 30.0  # seconds after which incidents are told although the store does not keep them
LOOK_EVERY = 15.0  # seconds after which an agent that does not lead reads what the leader has found
RECENT_BOUNCES = 50  # shown
EXPLAINED_BOUNCES = 500  # looked at for what they have in common

log = structlog.get_logger()


class Daemon:
    """The running agent. ``run`` ends after ``stop`` (or SIGTERM, SIGINT) once everything taken is committed."""

    def __init__(
        self,
        settings: Settings,
        *,
        demo: bool = False,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        get: Get = fetch,
    ) -> None:
        """``steady`` is a clock that nobody sets, against which ``clock`` is held. ``get`` is how URLs that vendors
        name are fetched: on the Internet, unless a test has one of its own."""
        self._settings = settings
        self._demo = demo
        self._clock_watch = ClockWatch(clock, steady)
        clock = self._clock = self._clock_watch.now
        self._started_at = clock()
        self._stop, self._at_once = asyncio.Event(), asyncio.Event()
        self._ready = {"store": "not probed yet", "intake": "not open yet", "evaluation": "not done yet", "clock": ""}
        self._snapshot: Snapshot | None = None
        self._gated_at = -1.0
        self._refused: dict[str, float] = {}  # when each source was last refused by any agent
        self._leading = 0  # the epoch whose state this process has taken up
        self._looked_at = float("-inf")
        self._kept_at = time.monotonic()
        self._source_states: dict[str, SourceState] = {}
        self._pulse = Pulse((s.name for s in settings.sources), self._started_at)
        self._recent: tuple[RecentBounce, ...] = ()
        shipped()  # Reading them takes longer than any request may be held up.
        self._phases = settings.phases.in_force()
        self._domain_phases: dict[str, str] = {d.name: d.phase for d in settings.domains}
        self._rounds = Rounds(
            {name: self._phases[phase] for name, phase in self._domain_phases.items()}, phases=self._phases,
            stale_after=settings.vitals.stale_after, bounce_classes=settings.vitals.bounce_classes,
        )  # fmt: skip

        self.metrics = Metrics(self.state, version=__version__)
        self._loop_watch = LoopWatch(self.metrics.loop_lag)
        for source in settings.sources:
            self.metrics.declare_source(source.name, source.provider)
        self.ledger = open_ledger(settings)
        self._gate = Gate(self.ledger, self.metrics, clock=clock)
        self._resolver = Resolver(
            settings.dns.resolvers,
            timeout=settings.dns.timeout,
            on_query=self.metrics.dns_query,
            on_restart=self.metrics.dns_restart,
        )
        self._mailboxes = Mailboxes(self._resolver.ask, self.ledger, self.metrics, clock=clock)
        relayed = [s.name for s in settings.sources if s.relayed]
        sources = build_sources(settings, self.ledger.identify, self._mailboxes.label)
        self._intake = Intake(
            {name: source for name, source in sources.items() if name not in relayed}, self._gate, self.ledger,
            self.metrics, max_body_bytes=settings.listen.max_body_bytes, clock=clock, get=get, heard=self._pulse.heard,
            doubt=self._clock_watch.doubt,
        )  # fmt: skip
        self._intake.doors |= {name: Door() for name in relayed}
        self._notifier = Notifier(
            [Endpoint(a.url, reveal(a.token), a.username or "", reveal(a.password)) for a in settings.alertmanagers],
            resend=settings.alerts.resend,
            on_result=self.metrics.notification,
            lease=lambda: self._leadership.remaining,
            clock=clock,
        )
        for delivery in self._notifier.status():
            self.metrics.declare_alertmanager(delivery.url)
        holder = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._leadership = Leadership(self.ledger, holder)
        self._trends = TrendWatch(
            self.ledger, _plans(settings, self._phases), self._phases, settings.vitals.bounce_classes,
            clock=clock, doubt=self._clock_watch.doubt, snapshot=lambda: self._snapshot,
            stale_after=settings.vitals.stale_after,
        )  # fmt: skip
        self._posture = Posture(
            settings,
            self._resolver,
            self.ledger,
            self.metrics,
            clock=clock,
            share=lambda domain, of: share(self._snapshot, domain, of),
        )
        self._oncall = OnCall(
            settings, self.ledger, self._notifier, clock=clock, clues=self._posture.clues, shifts=self._trends.shifts
        )
        self._tls = private_tls(settings.listen)
        self._hub: Hub | None = None
        if settings.bus.mode == "core":
            from agent.hub import Hub  # The client of the broker is not loaded where there is none.

            self._hub = Hub(
                settings, self._gate, self.ledger, self._mailboxes.label if settings.dns.mailbox_lookup else
                mailbox_provider, self.metrics, clock=clock, heard=self._heard_from_edge,
                snapshot=lambda: self._snapshot, findings=self._posture.findings, doubt=self._clock_watch.doubt,
            )  # fmt: skip
        self.addresses: dict[str, str] = {}

    def stop(self, at_once: bool = False) -> None:
        """Begin an orderly end; ``at_once`` without the time that load balancers are given to notice."""
        if at_once:
            self._at_once.set()
        self._stop.set()

    async def run(self, alongside: Callable[[Daemon], Any] | None = None) -> None:
        """Serve until stopped. ``alongside`` is a coroutine function that runs beside it and is cancelled at the end.
        Raises ``OSError`` when an address cannot be bound, ``StoreUnavailable`` when the store fails at the start."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGINT, self.stop, True)
        await self.ledger.start()
        self._source_states = await self.ledger.sources()
        listen = self._settings.listen
        private = create_app(
            self.metrics, self.state, private_token=reveal(listen.private_token) or None,
            healthy=self._loop_watch.healthy, check_now=self._check_now if self._settings.domains else None,
            client_certificates=bool(self._tls and self._tls.asks_clients), mutes=self._oncall,
        )  # fmt: skip
        try:
            async with (
                listening(listen, self._intake, private, self._tls) as (public, self.addresses),
                asyncio.TaskGroup() as group,
            ):
                group.create_task(self._gate.run(), name="gate")
                loops = [
                    group.create_task(coroutine, name=name)
                    for name, coroutine in (
                        ("leadership", self._leadership.run(self._lead)),
                        ("evaluate", self._evaluate_for_ever()),
                        ("probe", self._probe_for_ever()),
                        ("lag", self._loop_watch.run()),
                        ("pulse", self._keep_pulse_for_ever()),
                        ("notifier", self._notifier.run()),
                        ("trends", self._trends.run()),
                        *((("bus", self._hub.run()),) if self._hub else ()),
                    )
                ]
                if self._settings.dns.mailbox_lookup:
                    loops.append(group.create_task(self._mailboxes.run(), name="mailboxes"))
                self._ready["intake"] = ""
                log.info("agent.started", version=__version__, **self.addresses)
                if alongside:
                    loops.append(group.create_task(alongside(self), name="alongside"))
                await self._stop.wait()
                await self._shut_down(public, loops)
        finally:
            await self._resolver.aclose()
            await self.ledger.close()
        log.info("agent.stopped")

    async def _shut_down(self, public: web.ServerRunner, loops: list[asyncio.Task[Any]]) -> None:
        log.info("agent.stopping")
        self._ready["intake"] = "shutting down"
        self._intake.draining = True  # Who keeps a connection is told, with an answer, to take it elsewhere.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._at_once.wait(), self._settings.listen.drain)
        await public.cleanup()  # Stops accepting, lets the requests under way finish: their commits still run.
        if self._hub:
            await self._hub.leave()
        self._gate.close()
        try:
            # What opened or closed in the last moments is kept; Alertmanager is told nothing special.
            if epoch := self._leading and self._leadership.epoch:
                await self._oncall.save(epoch)
                await self._posture.save(epoch)
                await self._save_pulse(epoch)
        except (StoreUnavailable, Deposed) as e:
            log.error("shutdown.not_saved", error=str(e))
        for task in loops:
            task.cancel()
        await asyncio.wait(loops)
        await self._leadership.resign()

    async def _lead(self, epoch: int) -> None:
        """What the leader of ``epoch`` does for all that share the store, from what its predecessor left."""
        await self._oncall.load()
        # What was firing is told again before anything else.
        self._oncall.tell()
        self._pulse.restore(await self.ledger.load("rhythm"))
        self._refused = await self._refusals()
        await self._posture.restore()
        self._kept_at = time.monotonic()
        self._leading = epoch
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._prune_for_ever(), name="prune")
                if self._hub:
                    group.create_task(self._hub.speak(self._leading), name="verdicts")
                for name, coroutine in self._posture.loops():
                    group.create_task(coroutine, name=name)
        finally:
            self._leading = 0
            self._posture.leave()

    async def _look_on(self) -> None:
        """What is shown by an agent that does not lead."""
        if self._leadership.leader and not self._leadership.epoch:
            self._notifier.update(())
        if self._clock() - self._looked_at < LOOK_EVERY:
            return
        await self._oncall.load()
        await self._posture.look()
        self._looked_at = self._clock()

    # The loops.

    async def _evaluate_for_ever(self) -> None:
        failing = ""
        while True:
            began = time.monotonic()
            try:
                await self._evaluate()
                failing, self._ready["evaluation"] = "", ""
            except StoreUnavailable as e:
                # The last snapshot stays, with its age; nothing is decided without the store.
                self._ready["evaluation"] = f"the store does not answer: {e}"
                if failing != str(e):
                    failing = str(e)
                    log.error("evaluation.failed", error=failing)
            await asyncio.sleep(max(0.1, self._settings.vitals.interval - (time.monotonic() - began)))

    async def _evaluate(self) -> None:
        now = self._clock()
        if self._posture.watching:
            self.metrics.dns_late(self._posture.late())
        self._source_states = await self.ledger.sources()
        newest = await self.ledger.recent_bounces(EXPLAINED_BOUNCES)
        self._recent = tuple(newest[:RECENT_BOUNCES])
        hints = await asyncio.to_thread(bounce_hints, newest, now - DAY, self._settings.vitals.bounce_classes)
        self._snapshot = await self._worked_out(self._rounds.round(now, await self.ledger.amended()))
        gated = len(self._snapshot.domains) >= FEW and now // MINUTE == self._gated_at
        leading = self._leading and self._leading == self._leadership.epoch
        if not leading:
            await self._look_on()
        findings = self._posture.findings() if leading or not gated else ()
        if leading:
            await self._decide(self._snapshot, now, hints, findings, self._leading)
        if not gated:  # Gates tell of days.
            await asyncio.to_thread(self._trends.judge, findings, self._oncall.incidents())
            self._gated_at = now // MINUTE

    async def _worked_out(self, steps: Steps) -> Snapshot:
        """The end of a round, during which whoever has something to do has it done."""
        answer: Sequence[Row] | None = None
        heavy = False
        while True:
            wanted = await asyncio.to_thread(_step, steps, answer) if heavy else _step(steps, answer)
            answer, heavy = None, wanted is True
            if isinstance(wanted, Snapshot):
                return wanted
            if isinstance(wanted, Wanted):
                answer = await self.ledger.rows(
                    wanted.width, wanted.since, wanted.until, merge=wanted.merge, edges=wanted.edges,
                    by_domain=wanted.by_domain, domains=wanted.domains,
                )  # fmt: skip
            elif not heavy:
                await asyncio.sleep(BREATH)

    async def _decide(
        self,
        snapshot: Snapshot,
        now: float,
        hints: dict[tuple[str, str], Hints],
        findings: tuple[Watched, ...],
        epoch: int,
    ) -> None:
        """What follows from what is known, as the leader of ``epoch``."""
        await self._oncall.load_mutes()
        decision = await asyncio.to_thread(
            self._oncall.decide,
            now,
            snapshot,
            findings=findings,
            sources=self._source_health(),
            hints=hints,
            explained=self._trends.explained(),
        )
        try:
            await self._keep_and_tell(decision, epoch)
            await self._posture.save(epoch)
        except Deposed as e:
            log.warning("leadership.deposed", error=str(e))
            self._leadership.lost()

    async def _keep_and_tell(self, decision: Decision, epoch: int) -> None:
        self._oncall.take(decision)
        try:
            await self._oncall.save(epoch)
        except StoreUnavailable:
            # What is told and not kept, a successor would tell again in words of its own. But a store that takes
            # nothing for long (its disk is full) must not make the agent dumb.
            if time.monotonic() - self._kept_at < UNKEPT_FOR:
                self._oncall.undo(decision)
            else:
                self._oncall.tell()
            raise
        self._kept_at = time.monotonic()
        self._oncall.tell()

    async def _probe_for_ever(self) -> None:
        while True:
            writable = await self.ledger.writable()
            self._ready["store"] = "" if writable else "the store cannot commit"
            doubt = self._clock_watch.doubt()
            if bool(doubt) != bool(self._ready["clock"]):
                (log.error if doubt else log.warning)("clock.doubted" if doubt else "clock.believed", reason=doubt)
            self._ready["clock"] = doubt
            if self._tls:
                self._tls.renew()
            await asyncio.sleep(PROBE_EVERY)

    async def _prune_for_ever(self) -> None:
        while True:
            try:
                if self._clock_watch.settled():
                    await self.ledger.prune(self._clock())
            except StoreUnavailable as e:
                log.warning("prune.failed", error=str(e))
            await asyncio.sleep(PRUNE_EVERY)

    async def _keep_pulse_for_ever(self) -> None:
        saved = time.monotonic()
        while True:
            await asyncio.sleep(PROBE_EVERY)
            now = self._clock()
            self._pulse.listening(now, not any(self._ready[name] for name in ("store", "intake", "clock")))
            await self._share_what_was_heard()
            if time.monotonic() - saved < PULSE_EVERY:
                continue
            saved = time.monotonic()
            for _ in self._pulse.judge(now):
                await asyncio.sleep(0)
            if not self._leading:
                continue
            try:
                await self._save_pulse(self._leading)
            except (StoreUnavailable, Deposed) as e:
                log.warning("rhythm.not_saved", error=str(e))

    async def _share_what_was_heard(self) -> None:
        """Requests go to any of the agents that share a store; only what all of them heard tells of a source."""
        refused = {name: door.unauthorized_at for name, door in self._intake.doors.items()}
        new = {name: at for name, at in refused.items() if at > self._refused_at(name)}
        try:
            if new:
                await self.ledger.save("refused", {name: str(at).encode() for name, at in new.items()})
            if self._leading:
                self._refused = await self._refusals()
                for name, seen in self._source_states.items():
                    self._pulse.told(name, seen.last_received_at)
        except StoreUnavailable:
            return  # The probe says so.
        self._refused |= new

    async def _refusals(self) -> dict[str, float]:
        """When each source was last refused by any agent. Raises ``StoreUnavailable``."""
        return {name: float(at) for name, at in (await self.ledger.load("refused")).items()}

    def _refused_at(self, source: str) -> float:
        return self._refused.get(source, 0.0)

    async def _save_pulse(self, epoch: int) -> None:
        for name, body in self._pulse.changes(self._clock()):
            await self.ledger.save("rhythm", {name: body}, epoch=epoch)

    def _heard_from_edge(self, source: str, at: float, events: int) -> None:
        if door := self._intake.doors.get(source):  # One that is not listed here is counted, and no more.
            door.requests["relayed"] = door.requests.get("relayed", 0) + 1
            self._pulse.heard(source, at, events)

    # What the views ask for.

    def state(self) -> State:
        """Everything the views show, at this moment."""
        return State(
            version=__version__,
            now=self._clock(),
            started_at=self._started_at,
            demo=self._demo,
            leader=self._leadership.epoch > 0,
            readiness=tuple(Readiness(name, not why, why) for name, why in self._ready.items()),
            snapshot=self._snapshot,
            phases=self._phases,
            domain_phases=self._domain_phases,
            findings=self._posture.findings(),
            incidents=self._oncall.incidents(),
            mutes=self._oncall.mutes(),
            sources=tuple(self._source_view(s.name, s.provider, s.domain or "") for s in self._settings.sources),
            recent_bounces=self._recent,
            blocklists=self._posture.lists(),
            dns_changes=self._posture.changes(),
            trends=dict(self._trends.trends),
            gates=self._trends.gates,
            alertmanagers=tuple(
                AlertmanagerView(d.url, d.last_success_at, d.last_error) for d in self._notifier.status()
            ),
        )

    def _source_view(self, name: str, provider: str, domain: str) -> SourceView:
        seen = self._source_states.get(name)
        door = self._intake.doors[name]
        return SourceView(
            name, provider, domain, seen.last_received_at if seen else 0.0, seen.last_event_at if seen else 0.0,
            dict(door.requests), door.quarantined, door.last_error, door.last_error_at, dict(door.tests),
            self._pulse.silence(name),
        )  # fmt: skip

    def _source_health(self) -> list[SourceHealth]:
        return [
            SourceHealth(
                source.name,
                source.domain or "",
                self._domain_phases.get(source.domain or "", ""),
                seen.last_received_at if (seen := self._source_states.get(source.name)) else 0.0,
                max(self._intake.doors[source.name].unauthorized_at, self._refused_at(source.name)),
                self._pulse.silence(source.name),
                source.provider,
            )
            for source in self._settings.sources
        ]

    async def _check_now(self, domain: str) -> None:
        if not self._posture.watching:
            raise NotLeading(self._leadership.leader)
        await self._posture.check_now(domain)


def _step(steps: Steps, answer: Sequence[Row] | None) -> Wanted | bool | Snapshot:
    try:
        return steps.send(answer)
    except StopIteration as end:
        found: Snapshot = end.value
        return found


def _plans(settings: Settings, phases: Mapping[str, Phase]) -> dict[str, Plan]:
    found = {}
    for domain in settings.domains:
        begin = domain.phase_since
        since = datetime(begin.year, begin.month, begin.day, tzinfo=UTC).timestamp() if begin else None
        found[domain.name] = Plan(phases[domain.phase], since, domain.monthly_limit)
    return found


def serve(settings: Settings, *, demo: bool = False, alongside: Callable[[Daemon], Any] | None = None) -> None:
    """Run the agent in this process until a signal ends it. Raises as ``Daemon`` and ``Daemon.run`` do."""
    import uvloop

    # A thread that computes gives the event loop its turn after this long, not after the default of 5 ms.
    sys.setswitchinterval(0.001)
    settle_garbage()

    async def main() -> None:
        await Daemon(settings, demo=demo).run(alongside)

    uvloop.run(main())
