"""Replaying stored hours against a policy: what alerted, what it told of, what was missed."""

from __future__ import annotations

import random

import pytest

from agent.backtest import Alert, Episode, Policy, Result, Told, episodes, replay
from agent.clock import DAY, HOUR
from agent.vitals.phases import PHASES
from agent.vitals.rates import Counts
from agent.vitals.verdicts import Hour, decide, targets

T0 = 1_790_000_400 // HOUR * HOUR
SHOP = "shop.example"
(BOUNCE,) = (t for t in targets(PHASES["foundation"], last_event_at=0.0) if t.name == "bounce")
(DELIVERABILITY,) = (t for t in targets(PHASES["foundation"], last_event_at=0.0) if t.name == "deliverability")


def policy(**changes: object) -> Policy:
    given = {
        "domains": {SHOP: PHASES["foundation"]}, "phases": PHASES, "bounce_classes": ("hard", "undetermined"),
        "stale_after": 86400.0, "quiet_period": 1800.0,
    }  # fmt: skip
    return Policy(**(given | changes))  # type: ignore[arg-type]


def mail(hours: int, hard: int, delivered: int = 200, start: int = T0) -> list[Hour]:
    return [(start + n * HOUR, Counts(delivered=delivered, hard=hard)) for n in range(hours)]


def run(history: list[Hour], of: Policy | None = None, days: int = 10) -> Result:
    return replay({SHOP: history}, of or policy(), T0, T0 + days * DAY)


BAD_DAY = mail(96, 0) + mail(24, 12, start=T0 + 96 * HOUR) + mail(120, 0, start=T0 + 120 * HOUR)


def test_a_bad_day_is_told_once_with_its_delay_and_its_end() -> None:
    result = run(BAD_DAY)
    (bounce,) = (a for a in result.alerts if a.target == "bounce")
    began = T0 + 96 * HOUR
    assert bounce.episode == Episode(began, began + 24 * HOUR, 24 * 12, 24 * 212)
    assert began < bounce.starts_at <= began + 8 * HOUR
    assert bounce.delay == bounce.starts_at - began
    assert bounce.mails == bounce.delay // HOUR * 212
    assert began + 24 * HOUR < bounce.ended_at <= T0 + 10 * DAY
    assert not bounce.again
    assert "hard" not in bounce.reason
    assert "%" in bounce.reason
    assert (result.noise, result.missed) == (0, ())


def test_good_mail_raises_nothing_and_misses_nothing() -> None:
    result = run(mail(240, 0))
    assert (result.alerts, result.missed) == ((), ())


def test_a_stricter_limit_alerts_where_todays_does_not() -> None:
    history = mail(240, 1)  # 0.5 %
    assert run(history).alerts == ()
    strict = policy(domains={SHOP: PHASES["foundation"].__class__(**{
        **{f: getattr(PHASES["foundation"], f) for f in PHASES["foundation"].__struct_fields__}, "bounce_max": 0.001,
    })})  # fmt: skip
    (alert,) = run(history, strict).alerts
    assert alert.target == "bounce"
    assert alert.ended_at == 0
    assert alert.episode is not None


def test_what_no_alert_told_of_is_missed() -> None:
    """With classes that count nothing of it a breach passes unnoticed by today's policy; the other one sees it."""
    history = [(start, Counts(delivered=c.delivered, soft=c.hard)) for start, c in BAD_DAY]
    blind, seeing = run(history), run(history, policy(bounce_classes=("hard", "soft")))
    assert [a for a in blind.alerts if a.target == "bounce"] == []
    assert [m for m in blind.missed if m.target == "bounce"] == []  # by its own lights there was nothing
    assert [a.target for a in seeing.alerts if a.target == "bounce"] == ["bounce"]
    short = mail(96, 0) + mail(1, 9, start=T0 + 96 * HOUR) + mail(120, 0, start=T0 + 97 * HOUR)
    late = replay({SHOP: short}, policy(), T0 + 97 * HOUR + 40 * DAY, T0 + 41 * DAY + 97 * HOUR)
    assert (late.alerts, late.missed) == ((), ())  # outside of what was replayed


