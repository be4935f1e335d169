"""Verdicts that rest on evidence, not on points, and that hold whenever they are looked at (``sequence``).

``decide`` judges one target by the course of its hours. ``judge`` does the same for a caller who keeps the course from
one look to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

import msgspec

from agent.clock import DAY, HOUR
from agent.vitals.capacity import Span, judge_capacity
from agent.vitals.late import Days
from agent.vitals.phases import PHASES, Phase
from agent.vitals.rates import COUNTED_CLASSES, Counts, proportion, total
from agent.vitals.sequence import ALARM, LEAST_FAILURES, MOUNTING, PROOF, Course, course, pooled, proof
from agent.vitals.types import WINDOWS, Judgement, TargetVerdict

STALE_AFTER = 86400.0

Measure = Literal["bounce", "deliverability", "complaint", "capacity"]
Hour = tuple[int, Counts]
"""(Unix time at which the hour began, what happened in it)"""


class Standing(msgspec.Struct, frozen=True):
    """What the course of a series says of one target at one moment. ``since`` and ``ended`` are Unix seconds, 0 =
    none: when the present breach is likely to have begun, and when the last one ended. ``dispersion`` is that of the
    hours without a breach, ``scatter`` that of all."""

    evidence: float = 0.0
    since: int = 0
    ended: int = 0
    dispersion: float = 1.0
    scatter: float = 1.0


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What one domain is held to.

    For the rates, ``met`` and ``breach`` are in 0..1, in the direction of the rate itself: ``bounce`` and
    ``complaint`` must be below ``met`` and are breached above ``breach``; ``deliverability`` the other way round.
    For ``capacity`` they play no part: ``capacity`` is (least, most) attempted messages in 30 days, ``ladder`` the
    names and capacities of all phases, smallest first, for saying where between two phases a volume lies.

    The last of ``windows`` is how long a breach stands that no further evidence confirms.

    ``last_event_at`` is Unix seconds, 0 = never; an older one than ``stale_after`` seconds makes every verdict stale.
    """

    name: Measure
    windows: tuple[str, ...]
    met: float = 0.0
    breach: float = 0.0
    bounce_classes: tuple[str, ...] = COUNTED_CLASSES
    phase: str = ""
    capacity: Span = (None, None)
    ladder: tuple[tuple[str, Span], ...] = ()
    last_event_at: float = 0.0
    stale_after: float = STALE_AFTER

    @property
    def memory(self) -> float:
        """For how many seconds evidence counts."""
        return float(WINDOWS[self.windows[-1]])

    def of(self, counts: Counts) -> tuple[int, int]:
        """(failures, trials): everything is judged as a share of failures, deliverability by its complement."""
        if self.name == "complaint":
            return counts.complained, counts.delivered
        failures = counts.bounced if self.name == "deliverability" else counts.of_classes(self.bounce_classes)
        return failures, counts.attempted

    def share(self, limit: float) -> float:
        """A limit of the rate as one of the share of failures."""
        return 1 - limit if self.name == "deliverability" else limit


def targets(
    phase: Phase,
    *,
    last_event_at: float,
    stale_after: float = STALE_AFTER,
    bounce_classes: tuple[str, ...] = COUNTED_CLASSES,
    phases: Mapping[str, Phase] = PHASES,
) -> tuple[Target, ...]:
    """The targets of a phase. ``capacity`` is among them only if the phase asks for one."""

    def target(name: Measure, windows: tuple[str, ...], met: float, breach: float) -> Target:
        return Target(
            name=name, windows=windows, met=met, breach=breach, bounce_classes=bounce_classes, phase=phase.name,
            capacity=phase.capacity, ladder=ladder, last_event_at=last_event_at, stale_after=stale_after,
        )  # fmt: skip

    sized = [p for p in phases.values() if p.capacity != (None, None)]
    ladder = tuple((p.name, p.capacity) for p in sorted(sized, key=lambda p: p.capacity[0] or 0))
    found = [
        target("bounce", ("24h", "7d"), phase.bounce_max, phase.bounce_max),
        target("deliverability", ("24h", "7d"), phase.deliverability_min, phase.deliverability_min),
        # Complaints follow days after their mail: within a day most have not come yet.
        target("complaint", ("7d", "30d"), phase.complaint_max, phase.complaint_breach),
    ]
    if phase.capacity != (None, None):
        found.append(target("capacity", ("30d",), 0.0, 0.0))
    return tuple(found)


