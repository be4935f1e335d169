"""How the PostgreSQL store answers ``commit.count``.

Each question is one statement over arrays or over a blob of fixed-size records, so that the number of round trips does
not grow with the events. ``OFFSET 0`` keeps the planner from turning a look into an index, one for each record, into a
join that reads the whole table: it knows nothing yet of a partition that began a minute ago. An hour that has no rows
yet, mostly the next one, is not looked into: the index is told what the last one is.

Repeats within the hour are rare but for those of deferrals, and to look for each event would be a quarter of what the
database does for it. So as long as none come it is not done: the primary key refuses a repeat, which undoes the
transaction, and the next attempt looks. Rows of one identity in neighbouring hours do not exist beside each other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from agent.ledger.base import Applied
from agent.ledger.cells import Cells
from agent.ledger.commit import Steps
from agent.ledger.identity import DIGEST_BYTES
from agent.ledger.outcomes import Bounce
from agent.ledger.postgres_cells import ROWS
from agent.ledger.postgres_session import Connection
from agent.ledger.questions import (
    RECORD,
    Bounces,
    Deliveries,
    Drop,
    Known,
    Put,
    PutBounces,
    Question,
    Tokens,
    Write,
)

# The records of each hour: their place in the blob by the place of the first and the last but one.
_RECORDS = "unnest($1::int[], $2::int[], $3::int[]) s(hour, start, stop) CROSS JOIN generate_series(start, stop - 1) n"
_HASH = f"substr($4::bytea, n * {RECORD} + 1, {DIGEST_BYTES})"
_BOUNCED = f"""
SELECT NULL::bigint, substr($5::bytea, n * {DIGEST_BYTES} + 1, {DIGEST_BYTES}), b.first_at, b.last_at, NULL::bytea
FROM generate_series(0, length($5::bytea) / {DIGEST_BYTES} - 1) n CROSS JOIN LATERAL (
  SELECT first_at, last_at FROM mailvitals.bounce
  WHERE hash = substr($5::bytea, n * {DIGEST_BYTES} + 1, {DIGEST_BYTES}) OFFSET 0) b
"""


def _known(hours: str) -> str:
    return f"""
SELECT i.hour::bigint, {_HASH}, NULL::bigint, NULL::bigint, i.mark
FROM {_RECORDS} CROSS JOIN LATERAL (
  SELECT hour, mark FROM mailvitals.identity WHERE hour IN ({hours}) AND hash = {_HASH}
    AND hour BETWEEN $6::int AND (SELECT max(hour) FROM mailvitals.identity WHERE hour BETWEEN $6::int AND $7::int)
    AND hour <= $7::int OFFSET 0) i
UNION ALL {_BOUNCED}"""


_KNOWN = _known("s.hour - 1, s.hour, s.hour + 1")
_NEAR = f"""
{_known("s.hour - 1, s.hour + 1")}
UNION ALL
SELECT p.hour, p.hash, NULL::bigint, NULL::bigint, i.mark
FROM unnest($8::int[], $9::bytea[]) p(hour, hash) CROSS JOIN LATERAL (
  SELECT mark FROM mailvitals.identity WHERE hour = p.hour AND hash = p.hash AND hour BETWEEN $6::int AND $7::int
  OFFSET 0) i
"""
_INSERT = f"""
INSERT INTO mailvitals.identity (hour, hash, mark)
SELECT s.hour, {_HASH}, substr($4::bytea, n * {RECORD} + {DIGEST_BYTES + 1}, 5)
FROM {_RECORDS}
"""
_REPLACE = _INSERT + "ON CONFLICT (hour, hash) DO UPDATE SET mark = excluded.mark"
_DROP = """
DELETE FROM mailvitals.identity i USING unnest($1::int[], $2::bytea[]) u(hour, hash)
WHERE i.hour = u.hour AND i.hash = u.hash AND i.hour BETWEEN $3::int AND $4::int
"""
_BOUNCES = """
SELECT u.n::int - 1, b.* FROM unnest($1::bytea[]) WITH ORDINALITY u(hash, n) CROSS JOIN LATERAL (
  SELECT at, rank, cell, first_at, last_at, seen FROM mailvitals.bounce WHERE hash = u.hash OFFSET 0) b
