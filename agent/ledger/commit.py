"""One transaction's worth of events: what is new, what is known, what moves. Every store counts by this.

``count`` is a generator: it yields what it wants to know of the store or written to it, and is sent the answers, all
within one transaction. How they are got is the store's business, and all that is.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from itertools import compress
from typing import Any

from agent.clock import HOUR, MINUTE
from agent.events import BounceClass, Event, Kind
from agent.ledger.base import MAX_AGE, MAX_AHEAD, MEASURES, ROLLUP_AGE, Applied, Batch, Cell, Counted
from agent.ledger.cells import Cells
from agent.ledger.identity import DIGEST_BYTES, REPEATABLE, Identifier
from agent.ledger.outcomes import BY_RANK, RANK, Bounce, merge, precedence, report
from agent.ledger.questions import (
    Bounces,
    Deliveries,
    Drop,
    Entry,
    Known,
    Put,
    PutBounces,
    Question,
    Span,
    Tokens,
    Write,
)

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

Steps = Generator[Question, Any, list[Applied]]


def count(batches: Sequence[Batch], cells: Cells, identifier: Identifier, now: float) -> Steps:
    """Count the batches, first as if all were new, then corrected by what is known; one result a batch, in order."""
    return _Commit(cells, identifier, now).steps(batches)


class _Commit:
    def __init__(self, cells: Cells, identifier: Identifier, now: float) -> None:
        self._cells = cells
        self._identifier = identifier
        self._now = now
        self._results: list[Applied] = []
        self._tallies: list[dict[int, int]] = []  # per batch: events counted by place
        self._new: dict[int, dict[bytes, Entry]] = {}  # by hour, then hash
        self._bounces: dict[bytes, list[tuple[int, int, Event]]] = {}  # hash to (batch, cell, event)
        self._deltas: dict[int, int] = {}  # changes of the roll-ups that are no new events
        self._recent: list[tuple[float, str, int, int, int | None, str, str]] = []
        self._given: Sequence[Batch] = ()
        self._batches: list[Batch] = []  # without the forged ones

    def steps(self, batches: Sequence[Batch]) -> Steps:
        self._given = batches
        tokens, forged = yield from self._first_uses(batches)
        for index, batch in enumerate(batches):
            self._add(batch, index in forged)
        for entries, spans in self._rounds():
            yield from self._settle(entries, spans)
        if self._bounces:
            yield from self._settle_bounces(list(self._bounces))
        yield Write(self._counts(), self._sources(), self._recent[-_RECENT_A_COMMIT:], tokens)
        for result, tally in zip(self._results, self._tallies, strict=True):
            for place, number in tally.items():
                if number:
                    cell = self._cells.public(place >> _CELL_SHIFT & _CELL_MASK)
                    counted = Counted(cell, *_SHOWN[place & _MEASURE_MASK])
                    result.counted[counted] = result.counted.get(counted, 0) + number
        return self._results

    def _first_uses(
        self, batches: Sequence[Batch]
    ) -> Generator[Question, Any, tuple[list[tuple[bytes, bytes]], set[int]]]:
        """Tokens that are new, and which batches came with one that was seen with another body."""
        digest = self._identifier.digest
        given = [
            (n, digest(f"token\0{batch.scope}\0{batch.token}"), digest(f"body\0{batch.body_digest.hex()}"))
            for n, batch in enumerate(batches)
            if batch.token
        ]
        if not given:
            return [], set()
        known: dict[bytes, bytes] = dict((yield Tokens(sorted({token for _, token, _ in given}))))
        new, forged = [], set()
        for n, token, body in given:
            if token not in known:
                known[token] = body
                new.append((token, body))
            elif known[token] != body:
                forged.add(n)
        return new, forged

    def _add(self, batch: Batch, forged: bool) -> None:
        index = len(self._results)
        result = Applied(forged=forged)
        tally: dict[int, int] = {}
        self._results.append(result)
        self._tallies.append(tally)
        if forged:
            return
        self._batches.append(batch)
        events, cells_of, keys = self._acceptable(batch, result)
        numbers, hour = self._cells.numbers, -1
        for event, cell, key in zip(events, cells_of, keys, strict=True):
            number = numbers.get(cell) or self._cells.number(cell)
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

    def _add_pair(self, key: bytes, second: int, cell: int, group: dict[bytes, Entry]) -> None:
        entry = (key + _mark(second, cell), second, cell, _PAIRS, -1)
        self._count(second, cell, _PAIRS, 1)
        known = group.get(key)
        group[key] = entry if known is None else self._earlier(known, entry)

    def _count(self, second: int, cell: int, measure: int, by: int) -> None:
        place = (second // MINUTE << _MINUTE_SHIFT) | (cell << _CELL_SHIFT) | measure
        self._deltas[place] = self._deltas.get(place, 0) + by

    def _discard(self, entry: Entry) -> None:
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

    def _earlier(self, a: Entry, b: Entry) -> Entry:
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

    def _rounds(self) -> Iterator[tuple[list[Entry], list[Span]]]:
        """The new entries in the order of the index: neighbours share its pages. An identity reported in several
        hours is in as many rounds, in their order, so that each finds what the one before has written."""
        left = self._new
        while left:
            entries: list[Entry] = []
            spans: list[Span] = []
            seen: set[bytes] = set()
            later: dict[int, dict[bytes, Entry]] = {}
            for hour in sorted(left):
                group = left[hour]
                if len(left) > 1:
                    again = seen.intersection(group)
                    if again:
                        later[hour] = {key: group.pop(key) for key in again}
                    seen.update(group)
                start = len(entries)
                entries += sorted(group.values())
                if len(entries) > start:
                    spans.append((hour, start, len(entries)))
            yield entries, spans
            left = later

    def _settle(self, entries: list[Entry], spans: list[Span]) -> Generator[Question, Any, None]:
        """Write the entries that are new. A report of something known may name a time in a neighbouring hour."""
        known, bounced = yield Known(entries, spans)
        repeats: dict[int, tuple[int, int]] = {}  # hour and mark
        for n, hour, mark in known:
            if n not in repeats or (hour, mark) < repeats[n]:
                repeats[n] = hour, mark
        moved_from: list[tuple[int, bytes]] = []
        moved_to: list[Entry] = []
        for n, found in repeats.items():
            moved = self._repeat_of(entries[n], *found)
            if moved is not None:
                moved_from.append((found[0], entries[n][0][:DIGEST_BYTES]))
                moved_to.append(moved)
        if moved_to:
            yield Drop(moved_from)
            yield _put(moved_to, replace=True)
        # Deliveries that arrive after their bounce do not count.
        revoked = set()
        for n, first_at, last_at in bounced:
            second = entries[n][1]
            if n not in repeats and Bounce(0, 0, 0, first_at, last_at, 0).revokes(second // HOUR):
                revoked.add(n)
                self._count(second, entries[n][2], _DELIVERED, -1)
        if not repeats and not revoked:
            yield Put(entries, spans)
            return
        fresh = [
            entry if n not in revoked else _marked(entry, _REVOKED)
            for n, entry in enumerate(entries)
            if n not in repeats
        ]
        if fresh:
            yield _put(fresh)

    def _repeat_of(self, entry: Entry, found_hour: int, number: int) -> Entry | None:
        """A report of something known: a duplicate in any case. If it names an earlier time the count moves there;
        what is to be written for it then."""
        _, second, cell, measure, _ = entry
        self._discard(entry)
        old_cell, old_second, flags = number >> 16, found_hour * HOUR + (number >> 4 & 0xFFF), number & 0xF
        if not self._before(second, cell, old_second, old_cell):
            return None
        if not flags & _REVOKED:
            self._count(old_second, old_cell, measure, -1)
            self._count(second, cell, measure, 1)
        return _marked(entry, flags)

    def _settle_bounces(self, hashes: list[bytes]) -> Generator[Question, Any, None]:
        known: dict[int, Bounce] = yield Bounces(hashes)
        bounces: list[tuple[int, Bounce]] = []
        ranges: list[tuple[int, int, int]] = []
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
                    self._count_bounce(index, cell, rank, event)
                after = one if after is None else merge(after, one, self._cells.names)
            if after is None or after == before:
                continue
            if before is not None:
                self._count(before.at // 1000, before.cell, _OF_RANK[before.rank], -1)
            self._count(after.at // 1000, after.cell, _OF_RANK[after.rank], 1)
            bounces.append((n, after))
            if before is None or before.hours != after.hours:
                ranges.append((n, *after.hours))
        if ranges:
            found = yield Deliveries(hashes, ranges)
            revoked = self._revoke_deliveries(hashes, found)
            if revoked:
                yield _put(revoked, replace=True)
        if bounces:
            yield PutBounces(hashes, bounces)

    def _count_bounce(self, index: int, cell: int, rank: int, event: Event) -> None:
        # A bounce's place in the roll-ups follows the winner, so it is counted there, not in the tally.
        result = self._results[index]
        second, measure = int(event.at), _OF_RANK[rank]
        place = (second // MINUTE << _MINUTE_SHIFT) | (cell << _CELL_SHIFT) | measure
        tally = self._tallies[index]
        tally[place] = tally.get(place, 0) + 1
        self._count(second, cell, measure, -1)
        if event.asynchronous and not event.message_id:
            result.unmatched_async_bounces += 1
        source = self._given[index].source
        self._recent.append((event.at, source, cell, rank, event.smtp_code, event.enhanced_code, event.reason))

    def _revoke_deliveries(self, hashes: list[bytes], found: list[tuple[int, int, int]]) -> list[Entry]:
        """Deliveries that were counted before their bounce arrived are taken out of their buckets."""
        revoked = []
        for n, hour, mark in found:
            if mark & _REVOKED:
                continue
            second, cell = hour * HOUR + (mark >> 4 & 0xFFF), mark >> 16
            self._count(second, cell, _DELIVERED, -1)
            revoked.append((hashes[n] + _mark(second, cell, _REVOKED), second, cell, _DELIVERED, -1))
        return revoked

    def _counts(self) -> list[tuple[int, int, int, int, int]]:
        totals = dict(self._deltas)
        for tally in self._tallies:
            for place, number in tally.items():
                totals[place] = totals.get(place, 0) + number
        sums: dict[tuple[int, int, int], int] = {}
        moved = self._cells.moved
        for place, number in totals.items():
            if number:
                minute, rest = (place >> _MINUTE_SHIFT) * MINUTE, place & 0xFFFFFFFF
                # What counted under a name of before counts there no more.
                cell = rest >> _CELL_SHIFT
                rest = moved.get(cell, cell) << _CELL_SHIFT | rest & _MEASURE_MASK
                for width in ROLLUP_AGE:
                    where = (width, minute - minute % width, rest)
                    sums[where] = sums.get(where, 0) + number
        # A bucket past its age is gone already; taking a moved count out of it would leave a negative one.
        return [
            (width, bucket, rest >> _CELL_SHIFT, rest & _MEASURE_MASK, sums[width, bucket, rest])
            for width, bucket, rest in sorted(sums)
            if sums[width, bucket, rest] and bucket >= self._now - ROLLUP_AGE[width]
        ]

    def _sources(self) -> list[tuple[str, float, float]]:
        newest: dict[str, tuple[float, float]] = {}
        limit = self._now + MAX_AHEAD
        for batch in self._batches:
            received, event_at = newest.get(batch.source, (0.0, 0.0))
            times = [event.at for event in batch.events if event.at <= limit]
            newest[batch.source] = (max(received, batch.received_at), max([event_at, *times]))
        return [(name, *times) for name, times in sorted(newest.items())]


def _mark(second: int, cell: int, flags: int = 0) -> bytes:
    return (cell << 16 | second % HOUR << 4 | flags).to_bytes(5, "big")


def _marked(entry: Entry, flags: int) -> Entry:
    record, second, cell, measure, index = entry
    return record[:DIGEST_BYTES] + _mark(second, cell, flags), second, cell, measure, index


def _put(entries: list[Entry], *, replace: bool = False) -> Put:
    """Write entries, whatever order they are in."""
    entries.sort(key=lambda entry: (entry[1] // HOUR, entry[0]))
    spans: list[Span] = []
    for n, entry in enumerate(entries):
        hour = entry[1] // HOUR
        if not spans or spans[-1][0] != hour:
            spans.append((hour, n, n))
        spans[-1] = (hour, spans[-1][1], n + 1)
    return Put(entries, spans, replace)
