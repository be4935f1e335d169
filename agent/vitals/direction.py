"""Where a rate or a volume is heading: the last seven days against the seven before.

Each day is compared with the same day of the week before, so that weekends cancel out; the ratio of the two weeks is
that of Mantel and Haenszel (Journal of the National Cancer Institute 22, 1959). Its bounds are exact for counts that
are Poisson (Clopper-Pearson on the last week's share of both), and wider as far as the ratios of neighbouring days
differ by more than chance. What is not proven is ``cannot_tell``: it is not steadiness. Simulated, of series without a
change, whose days differ by up to 40 %, fewer than 1 in 30 are said to be heading anywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import pairwise
from math import inf, log
from typing import Literal, NamedTuple

import msgspec

from agent.clock import DAY, HOUR, WEEK
from agent.vitals import bounds
from agent.vitals.rates import COUNTED_CLASSES
from agent.vitals.series import Hour, as_rate, measured
from agent.vitals.types import Rate

PROVEN = (0.999, 0.99)
LEAST_FACTOR = 1.1  # however sure, less is nothing to speak of
STEADY_FACTOR = 1.5
# A dispersion out of five differences is itself uncertain: the squared quantile of Student's t with 5 degrees of
# freedom by that of the normal distribution, at 99 %.
_UNSURE = 2.45
_TRIMMED_MEAN = 0.6335  # of six such squares without the largest, if there is no dispersion

Heading = Literal["improving", "worsening", "rising", "falling", "steady", "cannot_tell"]
HEADINGS: tuple[Heading, ...] = ("improving", "worsening", "steady", "cannot_tell")
VOLUME_HEADINGS: tuple[Heading, ...] = ("rising", "falling", "steady", "cannot_tell")


class Direction(msgspec.Struct, frozen=True):
    """Where one series is heading. ``scope`` and ``part`` name it (both ``""`` for the whole domain).

    ``direction``: ``improving`` or ``worsening`` (of a volume ``rising`` or ``falling``) when the ratio of failures (or
    mails) is at least 1.1 either way and its 99 % bounds exclude 1; else ``steady`` when its 95 % bounds are within 2/3
    and 3/2; else ``cannot_tell``. ``confidence`` is 0.999 or 0.99, 0.95 for ``steady``, 0 for ``cannot_tell``.
    ``factor`` is the ratio with its 95 % bounds, ``None`` where there is none. ``recent`` and ``previous`` are the
    rates of the two weeks; of ``volume`` in mails a week, without bounds.
    """

    scope: str
    part: str
    rate: str
    direction: Heading
    confidence: float
    factor: float | None = None
    factor_lower: float | None = None
    factor_upper: float | None = None
    recent: Rate | None = None
    previous: Rate | None = None


class _Pair(NamedTuple):
    """Counts, and trials, of a day and of the same day a week before."""

    recent: int
    recent_of: int
    previous: int
    previous_of: int


def heading(
    hours: Iterable[Hour],
    now: float,
    rate: str,
    *,
    scope: str = "",
    part: str = "",
    bounce_classes: Collection[str] = COUNTED_CLASSES,
) -> Direction:
    """Where a series is heading at ``now`` (Unix seconds). ``hours`` in any order; those without events may be missing,
    the present one, which is not over, is left out. Of a volume nothing can be told before 14 days of history. Raises
    ``ValueError`` for a rate that is not in ``series.SERIES``."""
    end = int(now // HOUR) * HOUR
    sums = [[0, 0] for _ in range(14)]
    oldest = end
    for start, counts in hours:
        if start < end:
            oldest = min(oldest, start)
            if start >= end - 2 * WEEK:
                count, trials = measured(counts, rate, bounce_classes)
                day = sums[(end - HOUR - start) // DAY]
                day[0] += count
                day[1] += trials
    if rate == "volume":
        # Every hour counts, with mail or without it; those before the first mail ever do not.
        known = oldest <= end - 2 * WEEK + DAY
        sums = [[count, 24 if known else 0] for count, _ in sums]
    pairs = [_Pair(*recent, *previous) for recent, previous in zip(sums[:7], sums[7:], strict=True)]
    both = [p for p in pairs if p.recent_of and p.previous_of]
    weeks = _week(rate, sums[:7]), _week(rate, sums[7:])
    total = sum(p.recent + p.previous for p in both)
    if not total:
        return Direction(scope, part, rate, "cannot_tell", 0.0, None, None, None, *weeks)
    dispersion = _dispersion(both)
    factor = _ratio(both)
    low, high = _bounds(both, factor, total / dispersion, bounds.PUBLISHED)
    found: tuple[Heading, float] = ("cannot_tell", 0.0)
    if low >= 1 / STEADY_FACTOR and high <= STEADY_FACTOR:
        found = "steady", bounds.PUBLISHED
    if not 1 / LEAST_FACTOR < factor < LEAST_FACTOR:
        more = factor > 1
        for confidence in PROVEN:
            lower, upper = _bounds(both, factor, total / dispersion, confidence)
            if (lower > 1) if more else (upper < 1):
                up: Heading = "rising" if rate == "volume" else "worsening"
                down: Heading = "falling" if rate == "volume" else "improving"
                found = up if more else down, confidence
                break
    return Direction(scope, part, rate, *found, _finite(factor), low, _finite(high), *weeks)


def _finite(value: float) -> float | None:
    return None if value == inf else value


def _week(rate: str, sums: list[list[int]]) -> Rate | None:
    count, trials = sum(day[0] for day in sums), sum(day[1] for day in sums)
    if rate == "volume":
        return Rate(float(count), None, None, count, trials) if trials else None
    return as_rate(rate, count, trials)


def _ratio(pairs: list[_Pair]) -> float:
    over = sum(p.recent * p.previous_of / (p.recent_of + p.previous_of) for p in pairs)
    under = sum(p.previous * p.recent_of / (p.recent_of + p.previous_of) for p in pairs)
    return over / under if under else inf


def _dispersion(pairs: list[_Pair]) -> float:
    """How much more the ratios of neighbouring days differ than those of Poisson counts would. The largest difference
    is left out: on one of these days the rate may have shifted, and that is no noise."""
    logs = [
        (log((p.recent + 0.5) / p.recent_of * p.previous_of / (p.previous + 0.5)),
         1 / (p.recent + 0.5) + 1 / (p.previous + 0.5))
        for p in pairs
        if p.recent + p.previous
    ]  # fmt: skip
    squares = sorted((one - other) ** 2 / (var + more) for (one, var), (other, more) in pairwise(logs))[:-1]
    return max(1.0, _UNSURE * sum(squares) / len(squares) / _TRIMMED_MEAN) if squares else 1.0


def _bounds(pairs: list[_Pair], ratio: float, total: float, confidence: float) -> tuple[float, float]:
    """The ratio's bounds; ``total`` is the number of independent counts that all counts are worth."""
    odds = sum(p.recent_of for p in pairs) / sum(p.previous_of for p in pairs)
    of = max(1, round(total))
    share = ratio * odds / (1 + ratio * odds) if ratio < inf else 1.0
    recent = round(share * of)
    low, high = bounds.lower(recent, of, confidence), bounds.upper(recent, of, confidence)
    return low / (1 - low) / odds, (high / (1 - high) / odds if high < 1 else inf)
