"""Incidents: conditions with memory. An incident opens once, keeps its start, and ends only after a quiet period."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from agent.alerts.types import Condition, Holds, Incident

QUIET_PERIOD = 1800.0
# Prometheus tells Alertmanager of a resolved alert for as long, in case a message is lost.
RESOLVED_KEPT = 900.0


def identity(labels: Mapping[str, str]) -> str:
    """A stable text that stands for a label set, whatever its order. Empty labels do not count: Alertmanager drops
    them. Reads as ``[["alertname","MailTargetBreached"],...]``."""
    return msgspec.json.encode(sorted((k, v) for k, v in labels.items() if v)).decode()


def step(
    incidents: Mapping[str, Incident], conditions: Iterable[Condition], now: float, quiet_period: float = QUIET_PERIOD
) -> dict[str, Incident]:
    """The incidents after one look at the conditions. Keys are identities; times are Unix seconds.

    - ``YES`` opens an incident, keeps it open, or takes it back within its quiet period; ``starts_at`` stays.
    - ``NO`` starts the quiet period and, when that is over, resolves the incident.
    - ``UNKNOWN`` changes nothing: a running quiet period is paused, not reset, so that a lookup that fails now and
      then does not keep an incident open for ever.
    - A condition that is not in the list any more counts as ``NO``: a restart that does not know everything yet ends
      no incident. If the same condition is there under another phase, the old one is resolved at once, or two
      incidents would be open for one thing.
    - Several conditions of one identity count as one: ``YES`` before ``UNKNOWN`` before ``NO``.

    A resolved incident stays for ``RESOLVED_KEPT`` seconds; if its condition returns, a new one takes its place.
    """
    present = _merged(conditions)
    without_phase = {_phaseless(c.labels) for c in present.values()}
    result: dict[str, Incident] = {}
    for key, incident in incidents.items():
        if incident.resolved_at:
            if now - incident.resolved_at < RESOLVED_KEPT:
                result[key] = incident
            continue
        condition = present.get(key)
        if condition is None and _phaseless(incident.labels) in without_phase:
            result[key] = msgspec.structs.replace(incident, resolved_at=now, cleared_at=incident.cleared_at or now)
        else:
            result[key] = _advance(incident, condition, now, quiet_period)
    for key, condition in present.items():
        known = result.get(key)
        if condition.holds is Holds.YES and (known is None or known.resolved_at):
            labels = {name: value for name, value in condition.labels.items() if value}
            result[key] = Incident(labels=labels, annotations=condition.annotations, starts_at=now)
    return result


def _advance(incident: Incident, condition: Condition | None, now: float, quiet_period: float) -> Incident:
    holds = condition.holds if condition else Holds.NO
    if condition and holds is Holds.YES:
        return msgspec.structs.replace(
            incident, annotations=condition.annotations, cleared_at=0.0, resolved_at=0.0, paused_at=0.0
        )
    if holds is Holds.UNKNOWN:
        if incident.cleared_at and not incident.paused_at:
            return msgspec.structs.replace(incident, paused_at=now)
        return incident
    cleared_at = incident.cleared_at or now
    if incident.paused_at:
        cleared_at += now - incident.paused_at
    over = now - cleared_at >= quiet_period
    return msgspec.structs.replace(incident, cleared_at=cleared_at, paused_at=0.0, resolved_at=now if over else 0.0)


def _merged(conditions: Iterable[Condition]) -> dict[str, Condition]:
    """One condition per identity, whatever order they came in."""
    rank = {Holds.YES: 2, Holds.UNKNOWN: 1, Holds.NO: 0}
    merged: dict[str, Condition] = {}
    for condition in conditions:
        key = identity(condition.labels)
        other = merged.get(key)
        if other is None or _weight(condition, rank) > _weight(other, rank):
            merged[key] = condition
    return merged


def _weight(condition: Condition, rank: Mapping[Holds, int]) -> tuple[int, list[tuple[str, str]]]:
    return rank[condition.holds], sorted(condition.annotations.items())


def _phaseless(labels: Mapping[str, str]) -> str:
    return identity({name: value for name, value in labels.items() if name != "phase"})
