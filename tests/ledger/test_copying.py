"""From the embedded store to PostgreSQL: all of it or nothing, and counting goes on where it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from agent.clock import DAY, HOUR, MINUTE
from agent.ledger import copying
from agent.ledger.base import Ledger, LedgerError, Server, StoreUnavailable
from agent.ledger.postgres import PostgresLedger
from agent.ledger.sqlite import SqliteLedger
from tests.ledger.conftest import KEY
from tests.ledger.test_ledger import GMAIL, NOW, apply, bounce, event
from tests.ledger.traffic import read, rough, split
from tests.servers.agent import command
from tests.servers.postgres import PASSWORD, database_of, shared

PENDING = GMAIL._replace(mailbox_provider="?example.net")


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return database_of(tmp_path)


@pytest.fixture
def empty() -> Iterator[str]:
    shared().create("target")
    yield shared().url("target")
    shared().sql("DROP DATABASE target WITH (FORCE)")


async def _said(ledger: Ledger) -> list[object]:
    rows = [sorted(await ledger.rows(width, 0, NOW + DAY)) for width in (MINUTE, HOUR, DAY)]
    held = await ledger.quarantined()
    return [
        rows, await ledger.sources(), await ledger.recent_bounces(1000), await ledger.pending(),
        await ledger.load("incident"), [q.reason for q in held], [await ledger.unseal(q.id) for q in held],
    ]  # fmt: skip


async def _filled(path: Path) -> SqliteLedger:
    ledger = SqliteLedger(path, KEY)
    rng = random.Random(1)
    for commit in split(rng, read("mailgun", rough(150), rng)[0], True):
        await ledger.apply(commit, NOW)
    await apply(ledger, event(message_id="w1"), bounce(message_id="w2", reason="gone \0"), cell=PENDING)
    await ledger.quarantine("main", "not JSON", b"{", {"a": "b"}, NOW)
    await ledger.save("incident", {"x": b"1"})
    return ledger


async def test_a_copy_says_the_same_and_counts_on_from_there(tmp_path: Path, empty: str) -> None:
    before = await _filled(tmp_path / "ledger.db")
    want = await _said(before)
    await before.close()
    url = f"sqlite:///{tmp_path}/ledger.db"
    done = command("store", "copy", "--from", url, "--to", empty, env={"PGPASSWORD": PASSWORD})
    assert done.returncode == 0, done.stderr
    assert "the same in both" in done.stdout
    after = PostgresLedger(Server(empty, PASSWORD), KEY)
    got = await _said(after)
    assert [r.reason.replace("\0", "") for r in want[2]] == [r.reason for r in got[2]]  # type: ignore[attr-defined]
    assert want[:2] + want[3:] == got[:2] + got[3:]
    again = SqliteLedger(tmp_path / "ledger.db", KEY)
    for ledger in (after, again):
        # Known events stay known, what waits is relabelled, the next number is free.
        rng = random.Random(1)
        for commit in split(rng, read("mailgun", rough(150), rng)[0], True):
            assert not any(r.counted for r in await ledger.apply(commit, NOW))
        await apply(ledger, bounce(message_id="w1", at=NOW - 60), cell=PENDING)
        await ledger.relabel({"example.net": "zoho"}, NOW)
        await ledger.quarantine("main", "again", b"{", {}, NOW)
    assert (await _said(after))[:1] == (await _said(again))[:1]
    await after.close()
    await again.close()
    full = command("store", "copy", "--from", url, "--to", empty, env={"PGPASSWORD": PASSWORD})
    assert full.returncode == 78
    assert "is not empty: it has rows in cell" in full.stderr
    assert PASSWORD not in full.stderr + done.stdout


async def test_while_an_agent_has_the_store_open_nothing_is_copied(tmp_path: Path) -> None:
    running = await _filled(tmp_path / "ledger.db")
    with pytest.raises(StoreUnavailable, match="is in use: stop the agent first"):
        copying.Source(tmp_path / "ledger.db")
    await running.close()
    source = copying.Source(tmp_path / "ledger.db")
    with pytest.raises(StoreUnavailable, match="locked"):
        SqliteLedger(tmp_path / "ledger.db", KEY)
    source.close()
    await SqliteLedger(tmp_path / "ledger.db", KEY).close()


async def test_a_copy_that_breaks_off_or_differs_leaves_nothing(tmp_path: Path, server: Server) -> None:
    await (await _filled(tmp_path / "ledger.db")).close()
    source = copying.Source(tmp_path / "ledger.db")
    sums = source.sums()

    def broken(done: int) -> None:
        raise ConnectionResetError

    with pytest.raises(StoreUnavailable):
        await copying.copy(source, sums, server, broken)
    wrong = {**sums, "rollup": (sums["rollup"][0], 1, *sums["rollup"][2:])}
    with pytest.raises(LedgerError, match="the copy of rollup differs"):
        await copying.copy(source, wrong, server, lambda _: None)
    db = await asyncpg.connect(server.url, password=PASSWORD)
    assert await db.fetchval("SELECT count(*) FROM mailvitals.cell") == 0
    await db.close()
    other = PostgresLedger(server, b"x" * 32)
    with pytest.raises(LedgerError, match="another identity key"):
        await other.start()
    await other.close()
    await copying.copy(source, sums, server, lambda _: None)
    source.close()


def test_wrong_usage_is_said() -> None:
    for source, target, says in (
        ("ledger.db", "postgresql://a/b", "four slashes"),
        ("sqlite:////nowhere/ledger.db", "mysql://a/b", "postgresql://user@host"),
    ):
        done = command("store", "copy", "--from", source, "--to", target)
        assert done.returncode == 64
        assert says in done.stderr
    done = command("store", "copy", "--from", "sqlite:////nowhere/ledger.db", "--to", "postgresql://a/b")
    assert (done.returncode, "is not there" in done.stderr) == (78, True)
