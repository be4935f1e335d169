"""Traffic as a mail stream makes it, and the truth about it: pure, and the same for the same seed.

A message is drawn, its whole fate decided, and its reports put where they belong in time. What a ledger must end up
with is counted from the fates, not from the reports, and shares no code with any ledger.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from math import inf
from typing import NamedTuple

import msgspec

from agent.clock import HOUR
from agent.events import BounceClass, Kind
from agent.mailbox import mailbox_provider

_SHARES = (
    "hard", "soft", "block", "undetermined", "dropped", "deferred", "asynchronous", "soft_then_hard", "opened",
    "clicked", "complained", "unsubscribed", "duplicates", "changed_ids", "late",
)  # fmt: skip
_DOMAINS = {"example.com": 3.0, "news.example.org": 1.0}
_STREAMS = {"transactional": 1.0, "newsletter": 2.0}
_MAILBOXES = {
    "gmail.com": 40.0, "outlook.com": 14.0, "hotmail.com": 6.0, "yahoo.com": 12.0, "icloud.com": 8.0, "gmx.de": 3.0,
    "web.de": 2.0, "orange.fr": 2.0, "proton.me": 1.0, "company.example": 12.0,
}  # fmt: skip


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """What to simulate. ``start`` is Unix seconds, ``duration`` and ``lateness`` seconds; weights are relative; all
    else that is not a count is a share, 0..1.

    ``hard`` to ``dropped`` are shares of all messages (each comes to one end; the rest is delivered), ``deferred`` is
    the share of those not dropped that is put off first, once to three times. ``asynchronous``, ``opened``,
    ``complained`` and ``unsubscribed`` are shares of what is delivered, ``clicked`` of what is opened,
    ``soft_then_hard`` of what bounces hard: reported soft first. Of the reports, the share ``duplicates`` is sent
    again, ``changed_ids`` of these with another event id, and the share ``late`` arrives up to ``lateness`` late.
    What would happen after ``until`` (Unix seconds) does not: no ESP reports the future, and no agent takes it.
    """

    start: float
    seed: int = 1
    messages: int = 10_000
    duration: float = 86400.0
    until: float = inf
    hard: float = 0.004
    soft: float = 0.003
    block: float = 0.002
    undetermined: float = 0.0005
    dropped: float = 0.003
    deferred: float = 0.04
    asynchronous: float = 0.0005
    soft_then_hard: float = 0.05
    opened: float = 0.25
    clicked: float = 0.15
    complained: float = 0.0003
    unsubscribed: float = 0.001
    duplicates: float = 0.01
    changed_ids: float = 0.3
    late: float = 0.01
    lateness: float = 6 * 3600.0
    domains: Mapping[str, float] = msgspec.field(default_factory=_DOMAINS.copy)
    streams: Mapping[str, float] = msgspec.field(default_factory=_STREAMS.copy)
    mailboxes: Mapping[str, float] = msgspec.field(default_factory=_MAILBOXES.copy)

    def __post_init__(self) -> None:
        for name in _SHARES:
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is a share, 0 to 1")
        if self.hard + self.soft + self.block + self.undetermined + self.dropped > 1:
            raise ValueError("hard, soft, block, undetermined and dropped add up to more than 1")
        if self.messages < 0 or self.duration <= 0 or self.lateness < 0:
            raise ValueError("messages and lateness are not negative, duration is positive")
        if any(not weights or min(weights.values()) <= 0 for weights in (self.domains, self.streams, self.mailboxes)):
            raise ValueError("domains, streams and mailboxes need at least one entry each, and weights above 0")


class Voice(msgspec.Struct, frozen=True):
    """What a vendor's reports say and leave out. ``reports_accepted``: it tells of mail it took. ``names_domain``: the
    kinds whose payload names the sending domain. ``async_ids``: its asynchronous bounces name the message; if not, a
    ledger can neither match them to their delivery nor know their domain and stream. ``silent``: kinds it never tells
    of. ``classes``: what becomes of a class that it has no words for; ``async_class``: that of asynchronous bounces."""

    reports_accepted: bool
    names_domain: frozenset[Kind]
    async_ids: bool
    silent: frozenset[Kind] = frozenset()
    classes: Mapping[BounceClass, BounceClass] = {}
    async_class: BounceClass = BounceClass.HARD
    names_stream: bool = True


class Item(msgspec.Struct, frozen=True, gc=False):
    """One report. ``at`` is the whole Unix second of the event, ``emitted_at`` when it is sent. ``message`` counts from
    0; ``serial`` is unique per event, its copies keep it; ``id_version`` differs when a copy bears another event id.
    ``attempt`` counts deferrals from 1, ``choice`` picks among equally good wordings, links and the like."""

    emitted_at: float
    serial: int
    kind: Kind
    at: int
    message: int
    recipient: str
    domain: str
    stream: str
    bounce_class: BounceClass | None = None
    asynchronous: bool = False
    attempt: int = 0
    choice: int = 0
    id_version: int = 0


class Place(NamedTuple):
    """Where an event counts: ``domain`` and ``stream`` as the payload names them, ``""`` where it does not."""

    domain: str
    stream: str
    mailbox_provider: str


class Truth(msgspec.Struct):
    """What a ledger that counts exactly once ends up with, all reports given.

    ``counts`` by place and measure: the kinds, of bounces the class, ``delivered`` net of what bounced later, and
    ``deferred_pairs``, one per message and UTC hour. ``reports`` is the number of reports sent, copies included.
    ``unmatched_async_bounces`` are in ``counts`` too, on top of their deliveries. Complete when the stream is at its
    end.
    """

    counts: Counter[tuple[Place, str]] = msgspec.field(default_factory=Counter)
    reports: int = 0
    copies: int = 0
    unmatched_async_bounces: int = 0

    def total(self, measure: str, **place: str) -> int:
        """The count of one measure, of all places that agree with the given parts (``domain=...``)."""
        wanted = place.items()
        return sum(
            n for (where, what), n in self.counts.items()
            if what == measure and all(getattr(where, part) == value for part, value in wanted)
        )  # fmt: skip


class Traffic:
    """The reports of a scenario in the order they are sent, and the truth about them.

    Iterate once. Holds no more in memory than the reports that are under way (late ones and later events).
    """

    def __init__(self, scenario: Scenario, voice: Voice) -> None:
        self.truth = Truth()
        self._scenario = scenario
        self._voice = voice
        self._random = random.Random(scenario.seed)  # noqa: S311 - reproducible, not secret
        self._serials = itertools.count()
        self._domains = _Weighted(scenario.domains)
        self._streams = _Weighted(scenario.streams)
        self._mailboxes = _Weighted(scenario.mailboxes)

    def __iter__(self) -> Iterator[Item]:
        scenario = self._scenario
        step = scenario.duration / max(scenario.messages, 1)
        under_way: list[tuple[float, int, Item]] = []
        order = itertools.count()
        for message in range(scenario.messages):
            sent_at = scenario.start + step * (message + self._random.random())
            for item in self._reports(message, int(sent_at)):
                heapq.heappush(under_way, (item.emitted_at, next(order), item))
            # No later message can send anything before its own beginning.
            horizon = scenario.start + step * (message + 1)
            while under_way and under_way[0][0] < horizon:
                yield heapq.heappop(under_way)[2]
        while under_way:
            yield heapq.heappop(under_way)[2]

    def _reports(self, message: int, sent_at: int) -> Iterator[Item]:
        """All reports of one message, copies included, in no order."""
        items = [item for item in self._fate(message, sent_at) if item.at <= self._scenario.until]
        self._tell(items)
        for item in items:
            emitted_at = item.at + self._random.uniform(0.5, 30.0)
            if self._random.random() < self._scenario.late:
                emitted_at += self._random.uniform(0, self._scenario.lateness)
            yield msgspec.structs.replace(item, emitted_at=emitted_at)
            self.truth.reports += 1
            if self._random.random() < self._scenario.duplicates:
                # Without a message id an event id is all that tells two events apart, so these keep theirs.
                changed = self._has_message_id(item) and self._random.random() < self._scenario.changed_ids
                again = emitted_at + self._random.uniform(1, 900)
                yield msgspec.structs.replace(item, emitted_at=again, id_version=int(changed))
                self.truth.reports += 1
                self.truth.copies += 1

    def _has_message_id(self, item: Item) -> bool:
        return self._voice.async_ids or not item.asynchronous

    def _tell(self, items: list[Item]) -> None:
        """Add what the reports of one message come to."""
        counts = self.truth.counts
        deferred_hours = set()
        outcome: tuple[Place, str] | None = None
        for item in items:
            place = self._place(item)
            if item.kind is Kind.BOUNCED:
                measure = str(item.bounce_class)
                if item.asynchronous and not self._voice.async_ids:
                    self.truth.unmatched_async_bounces += 1
                    counts[place, measure] += 1
                else:
                    outcome = (place, measure)  # in order of time: the last one stands
            elif item.kind is Kind.DELIVERED:
                outcome = outcome or (place, item.kind)
            else:
                counts[place, item.kind] += 1
            if item.kind is Kind.DEFERRED:
                deferred_hours.add((place, item.at // HOUR))
        if outcome:
            counts[outcome] += 1
        for place, _ in deferred_hours:
            counts[place, "deferred_pairs"] += 1

    def _place(self, item: Item) -> Place:
        mailbox = mailbox_provider(item.recipient.rpartition("@")[2])
        if not self._has_message_id(item):
            return Place("", "", mailbox)
        stream = item.stream if self._voice.names_stream else ""
        return Place(item.domain if item.kind in self._voice.names_domain else "", stream, mailbox)

    def _fate(self, message: int, at: int) -> list[Item]:
        """Every report of one message in order of time, the future included."""
        draw, scenario = self._random.random, self._scenario
        domain, stream = self._domains.pick(draw()), self._streams.pick(draw())
        mailbox = self._mailboxes.pick(draw())
        # Nobody's address: a local part that no registrar of one would give out.
        recipient = f"mv.{scenario.seed:x}.{message:08x}@{mailbox}"
        items: list[Item] = []

        def report(
            kind: Kind, at: int, bounce_class: BounceClass | None = None, asynchronous: bool = False, attempt: int = 0
        ) -> None:
            if kind in self._voice.silent:
                return
            if bounce_class is not None:
                bounce_class = self._voice.classes.get(bounce_class, bounce_class)
            items.append(
                Item(
                    0.0, next(self._serials), kind, at, message, recipient, domain, stream, bounce_class, asynchronous,
                    attempt, self._random.getrandbits(16),
                )
            )  # fmt: skip

        end = draw()
        if end < scenario.dropped:
            report(Kind.DROPPED, at)
            return items
        if self._voice.reports_accepted:
            report(Kind.ACCEPTED, at)
        if draw() < scenario.deferred:
            for attempt in range(1, 2 + int(draw() * 3)):
                at += 60 + int(draw() * 2400)
                report(Kind.DEFERRED, at, attempt=attempt)
        at += 1 + int(draw() * 20)

        threshold = scenario.dropped
        for bounce_class, share in (
            (BounceClass.HARD, scenario.hard),
            (BounceClass.SOFT, scenario.soft),
            (BounceClass.BLOCK, scenario.block),
            (BounceClass.UNDETERMINED, scenario.undetermined),
        ):
            threshold += share
            if end < threshold:
                if bounce_class is BounceClass.HARD and draw() < scenario.soft_then_hard:
                    report(Kind.BOUNCED, at, BounceClass.SOFT)
                    at += 60 + int(draw() * 7200)
                report(Kind.BOUNCED, at, bounce_class)
                return items

        report(Kind.DELIVERED, at)
        if draw() < scenario.asynchronous:
            at += HOUR + int(draw() * 8 * HOUR)
            report(Kind.BOUNCED, at, self._voice.async_class, asynchronous=True)
            return items
        if draw() < scenario.opened:
            at += 5 + int(draw() * 6 * HOUR)
            report(Kind.OPENED, at)
            if draw() < scenario.clicked:
                at += 2 + int(draw() * 120)
                report(Kind.CLICKED, at)
        if draw() < scenario.complained:
            at += 30 + int(draw() * 3 * HOUR)
            report(Kind.COMPLAINED, at)
        if draw() < scenario.unsubscribed:
            at += 10 + int(draw() * HOUR)
            report(Kind.UNSUBSCRIBED, at)
        return items


class _Weighted:
    """Draws names by weight from one uniform number each."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        total = sum(weights.values())
        self._names = list(weights)
        self._ends = list(itertools.accumulate(weight / total for weight in weights.values()))

    def pick(self, uniform: float) -> str:
        for name, end in zip(self._names, self._ends, strict=True):
            if uniform < end:
                return name
        return self._names[-1]
