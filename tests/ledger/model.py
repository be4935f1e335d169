"""What a ledger must say, computed the slow and obvious way from everything that was ever reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from agent.events import Event, Kind
from agent.ledger.base import Cell
from agent.ledger.outcomes import LOOK_BACK_HOURS, RANK

Reported = tuple[str, Event, Cell]
_REPEATABLE = (Kind.DEFERRED, Kind.OPENED, Kind.CLICKED, Kind.OTHER)


def expected(reports: Iterable[Reported]) -> Counter[tuple[int, Cell, str]]:
    """Final counts by (minute, cell, measure). Deliveries of one message are assumed to be reported within an hour."""
    counts: Counter[tuple[int, Cell, str]] = Counter()
    outcomes: dict[tuple[object, ...], list[tuple[Event, Cell]]] = {}
    others: dict[tuple[object, ...], tuple[float, Cell, str]] = {}
    for scope, event, cell in reports:
        place = (int(event.at), cell)
        if event.kind in (Kind.DELIVERED, Kind.BOUNCED):
            ident: tuple[object, ...] = (
                event.message_id,
                event.event_id if not event.message_id else "",
                event.recipient,
            )
            if not (event.message_id or event.event_id):
                ident = (event.kind, event.recipient, int(event.at * 1000), event.discriminator)
            outcomes.setdefault((scope, *ident), []).append((event, cell))
            continue
        key: tuple[object, ...] = (scope, event.kind, event.message_id, event.recipient)
        if event.event_id and not event.message_id:
            key = (*key, event.event_id)
        elif event.kind in _REPEATABLE or not event.message_id:
            name = event.provider_event if event.kind == Kind.OTHER and event.message_id else ""
            key = (*key, int(event.at * 1000), event.discriminator, name)
        _earliest(others, key, (*place, event.kind.value))
        if event.kind == Kind.DEFERRED:
            pair = (scope, "pair", event.message_id or event.event_id, event.recipient, int(event.at) // 3600)
            _earliest(others, pair, (*place, "deferred_pairs"))
    for at, cell, measure in others.values():
        counts[int(at) // 60 * 60, cell, measure] += 1
    for group in outcomes.values():
        bounces = [(e, c) for e, c in group if e.kind == Kind.BOUNCED]
        if bounces:
            event, cell = min(bounces, key=lambda b: (-int(b[0].at * 1000), -RANK[b[0].bounce_class], b[1]))
            counts[int(event.at) // 60 * 60, cell, event.bounce_class.value] += 1
        deliveries = [(int(e.at), c) for e, c in group if e.kind == Kind.DELIVERED]
        hours = [int(e.at) // 3600 for e, _ in bounces]
        if deliveries:
            at, cell = min(deliveries)
            if not hours or not min(hours) - LOOK_BACK_HOURS <= at // 3600 <= max(hours) + LOOK_BACK_HOURS:
                counts[at // 60 * 60, cell, "delivered"] += 1
    return counts


def _earliest(known: dict[tuple[object, ...], tuple[float, Cell, str]], key: tuple[object, ...],
              one: tuple[float, Cell, str]) -> None:  # fmt: skip
    known[key] = min(known.get(key, one), one)
