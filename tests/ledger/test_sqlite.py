"""What only the embedded store can get wrong: its file, its key, its transactions, other processes and sudden death."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.clock import DAY, MINUTE
from agent.ledger.base import LedgerError, StoreUnavailable
from agent.ledger.sqlite import SqliteLedger, load_or_create_key
from tests.ledger.conftest import KEY
from tests.ledger.model import expected
from tests.ledger.traffic import NOW, read, reports, rough, split
from tests.ledger.writer import commits, end, start, start_at_once, truth

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that other users can reach."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def _counts(ledger: SqliteLedger) -> dict[object, int]:
    return {(r.bucket, r.cell, r.measure): r.count for r in await ledger.rows(MINUTE, 0, NOW + DAY)}


# The file and the key.


async def test_refuses_a_newer_schema_and_leaves_it_alone(path: Path) -> None:
    await SqliteLedger(path, KEY).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(LedgerError, match=r"schema version 99, this program knows \d+: upgrade it"):
        SqliteLedger(path, KEY)
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (99,)
    db.close()


async def test_refuses_another_identity_key(path: Path) -> None:
    await SqliteLedger(path, KEY).close()
    with pytest.raises(LedgerError, match=r"another identity key.*store\.identity_key"):
        SqliteLedger(path, b"x" * 32)
    await SqliteLedger(path, KEY).close()


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"\0" * 4096, os.urandom(64 * 1024)])
def test_refuses_a_file_that_is_no_database_and_leaves_it_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(LedgerError, match=r"ledger\.db is not a SQLite database"):
        SqliteLedger(path, KEY)
    assert path.read_bytes() == content


# As root, permissions stop nobody, so an ordinary user tries.
_AS_NOBODY = """
import os, sys, pathlib
from agent.ledger.sqlite import SqliteLedger, load_or_create_key
from agent.ledger.base import StoreUnavailable
path = pathlib.Path(sys.argv[1])
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    key = load_or_create_key(path.with_name("key")) if sys.argv[2] == "key" else b"k" * 32
    SqliteLedger(path, key)
except (StoreUnavailable, OSError) as e:
    print(type(e).__name__, e)
"""


def _as_nobody(path: Path, what: str) -> str:
    done = subprocess.run([sys.executable, "-c", _AS_NOBODY, str(path), what], cwd=ROOT, capture_output=True, text=True,
                          timeout=30, check=True)  # fmt: skip
    return done.stdout


def test_a_directory_it_cannot_write_to_is_named(open_directory: Path) -> None:
    open_directory.chmod(0o555)
    path = open_directory / "ledger.db"
    assert _as_nobody(path, "database") == f"StoreUnavailable {path}: unable to open database file\n"
    assert f"Permission denied: '{path.with_name('key')}" in _as_nobody(path, "key")
    assert list(open_directory.iterdir()) == []


async def test_a_database_it_cannot_write_to_is_named(open_directory: Path) -> None:
    path = open_directory / "ledger.db"
    await SqliteLedger(path, KEY).close()
    path.chmod(0o444)
    open_directory.chmod(0o555)
    assert _as_nobody(path, "database") == f"StoreUnavailable {path}: attempt to write a readonly database\n"


def test_a_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "ledger.db"
    with pytest.raises(StoreUnavailable, match=r"nowhere/ledger\.db: unable to open database file"):
        SqliteLedger(path, KEY)


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        key = load_or_create_key(tmp_path / "key")
    finally:
        os.umask(before)
    assert len(key) == 64
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert load_or_create_key(tmp_path / "key") == key
    assert load_or_create_key(tmp_path / "other") != key
    assert sorted(p.name for p in tmp_path.iterdir()) == ["key", "other"], "nothing is left lying about"


def test_a_cut_key_is_named_and_not_used(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"")
    with pytest.raises(LedgerError, match="holds no identity key"):
        load_or_create_key(tmp_path / "key")


_MAKE_KEYS = """
import sys, time, pathlib
from agent.ledger.sqlite import load_or_create_key
print(flush=True)
sys.stdin.readline()
for i in range(60):
    print(load_or_create_key(pathlib.Path(sys.argv[1]) / f"key{i}").decode())