def decide(hourly_counts: Sequence[Hour], target: Target, now: float) -> Judgement:
    """Judge one target from the hours of up to 30 days, in any order; hours without events may be missing.

    An hour belongs to a window if any part of it does. About 2 milliseconds for 720 hours. Raises ``ValueError`` for a
    target without windows.
    """
    if not target.windows:
        raise ValueError(f"target {target.name} has no window")
    oldest = now - WINDOWS["30d"] - HOUR
    hours = [(start, counts) for start, counts in hourly_counts if oldest < start <= now]
    totals = {
        window: total(counts for start, counts in hours if start > now - WINDOWS[window] - HOUR)
        for window in target.windows
    }
    if target.name == "capacity":
        return judge(target, totals, Standing(), now)
    if target.name == "complaint":
        days = Days()
        for start, counts in hours:
            days.take(start, *target.of(counts))
        return judge(target, totals, standing_of_days(days, target, now), now)
    sums: dict[int, tuple[int, int]] = {}
    for start, counts in hours:
        failures, trials = target.of(counts)
        before = sums.get(start, (0, 0))
        sums[start] = before[0] + failures, before[1] + trials
    series = [(start, *both) for start, both in sums.items()]
    return judge(target, totals, standing(course(series, target.share(target.breach), target.memory), target, now), now)


def standing(course: Course, target: Target, now: float) -> Standing:
    """Where a course stands at ``now``, if nothing has come since its last hour."""
    lasts = bool(course.breached_since) and now - course.confirmed <= target.memory + HOUR
    recent = course.ended if course.ended > now - target.memory - HOUR else 0
    return Standing(course.evidence, course.breached_since if lasts else 0, recent, course.dispersion, course.scatter)