"""
_DELIVERIES = """
SELECT u.n, i.hour, i.mark
FROM unnest($1::int[], $2::int[], $3::int[], $4::bytea[]) u(n, first, last, hash)
CROSS JOIN LATERAL generate_series(u.first, u.last) h(hour) CROSS JOIN LATERAL (
  SELECT hour, mark FROM mailvitals.identity
  WHERE hour = h.hour AND hour BETWEEN $5::int AND $6::int AND hash = u.hash OFFSET 0) i
"""
_PUT_BOUNCES = """
INSERT INTO mailvitals.bounce (hash, at, rank, cell, first_at, last_at, seen)
SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::smallint[], $4::int[], $5::bigint[], $6::bigint[], $7::smallint[])
ON CONFLICT (hash) DO UPDATE SET at = excluded.at, rank = excluded.rank, cell = excluded.cell,
  first_at = excluded.first_at, last_at = excluded.last_at, seen = excluded.seen
"""
# One statement, since each costs two round trips. The counts come in the order of their places: commits that share
# places but no turn (two generic sources) wait for each other there, and never in a circle.
_WRITE = """
WITH sources AS (
  INSERT INTO mailvitals.source AS s (name, received_at, event_at)
  SELECT * FROM unnest($6::text[], $7::float8[], $8::float8[])
  ON CONFLICT (name) DO UPDATE SET received_at = greatest(s.received_at, excluded.received_at),
    event_at = greatest(s.event_at, excluded.event_at)
), recent AS (
  INSERT INTO mailvitals.recent_bounce (at, source, cell, rank, smtp_code, enhanced_code, reason)
  SELECT at, source, cell, rank, smtp_code, enhanced_code, reason
  FROM unnest($9::float8[], $10::text[], $11::int[], $12::smallint[], $13::int[], $14::text[], $15::text[])
    WITH ORDINALITY u(at, source, cell, rank, smtp_code, enhanced_code, reason, n) ORDER BY n
), tokens AS (
  INSERT INTO mailvitals.token (hash, body, at) SELECT hash, body, $18::bigint
  FROM unnest($16::bytea[], $17::bytea[]) u(hash, body)
), amended AS (
  INSERT INTO mailvitals.amended AS a (cell, at, turn) SELECT cell, $18::bigint, 1 FROM unnest($19::int[]) u(cell)
  ON CONFLICT (cell) DO UPDATE SET at = greatest(a.at, excluded.at), turn = a.turn + 1
)
INSERT INTO mailvitals.rollup AS r (width, bucket, cell, measure, count)
SELECT * FROM unnest($1::int[], $2::bigint[], $3::int[], $4::smallint[], $5::bigint[])
ON CONFLICT (width, bucket, cell, measure) DO UPDATE SET count = r.count + excluded.count
"""


class MissingDays(Exception):
    """Partitions that are not there yet, by Unix day."""

    def __init__(self, days: set[int]) -> None:
        super().__init__()
        self.days = days


class Answers:
    """The answers within one transaction. ``days`` are those that ``identity`` has partitions of, ``look`` whether to
    look for repeats within the hour, on which the transaction fails otherwise. Raises ``MissingDays``."""

    def __init__(self, db: Connection, cells: Cells, days: set[int], now: float, *, look: bool) -> None:
        self._db = db
        self._cells = cells
        self._days = days
        self._now = int(now)
        self._look = look

    async def run(self, steps: Steps, question: Question) -> list[Applied]:
        """Answer this question and all that follow."""
        try:
            while True:
                answer = await _ANSWERS[type(question)](self, question)
                question = steps.send(answer)
        except StopIteration as end:
            results: list[Applied] = end.value
            return results

    async def _tokens(self, question: Tokens) -> dict[bytes, bytes]:
        statement = "SELECT hash, body FROM mailvitals.token WHERE hash = ANY($1::bytea[])"
        return dict(await self._db.fetch(statement, question.hashes))

    async def _known(self, question: Known) -> tuple[list[tuple[bytes, int, int]], list[tuple[bytes, int, int]]]:
        missing = {hour // 24 for hour, _, _ in question.spans} - self._days
        if missing:
            raise MissingDays(missing)
        first, last = question.spans[0][0] - 1, question.spans[-1][0] + 1
        arguments = *_columns(question), b"".join(question.deliveries), first, last
        if self._look:
            found = await self._db.fetch(_KNOWN, *arguments)
        else:
            found = await self._db.fetch(_NEAR, *arguments, *_transposed(question.pairs, 2))
        rows = [(key, hour, int.from_bytes(mark, "big")) for hour, key, _, _, mark in found if mark is not None]
        await self._learn({mark >> 16 for _, _, mark in rows})
        return rows, [(key, first_at, last_at) for _, key, first_at, last_at, mark in found if mark is None]

    async def _put(self, question: Put) -> None:
        await self._db.execute(_REPLACE if question.replace else _INSERT, *_columns(question))

    async def _drop(self, question: Drop) -> None:
        hours = [hour for hour, _ in question.places]
        hashes = [hash_ for _, hash_ in question.places]
        await self._db.execute(_DROP, hours, hashes, min(hours), max(hours))

    async def _bounces(self, question: Bounces) -> dict[int, Bounce]:
        found = {n: Bounce(*rest) for n, *rest in await self._db.fetch(_BOUNCES, question.hashes)}
        await self._learn({bounce.cell for bounce in found.values()})
        return found

    async def _deliveries(self, question: Deliveries) -> list[tuple[int, int, int]]:
        if not self._days:
            return []
        # No identity lies outside of the partitions.
        oldest, newest = min(self._days) * 24, max(self._days) * 24 + 23
        ranges = [(n, max(first, oldest), min(last, newest)) for n, first, last in question.ranges]
        ns, firsts, lasts = (list(column) for column in zip(*ranges, strict=True))
        hashes = [question.hashes[n] for n in ns]
        found = await self._db.fetch(_DELIVERIES, ns, firsts, lasts, hashes, min(firsts), max(lasts))
        return [(n, hour, int.from_bytes(mark, "big")) for n, hour, mark in found]

    async def _put_bounces(self, question: PutBounces) -> None:
        hashes = [question.hashes[n] for n, _ in question.bounces]
        columns = _transposed([bounce for _, bounce in question.bounces], 6)
        await self._db.execute(_PUT_BOUNCES, hashes, *columns)

    async def _write(self, question: Write) -> None:
        recent = [(*row[:5], text(row[5]), text(row[6])) for row in question.recent]
        await self._db.execute(
            _WRITE, *_transposed(question.counts, 5), *_transposed(question.sources, 3), *_transposed(recent, 7),
            *_transposed(question.tokens, 2), self._now, question.amended(self._now),
        )  # fmt: skip

    async def _learn(self, numbers: set[int]) -> None:
        """The cells of numbers that other agents gave out."""
        unknown = numbers - self._cells.names.keys()
        while unknown:
            rows = await self._db.fetch(ROWS, list(unknown))
            self._cells.learn(rows)
            unknown = {row[5] for row in rows if row[5] is not None} - self._cells.names.keys()


_ANSWERS: dict[type[Question], Callable[[Answers, Any], Awaitable[Any]]] = {
    Tokens: Answers._tokens, Known: Answers._known, Put: Answers._put, Drop: Answers._drop,
    Bounces: Answers._bounces, Deliveries: Answers._deliveries, PutBounces: Answers._put_bounces,
    Write: Answers._write,
}  # fmt: skip


def text(value: str) -> str:
    """What PostgreSQL takes as text: no NUL, no half of a surrogate pair."""
    return value.replace("\0", "").encode(errors="replace").decode()


def _columns(question: Known | Put) -> tuple[list[int], list[int], list[int], bytes]:
    hours, starts, stops = _transposed(question.spans, 3)
    return hours, starts, stops, b"".join(question.records)


def _transposed(rows: list[Any], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
