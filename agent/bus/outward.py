"""What goes out: verdicts of targets and findings of DNS checks, retained for whoever subscribes later.

``messages`` is pure and says what should be there; ``Outward`` makes the broker hold it: what changed, all of it after
a reconnect, and nothing of what is not watched any more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol

import msgspec
import structlog

from agent.bus.client import Denied, NotDelivered
from agent.bus.wire import PREFIX
from agent.dns.checks.base import Verdict, Watched
from agent.ledger.base import Deposed, Ledger, StoreUnavailable
from agent.vitals.types import DomainVitals, Judgement, Snapshot, TargetVerdict

TICK = 1.0  # seconds between two looks at what changed
AT_ONCE = 100
# A verdict whose numbers alone moved is sent no more often than this (seconds).
NUMBERS_EVERY = 60.0
# What nobody renews expires: an agent that is gone for good leaves nothing that could pass for the present.
EXPIRY, RENEW_AFTER = 3600.0, 1200.0
KIND = "bus_topic"  # of the ledger's documents that name what is retained

log = structlog.get_logger()
_encode = msgspec.json.encode


class OutwardMetrics(Protocol):
    """What is reported of it."""

    def bus(self, direction: str, outcome: str, n: int = 1) -> None:
        """Messages by what became of them."""


class VerdictMessage(msgspec.Struct, frozen=True):
    """``mailvitals/verdicts/{domain}/{target}``. Ratios are in 0..1 (messages in 30 days for ``capacity``), with 95 %
    bounds; ``at`` is when it was judged, Unix seconds."""

    domain: str
    phase: str
    target: str
    verdict: TargetVerdict
    limit: float
    window: str
    value: float | None
    lower: float | None
    upper: float | None
    numerator: int | None
    denominator: int | None
    reason: str
    at: float


class SubjectFinding(msgspec.Struct, frozen=True):
    """What a check says of one subject. ``since`` is when this verdict began, ``checked_at`` the last look."""

    subject: str
    verdict: Verdict
    reason: str
    detail: str
    since: float
    checked_at: float


class FindingMessage(msgspec.Struct, frozen=True):
    """``mailvitals/findings/{domain}/{check}``. ``verdict`` is the worst of the subjects' (fail, warn, unknown, ok)."""

    domain: str
    check: str
    verdict: Verdict
    subjects: tuple[SubjectFinding, ...]


class Message(msgspec.Struct, frozen=True):
    """One retained message: What changes ``telling`` is sent at once, what changes ``payload`` alone can wait."""

    telling: bytes
    payload: bytes


_WORST = (Verdict.FAIL, Verdict.WARN, Verdict.UNKNOWN, Verdict.OK)


def messages(snapshot: Snapshot, findings: Iterable[Watched]) -> dict[str, Message]:
    """What the broker should hold, by topic."""
    out = {}
    for vitals in snapshot.domains.values():
        for j in vitals.judgements:
            message = _verdict(vitals, j, snapshot.evaluated_at)
            telling = _encode((message.verdict, message.phase, message.limit, message.window))
            out[f"{PREFIX}/verdicts/{_level(vitals.domain)}/{j.target}"] = Message(telling, _encode(message))
    grouped: dict[tuple[str, str], list[Watched]] = {}
    for watched in findings:
        grouped.setdefault((watched.domain, watched.finding.check), []).append(watched)
    for (domain, check), group in grouped.items():
        subjects = tuple(
            SubjectFinding(
                w.finding.subject, w.finding.verdict, w.finding.reason, w.finding.detail, w.since, w.checked_at
            )
            for w in sorted(group, key=lambda w: w.finding.subject)
        )
        worst = next(v for v in _WORST if any(s.verdict is v for s in subjects))
        telling = _encode([(s.subject, s.verdict, s.reason) for s in subjects])
        payload = _encode(FindingMessage(domain, check, worst, subjects))
        out[f"{PREFIX}/findings/{_level(domain)}/{_level(check)}"] = Message(telling, payload)
    return out


