"""Shifts are found where there are some, dated well, and not found in noise."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.vitals.rates import Counts
from agent.vitals.series import SERIES, Hour
from agent.vitals.shifts import Shift, find_shifts
from tests.unit.vitals.series import DAY, HOUR, MONDAY, flat, mail, office, weekend


def at(hour: float) -> float:
    return MONDAY + hour * HOUR + 1.0


def from_hour(begin: int, factor: float, end: int = 10_000):  # type: ignore[no-untyped-def]
    return lambda hour: factor if begin <= hour < end else 1.0


def seen(hours: list[Hour], rate: str = "bounce", until: int | None = None) -> tuple[Shift, ...]:
    until = len(hours) if until is None else until
    return find_shifts(hours[:until], at(until), rate)


def test_a_shift_says_when_and_from_what_to_what() -> None:
    hours = mail(1, 50_000, 0.005, failing=from_hour(500, 6))
    (shift,) = find_shifts(hours, at(720), "bounce", scope="provider", part="mailgun")
    assert (shift.scope, shift.part, shift.rate, shift.direction) == ("provider", "mailgun", "bounce", "worsening")
    assert abs(shift.at - at(500)) <= 6 * HOUR
    assert shift.earliest <= at(500) <= shift.latest
    # The two levels part all mail between them, and carry the bounds that are published.
    assert shift.before.denominator + shift.after.denominator == sum(counts.attempted for _, counts in hours)
    assert shift.before.lower is not None
    assert shift.after.lower is not None
    assert shift.before.lower <= 0.005 <= (shift.before.upper or 0)
    assert shift.after.lower <= 0.03 <= (shift.after.upper or 0)
    assert shift.confidence > 0.999


def test_bounces_from_half_a_percent_to_three_are_seen_and_dated_within_hours() -> None:
    """50,000 mails a month, at any hour of the week: within a day nearly always, to six hours."""
    draw, found, near, covered = random.Random(4), 0, 0, 0
    for seed in range(40):
        begin = draw.randrange(20 * 24, 28 * 24)
        shifts = seen(mail(seed, 50_000, 0.005, failing=from_hour(begin, 6)), until=begin + 24)
        if shifts:
            found += 1
            near += abs(shifts[-1].at - at(begin)) <= 6 * HOUR
            covered += shifts[-1].earliest <= at(begin) <= shifts[-1].latest
    assert found >= 36
    assert near >= 0.9 * found
    assert covered >= 0.9 * found


@pytest.mark.parametrize("rate", ["bounce", "volume"])
@pytest.mark.parametrize(("failing", "monthly"), [(flat, 50_000), (flat, 2_000), (weekend, 50_000), (weekend, 500_000)])
def test_nothing_is_found_where_nothing_changes(rate: str, failing, monthly: int) -> None:  # type: ignore[no-untyped-def]
    """Weekly rhythms of volume and rate, looked at every third day of a month: no false shift in 6 months."""
    for seed in range(6):
        hours = mail((rate, seed), monthly, 0.005, hours=44 * 24, volume=office, failing=failing)
        for day in range(14, 45, 3):
            assert seen(hours, rate, day * 24) == (), (seed, day)


def test_days_with_rates_of_their_own_are_seldom_taken_for_shifts() -> None:
    """Each day's rate differs by 40 %: without the dispersion every month would have several."""
    months = sum(
        any(seen(hours, until=day * 24) for day in range(14, 45, 5))
        for hours in (mail(seed, 200_000, 0.005, hours=44 * 24, volume=office, spread=0.4) for seed in range(20))
    )
    assert months <= 3


def test_a_burst_is_two_shifts() -> None:
    up, down = seen(mail(2, 200_000, 0.005, failing=from_hour(400, 8, 436)))
    assert (up.direction, down.direction) == ("worsening", "improving")
    assert (up.earliest, up.latest) != (down.earliest, down.latest)
    assert up.earliest <= at(400) <= up.latest
    assert down.earliest <= at(436) <= down.latest
    assert up.after == down.before


def test_a_shift_is_found_below_a_weekly_rhythm() -> None:
    hours = mail(3, 500_000, 0.005, volume=office, failing=lambda h: weekend(h) * (2 if h >= 560 else 1))
    (shift,) = seen(hours)
    assert shift.earliest <= at(560) <= shift.latest
    assert shift.latest - shift.earliest <= DAY


def test_deliverability_falls_when_it_gets_worse() -> None:
    hours = [(start, Counts(delivered=counts.delivered, soft=counts.hard)) for start, counts in
             mail(5, 100_000, 0.02, failing=from_hour(450, 4))]  # fmt: skip
    assert find_shifts(hours, at(720), "bounce") == ()
    (shift,) = find_shifts(hours, at(720), "deliverability")
    assert shift.direction == "worsening"
    assert shift.before.value > 0.97 > 0.94 > shift.after.value
    assert shift.before.lower is not None
    assert shift.before.lower < shift.before.value
    (better,) = seen(mail(5, 100_000, 0.02, failing=from_hour(450, 0.2)), "deliverability")
    assert better.direction == "improving"
    assert better.after.value > better.before.value


