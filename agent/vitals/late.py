"""Failures that come days after their mail, as complaints do: by the day, and how far they come in lumps."""

from __future__ import annotations

from itertools import pairwise
from math import inf

from agent.clock import DAY, HOUR
from agent.vitals.sequence import MOST_BESIDE, MOST_DISPERSION, PRIOR

_DAYS = 30  # that the dispersion is measured on, today not among them


class Days:
    """What hours of any order came to by the UTC day. A day costs some 300 bytes."""

    def __init__(self) -> None:
        self._days: dict[int, _Day] = {}

    def take(self, hour: int, failures: int, trials: int) -> None:
        """Add what happened in an hour (Unix seconds of its beginning)."""
        begins = hour - hour % DAY
        day = self._days.get(begins)
        if day is None:
            day = self._days[begins] = _Day()
        day.trials += trials
        day.hours[(hour - begins) // HOUR] += failures
        day.lumps = None

    def keep(self, after: float, before: float = inf) -> None:
        """Forget all days but those that begin after the one and before the other."""
        self._days = {begins: day for begins, day in self._days.items() if after < begins < before}

    def held(self, after: float) -> list[tuple[int, int, int]]:
        """(beginning, failures, trials) of each day that begins after this and had any, newest first."""
        found = ((begins, sum(day.hours), day.trials) for begins, day in self._days.items() if begins > after)
        return sorted((each for each in found if each[1] or each[2]), reverse=True)

    def dispersion(self, now: float) -> float:
        """By how much the variance of failures exceeds that of independent ones, in 1..``MOST_DISPERSION``, by the days
        of a month that are over.

        As in ``sequence`` an hour is compared with the next by a chi-square, but the failures of both by themselves:
        they are not of the mail of their hours.
        """
        today = int(now // DAY) * DAY
        split = weight = PRIOR
        for begins, day in self._days.items():
            if today - _DAYS * DAY < begins < today:
                found = day.lumps
                if found is None:
                    found = day.lumps = _lumps(day.hours)
                split, weight = split + found[0], weight + found[1]
        return min(MOST_DISPERSION, max(1.0, split / weight))


class _Day:
    __slots__ = ("hours", "lumps", "trials")

    def __init__(self) -> None:
        self.trials = 0
        self.hours = [0] * 24
        self.lumps: tuple[float, float] | None = None


def _lumps(hours: list[int]) -> tuple[float, float]:
    split = weight = 0.0
    for one, other in pairwise(hours):
        both = one + other
        if both >= 2:
            beside = min(both - 1, MOST_BESIDE)
            split += beside * min((one - other) ** 2 / both, 2 * MOST_DISPERSION)
            weight += beside
    return split, weight
