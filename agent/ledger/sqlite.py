"""The embedded store: SQLite in WAL mode, ``synchronous=FULL``, one writer thread, one reader thread.

One ``apply`` is one transaction and a handful of statements (``sqlite_commit``). Cost per event: one insert into a
clustered index and up to three probes of it (its own and the neighbouring hours); a bounce probes every stored hour
within five days. It does not grow with what is stored.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets as random_source
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import TypeVar

import msgspec

from agent.clock import HOUR
from agent.events import Event
from agent.ledger.base import (
    AMENDED_AGE,
    IDENTITY_AGE,
    MEASURES,
    QUARANTINE_AGE,
    ROLLUP_AGE,
    TOKEN_AGE,
    Applied,
    Batch,
    Cell,
    Deposed,
    Lease,
    LedgerError,
    Quarantined,
    RecentBounce,
    Row,
    SourceState,
    StoreUnavailable,
)
from agent.ledger.columns import Columns, to_columns
from agent.ledger.commit import count
from agent.ledger.identity import Identifier, derive
from agent.ledger.outcomes import BY_RANK
from agent.ledger.seal import Seal
from agent.ledger.sqlite_cells import SqliteCells, names
from agent.ledger.sqlite_commit import Answers

SCHEMA_VERSION = 4
_RECENT_KEPT = 1000
_PRUNE_STEP = 20_000

T = TypeVar("T")


def load_or_create_key(path: Path) -> bytes:
    """The identity key beside the database, made on first use with mode 0600.

    Raises ``OSError``, and ``LedgerError`` for a file that is too short to be a key.
    """
    if not path.exists():
        fresh = path.with_name(f"{path.name}.{random_source.token_hex(4)}")
        fresh.touch(mode=0o600, exist_ok=False)
        try:
            with fresh.open("wb") as file:
                file.write(random_source.token_hex(32).encode())
                file.flush()
                # Without the key the database cannot be used: it must be on the disk before the first event is.
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                path.hardlink_to(fresh)  # Atomic, and loses against another process that was first.
        finally:
            fresh.unlink()
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    key = path.read_bytes().strip()
    if len(key) < 32:
        raise LedgerError(
            f"{path} holds no identity key; restore it from a backup, it belongs to the database beside it"
        )
    return key


class SqliteLedger:
    """See ``base.Ledger``. Several processes may have the same file open (an import beside a running agent)."""

    def __init__(self, path: Path, key: bytes, *, quarantine_max_bytes: int = 64 * 1024 * 1024) -> None:
        """Open or create the database. Raises ``LedgerError`` or ``StoreUnavailable``."""
        self._path = path
        self._quarantine_max = quarantine_max_bytes
        for_identities, for_sealing = derive(key)
        self._identifier = Identifier(for_identities)
        self._seal = Seal(for_sealing)
        self._cells = SqliteCells()
        self._hours: set[int] = set()
        self._data_version = -1
        self._closed = False
        self._lock = -1
        self._writer_thread = ThreadPoolExecutor(1, "ledger-writer")
        self._reader_thread = ThreadPoolExecutor(1, "ledger-reader")
        try:
            self._writer = self._connect()
            self._migrate()
            self._reader = self._connect()
            self._reader.execute("PRAGMA query_only = ON")
        except sqlite3.DatabaseError as e:
            if "not a database" in str(e):
                raise LedgerError(f"{path} is not a SQLite database") from None
            raise StoreUnavailable(f"{path}: {e}") from e

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=5.0, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA cache_size = -65536")
        db.execute("PRAGMA temp_store = MEMORY")
        db.execute("PRAGMA wal_autocheckpoint = 4000")  # Pages: a checkpoint each 16 MB.
        return db

    def _migrate(self) -> None:
        db = self._writer
        db.execute("BEGIN IMMEDIATE")
        try:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise LedgerError(
                    f"{self._path} has schema version {version}, this program knows {SCHEMA_VERSION}: upgrade it"
                )
            for step in range(version + 1, SCHEMA_VERSION + 1):
                script = resources.files("agent.ledger").joinpath(f"schema/sqlite-{step}.sql").read_text()
                for statement in _statements(script):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {step}")
            # Hashes under another key would count every event anew.
            proof = self._identifier.digest("identity key")
            row = db.execute("SELECT value FROM meta WHERE name = 'key_proof'").fetchone()
            if row is None:
                db.execute("INSERT INTO meta VALUES ('key_proof', ?)", (proof,))
            elif row[0] != proof:
                raise LedgerError(
                    f"{self._path} was written with another identity key: restore it (store.identity_key)"
                )
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise

    # Threads: nothing below touches the event loop but these two.

    async def _write(self, work: Callable[..., T], *args: object) -> T:
        return await self._on(self._writer_thread, work, *args)

    async def _read(self, work: Callable[..., T], *args: object) -> T:
        return await self._on(self._reader_thread, work, *args)

    async def _on(self, thread: ThreadPoolExecutor, work: Callable[..., T], *args: object) -> T:
        if self._closed:
            raise StoreUnavailable("the ledger is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, work, *args)
        except sqlite3.Error as e:
            raise StoreUnavailable(f"{type(e).__name__}: {e}") from e

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = self._writer
        try:
            db.execute("BEGIN IMMEDIATE")  # Can fail with the transaction begun.
            version = db.execute("PRAGMA data_version").fetchone()[0]
            if version != self._data_version:
                self._cells.load(db)
                self._hours = {row[0] for row in db.execute("SELECT hour FROM hour")}
                self._data_version = version
            yield db
            self._cells.save(db)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            self._data_version = -1  # What this transaction added to the caches is gone.
            self._cells.forget()
            raise

    def identify(self, scope: str, events: Sequence[Event]) -> list[bytes]:
        return self._identifier.of(scope, events)

    async def apply(self, batches: Sequence[Batch | Columns], now: float) -> list[Applied]:
        return await self._write(self._apply, batches, now)

    def _apply(self, batches: Sequence[Batch | Columns], now: float) -> list[Applied]:
        columns = [to_columns(batch, self._identifier) for batch in batches]
        with self._transaction() as db:
            return Answers(db, self._hours, now).run(count(columns, self._cells.copy, self._identifier, now))

    async def quarantine(self, source: str, reason: str, body: bytes, headers: Mapping[str, str], now: float) -> int:
        return await self._write(lambda: self._quarantine(self._seal.row(source, reason, body, headers, now)))

    def _quarantine(self, row: Sequence[object]) -> int:
        with self._transaction() as db:
            db.execute("INSERT INTO quarantine (at, source, reason, size, sealed) VALUES (?, ?, ?, ?, ?)", row)
            return db.execute(
                "DELETE FROM quarantine WHERE id IN (SELECT id FROM (SELECT id, sum(length(sealed)) OVER "
                "(ORDER BY id DESC) AS total FROM quarantine) WHERE total > ?)",
                (self._quarantine_max,),
            ).rowcount

    async def quarantined(self) -> list[Quarantined]:
        return await self._read(
            lambda: [
                Quarantined(*row)
                for row in self._reader.execute("SELECT id, at, source, reason, size FROM quarantine ORDER BY id")
            ]
        )

    async def unseal(self, quarantine_id: int) -> tuple[dict[str, str], bytes]:
        row = await self._read(
            lambda: self._reader.execute(
                "SELECT source, sealed FROM quarantine WHERE id = ?", (quarantine_id,)
            ).fetchone()
        )
        return self._seal.open(quarantine_id, row)

    async def discard(self, quarantine_ids: Sequence[int]) -> None:
        await self._write(self._discard, list(quarantine_ids))

    def _discard(self, quarantine_ids: list[int]) -> None:
        with self._transaction() as db:
            db.executemany("DELETE FROM quarantine WHERE id = ?", [(one,) for one in quarantine_ids])

    async def relabel(self, mailbox_providers: Mapping[str, str], now: float) -> None:
        await self._write(self._relabel, dict(mailbox_providers), now)

    def _relabel(self, mailbox_providers: dict[str, str], now: float) -> None:
        with self._transaction() as db:
            self._cells.relabel(db, mailbox_providers, now)

    async def pending(self) -> list[str]:
        return await self._write(self._pending)

    def _pending(self) -> list[str]:
        with self._transaction():
            return self._cells.copy.pending()

    async def rows(
        self,
        width: int,
        since: float,
        until: float,
        *,
        merge: int = 0,
        edges: Sequence[float] = (),
        by_domain: bool = False,
        domains: Sequence[str] = (),
    ) -> list[Row]:
        return await self._read(self._rows, width, since, until, merge or width, tuple(edges), by_domain, domains)

    def _rows(
        self,
        width: int,
        since: float,
        until: float,
        merge: int,
        edges: tuple[float, ...],
        by_domain: bool,
        domains: Sequence[str],
    ) -> list[Row]:
        place = "c.domain" if by_domain else "coalesce(c.shown, c.id)"
        groups = ", ".join((f"r.bucket / {merge:d}", *["r.bucket > ?"] * len(edges), "place", "measure"))
        # All rows in the order of their time; or those of a few cells, each by its index.
        tables, only = "rollup r CROSS JOIN cell c ON c.id = r.cell", ""
        if domains:
            tables = "cell c CROSS JOIN rollup r INDEXED BY rollup_cell ON r.cell = c.id"
            only = "c.domain IN (SELECT value FROM json_each(?)) AND "
        with self._snapshot() as db:
            # One row of JSON: a row a count would cost an interpreter-lock hand-over each.
            found = db.execute(
                "SELECT json_group_array(json_array(bucket, place, measure, n)) FROM ("
                f"SELECT max(r.bucket) AS bucket, {place} AS place, measure, sum(count) AS n "
                f"FROM {tables} WHERE {only}r.width = ? AND r.bucket >= ? AND r.bucket < ? "
                f"GROUP BY {groups} HAVING n <> 0)",
                (*([msgspec.json.encode(domains).decode()] if domains else []), width, since, until, *edges),
            ).fetchone()[0]
            decoded = msgspec.json.decode(found, type=list[tuple[int, int | str, int, int]])
            places = {row[1] for row in decoded}
            cells: Mapping[int | str, Cell] = (
                {domain: Cell(str(domain), "", "", "") for domain in places} if by_domain else names(db, places)
            )
        return [Row(bucket, cells[place], MEASURES[measure], count) for bucket, place, measure, count in decoded]

    async def amended(self) -> dict[str, tuple[float, int]]:
        return await self._read(
            lambda: {
                domain: (at, turn)
                for domain, at, turn in self._reader.execute(
                    "SELECT c.domain, max(a.at), sum(a.turn) FROM amended a JOIN cell c ON c.id = a.cell GROUP BY 1"
                )
            }
        )

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        """Several reads of one state."""
        self._reader.execute("BEGIN")
        try:
            yield self._reader
        finally:
            if self._reader.in_transaction:
                self._reader.execute("COMMIT")

    async def sources(self) -> dict[str, SourceState]:
        return await self._read(
            lambda: {
                row[0]: SourceState(*row)
                for row in self._reader.execute("SELECT name, received_at, event_at FROM source")
            }
        )

    async def recent_bounces(self, limit: int) -> list[RecentBounce]:
        return await self._read(self._recent_bounces, limit)

    def _recent_bounces(self, limit: int) -> list[RecentBounce]:
        rows = self._reader.execute(
            "SELECT at, source, s.domain, s.provider, s.stream, s.mailbox_provider, rank, smtp_code, enhanced_code, "
            "reason FROM recent_bounce r JOIN cell c ON c.id = r.cell JOIN cell s ON s.id = coalesce(c.shown, c.id) "
            "ORDER BY r.id DESC LIMIT ?",
            (limit,),
        ).fetchall()
        return [RecentBounce(r[0], r[1], Cell(*r[2:6]), BY_RANK[r[6]], r[7], r[8], r[9]) for r in rows]

    async def load(self, kind: str) -> dict[str, bytes]:
        return await self._read(
            lambda: dict(self._reader.execute("SELECT key, body FROM document WHERE kind = ?", (kind,)).fetchall())
        )

    async def save(self, kind: str, documents: Mapping[str, bytes | None], *, epoch: int = 0) -> None:
        await self._write(self._save, kind, dict(documents), epoch)

    def _save(self, kind: str, documents: dict[str, bytes | None], epoch: int) -> None:
        with self._transaction() as db:
            if epoch and (now := _lease(db).epoch) != epoch:
                raise Deposed(f"epoch {epoch} ended; it is {now} now")
            for key, body in documents.items():
                if body is None:
                    db.execute("DELETE FROM document WHERE kind = ? AND key = ?", (kind, key))
                else:
                    db.execute("INSERT OR REPLACE INTO document VALUES (?, ?, ?)", (kind, key, body))

    async def lead(self, holder: str, seconds: float) -> Lease:
        return await self._write(self._lead, holder, seconds)

    def _lead(self, holder: str, seconds: float) -> Lease:
        """All processes of an embedded store are on one machine, so the lease is a lock on a file: the kernel passes it
        on the moment its process is gone, and no clock has a say. ``seconds`` is not needed but to give it up."""
        if seconds <= 0:
            self._unlock()
        elif self._lock < 0:
            # Beside the database: locking that file itself would get in SQLite's way.
            lock = os.open(f"{self._path}.leader", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(lock)
            else:
                self._lock = lock
        with self._transaction() as db:
            before = _lease(db)
            if self._lock < 0 or before.holder == holder:
                return before
            lease = Lease(holder, before.epoch + 1)
            db.execute("INSERT OR REPLACE INTO meta VALUES ('lease', ?)", (msgspec.json.encode(lease),))
            return lease

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    async def prune(self, now: float) -> None:
        oldest = int(now - IDENTITY_AGE) // HOUR
        # One short transaction at a time, so that apply gets its turn in between.
        more = True
        while more:
            more = await self._write(self._prune_identities, oldest)
        await self._write(self._prune_rest, now, oldest)

    def _prune_identities(self, oldest: int) -> bool:
        with self._transaction() as db:
            row = db.execute("SELECT min(hour) FROM hour WHERE hour < ?", (oldest,)).fetchone()
            if row[0] is None:
                return False
            gone = db.execute(
                "DELETE FROM identity WHERE hour = :h AND hash IN (SELECT hash FROM identity WHERE hour = :h LIMIT :n)",
                {"h": row[0], "n": _PRUNE_STEP},
            ).rowcount
            if gone < _PRUNE_STEP:
                db.execute("DELETE FROM hour WHERE hour = ?", row)
                self._hours.discard(row[0])
        return True

    def _prune_rest(self, now: float, oldest: int) -> None:
        with self._transaction() as db:
            for width, age in ROLLUP_AGE.items():
                db.execute("DELETE FROM rollup WHERE width = ? AND bucket < ?", (width, now - age))
            db.execute("DELETE FROM bounce WHERE last_at < ?", (int(now - IDENTITY_AGE) * 1000,))
            db.execute("DELETE FROM quarantine WHERE at < ?", (now - QUARANTINE_AGE,))
            db.execute("DELETE FROM token WHERE at < ?", (int(now - TOKEN_AGE),))
            db.execute("DELETE FROM amended WHERE at < ?", (now - AMENDED_AGE,))
            db.execute("DELETE FROM recent_bounce WHERE id <= (SELECT max(id) FROM recent_bounce) - ?", (_RECENT_KEPT,))
            self._cells.prune(db, oldest)

    async def writable(self) -> bool:
        try:
            # Not wait_for, which before Python 3.12 can swallow the cancellation that ends the caller.
            async with asyncio.timeout(5.0):
                await self._write(self._touch)
        except (StoreUnavailable, TimeoutError):
            return False
        return True

    def _touch(self) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('touched', randomblob(8))")

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._reader_thread, self._reader.close)
        await loop.run_in_executor(self._writer_thread, self._writer.close)
        self._unlock()
        self._reader_thread.shutdown()
        self._writer_thread.shutdown()


def _lease(db: sqlite3.Connection) -> Lease:
    row = db.execute("SELECT value FROM meta WHERE name = 'lease'").fetchone()
    return msgspec.json.decode(row[0], type=Lease) if row else Lease("", 0)


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
