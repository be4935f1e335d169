"""The tables on PostgreSQL: made and brought up to date by whichever agent comes first, a partition for each day."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources

from agent.ledger.base import LedgerError
from agent.ledger.postgres_cells import all_turns, new_epoch
from agent.ledger.postgres_session import Connection, Session

SCHEMA_VERSION = 2

# Any number will do that nothing else in the database locks.
_MIGRATING = 0x6D61_696C_7669_7461
_VERSION = "SELECT value FROM mailvitals.meta WHERE name = 'schema_version'"


async def migrate(session: Session, place: str, key_proof: bytes) -> None:
    """Create the tables or bring them up to date; agents that start at once take turns. Raises ``LedgerError`` for a
    newer schema, or a database that was written with another identity key."""

    async def work(db: Connection) -> None:
        isolation = await db.fetchval("SHOW transaction_isolation")
        if isolation != "read committed":
            raise LedgerError(f"{place} gives transactions the isolation level {isolation}, not read committed")
        # Before the look: what the one before has made is seen then.
        await db.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATING)
        version = await _version(db)
        if version > SCHEMA_VERSION:
            raise LedgerError(f"{place} has schema version {version}, this program knows {SCHEMA_VERSION}: upgrade it")
        for step in range(version + 1, SCHEMA_VERSION + 1):
            if step == 1 and not await db.fetchval("SELECT to_regnamespace('mailvitals') IS NOT NULL"):
                await db.execute("CREATE SCHEMA mailvitals")
            await db.execute(resources.files("agent.ledger").joinpath(f"schema/postgres-{step}.sql").read_text())
        if version < SCHEMA_VERSION:
            await db.execute(
                "INSERT INTO mailvitals.meta VALUES ('schema_version', $1) "
                "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                str(SCHEMA_VERSION).encode(),
            )
        # Hashes under another key would count every event anew.
        await db.execute("INSERT INTO mailvitals.meta VALUES ('key_proof', $1) ON CONFLICT DO NOTHING", key_proof)
        if await db.fetchval("SELECT value FROM mailvitals.meta WHERE name = 'key_proof'") != key_proof:
            raise LedgerError(f"{place} was written with another identity key: restore it (store.identity_key)")

    await session.write(work, long=True)


async def _version(db: Connection) -> int:
    if not await db.fetchval("SELECT to_regclass('mailvitals.meta') IS NOT NULL"):
        return 0
    return int(await db.fetchval(_VERSION) or 0)


async def add_days(db: Connection, days: Iterable[int]) -> None:
    """Partitions for these Unix days. Attached, not created in place: that would wait for every reader of the table,
    a backup among them, and every commit for it."""
    await all_turns(db)
    there = {row[0] for row in await db.fetch("SELECT day FROM mailvitals.day")}
    for day in sorted(set(days) - there):
        await db.execute(
            f"CREATE TABLE mailvitals.identity_{day:d} (LIKE mailvitals.identity INCLUDING ALL); "
            f"ALTER TABLE mailvitals.identity ATTACH PARTITION mailvitals.identity_{day:d} "
            f"FOR VALUES FROM ({day * 24:d}) TO ({day * 24 + 24:d}); "
            f"INSERT INTO mailvitals.day VALUES ({day:d})"
        )


async def drop_day(db: Connection, day: int) -> None:
    """Drop a day's partition. A reader of the table that goes on for longer than a moment is not waited for: the next
    round will do."""
    await all_turns(db)
    await db.execute("SET LOCAL lock_timeout = '1s'")
    await db.execute(f"DROP TABLE IF EXISTS mailvitals.identity_{day:d}")
    await db.execute("DELETE FROM mailvitals.day WHERE day = $1", day)
    await new_epoch(db)
