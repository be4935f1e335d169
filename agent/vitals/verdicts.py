"""Verdicts that rest on bounds, not on points.

``decide`` judges one target. It sees hourly counts rather than one ratio, so that a method which looks at the course
of events can take its place without another change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from agent.vitals import bounds
from agent.vitals.phases import PHASES, Phase
from agent.vitals.rates import COUNTED_CLASSES, Counts, proportion, total
from agent.vitals.types import WINDOWS, Judgement, TargetVerdict

HOUR = 3600
STALE_AFTER = 86400.0
# A lower bound alone would convict on two bad addresses among the first ten.
LEAST_FAILURES = 3

Measure = Literal["bounce", "deliverability", "complaint", "capacity"]
Hour = tuple[int, Counts]
"""(Unix time at which the hour began, what happened in it)"""

# Of two windows the one further to the left speaks. Thin evidence in one window does not silence the other.
_WORST_FIRST = (
    TargetVerdict.BREACHED,
    TargetVerdict.UNDECIDED,
    TargetVerdict.MET,
    TargetVerdict.INSUFFICIENT_DATA,
)


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What one domain is held to.

    For the rates, ``met`` and ``breach`` are in 0..1, in the direction of the rate itself: ``bounce`` and
    ``complaint`` must be below ``met`` and are breached above ``breach``; ``deliverability`` the other way round.
    For ``capacity`` they play no part: ``capacity`` is (least, most) attempted messages in 30 days, ``ladder`` the
    names and capacities of all phases, smallest first, for saying where between two phases a volume lies.

    ``last_event_at`` is Unix seconds, 0 = never; an older one than ``stale_after`` seconds makes every verdict stale.
    """

    name: Measure
    windows: tuple[str, ...]
    met: float = 0.0
    breach: float = 0.0
    bounce_classes: tuple[str, ...] = COUNTED_CLASSES
    phase: str = ""
    capacity: tuple[int | None, int | None] = (None, None)
    ladder: tuple[tuple[str, tuple[int | None, int | None]], ...] = ()
    last_event_at: float = 0.0
    stale_after: float = STALE_AFTER


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

    An hour belongs to a window if any part of it does. The reported window is the one that decided: the first of
    ``target.windows`` with the worst verdict; of several undecided ones the one nearest to a breach; of windows that
    are all too thin the last, which holds most.
    """
    silent = target.last_event_at > 0 and now - target.last_event_at > target.stale_after
    if target.name == "capacity":
        return _capacity(hourly_counts, target, now, silent)
    judged = [_judge(_within(hourly_counts, window, now), target, window) for window in target.windows]
    if silent:
        hours = (now - target.last_event_at) / HOUR
        reason = f"no event for {hours:.0f} h: what came before says nothing of now"
        last = judged[-1]
        return Judgement(target.name, TargetVerdict.STALE, target.met, last.window, last.rate, reason)
    for verdict in _WORST_FIRST:
        same = [j for j in judged if j.verdict is verdict]
        if same and verdict is TargetVerdict.UNDECIDED:
            return max(same, key=lambda j: _failure_ratio(j, target))
        if same:
            return same[-1] if verdict is TargetVerdict.INSUFFICIENT_DATA else same[0]
    raise ValueError(f"target {target.name} has no window")


def _within(hourly_counts: Sequence[Hour], window: str, now: float) -> Counts:
    after = now - WINDOWS[window] - HOUR
    return total(counts for start, counts in hourly_counts if after < start <= now)


def _failure_ratio(judgement: Judgement, target: Target) -> float:
    value = judgement.rate.value if judgement.rate else 0.0
    return 1 - value if target.name == "deliverability" else value


def _judge(counts: Counts, target: Target, window: str) -> Judgement:
    """One window. Everything is judged as a share of failures: deliverability by its complement."""
    complement = target.name == "deliverability"
    if target.name == "complaint":
        failures, trials, what = counts.complained, counts.delivered, "delivered"
    else:
        failures = counts.bounced if complement else counts.of_classes(target.bounce_classes)
        trials, what = counts.attempted, "attempted"
    rate = proportion(trials - failures if complement else failures, trials)
    met, breach = (1 - target.met, 1 - target.breach) if complement else (target.met, target.breach)

    def judgement(verdict: TargetVerdict, limit: float, reason: str) -> Judgement:
        return Judgement(target.name, verdict, limit, window, rate, reason)

    if rate is None:
        return judgement(TargetVerdict.INSUFFICIENT_DATA, target.met, f"nothing {what} in {window}")
    seen = f"{rate.numerator:,} of {trials:,} in {window}"
    if rate.lower is None or rate.upper is None:
        return judgement(
            TargetVerdict.INSUFFICIENT_DATA, target.met, f"{seen}: more than were {what}, so they are of older mail"
        )
    over, under = ("below", "at least") if complement else ("above", "below")
    if failures >= LEAST_FAILURES and bounds.lower(failures, trials, bounds.BREACH) > breach:
        at_least = bounds.lower(failures, trials, bounds.BREACH)
        proven = f"at most {_percent(1 - at_least)}" if complement else f"at least {_percent(at_least)}"
        return judgement(
            TargetVerdict.BREACHED,
            target.breach,
            f"{seen}, {proven} with 99.9 % confidence: {over} {_percent(target.breach)}",
        )
    interval = f"between {_percent(rate.lower)} and {_percent(rate.upper)} with 95 % confidence"
    if bounds.upper(failures, trials) <= met:
        return judgement(TargetVerdict.MET, target.met, f"{seen}, {interval}: {under} {_percent(target.met)}")
    if bounds.upper(0, trials) > met:
        return judgement(
            TargetVerdict.INSUFFICIENT_DATA,
            target.met,
            f"{seen}: too few to prove {under} {_percent(target.met)}, even without a failure",
        )
    return judgement(
        TargetVerdict.UNDECIDED, target.met, f"{seen}, {interval}: on neither side of {_percent(target.met)} for sure"
    )


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.4g} %"


def _capacity(hourly_counts: Sequence[Hour], target: Target, now: float, silent: bool) -> Judgement:
    """Volume against the phase's capacity. Sending less or more than planned is no breach of anything."""
    volume = _within(hourly_counts, "30d", now).attempted
    least, most = target.capacity
    limit = float(most if most is not None and (least is None or volume > most) else least or 0)
    seen = f"{volume:,} attempted in the trailing 30 days"

    def judgement(verdict: TargetVerdict, reason: str) -> Judgement:
        return Judgement("capacity", verdict, limit, "30d", None, f"{seen}: {reason}")

    if silent:
        return judgement(TargetVerdict.STALE, f"no event for {(now - target.last_event_at) / HOUR:.0f} h")
    if volume == 0:
        return judgement(TargetVerdict.INSUFFICIENT_DATA, "nothing to judge")
    if (least is None or volume >= least) and (most is None or volume <= most):
        return judgement(TargetVerdict.MET, f"within the capacity of {target.phase} ({_span(target.capacity)})")
    return judgement(TargetVerdict.UNDECIDED, _between_phases(volume, target))


def _span(capacity: tuple[int | None, int | None]) -> str:
    least, most = capacity
    if most is None:
        return f"from {least:,}"
    return f"up to {most:,}" if least is None else f"{least:,} to {most:,}"


def _between_phases(volume: int, target: Target) -> str:
    """Where a volume outside the phase's capacity lies, such as: growth outgrown, enterprise not reached."""
    ladder = target.ladder or ((target.phase, target.capacity),)
    outgrown = [name for name, (_, most) in ladder if most is not None and volume > most]
    not_reached = [name for name, (least, _) in ladder if least is not None and volume < least]
    within = [
        name
        for name, (least, most) in ladder
        if (least is None or volume >= least) and (most is None or volume <= most)
    ]
    parts = [f"{outgrown[-1]} outgrown"] if outgrown else []
    if within:
        parts.append(f"within the capacity of {within[0]}")
    # What lies beyond the next phase is of no interest yet, unless it is the domain's own.
    if target.phase in not_reached:
        parts.append(f"{target.phase} not reached")
    elif not_reached and not within:
        parts.append(f"{not_reached[0]} not reached")
    return f"{', '.join(parts)} ({target.phase} is {_span(target.capacity)})"
