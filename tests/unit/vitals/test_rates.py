"""Rates out of counts."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.vitals import bounds
from agent.vitals.rates import FIELDS, Counts, Windows, rates, total
from agent.vitals.types import RATES

counts = st.builds(Counts, *[st.integers(0, 10**6) for _ in FIELDS])


def test_each_rate_by_its_formula() -> None:
    found = rates(
        Counts(
            delivered=900, hard=40, soft=30, block=20, undetermined=10, dropped=250, complained=9, deferred_pairs=1200
        )
    )
    assert {name: (r.numerator, r.denominator) for name, r in found.items()} == {
        "deliverability": (900, 1000),
        "bounce": (50, 1000),
        "block": (20, 1000),
        "soft_bounce": (30, 1000),
        "complaint": (9, 900),
        "deferral": (1200, 1000),
        "suppression": (250, 1250),
    }
    assert found["bounce"].value == 0.05
    assert found["bounce"].lower == bounds.lower(50, 1000)
    assert found["bounce"].upper == bounds.upper(50, 1000)
    assert (found["deferral"].value, found["deferral"].lower, found["deferral"].upper) == (1.2, None, None)


def test_nothing_attempted_has_no_rates() -> None:
    assert rates(Counts()) == {}
    assert rates(Counts(dropped=10, complained=3, deferred_pairs=5)) == {}


def test_nothing_delivered_has_no_complaint_rate() -> None:
    found = rates(Counts(hard=10, complained=1))
    assert "complaint" not in found
    assert found["deliverability"].value == 0.0
    assert found["bounce"].value == 1.0


def test_more_complaints_than_deliveries_keep_the_value_and_lose_the_bounds() -> None:
    rate = rates(Counts(delivered=2, complained=3))["complaint"]
    assert (rate.value, rate.lower, rate.upper) == (1.5, None, None)


def test_which_classes_count_as_bounce_is_a_choice() -> None:
    c = Counts(delivered=90, hard=1, soft=2, block=3, undetermined=4)
    assert rates(c)["bounce"].numerator == 5
    assert rates(c, ("hard", "soft", "block", "undetermined"))["bounce"].numerator == 10
    assert rates(c, ("hard", "hard"))["bounce"].numerator == 1
    with pytest.raises(ValueError, match="complained"):
        rates(c, ("hard", "complained"))


@settings(max_examples=100)
@given(counts)
def test_whatever_was_counted_the_rates_are_sound(c: Counts) -> None:
    found = rates(c)
    assert set(found) <= set(RATES)
    assert bool(found) == (c.attempted > 0)
    for name, rate in found.items():
        assert rate.denominator > 0
        assert rate.value == rate.numerator / rate.denominator
        assert (rate.lower is None) == (name == "deferral" or rate.value > 1)
        if rate.lower is not None and rate.upper is not None:
            assert 0 <= rate.lower <= rate.value <= rate.upper <= 1


@settings(max_examples=100, deadline=None)
@given(st.lists(counts, max_size=5))
def test_totals_add_every_measure(several: list[Counts]) -> None:
    whole = total(several)
    for field in FIELDS:
        assert getattr(whole, field) == sum(getattr(c, field) for c in several)
    if len(several) == 2:
        assert several[0] + several[1] == whole


def test_the_rates_of_windows_are_worked_out_for_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"1h": Counts(), "24h": Counts(delivered=90, hard=10, complained=95, deferred_pairs=3, dropped=1)}
    windows = Windows(counts, ("hard",))
    assert list(windows) == ["1h", "24h"]
    monkeypatch.setattr("agent.vitals.bounds.lower", None)  # Whoever asks for a bound now fails.
    plain = windows.unbounded()
    monkeypatch.undo()
    assert dict(windows) == {window: rates(each, ("hard",)) for window, each in counts.items()}
    assert plain == {
        window: {name: msgspec.structs.replace(rate, lower=None, upper=None) for name, rate in found.items()}
        for window, found in windows.items()
    }
    assert windows["24h"] is windows["24h"]
