"""How the embedded store answers ``commit.count``.

Each statement works over a whole blob of fixed-size records: Python's driver gives up and retakes the interpreter
lock at every row it steps over, so a statement a row would make the writer and the event loop wait for each other.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from agent.ledger.base import Applied
from agent.ledger.commit import Steps
from agent.ledger.identity import DIGEST_BYTES
from agent.ledger.outcomes import Bounce
from agent.ledger.questions import (
    RECORD,
    Bounces,
    Deliveries,
    Drop,
    Known,
    Put,
    PutBounces,
    Question,
    Span,
    Tokens,
    Write,
)
from agent.ledger.sqlite_cells import AMEND

_CHUNK = 8192  # records a statement, below the length of the seq table


def _known(hours: int) -> str:
    """What so many hours have of a blob of records."""
    return f"""
SELECT group_concat(s.n || ' ' || i.hour || ' ' || hex(i.mark), ';') FROM seq s CROSS JOIN identity i
WHERE s.n < :count AND i.hour IN ({", ".join(f":hour{n}" for n in range(hours))})
  AND i.hash = substr(:records, s.n * {RECORD} + 1, {DIGEST_BYTES})
"""


_KNOWN = tuple(_known(hours) for hours in range(4))
_BOUNCED = f"""
SELECT group_concat(s.n || ' ' || b.first_at || ' ' || b.last_at, ';') FROM seq s CROSS JOIN bounce b
WHERE s.n < :count AND b.hash = substr(:hashes, s.n * {DIGEST_BYTES} + 1, {DIGEST_BYTES})
"""
_PUT = f"""
INTO identity (hour, hash, mark)
SELECT :hour, substr(:records, n * {RECORD} + 1, {DIGEST_BYTES}),
       substr(:records, n * {RECORD} + {DIGEST_BYTES + 1}, 5)
FROM seq WHERE n < :count
"""
_BOUNCES = f"""
SELECT json_group_array(json_array(s.n, at, rank, cell, first_at, last_at, seen))
FROM seq s CROSS JOIN bounce b
WHERE s.n < :count AND b.hash = substr(:hashes, s.n * {DIGEST_BYTES} + 1, {DIGEST_BYTES})
"""
_DELIVERIES = f"""
SELECT group_concat(json_extract(j.value, '$[0]') || ' ' || i.hour || ' ' || hex(i.mark), ';')
FROM json_each(:ranges) j CROSS JOIN hour h CROSS JOIN identity i
WHERE h.hour BETWEEN json_extract(j.value, '$[1]') AND json_extract(j.value, '$[2]')
  AND i.hour = h.hour
  AND i.hash = substr(:hashes, json_extract(j.value, '$[0]') * {DIGEST_BYTES} + 1, {DIGEST_BYTES})
"""
_PUT_BOUNCES = f"""
INSERT OR REPLACE INTO bounce (hash, at, rank, cell, first_at, last_at, seen)
SELECT substr(:hashes, json_extract(value, '$[0]') * {DIGEST_BYTES} + 1, {DIGEST_BYTES}),
       json_extract(value, '$[1]'), json_extract(value, '$[2]'), json_extract(value, '$[3]'),
       json_extract(value, '$[4]'), json_extract(value, '$[5]'), json_extract(value, '$[6]')
FROM json_each(:rows)
"""
_ADD = """
INSERT INTO rollup (width, bucket, cell, measure, count)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
       json_extract(value, '$[3]'), json_extract(value, '$[4]')
