"""Intervals that hold at every look: their promise summed up exactly, and what they say of known counts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import exp
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.vitals import bounds
from agent.vitals.anytime import BEGINNINGS, interval, published
from agent.vitals.rates import Counts
from agent.vitals.types import WINDOWS
from agent.vitals.verdicts import Target
from bench.coverage import INTERVALS, coverage
from bench.senders import in_bursts, independent

BOUNCE = Target(name="bounce", windows=("24h", "7d"), met=0.01, breach=0.01)
DELIVERABILITY = Target(name="deliverability", windows=("24h", "7d"), met=0.95, breach=0.95)
COMPLAINT = Target(name="complaint", windows=("7d", "30d"), met=0.001, breach=0.003)


def ever_missed(chance: Callable[[int], float], mails: int) -> tuple[float, float]:
    """The exact chance that, looked at after every one of so many mails, the mean chance so far is ever outside of the
    interval; and the same of the 95 % bounds of Clopper and Pearson, looked at every hundred mails. Each mail fails
    with a chance of its own."""
    most = 400
    edges = [interval(x, 10**7) for x in range(most)]
    sums = [(low * 10**7, high * 10**7) for low, high in edges]

    def run(outside: Callable[[int, int, float], bool]) -> float:
        alive, lost, so_far = [1.0], 0.0, 0.0
        for n in range(1, mails + 1):
            p = chance(n)
            so_far += p
            grown = [a * (1 - p) for a in alive] + [0.0]
            for x, a in enumerate(alive):
                grown[x + 1] += a * p
            while grown[-1] < 1e-15:
                grown.pop()
            for x, a in enumerate(grown):
                if a > 1e-15 and outside(x, n, so_far):
                    lost, grown[x] = lost + a, 0.0
            alive = grown
        return lost

    everywhere = run(lambda x, n, m: not sums[x][0] <= m <= sums[x][1])
    one_look = run(lambda x, n, m: n % 100 == 0 and not bounds.lower(x, n) <= m / n <= bounds.upper(x, n))
    return everywhere, one_look


@pytest.mark.parametrize(
    ("chance", "mails"),
    [
        pytest.param(lambda n: 0.01, 3000, id="constant"),
        pytest.param(lambda n: 0.3, 400, id="every third fails"),
        pytest.param(lambda n: 0.02 if n % 700 < 150 else 0.004, 3000, id="good and bad hours"),
        pytest.param(lambda n: 0.002 + 0.00001 * n, 2000, id="ever worse"),
    ],
)
def test_it_is_ever_wrong_in_five_of_a_hundred_periods_at_most(chance: Callable[[int], float], mails: int) -> None:
    everywhere, one_look = ever_missed(chance, mails)
    assert 0.001 < everywhere <= 0.05
    assert one_look > 0.07  # what it is there for


@pytest.mark.parametrize("failures", [1, 7, 120, 5000])
def test_each_end_is_where_the_evidence_against_it_is_enough(failures: int) -> None:
    trials = 10**6
    for sign, end in zip((1, -1), interval(failures, trials, beginnings=7), strict=True):
        exponents = [k * failures - end * trials * (exp(k) - 1) for k in (sign * 4 / 2**i for i in range(12))]
        evidence = sum(map(exp, exponents)) / 12
        # Even a chance of nothing could have given one failure, as far as factors up to e^4 can tell.
        assert evidence == pytest.approx(40 * 7, rel=1e-6) or (failures == 1 and end == 0 and evidence < 40 * 7)


@pytest.mark.parametrize(
    ("failures", "trials", "low", "high"),
    [(1, 13, 0.0000, 0.672), (0, 1000, 0.0, 0.00573), (10, 1000, 0.00242, 0.02494), (1000, 100_000, 0.00895, 0.01113)],
)
def test_known_counts(failures: int, trials: int, low: float, high: float) -> None:
    assert interval(failures, trials) == pytest.approx((low, high), abs=1e-3 if trials == 13 else 6e-6)


counts = st.integers(1, 10**9).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@settings(max_examples=100, deadline=None)
@given(counts, st.sampled_from(sorted(BEGINNINGS)), st.floats(1, 5))
def test_it_holds_the_interval_of_one_look_and_widens_with_lumps_and_looks(
    xn: tuple[int, int], period: str, dispersion: float
) -> None:
    x, n = xn
    low, high = interval(x, n)
    assert 0 <= low <= bounds.lower(x, n) + 1e-12
    assert min(1.0, bounds.upper(x, n)) - 1e-12 <= high <= 1
    lumpy = interval(x, n, dispersion=dispersion)
    assert lumpy[0] <= low + 1e-12
    assert lumpy[1] >= high - 1e-12
    looks = interval(x, n, dispersion=dispersion, beginnings=BEGINNINGS[period])
    assert looks[0] <= lumpy[0] + 1e-12
    assert looks[1] >= lumpy[1] - 1e-12


def test_lumps_of_three_are_a_third_of_the_evidence() -> None:
    low, high = interval(30, 9000, dispersion=3.0)
    alone = interval(10, 9000)
    assert (low / 3, high / 3) == pytest.approx(alone)


@pytest.mark.parametrize("wrong", [(3, 2), (-1, 2), (0, 0)])
def test_what_is_no_proportion_has_no_interval(wrong: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no interval"):
        interval(*wrong)
    with pytest.raises(ValueError, match="no interval"):
        interval(1, 2, dispersion=0.5)


def test_deliverability_is_the_other_side_of_its_failures() -> None:
    held = Counts(delivered=950, soft=50)
    rate = published(DELIVERABILITY, held, "month", 1.0)
    assert rate is not None
    assert (rate.value, rate.numerator, rate.denominator) == (0.95, 950, 1000)
    low, high = interval(50, 1000)
    assert (rate.lower, rate.upper) == (1 - high, 1 - low)


def test_nothing_has_no_rate_and_complaints_of_older_mail_no_bounds() -> None:
    assert published(BOUNCE, Counts(dropped=9), "24h", 1.0) is None
    older = published(COMPLAINT, Counts(delivered=2, complained=5), "7d", 1.0)
    assert older is not None
    assert (older.value, older.lower, older.upper) == (2.5, None, None)


def test_every_window_that_is_judged_has_its_number_of_beginnings() -> None:
    for target in (BOUNCE, DELIVERABILITY, COMPLAINT):
        for window in target.windows:
            moves = 60 if WINDOWS[window] <= 86400 else 3600
            assert BEGINNINGS[window] == 31 * 86400 // moves


@pytest.mark.parametrize("nature", [independent, partial(in_bursts, 3)])
@pytest.mark.parametrize("rate", [0.01, 0.03])
def test_in_a_month_of_looks_one_interval_fails_and_the_other_holds(
    nature: Callable[[Random, float, int], list[int]], rate: float
) -> None:
    """By the hour, as the agent publishes them, also of a sender who is beyond the target all the time."""
    months = [coverage(nature, rate, 50_000, seed) for seed in range(1, 7)]
    missed = {name: sum(month[i][1] for month in months) for i, name in enumerate(INTERVALS)}
    assert missed["one look", "24h"] >= 5
    assert all(missed["any time", period] <= 1 for period in ("24h", "7d", "month"))
