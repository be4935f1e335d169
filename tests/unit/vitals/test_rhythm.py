"""A source is missing when its own rhythm makes silence implausible, and never for another reason."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from agent.clock import HOUR, WEEK
from agent.vitals.rhythm import EVIDENCE, INTERVAL, SHORTEST, Silence, Spoken, silence

# A Monday, 00:00 UTC, four weeks after the history begins.
MONDAY = 1_750_032_000
assert MONDAY % HOUR == 0
Talk = Callable[[int], Spoken | None]


def busy(hour: int) -> Spoken:
    return Spoken(1200, 12)


def office(hour: int) -> Spoken | None:
    """Monday to Friday, 8 to 18 o'clock."""
    day, clock = (hour - MONDAY) // 86400 % 7, (hour - MONDAY) // HOUR % 24
    return Spoken(60, 6) if day < 5 and 8 <= clock < 18 else None


def history(talk: Talk, weeks: float = 4, until: int = MONDAY) -> dict[int, Spoken]:
    hours = range(until - int(weeks * WEEK) // HOUR * HOUR, until, HOUR)
    return {hour: said for hour in hours if (said := talk(hour))}


def awake(weeks: float = 4, until: int = MONDAY + 4 * WEEK) -> dict[int, float]:
    return {h: float(HOUR) for h in range(MONDAY - int(weeks * WEEK) // HOUR * HOUR, until, HOUR)}


def after(
    hours: float, talk: Talk = busy, *, weeks: float = 4, since: float = MONDAY, started: float = 1.0
) -> Silence | None:
    until = int(since // HOUR) * HOUR
    return silence(history(talk, weeks, until), awake(weeks), since, started, since + hours * HOUR)


def missing(found: Silence | None) -> bool:
    return found is not None and found.missing


def test_who_speaks_all_the_time_is_missing_after_a_hundred_minutes() -> None:
    assert not missing(after(99 / 60))
    found = after(100 / 60)
    assert found == Silence(MONDAY, pytest.approx(2000), pytest.approx(20), EVIDENCE, True)


def test_nights_and_weekends_are_not_silence() -> None:
    friday = MONDAY + 4 * 86400 + 18 * HOUR
    assert not missing(after(62, office, since=friday))
    found = after(62, office, since=friday)
    assert found is not None
    assert found.intervals == 0.0
    # Monday from eight: six of twelve intervals an hour are usual, the nights before were as long and meant nothing.
    assert not missing(after(62 + 3.2, office, since=friday))
    assert missing(after(62 + 3.4, office, since=friday))


def test_nothing_is_expected_without_a_history() -> None:
    assert after(500, weeks=0) is None
    assert after(500, weeks=1.9) is None or not after(3, weeks=1.0)
    assert after(30, weeks=1.0) is None
    assert missing(after(2, weeks=2.1))
    assert silence({}, awake(), 0.0, 1.0, MONDAY) is None
    assert after(500, lambda hour: None) is None


def test_one_week_of_much_or_of_nothing_moves_little() -> None:
    campaign = MONDAY - WEEK

    def once(hour: int) -> Spoken | None:
        return Spoken(9000, 12) if campaign <= hour < campaign + 86400 else None

    assert after(24, once) is None
    found = after(2, lambda hour: None if hour < MONDAY - 3 * WEEK else busy(hour))
    assert found is not None
    assert found.intervals == pytest.approx(24)


def test_what_the_agent_slept_through_is_not_the_sources_silence() -> None:
    asleep = dict.fromkeys(range(MONDAY, MONDAY + 12 * HOUR, HOUR), 0.0)
    found = silence(history(busy), awake() | asleep, MONDAY, MONDAY + 12 * HOUR, MONDAY + 13.5 * HOUR)
    assert found is not None
    assert (found.intervals, found.missing) == (pytest.approx(18), False)
    assert missing(silence(history(busy), awake() | asleep, MONDAY, MONDAY + 12 * HOUR, MONDAY + 13.7 * HOUR))
    # Nor does a history that was slept through make anything usual.
    assert silence(history(busy), {}, MONDAY, 1.0, MONDAY + 50 * HOUR) is None


def test_not_within_an_hour_of_the_agents_start() -> None:
    assert not missing(after(10, started=MONDAY + 10 * HOUR - SHORTEST + 1))
    assert missing(after(10, started=MONDAY + 10 * HOUR - SHORTEST))


def test_one_outage_does_not_hide_the_next_but_a_habit_is_respected() -> None:
    def gaps(*starts: int) -> Talk:
        return lambda hour: None if any(MONDAY - s <= hour < MONDAY - s + 6 * HOUR for s in starts) else busy(hour)

    # The weeks differ in when they are silent, so that the usual share stays.
    one, two = gaps(3 * 86400), gaps(3 * 86400, 12 * 86400)
    assert missing(after(2, one))
    assert not missing(after(8.9, two))
    assert missing(after(9.1, two))


def test_few_mails_prove_little() -> None:
    def newsletter(hour: int) -> Spoken | None:
        return Spoken(500, 3) if (hour - MONDAY) % WEEK == 10 * HOUR else None

    found = after(24, newsletter)
    assert found is not None
    assert found.intervals == pytest.approx(3)
    assert not found.missing
    assert not missing(after(24 * 7, newsletter))


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("clump", [1, 3])
def test_chance_does_not_make_a_source_missing(share: float, clump: int) -> None:
    """Twelve weeks of each of several sources that speak at random, alone or in clumps of intervals."""
    draw = random.Random(f"{share}/{clump}")
    for _ in range(3):
        said: dict[int, Spoken] = {}
        last, left = 0, 0
        for interval in range(0, 12 * WEEK, INTERVAL):
            at = MONDAY - 4 * WEEK + interval
            left = left - 1 if left else clump if draw.random() < share / clump else 0
            if left:
                before = last
                last, hour = at, at // HOUR * HOUR
                old = said.get(hour, Spoken(0, 0))
                # Only silences that are long for the source are worth the look; all others are shorter still.
                if at >= MONDAY and at - before > 8 * clump * INTERVAL / share:
                    assert not missing(silence(said, awake(4, MONDAY + 9 * WEEK), before, 1.0, at)), at
                said[hour] = Spoken(old.events + 1, old.intervals + 1)


def test_it_takes_a_moment_only() -> None:
    import time

    hours, listened = history(office), awake()
    start = time.perf_counter()
    for _ in range(20):
        silence(hours, listened, MONDAY, 1.0, MONDAY + 30 * 86400)
    assert time.perf_counter() - start < 20 * 0.02