FROM json_each(?) WHERE true
ON CONFLICT (width, bucket, cell, measure) DO UPDATE SET count = count + excluded.count
"""


class Answers:
    """The answers within one transaction. ``hours`` are those that the identities have rows in; it grows with them."""

    def __init__(self, db: sqlite3.Connection, hours: set[int], now: float) -> None:
        self._db = db
        self._hours = hours
        self._now = int(now)

    def run(self, steps: Steps) -> list[Applied]:
        """Answer to the end."""
        answer: Any = None
        try:
            while True:
                question = steps.send(answer)
                answer = _ANSWERS[type(question)](self, question)
        except StopIteration as end:
            results: list[Applied] = end.value
            return results

    def _tokens(self, question: Tokens) -> dict[bytes, bytes]:
        found = {}
        for token in question.hashes:
            row = self._db.execute("SELECT body FROM token WHERE hash = ?", (token,)).fetchone()
            if row is not None:
                found[token] = row[0]
        return found

    def _known(self, question: Known) -> tuple[list[tuple[bytes, int, int]], list[tuple[bytes, int, int]]]:
        rows: list[tuple[bytes, int, int]] = []
        bounces: list[tuple[bytes, int, int]] = []
        for hour, start, stop in _chunks(question.spans):
            near = [h for h in (hour - 1, hour, hour + 1) if h in self._hours]
            records = b"".join(question.records[start:stop])
            probe = {"count": stop - start, "records": records, **{f"hour{n}": h for n, h in enumerate(near)}}
            (known,) = self._db.execute(_KNOWN[len(near)], probe).fetchone()
            for item in known.split(";") if known else ():
                n, found_hour, mark = item.split(" ")
                key = question.records[start + int(n)][:DIGEST_BYTES]
                rows.append((key, int(found_hour), int(mark, 16)))
        for _, start, stop in _chunks([(0, 0, len(question.deliveries))]):
            hashes = b"".join(question.deliveries[start:stop])
            (bounced,) = self._db.execute(_BOUNCED, {"count": stop - start, "hashes": hashes}).fetchone()
            for item in bounced.split(";") if bounced else ():
                n, first_at, last_at = item.split(" ")
                bounces.append((question.deliveries[start + int(n)], int(first_at), int(last_at)))
        return rows, bounces

    def _put(self, question: Put) -> None:
        statement = ("REPLACE " if question.replace else "INSERT ") + _PUT
        for hour, start, stop in _chunks(question.spans):
            if hour not in self._hours:
                self._db.execute("INSERT OR IGNORE INTO hour VALUES (?)", (hour,))
                self._hours.add(hour)
            records = b"".join(question.records[start:stop])
            self._db.execute(statement, {"hour": hour, "count": stop - start, "records": records})

    def _drop(self, question: Drop) -> None:
        self._db.executemany("DELETE FROM identity WHERE hour = ? AND hash = ?", question.places)

    def _bounces(self, question: Bounces) -> dict[int, Bounce]:
        found: dict[int, Bounce] = {}
        for _, start, stop in _chunks([(0, 0, len(question.hashes))]):
            hashes = b"".join(question.hashes[start:stop])
            stored = self._db.execute(_BOUNCES, {"count": stop - start, "hashes": hashes}).fetchone()[0]
            found |= {start + row[0]: Bounce(*row[1:]) for row in msgspec.json.decode(stored)}
        return found

    def _deliveries(self, question: Deliveries) -> list[tuple[int, int, int]]:
        arguments = {"ranges": _json(question.ranges), "hashes": b"".join(question.hashes)}
        found = self._db.execute(_DELIVERIES, arguments).fetchone()[0]
        rows = [item.split(" ") for item in found.split(";")] if found else []
        return [(int(n), int(hour), int(mark, 16)) for n, hour, mark in rows]

    def _put_bounces(self, question: PutBounces) -> None:
        rows = _json([(n, *bounce) for n, bounce in question.bounces])
        self._db.execute(_PUT_BOUNCES, {"hashes": b"".join(question.hashes), "rows": rows})

    def _write(self, question: Write) -> None:
        db = self._db
        if question.recent:
            db.executemany(
                "INSERT INTO recent_bounce (at, source, cell, rank, smtp_code, enhanced_code, reason) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                question.recent,
            )
        if question.counts:
            db.execute(_ADD, (_json(question.counts),))
        db.executemany(AMEND, [(cell, self._now) for cell in question.amended(self._now)])
        db.executemany(
            "INSERT INTO source VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET "
            "received_at = max(received_at, excluded.received_at), event_at = max(event_at, excluded.event_at)",
            question.sources,
        )
        db.executemany("INSERT INTO token VALUES (?, ?, ?)", [(*token, self._now) for token in question.tokens])


_ANSWERS: dict[type[Question], Callable[[Answers, Any], Any]] = {
    Tokens: Answers._tokens, Known: Answers._known, Put: Answers._put, Drop: Answers._drop,
    Bounces: Answers._bounces, Deliveries: Answers._deliveries, PutBounces: Answers._put_bounces,
    Write: Answers._write,
}  # fmt: skip


def _chunks(spans: Iterable[Span]) -> Iterable[Span]:
    for hour, start, stop in spans:
        for first in range(start, stop, _CHUNK):
            yield hour, first, min(first + _CHUNK, stop)


def _json(rows: object) -> str:
    return msgspec.json.encode(rows).decode()
