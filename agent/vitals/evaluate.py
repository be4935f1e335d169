"""From roll-ups to one snapshot of everything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from agent.clock import HOUR, MINUTE
from agent.vitals.anytime import MONTH, Anytime
from agent.vitals.budget import budget
from agent.vitals.courses import Cell, Memory, Shares
from agent.vitals.phases import PHASES, Phase
from agent.vitals.rates import BOUNCE_CLASSES, COUNTED_CLASSES, FIELDS, Counts
from agent.vitals.types import WINDOWS, Budget, DomainVitals, Judgement, Rate, Snapshot
from agent.vitals.verdicts import STALE_AFTER, Hour, Standing, Target, judge, targets
from agent.vitals.volume import expected, month_start, monthly_volume, projected_volume

Row = tuple[int, Cell, str, int]
"""(Unix time at which the bucket begins, cell, measure, count)"""

_INDEX = {name: i for i, name in enumerate(FIELDS)}
_ATTEMPTED = frozenset(("delivered", *BOUNCE_CLASSES))
_MINUTE_WINDOWS = ("1h", "6h", "24h")
_HOUR_WINDOWS = ("7d", "30d")


def edges(now: float, width: int) -> list[float]:
    """The times that part the windows of minutes (``width`` 60) or hours (3600): buckets that begin after one of them
    lie in a window that the others do not lie in, or in none yet."""
    return [now, *_beginnings(now, width)]


def _beginnings(now: float, width: int) -> list[float]:
    return [now - WINDOWS[name] - width for name in (_MINUTE_WINDOWS if width == MINUTE else _HOUR_WINDOWS)]


_Sums = dict[Cell, list[int]]


def hours_by_domain(rows: Iterable[Row]) -> dict[str, list[Hour]]:
    """The hours of each domain, in order of time, from rows of the hour roll-up in any order."""
    found: dict[str, dict[int, list[int]]] = {}
    for bucket, cell, measure, count in rows:
        hours = found.setdefault(cell[0], {})
        values = hours.setdefault(bucket, [0] * len(FIELDS))
        if measure in _INDEX:
            values[_INDEX[measure]] += count
    return {
        domain: [(start, Counts(*values)) for start, values in sorted(hours.items())] for domain, hours in found.items()
    }


def evaluate(
    now: float,
    domains: Mapping[str, Phase],
    minute_rows: Iterable[Row],
    hour_rows: Iterable[Row],
    day_rows: Iterable[Row],
    *,
    domain_hour_rows: Iterable[Row] | None = None,
    domain_hours_since: float = 0.0,
    memory: Memory | None = None,
    last_event: Mapping[str, float] | None = None,
    stale_after: float = STALE_AFTER,
    bounce_classes: tuple[str, ...] = COUNTED_CLASSES,
    phases: Mapping[str, Phase] = PHASES,
) -> Snapshot:
    """The state of all domains at ``now`` (Unix seconds).

    ``domains`` maps each configured domain to its phase. The rows are of the three roll-ups, in any order: minutes of
    24 hours at least, hours of 30 days, days of the calendar month and the 28 days before today; older or future ones
    do no harm. Windows take every bucket that overlaps (now - window, now], minutes up to 24h and hours beyond.
    Domains that have traffic but are not configured (``other`` among them) come with phase ``""`` and without
    judgements. Parts with an empty name (mail of no stream) are left out. ``last_event`` (Unix seconds by domain) may
    say of later signs of life than the rows do.

    Rows may come summed over any time, as long as no window's beginning lies within what was summed. Verdicts then need
    the hours as they are in ``domain_hour_rows``, summed over everything but the domain; from ``domain_hours_since`` on
    alone, if ``memory``, the same from call to call, has seen those before. The rows may be those of some domains
    alone.

    Cost: one pass over each kind of row, about half a microsecond a row, and two bounds of 10 to 50 microseconds for
    each rate of each part whose counts changed.
    """
    memory = memory or Memory()
    last: dict[str, float] = dict(last_event or {})
    recent = _Bands(now, _MINUTE_WINDOWS, MINUTE)
    longer = _Bands(now, _HOUR_WINDOWS, HOUR)
    recent.read(minute_rows, last)
    longer.read(hour_rows, last)
    hourly = longer
    if domain_hour_rows is not None:
        hourly = _Bands(now, _HOUR_WINDOWS, HOUR)
        hourly.read(domain_hour_rows, last)
    hours = memory.hours(hourly.hours, domain_hours_since, hourly.after[-1], domains)
    days: dict[str, dict[int, int]] = {}
    months: dict[str, list[int]] = {}
    month = month_start(now)
    for bucket, cell, measure, count in day_rows:
        if bucket > now or not count:
            continue
        domain = cell[0]
        if bucket > last.get(domain, 0):
            last[domain] = bucket
        if bucket >= month and measure in _INDEX:
            months.setdefault(domain, [0] * len(FIELDS))[_INDEX[measure]] += count
        if measure in _ATTEMPTED:
            volumes = days.setdefault(domain, {})
            volumes[bucket] = volumes.get(bucket, 0) + count

    windows = recent.windows() | longer.windows()
    cells: dict[str, set[Cell]] = {domain: set() for domain in domains}
    for sums in windows.values():
        for cell in sums:
            cells.setdefault(cell[0], set()).add(cell)
    for domain in days:
        cells.setdefault(domain, set())

    found = {}
    for domain, own in cells.items():
        here = sorted(own)
        found[domain] = vitals_of(
            domain,
            now,
            {window: [(cell, sums[cell]) for cell in here if cell in sums] for window, sums in windows.items()},
            days.get(domain, {}),
            Counts(*months.get(domain, ())),
            phase=domains.get(domain),
            last_event_at=last.get(domain, 0.0),
            shares=memory.shares(domain),
            standings=partial(memory.standings, domain, hours.get(domain, {})),
            stale_after=stale_after,
            bounce_classes=bounce_classes,
            phases=phases,
        )
    return Snapshot(evaluated_at=now, domains=found)


def vitals_of(
    domain: str,
    now: float,
    windows: dict[str, list[tuple[Cell, Counts]]],
    days: Mapping[int, int],
    month: Counts,
    *,
    phase: Phase | None,
    last_event_at: float,
    shares: Shares,
    standings: Callable[[Sequence[Target], float], Sequence[Standing]],
    stale_after: float = STALE_AFTER,
    bounce_classes: tuple[str, ...] = COUNTED_CLASSES,
    phases: Mapping[str, Phase] = PHASES,
) -> DomainVitals:
    """The state of one domain at ``now`` (Unix seconds), from what its windows hold of each cell, what was attempted on
    each day, and the counts of the calendar month. ``standings`` says where targets stand; ``shares`` are what is known
    of the domain's rates."""
    shares.take(windows, bounce_classes)
    totals = shares.totals
    last_event_at = min(last_event_at, now)
    volume, to_come = monthly_volume(days, now), expected(days, now)
    judgements: tuple[Judgement, ...] = ()
    budgets: tuple[Budget, ...] = ()
    anytime: Mapping[str, Mapping[str, Rate]] = {}
    if phase is not None:
        held = targets(
            phase,
            last_event_at=last_event_at,
            stale_after=stale_after,
            bounce_classes=bounce_classes,
            phases=phases,
        )
        stand = standings(held, now)
        judgements = tuple(judge(target, totals, at, now) for target, at in zip(held, stand, strict=True))
        budgets = tuple(
            budget(
                target,
                now,
                month=month,
                week=totals["7d"],
                day=totals["24h"],
                to_come=to_come,
                dispersion=at.dispersion,
            )
            for target, at in zip(held, stand, strict=True)
            if target.name != "capacity"
        )
        scatters = (at.scatter for at in stand)
        anytime = Anytime({**totals, MONTH: month}, zip(held, scatters, strict=True))
    return DomainVitals(
        domain=domain,
        phase=phase.name if phase else "",
        rates=shares.rates,
        parts=shares.parts,
        attempted={window: counts.attempted for window, counts in totals.items()},
        judgements=judgements,
        monthly_volume=volume,
        monthly_projection=projected_volume(volume, to_come),
        last_event_at=last_event_at,
        budgets=budgets,
        anytime=anytime,
    )


