"""What the views show: one value, handed over whole, so that a page never mixes two moments."""

from __future__ import annotations

import msgspec

from agent.alerts.mutes import Mute
from agent.alerts.types import Incident
from agent.dns.changes import Change
from agent.dns.checks.base import Watched
from agent.ledger.base import RecentBounce
from agent.vitals.gate import PhaseGate
from agent.vitals.phases import Phase
from agent.vitals.rhythm import Silence
from agent.vitals.trends import DomainTrends
from agent.vitals.types import Snapshot


class SourceView(msgspec.Struct, frozen=True):
    """A configured source and its last signs of life. Times are Unix seconds, 0 = never. ``requests`` by outcome
    (``accepted``, ``unauthorized``, ``quarantined``, ...) since the process started; ``test_events`` left
    out of the rates by reason, since then as well; ``last_error`` is a reason without secrets or addresses, ``""`` when
    there was none; ``silence`` is the present one of an hour or more, where there is a rhythm to hold it against."""

    name: str
    provider: str
    domain: str
    last_received_at: float
    last_event_at: float
    requests: dict[str, int]
    quarantined: int
    last_error: str
    last_error_at: float
    test_events: dict[str, int] = msgspec.field(default_factory=dict)
    silence: Silence | None = None


class ListView(msgspec.Struct, frozen=True):
    """A blocklist as metrics show it: its own health, and what it lists; ``None`` where that is not known."""

    name: str
    health: str
    listed: dict[str, bool | None]


class Readiness(msgspec.Struct, frozen=True):
    """One named condition of readiness and, when it does not hold, why."""

    name: str
    ok: bool
    reason: str = ""


class AlertmanagerView(msgspec.Struct, frozen=True):
    """One configured Alertmanager. Times are Unix seconds, 0 = never."""

    url: str
    last_success_at: float
    last_error: str


class State(msgspec.Struct, frozen=True):
    """``snapshot`` is ``None`` until the first evaluation. ``phases`` by name as in force; ``domain_phases`` maps
    each configured domain to its phase's name. ``demo`` marks simulated traffic."""

    version: str
    now: float
    started_at: float
    demo: bool
    leader: bool
    readiness: tuple[Readiness, ...]
    snapshot: Snapshot | None
    phases: dict[str, Phase]
    findings: tuple[Watched, ...]
    incidents: tuple[Incident, ...]
    sources: tuple[SourceView, ...]
    recent_bounces: tuple[RecentBounce, ...]
    alertmanagers: tuple[AlertmanagerView, ...]
    domain_phases: dict[str, str] = msgspec.field(default_factory=dict)
    blocklists: tuple[ListView, ...] = ()
    dns_changes: tuple[Change, ...] = ()
    trends: dict[str, DomainTrends] = msgspec.field(default_factory=dict)
    gates: dict[str, PhaseGate] = msgspec.field(default_factory=dict)
    mutes: tuple[Mute, ...] = ()