"""


def test_processes_that_start_at_once_agree_on_the_key(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", _MAKE_KEYS, str(tmp_path)], cwd=ROOT, text=True, stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE)
        for _ in range(2)
    ]  # fmt: skip
    start_at_once(processes)
    keys = [process.communicate(timeout=30)[0].split() for process in processes]
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == 60
    files = list(tmp_path.iterdir())
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert len(files) == 60, "no half-made key is left"


# Death and company. What must come out is what the slow model says of the very same traffic.


RELABELLED = pytest.mark.parametrize("relabelled", [(), ("relabelled",)], ids=["known", "relabelled"])


@RELABELLED
async def test_killed_between_any_two_statements_every_count_is_exact(path: Path, relabelled: tuple[str, ...]) -> None:
    kills = await asyncio.to_thread(lambda: end(start(str(path), "1", "dying", *relabelled)))
    assert kills > 45, "every place at the beginning of a commit was tried"
    ledger = SqliteLedger(path, KEY)
    assert await _counts(ledger) == truth()
    await ledger.close()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


@RELABELLED
async def test_two_processes_in_a_storm_of_duplicates_count_once(path: Path, relabelled: tuple[str, ...]) -> None:
    both = [start(str(path), seed, "storm", *relabelled) for seed in ("1", "2")]
    start_at_once(both)
    first = [await asyncio.to_thread(end, process) for process in both]
    assert min(first) > 0, "they never met"
    ledger = SqliteLedger(path, KEY)
    assert await _counts(ledger) == truth()
    again = [r for commit in commits() for r in await ledger.apply(commit, NOW)]
    assert not any(r.counted for r in again)
    everything = sum(len(batch.events) for commit in commits() for batch in commit)
    copies = sum(read(p, rough(250), random.Random(1), 20)[1].copies for p in ("postmark", "sendgrid"))
    assert sum(first) == everything - copies, "what both say they counted adds up"
    await ledger.close()


@pytest.mark.parametrize("provider", ["postmark", "sendgrid"])
async def test_a_statement_that_fails_anywhere_takes_nothing_and_leaves_nothing_behind(
    path: Path, provider: str
) -> None:
    rng = random.Random(3)
    batches, _ = read(provider, rough(160), rng, 10)
    ledger = SqliteLedger(path, KEY)
    failures: Counter[str] = Counter()
    steps = 1.0
    for commit in split(rng, batches, True):
        # Later and later in the commit, until it is through; new cells and hours are among what must be forgotten.
        while True:
            before = await _counts(ledger)
            left = int(steps)

            def step() -> bool:
                nonlocal left
                left -= 1
                return left == 0

            ledger._writer.set_progress_handler(step, 1)
            try:
                await ledger.apply(commit, NOW)
            except StoreUnavailable as e:
                failures[str(e)] += 1
                assert await _counts(ledger) == before
                assert not ledger._writer.in_transaction
                steps *= 1.4
            else:
                steps = 1 + rng.random() * 2000
                break
            finally:
                ledger._writer.set_progress_handler(None, 1)
    assert sum(failures.values()) > 50
    assert await _counts(ledger) == dict(expected(reports(batches)))
    await ledger.close()
    again = SqliteLedger(path, KEY)
    for commit in split(rng, batches, False):
        assert not any(result.counted for result in await again.apply(commit, NOW))
    await again.close()


async def test_a_defect_in_the_middle_of_a_commit_takes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.ledger import commit as counting

    batches, _ = read("sendgrid", rough(200), random.Random(5))
    ledger = SqliteLedger(path, KEY)
    await ledger.apply(batches[:3], NOW)
    before = await _counts(ledger)
    with monkeypatch.context() as patched:
        patched.setattr(counting._Commit, "_counts", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await ledger.apply(batches[3:], NOW)
    assert await _counts(ledger) == before
    await ledger.apply(batches[3:], NOW)
    assert await _counts(ledger) == dict(expected(reports(batches)))
    await ledger.close()


async def test_while_another_process_holds_the_file_it_waits_then_says_so(path: Path) -> None:
    batches, _ = read("sendgrid", rough(50), random.Random(5))
    ledger = SqliteLedger(path, KEY)
    ledger._writer.execute("PRAGMA busy_timeout = 300")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    start = time.monotonic()
    with pytest.raises(StoreUnavailable, match="locked"):
        await ledger.apply(batches, NOW)
    assert time.monotonic() - start >= 0.25
    assert not await ledger.writable()
    assert await _counts(ledger) == {}, "reading goes on"
    waiting = asyncio.create_task(ledger.apply(batches, NOW))
    await asyncio.sleep(0.1)
    other.execute("ROLLBACK")
    await waiting
    assert await _counts(ledger) == dict(expected(reports(batches)))
    assert await ledger.writable()
    other.close()
    await ledger.close()
