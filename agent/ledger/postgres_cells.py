"""The PostgreSQL store's table of cells, and the epoch that says when a copy of it is of no use any more.

Adding a cell changes nothing for those who do not know it, so anybody may at any time. Whoever gives a number another
meaning (relabelling, pruning) or takes away a partition takes all turns and begins a new epoch: a commit that has taken
its turn and finds the epoch it has prepared itself for knows that it stays so until its end.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from zlib import crc32

from agent.clock import HOUR
from agent.ledger.base import MAX_AHEAD, Cell, StoreUnavailable
from agent.ledger.cells import MAX_CELLS, Cells
from agent.ledger.columns import Columns
from agent.ledger.postgres_session import Again, Connection
from agent.mailbox import PENDING

TURNS = 64

_ALL = """
SELECT (SELECT max(epoch) FROM mailvitals.turn) AS epoch, ARRAY(SELECT day FROM mailvitals.day) AS days,
  array_agg(id) AS a, array_agg(domain) AS b, array_agg(provider) AS c, array_agg(stream) AS d,
  array_agg(mailbox_provider) AS e, array_agg(shown) AS f, array_agg(moved IS NOT NULL) AS g
FROM mailvitals.cell
"""
ROWS = """
SELECT id, domain, provider, stream, mailbox_provider, shown, moved IS NOT NULL FROM mailvitals.cell
WHERE id = ANY($1::int[])
"""
_ADD = """
INSERT INTO mailvitals.cell (id, domain, provider, stream, mailbox_provider, shown)
SELECT * FROM unnest($1::int[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int[])
ON CONFLICT (domain, provider, stream, mailbox_provider) DO NOTHING
"""
_WAITING = "FROM mailvitals.cell WHERE shown IS NOT NULL AND moved IS NULL"
PENDING_NAMES = f"SELECT DISTINCT mailbox_provider {_WAITING}"
_AMEND = """
INSERT INTO mailvitals.amended AS a (cell, at, turn) SELECT cell, $2::float8, 1 FROM unnest($1::int[]) u(cell)
ON CONFLICT (cell) DO UPDATE SET at = greatest(a.at, excluded.at), turn = a.turn + 1
"""
_MOVE = (
    """
INSERT INTO mailvitals.rollup AS t (width, bucket, cell, measure, count)
SELECT r.width, r.bucket, m.new, r.measure, sum(r.count)
FROM mailvitals.rollup r JOIN unnest($1::int[], $2::int[]) m(old, new) ON r.cell = m.old
GROUP BY r.width, r.bucket, m.new, r.measure
ON CONFLICT (width, bucket, cell, measure) DO UPDATE SET count = t.count + excluded.count
""",
    "DELETE FROM mailvitals.rollup r USING unnest($1::int[], $2::int[]) m(old, new) WHERE r.cell = m.old",
)
_MOVED = """
UPDATE mailvitals.cell c SET shown = m.new, moved = $3 FROM unnest($1::int[], $2::int[]) m(old, new) WHERE c.id = m.old
"""
_STILL_SHOWN = """
UPDATE mailvitals.recent_bounce r SET cell = c.shown FROM mailvitals.cell c WHERE c.id = r.cell AND c.moved < $1
"""


class PostgresCells:
    """``copy``, of a certain ``epoch``, with the days that have partitions then."""

    def __init__(self) -> None:
        self.copy: Cells = _Scattered()
        self.days: set[int] = set()
        self.epoch = -1  # None that there is: to be loaded.

    def forget(self) -> None:
        """What the copy says may not be in the table."""
        self.epoch = -1

    async def load(self, db: Connection) -> None:
        """Become what the table says."""
        epoch, days, *columns = await db.fetchrow(_ALL)
        self.copy.fill(zip(*(column or () for column in columns), strict=True))
        self.days, self.epoch = set(days), epoch

    def number(self, batches: Sequence[Columns]) -> bool:
        """Give a number to every cell of the batches; whether there are any to ``add``."""
        for cell in sorted(set().union(*(batch.cells for batch in batches)) - self.copy.numbers.keys()):
            self.copy.number(cell)
        return bool(self.copy.added)

    async def add(self, db: Connection) -> None:
        """Write what was added to the copy. Raises ``Again`` when another agent was faster with one of them."""
        rows = sorted(self.copy.added, key=lambda row: row[1])
        if rows:
            cells = zip(*(cell for _, cell, _ in rows), strict=True)
            tag = await db.execute(_ADD, [row[0] for row in rows], *map(list, cells), [row[2] for row in rows])
            if tag != f"INSERT 0 {len(rows)}":
                self.forget()
                raise Again("another agent has named a place")
            self.copy.added = []

    async def relabel(self, db: Connection, mailbox_providers: Mapping[str, str], now: float) -> None:
        """Move the counts of domains, given with their mailbox providers, to the cells they belong to."""
        waiting = [PENDING + domain for domain in mailbox_providers]
        if not await db.fetchval(f"SELECT EXISTS (SELECT {_WAITING} AND mailbox_provider = ANY($1::text[]))", waiting):
            return
        await all_turns(db)
        await self.load(db)
        moves = self.copy.relabel(mailbox_providers)
        if not moves:
            return
        await self.add(db)
        olds, news = [old for old, _ in moves], [new for _, new in moves]
        for statement in _MOVE:
            await db.execute(statement, olds, news)
        await db.execute(_AMEND, sorted(set(news)), now)
        # The clock may have been set back since the events came.
        newest = await db.fetchval("SELECT max(hour) FROM mailvitals.identity") or 0
        await db.execute(_MOVED, olds, news, max(newest, int(now + MAX_AHEAD) // HOUR))
        await new_epoch(db)

    async def prune(self, db: Connection, oldest: int) -> None:
        """Drop the other names of cells that no identity can name, since those before the Unix hour ``oldest`` are
        gone, and the bounces of that age with them."""
        if not await db.fetchval("SELECT EXISTS (SELECT FROM mailvitals.cell WHERE moved < $1)", oldest):
            return
        await all_turns(db)
        await db.execute(_STILL_SHOWN, oldest)
        await db.execute("DELETE FROM mailvitals.cell WHERE moved < $1", oldest)
        await new_epoch(db)


class _Scattered(Cells):
    """Takes any free number, so that agents who add cells at the same time do not meet."""

    def _next(self) -> int:
        if len(self.names) > MAX_CELLS // 2:
            raise StoreUnavailable("too many combinations of domain, provider, stream and mailbox provider")
        number = 1 + secrets.randbelow(MAX_CELLS)
        while number in self.names:
            number = 1 + secrets.randbelow(MAX_CELLS)
        return number


async def names(db: Connection, numbers: Iterable[int]) -> dict[int, Cell]:
    """The cells of these numbers, as the connection's transaction sees them."""
    return {row[0]: Cell(*row[1:5]) for row in await db.fetch(ROWS, list(numbers))}


async def take_turns(db: Connection, scopes: Iterable[str]) -> int:
    """Wait until no other transaction is at work within these scopes, and let none begin; the epoch. Always in the
    same order, so that nobody waits in a circle. ``FOR UPDATE`` gives the row as the last holder left it."""
    turns = sorted({crc32(scope.encode()) % TURNS for scope in scopes})
    rows = await db.fetch("SELECT epoch FROM mailvitals.turn WHERE id = ANY($1::int[]) ORDER BY id FOR UPDATE", turns)
    epochs: list[int] = [row[0] for row in rows]
    return max(epochs)


async def all_turns(db: Connection) -> None:
    """Wait until no commit is at work, and let none begin."""
    await db.execute("SELECT FROM mailvitals.turn ORDER BY id FOR UPDATE")


async def new_epoch(db: Connection) -> None:
    """With all turns taken: what others have prepared is of no use any more."""
    await db.execute("UPDATE mailvitals.turn SET epoch = epoch + 1")
