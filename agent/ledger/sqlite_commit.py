"""One transaction's worth of events in the embedded store: what is new, what is known, what moves.

Each statement works over a whole blob of fixed-size records: Python's driver gives up and retakes the interpreter
lock at every row it steps over, so a statement a row would make the writer and the event loop wait for each other.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping

import msgspec

from agent.events import BounceClass, Event, Kind
from agent.ledger.base import DAY, HOUR, MAX_AGE, MAX_AHEAD, MEASURES, MINUTE, ROLLUP_AGE, Applied, Batch, Cell, Counted
from agent.ledger.identity import DIGEST_BYTES, REPEATABLE, Identifier
from agent.ledger.outcomes import BY_RANK, RANK, Bounce, merge, report

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
ROLLUPS = {MINUTE: "rollup_minute", HOUR: "rollup_hour", DAY: "rollup_day"}

# A count's place as one integer: minute, cell, measure.
_MINUTE_SHIFT, _CELL_SHIFT, _MEASURE_MASK, _CELL_MASK = 32, 8, 0xFF, 0xFFFFFF

_PROBE = f"""
SELECT group_concat(s.n || ' ' || hex(i.mark), ';')
FROM seq s CROSS JOIN identity i
WHERE s.n < :count AND i.hour = :hour AND i.hash = substr(:records, s.n * {_RECORD} + 1, {DIGEST_BYTES})
"""
_PUT = f"""
INTO identity (hour, hash, mark)
SELECT :hour, substr(:records, n * {_RECORD} + 1, {DIGEST_BYTES}),
       substr(:records, n * {_RECORD} + {DIGEST_BYTES + 1}, 5)
FROM seq WHERE n < :count
"""
_REVOCATIONS = f"""
SELECT group_concat(s.n || ' ' || b.first_at || ' ' || b.last_at, ';')
FROM seq s CROSS JOIN bounce b
WHERE s.n < :count AND b.hash = substr(:records, s.n * {_RECORD} + 1, {DIGEST_BYTES})
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

# hash, second (Unix), cell number, measure, index of the batch (-1: a deferred pair, which is no event of its own)
_Entry = tuple[bytes, int, int, int, int]


