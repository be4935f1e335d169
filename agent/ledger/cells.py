"""The places events count in, by number.

Numbers have 24 bits. Cells of domains that wait for their MX come and go with what people type into forms, so they are
bounded, and their numbers are used again once nothing can name them any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agent.ledger.base import Cell, StoreUnavailable
from agent.mailbox import PENDING, shown

MAX_CELLS = 0xFFFFFF
# Cells whose domain waits for its MX; what comes beyond counts as unresolved, and stays so.
WAITING_CELLS = 4096
# Those and the ones that are another name for the cell that took their counts, each kept as long as identities are.
PASSING_CELLS = 100_000


class Cells:
    """A copy of a store's table of cells, for the one task that writes.

    ``numbers`` has the number that an event in a cell counts under. ``names`` has the cell of every number, that of a
    moved one being the cell that took its counts. ``moved`` maps such numbers to the one in use, ``waiting`` those of
    domains without a known MX to their ``unresolved`` cell. ``added`` are rows that the table does not have yet:
    number, cell, and the number it is shown as.
    """

    def __init__(self) -> None:
        self.numbers: dict[Cell, int] = {}
        self.names: dict[int, Cell] = {}
        self.moved: dict[int, int] = {}
        self.waiting: dict[int, int] = {}
        self.added: list[tuple[int, Cell, int | None]] = []
        self._free = 1  # No number below it is free.

    def fill(self, rows: Iterable[Sequence[Any]]) -> None:
        """Become the table's copy. A row is number, the cell's four names, the number it is shown as or ``None``, and
        whether its counts have moved there."""
        table = list(rows)
        own = {row[0]: Cell(*row[1:5]) for row in table}
        self.moved = {row[0]: row[5] for row in table if row[6]}
        self.waiting = {row[0]: row[5] for row in table if row[5] is not None and not row[6]}
        self.numbers = {cell: self.moved.get(number, number) for number, cell in own.items()}
        self.names = {number: own[self.moved.get(number, number)] for number in own}
        self.added = []
        self._free = 1

    def learn(self, rows: Iterable[Sequence[Any]]) -> None:
        """Take in rows that others have added since ``fill``."""
        for number, *four, shown_as, _ in rows:
            cell = Cell(*four)
            self.numbers[cell], self.names[number] = number, cell
            if shown_as is not None:
                self.waiting[number] = shown_as

    def number(self, cell: Cell) -> int:
        """The number to count under; a cell that is new gets one. Raises ``StoreUnavailable`` when there is none."""
        number = self.numbers.get(cell)
        if number is not None:
            return number
        label = shown(cell.mailbox_provider)
        if label == cell.mailbox_provider:
            return self._add(cell, None)
        unresolved = self.number(cell._replace(mailbox_provider=label))
        if len(self.waiting) >= WAITING_CELLS or len(self.waiting) + len(self.moved) >= PASSING_CELLS:
            return unresolved
        number = self._add(cell, unresolved)
        self.waiting[number] = unresolved
        return number

    def _add(self, cell: Cell, shown_as: int | None) -> int:
        number = self._next()
        self.numbers[cell] = number
        self.names[number] = cell
        self.added.append((number, cell, shown_as))
        return number

    def _next(self) -> int:
        while self._free in self.names:
            self._free += 1
        if self._free > MAX_CELLS:
            raise StoreUnavailable("too many combinations of domain, provider, stream and mailbox provider")
        return self._free

    def public(self, number: int) -> Cell:
        """The cell of a number as anyone outside the ledger sees it."""
        return self.names[self.waiting.get(number, number)]

    def pending(self) -> list[str]:
        """The domains that wait for their MX."""
        return sorted({self.names[number].mailbox_provider.removeprefix(PENDING) for number in self.waiting})

    def relabel(self, mailbox_providers: Mapping[str, str]) -> list[tuple[int, int]]:
        """Domains given with their mailbox providers wait no more: which number's counts move to which."""
        moves = []
        for number in list(self.waiting):
            cell = self.names[number]
            name = mailbox_providers.get(cell.mailbox_provider.removeprefix(PENDING))
            if name is None:
                continue
            target = self.number(cell._replace(mailbox_provider=name))
            del self.waiting[number]
            self.moved[number] = self.numbers[cell] = target
            self.names[number] = self.names[target]
            moves.append((number, target))
        return moves
