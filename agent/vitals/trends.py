"""One domain over time: what shifted, where everything is heading, when its limits are reached, what is proven."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, MutableMapping, Sequence
from typing import NamedTuple

import msgspec

from agent.clock import HOUR
from agent.vitals.direction import Direction, heading
from agent.vitals.forecast import Forecast, first_reached, forecasts
from agent.vitals.gate import Proven, proven
from agent.vitals.phases import Phase
from agent.vitals.rates import COUNTED_CLASSES, FIELDS, Counts, total
from agent.vitals.scopes import Explanation, PartVerdict, explain, judge_parts
from agent.vitals.series import SERIES, Hour
from agent.vitals.shifts import Shift, find_shifts
from agent.vitals.types import SCOPES, Judgement, TargetVerdict
from agent.vitals.verdicts import Target

MOST_PARTS = 16
"""So many parts of a domain, the busiest of the last 30 days, are looked at beside the whole."""

Row = tuple[int, tuple[str, str, str, str], str, int]
"""(Unix time at which the bucket begins, (domain, provider, stream, mailbox provider), measure, count)"""
Part = tuple[str, str]
"""(scope, name); ("", "") is the whole domain."""

_WHOLE: Part = ("", "")
_PLACE = {"provider": 1, "stream": 2, "mailbox_provider": 3}
_INDEX = {name: i for i, name in enumerate(FIELDS)}


class Plan(NamedTuple):
    """What is planned for a domain: its phase, since when (Unix time, ``None`` if nobody said), and the mails that its
    sending plan includes in a calendar month, ``None`` if none are counted."""

    phase: Phase
    since: float | None
    monthly_limit: int | None


class DomainTrends(msgspec.Struct, frozen=True):
    """``at`` is when they were worked out, Unix seconds. ``directions`` has every series of the whole domain, and those
    of its parts that are not steady; ``shifts`` are of the last 30 days, oldest first;
    ``verdicts`` are those of the looked-at parts, ``explained`` tells of each breach which part makes it."""

    at: float
    shifts: tuple[Shift, ...]
    directions: tuple[Direction, ...]
    forecasts: tuple[Forecast, ...]
    verdicts: tuple[PartVerdict, ...] = ()
    explained: tuple[Explanation, ...] = ()


class _Kept(NamedTuple):
    """What was worked out for one part, and from what."""

    signature: int
    shifts: list[Shift]
    directions: list[Direction]


Memory = MutableMapping[Part, _Kept]
"""What is known of each part of one domain; a part whose counts have not changed within the hour is not looked at
again."""


def domain_trends(
    hour_rows: Iterable[Row],
    day_rows: Iterable[Row],
    plan: Plan,
    now: float,
    memory: Memory,
    *,
    bounce_classes: Collection[str] = COUNTED_CLASSES,
    held: Sequence[Target] = (),
    judgements: Sequence[Judgement] = (),
) -> tuple[DomainTrends, Proven]:
    """Both out of one domain's rows: hours of 30 days, days of 62 and of ``plan.phase.sustained_days`` + 31 at least,
    in any order. ``memory`` is the same mapping from call to call. ``held`` are the targets that the parts are held to,
    ``judgements`` those of the whole, whose breaches are explained. Takes about 40 milliseconds for each part that
    changed."""
    hour_rows = list(hour_rows)
    by_hour, by_day = by_part(hour_rows), by_part(day_rows)
    shifts: list[Shift] = []
    directions: list[Direction] = []
    busiest = sorted(by_hour, key=lambda part: (part != _WHOLE, -_attempted(by_hour[part].values()), part))
    looked_at = busiest[: 1 + MOST_PARTS]
    for part in looked_at:
        hours = list(by_hour[part].items())
        signature = hash((now // HOUR, *hours))
        kept = memory.get(part)
        if kept is None or kept.signature != signature:
            kept = memory[part] = _look(part, hours, now, signature, bounce_classes)
        shifts += kept.shifts
        directions += kept.directions
    for part in memory.keys() - set(looked_at):
        del memory[part]
    days = by_day.get(_WHOLE, {})
    volumes = {day: counts.attempted for day, counts in days.items()}
    providers = {name: own for (scope, name), own in by_day.items() if scope == "mailbox_provider"}
    least = plan.phase.capacity[0]
    reached = first_reached(volumes, now, least) if least is not None else None
    evidence = proven(days, providers, plan.phase, now, capacity_at=reached, bounce_classes=bounce_classes)
    ahead = tuple(forecasts(volumes, now, plan.phase, plan.monthly_limit))
    return DomainTrends(
        now,
        tuple(sorted(shifts, key=lambda s: s.at)),
        tuple(directions),
        ahead,
        judge_parts({part: by_hour[part] for part in looked_at}, held, now),
        tuple(_explained(hour_rows, held, judgements)),
    ), evidence


def _explained(rows: Sequence[Row], held: Sequence[Target], judgements: Sequence[Judgement]) -> Iterator[Explanation]:
    since = {j.target: j for j in judgements if j.verdict is TargetVerdict.BREACHED and j.since is not None}
    for target in held:
        judgement = since.get(target.name)
        if judgement is not None and judgement.since is not None:
            sums: dict[tuple[str, str, str, str], list[int]] = {}
            for bucket, cell, measure, count in rows:
                if bucket >= judgement.since and measure in _INDEX:
                    sums.setdefault(cell, [0] * len(FIELDS))[_INDEX[measure]] += count
            cells = {cell: Counts(*values) for cell, values in sums.items()}
            yield explain(cells, target, judgement.dispersion)


def by_part(rows: Iterable[Row]) -> dict[Part, dict[int, Counts]]:
    """One domain's counts by part and bucket. Parts with an empty name (mail of no stream) are left out."""
    sums: dict[tuple[str, str, str, str], dict[int, list[int]]] = {}
    for bucket, cell, measure, count in rows:
        i = _INDEX.get(measure)
        if i is not None:
            buckets = sums.setdefault(cell, {})
            values = buckets.get(bucket)
            if values is None:
                values = buckets[bucket] = [0] * len(FIELDS)
            values[i] += count
    several: dict[Part, dict[int, list[Counts]]] = {}
    for cell, buckets in sums.items():
        parts = [_WHOLE, *((scope, cell[_PLACE[scope]]) for scope in SCOPES if cell[_PLACE[scope]])]
        for bucket, values in buckets.items():
            counts = Counts(*values)
            for part in parts:
                several.setdefault(part, {}).setdefault(bucket, []).append(counts)
    return {
        part: {bucket: counts[0] if len(counts) == 1 else total(counts) for bucket, counts in buckets.items()}
        for part, buckets in several.items()
    }


def _attempted(several: Iterable[Counts]) -> int:
    return sum(counts.attempted for counts in several)


def _look(part: Part, hours: list[Hour], now: float, signature: int, bounce_classes: Collection[str]) -> _Kept:
    scope, name = part
    shifts: list[Shift] = []
    directions: list[Direction] = []
    for rate in SERIES:
        shifts += find_shifts(hours, now, rate, scope=scope, part=name, bounce_classes=bounce_classes)
        found = heading(hours, now, rate, scope=scope, part=name, bounce_classes=bounce_classes)
        if not scope or found.direction not in ("steady", "cannot_tell"):
            directions.append(found)
    return _Kept(signature, shifts, directions)
