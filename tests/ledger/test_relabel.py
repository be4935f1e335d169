"""Mailbox providers that become known after their events were counted: the counts move, and nothing is lost."""

from __future__ import annotations

import random
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.clock import DAY, HOUR, MINUTE
from agent.events import Kind
from agent.ledger import cells as cells_module
from agent.ledger.base import Batch, Cell, Counted, Ledger
from agent.ledger.sqlite import SqliteLedger
from tests.ledger.conftest import KEY, QUICK, STORES
from tests.ledger.model import Reported, expected
from tests.ledger.test_ledger import GMAIL, MEMORY, NOW, PROPERTY, apply, bounce, event, reports

PENDING = GMAIL._replace(mailbox_provider="?example.net")
UNRESOLVED = GMAIL._replace(mailbox_provider="unresolved")
# Whose mailboxes the recipients of ``reports`` have in the end.
FOUND = {"a.example": "microsoft", "b.example": "zoho"}


async def counts(ledger: Ledger, width: int = MINUTE) -> dict[tuple[int, Cell, str], int]:
    rows = await ledger.rows(width, 0, NOW + DAY)
    found = {(r.bucket, r.cell, r.measure): r.count for r in rows}
    assert len(found) == len(rows), "a place is named twice"
    return found


async def cells(ledger: Ledger, width: int = HOUR) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for (_, cell, measure), count in (await counts(ledger, width)).items():
        found[cell.mailbox_provider, measure] += count
    return found


async def test_what_waits_is_unresolved_wherever_it_is_read(ledger: Ledger) -> None:
    other = PENDING._replace(mailbox_provider="?example.org")
    first = await apply(ledger, event(), bounce(message_id="m2"), cell=PENDING)
    second = await apply(ledger, event(message_id="m3"), cell=other)
    assert first.counted[Counted(UNRESOLVED, Kind.DELIVERED, None)] == 1
    assert second.counted == {Counted(UNRESOLVED, Kind.DELIVERED, None): 1}
    for width in (MINUTE, HOUR, DAY):
        assert await cells(ledger, width) == {("unresolved", "delivered"): 2, ("unresolved", "hard"): 1}
    assert [b.cell for b in await ledger.recent_bounces(9)] == [UNRESOLVED]
    assert await ledger.pending() == ["example.net", "example.org"]


async def test_counts_move_when_the_mailbox_provider_is_known(ledger: Ledger) -> None:
    await apply(ledger, event(message_id="m0"), cell=GMAIL)
    await apply(ledger, event(), bounce(message_id="m2"), cell=PENDING)
    await ledger.relabel({"example.net": "gmail", "unknown.example": "yahoo"}, NOW)
    for width in (MINUTE, HOUR, DAY):
        assert await cells(ledger, width) == {("gmail", "delivered"): 2, ("gmail", "hard"): 1}
    assert [b.cell for b in await ledger.recent_bounces(9)] == [GMAIL]
    assert await ledger.pending() == []
    # Whoever does not know it yet counts in the right place all the same.
    late = await apply(ledger, event(message_id="m4"), cell=PENDING)
    assert late.counted == {Counted(GMAIL, Kind.DELIVERED, None): 1}
    assert (await cells(ledger))["gmail", "delivered"] == 3
    assert await ledger.pending() == []


async def test_a_bounce_takes_a_delivery_out_of_the_cell_it_was_moved_to(ledger: Ledger) -> None:
    await apply(ledger, event(at=NOW - 9 * HOUR), bounce(message_id="m2", at=NOW - 9 * HOUR), cell=PENDING)
    await ledger.relabel({"example.net": "microsoft"}, NOW)
    microsoft = GMAIL._replace(mailbox_provider="microsoft")
    await apply(ledger, bounce(at=NOW - HOUR), bounce(message_id="m2", at=NOW - HOUR), cell=microsoft)
    for width in (MINUTE, HOUR, DAY):
        assert await cells(ledger, width) == {("microsoft", "hard"): 2}


async def test_it_outlives_a_restart_and_other_processes_follow(open_ledger: Callable[[], Ledger]) -> None:
    one, two = open_ledger(), open_ledger()
    await apply(one, event(), cell=PENDING)
    await apply(two, event(message_id="m2"), cell=PENDING)
    assert await two.pending() == ["example.net"]
    await one.relabel({"example.net": "yahoo"}, NOW)
    await apply(two, event(message_id="m3"), cell=PENDING)
    await apply(two, bounce(at=NOW - HOUR), cell=PENDING)
    await one.close()
    await two.close()
    again = open_ledger()
    assert await cells(again) == {("yahoo", "delivered"): 2, ("yahoo", "hard"): 1}
    assert await again.pending() == []
    await again.close()


