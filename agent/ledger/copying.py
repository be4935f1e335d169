"""From the embedded store to PostgreSQL: everything, in one transaction, compared before it ends.

Nobody writes to either meanwhile: the source is locked against every other process, and the target's turns are taken. A
copy that fails or is broken off leaves the target as it was.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from agent.ledger.base import LedgerError, Server, StoreUnavailable
from agent.ledger.postgres_cells import all_turns, new_epoch
from agent.ledger.postgres_commit import text
from agent.ledger.postgres_schema import add_days, migrate
from agent.ledger.postgres_session import Session
from agent.ledger.sqlite import SCHEMA_VERSION

_STEP = 10_000  # rows
_NO_LIMIT = 7 * 86400.0  # seconds that a table may take


class Table(NamedTuple):
    """What is copied of a table, and what must be the same of both copies of it."""

    name: str
    columns: tuple[str, ...]
    sums: str


TABLES = (
    Table("cell", ("id", "domain", "provider", "stream", "mailbox_provider", "shown", "moved"), "sum(id)"),
    Table("identity", ("hour", "hash", "mark"), "sum(hour), sum(length(mark))"),
    Table(
        "bounce", ("hash", "at", "rank", "cell", "first_at", "last_at", "seen"),
        "sum(at % 1000003), sum(rank), sum(cell), sum(first_at % 1000003), sum(last_at % 1000003), sum(seen)",
    ),
    Table(
        "rollup", ("width", "bucket", "cell", "measure", "count"),
        "sum(count), sum(bucket), sum(cell), sum(measure), sum(count * measure), sum(count * cell)",
    ),
    Table("source", ("name", "received_at", "event_at"), "max(received_at), max(event_at)"),
    Table(
        "recent_bounce", ("id", "at", "source", "cell", "rank", "smtp_code", "enhanced_code", "reason"),
        "sum(cell), sum(rank)",
    ),
    Table("quarantine", ("id", "at", "source", "reason", "size", "sealed"), "sum(size), sum(length(sealed))"),
    Table("document", ("kind", "key", "body"), "sum(length(body))"),
    Table("token", ("hash", "body", "at"), "sum(at)"),
)  # fmt: skip


class Source:
    """The embedded database, to be copied from. Locked until ``close``."""

    def __init__(self, path: Path) -> None:
        """Raises ``LedgerError``, or ``StoreUnavailable`` when another process has it open."""
        self.path = path
        if not path.is_file():
            raise LedgerError(f"{path} is not there")
        self._db = sqlite3.connect(path, timeout=1.0, isolation_level=None)
        try:
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("BEGIN EXCLUSIVE")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version != SCHEMA_VERSION:
                raise LedgerError(
                    f"{path} has schema version {version}, this program copies {SCHEMA_VERSION}: run the agent of this "
                    "version on it once"
                )
            self.key_proof: bytes = self._db.execute("SELECT value FROM meta WHERE name = 'key_proof'").fetchone()[0]
        except sqlite3.OperationalError as e:
            self._db.close()
            raise StoreUnavailable(f"{path} is in use: stop the agent first ({e})") from None
        except sqlite3.DatabaseError:
            self._db.close()
            raise LedgerError(f"{path} is not a SQLite database") from None
        except BaseException:
            self._db.close()
            raise

    def days(self) -> set[int]:
        """The Unix days that there are identities of."""
        return {row[0] // 24 for row in self._db.execute("SELECT hour FROM hour")}

    def rows(self, table: Table) -> Iterator[tuple[Any, ...]]:
        yield from self._db.execute(f"SELECT {', '.join(table.columns)} FROM {table.name}")

    def sums(self) -> dict[str, tuple[Any, ...]]:
        """Of each table: the number of its rows, and what else is compared."""
        return {table.name: tuple(self._db.execute(_sums(table, "")).fetchone()) for table in TABLES}

    def close(self) -> None:
        """Let others have it again."""
        self._db.close()


async def copy(
    source: Source, sums: dict[str, tuple[Any, ...]], server: Server, progress: Callable[[int], None]
) -> None:
    """Copy everything. ``sums`` are the source's; ``progress`` is told how many rows are done. Raises ``LedgerError``
    when the target holds anything, or is not the same in the end, and ``StoreUnavailable``."""
    session = Session(server)
    try:
        await session.open()
        await migrate(session, server.place, source.key_proof)
        await session.write(lambda db: _copy(source, sums, server, db, progress), long=True)
    finally:
        await session.close()


async def _copy(
    source: Source, sums: dict[str, tuple[Any, ...]], server: Server, db: Any, progress: Callable[[int], None]
) -> None:
    await all_turns(db)
    for table in TABLES:
        if await db.fetchval(f"SELECT EXISTS (SELECT FROM mailvitals.{table.name})"):
            raise LedgerError(f"{server.place} is not empty: it has rows in {table.name}; copy into a new database")
    await add_days(db, source.days())
    done = 0

    def counted(table: Table) -> Iterator[tuple[Any, ...]]:
        nonlocal done
        for row in source.rows(table):
            done += 1
            if done % _STEP == 0:
                progress(done)
            yield tuple(text(value) if isinstance(value, str) else value for value in row)

    for table in TABLES:
        await db.copy_records_to_table(
            table.name, schema_name="mailvitals", columns=table.columns, records=counted(table), timeout=_NO_LIMIT
        )
        there, here = tuple(await db.fetchrow(_sums(table, "mailvitals."), timeout=_NO_LIMIT)), sums[table.name]
        if there != here:
            raise LedgerError(f"the copy of {table.name} differs: {here} in {source.path}, {there} in {server.place}")
    for name in ("recent_bounce", "quarantine"):
        await db.execute(
            f"SELECT setval(pg_get_serial_sequence('mailvitals.{name}', 'id'), "
            f"(SELECT coalesce(max(id), 0) + 1 FROM mailvitals.{name}), false)"
        )
    await new_epoch(db)
    progress(done)


def _sums(table: Table, schema: str) -> str:
    return f"SELECT count(*), {table.sums} FROM {schema}{table.name}"
