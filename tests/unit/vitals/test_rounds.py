"""Rounds in which only what changed is worked out show what a fresh look at everything shows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from agent.ledger.base import Cell, Row, settled_before
from agent.vitals import rounds
from agent.vitals.evaluate import evaluate
from agent.vitals.phases import PHASES
from agent.vitals.rounds import Rounds
from agent.vitals.sums import Wanted, recent
from agent.vitals.types import DomainVitals, Snapshot, TargetVerdict

MINUTE, HOUR, DAY = 60, 3600, 86400
MIDNIGHT = 1_750_000_000 // DAY * DAY
DOMAINS = {f"d{n}.example": PHASES["growth"] for n in range(4)}
NAMES = [*DOMAINS, "other"]


class Store:
    """Counts by bucket, summed when read as the ledger sums them, and what it says was amended."""

    def __init__(self) -> None:
        self.counts: dict[int, dict[tuple[int, Cell, str], int]] = {MINUTE: {}, HOUR: {}, DAY: {}}
        self.amended: dict[str, tuple[float, int]] = {}
        self.asked: list[Wanted] = []

    def add(self, at: float, cell: Cell, measure: str, count: int, now: float = 0.0) -> None:
        for width, counts in self.counts.items():
            key = int(at // width) * width, cell, measure
            counts[key] = counts.get(key, 0) + count
        if at // HOUR * HOUR < settled_before(now):
            self.amended[cell.domain] = now, self.amended.get(cell.domain, (0, 0))[1] + 1

    def move(self, one: Cell, other: Cell, now: float) -> None:
        """All counts, as where a mailbox provider became known."""
        for counts in self.counts.values():
            for key in [key for key in counts if key[1] == one]:
                there = key[0], other, key[2]
                counts[there] = counts.get(there, 0) + counts.pop(key)
        self.amended[one.domain] = now, self.amended.get(one.domain, (0, 0))[1] + 1

    def rows(
        self, width: int, since: float, until: float, merge: int = 0, edges: Sequence[float] = (),
        by_domain: bool = False, domains: Sequence[str] = (),
    ) -> list[Row]:  # fmt: skip
        sums: dict[tuple[object, ...], list[int]] = {}
        for (bucket, cell, measure), n in self.counts[width].items():
            if since <= bucket < until and (not domains or cell.domain in domains):
                place = Cell(cell.domain, "", "", "") if by_domain else cell
                group = bucket if not merge else (bucket // merge, *(bucket > edge for edge in edges))
                found = sums.setdefault((group, place, measure), [0, 0])
                found[:] = max(found[0], bucket), found[1] + n
        return [Row(bucket, key[1], key[2], n) for key, (bucket, n) in sums.items() if n]  # type: ignore[arg-type]


def one(held: Rounds, store: Store, now: float, broken_after: int = 1000) -> Snapshot:
    """A round as the daemon makes it; its reading may break off."""
    store.asked = []
    steps = held.round(now, dict(store.amended))
    answer = None
    while True:
        try:
            wanted = steps.send(answer)
        except StopIteration as end:
            snapshot: Snapshot = end.value
            return snapshot
        answer = None
        if isinstance(wanted, Wanted):
            store.asked.append(wanted)
            if len(store.asked) > broken_after:
                steps.close()
                raise ConnectionError
            answer = store.rows(*wanted)


def fresh(store: Store, now: float, shown: Snapshot) -> Snapshot:
    """Of who is silent for longer than a day, rounds may know the minute of the last event, the store the hour."""
    spans = (MINUTE, DAY + MINUTE), (HOUR, 31 * DAY), (DAY, 62 * DAY)
    tables = [store.rows(width, now - span, now + HOUR) for width, span in spans]
    last = {name: vitals.last_event_at for name, vitals in evaluate(now, DOMAINS, *tables).domains.items()}
    known = {name: vitals.last_event_at for name, vitals in shown.domains.items()}
    for name in last.keys() & known.keys():
        if now - last[name] > DAY and 0 < known[name] - last[name] < HOUR:
            last[name] = known[name]
    return evaluate(now, DOMAINS, *tables, last_event=last)


def settled(vitals: DomainVitals) -> Any:
    """Without the last digits of evidence, which depend on where a course was taken up again."""
    plain = {name: getattr(vitals, name) for name in vitals.__struct_fields__}
    plain["judgements"] = [(j.target, j.verdict, j.window, j.rate, j.reason, j.since) for j in vitals.judgements]
    return plain


def cells() -> list[Cell]:
    return [Cell(name, esp, stream, "gmail") for name in NAMES for esp, stream in (("ses", "news"), ("postmark", ""))]


def same(snapshot: Snapshot, wanted: Snapshot, names: Sequence[str]) -> None:
    for name in names:
        assert (name in snapshot.domains) == (name in wanted.domains)
        if name in wanted.domains:
            assert settled(snapshot.domains[name]) == settled(wanted.domains[name])


@settings(max_examples=12, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(st.integers(0, 10_000), st.integers(0, 2 * DAY))
def test_every_round_shows_what_a_fresh_look_shows(seed: int, offset: int) -> None:
    random, store = Random(seed), Store()
    few = random.random() < 0.5
    places, now, held = cells(), float(MIDNIGHT + offset), Rounds(DOMAINS)
    moved = [place._replace(mailbox_provider="unresolved") for place in places]
    for _ in range(60):
        age = random.choice((HOUR, 6 * HOUR, DAY, 7 * DAY, 20 * DAY, 30 * DAY)) * random.uniform(0.9, 1.1)
        # Verdicts remember what is older than 30 days, which no fresh look can.
        measure = "dropped" if age > 25 * DAY else random.choice(("delivered", "hard", "complained"))
        store.add(now - age, random.choice(places + moved), measure, 50)
    late: set[str] = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "FEW", 50 if few else 1)
        for _ in range(25):
            now += random.choice((1.0, 5.0, 10.0, 33.0, 60.0, 300.0, HOUR / 2 - 90, *([2.5 * HOUR, -70.0] * few)))
            for _ in range(random.randrange(3)):
                at, place = random.uniform(recent(now), now + 90), random.choice(places)
                store.add(at, place, random.choice(("delivered", "hard", "opened")), 7, now)
                # Of what lies ahead its hour tells already, its minute not before it comes.
                late |= {place.domain} if not now - 2 * MINUTE <= at <= now else set()
            if random.random() < 0.2:
                at = now - random.choice((3 * HOUR, 5 * HOUR, DAY, 5 * DAY))
                store.add(at, random.choice(places), random.choice(("delivered", "complained")), 90, now)
            if random.random() < 0.1:
                n = random.randrange(len(places))
                store.move(moved[n], places[n], now)
            if random.random() < 0.1:
                held = Rounds(DOMAINS)
            if random.random() < 0.2:
                with suppress(ConnectionError):
                    one(held, store, now, broken_after=random.randrange(9))
            if held._at // MINUTE != now // MINUTE:
                late.clear()  # What is some minutes old is looked for in the first round of each minute.
            snapshot = one(held, store, now)
            wanted = fresh(store, now, snapshot)
            assert snapshot.evaluated_at == now
            looked_at = [name for name, domain in held._of.items() if domain.at == now]
            same(snapshot, wanted, NAMES if few else [name for name in looked_at if name not in late])
            assert few or not held._waiting or looked_at


def test_everything_shows_within_a_minute_and_what_is_new_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "FEW", 1)
    now = float(MIDNIGHT + 10 * HOUR + 7)
    names = {f"d{n}.example": PHASES["growth"] for n in range(60)}
    store, held = Store(), Rounds(names)
    for n, name in enumerate(names):
        for age in range(60, 26 * HOUR, 17 * MINUTE + n):
            store.add(now - age, Cell(name, "ses", "", "gmail"), "delivered", 1 + n % 3)
    one(held, store, now)
    late = 0.0
    for second in range(5, 300, 5):
        at = now + second
        new = Cell(f"d{second % 60}.example", "ses", "", "gmail")
        store.add(at, new, "delivered", 1, at)
        old = Cell(f"d{(second + 30) % 60}.example", "ses", "", "gmail")
        store.add(at - 4 * HOUR, old, "delivered", 1, at)
        snapshot = one(held, store, at)
        counted = sum(n for key, n in store.counts[DAY].items() if key[1].domain in (new.domain, old.domain))
        shown = sum(snapshot.domains[place.domain].attempted["30d"] for place in (new, old))
        assert counted == shown
        assert len({name for wanted in store.asked for name in wanted.domains}) <= 20
        late = max(late, *(at - domain.at for domain in held._of.values()))
    assert late <= 120  # all had their turn at once in the beginning
    assert all(now + 295 - domain.at <= 65 for domain in held._of.values())


def test_what_nothing_happened_to_is_not_worked_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = float(MIDNIGHT + 10 * HOUR)
    held, store = Rounds(DOMAINS), Store()
    for place in cells():
        store.add(now - 300, place, "delivered", 400)
        store.add(now - 3 * DAY, place, "delivered", 400)
    first = one(held, store, now)
    calm = one(held, store, now + 65)
    assert [name for name, each in calm.domains.items() if each is not first.domains[name]] == []
    store.add(now, Cell("d1.example", "ses", "news", "yahoo"), "hard", 3, now)
    store.add(now, Cell("new.example", "ses", "news", "yahoo"), "hard", 3, now)
    third = one(held, store, now + 70)
    changed = [name for name, each in third.domains.items() if each is not first.domains.get(name)]
    assert sorted(changed) == ["d1.example", "new.example"]
    assert third.domains["d1.example"].attempted["1h"] == first.domains["d1.example"].attempted["1h"] + 3
    assert third.domains["new.example"].attempted["30d"] == 3
    for width, counts in store.counts.items():
        store.counts[width] = {key: n for key, n in counts.items() if key[1].domain != "new.example"}
    assert one(held, store, now + 75).domains.keys() == first.domains.keys()


def test_silence_is_noticed_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "FEW", 1)
    now = float(MIDNIGHT + 10 * HOUR)
    held, store = Rounds(DOMAINS), Store()
    store.add(now, Cell("d1.example", "ses", "news", "yahoo"), "delivered", 3)
    for second in range(DAY - 60, DAY + 130, 10):
        snapshot = one(held, store, now + second)
    assert {j.verdict for j in snapshot.domains["d1.example"].judgements} == {TargetVerdict.STALE}
    store.add(now + DAY + 131, Cell("d1.example", "ses", "news", "yahoo"), "opened", 1, now + DAY + 131)
    snapshot = one(held, store, now + DAY + 135)
    assert TargetVerdict.STALE not in {j.verdict for j in snapshot.domains["d1.example"].judgements}


def test_what_lies_ahead_hides_nothing_that_it_is_summed_with() -> None:
    now = float(MIDNIGHT + 10 * HOUR + 30)
    held, store = Rounds(DOMAINS), Store()
    for place in cells():
        store.add(now - 300, place, "delivered", 400)
    before = one(held, store, now)
    for place in cells():
        store.add(now + 60, place, "delivered", 1, now)
        store.add(now + HOUR - 60, place, "delivered", 1, now)
    for after in (one(held, store, now + 5), one(Rounds(DOMAINS), store, now + 5)):
        for name in NAMES:
            assert after.domains[name].attempted["1h"] == before.domains[name].attempted["1h"] == 800
    assert one(held, store, now + 70).domains["other"].attempted["1h"] == 802