def standing_of_days(days: Days, target: Target, now: float, alarm: float = ALARM) -> Standing:
    """Where a target stands whose failures come days after their trials.

    Changes are looked for at the midnights between the target's windows, 7 to 30 days back, so that nearly all
    complaints stand beside the mail they are about. An alarm at a rate at the limit comes no more often than once in
    ``alarm`` days on average.
    """
    newest, oldest = (int(now // DAY) - WINDOWS[window] // DAY for window in (target.windows[0], target.windows[-1]))
    held, dispersion = days.held(now - target.memory - DAY), days.dispersion(now)
    beginnings = (d * DAY for d in range(newest, oldest - 1, -1))
    evidence, since = pooled(held, beginnings, target.share(target.breach), dispersion)
    alarmed = evidence >= alarm and sum(failures for _, failures, _ in held) >= LEAST_FAILURES
    return Standing(evidence, max(since, held[-1][0]) if alarmed else 0, 0, dispersion, dispersion)


def judge(target: Target, totals: Mapping[str, Counts], standing: Standing, now: float) -> Judgement:
    """The verdict by where the target stands and what its windows hold (``totals`` by window).

    ``breached`` while the standing says so; else ``met`` if one of the windows proves it and none that could decide has
    a rate beyond the limit. The reported window is the one that decided: for a breach the first that has
    its beginning; of several undecided ones the one nearest to a breach; of windows that are all too thin the last,
    which holds most.
    """
    silent = target.last_event_at > 0 and now - target.last_event_at > target.stale_after
    hours = (now - target.last_event_at) / HOUR if silent else 0.0
    if target.name == "capacity":
        return judge_capacity(totals["30d"].attempted, target.phase, target.capacity, target.ladder, hours)
    seen = [_Seen(target, window, totals[window]) for window in target.windows]
    if silent:
        reason = f"no event for {hours:.0f} h: what came before says nothing of now"
        return seen[-1].judged(TargetVerdict.STALE, target.met, reason, standing)
    if standing.since:
        return _breached(target, seen, standing, now)
    limit = target.share(target.met)
    least = [proof(0, each.trials, limit, standing.dispersion) >= PROOF for each in seen]
    able = [each for each, enough in zip(seen, least, strict=True) if enough and each.bounded]
    beyond = any(each.failures >= limit * each.trials for each in able)
    for each in able if standing.evidence < MOUNTING and not beyond else ():
        if proof(each.failures, each.trials, limit, standing.dispersion) >= PROOF:
            return each.judged(TargetVerdict.MET, target.met, each.interval(_side(target, "met")), standing)
    if able:
        worst = max(able, key=lambda each: each.failures / each.trials)
        reason = worst.interval(_undecided(target, beyond, standing))
        return worst.judged(TargetVerdict.UNDECIDED, target.met, reason, standing)
    return seen[-1].judged(TargetVerdict.INSUFFICIENT_DATA, target.met, seen[-1].too_little(), standing)


class _Seen:
    """What one window holds, in numbers and words."""

    def __init__(self, target: Target, window: str, counts: Counts) -> None:
        self.target, self.window = target, window
        self.failures, self.trials = target.of(counts)
        good = target.name == "deliverability"
        self.rate = proportion(self.trials - self.failures if good else self.failures, self.trials)
        self.bounded = self.rate is not None and self.rate.lower is not None

    @property
    def words(self) -> str:
        return f"{self.rate.numerator:,} of {self.trials:,} in {self.window}" if self.rate else ""

    def interval(self, conclusion: str) -> str:
        if self.rate is None or self.rate.lower is None or self.rate.upper is None:
            return f"{self.words}: {conclusion}"
        between = f"between {_percent(self.rate.lower)} and {_percent(self.rate.upper)} with 95 % confidence"
        return f"{self.words}, {between}: {conclusion}"

    def too_little(self) -> str:
        what = "delivered" if self.target.name == "complaint" else "attempted"
        if self.rate is None:
            return f"nothing {what} in {self.window}"
        if not self.bounded:
            return f"{self.words}: more than were {what}, so they are of older mail"
        return f"{self.words}: too few to prove {_side(self.target, 'met')}, even without a failure"

    def judged(self, verdict: TargetVerdict, limit: float, reason: str, standing: Standing) -> Judgement:
        return Judgement(
            self.target.name, verdict, limit, self.window, self.rate, reason, since=float(standing.since) or None,
            ended=float(standing.ended) or None, evidence=standing.evidence, dispersion=standing.dispersion,
        )  # fmt: skip


def _breached(target: Target, seen: Sequence[_Seen], standing: Standing, now: float) -> Judgement:
    limit = target.share(target.breach)
    whole = [each for each in seen if standing.since > now - WINDOWS[each.window] - HOUR] or [seen[-1]]
    beyond = [each for each in whole if each.failures > limit * each.trials]
    told = (beyond or whole)[0]
    since = datetime.fromtimestamp(standing.since, UTC).strftime("%Y-%m-%d %H:%M UTC")
    chance = "336 days" if target.name == "complaint" else "336 hours of mail"
    reason = told.interval(
        f"{_side(target, 'breached')} since about {since}, by evidence that a rate within the limit gives less often "
        f"than once in {chance}"
    )
    return told.judged(TargetVerdict.BREACHED, target.breach, reason, standing)


def _undecided(target: Target, beyond: bool, standing: Standing) -> str:
    if beyond and standing.ended:
        ended = datetime.fromtimestamp(standing.ended, UTC).strftime("%Y-%m-%d %H:%M UTC")
        return f"the breach whose mail this still holds was over by {ended}"
    return f"not proven to be on either side of {_percent(target.met)}"


def _side(target: Target, verdict: Literal["met", "breached"]) -> str:
    if target.name == "deliverability":
        return f"at least {_percent(target.met)}" if verdict == "met" else f"below {_percent(target.breach)}"
    return f"below {_percent(target.met)}" if verdict == "met" else f"above {_percent(target.breach)}"


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.4g} %"
