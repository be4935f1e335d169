"""What an edge could not hand over, durably on its disk: sealed, in order, and never more than a cap.

SQLite again, ``synchronous=FULL``, one thread. A message lies here from before its sender is answered until a core
has confirmed it.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from agent.bus.wire import Header, Seal

# Told from a ledger, whose versions are small numbers, by both sides.
_VERSION = 1_000_001
_PROOF = "spool"
_RECLAIM = 256  # pages given back to the disk at a time

log = structlog.get_logger()

T = TypeVar("T")
_message = msgspec.msgpack.Decoder(tuple[Header, bytes])


class SpoolError(Exception):
    """The file cannot be used as it is (in use, sealed with another key, no spool): settings to mend."""


class SpoolFull(Exception):
    """The cap is reached."""


class SpoolBroken(Exception):
    """The disk does not take it."""


class Spool:
    """See above. ``open`` first. Every method may raise ``SpoolBroken``."""

    def __init__(self, path: Path, seal: Seal, max_bytes: int) -> None:
        self._path = path
        self._seal = seal
        self._max = max_bytes
        self._thread = ThreadPoolExecutor(1, "spool")
        self._db: sqlite3.Connection | None = None
        self.size = 0  # sealed bytes
        self.messages = 0

    async def open(self) -> None:
        """Open or create the file. Raises ``SpoolError``."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._open)

    def _open(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch(mode=0o600)
            self._db = db = sqlite3.connect(self._path, timeout=1.0, isolation_level=None, check_same_thread=False)
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION) or (
                version == 0 and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            ):
                raise SpoolError(f"{self._path} is no spool of an edge; give it a file of its own (store.url)")
            # One edge, one spool: another process is told so at once.
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("BEGIN EXCLUSIVE")
            if version == 0:
                db.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL)")
                db.execute(
                    "CREATE TABLE message (n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, "
                    "source TEXT NOT NULL, sealed BLOB NOT NULL)"
                )
                proof = self._seal.close(_PROOF.encode(), secrets.token_bytes(12), _PROOF)
                db.execute("INSERT INTO meta VALUES ('proof', ?)", (proof,))
                db.execute(f"PRAGMA user_version = {_VERSION}")
            self._seal.open(db.execute("SELECT value FROM meta WHERE name = 'proof'").fetchone()[0], _PROOF)
            db.execute("COMMIT")
            self.messages, self.size = db.execute(
                "SELECT count(*), coalesce(sum(length(sealed)), 0) FROM message"
            ).fetchone()
        except ValueError:
            raise SpoolError(f"{self._path} was sealed with another identity key: restore it") from None
        except (sqlite3.Error, OSError) as e:
            raise SpoolError(f"{self._path}: {e}") from None

    async def add(self, messages: Sequence[tuple[Header, bytes]]) -> None:
        """Returns once they are on the disk. Raises ``SpoolFull`` when not all of them have room; then none is kept."""
        await self._on(self._add, messages)

    def _add(self, db: sqlite3.Connection, messages: Sequence[tuple[Header, bytes]]) -> None:
        rows = []
        for header, payload in messages:
            plain = msgspec.msgpack.encode((header, payload))
            sealed = self._seal.close(plain, secrets.token_bytes(12), header.id)
            rows.append((header.id, header.source, sealed))
        size = sum(len(row[2]) for row in rows)
        if self.size + size > self._max:
            raise SpoolFull
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO message (id, source, sealed) VALUES (?, ?, ?)", rows)
        db.execute("COMMIT")
        self.messages += len(rows)
        self.size += size

    async def oldest(self, limit: int, without: Collection[str] = ()) -> list[tuple[Header, bytes]]:
        """The messages that have lain longest, but for those of some sources."""
        return await self._on(self._oldest, limit, list(without))

    def _oldest(self, db: sqlite3.Connection, limit: int, without: list[str]) -> list[tuple[Header, bytes]]:
        rows = db.execute(
            "SELECT id, sealed FROM message WHERE source NOT IN (SELECT value FROM json_each(?)) ORDER BY n LIMIT ?",
            (msgspec.json.encode(without).decode(), limit),
        ).fetchall()
        found, lost = [], []
        for name, sealed in rows:
            try:
                found.append(_message.decode(self._seal.open(sealed, name)))
            except (ValueError, msgspec.MsgspecError) as e:
                log.error("spool.message_lost", id=name, reason=str(e))  # It must not hold up the others.
                lost.append(name)
        if lost:
            self._remove(db, lost)
        return found

    async def remove(self, ids: Collection[str]) -> int:
        """Forget messages; those that are not there are no error. Returns how many were."""
        return await self._on(self._remove, list(ids))

    def _remove(self, db: sqlite3.Connection, ids: list[str]) -> int:
        db.execute("BEGIN IMMEDIATE")
        removed = db.execute(
            "DELETE FROM message WHERE id IN (SELECT value FROM json_each(?)) RETURNING length(sealed)",
            (msgspec.json.encode(ids).decode(),),
        ).fetchall()
        db.execute("COMMIT")
        db.execute(f"PRAGMA incremental_vacuum({_RECLAIM})").fetchall()
        self.messages -= len(removed)
        self.size -= sum(size for (size,) in removed)
        return len(removed)

    async def problem(self) -> str:
        """Why nothing could be added now, ``""`` if it could. Never raises."""
        if self.size >= self._max:
            return "the spool is full"
        try:
            await self._on(self._probe)
        except SpoolBroken as e:
            return str(e)
        return ""

    def _probe(self, db: sqlite3.Connection) -> None:
        db.execute("INSERT OR REPLACE INTO meta VALUES ('probe', x'00')")

    async def close(self) -> None:
        """Safe to call twice."""
        db, self._db = self._db, None
        if db is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, db.close)
        self._thread.shutdown(wait=False)

    async def _on(self, work: Callable[..., T], *args: object) -> T:
        db = self._db
        if db is None:
            raise SpoolBroken("the spool is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._safely, db, work, *args)

    def _safely(self, db: sqlite3.Connection, work: Callable[..., T], *args: object) -> T:
        try:
            return work(db, *args)
        except sqlite3.Error as e:
            raise SpoolBroken(f"{self._path}: {e}") from e
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
