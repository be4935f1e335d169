"""Days of failures that come late: how far they come in lumps, whatever the mail of their hours is."""

from __future__ import annotations

from random import Random

import pytest

from agent.clock import DAY, HOUR
from agent.vitals.late import Days
from agent.vitals.sequence import MOST_DISPERSION
from tests.unit.vitals.series import poisson

START = 1_750_000_000 // DAY * DAY
NOW = float(START + 30 * DAY + 100)


def month(seed: int, hourly: float, lump: int) -> Days:
    """Complaints of a sender whose mail all leaves on Mondays."""
    random, days = Random(seed), Days()
    for h in range(30 * 24):
        failures = sum(random.randint(1, 2 * lump - 1) for _ in range(poisson(random, hourly / lump)))
        days.take(START + h * HOUR, failures, 70_000 if h % 168 == 9 else 0)
    return days


def test_lumps_are_measured_and_single_ones_are_not_taken_for_lumps() -> None:
    assert month(1, 0.7, 1).dispersion(NOW) < 1.25
    assert month(2, 20.0, 1).dispersion(NOW) < 1.25
    assert month(3, 0.7, 3).dispersion(NOW) > 2
    assert 3 < month(4, 7.0, 3).dispersion(NOW) < 4.4  # 11 / 3: the lump that a complaint finds itself in


def test_a_day_that_is_not_over_and_what_is_older_than_a_month_tell_nothing() -> None:
    days = Days()
    for h in range(0, 24, 2):
        days.take(int(NOW) // DAY * DAY + h * HOUR, 50, 0)
        days.take(int(NOW) // DAY * DAY - 30 * DAY + h * HOUR, 50, 0)
    assert days.dispersion(NOW) == 1.0
    assert days.dispersion(NOW + DAY) == pytest.approx(MOST_DISPERSION, rel=0.1)


def test_a_day_adds_up_its_hours_and_is_forgotten() -> None:
    days = Days()
    for hour, failures, trials in ((3, 1, 5), (1, 2, 0), (3, 1, 1), (25, 0, 9), (50, 0, 0)):
        days.take(START + hour * HOUR, failures, trials)
    assert days.held(START - 1) == [(START + DAY, 0, 9), (START, 4, 6)]
    assert days.held(START) == [(START + DAY, 0, 9)]
    days.keep(START - 1, START + DAY)
    assert days.held(0) == [(START, 4, 6)]


def test_what_is_taken_later_is_measured_anew() -> None:
    days = month(5, 2.0, 1)
    before = days.dispersion(NOW)
    for h in range(0, 24, 4):
        days.take(START + 9 * DAY + h * HOUR, 40, 0)
    assert days.dispersion(NOW) > before + 0.3
