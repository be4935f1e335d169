"""The days on which a domain was within its targets, proven by the bounds.

A day is judged by the week that ends with it (complaints, which come late, by 30 days): ``within`` when the 95 % bound
is within the target, ``beyond`` when the 99.9 % bound of that stretch, or of the day alone, is past what breaches it,
with at least three failures; else the evidence does not decide, or could not. Everything comes out of the daily
roll-ups, so that a restart forgets no day. Days are UTC, and the one that is not over yet counts for nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from math import ceil

import msgspec

from agent.clock import DAY
from agent.vitals import bounds
from agent.vitals.phases import Phase
from agent.vitals.rates import COUNTED_CLASSES, Counts
from agent.vitals.sequence import LEAST_FAILURES
from agent.vitals.series import measured

TARGETS = ("bounce", "deliverability", "complaint")
STRETCH = {"bounce": 7, "deliverability": 7, "complaint": 30}
"""The days that a day's proof rests on, itself the last."""


class Standing(StrEnum):
    WITHIN = "within"
    BEYOND = "beyond"
    UNDECIDED = "undecided"
    TOO_LITTLE = "too_little"


class Proof(msgspec.Struct, frozen=True):
    """How long one target has been proven. ``days`` is the number of days within it in a row, up to and including
    yesterday, and not more than ``needed``. ``standing`` is yesterday's, out of ``failures`` of ``trials`` in
    ``stretch`` days (or on yesterday alone, if that day was ``beyond``: ``stretch`` is 1 then); ``limit`` is the share
    of failures that must not be exceeded. ``earliest`` is the Unix time at which ``needed`` days can first have passed:
    if nothing more fails, at the pace of the last seven days; ``None`` if that pace can never prove it."""

    target: str
    days: int
    needed: int
    standing: Standing
    failures: int
    trials: int
    stretch: int
    limit: float
    earliest: float | None


def limits(phase: Phase, target: str) -> tuple[float, float]:
    """The shares of failures below which a target is met, and above which it is breached."""
    if target == "bounce":
        return phase.bounce_max, phase.bounce_max
    if target == "deliverability":
        return 1 - phase.deliverability_min, 1 - phase.deliverability_min
    return phase.complaint_max, phase.complaint_breach


def standing(failures: int, trials: int, met: float, breach: float) -> Standing:
    """What these failures prove. More failures than mail (complaints about older mail) prove nothing."""
    if trials <= 0 or failures > trials or bounds.upper(0, trials) > met:
        beyond = LEAST_FAILURES <= failures <= trials and bounds.lower(failures, trials, bounds.BREACH) > breach
        return Standing.BEYOND if beyond else Standing.TOO_LITTLE
    if bounds.upper(failures, trials) <= met:
        return Standing.WITHIN
    if failures >= LEAST_FAILURES and bounds.lower(failures, trials, bounds.BREACH) > breach:
        return Standing.BEYOND
    return Standing.UNDECIDED


def prove(
    days: Mapping[int, Counts],
    phase: Phase,
    target: str,
    now: float,
    bounce_classes: Collection[str] = COUNTED_CLASSES,
) -> Proof:
    """How long the domain has been within one target of ``TARGETS``.

    ``days`` maps a day's beginning (Unix time, a multiple of 86,400) to what happened on it; days without events may be
    missing. ``phase.sustained_days`` and 30 days more are looked at.
    """
    today, needed, stretch = int(now // DAY) * DAY, phase.sustained_days, STRETCH[target]
    met, breach = limits(phase, target)
    table = Table(days, target, today, needed + stretch + 1, bounce_classes)
    last: tuple[Standing, int, int, int] | None = None
    run = 0
    for back in range(1, needed + 1):
        failures, trials, over = table.sums(back, 1)
        found = standing(failures, trials, met, breach)
        if found is not Standing.BEYOND:
            over = stretch
            failures, trials, _ = table.sums(back, stretch)
            found = standing(failures, trials, met, breach)
        last = last or (found, failures, trials, over)
        if found is not Standing.WITHIN:
            break
        run += 1
    if last is None:
        raise ValueError("a target is proven over one day at least")
    if run:
        earliest: float | None = float(today + (needed - run) * DAY)
    else:
        ahead = table.clean_days(stretch, met)
        # The first day that is within is one of those needed.
        earliest = None if ahead is None else float(today + (ahead + needed - 1) * DAY)
    return Proof(target, run, needed, *last, met, earliest)


class Table:
    """Failures and trials of one target by day, counted back from today: 1 is yesterday."""

    def __init__(
        self, days: Mapping[int, Counts], target: str, today: int, depth: int, bounce_classes: Collection[str]
    ) -> None:
        self.days = [
            measured(days[day], target, bounce_classes) if day in days else (0, 0)
            for day in range(today - DAY, today - (depth + 1) * DAY, -DAY)
        ]

    def sums(self, back: int, stretch: int) -> tuple[int, int, int]:
        """Failures and trials of so many days, the last of them ``back`` days ago; and how many days."""
        part = self.days[back - 1 : back - 1 + stretch]
        return sum(failures for failures, _ in part), sum(trials for _, trials in part), stretch

    def clean_days(self, stretch: int, met: float) -> int | None:
        """How many days without a failure, at the pace of the last seven, until a stretch is within: 1 for today."""
        pace = ceil(self.sums(1, 7)[1] / 7)
        for ahead in range(1, stretch + 1):
            failures, trials, _ = self.sums(1, stretch - ahead)
            trials += ahead * pace
            if trials and failures <= trials and bounds.upper(failures, trials) <= met:
                return ahead
        return None
