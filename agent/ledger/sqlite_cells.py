"""The embedded store's table of cells."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable, Mapping

import msgspec

from agent.clock import HOUR
from agent.ledger.base import MAX_AHEAD, Cell
from agent.ledger.cells import Cells

_ALL = """
SELECT json_group_array(json_array(id, domain, provider, stream, mailbox_provider, shown, moved IS NOT NULL)) FROM cell
"""
AMEND = """
INSERT INTO amended VALUES (?, ?, 1) ON CONFLICT (cell) DO UPDATE SET at = max(at, excluded.at), turn = turn + 1
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


class SqliteCells:
    """Keeps ``copy`` and table ``cell`` the same, whoever else writes to it. Every method in a transaction."""

    def __init__(self) -> None:
        self.copy = Cells()
        self._state: bytes | None = None  # Changes with the table, so that other processes know when to read it.
        self._changed = False

    def forget(self) -> None:
        """What the copy says may not be in the table."""
        self._state = None

    def load(self, db: sqlite3.Connection) -> None:
        """Bring the copy up to date."""
        self._changed = False
        row = db.execute("SELECT value FROM meta WHERE name = 'cells'").fetchone()
        state = row[0] if row else b""
        if state != self._state:
            self.copy.fill(msgspec.json.decode(db.execute(_ALL).fetchone()[0]))
            self._state = state

    def save(self, db: sqlite3.Connection) -> None:
        """Write what was added, and let other processes know what has changed in this transaction, before its end."""
        if self.copy.added:
            db.executemany(
                "INSERT INTO cell (id, domain, provider, stream, mailbox_provider, shown) VALUES (?, ?, ?, ?, ?, ?)",
                [(number, *cell, shown_as) for number, cell, shown_as in self.copy.added],
            )
            self.copy.added = []
            self._changed = True
        if self._changed:
            self._state = secrets.token_bytes(8)
            db.execute("INSERT OR REPLACE INTO meta VALUES ('cells', ?)", (self._state,))
            self._changed = False

    def relabel(self, db: sqlite3.Connection, mailbox_providers: Mapping[str, str], now: float) -> None:
        """Move the counts of domains, given with their mailbox providers, to the cells they belong to."""
        moves = self.copy.relabel(mailbox_providers)
        if not moves:
            return
        # The clock may have been set back since the events came.
        newest = db.execute("SELECT max(hour) FROM hour").fetchone()[0] or 0
        hour = max(newest, int(now + MAX_AHEAD) // HOUR)
        for old, new in moves:
            for statement in _MOVE:
                db.execute(statement, {"old": old, "new": new, "hour": hour})
        db.executemany(AMEND, [(new, now) for _, new in moves])
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
