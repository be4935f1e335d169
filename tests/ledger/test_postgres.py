"""What only a store on PostgreSQL can get wrong: agents at work at the same moment, a server that goes, poolers."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import msgspec
import pytest

from agent.clock import DAY, HOUR, MINUTE
from agent.events import Kind
from agent.ledger import postgres_commit, postgres_lease, postgres_session
from agent.ledger.base import Cell, Ledger, LedgerError, Server, StoreUnavailable
from agent.ledger.postgres import _LOOK, PostgresLedger
from tests.ledger.conftest import KEY
from tests.ledger.model import expected
from tests.ledger.test_ledger import NOW, YAHOO, apply, bounce, event
from tests.ledger.traffic import read, reports, rough, split
from tests.ledger.writer import commits, end, start, start_at_once, truth, watch
from tests.servers.postgres import PASSWORD, database_of, pgbouncer, postgres, shared


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return database_of(tmp_path)


@pytest.fixture
def empty() -> Iterator[Server]:
    """A database in which nothing was ever made."""
    shared().create("untouched")
    yield Server(shared().url("untouched"), PASSWORD)
    shared().sql("DROP DATABASE untouched WITH (FORCE)")


async def _counts(ledger: Ledger) -> dict[object, int]:
    return {(r.bucket, r.cell, r.measure): r.count for r in await ledger.rows(MINUTE, 0, NOW + DAY)}


# At the same moment.


async def test_reports_of_one_outcome_at_the_same_moment_count_once(server: Server) -> None:
    ledgers = [PostgresLedger(server, KEY) for _ in range(4)]
    turn = NOW // HOUR * HOUR - 5 * HOUR
    want: Counter[str] = Counter()
    for n in range(12):
        same = [event(message_id=f"a{n}") for _ in ledgers]
        across = [event(message_id=f"b{n}", at=turn + (1 if i % 2 else -1)) for i, _ in enumerate(ledgers)]
        both = [
            bounce(message_id=f"c{n}") if i % 2 else event(message_id=f"c{n}", at=NOW - 30 * HOUR)
            for i, _ in enumerate(ledgers)
        ]
        cells = [Cell("example.com", "sendgrid", f"new{n}", name) for name in ("gmail", "?a.example", "?b.example")]
        results = await asyncio.gather(
            *(
                apply(one, *events, cell=cells[(n + i) % 3])
                for i, (one, *events) in enumerate(zip(ledgers, same, across, both, strict=True))
            )
        )
        want.update(delivered=2, hard=1)
        first = sum((Counter(r.counted) for r in results), Counter())
        # Of the pair the delivery may have been the first, and been counted for a moment.
        assert sum(first.values()) in (3, 4)
    totals: Counter[str] = Counter()
    for row in await ledgers[0].rows(HOUR, 0, NOW + DAY):
        totals[row.measure] += row.count
    assert totals == want
    for one in ledgers:
        await one.close()


async def test_four_writers_in_a_storm_of_duplicates_count_once(server: Server) -> None:
    url = server.url
    writers = [start(url, str(seed), "storm", "relabelled") for seed in range(4)]
    start_at_once(writers)
    first = [await asyncio.to_thread(end, process) for process in writers]
    assert min(first) > 0, "they never met"
    ledger = PostgresLedger(server, KEY)
    assert await _counts(ledger) == truth()
    everything = sum(len(batch.events) for commit in commits() for batch in commit)
    copies = sum(read(p, rough(250), random.Random(1), 20)[1].copies for p in ("postmark", "sendgrid"))
    assert sum(first) == everything - copies, "what all say they counted adds up"
    await ledger.close()


async def test_killed_between_any_two_statements_beside_others_every_count_is_exact(server: Server) -> None:
    url = server.url
    dying, other = start(url, "1", "dying", "relabelled"), start(url, "2", "storm", "relabelled")
    start_at_once([other])
    kills = await asyncio.to_thread(end, dying)
    await asyncio.to_thread(end, other)
    assert kills > 25, "every place at the beginning of a commit was tried"
    ledger = PostgresLedger(server, KEY)
    assert await _counts(ledger) == truth()
    await ledger.close()


async def test_repeats_count_once_whether_they_are_looked_for_or_refused_by_the_key(server: Server) -> None:
    ledger = PostgresLedger(server, KEY)
    at = NOW // HOUR * HOUR + 60
    deferred = [event(Kind.DEFERRED, message_id="d", at=at + n) for n in range(4)]
    for n, one in enumerate(deferred):
        await apply(ledger, one, event(message_id=f"new{n}", at=at))
    assert ledger._looking == 0, "that a pair comes again within its hour is no surprise"
    for looked_for in (0, _LOOK):
        assert ledger._looking == looked_for
        result = await apply(ledger, *deferred, event(message_id="new0", at=at), event(message_id=f"also{looked_for}"))
        assert result.duplicates == {"same_event": 4, "same_outcome": 1}
        assert sum(result.counted.values()) == 1
    for n in range(_LOOK):
        assert ledger._looking == _LOOK - n
        await apply(ledger)
    # Its own hour is known and the neighbouring one would have been: neither is counted again.
    assert ledger._looking == 0
    result = await apply(ledger, event(message_id="new1", at=at + 1), event(message_id="new2", at=at - 61))
    assert (result.duplicates, result.counted) == ({"same_outcome": 2}, {})
    totals = Counter[str]()
    for row in await ledger.rows(HOUR, 0, NOW + DAY):
        totals[row.measure] += row.count
    assert totals == {"delivered": 6, "deferred": 4, "deferred_pairs": 1}
    await ledger.close()


# Trouble within a commit.


@pytest.mark.parametrize("passing", [True, False], ids=["passing", "lasting"])
async def test_a_statement_that_fails_anywhere_takes_nothing_and_leaves_nothing_behind(
    server: Server, monkeypatch: pytest.MonkeyPatch, passing: bool
) -> None:
    rng = random.Random(3)
    batches, _ = read("mailgun", rough(80), rng, 10)
    error = asyncpg.DeadlockDetectedError("at random") if passing else asyncpg.QueryCanceledError("at random")
    left = 0

    def before_statement() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise error

    watch(before_statement, monkeypatch.setattr)
    ledger = PostgresLedger(server, KEY)
    await ledger.start()
    failures = 0
    for n, commit in enumerate(split(rng, batches, True)):
        for at in range(1 + n % 3, 16, 3):
            before = await _counts(ledger)
            left = at
            try:
                await ledger.apply(commit, NOW)
            except StoreUnavailable:
                failures += 1
                assert await _counts(ledger) == before
            left = 0
        await ledger.apply(commit, NOW)
    assert failures == 0 if passing else failures > 10
    assert await _counts(ledger) == dict(expected(reports(batches)))
    await ledger.close()


async def test_one_that_freezes_in_the_middle_of_a_commit_loses_its_turn(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = postgres_session._WRITE.replace("'15s'", "'300ms'")
    monkeypatch.setattr(postgres_session, "_WRITE", limits)
    frozen, other = PostgresLedger(server, KEY), PostgresLedger(server, KEY)
    await apply(frozen, event(message_id="m0"))
    write = postgres_commit._ANSWERS[postgres_commit.Write]
    holding = asyncio.Event()

    async def freeze(answers: postgres_commit.Answers, question: object) -> None:
        if not holding.is_set():
            holding.set()
            await asyncio.sleep(1.0)
        await write(answers, question)

    monkeypatch.setitem(postgres_commit._ANSWERS, postgres_commit.Write, freeze)
    stuck = asyncio.create_task(apply(frozen, event()))
    await holding.wait()
    assert sum((await apply(other, event())).counted.values()) == 1
    with pytest.raises(StoreUnavailable):
        await stuck
    assert (await apply(frozen, event())).duplicates == {"same_outcome": 1}
    await frozen.close()
    await other.close()


async def test_a_leader_that_freezes_while_it_asks_is_followed_soon(server: Server) -> None:
    frozen, other = PostgresLedger(server, KEY), PostgresLedger(server, KEY)
    await other.start()
    holding, thawed = asyncio.Event(), asyncio.Event()

    async def freeze(db: postgres_session.Connection) -> None:
        await postgres_lease.hold(db, 0)
        holding.set()
        await thawed.wait()

    await frozen.start()
    stuck = asyncio.create_task(frozen._session.write(freeze))
    await holding.wait()
    async with asyncio.timeout(4.0):
        assert (await other.lead("b", 30.0)).holder == "b"
    thawed.set()
    with pytest.raises(StoreUnavailable):
        await stuck
    await frozen.close()
    await other.close()


async def test_a_connection_that_ends_under_a_statement_is_named_as_the_trouble(server: Server) -> None:
    ledger = PostgresLedger(server, KEY)
    await ledger.start()
    with pytest.raises(StoreUnavailable, match=r"terminating connection|closed in the middle"):
        await ledger._session.write(lambda db: db.execute("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert (await _eventually(lambda: apply(ledger, event()))) is not None
    await ledger.close()


async def test_what_postgresql_takes_for_no_text_does_not_stop_a_commit(server: Server) -> None:
    ledger = PostgresLedger(server, KEY)
    await apply(ledger, bounce(reason="no \0such \ud800user", enhanced_code="5.\0.1"))
    await ledger.quarantine("main", "not\0 JSON", b"\0", {}, NOW)
    assert [(b.reason, b.enhanced_code) for b in await ledger.recent_bounces(1)] == [("no such ?user", "5..1")]
    await ledger.close()


# Partitions.


async def test_old_identities_go_a_day_at_a_time_and_come_back_with_the_clock(server: Server) -> None:
    ledger, other = PostgresLedger(server, KEY), PostgresLedger(server, KEY)
    old = [event(at=NOW - n * DAY, message_id=f"m{n}") for n in range(4)]
    await apply(ledger, *old)
    await apply(other, *old)
    days = "SELECT count(*) FROM mailvitals.day WHERE to_regclass('mailvitals.identity_' || day) IS NOT NULL"
    before = int(shared().sql(days, "shared"))
    await ledger.prune(NOW + 39 * DAY)
    assert int(shared().sql(days, "shared")) <= before - 2
    # Another agent, whose clock is far behind, knows nothing of it and needs them again.
    again = await apply(other, *(event(at=NOW - n * DAY, message_id=f"n{n}") for n in range(4)))
    assert sum(again.counted.values()) == 4
    await ledger.close()
    await other.close()


async def test_a_backup_that_reads_for_long_holds_up_no_commit(server: Server) -> None:
    ledger = PostgresLedger(server, KEY)
    await apply(ledger, event())
    backup = await asyncpg.connect(server.url, password=PASSWORD)
    await backup.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM mailvitals.identity")
    async with asyncio.timeout(5.0):
        fresh = NOW + 200 * DAY  # a day that has no partition yet
        (result,) = await ledger.apply([batch_at(fresh)], fresh)
    assert sum(result.counted.values()) == 1
    await ledger.prune(fresh)
    assert int(shared().sql("SELECT count(*) FROM mailvitals.day", "shared")) > 1, "to be dropped when nobody reads it"
    await backup.close()
    await ledger.prune(fresh)
    assert int(shared().sql("SELECT count(*) FROM mailvitals.day", "shared")) == 1
    await ledger.close()


def batch_at(at: float) -> object:
    from tests.ledger.test_ledger import batch

    return msgspec.structs.replace(batch([event(at=at - 60, message_id="fresh")]), received_at=at)


# The database.


async def test_agents_that_start_at_once_make_the_tables_once(empty: Server) -> None:
    ledgers = [PostgresLedger(empty, KEY) for _ in range(6)]
    await asyncio.gather(*(one.start() for one in ledgers))
    await asyncio.gather(*(apply(one, event(), cell=YAHOO) for one in ledgers))
    assert [row[1:] for row in await ledgers[0].rows(HOUR, 0, NOW + DAY)] == [(YAHOO, "delivered", 1)]
    await asyncio.gather(*(one.close() for one in ledgers))
    with pytest.raises(LedgerError, match=r"another identity key.*store\.identity_key"):
        await PostgresLedger(empty, b"x" * 32).start()
    shared().sql("UPDATE mailvitals.meta SET value = '99' WHERE name = 'schema_version'", "untouched")
    with pytest.raises(LedgerError, match=r"untouched has schema version 99, this program knows \d+: upgrade it"):
        await PostgresLedger(empty, KEY).start()


@pytest.mark.parametrize(
    ("url", "error", "says"),
    [
        ("postgresql://mailvitals@{place}/nowhere", LedgerError, 'database "nowhere" does not exist'),
        ("postgresql://stranger@{place}/shared", LedgerError, "password authentication failed"),
        ("postgresql://mailvitals@127.0.0.1:9/shared", StoreUnavailable, "127.0.0.1:9/shared: "),
        ("postgresql://mailvitals@{place}/shared?sslmode=require", StoreUnavailable, "SSL"),
        (
            "postgresql://mailvitals@{place}/shared?sslrootcert=/nowhere&sslmode=verify-ca",
            LedgerError,
            "the URL names for TLS",
        ),
    ],
)
async def test_what_cannot_be_opened_is_named_without_the_password(url: str, error: type[Exception], says: str) -> None:
    ledger = PostgresLedger(Server(url.format(place=f"127.0.0.1:{shared().port}"), PASSWORD), KEY)
    with pytest.raises(error, match=says) as raised:
        await ledger.start()
    assert PASSWORD not in str(raised.value)
    with pytest.raises((LedgerError, StoreUnavailable)):
        await apply(ledger, event())
    assert not await ledger.writable()
    await ledger.close()


async def test_a_server_that_goes_and_comes_is_found_again_and_nothing_is_lost(tmp_path: Path) -> None:
    with postgres() as server:
        server.create("mail")
        ledger = PostgresLedger(Server(server.url("mail"), PASSWORD), KEY)
        batches, _ = read("sendgrid", rough(60), random.Random(5), 5)
        troubles = 0
        going = True

        async def outages() -> None:
            nonlocal going
            for immediate in (True, False):
                await asyncio.sleep(0.5)
                await asyncio.to_thread(server.stop, immediate=immediate)
                assert not await ledger.writable()
                await asyncio.to_thread(server.start)
            going = False

        outage = asyncio.create_task(outages())
        work = iter(batches * 50)
        while going:
            one = next(work)
            try:
                await ledger.apply([one], NOW)
            except StoreUnavailable:
                troubles += 1
                await asyncio.sleep(0.05)
        await outage
        assert troubles > 0
        await ledger.apply(batches, NOW)
        assert await _counts(ledger) == dict(expected(reports(batches)))
        await ledger.close()


async def test_a_server_that_does_not_answer_is_unavailable_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_session, "ANSWER_LIMIT", 0.5)
    monkeypatch.setattr(postgres_session, "CONNECT_LIMIT", 0.5)
    with postgres() as server:
        server.create("mail")
        ledger = PostgresLedger(Server(server.url("mail"), PASSWORD), KEY)
        await apply(ledger, event(message_id="m0"))
        processes = [server.pid, *server.children()]
        for pid in processes:
            subprocess.run(["kill", "-STOP", str(pid)], check=True)
        try:
            async with asyncio.timeout(6.0):
                for _ in range(2):
                    with pytest.raises(StoreUnavailable):
                        await apply(ledger, event())
        finally:
            for pid in processes:
                subprocess.run(["kill", f"-{signal.Signals.SIGCONT.name[3:]}", str(pid)], check=True)
        assert (await _eventually(lambda: apply(ledger, event()))) is not None
        assert sum(r.count for r in await ledger.rows(HOUR, 0, NOW + DAY)) == 2
        await ledger.close()


async def _eventually(attempt: Callable[[], object]) -> object:
    async with asyncio.timeout(20.0):
        while True:
            try:
                return await attempt()  # type: ignore[misc]
            except StoreUnavailable:
                await asyncio.sleep(0.1)


async def test_through_a_pooler_that_gives_every_transaction_another_connection(server: Server, tmp_path: Path) -> None:
    batches, _ = read("sendgrid", rough(150), random.Random(7), 10)
    bus = tmp_path / "pgbouncer"
    bus.mkdir()
    with pgbouncer(shared(), bus, "shared") as port:
        ledgers = [PostgresLedger(Server(shared().url("shared", port), PASSWORD), KEY) for _ in range(3)]
        parts = [split(random.Random(n), batches, True) for n in range(3)]

        async def work(ledger: Ledger, part: list[object]) -> None:
            for commit in part:
                await ledger.apply(commit, NOW)
                await ledger.rows(HOUR, NOW - DAY, NOW)
                await ledger.save("incident", {"x": b"1"})

        await asyncio.gather(*(work(one, part) for one, part in zip(ledgers, parts, strict=True)))
        assert await ledgers[0].lead("a", 30.0) == await ledgers[1].lead("b", 30.0)
        assert await _counts(ledgers[2]) == dict(expected(reports(batches)))
        for one in ledgers:
            await one.close()
