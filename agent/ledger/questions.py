"""What ``commit.count`` asks of a store, and what it has it write."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

from agent.clock import HOUR
from agent.ledger.base import settled_before
from agent.ledger.identity import DIGEST_BYTES
from agent.ledger.outcomes import Bounce

RECORD = DIGEST_BYTES + 5  # bytes of hash and mark

# A record is the hash and the mark: cell number * 65536 + second of the hour * 16 + flags, 5 bytes big-endian.
# Unix hour, and where the records that lie in it begin and end.
Span = tuple[int, int, int]


class Tokens(NamedTuple):
    """Which of these tokens are known? Answer: the hash of the body that each of them came with."""

    hashes: list[bytes]


class Known(NamedTuple):
    """What is known of these records, which are in the order of hour and hash, and of the bounces of these of their
    hashes? ``pairs`` are hour and hash of those whose repeats are no rarity. Answer: rows in their own and the
    neighbouring hours (hash, hour, mark), and bounces (hash, earliest and latest report)."""

    records: list[bytes]
    spans: list[Span]
    deliveries: list[bytes]
    pairs: list[tuple[int, bytes]]


class Put(NamedTuple):
    """Write these records, over those of the same hour and hash if ``replace``; there are none otherwise."""

    records: list[bytes]
    spans: list[Span]
    replace: bool = False


class Drop(NamedTuple):
    """Remove the records of these hours and hashes."""

    places: list[tuple[int, bytes]]


class Bounces(NamedTuple):
    """What is known of the bounces of these identities? Answer: those there are, by index."""

    hashes: list[bytes]


class Deliveries(NamedTuple):
    """Which records do identities have between two hours, both included? ``ranges``: index, first, last.
    Answer: index, hour and mark of each."""

    hashes: list[bytes]
    ranges: list[tuple[int, int, int]]


class PutBounces(NamedTuple):
    """Write the bounces of these identities, by index, over what was there."""

    hashes: list[bytes]
    bounces: list[tuple[int, Bounce]]


class Write(NamedTuple):
    """The rest, once all is decided: counts to add (width, bucket, cell, measure, count) in the order of their places,
    the last signs of life of sources (name, received, event), bounces for people to read (time, source, cell, rank,
    codes, reason), new tokens (hash, body)."""

    counts: list[tuple[int, int, int, int, int]]
    sources: list[tuple[str, float, float]]
    recent: list[tuple[float, str, int, int, int | None, str, str]]
    tokens: list[tuple[bytes, bytes]]

    def amended(self, now: float) -> list[int]:
        """The cells in which an hour before ``settled_before`` has other counts by this, in their order."""
        counts = self.counts  # in the order of width and bucket
        begin, end = (bisect_left(counts, (HOUR, bucket)) for bucket in (0, settled_before(now)))
        return sorted({cell for _, _, cell, _, _ in counts[begin:end]})


Question = Tokens | Known | Put | Drop | Bounces | Deliveries | PutBounces | Write
