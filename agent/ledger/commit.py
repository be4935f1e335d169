"""One transaction's worth of events: what is new, what is known, what moves. Every store counts by this.

``count`` is a generator: it yields what it wants to know of the store or written to it, and is sent the answers, all
within one transaction. How they are got is the store's business, and all that is.
"""

from __future__ import annotations

from array import array
from collections.abc import Generator, Sequence
from itertools import compress
from struct import Struct
from typing import Any

from agent.clock import HOUR, MINUTE
from agent.events import BounceClass, Kind
from agent.ledger.base import MAX_AGE, MAX_AHEAD, MEASURES, ROLLUP_AGE, Applied, Counted
from agent.ledger.cells import Cells
from agent.ledger.columns import KINDS, BounceReport, Columns
from agent.ledger.entries import Entries, mark_of, put
from agent.ledger.identity import DIGEST_BYTES, REPEATABLE, Identifier
from agent.ledger.outcomes import BY_RANK, RANK, Bounce, merge, precedence, report
from agent.ledger.questions import (
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

_REVOKED = 1
_RECENT_A_COMMIT = 50

_MEASURE = {name: i for i, name in enumerate(MEASURES)}
_DELIVERED = _MEASURE["delivered"]
_PAIRS = _MEASURE["deferred_pairs"]
_OF_RANK = tuple(_MEASURE[bounce_class.value] for bounce_class in BY_RANK)
# From the code of a kind to its measure; a bounce has none before it is known which of its reports wins.
_OF_CODE = bytes(_MEASURE.get(kind.value, 0) for kind in KINDS).ljust(256, b"\0")
# How a measure's events are shown: the kind and, of a bounce, its class.
_CLASSES = {bounce_class.value: bounce_class for bounce_class in BounceClass}
_SHOWN: tuple[tuple[Kind, BounceClass | None], ...] = tuple(
    (Kind.BOUNCED, _CLASSES[m]) if m in _CLASSES else (Kind.DEFERRED if m == "deferred_pairs" else Kind(m), None)
    for m in MEASURES
)
_digests = Struct(f"{DIGEST_BYTES}s").iter_unpack

# A count's place as one integer: minute, cell, measure.
_MINUTE_SHIFT, _CELL_SHIFT, _MEASURE_MASK, _CELL_MASK = 32, 8, 0xFF, 0xFFFFFF

Steps = Generator[Question, Any, list[Applied]]


def count(batches: Sequence[Columns], cells: Cells, identifier: Identifier, now: float) -> Steps:
    """Count the batches, first as if all were new, then corrected by what is known; one result a batch, in order."""
    return _Commit(cells, identifier, now).steps(batches)


class _Commit:
    def __init__(self, cells: Cells, identifier: Identifier, now: float) -> None:
        self._cells = cells
        self._identifier = identifier
        self._now = now
        self._results: list[Applied] = []
        self._tallies: list[dict[int, int]] = []  # per batch: events counted by place
        self._entries = Entries()
        # By hash: batch, cell, time, what the bounce says.
        self._bounces: dict[bytes, list[tuple[int, int, float, BounceReport]]] = {}
        self._deltas: dict[int, int] = {}  # changes of the roll-ups that are no new events
        self._recent: list[tuple[float, str, int, int, int | None, str, str]] = []
        self._given: Sequence[Columns] = ()
        self._heard: dict[str, tuple[float, float]] = {}  # by source: newest request, and event

    def steps(self, batches: Sequence[Columns]) -> Steps:
        self._given = batches
        tokens, forged = yield from self._first_uses(batches)
        for index, batch in enumerate(batches):
            self._add(batch, index in forged)
        for positions in self._entries.rounds(self._earlier):
            yield from self._settle(positions)
        if self._bounces:
            yield from self._settle_bounces(list(self._bounces))
        sources = [(name, *times) for name, times in sorted(self._heard.items())]
        yield Write(self._counts(), sources, self._recent[-_RECENT_A_COMMIT:], tokens)
        for result, tally in zip(self._results, self._tallies, strict=True):
            for place, number in tally.items():
                if number:
                    cell = self._cells.public(place >> _CELL_SHIFT & _CELL_MASK)
                    counted = Counted(cell, *_SHOWN[place & _MEASURE_MASK])
                    result.counted[counted] = result.counted.get(counted, 0) + number
        return self._results

    def _first_uses(
        self, batches: Sequence[Columns]
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

    def _add(self, batch: Columns, forged: bool) -> None:
        index = len(self._results)
        result = Applied(forged=forged)
        self._results.append(result)
        self._tallies.append({})
        self._entries.begin_batch()
        if forged:
            return
        # Hot: whole columns, so that nothing is called for each event.
        times, places = array("d", batch.times), array("I", batch.places)
        taken = self._believed(times, result)
        self._hear(batch, times)
        whole = all(taken)
        used = range(len(batch.cells)) if whole else set(compress(places, taken))
        number_of = [self._cells.number(cell) if n in used else 0 for n, cell in enumerate(batch.cells)]
        keys = [key for (key,) in _digests(batch.identities)]
        for bounce in batch.bounces:
            n = bounce.position
            if taken[n]:
                taken[n] = False
                one = (index, number_of[places[n]], times[n], bounce)
                self._bounces.setdefault(keys[n], []).append(one)
        measures = batch.kinds.translate(_OF_CODE)
        if whole and not batch.bounces:
            seconds, numbers = list(map(int, times)), [number_of[place] for place in places]
        else:
            seconds = list(map(int, compress(times, taken)))
            numbers = [number_of[place] for place in compress(places, taken)]
            keys, measures = list(compress(keys, taken)), bytes(compress(measures, taken))
        tally = self._tallies[index]
        for second, number, measure in zip(seconds, numbers, measures, strict=True):
            place = (second // MINUTE << _MINUTE_SHIFT) | (number << _CELL_SHIFT) | measure
            tally[place] = tally.get(place, 0) + 1
        self._entries.add(keys, seconds, numbers, measures)
        for n, pair in batch.pairs.items():
            if taken[n]:
                second, number = int(times[n]), number_of[places[n]]
                self._entries.add([pair], [second], [number], bytes([_PAIRS]))
                self._count(second, number, _PAIRS, 1)

    def _hear(self, batch: Columns, times: Sequence[float]) -> None:
        received, event_at = self._heard.get(batch.source, (0.0, 0.0))
        limit = self._now + MAX_AHEAD
        newest = max([at for at in times if at <= limit], default=0.0)
        self._heard[batch.source] = max(received, batch.received_at), max(event_at, newest)

    def _believed(self, times: Sequence[float], result: Applied) -> list[bool]:
        """Which times are accepted; the events of the others are refused."""
        oldest, newest = self._now - MAX_AGE, self._now + MAX_AHEAD
        believed = [oldest <= at <= newest for at in times]
        if not all(believed):
            for at, good in zip(times, believed, strict=True):
                if not good:
                    reason = "in_future" if at > newest else "too_old"
                    result.refused[reason] = result.refused.get(reason, 0) + 1
        return believed

    def _count(self, second: int, cell: int, measure: int, by: int) -> None:
        place = (second // MINUTE << _MINUTE_SHIFT) | (cell << _CELL_SHIFT) | measure
        self._deltas[place] = self._deltas.get(place, 0) + by

    def _discard(self, position: int) -> None:
        """Take back what an entry was counted for when it turned out to be a repeat."""
        entries = self._entries
        second, cell, measure = entries.seconds[position], entries.numbers[position], entries.measures[position]
        if measure == _PAIRS:  # No event of its own.
            self._count(second, cell, measure, -1)
            return
        index = entries.batch_of(position)
        self._tallies[index][(second // MINUTE << _MINUTE_SHIFT) | (cell << _CELL_SHIFT) | measure] -= 1
        repeats = self._results[index].duplicates
        reason = "same_event" if _SHOWN[measure][0] in REPEATABLE else "same_outcome"
        repeats[reason] = repeats.get(reason, 0) + 1

    def _earlier(self, a: int, b: int) -> int:
        """Of two reports of one event the one that counts; the other is discarded. By position."""
        seconds, numbers = self._entries.seconds, self._entries.numbers
        first, other = (b, a) if self._before(seconds[b], numbers[b], seconds[a], numbers[a]) else (a, b)
        self._discard(other)
        return first

    def _before(self, second: int, cell: int, other_second: int, other_cell: int) -> bool:
        """Whether a report is the one that counts. At equal times the cell's name decides, not who came first."""
        if second != other_second or cell == other_cell:
            return second < other_second
        names = self._cells.names
        return precedence(names[cell]) < precedence(names[other_cell])

    def _settle(self, positions: Sequence[int]) -> Generator[Question, Any, None]:
        """Write the entries that are new. A report of something known may name a time in a neighbouring hour."""
        if not positions:
            return
        keys, seconds, measures = self._entries.keys, self._entries.seconds, self._entries.measures
        records, spans = self._entries.records(positions)
        deliveries = sorted([keys[n] for n in positions if measures[n] == _DELIVERED])
        pairs = [(seconds[n] // HOUR, keys[n]) for n in positions if measures[n] == _PAIRS]
        known, bounced = yield Known(records, spans, deliveries, pairs)
        if not known and not bounced:
            yield Put(records, spans)
            return
        of_key = {keys[n]: n for n in positions}
        repeats: dict[bytes, tuple[int, int]] = {}  # hour and mark
        for key, hour, mark in known:
            if key not in repeats or (hour, mark) < repeats[key]:
                repeats[key] = hour, mark
        moved_from: list[tuple[int, bytes]] = []
        moved_to: list[tuple[int, bytes]] = []
        for key, (hour, mark) in repeats.items():
            position = of_key[key]
            moved = self._repeat_of(position, hour, mark)
            if moved is not None:
                moved_from.append((hour, key))
                moved_to.append((seconds[position] // HOUR, moved))
        if moved_to:
            yield Drop(moved_from)
            yield put(moved_to, replace=True)
        # Deliveries that arrive after their bounce do not count.
        revoked: dict[bytes, bytes] = {}
        for key, first_at, last_at in bounced:
            second, cell = seconds[of_key[key]], self._entries.numbers[of_key[key]]
            if key not in repeats and Bounce(0, 0, 0, first_at, last_at, 0).revokes(second // HOUR):
                revoked[key] = key + mark_of(second, cell, _REVOKED)
                self._count(second, cell, _DELIVERED, -1)
        fresh = [
            (hour, revoked.get(record[:DIGEST_BYTES], record))
            for hour, start, stop in spans
            for record in records[start:stop]
            if record[:DIGEST_BYTES] not in repeats
        ]
        if fresh:
            yield put(fresh)

    def _repeat_of(self, position: int, found_hour: int, number: int) -> bytes | None:
        """A report of something known: a duplicate in any case. If it names an earlier time the count moves there;
        what is to be written for it then."""
        self._discard(position)
        entries = self._entries
        second, cell, measure = entries.seconds[position], entries.numbers[position], entries.measures[position]
        old_cell, old_second, flags = number >> 16, found_hour * HOUR + (number >> 4 & 0xFFF), number & 0xF
        if not self._before(second, cell, old_second, old_cell):
            return None
        if not flags & _REVOKED:
            self._count(old_second, old_cell, measure, -1)
            self._count(second, cell, measure, 1)
        return entries.keys[position] + mark_of(second, cell, flags)

    def _settle_bounces(self, hashes: list[bytes]) -> Generator[Question, Any, None]:
        known: dict[int, Bounce] = yield Bounces(hashes)
        bounces: list[tuple[int, Bounce]] = []
        ranges: list[tuple[int, int, int]] = []
        for n, key in enumerate(hashes):
            before = known.get(n)
            after = before
            for index, cell, at, bounce in self._bounces[key]:
                rank = RANK[bounce.bounce_class or BounceClass.UNDETERMINED]
                one = report(int(at * 1000), rank, cell)
                if after is not None and after.seen >> rank & 1:
                    repeats = self._results[index].duplicates
                    repeats["same_outcome"] = repeats.get("same_outcome", 0) + 1
                else:
                    self._count_bounce(index, cell, rank, at, bounce)
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
                yield put(revoked, replace=True)
        if bounces:
            yield PutBounces(hashes, bounces)

    def _count_bounce(self, index: int, cell: int, rank: int, at: float, bounce: BounceReport) -> None:
        # A bounce's place in the roll-ups follows the winner, so it is counted there, not in the tally.
        result = self._results[index]
        second, measure = int(at), _OF_RANK[rank]
        place = (second // MINUTE << _MINUTE_SHIFT) | (cell << _CELL_SHIFT) | measure
        tally = self._tallies[index]
        tally[place] = tally.get(place, 0) + 1
        self._count(second, cell, measure, -1)
        if bounce.asynchronous and not bounce.named:
            result.unmatched_async_bounces += 1
        source = self._given[index].source
        self._recent.append((at, source, cell, rank, bounce.smtp_code, bounce.enhanced_code, bounce.reason))

    def _revoke_deliveries(self, hashes: list[bytes], found: list[tuple[int, int, int]]) -> list[tuple[int, bytes]]:
        """Deliveries that were counted before their bounce arrived are taken out of their buckets."""
        revoked = []
        for n, hour, mark in found:
            if mark & _REVOKED:
                continue
            second, cell = hour * HOUR + (mark >> 4 & 0xFFF), mark >> 16
            self._count(second, cell, _DELIVERED, -1)
            revoked.append((hour, hashes[n] + mark_of(second, cell, _REVOKED)))
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
