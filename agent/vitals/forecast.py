"""When a limit on volume is reached: the phase's capacity, or what the sending plan includes. Days are UTC.

A day's mail is the mean of its weekday in the last 28 whole days, on a straight line through them: one slope for all
weekdays, relative to their means (least squares within weekdays). From what is left over come the uncertainty of a
single day, of the means and of the slope, and from these the interval of a sum of days; a limit is reached at the
earliest on the day on which the upper end of that interval reaches it, at the latest with the lower end. Student's t
accounts for the few weeks. Simulated, with days that differ by 15 to 40 % and without growth or with a quarter more a
month, 95 of 100 senders reach their limit within the interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import sqrt
from typing import Literal

import msgspec

from agent.clock import DAY
from agent.vitals.phases import Phase
from agent.vitals.volume import month_start

HISTORY_DAYS = 28
LEAST_DAYS = 7
HORIZON_DAYS = 180
TRAILING_DAYS = 30
_Z = 1.959964


class Forecast(msgspec.Struct, frozen=True):
    """When one domain reaches one limit. ``limit`` is ``phase`` (the upper capacity of its phase, in 30 days) or
    ``plan`` (what the sending plan includes in a calendar month), ``amount`` its size in mails.

    ``reached`` tells that it already is. ``at`` is Unix time, the beginning of the day (UTC) on which it was reached or
    is expected to be, ``earliest`` and ``latest`` the days between which it will be with 95 % confidence; each is
    ``None`` where it lies beyond the ``horizon``, a Unix time as well, or nowhere. ``growth`` is the present change of
    the volume in 30 days as a share of it (0.1: a tenth more), with its 95 % bounds; ``None`` before 14 days of
    history, of which no trend can be told, so that the horizon is a week instead of ``HORIZON_DAYS``.
    """

    limit: Literal["phase", "plan"]
    amount: int
    reached: bool
    at: float | None
    earliest: float | None
    latest: float | None
    horizon: float
    growth: float | None
    growth_lower: float | None
    growth_upper: float | None


def forecasts(days: Mapping[int, int], now: float, phase: Phase | None, monthly_limit: int | None) -> list[Forecast]:
    """When the domain's limits are reached; none where there is no limit, and none before seven whole days of history.

    ``days`` maps a day's beginning (Unix time, a multiple of 86,400) to the mails attempted on it, 62 days of them;
    days without mail may be missing, and history begins with the first that had any. Takes about a millisecond a limit.
    """
    today = int(now // DAY) * DAY
    first = min((day for day, count in days.items() if count > 0), default=today)
    if (today - first) // DAY < LEAST_DAYS:
        return []
    line = _Line(days, max(first, today - HISTORY_DAYS * DAY), today)
    found = []
    most = phase.capacity[1] if phase else None
    if most is not None:
        found.append(line.forecast("phase", most, _trailing))
    if monthly_limit is not None:
        found.append(line.forecast("plan", monthly_limit, _calendar))
    return found


def first_reached(days: Mapping[int, int], now: float, least: int) -> float | None:
    """When the last 30 days are expected to have ``least`` mails, Unix time; ``None`` if that is not to be seen, or
    before seven whole days of history. ``days`` as for ``forecasts``."""
    wanted = Phase(name="", duration_weeks=(0, 0), budget_usd=(0, 0), expected_roi_percent=(0, 0), capacity=(0, least))
    return next((found.at for found in forecasts(days, now, wanted, None)), None)


def _trailing(day: int) -> int:
    return day - (TRAILING_DAYS - 1) * DAY


def _calendar(day: int) -> int:
    return month_start(day)


class _Line:
    """The weekdays' means, the slope through them, and how far days lie from it."""

    def __init__(self, days: Mapping[int, int], first: int, today: int) -> None:
        self.days, self.today = days, today
        history = range(first, today, DAY)
        self.weeks = len(history) // 7
        # One of each weekday tells nothing of how much a weekday varies: all days are alike then.
        self.kinds = 7 if self.weeks >= 2 else 1
        alike: list[list[int]] = [[] for _ in range(self.kinds)]
        for day in history:
            alike[self.kind(day)].append(day)
        self.mean = [sum(days.get(day, 0) for day in same) / len(same) for same in alike]
        self.middle = [sum(same) / len(same) for same in alike]
        self.seen = [len(same) for same in alike]
        points = [
            ((day - self.middle[w]) / DAY, days.get(day, 0) / self.mean[w] - 1)
            for day in history
            if self.mean[w := self.kind(day)]
        ]
        spread = sum(x * x for x, _ in points)
        known = self.weeks >= 2 and spread > 0
        self.slope = sum(x * y for x, y in points) / spread if known else 0.0
        free = max(1, len(points) - (8 if known else 1))
        self.variance = sum((y - self.slope * x) ** 2 for x, y in points) / free
        self.slope_variance = self.variance / spread if known else 0.0
        self.quantile = _student(free)
        self.known = known
        self.horizon = HORIZON_DAYS if known else LEAST_DAYS

    def kind(self, day: int) -> int:
        return day // DAY % self.kinds

    def expected(self, day: int) -> float:
        w = self.kind(day)
        return max(0.0, self.mean[w] * (1 + self.slope * (day - self.middle[w]) / DAY))

    def growth(self) -> tuple[float | None, float | None, float | None]:
        if not self.known:
            return None, None, None
        off = self.quantile * sqrt(self.slope_variance)
        # Of the present level, which lies on the line half a history after its middle.
        half = self.weeks * 7 / 2

        def share(slope: float) -> float:
            return TRAILING_DAYS * slope / max(1 + self.slope * half, 0.1)

        return share(self.slope), share(self.slope - off), share(self.slope + off)

    def forecast(self, limit: Literal["phase", "plan"], amount: int, begins: Callable[[int], int]) -> Forecast:
        """``begins`` tells the first of the days that are summed up when a day is over."""
        before = self._already(amount, begins)
        at, earliest, latest = (before, before, before) if before is not None else (None, None, None)
        if before is None:
            for day, middle, off in self._sums(begins):
                if earliest is None and middle + off >= amount:
                    earliest = day
                if at is None and middle >= amount:
                    at = day
                if middle - off >= amount:
                    latest = day
                    break
        horizon = float(self.today + self.horizon * DAY)
        growth = self.growth()
        return Forecast(
            limit, amount, before is not None, _time(at), _time(earliest), _time(latest), horizon, *growth
        )  # fmt: skip

    def _already(self, amount: int, begins: Callable[[int], int]) -> int | None:
        """The day since which the limit is reached, if it is."""
        found = None
        for day in range(self.today, self.today - TRAILING_DAYS * DAY, -DAY):
            if sum(self.days.get(d, 0) for d in range(begins(day), day + DAY, DAY)) < amount:
                break
            found = day
        return found

    def _sums(self, begins: Callable[[int], int]) -> Iterator[tuple[int, float, float]]:
        """For each day to come: the sum of its stretch when it is over, and how far off that may be."""
        certain = sum(self.days.get(day, 0) for day in range(begins(self.today), self.today, DAY))
        start = begins(self.today)
        # What of the sum is still to come: its mean and noise, and what each weekday's mean and the slope add to it.
        to_come, noise, lever = 0.0, 0.0, 0.0
        weight = [0.0] * self.kinds
        for day in range(self.today, self.today + self.horizon * DAY, DAY):
            for change, each in ((1, day), *((-1, gone) for gone in range(start, begins(day), DAY))):
                if each < self.today:
                    certain -= self.days.get(each, 0)
                    continue
                w = self.kind(each)
                amount = self.expected(each)
                if each == self.today:
                    amount = max(amount, float(self.days.get(each, 0)))
                to_come += change * amount
                noise += change * amount * amount * self.variance
                weight[w] += change * self.mean[w]
                lever += change * self.mean[w] * (each - self.middle[w]) / DAY
            start = begins(day)
            means = sum(each * each * self.variance / n for each, n in zip(weight, self.seen, strict=True))
            off = self.quantile * sqrt(max(0.0, noise + means + lever * lever * self.slope_variance))
            yield day, certain + to_come, off


def _time(day: int | None) -> float | None:
    return None if day is None else float(day)


def _student(free: int) -> float:
    """The 97.5 % quantile of Student's t (Abramowitz and Stegun 26.7.5)."""
    z = _Z
    return z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
