"""What a domain's windows hold, carried along by what enters them and what leaves them.

Windows end with the present minute and begin with a whole minute (1h, 6h, 24h) or hour (7d, 30d). What is older than
the hour before this one is summed once for each of them. From one look to the next the little that grew too old is
taken out of those sums, what is older than that hour by now is added, and only what is younger is read again. What is
counted later than that, or moved, makes the sums wrong: whoever knows of it begins anew.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from operator import add
from typing import NamedTuple

from agent.clock import DAY, HOUR, MINUTE
from agent.vitals.courses import Cell
from agent.vitals.rates import BOUNCE_CLASSES, FIELDS, Counts
from agent.vitals.types import WINDOWS

Row = tuple[int, Cell, str, int]
"""(Unix time at which the bucket begins, cell, measure, count)"""

DAYS = 62 * DAY
LONGEST_GAP = HOUR / 2  # seconds after which one begins anew: what was amended meanwhile may be forgotten
_MERGE = 100 * DAY
_INDEX = {name: i for i, name in enumerate(FIELDS)}
_OF_MINUTES = ("6h", "24h")  # the last hour is always read again
_OF_HOURS = ("7d", "30d")
_ATTEMPTED = tuple(_INDEX[name] for name in ("delivered", *BOUNCE_CLASSES))

_Cells = dict[Cell, list[int]]
_By = dict[int, list[int]]
_Signs = dict[tuple[int, str], int]  # of life: counts of anything by hour and measure


class Wanted(NamedTuple):
    """Rows to be read, as ``Ledger.rows`` is asked for them."""

    width: int
    since: float
    until: float
    merge: int = 0
    edges: Sequence[float] = ()
    by_domain: bool = False
    domains: Sequence[str] = ()


Reading = Generator[Wanted, Collection[Row] | None, None]
"""Yields what rows it wants, to be sent them."""


def recent(now: float) -> int:
    """The beginning (Unix seconds) of the hour before this one: what is younger is read in every look."""
    return int(now // HOUR - 1) * HOUR


class Sums:
    """The counts of one domain, as of ``minute`` (Unix seconds, 0 = not read yet). ``hours`` and ``days`` are its
    counts by the beginning of each, of 30 and 62 days. ``since`` is the oldest hour that has changed since
    ``settled`` was called; ``last`` when the newest bucket with a count of anything began."""

    def __init__(self) -> None:
        self.minute = self.first = 0
        self.hours: _By = {}
        self.days: _By = {}
        self.since = 0
        self.last = 0
        self._older: dict[str, _Cells] = {window: {} for window in (*_OF_MINUTES, *_OF_HOURS)}
        self._last_hour: _Cells = {}
        self._minutes: _Cells = {}
        self._hours: _Cells = {}
        self._signs: _Signs = {}
        self._last_older = 0

    def begins(self, window: str) -> int:
        """When the oldest bucket of a window begins."""
        return (self.first + HOUR if window in _OF_HOURS else self.minute) - WINDOWS[window]

    def settled(self) -> None:
        """What changed until now is known."""
        self.since = max(self.hours, default=0) + 1

    def reaches(self, now: float) -> bool:
        """Whether the windows of ``now`` can be reached from these."""
        return 0 <= now - self.minute <= LONGEST_GAP

    def differs(self, rows: Iterable[Row], now: float) -> bool:
        """Whether the hours since ``recent``, in rows by domain, are others than is known. Of who is not read yet, or
        was last read in another hour, nothing is known."""
        found = {(bucket, measure): count for bucket, _, measure, count in rows if bucket <= now}
        return self.first == recent(now) and found != self._signs

    def take_out(self, window: str, rows: Iterable[Row], until: int) -> bool:
        """Rows that are too old for a window that begins at ``until``; others do no harm. Whether there were any."""
        since, cells, found = self.begins(window), self._older.get(window, self._last_hour), False
        for bucket, cell, measure, count in rows:
            if since <= bucket < until and measure in _INDEX and cell in cells:
                found = True
                cells[cell][_INDEX[measure]] -= count
                if not any(cells[cell]):
                    del cells[cell]
        return found

    def take_in(
        self, now: float, minutes: Iterable[Row], hours: Iterable[Row], domain_hours: Iterable[Row], days: Iterable[Row]
    ) -> None:
        """All rows from ``first`` on, as they are at ``now``; of longer ago only where nothing was read yet. Minutes
        and hours may come summed as ``looked`` asks for them."""
        known_from, first, minute = self.first, recent(now), int(now // MINUTE) * MINUTE
        newest, newest_older = 0, self._last_older
        self.first, self.minute = first, minute
        self._last_hour, self._minutes, self._hours = {}, {}, {}
        for rows, windows, young in ((minutes, _OF_MINUTES, self._minutes), (hours, _OF_HOURS, self._hours)):
            begins = [(self.begins(window), self._older[window]) for window in windows]
            for bucket, cell, measure, count in rows:
                if not known_from <= bucket <= now:
                    continue
                if bucket >= first:
                    newest = max(newest, bucket)
                    _add(young, cell, measure, count)
                    if bucket >= minute - HOUR and young is self._minutes:
                        _add(self._last_hour, cell, measure, count)
                    continue
                newest_older = max(newest_older, bucket)
                for begin, cells in begins:
                    if bucket >= begin:
                        _add(cells, cell, measure, count)
        oldest = first + HOUR - WINDOWS["30d"]
        begin = max(known_from, oldest)
        before = {hour: self.hours.pop(hour) for hour in [hour for hour in self.hours if hour >= begin]}
        if first != known_from:
            self.hours = {hour: values for hour, values in self.hours.items() if hour >= oldest}
        fresh: _By = {}
        signs: _Signs = {}
        for bucket, _, measure, count in domain_hours:
            if begin <= bucket <= now:
                _add(fresh, bucket, measure, count)
                if bucket >= first:
                    signs[bucket, measure] = signs.get((bucket, measure), 0) + count
        self.hours, self._signs = self.hours | fresh, signs
        changed = [hour for hour in before.keys() | fresh.keys() if before.get(hour) != fresh.get(hour)]
        self.since = min(self.since, *changed) if changed else self.since
        known_days = known_from - known_from % DAY
        self.days = {day: values for day, values in self.days.items() if now - DAYS <= day < known_days}
        for bucket, _, measure, count in days:
            if known_days <= bucket <= now:
                newest_older = max(newest_older, bucket)
                _add(self.days, bucket, measure, count)
        self._last_older, self.last = newest_older, max(newest, newest_older)

    def windows(self) -> dict[str, list[tuple[Cell, Counts]]]:
        """What each window holds of each cell, in their order."""
        found = {"1h": _sorted(self._last_hour, {})}
        for windows, young in ((_OF_MINUTES, self._minutes), (_OF_HOURS, self._hours)):
            for window in windows:
                found[window] = _sorted(self._older[window], young)
        return found

    def volumes(self) -> dict[int, int]:
        """What was attempted on each day."""
        sums = {day: sum(values[i] for i in _ATTEMPTED) for day, values in self.days.items()}
        return {day: count for day, count in sums.items() if count}

    def month(self, begins: int) -> Counts:
        """The counts of the days from ``begins`` on."""
        held = [values for day, values in self.days.items() if day >= begins]
        return Counts(*map(sum, zip(*held, strict=True))) if held else Counts()


def slid(held: Mapping[str, Sums], now: float) -> Generator[Wanted, Collection[Row] | None, set[str]]:
    """Bring the sums of domains, for which nothing new was counted in this hour, to ``now`` (Unix seconds). Returns
    those that have changed."""
    names, minute = tuple(held), int(now // MINUTE) * MINUTE
    gone: dict[str, dict[str, list[Row]]] = {}
    for window in ("1h", *_OF_MINUTES):
        since = min((sums.begins(window) for sums in held.values()), default=0)
        if names and since < minute - WINDOWS[window]:
            gone[window] = by_domain((yield Wanted(MINUTE, since, minute - WINDOWS[window], domains=names)))
    changed = set()
    for name, sums in held.items():
        for window, rows in gone.items():
            if name in rows and sums.take_out(window, rows[name], minute - WINDOWS[window]):
                changed.add(name)
        sums.minute = minute
    return changed


def looked(held: Mapping[str, Sums], now: float) -> Reading:
    """Bring the sums of several domains to ``now`` (Unix seconds): all of them not read yet, or none. Changes nothing
    before it has got everything."""
    names, first, minute, soon = tuple(held), recent(now), int(now // MINUTE) * MINUTE, now + HOUR
    fresh = not all(sums.first for sums in held.values())
    begins = dict.fromkeys(_OF_MINUTES, minute) | dict.fromkeys(_OF_HOURS, first + HOUR)
    begins = {window: end - WINDOWS[window] for window, end in begins.items()}
    gone: dict[str, dict[str, list[Row]]] = {}
    known_from = min(sums.first for sums in held.values())
    if not fresh:
        for window, until in begins.items():
            since = min(sums.begins(window) for sums in held.values())
            if since < until:
                width = MINUTE if window in _OF_MINUTES else HOUR
                gone[window] = by_domain((yield Wanted(width, since, until, domains=names)))
    parted = {sums.first - 1 for sums in held.values() if sums.first} | {first - 1, now}
    tables = []
    for width, oldest, edges in (
        (MINUTE, begins["24h"], parted | {minute - HOUR - 1, begins["6h"] - 1}),
        (HOUR, begins["30d"], parted | {begins["7d"] - 1}),
    ):
        # The few hours that come again are wanted one by one too.
        merged = (_MERGE, tuple(sorted(edges))) if fresh or width == MINUTE else (0, ())
        rows = yield Wanted(width, known_from or oldest, soon, *merged, domains=names)
        tables.append(by_domain(rows))
    if fresh:
        tables.append(by_domain((yield Wanted(HOUR, begins["30d"], soon, by_domain=True, domains=names))))
    else:
        tables.append(tables[1])
    since = known_from - known_from % DAY or int(now - DAYS)
    tables.append(by_domain((yield Wanted(DAY, since, soon, by_domain=True, domains=names))))
    for name, sums in held.items():
        for window, rows_gone in gone.items():
            sums.take_out(window, rows_gone.get(name, ()), begins[window])
        minutes, hours, domain_hours, days = (table.get(name, ()) for table in tables)
        sums.take_in(now, minutes, hours, domain_hours, days)


def by_domain(rows: Iterable[Row] | None) -> dict[str, list[Row]]:
    """The rows of each domain."""
    found: dict[str, list[Row]] = {}
    for row in rows or ():
        found.setdefault(row[1][0], []).append(row)
    return found


def _add(sums: dict[Cell, list[int]] | dict[int, list[int]], key: Cell | int, measure: str, count: int) -> None:
    i = _INDEX.get(measure)
    if i is None:
        return
    values = sums.get(key)  # type: ignore[arg-type]
    if values is None:
        values = sums[key] = [0] * len(FIELDS)  # type: ignore[index]
    values[i] += count


def _sorted(older: _Cells, young: _Cells) -> list[tuple[Cell, Counts]]:
    found = []
    for cell in sorted({*older, *young}):
        one, other = older.get(cell), young.get(cell)
        values = list(map(add, one, other)) if one and other else one or other
        found.append((cell, Counts(*values)))  # type: ignore[misc]
    return found
