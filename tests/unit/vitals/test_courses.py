"""What is kept between evaluations says what a fresh look says, and is not gone through again without need."""

from __future__ import annotations

from random import Random

import pytest

from agent.clock import HOUR
from agent.vitals import sequence
from agent.vitals.courses import Memory
from agent.vitals.phases import PHASES
from agent.vitals.rates import FIELDS, Counts
from agent.vitals.types import WINDOWS
from agent.vitals.verdicts import decide, judge, targets

START = 1_750_000_000 // 86400 * 86400


def values(random: Random, hours: int, hard: int) -> dict[int, list[int]]:
    return {
        START + h * HOUR: [random.randrange(80), random.randrange(hard + 1), 1, 0, 0, 0, random.randrange(2), 0]
        for h in range(hours)
        if random.random() < 0.9
    }


@pytest.mark.parametrize("seed", range(6))
def test_however_the_counts_change_the_verdicts_are_those_of_a_fresh_look(seed: int) -> None:
    random = Random(seed)
    memory, held = Memory(), values(random, 400, hard=2 + seed % 3)
    for step in range(25):
        now = START + (400 + step) * HOUR + random.randrange(HOUR)
        if step % 3 != 1:
            held[now // HOUR * HOUR] = [random.randrange(80), random.randrange(20), 0, 0, 0, 0, 0, 0]
        if step % 4 == 0:  # A late bounce takes back a delivery and moves one hour, near or far.
            hour = random.choice(sorted(held))
            held[hour] = [max(0, held[hour][0] - 1), held[hour][1] + 1, *held[hour][2:]]
        if step == 12:
            held.pop(random.choice(sorted(held)[1:]))
        wanted = targets(PHASES["growth"], last_event_at=now - 60.0)
        stand = memory.standings("example.com", held, wanted, float(now))
        counts = [(hour, Counts(*each)) for hour, each in held.items()]
        for target, at in zip(wanted[:3], stand, strict=False):
            totals = {
                w: Counts(
                    *(sum(e[i] for h, e in held.items() if h > now - WINDOWS[w] - HOUR) for i in range(len(FIELDS)))
                )
                for w in target.windows
            }
            fresh, kept = decide(counts, target, float(now)), judge(target, totals, at, float(now))
            assert (kept.verdict, kept.since, kept.ended) == (fresh.verdict, fresh.since, fresh.ended), target.name
            assert kept.evidence == pytest.approx(fresh.evidence, rel=1e-6)
            assert kept.dispersion == pytest.approx(fresh.dispersion, rel=1e-9)


def test_only_what_changed_is_gone_through(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0
    take = sequence.Course.take

    def counted(self: sequence.Course, *args: object) -> None:
        nonlocal taken
        taken += 1
        take(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(sequence.Course, "take", counted)
    memory, held = Memory(), values(Random(1), 700, hard=1)
    now = float(max(held) + 100)
    wanted = targets(PHASES["growth"], last_event_at=now)
    memory.standings("example.com", held, wanted, now)
    assert taken == 2 * len(held)  # bounce and deliverability; complaints go by days
    for change, most in ((0, 0), (max(held), 2), (max(held) - 20 * HOUR, 2 * 36), (min(held), 2 * len(held))):
        taken = 0
        if change:
            held[change] = [held.get(change, [0])[0] + 1, 0, 0, 0, 0, 0, 0, 0]
        memory.standings("example.com", held, wanted, now)
        assert taken <= most


def test_what_strangers_send_is_not_remembered() -> None:
    memory = Memory()
    memory.begin({"example.com": 1})
    memory.standings(
        "stranger.example", {START: [1] * len(FIELDS)}, targets(PHASES["growth"], last_event_at=0.0), START
    )
    memory.shares("stranger.example").take({"1h": [(("stranger.example", "", "", ""), Counts(delivered=1))]}, ("hard",))
    memory.begin({"example.com": 1})
    memory.begin({"example.com": 1})
    assert (memory._seen, memory._courses, memory._shares, memory._fresh) == ({}, {}, {}, {})


def test_hours_that_were_seen_need_not_be_read_again() -> None:
    memory, held = Memory(), values(Random(1), 200, hard=0)
    now = float(max(held) + 100)
    wanted = targets(PHASES["growth"], last_event_at=now)
    assert memory.hours({"example.com": held}, 0.0, 0.0, ["example.com"]) == {"example.com": held}
    memory.standings("example.com", held, wanted, now)
    since = max(held) - HOUR
    newer = {max(held): [500, 60, 0, 0, 0, 0, 0, 0], max(held) + HOUR: [1, 0, 0, 0, 0, 0, 0, 0]}
    found = memory.hours({"example.com": newer, "new.example": newer}, since, min(held), ["example.com", "new.example"])
    assert found["new.example"] == newer
    kept = found["example.com"]
    assert kept == {hour: each for hour, each in held.items() if min(held) < hour < since} | newer
    assert memory.standings("example.com", kept, wanted, now + HOUR)[0].since == max(held)
