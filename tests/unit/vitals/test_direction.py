"""Where a series is heading, or that nobody can tell."""

from __future__ import annotations

from collections import Counter

import pytest

from agent.vitals.direction import Direction, heading
from agent.vitals.rates import Counts
from agent.vitals.series import Hour
from tests.unit.vitals.series import HOUR, MONDAY, mail, office, weekend

NOW = MONDAY + 336 * HOUR + 1.0


def fortnight(before: Counts, after: Counts) -> list[Hour]:
    """Two weeks of which each hour is alike."""
    return [(MONDAY + hour * HOUR, after if hour >= 168 else before) for hour in range(336)]


def told(before: Counts, after: Counts, rate: str = "bounce") -> Direction:
    return heading(fortnight(before, after), NOW, rate)


@pytest.mark.parametrize(
    ("rate", "before", "after", "direction"),
    [
        ("bounce", Counts(delivered=195, hard=5), Counts(delivered=190, hard=10), "worsening"),
        ("bounce", Counts(delivered=190, hard=10), Counts(delivered=195, hard=5), "improving"),
        ("bounce", Counts(delivered=195, hard=5), Counts(delivered=195, hard=5), "steady"),
        ("bounce", Counts(delivered=200), Counts(delivered=200), "cannot_tell"),
        ("deliverability", Counts(delivered=195, soft=5), Counts(delivered=190, soft=10), "worsening"),
        ("deliverability", Counts(delivered=190, block=10), Counts(delivered=195, block=5), "improving"),
        ("complaint", Counts(delivered=500, complained=1), Counts(delivered=500, complained=3), "worsening"),
        ("block", Counts(delivered=190, block=10), Counts(delivered=195, block=5), "improving"),
        ("deferral", Counts(delivered=10, deferred_pairs=20), Counts(delivered=10, deferred_pairs=40), "worsening"),
        ("volume", Counts(delivered=40), Counts(delivered=60), "rising"),
        ("volume", Counts(delivered=60), Counts(delivered=40), "falling"),
        ("volume", Counts(delivered=60), Counts(delivered=60), "steady"),
        ("volume", Counts(delivered=60), Counts(), "falling"),
    ],
)
def test_where_each_series_is_heading(rate: str, before: Counts, after: Counts, direction: str) -> None:
    found = told(before, after, rate)
    assert (found.rate, found.direction) == (rate, direction)
    assert (found.confidence > 0) == (direction != "cannot_tell")


def test_the_factor_has_bounds_and_the_weeks_their_rates() -> None:
    hours = fortnight(Counts(delivered=98, hard=2), Counts(delivered=97, hard=3))
    found = heading(hours, NOW, "bounce", scope="stream", part="news")
    assert (found.scope, found.part, found.confidence) == ("stream", "news", 0.999)
    assert found.factor == pytest.approx(1.5)
    assert found.factor_lower is not None
    assert found.factor_upper is not None
    assert 1 < found.factor_lower < 1.5 < found.factor_upper < 2
    assert found.recent is not None
    assert (found.recent.numerator, found.recent.denominator) == (3 * 168, 100 * 168)
    assert found.previous is not None
    assert found.previous.lower is not None


def test_from_none_to_some_has_no_factor_but_a_direction() -> None:
    found = told(Counts(delivered=1000), Counts(delivered=999, hard=1))
    assert (found.direction, found.factor, found.factor_upper) == ("worsening", None, None)
    assert found.factor_lower is not None
    assert found.factor_lower > 1
    assert told(Counts(delivered=999, hard=1), Counts(delivered=1000)).factor == 0.0


def test_little_tells_nothing() -> None:
    one = [(MONDAY + 10 * HOUR, Counts(delivered=12, hard=1)), (MONDAY + 200 * HOUR, Counts(delivered=10, hard=3))]
    assert heading(one, NOW, "bounce").direction == "cannot_tell"
    assert heading([], NOW, "bounce") == Direction("", "", "bounce", "cannot_tell", 0.0)
    # A week alone has nothing to be held against.
    hours = fortnight(Counts(delivered=90, hard=9), Counts(delivered=90, hard=9))[168:]
    assert {heading(hours, NOW, rate).direction for rate in ("bounce", "volume")} == {"cannot_tell"}


def test_the_present_hour_is_left_out() -> None:
    hours = fortnight(Counts(delivered=60), Counts(delivered=60))
    assert heading([*hours, (MONDAY + 336 * HOUR, Counts(delivered=10**6))], NOW, "volume") == heading(
        hours, NOW, "volume"
    )


def test_without_a_change_fewer_than_one_in_thirty_is_said_to_have_a_direction() -> None:
    """Weekends that fail thrice as often, and days that differ by 40 % for no reason."""
    found: Counter[str] = Counter()
    for seed in range(60):
        calm = mail(("calm", seed), 500_000, 0.005, hours=336, volume=office, failing=weekend)
        rough = mail(("rough", seed), 50_000, 0.005, hours=336, volume=office, spread=0.4)
        found.update(heading(hours, NOW, "bounce").direction for hours in (calm, rough))
    assert found["worsening"] + found["improving"] <= 3
    assert found["steady"] >= 54


def test_a_doubled_rate_is_told_at_fifty_thousand_a_month() -> None:
    doubled = [
        heading(mail(seed, 50_000, 0.005, hours=336, failing=lambda h: 2.0 if h >= 168 else 1.0), NOW, "bounce")
        for seed in range(40)
    ]
    directions = Counter(found.direction for found in doubled)
    assert directions["worsening"] >= 20
    assert directions["worsening"] + directions["cannot_tell"] == 40
