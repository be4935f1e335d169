"""The values that vitals produces: rates with bounds, verdicts with reasons, one snapshot of everything."""

from __future__ import annotations

from enum import StrEnum

import msgspec

WINDOWS = {"1h": 3600, "6h": 6 * 3600, "24h": 86400, "7d": 7 * 86400, "30d": 30 * 86400}
RATES = ("deliverability", "bounce", "block", "soft_bounce", "complaint", "deferral", "suppression")
SCOPES = ("provider", "mailbox_provider", "stream")


class TargetVerdict(StrEnum):
    MET = "met"
    BREACHED = "breached"
    UNDECIDED = "undecided"
    INSUFFICIENT_DATA = "insufficient_data"
    STALE = "stale"


class Rate(msgspec.Struct, frozen=True):
    """A rate of one window. ``value`` and its 95 % bounds (Clopper-Pearson, two-sided) are in 0..1; ``lower`` and
    ``upper`` are ``None`` for a rate that has no bounds (deferral). A rate over nothing does not exist."""

    value: float
    lower: float | None
    upper: float | None
    numerator: int
    denominator: int


class Judgement(msgspec.Struct, frozen=True):
    """The verdict of one target of one domain. ``target`` is ``bounce``, ``deliverability``, ``complaint`` or
    ``capacity``; ``limit`` the number it is held against (a ratio; messages a month for capacity); ``window`` the
    window that decided, ``rate`` its rate; ``reason`` one sentence with the numbers.

    ``since`` is when the present breach is likely to have begun and ``ended`` when the last one was over, as long as
    that is within the target's longest window (Unix seconds). ``evidence`` is that of a breach, ``ALARM`` of it being
    an alarm (``sequence``), ``dispersion`` by how much failures come in lumps (1: one by one)."""

    target: str
    verdict: TargetVerdict
    limit: float
    window: str
    rate: Rate | None
    reason: str
    since: float | None = None
    ended: float | None = None
    evidence: float = 0.0
    dispersion: float = 1.0


class DomainVitals(msgspec.Struct, frozen=True):
    """Everything known of one domain. ``rates[window][rate]``; ``parts[scope][part][window][rate]`` for the scopes
    provider, mailbox_provider and stream; ``attempted[window]`` in messages. ``monthly_volume`` is attempted in the
    calendar month (UTC) so far, ``monthly_projection`` is ``None`` before seven days of history.
    ``last_event_at`` is Unix seconds, 0 when there never was an event."""

    domain: str
    phase: str
    rates: dict[str, dict[str, Rate]]
    parts: dict[str, dict[str, dict[str, dict[str, Rate]]]]
    attempted: dict[str, int]
    judgements: tuple[Judgement, ...]
    monthly_volume: int
    monthly_projection: float | None
    last_event_at: float


class Snapshot(msgspec.Struct, frozen=True):
    """All domains at one moment. ``evaluated_at`` is Unix seconds."""

    evaluated_at: float
    domains: dict[str, DomainVitals]