async def test_only_so_many_wait_and_the_rest_is_unresolved_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells_module, "WAITING_CELLS", 3)
    ledger = SqliteLedger(tmp_path / "ledger.db", KEY)
    for i in range(5):
        await apply(ledger, event(message_id=f"m{i}"), cell=GMAIL._replace(mailbox_provider=f"?{i}.example"))
    assert await ledger.pending() == ["0.example", "1.example", "2.example"]
    await ledger.relabel({f"{i}.example": "zoho" for i in range(5)}, NOW)
    assert await cells(ledger) == {("zoho", "delivered"): 3, ("unresolved", "delivered"): 2}
    await apply(ledger, event(message_id="m9"), cell=GMAIL._replace(mailbox_provider="?9.example"))
    assert await ledger.pending() == ["9.example"], "there is room again"
    await ledger.close()


async def test_numbers_are_bounded_however_many_domains_come_and_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells_module, "PASSING_CELLS", 60)
    ledger = SqliteLedger(tmp_path / "ledger.db", KEY)
    delivered = 0
    for day in range(150):
        now = NOW + day * DAY
        for i in range(2):
            domain = f"{day}-{i}.example"
            cell = GMAIL._replace(mailbox_provider=f"?{domain}")
            await ledger.apply([Batch("s", "p", "p", now, [bounce(message_id=domain, at=now)], [cell])], now)
            await ledger.relabel({domain: "zoho"}, now)
            delivered += 1
        await ledger.prune(now)
    rows = await ledger.rows(DAY, 0, NOW + 999 * DAY)
    assert sum(r.count for r in rows) == delivered
    assert {r.cell.mailbox_provider for r in rows} == {"zoho", "unresolved"}, "beyond the cap they are not told apart"
    assert len(await ledger.recent_bounces(1000)) == delivered
    assert {b.cell.mailbox_provider for b in await ledger.recent_bounces(1000)} == {"zoho", "unresolved"}
    db = ledger._writer
    assert db.execute("SELECT max(id), count(*) FROM cell").fetchone()[0] <= 62
    named = {row[0] for row in db.execute("SELECT id FROM cell")}
    marks = {int.from_bytes(row[0], "big") >> 16 for row in db.execute("SELECT mark FROM identity")}
    assert marks | {row[0] for row in db.execute("SELECT cell FROM bounce")} <= named
    await ledger.close()


async def test_another_name_stays_as_long_as_an_identity_can_name_it(ledger: Ledger) -> None:
    await apply(ledger, bounce(at=NOW - 60), cell=PENDING)
    await ledger.relabel({"example.net": "zoho"}, NOW)
    await ledger.prune(NOW + 39 * DAY)
    late = NOW + 34 * DAY
    harder = bounce(at=NOW - 30)
    await ledger.apply([Batch("main", "sendgrid", "sendgrid", late, [harder], [PENDING])], late)
    assert await cells(ledger, DAY) == {("zoho", "hard"): 1}
    await ledger.prune(NOW + 42 * DAY)
    await ledger.apply(
        [Batch("main", "sendgrid", "sendgrid", 0, [event(at=NOW + 42 * DAY)], [PENDING])], NOW + 42 * DAY
    )
    assert await ledger.pending() == ["example.net"], "long forgotten: it is looked up again"
    assert await cells(ledger, DAY) == {("zoho", "hard"): 1}


async def test_a_store_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = SqliteLedger(path, KEY)
    await apply(ledger, event(at=NOW - 9 * HOUR), bounce(message_id="m2"), cell=GMAIL)
    before = {width: await counts(ledger, width) for width in (MINUTE, HOUR, DAY)}
    await ledger.close()
    db = sqlite3.connect(path)
    script = resources.files("agent.ledger").joinpath("schema/sqlite-1.sql").read_text()
    table = script[script.index("CREATE TABLE cell") :].partition(";")[0]
    db.executescript(
        f"DROP TABLE token; DROP TABLE amended; DROP INDEX rollup_cell; ALTER TABLE cell RENAME TO later; {table};"
        "INSERT INTO cell SELECT id, domain, provider, stream, mailbox_provider FROM later; DROP TABLE later;"
        "DELETE FROM meta WHERE name = 'cells'; PRAGMA user_version = 1;"
    )
    db.close()
    again = SqliteLedger(path, KEY)
    assert {width: await counts(again, width) for width in (MINUTE, HOUR, DAY)} == before
    await apply(again, bounce(at=NOW - HOUR), event(message_id="m3"), cell=PENDING)
    await again.relabel({"example.net": "yahoo"}, NOW)
    assert await cells(again) == {("gmail", "hard"): 1, ("yahoo", "hard"): 1, ("yahoo", "delivered"): 1}
    await again.close()