class _Bands:
    """Sums per cell, by how long ago: each row is added once, to the youngest window that has it. Beside them sums
    per domain and hour, for verdicts."""

    def __init__(self, now: float, names: tuple[str, ...], width: int) -> None:
        self.now = now
        self.names = names
        # A bucket overlaps (now - window, now] if it begins after this.
        self.after = _beginnings(now, width)
        self.sums: list[_Sums] = [{} for _ in names]
        self.hours: dict[str, dict[int, list[int]]] = {}

    def read(self, rows: Iterable[Row], last: dict[str, float]) -> None:
        """Add the rows; note in ``last`` the newest bucket of each domain with a count of anything.

        Up to a million rows pass here every few seconds: what changes only with the bucket is kept from row to row.
        """
        now, index, width, oldest = self.now, _INDEX, len(FIELDS), self.after[-1]
        # Per cell: where its rows of the current band go, and its domain's hours.
        places: list[dict[Cell, tuple[list[int], dict[int, list[int]]]]] = [{} for _ in self.names]
        previous, hour, place = -1, 0, places[-1]
        newest: dict[str, int] = {}
        for bucket, cell, measure, count in rows:
            if bucket != previous:
                if bucket > now:
                    continue
                previous, hour = bucket, bucket - bucket % HOUR
                band = sum(bucket <= after for after in self.after[:-1])
                place = places[band]
            domain = cell[0]
            if bucket > newest.get(domain, 0) and count:
                newest[domain] = bucket
            if bucket <= oldest or measure not in index:
                continue
            target = place.get(cell)
            if target is None:
                sums = self.sums[band].setdefault(cell, [0] * width)
                target = place[cell] = sums, self.hours.setdefault(domain, {})
            i = index[measure]
            target[0][i] += count
            by_hour = target[1].get(hour)
            if by_hour is None:
                by_hour = target[1][hour] = [0] * width
            by_hour[i] += count
        for domain, bucket in newest.items():
            last[domain] = max(bucket, last.get(domain, 0.0))

    def windows(self) -> dict[str, dict[Cell, Counts]]:
        """Counts per window and cell. A window holds its own band and all younger ones."""
        result: dict[str, dict[Cell, Counts]] = {}
        so_far: dict[Cell, Counts] = {}
        for name, sums in zip(self.names, self.sums, strict=True):
            so_far = dict(so_far)
            for cell, values in sums.items():
                counts = Counts(*values)
                so_far[cell] = so_far[cell] + counts if cell in so_far else counts
            result[name] = so_far
        return result
