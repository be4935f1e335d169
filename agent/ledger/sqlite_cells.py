"""The places events count in, by number, as the embedded store and this process know them.

Numbers have 24 bits. Cells of domains that wait for their MX come and go with what people type into forms, so they are
bounded, and their numbers are used again once nothing can name them any more.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable, Mapping

import msgspec

from agent.ledger.base import HOUR, MAX_AHEAD, Cell, StoreUnavailable
from agent.mailbox import PENDING, shown

MAX_CELLS = 0xFFFFFF
# Cells whose domain waits for its MX; what comes beyond counts as unresolved, and stays so.
WAITING_CELLS = 4096
# Those and the ones that are another name for the cell that took their counts, each kept as long as identities are.
PASSING_CELLS = 100_000

_ALL = """
SELECT json_group_array(json_array(id, domain, provider, stream, mailbox_provider, shown, moved IS NOT NULL)) FROM cell
"""
_NAMES = """
SELECT json_group_array(json_array(id, domain, provider, stream, mailbox_provider)) FROM cell
WHERE id IN (SELECT value FROM json_each(?))
"""
_MOVE = (
    """
INSERT INTO rollup (width, bucket, cell, measure, count)
SELECT width, bucket, :new, measure, count FROM rollup WHERE cell = :old
ON CONFLICT (width, bucket, cell, measure) DO UPDATE SET count = count + excluded.count
""",
    "DELETE FROM rollup WHERE cell = :old",
    "UPDATE cell SET shown = :new, moved = :hour WHERE id = :old",
)


class Cells:
    """A copy of table ``cell``, for the one thread that writes.

    ``numbers`` has the number that an event in a cell counts under. ``names`` has the cell of every number, that of a
    moved one being the cell that took its counts. ``moved`` maps such numbers to the one in use, ``waiting`` those of
    domains without a known MX to their ``unresolved`` cell.
    """

    def __init__(self) -> None:
        self.numbers: dict[Cell, int] = {}
        self.names: dict[int, Cell] = {}
        self.moved: dict[int, int] = {}
        self.waiting: dict[int, int] = {}
        self._state: bytes | None = None  # Changes with the table, so that other processes know when to read it.
        self._changed = False
        self._free = 1  # No number below it is free.

    def forget(self) -> None:
        """What this copy says may not be in the table."""
        self._state = None

    def load(self, db: sqlite3.Connection) -> None:
        """Bring the copy up to date. In a transaction."""
        self._changed = False
        row = db.execute("SELECT value FROM meta WHERE name = 'cells'").fetchone()
        state = row[0] if row else b""
        if state == self._state:
            return
        rows = msgspec.json.decode(db.execute(_ALL).fetchone()[0])
        own = {row[0]: Cell(*row[1:5]) for row in rows}
        self.moved = {row[0]: row[5] for row in rows if row[6]}
        self.waiting = {row[0]: row[5] for row in rows if row[5] is not None and not row[6]}
        self.numbers = {cell: self.moved.get(number, number) for number, cell in own.items()}
        self.names = {number: own[self.moved.get(number, number)] for number in own}
        self._free = 1
        self._state = state

    def save(self, db: sqlite3.Connection) -> None:
        """Let other processes know what has changed in this transaction, before its end."""
        if self._changed:
            self._state = secrets.token_bytes(8)
            db.execute("INSERT OR REPLACE INTO meta VALUES ('cells', ?)", (self._state,))
            self._changed = False

    def number(self, db: sqlite3.Connection, cell: Cell) -> int:
        """The number to count under; a cell that is new gets one. Raises ``StoreUnavailable`` when there is none."""
        number = self.numbers.get(cell)
        if number is not None:
            return number
        label = shown(cell.mailbox_provider)
        if label == cell.mailbox_provider:
            return self._add(db, cell, None)
        unresolved = self.number(db, cell._replace(mailbox_provider=label))
        if len(self.waiting) >= WAITING_CELLS or len(self.waiting) + len(self.moved) >= PASSING_CELLS:
            return unresolved
        number = self._add(db, cell, unresolved)
        self.waiting[number] = unresolved
        return number

    def _add(self, db: sqlite3.Connection, cell: Cell, shown_as: int | None) -> int:
        while self._free in self.names:
            self._free += 1
        number = self._free
        if number > MAX_CELLS:
            raise StoreUnavailable("too many combinations of domain, provider, stream and mailbox provider")
        db.execute(
            "INSERT INTO cell (id, domain, provider, stream, mailbox_provider, shown) VALUES (?, ?, ?, ?, ?, ?)",
            (number, *cell, shown_as),
        )
        self.numbers[cell] = number
        self.names[number] = cell
        self._changed = True
        return number

    def public(self, number: int) -> Cell:
        """The cell of a number as anyone outside the ledger sees it."""
        return self.names[self.waiting.get(number, number)]

    def pending(self) -> list[str]:
        """The domains that wait for their MX."""
        return sorted({self.names[number].mailbox_provider.removeprefix(PENDING) for number in self.waiting})

    def relabel(self, db: sqlite3.Connection, mailbox_providers: Mapping[str, str], now: float) -> None:
        """Move the counts of domains, given with their mailbox providers, to the cells they belong to."""
        found = []
        for number in self.waiting:
            name = mailbox_providers.get(self.names[number].mailbox_provider.removeprefix(PENDING))
            if name is not None:
                found.append((number, self.names[number], name))
        if not found:
            return
        # The clock may have been set back since the events came.
        newest = db.execute("SELECT max(hour) FROM hour").fetchone()[0] or 0
        hour = max(newest, int(now + MAX_AHEAD) // HOUR)
        for number, cell, name in found:
            target = self.number(db, cell._replace(mailbox_provider=name))
            for statement in _MOVE:
                db.execute(statement, {"old": number, "new": target, "hour": hour})
            del self.waiting[number]
            self.moved[number] = self.numbers[cell] = target
            self.names[number] = self.names[target]
        self._changed = True

    def prune(self, db: sqlite3.Connection, oldest: int) -> None:
        """Drop the other names of cells that no identity can name, since those before the Unix hour ``oldest`` are
        gone. In the same transaction, or a later one, as the bounces of that age."""
        gone = {"oldest": oldest}
        db.execute(
            "UPDATE recent_bounce SET cell = (SELECT shown FROM cell WHERE id = recent_bounce.cell) "
            "WHERE cell IN (SELECT id FROM cell WHERE moved < :oldest)",
            gone,
        )
        if db.execute("DELETE FROM cell WHERE moved < :oldest", gone).rowcount:
            self._changed = True
            self.save(db)
            self.forget()
            self.load(db)


def names(db: sqlite3.Connection, numbers: Iterable[int | str]) -> dict[int | str, Cell]:
    """The cells of these numbers, as the connection's transaction sees them."""
    found = db.execute(_NAMES, (msgspec.json.encode(list(numbers)).decode(),)).fetchone()[0]
    return {row[0]: Cell(*row[1:]) for row in msgspec.json.decode(found)}
