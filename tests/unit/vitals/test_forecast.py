"""The day on which a limit is reached, and how sure that is."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.clock import DAY
from agent.vitals.forecast import Forecast, forecasts
from agent.vitals.phases import PHASES

GROWTH = PHASES["growth"]


def at(*when: int) -> int:
    return int(datetime(*when, tzinfo=UTC).timestamp())  # type: ignore[misc]


def steady(today: int, daily: int = 1000, days: int = 60) -> dict[int, int]:
    return {today - i * DAY: daily for i in range(1, days + 1)}


def one(days: dict[int, int], now: float, *, phase: int | None = None, plan: int | None = None) -> Forecast:
    held = msgspec.structs.replace(GROWTH, capacity=(1, phase)) if phase is not None else None
    (found,) = forecasts(days, now, held, plan)
    return found


def test_steady_mail_reaches_its_plan_on_a_certain_day() -> None:
    # 17 days of April are over; the twentieth thousand is full with the 20th.
    found = one(steady(at(2024, 4, 18)), at(2024, 4, 18, 6), plan=20_000)
    assert found == Forecast(
        "plan", 20_000, False, at(2024, 4, 20), at(2024, 4, 20), at(2024, 4, 20), at(2024, 4, 18) + 180 * DAY,
        0.0, 0.0, 0.0,
    )  # fmt: skip


def test_a_month_begins_anew() -> None:
    # 30,500 are not reached in April, but on the last day of May.
    found = one(steady(at(2024, 4, 18)), at(2024, 4, 18, 6), plan=30_500)
    assert (found.at, found.reached) == (at(2024, 5, 31), False)
    assert one(steady(at(2024, 4, 18)), at(2024, 4, 18, 6), plan=31_001).at is None


def test_the_phase_counts_thirty_days_wherever_they_lie() -> None:
    days = {day: count + (day >= at(2024, 4, 11)) * 1000 for day, count in steady(at(2024, 4, 18)).items()}
    # A week at twice the pace: at the mean of the last 28 days and their slope the 45,000 come in some weeks.
    found = one(days, at(2024, 4, 18), phase=45_000)
    assert not found.reached
    assert found.at is not None
    assert found.earliest is not None
    assert at(2024, 4, 19) < found.earliest <= found.at <= at(2024, 5, 15)
    assert found.growth is not None
    assert found.growth > 0.3


def test_what_is_reached_says_since_when() -> None:
    found = one(steady(at(2024, 4, 18)), at(2024, 4, 18, 6), plan=12_000)
    assert (found.reached, found.at, found.earliest, found.latest) == (True, *[at(2024, 4, 12)] * 3)
    # Forty days of it, the last of them today: the thirtieth was the first to reach as much.
    assert one(steady(at(2024, 4, 19), days=40), at(2024, 4, 18), phase=30_000).at == at(2024, 4, 8)


@pytest.mark.parametrize(("history", "known"), [(0, 0), (6, 0), (7, 2), (13, 2), (14, 2)])
def test_nothing_before_seven_days_and_a_week_ahead_before_fourteen(history: int, known: int) -> None:
    now = at(2024, 4, 18, 12)
    found = forecasts(steady(at(2024, 4, 18), days=history), now, GROWTH, 40_000)
    assert len(found) == known
    for each in found:
        assert (each.growth is None) == (history < 14)
        assert each.horizon == at(2024, 4, 18) + (180 if history >= 14 else 7) * DAY


def test_no_limit_no_forecast() -> None:
    days = steady(at(2024, 4, 18))
    assert forecasts(days, at(2024, 4, 18), PHASES["foundation"], None) == []
    assert forecasts(days, at(2024, 4, 18), PHASES["enterprise"], None) == []
    assert forecasts(days, at(2024, 4, 18), None, None) == []
    assert [f.limit for f in forecasts(days, at(2024, 4, 18), GROWTH, 10**6)] == ["phase", "plan"]
    assert forecasts({}, at(2024, 4, 18), GROWTH, 1000) == []


def test_weekends_are_weekends() -> None:
    weekdays = {day: 1000 for day in steady(at(2024, 4, 18)) if day // DAY % 7 not in (2, 3)}
    # 1970-01-01 was a Thursday: the days left out are Saturdays and Sundays. April's 17th working day is the 23rd.
    found = one(weekdays, at(2024, 4, 18), plan=17_000)
    assert (found.earliest, found.at, found.latest) == (at(2024, 4, 23),) * 3


def test_growth_reaches_what_steadiness_does_not() -> None:
    today = at(2024, 4, 18)
    growing = {today - i * DAY: 2000 - 20 * i for i in range(1, 61)}
    found = one(growing, today, phase=90_000)
    assert found.at is not None
    # 30 days at 2,000 + 20 a day from now on: their mean is 3,000 when the last has 3,290.
    assert abs(found.at - (today + 64 * DAY)) <= 5 * DAY
    assert one(dict.fromkeys(growing, 1400), today, phase=90_000).at is None


@pytest.mark.parametrize("history", [7, 14, 28, 60])
@pytest.mark.parametrize("slope", [0.0, 0.008])
def test_the_interval_holds_the_day(history: int, slope: float) -> None:
    """Days that differ by 25 % at random, weekends of a third, with and without a quarter more a month."""
    draw, held, of = random.Random(f"{history}/{slope}"), 0, 0
    for _ in range(30):
        today = at(2025, draw.randrange(1, 13), draw.randrange(1, 29))
        whole = {
            today + i * DAY: round(
                2500 * (0.35 if i % 7 > 4 else 1.25) * max(0.0, 1 + slope * i) * draw.gammavariate(16, 1 / 16)
            )
            for i in range(-history, 181)
        }
        known = {day: count for day, count in whole.items() if day < today} | {today: whole[today] // 3}
        for found in forecasts(known, today + DAY / 3, msgspec.structs.replace(GROWTH, capacity=(1, 90_000)), 85_000):
            begins = (
                (lambda day: day - 29 * DAY)
                if found.limit == "phase"
                else lambda day: at(*datetime.fromtimestamp(day, UTC).timetuple()[:2], 1)
            )
            true = next(
                (day for day in range(today, int(found.horizon), DAY)
                 if sum(whole.get(d, 0) for d in range(begins(day), day + DAY, DAY)) >= found.amount),
                math.inf,
            )  # fmt: skip
            of += 1
            held += (found.earliest or math.inf) <= true <= (found.latest or math.inf)
    assert of >= 40
    assert held >= 0.9 * of


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.integers(0, 75).map(lambda i: at(2024, 3, 1) + i * DAY), st.integers(0, 10**9), max_size=70),
    st.integers(at(2024, 3, 1), at(2024, 5, 10)),
    st.integers(0, 10**10),
)
def test_the_day_lies_within_its_interval(days: dict[int, int], now: int, limit: int) -> None:
    days = {day: count for day, count in days.items() if day <= now}
    for found in forecasts(days, now, msgspec.structs.replace(GROWTH, capacity=(0, limit)), limit):
        order = [math.inf if t is None else t for t in (found.earliest, found.at, found.latest)]
        assert order == sorted(order)
        assert found.reached or min(order) >= now - DAY
