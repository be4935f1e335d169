"""The events of one request as columns: what a commit works on, and what crosses to the store's process.

A value an event would cost a thousand times more objects than this has. Who the recipients are is not in it, only the
identities made of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import msgspec

from agent.events import BounceClass, Kind
from agent.ledger.base import Batch, Cell
from agent.ledger.identity import DIGEST_BYTES, Identifier

KINDS = tuple(Kind)
CODE = {kind.value: code for code, kind in enumerate(KINDS)}
BOUNCED, DEFERRED = CODE[Kind.BOUNCED], CODE[Kind.DEFERRED]


class BounceReport(msgspec.Struct, array_like=True, frozen=True):
    """What a bounce says beyond an event's kind and time. ``position`` is that of its event, ``named`` whether it has a
    message id."""

    position: int
    bounce_class: BounceClass | None
    asynchronous: bool
    named: bool
    smtp_code: int | None
    enhanced_code: str
    reason: str


class Columns(msgspec.Struct, array_like=True, frozen=True):
    """A ``Batch`` whose events have identities. ``times`` are doubles, ``places`` 32-bit indices into ``cells``,
    ``kinds`` a byte each, ``identities`` ``DIGEST_BYTES`` each; ``pairs`` those of deferrals, by position, and
    ``bounces`` one for each event of that kind."""

    source: str
    scope: str
    received_at: float
    times: bytes
    kinds: bytes
    cells: Sequence[Cell]
    places: bytes
    identities: bytes
    pairs: dict[int, bytes]
    bounces: Sequence[BounceReport]
    token: str = ""
    body_digest: bytes = b""

    @property
    def size(self) -> int:
        """How many events there are."""
        return len(self.kinds)


def to_columns(batch: Batch | Columns, identifier: Identifier) -> Columns:
    """A batch as columns, which it may be already."""
    if isinstance(batch, Columns):
        return batch
    events, keys = batch.events, batch.identities or identifier.of(batch.scope, batch.events)
    numbers: dict[Cell, int] = {}
    places = array("I", [numbers.setdefault(cell, len(numbers)) for cell in batch.cells])
    kinds = bytes([CODE[event.kind] for event in events])
    pairs = {}
    if DEFERRED in kinds:
        pairs = {n: keys[n][DIGEST_BYTES:] for n, code in enumerate(kinds) if code == DEFERRED}
        keys = [key[:DIGEST_BYTES] for key in keys]
    bounces = []
    if BOUNCED in kinds:
        bounces = [
            BounceReport(n, e.bounce_class, e.asynchronous, bool(e.message_id), e.smtp_code, e.enhanced_code, e.reason)
            for n, e in enumerate(events)
            if kinds[n] == BOUNCED
        ]
    return Columns(
        batch.source, batch.scope, batch.received_at, array("d", [event.at for event in events]).tobytes(), kinds,
        list(numbers), places.tobytes(), b"".join(keys), pairs, bounces, batch.token, batch.body_digest,
    )  # fmt: skip
