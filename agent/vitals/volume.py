"""Monthly volume, and where it is heading. Months and days are UTC."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Mapping
from datetime import UTC, datetime

from agent.clock import DAY

_HISTORY_DAYS = 28
_LEAST_DAYS = 7


def month_start(now: float) -> int:
    """Unix time at which the calendar month of ``now`` began."""
    moment = datetime.fromtimestamp(now, UTC)
    return int(datetime(moment.year, moment.month, 1, tzinfo=UTC).timestamp())


def month_end(now: float) -> int:
    """Unix time at which the calendar month of ``now`` ends."""
    moment = datetime.fromtimestamp(now, UTC)
    return month_start(now) + monthrange(moment.year, moment.month)[1] * DAY


def monthly_volume(days: Mapping[int, int], now: float) -> int:
    """Attempted messages of the calendar month so far. ``days`` maps a day's beginning (Unix time, a multiple of
    86,400) to the messages attempted on it; days without mail may be missing."""
    start = month_start(now)
    return sum(count for day, count in days.items() if start <= day <= now)


def projected_volume(volume: int, to_come: Mapping[int, float] | None) -> float | None:
    """The month's volume at its end, from the one so far and what is ``expected``; ``None`` before seven whole days of
    history."""
    return None if to_come is None else volume + sum(to_come.values())


def expected(days: Mapping[int, int], now: float) -> dict[int, float] | None:
    """The mails still to come on each day of the month, today first, or ``None`` before seven whole days of history.

    Each day to come is expected to be the mean of the same weekdays among the last 28 whole days (fewer if history,
    which begins with the first day that had mail, is shorter). Today is expected to reach that mean, or stands at
    what it has already. Weekdays differ several-fold for most senders, which a plain daily mean would turn into a
    figure that depends on the day it is read.
    """
    today = int(now // DAY) * DAY
    first = min((day for day, count in days.items() if count > 0), default=today)
    history = range(max(first, today - _HISTORY_DAYS * DAY), today, DAY)
    if len(history) < _LEAST_DAYS:
        return None
    means = {}
    for weekday in range(7):
        same = [days.get(day, 0) for day in history if day // DAY % 7 == weekday]
        means[weekday] = sum(same) / len(same)
    today_more = max(0.0, means[today // DAY % 7] - days.get(today, 0))
    return {today: today_more} | {day: means[day // DAY % 7] for day in range(today + DAY, month_end(now), DAY)}
