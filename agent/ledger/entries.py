"""What a commit has to write down, bounces apart: entries as columns, by position, and as the records of an index."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence

from agent.clock import HOUR
from agent.ledger.questions import Put, Span


class Entries:
    """Parallel columns: the hash that identifies, second (Unix), number of the cell, measure."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.seconds: list[int] = []
        self.numbers: list[int] = []
        self.measures = bytearray()
        self._starts: list[int] = []

    def begin_batch(self) -> None:
        """What is added from now on is another batch's."""
        self._starts.append(len(self.keys))

    def add(self, keys: list[bytes], seconds: list[int], numbers: list[int], measures: bytes) -> None:
        """Add entries to the batch that was begun last."""
        self.keys += keys
        self.seconds += seconds
        self.numbers += numbers
        self.measures += measures

    def batch_of(self, position: int) -> int:
        """The batch that an entry came with, counted from 0."""
        return bisect_right(self._starts, position) - 1

    def rounds(self, earlier: Callable[[int, int], int]) -> list[Sequence[int]]:
        """The positions of what is to be written. An identity reported in several hours is in as many rounds, in their
        order, so that each finds what the one before has written; of several entries in one hour ``earlier`` names
        the one that counts."""
        keys = self.keys
        if len(set(keys)) == len(keys):
            return [range(len(keys))] if keys else []
        reports = Counter(keys)
        rounds = [[position for position, key in enumerate(keys) if reports[key] == 1]]
        by_hour: dict[bytes, dict[int, int]] = {}
        for position, key in enumerate(keys):
            if reports[key] > 1:
                found, hour = by_hour.setdefault(key, {}), self.seconds[position] // HOUR
                found[hour] = earlier(found[hour], position) if hour in found else position
        for found in by_hour.values():
            for n, hour in enumerate(sorted(found)):
                if n == len(rounds):
                    rounds.append([])
                rounds[n].append(found[hour])
        return list(rounds)

    def records(self, positions: Sequence[int]) -> tuple[list[bytes], list[Span]]:
        """Hash and mark of these entries, in the order of the index: neighbours share its pages."""
        keys, seconds, numbers = self.keys, self.seconds, self.numbers
        if len(positions) < len(keys):
            keys, seconds = [keys[n] for n in positions], [seconds[n] for n in positions]
            numbers = [numbers[n] for n in positions]
        # The marks as ``mark_of`` makes them: a call for each event would show.
        records = [
            key + (number << 16 | second % HOUR << 4).to_bytes(5, "big")
            for key, second, number in zip(keys, seconds, numbers, strict=True)
        ]
        hour = min(seconds) // HOUR
        if hour == max(seconds) // HOUR:
            records.sort()
            return records, [(hour, 0, len(records))]
        by_hour: dict[int, list[bytes]] = {}
        for second, record in zip(seconds, records, strict=True):
            by_hour.setdefault(second // HOUR, []).append(record)
        out: list[bytes] = []
        spans: list[Span] = []
        for hour in sorted(by_hour):
            spans.append((hour, len(out), len(out) + len(by_hour[hour])))
            out += sorted(by_hour[hour])
        return out, spans


def mark_of(second: int, cell: int, flags: int = 0) -> bytes:
    """What stands behind the hash of a record (``questions``)."""
    return (cell << 16 | second % HOUR << 4 | flags).to_bytes(5, "big")


def put(entries: list[tuple[int, bytes]], *, replace: bool = False) -> Put:
    """Write records, given with their hours, whatever order they are in."""
    entries.sort()
    spans: list[Span] = []
    for n, (hour, _) in enumerate(entries):
        if not spans or spans[-1][0] != hour:
            spans.append((hour, n, n))
        spans[-1] = (hour, spans[-1][1], n + 1)
    return Put([record for _, record in entries], spans, replace)
