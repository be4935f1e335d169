"""Verdicts: what the evidence of two windows allows to be said."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.clock import HOUR
from agent.vitals import bounds
from agent.vitals.phases import PHASES
from agent.vitals.rates import FIELDS, Counts
from agent.vitals.types import Judgement, TargetVerdict
from agent.vitals.verdicts import Hour, Target, decide, targets

NOW = 1_750_000_123.0
DAY = 86400
MET, BREACHED, UNDECIDED, INSUFFICIENT, STALE = TargetVerdict


def judge(name: str, *hours: Hour, phase: str = "growth", last_event_at: float = NOW - 60, **more: object) -> Judgement:
    (target,) = (
        t
        for t in targets(PHASES[phase], last_event_at=last_event_at, **more)  # type: ignore[arg-type]
        if t.name == name
    )
    return decide(hours, target, NOW)


def ago(seconds: float, **counts: int) -> Hour:
    return int((NOW - seconds) // HOUR) * HOUR, Counts(**counts)


def test_one_bounce_of_thirteen_is_never_an_alarm() -> None:
    for failed in (0, 1, 2):
        hour = ago(60, delivered=13 - failed, hard=failed)
        assert judge("bounce", hour).verdict is INSUFFICIENT
    assert judge("deliverability", ago(60, delivered=12, hard=1)).verdict is INSUFFICIENT


def test_four_failures_convict_even_a_small_sender() -> None:
    judgement = judge("bounce", ago(60, delivered=10, hard=4))
    assert judgement.verdict is BREACHED
    assert judgement.since == ago(60)[0]
    for failed in (2, 3):
        assert judge("bounce", ago(60, delivered=0, hard=failed)).verdict is INSUFFICIENT
    assert judge("bounce", ago(60, delivered=0, hard=4)).verdict is BREACHED


def test_bounce_turns_met_at_368_clean_mails() -> None:
    assert judge("bounce", ago(60, delivered=367)).verdict is INSUFFICIENT
    assert judge("bounce", ago(60, delivered=368)).verdict is MET


@pytest.mark.parametrize(
    ("failed", "verdict"), [(70, MET), (82, UNDECIDED), (100, UNDECIDED), (120, UNDECIDED), (150, BREACHED)]
)
def test_bounce_of_ten_thousand(failed: int, verdict: TargetVerdict) -> None:
    judgement = judge("bounce", ago(60, delivered=10_000 - failed, hard=failed))
    assert judgement.verdict is verdict
    assert judgement.limit == 0.01
    # Sequential evidence asks for more than a bound at one look does, never for less.
    assert bounds.upper(failed, 10_000) <= 0.01 or verdict is not MET
    assert bounds.lower(failed, 10_000, 0.999) > 0.01 or verdict is not BREACHED


def test_deliverability_counts_every_class_and_reports_the_rate_itself() -> None:
    hour = ago(60, delivered=900, soft=60, block=40)
    judgement = judge("deliverability", hour)
    assert judgement.verdict is BREACHED
    assert judgement.limit == 0.95
    assert judgement.rate is not None
    assert (judgement.rate.value, judgement.rate.numerator, judgement.rate.denominator) == (0.9, 900, 1000)
    assert judge("bounce", hour).verdict is MET
    assert judge("deliverability", ago(60, delivered=72)).verdict is MET
    assert judge("deliverability", ago(60, delivered=71)).verdict is INSUFFICIENT


def test_which_classes_bounce_is_judged_by_is_a_choice() -> None:
    hour = ago(60, delivered=900, soft=100)
    assert judge("bounce", hour).verdict is MET
    assert judge("bounce", hour, bounce_classes=("hard", "soft")).verdict is BREACHED


def test_complaints_are_met_below_one_limit_and_breached_above_another() -> None:
    assert judge("complaint", ago(60, delivered=100_000, complained=70)).verdict is MET
    for between in (110, 200, 300, 330):
        judgement = judge("complaint", ago(60, delivered=100_000, complained=between))
        assert (judgement.verdict, judgement.limit) == (UNDECIDED, 0.001)
    judgement = judge("complaint", ago(60, delivered=100_000, complained=370))
    assert (judgement.verdict, judgement.limit) == (BREACHED, 0.003)


def test_complaints_are_judged_over_a_week_and_a_month() -> None:
    assert judge("complaint", ago(20 * DAY, delivered=10_000, complained=100)).window == "30d"
    assert judge("complaint", ago(20 * DAY, delivered=10_000, complained=100)).verdict is BREACHED
    assert judge("complaint", ago(31 * DAY, delivered=10_000, complained=100)).verdict is INSUFFICIENT
    assert judge("complaint", ago(3 * DAY, delivered=10_000, complained=100)).window == "7d"


def test_more_complaints_than_deliveries_decide_nothing() -> None:
    judgement = judge("complaint", ago(60, delivered=10, complained=50))
    assert judgement.verdict is INSUFFICIENT
    assert judgement.rate is not None
    assert judgement.rate.value == 5.0
    assert "older mail" in judgement.reason


def test_a_breach_is_over_when_the_hours_since_prove_it() -> None:
    bad, good = {"delivered": 900, "hard": 100}, {"delivered": 1_000_000, "hard": 100}
    today = judge("bounce", ago(60, **bad), ago(3 * DAY, **good))
    assert (today.verdict, today.window, today.since) == (BREACHED, "24h", ago(60)[0])
    still = judge("bounce", ago(60, delivered=100, hard=1), ago(3 * DAY, **bad))
    assert (still.verdict, still.window, still.since) == (BREACHED, "7d", ago(3 * DAY)[0])
    over = judge("bounce", ago(60, **good), ago(3 * DAY, **bad))
    assert (over.verdict, over.window, over.since, over.ended) == (MET, "24h", None, ago(60)[0])
    little = judge("bounce", ago(60, delivered=900), ago(3 * DAY, **bad), ago(8 * DAY, **good))
    assert (little.verdict, little.window, little.ended) == (UNDECIDED, "7d", ago(60)[0])


def test_a_breach_that_nothing_confirms_for_a_week_is_out_of_date() -> None:
    bad = {"delivered": 900, "hard": 100}
    assert judge("bounce", ago(60, delivered=10), ago(6.9 * DAY, **bad)).verdict is BREACHED
    lapsed = judge("bounce", ago(60, delivered=10), ago(7.1 * DAY, **bad))
    assert (lapsed.verdict, lapsed.since, lapsed.ended) == (INSUFFICIENT, None, None)


def test_a_thin_day_does_not_hide_what_the_week_shows() -> None:
    thin = ago(60, delivered=20)
    met = judge("bounce", thin, ago(3 * DAY, delivered=5000))
    assert (met.verdict, met.window) == (MET, "7d")
    undecided = judge("bounce", thin, ago(3 * DAY, delivered=495, hard=5))
    assert (undecided.verdict, undecided.window) == (UNDECIDED, "7d")
    neither = judge("bounce", thin, ago(3 * DAY, delivered=20))
    assert (neither.verdict, neither.window) == (INSUFFICIENT, "7d")
    assert neither.rate is not None
    assert neither.rate.denominator == 40


def test_an_undecided_day_is_not_hidden_by_a_good_week() -> None:
    judgement = judge("bounce", ago(60, delivered=495, hard=5), ago(3 * DAY, delivered=100_000))
    assert (judgement.verdict, judgement.window) == (UNDECIDED, "24h")


def test_of_two_undecided_windows_the_worse_is_reported() -> None:
    worse_week = judge("bounce", ago(60, delivered=995, hard=5), ago(3 * DAY, delivered=4935, hard=65))
    assert (worse_week.verdict, worse_week.window) == (UNDECIDED, "7d")
    worse_day = judge("deliverability", ago(60, delivered=945, hard=55), ago(3 * DAY, delivered=4780, hard=220))
    assert (worse_day.verdict, worse_day.window) == (UNDECIDED, "24h")


@pytest.mark.parametrize("name", ["bounce", "deliverability", "complaint", "capacity"])
def test_silence_makes_every_verdict_stale(name: str) -> None:
    hour = ago(2 * DAY, delivered=90_000, hard=9_000, complained=900)
    assert judge(name, hour, last_event_at=NOW - DAY - 1).verdict is STALE
    assert judge(name, hour, last_event_at=NOW - DAY + 1).verdict is not STALE
    assert judge(name, hour, last_event_at=NOW - DAY + 1, stale_after=3600).verdict is STALE


@pytest.mark.parametrize("name", ["bounce", "deliverability", "complaint", "capacity"])
def test_a_domain_without_any_event_has_nothing_to_go_stale(name: str) -> None:
    judgement = judge(name, last_event_at=0.0)
    assert judgement.verdict is INSUFFICIENT
    assert judgement.rate is None


def test_the_future_and_the_distant_past_are_in_no_window() -> None:
    bad = {"delivered": 10, "hard": 90}
    assert judge("bounce", ago(-2 * HOUR, **bad), ago(9 * DAY, **bad)).rate is None
    assert judge("bounce", ago(7 * DAY, **bad)).verdict is BREACHED  # its hour overlaps the window


@pytest.mark.parametrize(
    ("phase", "volume", "verdict", "words"),
    [
        ("growth", 0, INSUFFICIENT, "0 attempted in the trailing 30 days"),
        ("growth", 20_000, UNDECIDED, "growth not reached (growth is 50,000 to 100,000)"),
        ("growth", 50_000, MET, "within the capacity of growth"),
        ("growth", 100_000, MET, "within the capacity of growth"),
        ("growth", 100_001, UNDECIDED, "growth outgrown, enterprise not reached"),
        ("growth", 600_000, UNDECIDED, "growth outgrown, within the capacity of enterprise"),
        ("enterprise", 20_000, UNDECIDED, "enterprise not reached (enterprise is from 500,000)"),
        ("enterprise", 70_000, UNDECIDED, "within the capacity of growth, enterprise not reached"),
        ("enterprise", 300_000, UNDECIDED, "growth outgrown, enterprise not reached"),
        ("enterprise", 500_000, MET, "within the capacity of enterprise (from 500,000)"),
    ],
)
def test_capacity(phase: str, volume: int, verdict: TargetVerdict, words: str) -> None:
    judgement = judge("capacity", ago(20 * DAY, delivered=volume), phase=phase)
    assert judgement.verdict is verdict
    assert words in judgement.reason
    assert (judgement.window, judgement.rate) == ("30d", None)


def test_capacity_names_the_end_of_the_range_that_matters() -> None:
    assert judge("capacity", ago(60, delivered=10)).limit == 50_000
    assert judge("capacity", ago(60, delivered=70_000)).limit == 50_000
    assert judge("capacity", ago(60, delivered=170_000)).limit == 100_000


def test_a_phase_without_capacity_has_no_such_target() -> None:
    names = [t.name for t in targets(PHASES["foundation"], last_event_at=NOW)]
    assert names == ["bounce", "deliverability", "complaint"]


def test_reasons_carry_counts_bounds_and_limit() -> None:
    reason = judge("bounce", ago(60, delivered=850, hard=150)).reason
    assert "150 of 1,000 in 24h" in reason
    assert "above 1 %" in reason
    assert "since about 2025-06-15 15:00 UTC" in reason
    assert "less often than once in 336 hours of mail" in reason
    reason = judge("deliverability", ago(60, delivered=850, hard=150)).reason
    assert "850 of 1,000 in 24h" in reason
    assert "below 95 %" in reason


def test_a_target_without_windows_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="bounce"):
        decide([], Target(name="bounce", windows=(), met=0.01, breach=0.01), NOW)


hours = st.lists(
    st.tuples(
        st.integers(-2, 24 * 32).map(lambda h: int(NOW // HOUR - h) * HOUR),
        st.builds(Counts, *[st.integers(0, 3000) for _ in FIELDS]),
    ),
    max_size=12,
)


@settings(max_examples=100, deadline=None)
@given(hours, st.sampled_from(sorted(PHASES)), st.randoms(use_true_random=False))
def test_order_plays_no_part_and_breaches_are_backed(several: list[Hour], phase: str, random: object) -> None:
    shuffled = list(several)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for target in targets(PHASES[phase], last_event_at=NOW):
        judgement = decide(several, target, NOW)
        assert decide(shuffled, target, NOW) == judgement
        if judgement.verdict is BREACHED:
            assert target.name != "capacity"
            assert judgement.since is not None
            assert sum(target.of(counts)[0] for start, counts in several if start >= judgement.since) >= 3
        if judgement.verdict is MET and target.name != "capacity":
            assert judgement.rate is not None
            assert judgement.since is None
            failures, trials = judgement.rate.numerator, judgement.rate.denominator
            if target.name == "deliverability":
                failures = trials - failures
            assert bounds.upper(failures, trials) <= target.share(target.met) + 1e-12
