"""The error budget: what may fail in a month, and how long that lasts."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.clock import DAY
from agent.vitals.budget import budget
from agent.vitals.phases import PHASES
from agent.vitals.rates import Counts
from agent.vitals.types import Budget, BudgetState
from agent.vitals.verdicts import targets
from agent.vitals.volume import expected, month_end

NOW = datetime(2025, 6, 16, 12, tzinfo=UTC).timestamp()  # the middle of June
BOUNCE, DELIVERABILITY, COMPLAINT = targets(PHASES["growth"], last_event_at=NOW)[:3]
TODAY = int(NOW // DAY) * DAY
TO_COME = {TODAY: 1000.0} | dict.fromkeys(range(TODAY + DAY, month_end(NOW), DAY), 2000.0)  # 29,000 mails


def of(attempted: int, hard: int, complained: int = 0) -> Counts:
    return Counts(delivered=attempted - hard, hard=hard, complained=complained)


def june(month: Counts, week: Counts, day: Counts, **more: float) -> Budget:
    return budget(BOUNCE, NOW, month=month, week=week, day=day, to_come=TO_COME, **more)


def test_what_may_fail_is_the_limit_of_the_projected_mails() -> None:
    found = june(of(31_000, 188), of(14_000, 60), of(2_000, 8))
    assert (found.volume, found.allowed, found.used, found.left) == (60_000, 600, 188, 412)
    assert found.sentence == "412 bounces left of 600 for the 60,000 mails of the month (projected)"
    assert found.state is BudgetState.LASTING
    assert found.burn_7d == pytest.approx(60 / 14_000 / 0.01)
    assert (found.ends_at, found.earliest) == (None, None)


def test_a_rate_that_the_rest_of_the_month_cannot_bear_is_found_below_the_target_too() -> None:
    """0.9 % is within 1 %, but an accident has used up most of the month: 0.5 % is all that is left."""
    found = june(of(31_000, 455), of(14_000, 130), of(2_000, 18))
    assert found.left == 145
    assert found.state is BudgetState.RUNNING_OUT
    # 0.93 % of 1,000 and then of 2,000 a day: 145 are gone on the eighth day.
    assert (found.ends_at, found.earliest, found.latest) == (TODAY + 8 * DAY, TODAY + 7 * DAY, TODAY + 9 * DAY)
    over = june(of(31_000, 455), of(14_000, 130), of(2_000, 4))
    assert over.state is BudgetState.SPENDING, "the last day does not go on like that"
    lumps = june(of(31_000, 455), of(14_000, 130), of(2_000, 18), dispersion=5.0)
    assert lumps.state is BudgetState.SPENDING
    assert (lumps.earliest or 0) < (found.earliest or 0)


def test_what_is_spent_stays_spent_until_the_month_is_over() -> None:
    assert june(of(31_000, 603), of(14_000, 10), of(2_000, 1)).state is BudgetState.SPENT
    assert "603 bounces, 3 more than the 600" in june(of(31_000, 603), of(14_000, 10), of(2_000, 1)).sentence
    assert june(of(31_000, 602), of(14_000, 10), of(2_000, 1)).state is BudgetState.SPENDING
    assert june(of(31_000, 600), of(14_000, 10), of(2_000, 1)).state is BudgetState.SPENDING
    july = datetime(2025, 7, 1, 0, 30, tzinfo=UTC).timestamp()
    fresh = budget(BOUNCE, july, month=of(0, 0), week=of(14_000, 10), day=of(2_000, 1), to_come={int(july) - 1800: 6e4})
    assert (fresh.state, fresh.used, fresh.allowed) == (BudgetState.LASTING, 0, 600)


def test_too_little_to_say_is_a_state_of_its_own() -> None:
    new = budget(BOUNCE, NOW, month=of(100, 2), week=of(100, 2), day=of(100, 2), to_come=None)
    assert (new.state, new.projected, new.volume) == (BudgetState.TOO_LITTLE, False, 100)
    assert "so far" in new.sentence
    assert june(of(31_000, 100), of(0, 0), of(0, 0)).state is BudgetState.TOO_LITTLE
    small = budget(BOUNCE, NOW, month=of(200, 0), week=of(90, 0), day=of(10, 0), to_come={TODAY: 200.0})
    assert small.state is BudgetState.TOO_LITTLE
    burst = budget(BOUNCE, NOW, month=of(200, 2), week=of(90, 2), day=of(10, 2), to_come={TODAY: 200.0})
    assert burst.state is not BudgetState.RUNNING_OUT, "two failures are no pattern"


def test_each_target_counts_its_own() -> None:
    mail = Counts(delivered=9_500, hard=50, soft=450, complained=5)
    found = [
        budget(t, NOW, month=mail, week=mail, day=mail, to_come={TODAY: 10_000.0}) for t in (DELIVERABILITY, COMPLAINT)
    ]
    assert [(b.allowed, b.used, b.volume) for b in found] == [(1000, 500, 20_000), (19, 5, 19_000)]


def test_what_is_expected_adds_up_to_the_projection() -> None:
    days = {TODAY - d * DAY: 100 * (1 + d % 7) for d in range(1, 40)} | {TODAY: 5_000}
    ahead = expected(days, NOW)
    assert ahead is not None
    assert list(ahead) == list(range(TODAY, month_end(NOW), DAY))
    assert ahead[TODAY] == 0
    assert expected({TODAY - DAY: 5}, NOW) is None


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([BOUNCE, DELIVERABILITY, COMPLAINT]),
    *[st.builds(Counts, *[st.integers(0, 3_000) for _ in range(7)]) for _ in range(3)],
    st.dictionaries(st.integers(0, 14).map(lambda d: TODAY + d * DAY), st.floats(0, 1e7), max_size=15),
    st.floats(1, 5),
)
def test_any_counts_make_a_sound_budget(target, month, week, day, to_come, dispersion) -> None:  # type: ignore[no-untyped-def]
    found = budget(target, NOW, month=month, week=week, day=day, to_come=to_come, dispersion=dispersion)
    assert found.left == found.allowed - found.used
    assert found.sentence
    ends = [at if at is not None else month_end(NOW) for at in (found.earliest, found.ends_at, found.latest)]
    if found.state not in (BudgetState.SPENT, BudgetState.TOO_LITTLE) and found.used <= found.allowed:
        assert ends == sorted(ends)
    if found.state is BudgetState.LASTING:
        assert found.ends_at is None
