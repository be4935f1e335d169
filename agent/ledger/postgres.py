"""The store for several agents at once: PostgreSQL 14 or newer, or an engine that speaks its protocol (``docs``).

Two reports of one event, committed by two agents at the same moment, count once, and this is why. What can be the same
event lies in one scope (``Batch.scope``), and every scope has a turn, a row of table ``turn`` that a commit locks
before its first look at anything: commits of one scope work one after the other, each sees all that those before it
have written (READ COMMITTED: a statement sees what was committed when it began, and it begins after the lock was got),
and whatever is decided by the counting rules is decided as in one process. Commits of different scopes work at the same
time; all they share are counts, which only add up, in the order of their places. Turns are taken in ascending order and
before any other lock, so nobody waits in a circle; should an engine find a circle or a conflict all the same, the
transaction is undone and tried again. The primary key of ``identity`` would refuse the same event in the same hour even
if a turn were not kept. A holder that dies loses its turn with its connection, one that freezes by a time-out.

A commit that is lost on its way back is ``StoreUnavailable``: the sender repeats it, and it counts nothing twice.

Meant to run in a process of its own (``process``): what it works out for a large commit holds up its event loop.
"""

from __future__ import annotations

import asyncio
import secrets as random_source
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from math import ceil, floor
from typing import Any

from agent.clock import HOUR
from agent.events import Event
from agent.ledger import postgres_cells as cells
from agent.ledger import postgres_lease as lease
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
    Lease,
    LedgerError,
    Quarantined,
    RecentBounce,
    Row,
    Server,
    SourceState,
    StoreUnavailable,
)
from agent.ledger.columns import Columns, to_columns
from agent.ledger.commit import count
from agent.ledger.identity import Identifier, derive
from agent.ledger.outcomes import BY_RANK
from agent.ledger.postgres_commit import Answers, MissingDays, text
from agent.ledger.postgres_schema import add_days, drop_day, migrate
from agent.ledger.postgres_session import Connection, Session
from agent.ledger.seal import Seal
from agent.mailbox import PENDING

_RECENT_KEPT = 1000
_PRUNE_STEP = 20_000
# A repeat that nobody looked for costs a transaction. Where some come, it is no more than one in so many.
_LOOK = 100

_CAP = """
DELETE FROM mailvitals.quarantine WHERE id IN (SELECT id FROM (
  SELECT id, sum(length(sealed)) OVER (ORDER BY id DESC) AS total FROM mailvitals.quarantine) q WHERE total > $1)
"""
_RECENT = """
SELECT r.at, r.source, s.domain, s.provider, s.stream, s.mailbox_provider, r.rank, r.smtp_code, r.enhanced_code,
  r.reason
FROM (SELECT * FROM mailvitals.recent_bounce ORDER BY id DESC LIMIT $1) r
JOIN mailvitals.cell c ON c.id = r.cell JOIN mailvitals.cell s ON s.id = coalesce(c.shown, c.id) ORDER BY r.id DESC
"""
_AMENDED = """
SELECT c.domain, max(a.at), sum(a.turn)::bigint FROM mailvitals.amended a JOIN mailvitals.cell c ON c.id = a.cell
GROUP BY c.domain
"""
_SAVE = """
INSERT INTO mailvitals.document (kind, key, body) SELECT $1, * FROM unnest($2::text[], $3::bytea[])
ON CONFLICT (kind, key) DO UPDATE SET body = excluded.body
"""
# What goes by age: the key of each table, and what is too old.
_OLD = {
    "rollup": ("width, bucket, cell, measure", "width = $1::int AND bucket < $2::bigint"),
    "bounce": ("hash", "last_at < $1"),
    "quarantine": ("id", "at < $1"),
    "token": ("hash", "at < $1"),
    "amended": ("cell", "at < $1"),
    "recent_bounce": ("id", "id <= (SELECT max(id) FROM mailvitals.recent_bounce) - $1::int"),
}


