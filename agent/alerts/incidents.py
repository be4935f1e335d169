"""Incidents: conditions with memory, one for each cause.

An incident opens once, keeps its start, and ends only after a quiet period. What turns out to be of the same cause is
told with it and opens none of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from agent.alerts.causes import in_words
from agent.alerts.types import Cause, Condition, Holds, Incident

QUIET_PERIOD = 1800.0
# Prometheus tells Alertmanager of a resolved alert for as long, in case a message is lost.
RESOLVED_KEPT = 900.0

_SEVERITIES = ("info", "warning", "critical")
# Of conditions that hold from the same look on the first heads the incident: the cause before what it does.
_HEADS = ("MailBlocklisted", "MailDnsCheckFailing", "MailTargetBreached", "MailSourceRefused", "MailSourceSilent")
_BREACH = "MailTargetBreached"
_TARGETS = ("bounce", "deliverability", "complaint")
_NESTED = _TARGETS[:2]  # every bounce is also something that was not delivered
_MOST_TOLD, _MOST_CHARACTERS = 5, 600


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
    - Several conditions that differ in nothing but severity count as one: ``YES`` before ``UNKNOWN`` before ``NO``,
      then the gravest.
    - A condition that holds joins an open incident of the same cause instead of opening one. The incident then goes on
      while any of its conditions holds.
    - Severity only rises. Since it is part of what Alertmanager knows an alert by, the incident goes on under its new
      labels, with the same ``starts_at``, and what it was before is resolved in the same moment.

    A resolved incident stays for ``RESOLVED_KEPT`` seconds; if its condition returns, a new one takes its place.
    """
    present = _merged(conditions)
    result: dict[str, Incident] = {}
    going_on: dict[str, Incident] = {}
    owned: set[str] = set()
    without_phase: set[str] | None = None
    for key, incident in sorted(incidents.items(), key=_gravest_first):
        if incident.resolved_at:
            if now - incident.resolved_at < RESOLVED_KEPT:
                result[key] = incident
            continue
        own = _without(incident.labels, "severity")
        if own not in present and without_phase is None:
            without_phase = {_without(c.labels, "phase", "severity") for c in present.values()}
        moved = own not in present and _without(incident.labels, "phase", "severity") in (without_phase or ())
        if moved or own in owned:
            result[key] = _resolved(incident, now)
        else:
            going_on[key] = incident
            owned.update(_members(incident))
    known = set(going_on)
    fresh = [c for name, c in present.items() if c.holds is Holds.YES and name not in owned]
    for condition in sorted(fresh, key=_precedence):
        labels = {label: value for label, value in condition.labels.items() if value}
        home = next((k for k, incident in going_on.items() if _of_one_cause(condition, incident, present)), None)
        if home is None:
            going_on[identity(labels)] = Incident(
                labels, condition.annotations, now, causes=condition.causes, onset=condition.onset
            )
        else:
            joined = going_on[home]
            going_on[home] = msgspec.structs.replace(joined, also=(*joined.also, labels))
    for key, incident in going_on.items():
        own_conditions = [present.get(name) for name in _members(incident)]
        after = _advance(incident, own_conditions, now, quiet_period)
        worst = max((c.labels for c in own_conditions if c and c.holds is Holds.YES), key=_severity, default={})
        if _severity(worst) > _severity(incident.labels):
            after = msgspec.structs.replace(after, labels=incident.labels | {"severity": worst["severity"]})
            if key in known:
                result[key] = _resolved(msgspec.structs.replace(incident, also=(), causes=()), now)
        result[identity(after.labels)] = after
    return result


def _gravest_first(pair: tuple[str, Incident]) -> tuple[int, float, str]:
    key, incident = pair
    return -_severity(incident.labels), incident.starts_at, key


def _advance(incident: Incident, conditions: Sequence[Condition | None], now: float, quiet_period: float) -> Incident:
    looks = [condition.holds if condition else Holds.NO for condition in conditions]
    if Holds.YES in looks:
        holding = [c for c in conditions if c and c.holds is Holds.YES]
        causes = next((c.causes for c in holding if c.causes), incident.causes)
        return msgspec.structs.replace(
            incident,
            annotations=_told(holding, causes),
            causes=causes,
            onset=incident.onset or next((c.onset for c in holding if c.onset), None),
            cleared_at=0.0,
            resolved_at=0.0,
            paused_at=0.0,
        )
    if Holds.UNKNOWN in looks:
        if incident.cleared_at and not incident.paused_at:
            return msgspec.structs.replace(incident, paused_at=now)
        return incident
    cleared_at = incident.cleared_at or now
    if incident.paused_at:
        cleared_at += now - incident.paused_at
    over = now - cleared_at >= quiet_period
    return msgspec.structs.replace(incident, cleared_at=cleared_at, paused_at=0.0, resolved_at=now if over else 0.0)