class Commit:
    """One transaction's worth of events, counted first as if all were new, then corrected by what is known."""

    def __init__(
        self,
        db: sqlite3.Connection,
        new_cell: Callable[[Cell], int],
        cells: Mapping[Cell, int],
        cell_by_id: Mapping[int, Cell],
        hours: set[int],
        identifier: Identifier,
        now: float,
    ) -> None:
        self._db = db
        self._new_cell = new_cell
        self._cells = cells
        self._cell_by_id = cell_by_id
        self._hours = hours
        self._identifier = identifier
        self._now = now
        self._results: list[Applied] = []
        self._tallies: list[dict[int, int]] = []  # per batch: events counted by place
        self._once: dict[int, dict[bytes, _Entry]] = {}  # by hour, then hash
        self._repeat: dict[int, dict[bytes, _Entry]] = {}
        self._bounces: dict[bytes, list[tuple[int, int, Event]]] = {}  # hash to (batch, cell, event)
        self._deltas: dict[int, int] = {}  # changes of the roll-ups that are no new events
        self._batches: list[Batch] = []

    def add(self, batch: Batch) -> None:
        index = len(self._results)
        result = Applied()
        tally: dict[int, int] = {}
        self._results.append(result)
        self._tallies.append(tally)
        self._batches.append(batch)
        oldest, newest = self._now - MAX_AGE, self._now + MAX_AHEAD
        cells, scope, hour = self._cells, batch.scope, -1
        digests = self._identifier.of(scope, batch.events)
        for event, cell, key in zip(batch.events, batch.cells, digests, strict=True):
            at = event.at
            if not oldest <= at <= newest:
                reason = "in_future" if at > newest else "too_old"
                result.refused[reason] = result.refused.get(reason, 0) + 1
                continue
            number = cells.get(cell) or self._new_cell(cell)
            kind = event.kind
            if kind == Kind.BOUNCED:
                self._bounces.setdefault(key, []).append((index, number, event))
                continue
            second = int(at)
            if second // HOUR != hour:
                hour = second // HOUR
                once, repeat = self._once.setdefault(hour, {}), self._repeat.setdefault(hour, {})
            measure = _OF_KIND[kind]
            group = repeat if kind in REPEATABLE else once
            entry = (key, second, number, measure, index)
            place = (second // MINUTE << _MINUTE_SHIFT) | (number << _CELL_SHIFT) | measure
            tally[place] = tally.get(place, 0) + 1
            known = group.get(key)
            group[key] = entry if known is None else self._earlier(known, entry)
            if kind == Kind.DEFERRED:
                self._add_pair(self._identifier.deferred_pair(scope, event), second, number, repeat)

    def _add_pair(self, key: bytes, second: int, cell: int, group: dict[bytes, _Entry]) -> None:
        entry = (key, second, cell, _PAIRS, -1)
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
        return self._cell_by_id[cell] < self._cell_by_id[other_cell]

    def finish(self) -> list[Applied]:
        for hour in sorted(set(self._once) - self._hours):
            self._db.execute("INSERT OR IGNORE INTO hour VALUES (?)", (hour,))
            self._hours.add(hour)
        for groups, reach in ((self._once, 1), (self._repeat, 0)):
            for hour in sorted(groups):
                # In the order of the index: neighbours share its pages.
                entries = sorted(groups[hour].values())
                for start in range(0, len(entries), _CHUNK):
                    self._settle(hour, entries[start : start + _CHUNK], reach)
        hashes = list(self._bounces)
        for start in range(0, len(hashes), _CHUNK):
            self._settle_bounces(hashes[start : start + _CHUNK])
        self._write_rollups()
        self._write_sources()
        for result, tally in zip(self._results, self._tallies, strict=True):
            for place, count in tally.items():
                if count:
                    cell = self._cell_by_id[place >> _CELL_SHIFT & _CELL_MASK]
                    counted = Counted(cell, *_SHOWN[place & _MEASURE_MASK])
                    result.counted[counted] = result.counted.get(counted, 0) + count
        return self._results

    def _settle(self, hour: int, entries: list[_Entry], reach: int) -> None:
        """Insert the entries that are new; ``reach`` is how many hours to either side a report may differ."""
        for near in range(hour - reach, hour + reach + 1):
            if near != hour and near in self._hours:
                entries = self._without_known(hour, near, entries)
        if not entries:
            return
        db, records = self._db, _records(entries)
        db.execute("SAVEPOINT fresh")
        new = db.execute("INSERT OR IGNORE " + _PUT, {"hour": hour, "count": len(entries), "records": records})
        if new.rowcount < len(entries):
            # Some are known. Which, only a probe tells, and it must not see what was just inserted.
            db.execute("ROLLBACK TO fresh")
            entries = self._without_known(hour, hour, entries)
            records = _records(entries)
            db.execute("INSERT " + _PUT, {"hour": hour, "count": len(entries), "records": records})
        db.execute("RELEASE fresh")
        if reach:
            self._revoke_arrivals(hour, entries, records)

    def _without_known(self, hour: int, where: int, entries: list[_Entry]) -> list[_Entry]:
        """The entries of ``hour`` that are not known in the hour ``where``; the others are repeats."""
        probe = {"count": len(entries), "records": _records(entries), "hour": where}
        known = self._db.execute(_PROBE, probe).fetchone()[0]
        if not known:
            return entries
        repeats = set()
        for item in known.split(";"):
            n, mark = item.split(" ")
            self._repeat_of(hour, entries[int(n)], where, int(mark, 16))
            repeats.add(int(n))
        return [entry for n, entry in enumerate(entries) if n not in repeats]

    def _revoke_arrivals(self, hour: int, entries: list[_Entry], records: bytes) -> None:
        """Deliveries that arrive after their bounce do not count."""
        found = self._db.execute(_REVOCATIONS, {"count": len(entries), "records": records}).fetchone()[0]
        revoked = []
        for item in found.split(";") if found else ():
            n, first_at, last_at = map(int, item.split(" "))
            if Bounce(0, 0, 0, first_at, last_at, 0).revokes(hour):
                revoked.append(entries[n])
        if revoked:
            for _, second, cell, _, _ in revoked:
                self._count(second, cell, _DELIVERED, -1)
            self._db.execute(
                "REPLACE " + _PUT, {"hour": hour, "count": len(revoked), "records": _records(revoked, _REVOKED)}
            )

    def _repeat_of(self, hour: int, entry: _Entry, found_hour: int, number: int) -> None:
        """A report of something known. It moves the count if it names an earlier time, and is a duplicate anyway."""
        key, second, cell, measure, _ = entry
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
                after = one if after is None else merge(after, one, self._cell_by_id)
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
        for width, table in ROLLUPS.items():
            oldest = self._now - ROLLUP_AGE[width]
            sums: dict[tuple[int, int], int] = {}
            for place, count in totals.items():
                if count:
                    bucket = (place >> _MINUTE_SHIFT) * MINUTE // width * width
                    where = (bucket, place & 0xFFFFFFFF)
                    sums[where] = sums.get(where, 0) + count
            # A bucket past its age is gone already; taking a moved count out of it would leave a negative one.
            rows = [
                (bucket, place >> _CELL_SHIFT, place & _MEASURE_MASK, count)
                for (bucket, place), count in sums.items()
                if count and bucket >= oldest
            ]
            if rows:
                self._db.execute(
                    f"INSERT INTO {table} (bucket, cell, measure, count) "
                    "SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), "
                    "json_extract(value, '$[3]') FROM json_each(?) WHERE true "
                    "ON CONFLICT (bucket, cell, measure) DO UPDATE SET count = count + excluded.count",
                    (msgspec.json.encode(rows).decode(),),
                )

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
    return b"".join(
        [key + (cell << 16 | second % HOUR << 4 | flags).to_bytes(5, "big") for key, second, cell, _, _ in entries]
    )
