"""Monthly volume and its projection."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.clock import DAY
from agent.vitals.volume import expected, month_end, month_start, monthly_volume, projected_volume


def projection(days: dict[int, int], now: float) -> float | None:
    return projected_volume(monthly_volume(days, now), expected(days, now))


def at(*when: int) -> int:
    return int(datetime(*when, tzinfo=UTC).timestamp())  # type: ignore[misc]


def test_the_month_is_a_calendar_month_in_utc() -> None:
    days = {at(2024, 1, 31): 1000, at(2024, 2, 1): 10, at(2024, 2, 29): 5}
    assert monthly_volume(days, at(2024, 2, 29, 23, 59)) == 15
    assert monthly_volume(days, at(2024, 3, 1)) == 0
    assert month_end(at(2024, 2, 10, 12)) == at(2024, 3, 1)
    assert month_end(at(2024, 12, 31, 23, 59)) == at(2025, 1, 1)


def test_steady_mail_is_projected_to_its_whole_month() -> None:
    now = at(2024, 4, 18, 12)
    days = {at(2024, 4, 18) - i * DAY: 100 for i in range(1, 40)} | {at(2024, 4, 18): 40}
    assert projection(days, now) == 30 * 100


def test_weekends_are_expected_to_be_weekends() -> None:
    # April 2024 has 22 working days.
    now = at(2024, 4, 18, 0, 0, 1)
    days = {}
    for i in range(1, 60):
        day = at(2024, 4, 18) - i * DAY
        days[day] = 0 if datetime.fromtimestamp(day, UTC).weekday() >= 5 else 1000
    assert projection(days, now) == 22 * 1000


def test_a_day_above_its_mean_stands_as_it_is() -> None:
    now = at(2024, 4, 30, 23)
    days = {at(2024, 4, 30) - i * DAY: 100 for i in range(1, 30)} | {at(2024, 4, 30): 5000}
    assert projection(days, now) == monthly_volume(days, now) == 29 * 100 + 5000


def test_only_the_last_28_days_count() -> None:
    now = at(2024, 4, 18)
    days = {now - i * DAY: 100 if i <= 28 else 9999 for i in range(1, 90)}
    remaining = 13 * 100
    assert projection(days, now) == monthly_volume(days, now) + remaining


@pytest.mark.parametrize(("whole_days", "known"), [(0, False), (6, False), (7, True), (8, True)])
def test_there_is_no_projection_before_seven_days_of_history(whole_days: int, known: bool) -> None:
    now = at(2024, 4, 18, 10)
    days = {at(2024, 4, 18) - i * DAY: 10 for i in range(whole_days + 1)}
    assert (projection(days, now) is not None) == known


def test_no_mail_has_no_projection() -> None:
    assert projection({}, at(2024, 4, 18)) is None


@settings(max_examples=100)
@given(
    st.dictionaries(st.integers(0, 70).map(lambda i: at(2024, 3, 1) + i * DAY), st.integers(0, 10**6), max_size=70),
    st.integers(at(2024, 3, 1), at(2024, 5, 10)),
)
def test_a_projection_is_never_below_what_is_already_there(days: dict[int, int], now: int) -> None:
    projected = projection(days, now)
    assert month_start(now) <= now < month_end(now)
    if projected is not None:
        assert projected >= monthly_volume(days, now)