def _verdict(vitals: DomainVitals, judged: Judgement, at: float) -> VerdictMessage:
    about = (vitals.domain, vitals.phase, judged.target, judged.verdict, judged.limit, judged.window)
    if rate := judged.rate:
        numbers = (rate.value, rate.lower, rate.upper, rate.numerator, rate.denominator)
        return VerdictMessage(*about, *numbers, judged.reason, at)
    return VerdictMessage(*about, None, None, None, None, None, judged.reason, at)


def _level(name: str) -> str:
    """A name as one level of a topic (MQTT 5 section 4.7)."""
    return "".join("_" if c in "/+#\0" else c for c in name)


class _Sent(msgspec.Struct, frozen=True):
    message: Message
    at: float


class Outward:
    """Keeps the broker's retained messages as the present is. ``run`` does the work."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot | None],
        findings: Callable[[], Sequence[Watched]],
        publish: Callable[..., Coroutine[Any, Any, None]],
        connected: Callable[[], bool],
        ledger: Ledger,
        metrics: OutwardMetrics,
        *,
        epoch: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``snapshot`` gives the newest one, ``findings`` what goes with it. ``clock`` is in seconds and never goes
        back. ``epoch`` is that in which this process leads: only the leader speaks for all."""
        self._snapshot = snapshot
        self._findings = findings
        self._publish = publish
        self._connected = connected
        self._ledger = ledger
        self._metrics = metrics
        self._epoch = epoch
        self._clock = clock
        self._shown: Snapshot | None = None
        self._sent: dict[str, _Sent] = {}
        self._retained: set[str] = set()  # what the broker may hold, from earlier lives too
        self._restored = False
        self._failing = False

    def reconnected(self) -> None:
        """The broker may have forgotten: all is sent again."""
        self._sent.clear()
        self._shown = None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.round()
                self._failing = False
            except (NotDelivered, Denied, StoreUnavailable, Deposed) as e:
                if not self._failing:
                    self._failing = True
                    log.warning("bus.verdicts_not_sent", reason=str(e))
            await asyncio.sleep(TICK)

    async def round(self) -> None:
        """Send what is due now. Raises ``NotDelivered``, ``Denied``, ``StoreUnavailable`` or ``Deposed``."""
        snapshot = self._snapshot()
        if snapshot is None or snapshot is self._shown or not self._connected():
            return
        # Thousands of domains have tens of thousands of messages.
        wanted = await asyncio.to_thread(messages, snapshot, self._findings())
        if not self._restored:
            self._retained |= set(await self._ledger.load(KIND))
            self._restored = True
        new = wanted.keys() - self._retained
        if new:
            # Noted first: what is retained must not be forgotten, whatever happens in between.
            await self._ledger.save(KIND, dict.fromkeys(new, b""), epoch=self._epoch)
            self._retained |= new
        due = await asyncio.to_thread(self._due, wanted)
        for i in range(0, len(due), AT_ONCE):
            await self._send(due[i : i + AT_ONCE], wanted)
        gone = sorted(self._retained - wanted.keys())
        for topic in gone:
            await self._publish(topic, b"", retain=True)
            self._sent.pop(topic, None)
        if gone:
            self._metrics.bus("out", "cleared", len(gone))
            await self._ledger.save(KIND, dict.fromkeys(gone), epoch=self._epoch)
            self._retained -= set(gone)

        self._shown = snapshot

    async def _send(self, topics: Sequence[str], wanted: dict[str, Message]) -> None:
        results = await asyncio.gather(
            *(self._publish(topic, wanted[topic].payload, retain=True, expiry=EXPIRY) for topic in topics),
            return_exceptions=True,
        )
        for topic, result in zip(topics, results, strict=True):
            if isinstance(result, BaseException):
                self._metrics.bus("out", "denied" if isinstance(result, Denied) else "not_delivered")
                raise result
            self._metrics.bus("out", "published")
            self._sent[topic] = _Sent(wanted[topic], self._clock())

    def _due(self, wanted: dict[str, Message]) -> list[str]:
        now, due = self._clock(), []
        for topic, message in wanted.items():
            sent = self._sent.get(topic)
            age = now - sent.at if sent else 0.0
            if (
                sent is None
                or sent.message.telling != message.telling
                or age >= RENEW_AFTER
                or (age >= NUMBERS_EVERY and sent.message.payload != message.payload)
            ):
                due.append(topic)
        return due
