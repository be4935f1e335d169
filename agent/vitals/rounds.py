"""Evaluations one after the other: every domain within a minute, and sooner what something was counted for.

Windows move by whole minutes, so that everybody's numbers change a little in every minute. A round looks at those
domains whose turn it is, so that each has one a minute, and at as many more for which something new was counted. What a
domain holds is carried along (``sums``), and what it shows is worked out only if that has changed. What was counted in
an hour that is not read again every time is told by the store (``amended``): such a domain begins anew.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from functools import partial
from math import ceil

from agent.clock import DAY, HOUR, MINUTE
from agent.vitals.courses import Cell, Courses, Shares
from agent.vitals.evaluate import vitals_of
from agent.vitals.phases import PHASES, Phase
from agent.vitals.rates import COUNTED_CLASSES, Counts
from agent.vitals.sums import DAYS, LONGEST_GAP, Reading, Row, Sums, Wanted, by_domain, looked, recent, slid
from agent.vitals.types import DomainVitals, Snapshot
from agent.vitals.verdicts import STALE_AFTER, Standing, Target
from agent.vitals.volume import month_start

FEW = 50
"""With fewer domains all are looked at in every round."""
_TURN = 55.0  # seconds after which it is a domain's turn again
_PAGE = 10  # domains that are read together: their rows take a millisecond
_NEW = 2 * MINUTE  # seconds back in which every round looks for what is new; all that is recent once a minute
_STEP = 2 * DAY  # seconds of days that are read at a time

Steps = Generator[Wanted | bool, Collection[Row] | None, Snapshot]
"""Yields what rows it wants, to be sent them; ``False`` where others may have their turn, ``True`` where they should:
what comes next takes some ten milliseconds."""

_Held = tuple[dict[str, list[tuple[Cell, Counts]]], int, int, dict[int, list[int]]]
_Marks = dict[tuple[str, int, str], int]


class Rounds:
    """``evaluate``, again and again; the same numbers. A round that is broken off costs nothing."""

    def __init__(
        self,
        phases_of: Mapping[str, Phase],
        *,
        stale_after: float = STALE_AFTER,
        bounce_classes: tuple[str, ...] = COUNTED_CLASSES,
        phases: Mapping[str, Phase] = PHASES,
    ) -> None:
        """``phases_of`` is the phase of each configured domain; the others as for ``evaluate``."""
        self._phases_of = phases_of
        self._stale_after, self._classes, self._phases = stale_after, bounce_classes, phases
        self._of = {name: _Domain() for name in phases_of}
        self._waiting: dict[
            str, None
        ] = {}  # for their turn, as something was counted for them; first come first served
        self._began = False
        self._at = float("-inf")
        self._amended: Mapping[str, object] = {}
        self._news = _News()

    def round(self, now: float, amended: Mapping[str, object]) -> Steps:
        """The state of all domains, at ``now`` (Unix seconds) or within a minute before it. ``amended`` is what
        ``Ledger.amended`` said before the first row is read. A domain of 16 parts takes about 0.1 milliseconds where
        nothing changed, up to one where its newest counts did, 15 the first time."""
        for name, mark in amended.items():
            if self._amended.get(name) != mark:
                self._of[name] = _Domain(self._of[name].shown if name in self._of else None)
                self._waiting.setdefault(name)
        self._amended = amended
        yield from self._listen(now)
        for domain in self._of.values():
            if not domain.sums.reaches(now):
                domain.sums = Sums()
        due = self._due(now)
        fresh = [name for name in due if not self._of[name].sums.first]
        calm = {
            name: self._of[name].sums for name in due
            if len(self._of) >= FEW and name not in self._waiting and self._of[name].sums.first == recent(now)
        }  # fmt: skip
        changed = yield from slid(calm, now)
        for name in calm:
            domain = self._of[name]
            if name in changed or domain.silent != self._silent(domain.sums, now):
                yield False
                self._work_out(name, domain, now)
            domain.at = now
        known = [name for name in due if name not in calm and self._of[name].sums.first]
        pages = [known[n : n + _PAGE] for n in range(0, len(known), _PAGE)] + [[name] for name in fresh]
        for page in pages:
            yield from looked({name: self._of[name].sums for name in page}, now)
            for name in page:
                domain = self._of[name]
                yield domain.shown is None or not domain.at
                self._work_out(name, domain, now)
                self._waiting.pop(name, None)
        self._at = now
        shown = {name: domain.shown for name, domain in self._of.items() if domain.shown is not None}
        return Snapshot(now, shown)

    def _listen(self, now: float) -> Reading:
        """Note what something was counted for since the last time."""
        soon = now + HOUR
        if not self._began:
            for back in range(0, DAYS + _STEP, _STEP):
                since = now - DAYS + back
                self._meet(row[1][0] for row in (yield Wanted(DAY, since, since + _STEP, by_domain=True)) or ())
            self._began = True
        # What lay ahead in the last round is new in this one.
        since = min(int(now // MINUTE) * MINUTE - _NEW, max(self._at // MINUTE * MINUTE, now - LONGEST_GAP))
        self._meet(self._news.come(since, now, (yield Wanted(MINUTE, since, soon, by_domain=True)) or ()))
        if now // MINUTE != self._at // MINUTE:
            hours = by_domain((yield Wanted(HOUR, recent(now), soon, by_domain=True)))
            self._meet(
                name
                for name in list(self._of.keys() | hours.keys())
                if name not in self._of or self._of[name].sums.differs(hours.get(name, ()), now)
            )

    def _meet(self, names: Iterable[str]) -> None:
        for name in names:
            self._waiting.setdefault(name)
            if name not in self._of:
                self._of[name] = _Domain()

    def _due(self, now: float) -> list[str]:
        names = list(self._of)
        if len(names) < FEW:
            return names
        new = [name for name in names if self._of[name].shown is None]
        elapsed = now - self._at
        part = ceil(len(names) * min(1.0, elapsed / _TURN)) if elapsed >= 0 else len(names)
        turn = [name for name in names if not 0 <= now - self._of[name].at < _TURN]
        turn.sort(key=lambda name: self._of[name].at)
        return list(dict.fromkeys([*new, *turn[:part], *list(self._waiting)[:part]]))

    def _silent(self, sums: Sums, now: float) -> int:
        """For how many hours it has been stale."""
        return round((now - sums.last) / HOUR) if now - sums.last > self._stale_after else 0

    def _work_out(self, name: str, domain: _Domain, now: float) -> None:
        sums, phase = domain.sums, self._phases_of.get(name)
        domain.at, domain.silent = now, self._silent(sums, now)
        held = sums.windows(), sums.first, domain.silent, sums.days
        if domain.shown is not None and held == domain.held and sums.last == domain.shown.last_event_at:
            return
        volumes = sums.volumes()
        if phase is None and not volumes and not any(held[0].values()):
            del self._of[name]  # Nothing is left of a domain that no setting names.
            return
        domain.held = held[0], held[1], held[2], dict(sums.days)
        domain.shown = vitals_of(
            name,
            now,
            held[0],
            volumes,
            sums.month(month_start(now)),
            phase=phase,
            last_event_at=sums.last,
            shares=domain.shares,
            standings=partial(_standings, domain),
            stale_after=self._stale_after,
            bounce_classes=self._classes,
            phases=self._phases,
        )
        sums.settled()


class _Domain:
    """What is kept of one domain from round to round, and when it was last looked at."""

    def __init__(self, shown: DomainVitals | None = None) -> None:
        self.sums, self.shares, self.courses = Sums(), Shares(), Courses()
        self.at = 0.0
        self.silent = 0
        self.shown = shown
        self.held: _Held | None = None


def _standings(domain: _Domain, targets: Sequence[Target], now: float) -> list[Standing]:
    return domain.courses.standings(domain.sums.hours, domain.sums.since, targets, now)


class _News:
    """Which domains have other counts than the last time."""

    def __init__(self) -> None:
        self._since = float("inf")
        self._marks: _Marks = {}

    def come(self, since: float, now: float, rows: Iterable[Row]) -> set[str]:
        """These are all rows from ``since`` to ``now``."""
        marks = {(cell[0], bucket, measure): count for bucket, cell, measure, count in rows if bucket <= now}
        before, both = self._marks, max(since, self._since)
        found = {key[0] for key, count in marks.items() if key[1] >= both and before.get(key) != count}
        found |= {key[0] for key in before.keys() - marks.keys() if key[1] >= both}
        self._since, self._marks = since, marks
        return found