def _told(holding: Sequence[Condition], causes: Sequence[Cause]) -> dict[str, str]:
    """What is said of an incident: its first condition, what is likely behind it, and what else goes with it."""
    first, *others = holding
    parts = [first.annotations.get("description", "")]
    if causes or any(c.labels.get("alertname") == _BREACH for c in holding):
        parts.append(in_words(causes))
    for condition in others[:_MOST_TOLD]:
        said = f"{condition.annotations.get('summary', '')}. {condition.annotations.get('description', '')}"
        parts.append("Also: " + (said if len(said) <= _MOST_CHARACTERS else said[:_MOST_CHARACTERS] + "…"))
    if len(others) > _MOST_TOLD:
        parts.append(f"And {len(others) - _MOST_TOLD} more.")
    return first.annotations | {"description": "\n".join(filter(None, parts))}


def _of_one_cause(condition: Condition, incident: Incident, present: Mapping[str, Condition]) -> bool:
    """Whether a condition that begins to hold is to be told with an incident that is open.

    It is where it speaks of the same thing (a record, an address, a source), where it is a breach of which the incident
    is likely the cause, or the other way round, and where both are breaches of one domain that likely have the same
    cause. Bounce and deliverability measure the same: they are one unless each likely has a cause of its own.
    """
    name = condition.labels.get("alertname")
    states = {present[member].states for member in _members(incident) if member in present} - {""}
    mine, its = _likely(condition.causes), _likely(incident.causes)
    if condition.states:
        # A secret that is refused is news even of a source that was silent before.
        return condition.states == its or (condition.states in states and name != "MailSourceRefused")
    if mine and mine in states:
        return True
    breaches = [
        labels.get("target")
        for labels in (incident.labels, *incident.also)
        if name == labels.get("alertname") == _BREACH
        and all(labels.get(label) == condition.labels.get(label) for label in ("domain", "phase"))
    ]
    if condition.labels.get("target") in _NESTED and any(target in _NESTED for target in breaches):
        return not (mine and its and mine != its)
    return bool(breaches) and bool(mine) and mine == its


def _likely(causes: Sequence[Cause]) -> str:
    return causes[0].key if causes and causes[0].likely else ""


def _members(incident: Incident) -> list[str]:
    return [_without(labels, "severity") for labels in (incident.labels, *incident.also)]


def _resolved(incident: Incident, now: float) -> Incident:
    return msgspec.structs.replace(incident, resolved_at=now, cleared_at=incident.cleared_at or now)


def _precedence(condition: Condition) -> tuple[int, int, int, str]:
    labels = condition.labels
    name, target = labels.get("alertname", ""), labels.get("target", "")
    return (
        _HEADS.index(name) if name in _HEADS else len(_HEADS),
        -_severity(labels),
        _TARGETS.index(target) if target in _TARGETS else len(_TARGETS),
        identity(labels),
    )


def _severity(labels: Mapping[str, str]) -> int:
    severity = labels.get("severity", "")
    return _SEVERITIES.index(severity) if severity in _SEVERITIES else -1


def _merged(conditions: Iterable[Condition]) -> dict[str, Condition]:
    """One condition for all that differ in severity alone, whatever order they came in."""
    merged: dict[str, Condition] = {}
    for condition in conditions:
        key = _without(condition.labels, "severity")
        other = merged.get(key)
        if other is None or _weight(condition) > _weight(other):
            merged[key] = condition
    return merged


_RANK = {Holds.YES: 2, Holds.UNKNOWN: 1, Holds.NO: 0}


def _weight(condition: Condition) -> tuple[int, int, list[tuple[str, str]]]:
    return _RANK[condition.holds], _severity(condition.labels), sorted(condition.annotations.items())


def _without(labels: Mapping[str, str], *names: str) -> str:
    return identity({name: value for name, value in labels.items() if name not in names})