def test_deferral_has_no_bounds_and_may_exceed_one() -> None:
    hours = [(start, Counts(delivered=counts.attempted, deferred_pairs=counts.hard * 50)) for start, counts in
             mail(6, 100_000, 0.01, failing=from_hour(450, 4))]  # fmt: skip
    (shift,) = find_shifts(hours, at(720), "deferral")
    assert shift.after.value > 1
    assert (shift.after.lower, shift.after.upper) == (None, None)


def test_volume_is_held_against_the_same_hours_of_the_week() -> None:
    """Three times the usual over a weekend: less mail than on a working day, and yet a jump."""
    begin = (3 * 7 + 4) * 24 + 18
    hours = mail(7, 50_000, 0.005, volume=lambda h: office(h) * (3 if h >= begin else 1), hours=begin + 54)
    (shift,) = seen(hours, "volume")
    assert shift.direction == "rising"
    assert shift.earliest <= at(begin) <= shift.latest
    assert shift.after.value / shift.before.value == pytest.approx(3, rel=0.25)
    assert shift.after.value < 1.28 * 50_000 / 720
    assert shift.after.numerator == sum(c.attempted for h, c in hours if h >= shift.at)
    assert shift.before.lower is not None
    assert shift.before.upper is not None
    assert shift.before.lower < shift.before.value < shift.before.upper


def test_mail_that_stops_is_a_volume_of_nothing() -> None:
    hours = mail(8, 50_000, 0.005, volume=lambda h: 1.0 if h < 600 else 0.0)
    (shift,) = find_shifts([hour for hour in hours if hour[1].attempted], at(720), "volume")
    assert shift.direction == "falling"
    assert (shift.after.value, shift.after.lower, shift.after.upper) == (0.0, 0.0, None)
    assert abs(shift.at - at(600)) <= HOUR
    # Of the bounce rate, hours without mail say nothing.
    assert find_shifts(hours, at(720), "bounce") == ()


def test_too_little_is_known_of_young_and_of_small_senders() -> None:
    worse = mail(9, 100_000, 0.005, hours=312, failing=from_hour(250, 10))
    assert seen(worse) == ()
    assert find_shifts([], at(720), "bounce") == ()
    few = [(MONDAY + hour * HOUR, Counts(delivered=10, hard=int(hour >= 711))) for hour in range(720)]
    assert find_shifts(few, at(720), "bounce") == ()


def test_a_certain_change_of_little_is_not_worth_a_word() -> None:
    assert seen(mail(10, 50_000_000, 0.01, failing=from_hour(400, 1.15))) == ()
    assert len(seen(mail(10, 50_000_000, 0.01, failing=from_hour(400, 1.5)))) == 1


def test_the_present_hour_is_not_over() -> None:
    hours = mail(11, 50_000, 0.005)
    full = find_shifts(hours, at(720), "volume")
    assert find_shifts([*hours, (MONDAY + 720 * HOUR, Counts(delivered=1))], at(720), "volume") == full == ()


def test_the_order_of_hours_does_not_matter() -> None:
    hours = mail(12, 100_000, 0.01, failing=from_hour(300, 4))
    turned = [(start, Counts(delivered=c.delivered)) for start, c in hours]
    turned += [(start, Counts(hard=c.hard)) for start, c in reversed(hours)]
    assert find_shifts(turned, at(720), "bounce") == seen(hours) != ()


def test_only_known_series() -> None:
    with pytest.raises(ValueError, match="no series opens"):
        find_shifts(mail(1, 1000, 0.1), at(720), "opens")


COUNT = st.integers(0, 10**9) | st.integers(0, 3)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 800), st.builds(Counts, COUNT, COUNT, COUNT, complained=COUNT)), max_size=60),
    st.sampled_from(SERIES),
    st.integers(0, 800),
)
def test_no_counts_break_it(hours: list[tuple[int, Counts]], rate: str, until: int) -> None:
    spread = [(MONDAY + hour * HOUR, counts) for hour, counts in hours]
    shifts = find_shifts(spread, at(until), rate)
    assert [s.at for s in shifts] == sorted({s.at for s in shifts})
    for shift in shifts:
        assert shift.earliest <= shift.at <= shift.latest <= at(until)
        assert 0 <= shift.confidence <= 1


def test_it_takes_a_few_milliseconds() -> None:
    quiet = mail(13, 500_000, 0.005, volume=office)
    changing = mail(13, 500_000, 0.005, failing=from_hour(300, 3, 330))
    began = time.process_time()
    for _ in range(10):
        seen(quiet)
        seen(changing)
    assert time.process_time() - began < 10 * 0.15
