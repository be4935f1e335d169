"""One transaction's worth of events in the embedded store: what is new, what is known, what moves.

Each statement works over a whole blob of fixed-size records: Python's driver gives up and retakes the interpreter
lock at every row it steps over, so a statement a row would make the writer and the event loop wait for each other.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import compress

import msgspec

from agent.events import BounceClass, Event, Kind
from agent.ledger.base import HOUR, MAX_AGE, MAX_AHEAD, MEASURES, MINUTE, ROLLUP_AGE, Applied, Batch, Cell, Counted
from agent.ledger.identity import DIGEST_BYTES, REPEATABLE, Identifier
from agent.ledger.outcomes import BY_RANK, RANK, Bounce, merge, precedence, report
from agent.ledger.sqlite_cells import Cells

_RECORD = DIGEST_BYTES + 5  # hash and mark
_CHUNK = 8192  # records a statement, below the length of the seq table
_REVOKED = 1
_RECENT_A_COMMIT = 50

_MEASURE = {name: i for i, name in enumerate(MEASURES)}
_DELIVERED = _MEASURE["delivered"]
_PAIRS = _MEASURE["deferred_pairs"]
_OF_KIND = {kind.value: _MEASURE[kind.value] for kind in Kind if kind is not Kind.BOUNCED}
_OF_RANK = tuple(_MEASURE[bounce_class.value] for bounce_class in BY_RANK)
# How a measure's events are shown: the kind and, of a bounce, its class.
_CLASSES = {bounce_class.value: bounce_class for bounce_class in BounceClass}
_SHOWN: tuple[tuple[Kind, BounceClass | None], ...] = tuple(
    (Kind.BOUNCED, _CLASSES[m]) if m in _CLASSES else (Kind.DEFERRED if m == "deferred_pairs" else Kind(m), None)
    for m in MEASURES
)

# A count's place as one integer: minute, cell, measure.
_MINUTE_SHIFT, _CELL_SHIFT, _MEASURE_MASK, _CELL_MASK = 32, 8, 0xFF, 0xFFFFFF


def _known(hours: int) -> str:
    """What is known of a blob of records: their rows in so many hours, and the bounces that revoke them."""
    return f"""
SELECT (
  SELECT group_concat(s.n || ' ' || i.hour || ' ' || hex(i.mark), ';') FROM seq s CROSS JOIN identity i
  WHERE s.n < :count AND i.hour IN ({", ".join(f":hour{n}" for n in range(hours))})
    AND i.hash = substr(:records, s.n * {_RECORD} + 1, {DIGEST_BYTES})
), (
  SELECT group_concat(s.n || ' ' || b.first_at || ' ' || b.last_at, ';') FROM seq s CROSS JOIN bounce b
  WHERE s.n < :count AND b.hash = substr(:records, s.n * {_RECORD} + 1, {DIGEST_BYTES})
)
"""


_KNOWN = tuple(_known(hours) for hours in range(4))
_PUT = f"""
INTO identity (hour, hash, mark)
SELECT :hour, substr(:records, n * {_RECORD} + 1, {DIGEST_BYTES}),
       substr(:records, n * {_RECORD} + {DIGEST_BYTES + 1}, 5)
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

# record (hash and mark), second (Unix), cell number, measure, index of the batch (-1: a deferred pair, which is no
# event of its own)
_Entry = tuple[bytes, int, int, int, int]