def test_an_episode_is_the_stretch_of_its_excess() -> None:
    hours = mail(50, 1) + mail(10, 20, start=T0 + 50 * HOUR) + mail(50, 1, start=T0 + 60 * HOUR)
    assert episodes(hours, BOUNCE) == [Episode(T0 + 50 * HOUR, T0 + 60 * HOUR, 200, 2200)]
    assert episodes(hours, DELIVERABILITY) == [Episode(T0 + 50 * HOUR, T0 + 60 * HOUR, 200, 2200)]
    two = hours + mail(10, 20, start=T0 + 110 * HOUR) + mail(50, 1, start=T0 + 120 * HOUR)
    assert [e.begins for e in episodes(two, BOUNCE)] == [T0 + 50 * HOUR, T0 + 110 * HOUR]
    assert episodes([(T0, Counts(delivered=12, hard=1))], BOUNCE) == []  # 1 of 13 is nothing
    assert episodes([], BOUNCE) == []


def test_chance_makes_no_episodes() -> None:
    rng = random.Random(7)
    found = 0
    for n in range(40):
        hours = [
            (T0 + h * HOUR, Counts(delivered=69 - bad, hard=bad))
            for h in range(24 * 30)
            for bad in [sum(rng.random() < 0.005 for _ in range(69))]
        ]
        found += len(episodes(hours, BOUNCE))
        del n
    assert found <= 1  # of 40 months at half the limit


def test_a_breach_of_before_the_replay_is_judged_by_and_still_open_at_its_end() -> None:
    history = mail(24 * 5, 0) + mail(24 * 5, 12, start=T0 + 5 * DAY)
    result = replay({SHOP: history}, policy(), T0 + 6 * DAY, T0 + 10 * DAY)
    (alert,) = (a for a in result.alerts if a.target == "bounce")
    assert alert.starts_at == T0 + 6 * DAY + HOUR
    assert alert.ended_at == 0
    assert alert.delay == DAY + HOUR


def test_silence_does_not_end_an_alert() -> None:
    result = run(mail(24, 0) + mail(24, 12, start=T0 + DAY))
    (alert,) = (a for a in result.alerts if a.target == "bounce")
    assert alert.ended_at == 0


def test_progress_counts_hours_and_unknown_domains_are_left_out() -> None:
    steps: list[int] = []
    result = replay({"other": BAD_DAY, SHOP: []}, policy(), T0, T0 + DAY, steps.append)
    assert steps == list(range(1, 25))
    assert result.alerts == ()


def test_a_summary_of_delays_takes_each_breach_once() -> None:
    e = Episode(T0, T0 + HOUR, 5, 100)
    one = Alert(SHOP, "bounce", T0 + HOUR, 0, "", e, False, HOUR, 100)
    again = Alert(SHOP, "bounce", T0 + 9 * HOUR, 0, "", e, True)
    noise = Alert(SHOP, "bounce", T0 + 99 * HOUR, 0, "")
    result = Result(T0, T0 + DAY, (one, again, noise), ())
    assert (result.noise, result.delays) == (1, [(HOUR, 100)])


@pytest.mark.parametrize("hours", [1, 7])
def test_complaints_may_outnumber_the_deliveries_of_their_hour(hours: int) -> None:
    (target,) = (t for t in targets(PHASES["foundation"], last_event_at=0.0) if t.name == "complaint")
    history = [(T0 + n * HOUR, Counts(delivered=1, complained=5)) for n in range(hours)]
    assert episodes(history, target) == [Episode(T0, T0 + hours * HOUR, 5 * hours, hours)]


def test_what_is_replayed_is_what_would_have_been_decided() -> None:
    rng = random.Random(3)
    hours = [
        (
            T0 + n * HOUR,
            Counts(
                delivered=rng.randrange(90), hard=rng.randrange(1 + 4 * (n % 200 > 150)), complained=rng.randrange(2)
            ),
        )
        for n in range(24 * 25)
    ]
    for target in targets(PHASES["foundation"], last_event_at=0.0):
        told = Told(target)
        for n, (start, counts) in enumerate(hours):
            told.take(start, counts)
            if n % 17 == 0:
                assert told.judgement(start + HOUR, 0.0) == decide(hours[: n + 1], target, float(start + HOUR))