class PostgresLedger:
    """See ``base.Ledger``. Any number of agents may have the same database open."""

    def __init__(self, server: Server, key: bytes, *, quarantine_max_bytes: int = 64 * 1024 * 1024) -> None:
        """Nothing is opened yet: that is done by ``start``, or by what needs it first."""
        self._session = Session(server)
        self._place = server.place
        self._quarantine_max = quarantine_max_bytes
        for_identities, for_sealing = derive(key)
        self._identifier = Identifier(for_identities)
        self._seal = Seal(for_sealing)
        self._cells = cells.PostgresCells()
        self._writing = asyncio.Lock()  # Whoever uses the cells.
        self._starting = asyncio.Lock()
        self._started = False
        self._looking = 0  # For so many commits more, since repeats came.

    async def start(self) -> None:
        """Connect, and create or bring up to date what is there. Raises ``LedgerError`` or ``StoreUnavailable``."""
        async with self._starting:
            if not self._started:
                await self._session.open()
                await migrate(self._session, self._place, self._identifier.digest("identity key"))
                self._started = True

    def identify(self, scope: str, events: Sequence[Event]) -> list[bytes]:
        return self._identifier.of(scope, events)

    async def apply(self, batches: Sequence[Batch | Columns], now: float) -> list[Applied]:
        session = await self._ready()
        columns = [to_columns(batch, self._identifier) for batch in batches]
        async with self._using_cells():
            while True:
                try:
                    return await self._apply(session, columns, now)
                except MissingDays as e:
                    missing = e.days
                await session.write(lambda db: add_days(db, missing))  # noqa: B023 - runs here and now
                self._cells.forget()

    async def _apply(self, session: Session, batches: Sequence[Columns], now: float) -> list[Applied]:
        mine = self._cells

        attempts = 0

        async def number(db: Connection) -> None:
            nonlocal attempts
            attempts += 1
            if mine.epoch < 0 or attempts > 1:  # What an attempt has added is gone with it.
                await mine.load(db)
            mine.number(batches)
            await mine.add(db)

        if mine.epoch < 0 or mine.number(batches):
            await session.write(number)
        # As far as it goes without the database: the turn does not wait for that.
        steps = count(batches, mine.copy, self._identifier, now)
        prepared = [(steps, next(steps))]
        looks = [self._looking > 0]

        async def work(db: Connection) -> list[Applied]:
            epoch = await cells.take_turns(db, {batch.scope for batch in batches})
            if epoch != mine.epoch or not prepared:
                prepared.clear()
                mine.forget()
                await number(db)
                steps = count(batches, mine.copy, self._identifier, now)
                prepared.append((steps, next(steps)))
            answers = Answers(db, mine.copy, mine.days, now, look=looks[-1])
            looks.append(True)  # Should this attempt fail: it may be for a repeat.
            return await answers.run(*prepared.pop())

        results = await session.write(work)
        repeated = len(looks) > 2 or any(result.duplicates for result in results)
        self._looking = _LOOK if repeated else max(0, self._looking - 1)
        return results

    @asynccontextmanager
    async def _using_cells(self) -> AsyncIterator[None]:
        async with self._writing:
            try:
                yield
            except BaseException:
                self._cells.forget()
                raise

    async def quarantine(self, source: str, reason: str, body: bytes, headers: Mapping[str, str], now: float) -> int:
        row = self._seal.row(source, text(reason), body, headers, now)

        async def work(db: Connection) -> int:
            await db.execute(
                "INSERT INTO mailvitals.quarantine (at, source, reason, size, sealed) VALUES ($1, $2, $3, $4, $5)", *row
            )
            return _rows_of(await db.execute(_CAP, self._quarantine_max))

        return await (await self._ready()).write(work)

    async def quarantined(self) -> list[Quarantined]:
        found = await self._fetch("SELECT id, at, source, reason, size FROM mailvitals.quarantine ORDER BY id")
        return [Quarantined(*row) for row in found]

    async def unseal(self, quarantine_id: int) -> tuple[dict[str, str], bytes]:
        found = await self._fetch("SELECT source, sealed FROM mailvitals.quarantine WHERE id = $1", quarantine_id)
        return self._seal.open(quarantine_id, found[0] if found else None)

    async def discard(self, quarantine_ids: Sequence[int]) -> None:
        await self._execute("DELETE FROM mailvitals.quarantine WHERE id = ANY($1::bigint[])", list(quarantine_ids))

    async def relabel(self, mailbox_providers: Mapping[str, str], now: float) -> None:
        session = await self._ready()
        async with self._using_cells():
            await session.write(lambda db: self._cells.relabel(db, mailbox_providers, now))

    async def pending(self) -> list[str]:
        return sorted(row[0].removeprefix(PENDING) for row in await self._fetch(cells.PENDING_NAMES))

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
        place = "c.domain" if by_domain else "coalesce(c.shown, c.id)"
        # A bucket begins at a whole second: it is after an edge if it is after the edge's last whole one.
        parted = "".join(f", r.bucket > {floor(edge):d}" for edge in edges)
        only = " AND c.domain = ANY($4::text[])" if domains else ""
        statement = (
            f"SELECT max(r.bucket), {place}, r.measure, sum(r.count)::bigint "
            "FROM mailvitals.rollup r JOIN mailvitals.cell c ON c.id = r.cell "
            f"WHERE r.width = $1 AND r.bucket >= $2 AND r.bucket < $3{only} "
            f"GROUP BY r.bucket / {merge or width:d}{parted}, {place}, r.measure HAVING sum(r.count) <> 0"
        )

        async def work(db: Connection) -> list[Row]:
            found = await db.fetch(statement, width, ceil(since), ceil(until), *([list(domains)] if domains else []))
            places = {row[1] for row in found}
            names = {name: Cell(name, "", "", "") for name in places} if by_domain else await cells.names(db, places)
            return [Row(bucket, names[place], MEASURES[measure], n) for bucket, place, measure, n in found]

        return await (await self._ready()).read(work)

    async def amended(self) -> dict[str, tuple[float, int]]:
        return {domain: (at, turn) for domain, at, turn in await self._fetch(_AMENDED)}

    async def sources(self) -> dict[str, SourceState]:
        found = await self._fetch("SELECT name, received_at, event_at FROM mailvitals.source")
        return {row[0]: SourceState(*row) for row in found}

    async def recent_bounces(self, limit: int) -> list[RecentBounce]:
        return [
            RecentBounce(r[0], r[1], Cell(*r[2:6]), BY_RANK[r[6]], *r[7:]) for r in await self._fetch(_RECENT, limit)
        ]

    async def load(self, kind: str) -> dict[str, bytes]:
        return dict(await self._fetch("SELECT key, body FROM mailvitals.document WHERE kind = $1", kind))

    async def save(self, kind: str, documents: Mapping[str, bytes | None], *, epoch: int = 0) -> None:
        gone = [key for key, body in documents.items() if body is None]
        kept = sorted((key, body) for key, body in documents.items() if body is not None)

        async def work(db: Connection) -> None:
            if epoch:
                await lease.hold(db, epoch)
            if gone:
                await db.execute(
                    "DELETE FROM mailvitals.document WHERE kind = $1 AND key = ANY($2::text[])", kind, gone
                )
            if kept:
                await db.execute(_SAVE, kind, [key for key, _ in kept], [body for _, body in kept])

        await (await self._ready()).write(work)

    async def lead(self, holder: str, seconds: float) -> Lease:
        return await (await self._ready()).write(lambda db: lease.lead(db, holder, seconds))

    async def prune(self, now: float) -> None:
        session = await self._ready()
        # A day's partition goes when its last hour may.
        oldest = int(now - IDENTITY_AGE) // HOUR // 24
        for (day,) in await self._fetch("SELECT day FROM mailvitals.day WHERE day < $1 ORDER BY day", oldest):
            try:
                await session.write(lambda db, day=day: drop_day(db, day))  # type: ignore[misc]
            except StoreUnavailable:
                break  # Somebody reads it for long; there will be another round.
        for width, age in ROLLUP_AGE.items():
            await self._shrink("rollup", width, ceil(now - age))
        await self._shrink("bounce", int(now - IDENTITY_AGE) * 1000)
        await self._shrink("quarantine", now - QUARANTINE_AGE)
        await self._shrink("token", int(now - TOKEN_AGE))
        await self._shrink("recent_bounce", _RECENT_KEPT)
        await self._shrink("amended", now - AMENDED_AGE)
        async with self._using_cells():
            await session.write(lambda db: self._cells.prune(db, oldest * 24))

    async def _shrink(self, table: str, *limit: float) -> None:
        """Delete what is too old, in short transactions, and nothing that another agent is deleting."""
        key, old = _OLD[table]
        statement = (
            f"DELETE FROM mailvitals.{table} WHERE ({key}) IN (SELECT {key} FROM mailvitals.{table} WHERE {old} "
            f"ORDER BY {key} LIMIT {_PRUNE_STEP} FOR UPDATE SKIP LOCKED)"
        )
        while await self._execute(statement, *limit) == _PRUNE_STEP:
            pass

    async def writable(self) -> bool:
        try:
            async with asyncio.timeout(5.0):
                await self._execute(
                    "INSERT INTO mailvitals.meta VALUES ('touched', $1) "
                    "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                    random_source.token_bytes(8),
                )
        except (LedgerError, StoreUnavailable, TimeoutError):
            return False
        return True

    async def close(self) -> None:
        async with self._writing:
            await self._session.close()

    async def _ready(self) -> Session:
        if not self._started:
            await self.start()
        return self._session

    async def _fetch(self, statement: str, *arguments: object) -> list[Any]:
        return await (await self._ready()).read(lambda db: db.fetch(statement, *arguments))

    async def _execute(self, statement: str, *arguments: object) -> int:
        return _rows_of(await (await self._ready()).write(lambda db: db.execute(statement, *arguments)))


def _rows_of(tag: str) -> int:
    """How many rows a statement says it has changed."""
    return int(tag.rpartition(" ")[2])