class Commit:
    """One transaction's worth of events, counted first as if all were new, then corrected by what is known."""

    def __init__(
        self,
        db: sqlite3.Connection,
        cells: Cells,
        hours: set[int],
        identifier: Identifier,
        now: float,
    ) -> None:
        self._db = db
        self._cells = cells
        self._hours = hours
        self._identifier = identifier
        self._now = now
        self._results: list[Applied] = []
        self._tallies: list[dict[int, int]] = []  # per batch: events counted by place
        self._new: dict[int, dict[bytes, _Entry]] = {}  # by hour, then hash
        self._bounces: dict[bytes, list[tuple[int, int, Event]]] = {}  # hash to (batch, cell, event)
        self._deltas: dict[int, int] = {}  # changes of the roll-ups that are no new events
        self._batches: list[Batch] = []

    def add(self, batch: Batch) -> None:
        index = len(self._results)
        result = Applied()
        tally: dict[int, int] = {}
        self._results.append(result)
        self._tallies.append(tally)
        if batch.token and not self._first_use(batch):
            result.forged = True
            return
        self._batches.append(batch)
        events, cells_of, keys = self._acceptable(batch, result)
        numbers, hour = self._cells.numbers, -1
        for event, cell, key in zip(events, cells_of, keys, strict=True):
            number = numbers.get(cell) or self._cells.number(self._db, cell)
            kind = event.kind
            if kind == Kind.BOUNCED:
                self._bounces.setdefault(key, []).append((index, number, event))
                continue
            second = int(event.at)
            if second // HOUR != hour:
                hour = second // HOUR
                group = self._new.setdefault(hour, {})
            measure = _OF_KIND[kind]
            if kind == Kind.DEFERRED:
                self._add_pair(key[DIGEST_BYTES:], second, number, group)
                key = key[:DIGEST_BYTES]  # noqa: PLW2901 - the event's own part
            # The mark, as in _mark: a call for each event would show.
            record = key + (number << 16 | second % HOUR << 4).to_bytes(5, "big")
            entry = (record, second, number, measure, index)
            place = (second // MINUTE << _MINUTE_SHIFT) | (number << _CELL_SHIFT) | measure
            tally[place] = tally.get(place, 0) + 1
            known = group.get(key)
            group[key] = entry if known is None else self._earlier(known, entry)

    def _first_use(self, batch: Batch) -> bool:
        """Whether the batch's token is new, or came with this very body before."""
        token = self._identifier.digest(f"token\0{batch.scope}\0{batch.token}")
        body = self._identifier.digest(f"body\0{batch.body_digest.hex()}")
        row = self._db.execute("SELECT body FROM token WHERE hash = ?", (token,)).fetchone()
        if row is None:
            self._db.execute("INSERT INTO token VALUES (?, ?, ?)", (token, body, int(self._now)))
        return row is None or bool(row[0] == body)

    def _acceptable(self, batch: Batch, result: Applied) -> tuple[Sequence[Event], Sequence[Cell], Sequence[bytes]]:
        """The events whose time is believed, with their cells and identities; the others are refused."""
        oldest, newest = self._now - MAX_AGE, self._now + MAX_AHEAD
        events = batch.events
        identities = batch.identities or self._identifier.of(batch.scope, events)
        believed = [oldest <= event.at <= newest for event in events]
        if all(believed):
            return events, batch.cells, identities
        for event, good in zip(events, believed, strict=True):
            if not good:
                reason = "in_future" if event.at > newest else "too_old"
                result.refused[reason] = result.refused.get(reason, 0) + 1
        return (
            list(compress(events, believed)),
            list(compress(batch.cells, believed)),
            list(compress(identities, believed)),
        )

    def _add_pair(self, key: bytes, second: int, cell: int, group: dict[bytes, _Entry]) -> None:
        entry = (key + _mark(second, cell), second, cell, _PAIRS, -1)
        self._count(second, cell, _PAIRS, 1)
        known = group.get(key)
        group[key] = entry if known is None else self._earlier(known, entry)

    def _count(self, second: int, cell: int, measure: int, by: int) -> None:
        place = (second // MINUTE << _MINUTE_SHIFT) | (cell << _CELL_SHIFT) | measure
        self._deltas[place] = self._deltas.get(place, 0) + by

    def _discard(self, entry: _Entry) -> None:
        """Take back what an entry was counted for when it turned out to be a repeat."""
        _, second, cell, measure, index = entry
        if index < 0:
            self._count(second, cell, measure, -1)
            return
        place = (second // MINUTE << _MINUTE_SHIFT) | (cell << _CELL_SHIFT) | measure
        self._tallies[index][place] -= 1
        repeats = self._results[index].duplicates
        reason = "same_event" if _SHOWN[measure][0] in REPEATABLE else "same_outcome"
        repeats[reason] = repeats.get(reason, 0) + 1

    def _earlier(self, a: _Entry, b: _Entry) -> _Entry:
        """Of two reports of one event the one that counts; the other is discarded."""
        first, other = (b, a) if self._before(b[1], b[2], a[1], a[2]) else (a, b)
        self._discard(other)
        return first

    def _before(self, second: int, cell: int, other_second: int, other_cell: int) -> bool:
        """Whether a report is the one that counts. At equal times the cell's name decides, not who came first."""
        if second != other_second or cell == other_cell:
            return second < other_second
        names = self._cells.names
        return precedence(names[cell]) < precedence(names[other_cell])

    def finish(self) -> list[Applied]:
        for hour in sorted(self._new):
            if hour not in self._hours:
                self._db.execute("INSERT OR IGNORE INTO hour VALUES (?)", (hour,))
                self._hours.add(hour)
            # In the order of the index: neighbours share its pages.
            entries = sorted(self._new[hour].values())
            for start in range(0, len(entries), _CHUNK):
                self._settle(hour, entries[start : start + _CHUNK])
        hashes = list(self._bounces)
        for start in range(0, len(hashes), _CHUNK):
            self._settle_bounces(hashes[start : start + _CHUNK])
        self._write_rollups()
        self._write_sources()
        for result, tally in zip(self._results, self._tallies, strict=True):
            for place, count in tally.items():
                if count:
                    cell = self._cells.public(place >> _CELL_SHIFT & _CELL_MASK)
                    counted = Counted(cell, *_SHOWN[place & _MEASURE_MASK])
                    result.counted[counted] = result.counted.get(counted, 0) + count
        return self._results

    def _settle(self, hour: int, entries: list[_Entry]) -> None:
        """Insert the entries that are new. A report of something known may name a time in a neighbouring hour."""
        near = [h for h in (hour - 1, hour, hour + 1) if h in self._hours]
        probe = {"count": len(entries), "records": _records(entries), **{f"hour{n}": h for n, h in enumerate(near)}}
        known, bounced = self._db.execute(_KNOWN[len(near)], probe).fetchone()
        repeats: dict[int, tuple[int, int]] = {}
        for item in known.split(";") if known else ():
            n, found_hour, mark = item.split(" ")
            repeats[int(n)] = min((int(found_hour), int(mark, 16)), repeats.get(int(n), (MAX_AGE, 0)))
        for n, found in repeats.items():
            self._repeat_of(hour, entries[n], *found)
        # Deliveries that arrive after their bounce do not count.
        revoked = set()
        for item in bounced.split(";") if bounced else ():
            n, first_at, last_at = map(int, item.split(" "))
            if n not in repeats and Bounce(0, 0, 0, first_at, last_at, 0).revokes(hour):
                revoked.add(n)
                self._count(entries[n][1], entries[n][2], _DELIVERED, -1)
        for flags, fresh in (
            (
                0,
                [e for n, e in enumerate(entries) if n not in repeats and n not in revoked]
                if repeats or revoked
                else entries,
            ),
            (_REVOKED, [entries[n] for n in sorted(revoked)]),
        ):
            if fresh:
                self._db.execute(
                    "INSERT " + _PUT, {"hour": hour, "count": len(fresh), "records": _records(fresh, flags)}
                )

    def _repeat_of(self, hour: int, entry: _Entry, found_hour: int, number: int) -> None:
        """A report of something known. It moves the count if it names an earlier time, and is a duplicate anyway."""
        record, second, cell, measure, _ = entry
        key = record[:DIGEST_BYTES]
        self._discard(entry)
        old_cell, old_second, flags = number >> 16, found_hour * HOUR + (number >> 4 & 0xFFF), number & 0xF
        if not self._before(second, cell, old_second, old_cell):
            return
        self._db.execute("DELETE FROM identity WHERE hour = ? AND hash = ?", (found_hour, key))
        self._db.execute("INSERT OR REPLACE INTO identity VALUES (?, ?, ?)", (hour, key, _mark(second, cell, flags)))
        if not flags & _REVOKED:
            self._count(old_second, old_cell, measure, -1)
            self._count(second, cell, measure, 1)

    def _settle_bounces(self, hashes: list[bytes]) -> None:
        blob = b"".join(hashes)
        stored = self._db.execute(_BOUNCES, {"count": len(hashes), "hashes": blob}).fetchone()[0]
        known = {row[0]: Bounce(*row[1:]) for row in msgspec.json.decode(stored)}
        rows: list[tuple[int, ...]] = []
        ranges: list[tuple[int, int, int]] = []
        recent: list[tuple[object, ...]] = []
        for n, key in enumerate(hashes):
            before = known.get(n)
            after = before
            for index, cell, event in self._bounces[key]:
                rank = RANK[event.bounce_class or BounceClass.UNDETERMINED]
                one = report(int(event.at * 1000), rank, cell)
                if after is not None and after.seen >> rank & 1:
                    repeats = self._results[index].duplicates
                    repeats["same_outcome"] = repeats.get("same_outcome", 0) + 1
                else:
                    self._count_bounce(index, cell, rank, event, recent)
                after = one if after is None else merge(after, one, self._cells.names)
            if after is None or after == before:
                continue
            if before is not None:
                self._count(before.at // 1000, before.cell, _OF_RANK[before.rank], -1)
            self._count(after.at // 1000, after.cell, _OF_RANK[after.rank], 1)
            rows.append((n, *after))
            if before is None or before.hours != after.hours:
                ranges.append((n, *after.hours))
        if ranges:
            self._revoke_deliveries(hashes, blob, ranges)
        if rows:
            self._db.execute(_PUT_BOUNCES, {"hashes": blob, "rows": msgspec.json.encode(rows).decode()})
        if recent:
            self._db.executemany(
                "INSERT INTO recent_bounce (at, source, cell, rank, smtp_code, enhanced_code, reason) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                recent[-_RECENT_A_COMMIT:],
            )

    def _count_bounce(self, index: int, cell: int, rank: int, event: Event, recent: list[tuple[object, ...]]) -> None:
        # A bounce's place in the roll-ups follows the winner, so it is counted there, not in the tally.
        result = self._results[index]
        second, measure = int(event.at), _OF_RANK[rank]
        place = (second // MINUTE << _MINUTE_SHIFT) | (cell << _CELL_SHIFT) | measure
        tally = self._tallies[index]
        tally[place] = tally.get(place, 0) + 1
        self._count(second, cell, measure, -1)
        if event.asynchronous and not event.message_id:
            result.unmatched_async_bounces += 1
        source = self._batches[index].source
        recent.append((event.at, source, cell, rank, event.smtp_code, event.enhanced_code, event.reason))

    def _revoke_deliveries(self, hashes: list[bytes], blob: bytes, ranges: list[tuple[int, int, int]]) -> None:
        """Deliveries that were counted before their bounce arrived are taken out of their buckets."""
        arguments = {"ranges": msgspec.json.encode(ranges).decode(), "hashes": blob}
        found = self._db.execute(_DELIVERIES, arguments).fetchone()[0]
        revoked: dict[int, list[_Entry]] = {}
        for item in found.split(";") if found else ():
            n, hour, mark = item.split(" ")
            number = int(mark, 16)
            if number & _REVOKED:
                continue
            second, cell = int(hour) * HOUR + (number >> 4 & 0xFFF), number >> 16
            self._count(second, cell, _DELIVERED, -1)
            revoked.setdefault(int(hour), []).append((hashes[int(n)], second, cell, _DELIVERED, -1))
        for hour_number, entries in revoked.items():
            records = _records(entries, _REVOKED)
            self._db.execute("REPLACE " + _PUT, {"hour": hour_number, "count": len(entries), "records": records})

    def _write_rollups(self) -> None:
        totals = dict(self._deltas)
        for tally in self._tallies:
            for place, count in tally.items():
                totals[place] = totals.get(place, 0) + count
        sums: dict[tuple[int, int, int], int] = {}
        moved = self._cells.moved
        for place, count in totals.items():
            if count:
                minute, rest = (place >> _MINUTE_SHIFT) * MINUTE, place & 0xFFFFFFFF
                # What counted under a name of before counts there no more.
                cell = rest >> _CELL_SHIFT
                rest = moved.get(cell, cell) << _CELL_SHIFT | rest & _MEASURE_MASK
                for width in ROLLUP_AGE:
                    where = (width, minute - minute % width, rest)
                    sums[where] = sums.get(where, 0) + count
        # A bucket past its age is gone already; taking a moved count out of it would leave a negative one.
        rows = [
            (width, bucket, rest >> _CELL_SHIFT, rest & _MEASURE_MASK, count)
            for (width, bucket, rest), count in sums.items()
            if count and bucket >= self._now - ROLLUP_AGE[width]
        ]
        if rows:
            self._db.execute(_ADD, (msgspec.json.encode(rows).decode(),))

    def _write_sources(self) -> None:
        newest: dict[str, tuple[float, float]] = {}
        limit = self._now + MAX_AHEAD
        for batch in self._batches:
            received, event_at = newest.get(batch.source, (0.0, 0.0))
            times = [event.at for event in batch.events if event.at <= limit]
            newest[batch.source] = (max(received, batch.received_at), max([event_at, *times]))
        self._db.executemany(
            "INSERT INTO source VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET "
            "received_at = max(received_at, excluded.received_at), event_at = max(event_at, excluded.event_at)",
            [(name, *times) for name, times in newest.items()],
        )


def _mark(second: int, cell: int, flags: int = 0) -> bytes:
    return (cell << 16 | second % HOUR << 4 | flags).to_bytes(5, "big")


def _records(entries: Iterable[_Entry], flags: int = 0) -> bytes:
    if flags:
        return b"".join([entry[0][:DIGEST_BYTES] + _mark(entry[1], entry[2], flags) for entry in entries])
    return b"".join([entry[0] for entry in entries])
