"""Evidence that may be looked at at any time: what it promises, tried on senders whose true rate is known."""

from __future__ import annotations

from functools import partial
from math import comb
from random import Random
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.clock import DAY, HOUR
from agent.vitals.rates import Counts
from agent.vitals.sequence import ALARM, MOST_DISPERSION, MOST_SCATTER, PROOF, Course, course, pooled, proof
from agent.vitals.types import TargetVerdict
from agent.vitals.verdicts import Target, decide, judge, standing
from bench.senders import hours, in_bursts, independent, overdispersed
from bench.verdicts import BOUNCE, Agent, false_alarms, information_bound, mails_until_found

WEEK = 7 * DAY
START = 1_750_000_000 // DAY * DAY


def series(random: Random, rate: float, per_hour: int, count: int) -> list[tuple[int, int, int]]:
    return [(START + h * HOUR, len(independent(random, rate, per_hour)), per_hour) for h in range(count)]


def test_at_the_limit_an_alarm_comes_once_in_two_weeks_of_hours_at_most() -> None:
    """What the method promises at its worst: within one ``ALARM`` of hours less than one alarm is expected. A
    likelihood ratio that is off by a tenth, or a mixture that weighs more than one, is seen here."""
    alarms = 0
    for seed in range(40):
        agent = Agent()
        for h, (failed, mails) in enumerate(hours(Random(seed), independent, 0.01, 20_000, int(ALARM))):
            alarms += bool(agent.hour(START + h * HOUR, failed, mails))
    assert 0.05 < alarms / 40 < 0.9


@pytest.mark.parametrize(("limit", "mails", "each"), [(0.05, 12, 1.0), (0.01, 20, 0.4), (0.3, 9, 1.0)])
def test_the_expected_evidence_at_the_limit_is_the_number_of_hours(limit: float, mails: int, each: float) -> None:
    """The property that all else follows from, exactly, over all that can happen in two hours, stopped at an alarm."""
    chance = [comb(mails, x) * limit**x * (1 - limit) ** (mails - x) for x in range(mails + 1)]
    expected = gone_on = 0.0
    for first, likely in enumerate(chance):
        one = Course(limit)
        one.take(START, first, mails, WEEK)
        if one.breached_since:
            expected += likely * one.evidence
            continue
        gone_on += likely
        one.lumps = one.weight
        for second, as_likely in enumerate(chance):
            two = one.copy()
            two.take(START + HOUR, second, mails, WEEK)
            expected += likely * as_likely * two.evidence
    assert expected == pytest.approx(each + gone_on * each, rel=1e-9)


def test_a_healthy_sender_is_left_alone_and_a_change_is_found_near_the_information_bound() -> None:
    assert sum(false_alarms(Agent, independent, 0.005, 50_000, seed) for seed in range(3)) <= 1
    found = [mails_until_found(Agent, independent, 0.005, 0.03, 50_000, seed, quiet=72) for seed in range(60)]
    assert mean(found) < 1.5 * information_bound(0.03)
    found = [mails_until_found(Agent, independent, 0.005, 0.10, 50_000, seed, quiet=72) for seed in range(60)]
    assert mean(found) < 2.3 * information_bound(0.10)


@pytest.mark.parametrize("nature", [partial(in_bursts, 3), partial(overdispersed, 0.02)])
def test_lumps_are_measured_and_allowed_for(nature: partial[list[int]]) -> None:
    learnt, ignored = 0, 0
    for seed in range(2):
        agent, blind = Agent(), Agent()
        for h, (failed, mails) in enumerate(hours(Random(seed), nature, 0.005, 50_000, 1000)):
            blind.course.lumps = blind.course.weight  # as if failures came one by one
            learnt += bool(agent.hour(START + h * HOUR, failed, mails))
            ignored += bool(blind.hour(START + h * HOUR, failed, mails))
        assert agent.course.dispersion > 1.5
    assert learnt < ignored / 2


def test_independent_failures_and_a_rate_that_moves_are_not_taken_for_lumps() -> None:
    quiet = course(series(Random(1), 0.005, 600, 720), 0.05, WEEK)
    assert quiet.dispersion < 1.15
    moved = course(series(Random(1), 0.005, 600, 360) + [(s + 15 * DAY, x, n) for s, x, n in
                   series(Random(2), 0.03, 600, 360)], 0.05, WEEK)  # fmt: skip
    assert moved.dispersion < 1.25


def test_lumps_of_a_breach_widen_intervals_and_no_verdict() -> None:
    random, found = Random(4), Course(0.01)
    for h in range(720):
        found.take(START + h * HOUR, len(in_bursts(3, random, 0.03, 70)), 70, WEEK)
        assert 1 <= found.dispersion <= found.scatter <= MOST_SCATTER
    assert found.breached_since
    assert found.dispersion < 1.6
    assert 3 < found.scatter < 4.5


