"""Clopper-Pearson bounds against SciPy and against their own definition."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom

from agent.vitals import bounds

TRIALS = (1, 2, 3, 5, 10, 13, 50, 100, 367, 368, 1000, 5000, 10**4, 10**5, 10**6, 10**7, 10**8, 10**9)


def successes(trials: int) -> list[int]:
    some = {0, 1, 2, 3, 5, 10, 37, trials // 1000, trials // 300, trials // 100, trials // 20, trials // 3, trials // 2}
    return sorted({k for k in some | {trials - k for k in some} if 0 <= k <= trials})


@pytest.mark.parametrize("trials", TRIALS)
@pytest.mark.parametrize("confidence", [0.95, 0.999])
def test_agrees_with_scipy(trials: int, confidence: float) -> None:
    tail = (1 - confidence) / 2
    for k in successes(trials):
        low = beta.ppf(tail, k, trials - k + 1) if k else 0.0
        high = beta.isf(tail, k + 1, trials - k) if k < trials else 1.0
        assert bounds.lower(k, trials, confidence) == pytest.approx(low, abs=1e-9, rel=1e-7)
        assert bounds.upper(k, trials, confidence) == pytest.approx(high, abs=1e-9, rel=1e-7)


@pytest.mark.parametrize(("k", "n"), [(1, 13), (9, 1000), (450, 50_000), (999, 1000), (30_000, 60_000)])
def test_a_bound_is_where_the_tail_is_just_as_likely_as_allowed(k: int, n: int) -> None:
    assert binom.sf(k - 1, n, bounds.lower(k, n)) == pytest.approx(0.025, rel=1e-6)
    assert binom.cdf(k, n, bounds.upper(k, n)) == pytest.approx(0.025, rel=1e-6)


proportions = st.integers(1, 10**9).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@settings(max_examples=100)
@given(proportions, st.floats(0.5, 0.999999))
def test_bounds_enclose_the_point(kn: tuple[int, int], confidence: float) -> None:
    k, n = kn
    low, high = bounds.lower(k, n, confidence), bounds.upper(k, n, confidence)
    assert 0.0 <= low <= k / n <= high <= 1.0
    assert (low == 0.0) == (k == 0)
    assert (high == 1.0) == (k == n)


@settings(max_examples=100)
@given(st.integers(2, 10**9).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n))))
def test_more_failures_raise_and_more_confidence_widens(kn: tuple[int, int]) -> None:
    k, n = kn
    assert bounds.lower(k, n) < bounds.lower(k + 1, n)
    assert bounds.upper(k, n) < bounds.upper(k + 1, n)
    assert bounds.lower(k, n, 0.999) <= bounds.lower(k, n, 0.95)
    assert bounds.upper(k, n, 0.999) >= bounds.upper(k, n, 0.95)


@settings(max_examples=100)
@given(proportions)
def test_failures_mirror_successes(kn: tuple[int, int]) -> None:
    k, n = kn
    assert bounds.lower(k, n) == pytest.approx(1 - bounds.upper(n - k, n), abs=1e-12)


def test_no_failures_prove_one_per_cent_from_368_on() -> None:
    assert bounds.upper(0, 367) > 0.01 > bounds.upper(0, 368)
    assert bounds.upper(0, 1000) == pytest.approx(-math.expm1(math.log(0.025) / 1000), rel=1e-12)


@pytest.mark.parametrize(
    ("k", "n", "confidence"), [(-1, 5, 0.95), (6, 5, 0.95), (0, 0, 0.95), (1, 5, 0.0), (1, 5, 1.0)]
)
def test_nonsense_is_refused(k: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="no bounds"):
        bounds.lower(k, n, confidence)
    with pytest.raises(ValueError, match="no bounds"):
        bounds.upper(k, n, confidence)