def _to(one: Reported, label: Callable[[str], str]) -> Reported:
    """The report about a recipient in a domain of his own, in the cell that ``label`` makes of it."""
    scope, said, cell = one
    domain = f"{said.recipient[0]}.example"
    return scope, said, cell._replace(mailbox_provider=label(domain))


@pytest.mark.parametrize("store", QUICK)
@settings(PROPERTY, max_examples=100)
@given(data=st.data(), given_reports=reports())
async def test_relabelled_at_any_moment_the_counts_are_the_same(
    store: str, data: st.DataObject, given_reports: list[Reported]
) -> None:
    await _relabelled_at_any_moment(store, data, given_reports)


@settings(PROPERTY, max_examples=12)
@given(data=st.data(), given_reports=reports())
async def test_relabelled_at_any_moment_on_postgresql(data: st.DataObject, given_reports: list[Reported]) -> None:
    await _relabelled_at_any_moment("postgres", data, given_reports)


async def _relabelled_at_any_moment(store: str, data: st.DataObject, given_reports: list[Reported]) -> None:
    repeated = given_reports + data.draw(st.lists(st.sampled_from(given_reports), max_size=10))
    shuffled = data.draw(st.permutations(repeated))
    relabelled: set[str] = set()

    def label(domain: str) -> str:
        known = domain in relabelled and data.draw(st.booleans())  # Not everyone has heard of it.
        return FOUND[domain] if known else f"?{domain}"

    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        ledger = STORES[store](Path(directory))
        try:
            seen: list[Reported] = []
            while len(seen) < len(shuffled):
                part = shuffled[len(seen) : len(seen) + data.draw(st.integers(1, 12))]
                await ledger.apply(
                    [Batch("s", "p", s, NOW, [e], [c]) for s, e, c in (_to(r, label) for r in part)], NOW
                )
                seen += part
                if data.draw(st.booleans()):
                    domain = data.draw(st.sampled_from(sorted(FOUND)))
                    if domain in await ledger.pending():
                        await ledger.relabel({domain: FOUND[domain]}, NOW)
                        relabelled.add(domain)
                if data.draw(st.integers(0, 9)) == 0:
                    await ledger.close()
                    ledger = STORES[store](Path(directory))
                so_far: Counter[tuple[int, Cell, str]] = Counter()
                for (bucket, cell, measure), count in (await counts(ledger)).items():
                    assert cell.mailbox_provider in {"unresolved", *FOUND.values()}
                    so_far[bucket, cell._replace(mailbox_provider=""), measure] += count
                assert so_far == expected(_to(r, lambda _: "") for r in seen)
            await ledger.relabel(FOUND, NOW)
            want = expected(_to(r, FOUND.__getitem__) for r in given_reports)
            for width in (MINUTE, HOUR, DAY):
                sums: Counter[tuple[int, Cell, str]] = Counter()
                for (bucket, cell, measure), count in want.items():
                    sums[bucket // width * width, cell, measure] += count
                assert await counts(ledger, width) == dict(sums)
        finally:
            await ledger.close()


async def test_much_traffic_relabelled_in_between_is_exact(ledger: Ledger) -> None:
    from tests.ledger.traffic import NOW as TRAFFIC_NOW
    from tests.ledger.traffic import by_place, counted, read, rough, split
    from tests.ledger.writer import pending

    assert TRAFFIC_NOW == NOW
    rng = random.Random(4)
    batches, truth = read("sendgrid", rough(300, 4), rng)
    for work in pending(split(rng, batches, True)):
        if isinstance(work, dict):
            await ledger.relabel(work, NOW)
        else:
            await ledger.apply(work, NOW)
    assert await counted(ledger, HOUR) == by_place(truth, "sendgrid")