def test_a_breach_is_dated_confirmed_and_ended() -> None:
    random = Random(3)
    good = series(random, 0.005, 69, 480)
    bad = [(s + 480 * HOUR, x, n) for s, x, n in series(random, 0.05, 69, 240)]
    well = [(s + 720 * HOUR, x, n) for s, x, n in series(random, 0.003, 69, 240)]
    at_worst = course(good + bad, 0.01, WEEK)
    assert abs(at_worst.breached_since - bad[0][0]) <= 6 * HOUR
    assert at_worst.confirmed >= bad[-1][0] - 12 * HOUR
    later = course(good + bad + well, 0.01, WEEK)
    assert later.breached_since == 0
    assert well[0][0] < later.ended < well[0][0] + 48 * HOUR


def test_hours_without_mail_are_no_evidence_and_hostile_counts_do_no_harm() -> None:
    found = Course(0.01)
    found.take(START, 0, 0, WEEK)
    found.take(START + HOUR, -5, 3, WEEK)
    assert found == Course(0.01)
    for h in range(50):
        found.take(START + h * HOUR, 10**12, 10**12, WEEK)
        found.take(START + h * HOUR, 0, 10**12, WEEK)
        found.take(START + h * HOUR, 7, 3, WEEK)  # more failures than trials: all of them failed
    assert all(0 <= value < float("inf") for value in (*found.above, *found.below, found.evidence))
    assert 1 <= found.dispersion <= MOST_DISPERSION


@pytest.mark.parametrize(("limit", "clean"), [(0.01, 368), (0.05, 72), (0.001, 3688)])
def test_how_many_clean_mails_prove_a_rate(limit: float, clean: int) -> None:
    assert proof(0, clean - 1, limit) < PROOF <= proof(0, clean, limit)
    assert proof(0, clean, limit, dispersion=1.5) < PROOF


def test_met_is_falsely_proven_from_one_beginning_in_five_of_a_hundred_at_most() -> None:
    """Looked at after every hour of 20 days, where the 95 % bound alone would be wrong far more often."""
    wrong = 0
    for seed in range(80):
        failures = trials = 0
        for _, x, n in series(Random(seed), 0.01, 69, 480):
            failures, trials = failures + x, trials + n
            if proof(failures, trials, 0.01) >= PROOF:
                wrong += 1
                break
    assert wrong / 80 < 0.08


def test_late_failures_are_held_against_the_mail_of_a_week_at_least() -> None:
    """A newsletter once a week, complained about for days: at 0.2 % no breach, although the days after it have
    complaints and no mail."""
    days = []
    for week in range(4):
        days += [(START + (7 * week + d) * DAY, (10, 6, 3, 1, 0, 0, 0)[d], 10_000 if d == 0 else 0) for d in range(7)]
    today = START + 27 * DAY
    beginnings = range(today - 7 * DAY, today - 31 * DAY, -DAY)
    assert pooled(days[::-1], beginnings, 0.003)[0] < 1
    worse = [(day, 5 * failed, tried) for day, failed, tried in days]
    evidence, since = pooled(worse[::-1], beginnings, 0.003)
    assert evidence > ALARM
    assert since <= today - 7 * DAY


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 400)), min_size=1, max_size=60), st.randoms())
def test_a_course_that_is_kept_says_what_one_that_is_made_anew_says(
    counts: list[tuple[int, int]], random: Random
) -> None:
    """The agent keeps the hours that are over and tries the present one on a copy; ``decide`` begins at the first."""
    kept, rows = Course(BOUNCE.breach), []
    for h, (failed, good) in enumerate(counts):
        hour = START + h * HOUR
        rows.append((hour, Counts(delivered=good, hard=failed)))
        now = hour + random.uniform(1, HOUR - 1)
        look = kept.copy()
        look.take(hour, failed, failed + good, BOUNCE.memory)
        totals = {
            w: Counts(
                delivered=sum(c.delivered for s, c in rows if s > now - seconds - HOUR),
                hard=sum(c.hard for s, c in rows if s > now - seconds - HOUR),
            )
            for w, seconds in (("24h", DAY), ("7d", WEEK))
        }
        assert judge(BOUNCE, totals, standing(look, BOUNCE, now), now) == decide(rows, BOUNCE, now)
        kept.take(hour, failed, failed + good, BOUNCE.memory)


def test_the_same_evidence_serves_other_limits() -> None:
    """A deliverability of 95 % is a share of failures of 5 %, found as fast in failures."""
    deliverability = Target(name="deliverability", windows=("24h", "7d"), met=0.95, breach=0.95)
    rows = [(START + h * HOUR, Counts(delivered=67, soft=2)) for h in range(200)]
    now = START + 200 * HOUR - 1.0
    assert decide(rows, deliverability, now).verdict is TargetVerdict.MET
    rows += [(START + h * HOUR, Counts(delivered=57, block=12)) for h in range(200, 204)]
    judgement = decide(rows, deliverability, now + 4 * HOUR)
    assert (judgement.verdict, judgement.since) == (TargetVerdict.BREACHED, START + 200 * HOUR)
