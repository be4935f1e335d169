"""Rounds in which only what changed is worked out show what a fresh look at everything shows."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.ledger.base import Cell, Row
from agent.vitals import rounds
from agent.vitals.evaluate import edges, evaluate
from agent.vitals.phases import PHASES
from agent.vitals.rounds import Rounds, recent
from agent.vitals.types import DomainVitals, Snapshot, TargetVerdict

MINUTE, HOUR, DAY = 60, 3600, 86400
MIDNIGHT = 1_750_000_000 // DAY * DAY
DOMAINS = {f"d{n}.example": PHASES["growth"] for n in range(4)}
NAMES = [*DOMAINS, "other"]


class Store:
    """Counts by bucket, summed when read as the ledger sums them."""

    def __init__(self) -> None:
        self.counts: dict[int, dict[tuple[int, Cell, str], int]] = {MINUTE: {}, HOUR: {}, DAY: {}}

    def add(self, at: float, cell: Cell, measure: str, count: int) -> None:
        for width, counts in self.counts.items():
            key = int(at // width) * width, cell, measure
            counts[key] = counts.get(key, 0) + count

    def rows(
        self, width: int, since: float, until: float, *, edges: tuple[float, ...] | None = None, by_domain: bool = False
    ) -> list[Row]:
        sums: dict[tuple[object, ...], list[int]] = {}
        for (bucket, cell, measure), n in self.counts[width].items():
            if since <= bucket < until:
                place = Cell(cell.domain, "", "", "") if by_domain else cell
                group = bucket if edges is None else tuple(bucket > edge for edge in edges)
                found = sums.setdefault((group, place, measure), [0, 0])
                found[:] = max(found[0], bucket), found[1] + n
        return [Row(bucket, key[1], key[2], n) for key, (bucket, n) in sums.items() if n]  # type: ignore[arg-type]


def one(held: Rounds, store: Store, now: float, all_hours: bool = False) -> tuple[Snapshot, frozenset[str] | None]:
    """A round as the daemon makes it, and what it took for changed."""
    whole, first, soon = held.whole(now), recent(now, HOUR), now + HOUR
    since = 0 if all_hours and whole else first
    domain_hours = store.rows(HOUR, since or now - 30 * DAY - HOUR, soon, by_domain=True)
    days = store.rows(DAY, now - 62 * DAY if whole else recent(now, DAY), soon, by_domain=True)
    changed = None if whole else held.changed(now, domain_hours, days)
    minutes, hours = (
        store.rows(width, now - span - width if whole else first, soon, edges=(*edges(now, width), first - 1))
        for width, span in ((MINUTE, DAY), (HOUR, 30 * DAY))
    )
    snapshot = held.evaluate(
        now, DOMAINS, minutes, hours, days, domain_hour_rows=domain_hours, domain_hours_since=since, changed=changed
    )
    return snapshot, changed


def fresh(store: Store, now: float) -> Snapshot:
    tables = [
        store.rows(width, now - span, now + HOUR, edges=None)
        for width, span in ((MINUTE, 2 * DAY), (HOUR, 31 * DAY), (DAY, 62 * DAY))
    ]
    return evaluate(now, DOMAINS, *tables)


def settled(vitals: DomainVitals) -> Any:
    """Without the last digits of evidence, which depend on where a course was taken up again."""
    plain = {name: getattr(vitals, name) for name in vitals.__struct_fields__}
    plain["judgements"] = [(j.target, j.verdict, j.window, j.rate, j.reason, j.since) for j in vitals.judgements]
    return plain


def cells() -> list[Cell]:
    return [Cell(name, esp, stream, "gmail") for name in NAMES for esp, stream in (("ses", "news"), ("postmark", ""))]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 2 * DAY))
def test_every_round_shows_what_a_fresh_look_shows(seed: int, offset: int) -> None:
    random, store, held = Random(seed), Store(), Rounds()
    places, now = cells(), float(MIDNIGHT + offset)
    for _ in range(60):
        age = random.choice((HOUR, 6 * HOUR, DAY, 20 * DAY)) * random.uniform(0.9, 1.1)
        store.add(now - age, random.choice(places), random.choice(("delivered", "hard", "complained")), 50)
    late = any_late = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "FEW", 1)
        for step in range(15):
            now += random.choice((1.0, 5.0, 10.0, 33.0, HOUR / 2))
            for _ in range(random.randrange(3)):
                at = random.uniform(recent(now, HOUR), now + 90)
                store.add(at, random.choice(places), random.choice(("delivered", "hard", "opened")), 7)
            if random.random() < 0.1:
                store.add(now - 5 * DAY, random.choice(places), "delivered", 90)
                late = any_late = True
            snapshot, changed = one(held, store, now, all_hours=not step or any_late or random.random() < 0.5)
            late = late and changed is not None  # What is older shows in the first round of the next minute.
            if late:
                continue
            wanted = fresh(store, now)
            assert snapshot.evaluated_at == now
            assert snapshot.domains.keys() == wanted.domains.keys()
            for name, vitals in wanted.domains.items():
                assert settled(snapshot.domains[name]) == settled(vitals)


def filled(now: float) -> Store:
    store = Store()
    for place in cells():
        store.add(now - 300, place, "delivered", 400)
        store.add(now - 3 * DAY, place, "delivered", 400)
    return store


def test_what_nothing_happened_to_is_not_worked_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "FEW", 1)
    now = float(MIDNIGHT + 10 * HOUR)
    held, store = Rounds(), filled(now)
    first, changed = one(held, store, now)
    assert changed is None
    calm, changed = one(held, store, now + 5)
    assert changed == frozenset()
    assert calm == Snapshot(now + 5, first.domains)
    store.add(now, Cell("d1.example", "ses", "news", "yahoo"), "hard", 3)
    store.add(now, Cell("new.example", "ses", "news", "yahoo"), "hard", 3)
    third, changed = one(held, store, now + 10)
    assert changed == {"d1.example", "new.example"}
    assert [name for name, each in third.domains.items() if each is not first.domains.get(name)] == sorted(changed)
    assert third.domains["d1.example"].attempted["1h"] == first.domains["d1.example"].attempted["1h"] + 3
    assert third.domains["new.example"].attempted["30d"] == 3
    for width, counts in store.counts.items():
        store.counts[width] = {key: n for key, n in counts.items() if key[1].domain != "new.example"}
    fourth, changed = one(held, store, now + 15)
    assert changed == {"new.example"}
    assert fourth.domains.keys() == first.domains.keys()
    assert one(held, store, now + 60)[1] is None  # The windows have moved.
    assert one(held, store, now - 600)[1] is None  # The clock was set.


def test_a_round_that_is_broken_off_forgets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "FEW", 1)
    now = float(MIDNIGHT + 10 * HOUR)
    held, store = Rounds(), filled(now)
    one(held, store, now)
    store.add(now, Cell("d1.example", "ses", "news", "yahoo"), "hard", 3)
    first = recent(now, HOUR)
    rows = store.rows(HOUR, first, now + HOUR, by_domain=True), store.rows(DAY, MIDNIGHT, now + HOUR, by_domain=True)
    assert held.changed(now + 5, *rows) == {"d1.example"}
    assert one(held, store, now + 10)[1] == {"d1.example"}


def test_a_few_domains_are_all_worked_out_in_every_round() -> None:
    now = float(MIDNIGHT + 10 * HOUR)
    held, store = Rounds(), filled(now)
    for second in range(0, 20, 5):
        assert one(held, store, now + second)[1] is None


def test_silence_is_noticed_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "FEW", 1)
    now = float(MIDNIGHT + 10 * HOUR)
    held, store = Rounds(), Store()
    store.add(now, Cell("d1.example", "ses", "news", "yahoo"), "delivered", 3)
    for second in range(DAY - 60, DAY + 70, 10):
        one(held, store, now + second)
    snapshot, _ = one(held, store, now + DAY + 70)
    assert {j.verdict for j in snapshot.domains["d1.example"].judgements} == {TargetVerdict.STALE}
    store.add(now + DAY + 71, Cell("d1.example", "ses", "news", "yahoo"), "opened", 1)
    snapshot, _ = one(held, store, now + DAY + 75)
    assert TargetVerdict.STALE not in {j.verdict for j in snapshot.domains["d1.example"].judgements}


def test_what_lies_ahead_hides_nothing_that_it_is_summed_with() -> None:
    now = float(MIDNIGHT + 10 * HOUR + 30)
    store = filled(now)
    before = one(Rounds(), store, now)[0]
    for place in cells():
        store.add(now + 60, place, "delivered", 1)
        store.add(now + HOUR - 60, place, "delivered", 1)
    after = one(Rounds(), store, now)[0]
    for name in NAMES:
        assert after.domains[name].attempted["1h"] == before.domains[name].attempted["1h"] == 800
