"""Which report of one outcome wins, whatever order the reports arrive in.

Bounce beats delivered. Among bounces the latest time wins; at equal times hard > block > soft > undetermined. Among
deliveries the earliest wins. Each counts in its own time bucket, so a changed winner moves the count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from agent.events import BounceClass
from agent.ledger.base import Cell
from agent.mailbox import UNRESOLVED

# How far, in hours, a bounce looks for the delivery it revokes. Asynchronous bounces come within the queue life of the
# bouncing server, five days by custom (RFC 5321 section 4.5.4.1 asks for at least 4 to 5).
LOOK_BACK_HOURS = 120

BY_RANK = (BounceClass.UNDETERMINED, BounceClass.SOFT, BounceClass.BLOCK, BounceClass.HARD)
RANK = {bounce_class: rank for rank, bounce_class in enumerate(BY_RANK)}


class Bounce(NamedTuple):
    """The bounce of one identity so far: the winning report's time (Unix milliseconds), rank and cell, the earliest
    and latest time of any report (they bound the deliveries it revokes), and the ranks seen as a bit mask."""

    at: int
    rank: int
    cell: int
    first_at: int
    last_at: int
    seen: int

    @property
    def hours(self) -> tuple[int, int]:
        """First and last hour (Unix hours) in which a delivery of this identity is revoked."""
        return self.first_at // 3_600_000 - LOOK_BACK_HOURS, self.last_at // 3_600_000 + LOOK_BACK_HOURS

    def revokes(self, hour: int) -> bool:
        """Whether a delivery in this Unix hour is revoked."""
        first, last = self.hours
        return first <= hour <= last


def precedence(cell: Cell) -> tuple[str, str, str, bool, str]:
    """Which of two cells counts where nothing else decides: the lesser. Of reports of one event, which have one
    recipient, it is the same before and after the recipient's domain is relabelled."""
    return *cell[:3], cell.mailbox_provider == UNRESOLVED, cell.mailbox_provider


def report(at: int, rank: int, cell: int) -> Bounce:
    """A single report as a bounce of its own."""
    return Bounce(at, rank, cell, at, at, 1 << rank)


def merge(a: Bounce, b: Bounce, names: Mapping[int, Cell]) -> Bounce:
    """Both together. Commutative, associative and idempotent, so order and repeats do not matter. ``names`` has the
    cells by number: where nothing else decides, the name does."""
    if a[:2] != b[:2]:
        winner = max(a, b, key=lambda bounce: bounce[:2])
    else:
        winner = min(a, b, key=lambda bounce: precedence(names[bounce.cell]))
    return Bounce(
        winner.at, winner.rank, winner.cell, min(a.first_at, b.first_at), max(a.last_at, b.last_at), a.seen | b.seen
    )
