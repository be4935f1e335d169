"""Sources that are silent or refused: when that is worth an alert, and whose rates cannot be believed meanwhile."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from agent.alerts.catalogue import condition
from agent.alerts.causes import Clue, Kind
from agent.alerts.clues import source_key
from agent.alerts.types import Condition, Holds
from agent.vitals.rhythm import Silence
from agent.vitals.types import Snapshot


class SourceHealth(msgspec.Struct, frozen=True):
    """A source's signs of life. Times are Unix seconds, 0 = never; ``domain`` and ``phase`` are ``""`` if it has
    none. ``last_received_at`` is the newest accepted request, ``last_refused_at`` the newest unauthorised one,
    ``silence`` the present one where the source has a rhythm to hold it against."""

    name: str
    domain: str
    phase: str
    last_received_at: float
    last_refused_at: float
    silence: Silence | None = None
    provider: str = ""


def source_conditions(
    sources: Iterable[SourceHealth], now: float, silent_after: float, runbook_base: str
) -> list[Condition]:
    """Conditions of the sources, at ``now`` in Unix seconds.

    A source is silent when its last accepted request is older than ``silent_after`` seconds, or sooner if by its own
    rhythm it is missing; one that never had any is merely not set up yet. It is refused when an unauthorised request
    came later than ``silent_after`` ago and after it none was accepted: one stranger's request beside good ones is no
    incident. The webhook's URL is public, so this can be provoked on a source that is idle, and the severity is a
    warning.
    """
    found = []
    for source in sources:
        labels = {"severity": "warning", "domain": source.domain, "phase": source.phase, "source": source.name}
        silence, since_refusal = now - source.last_received_at, now - source.last_refused_at
        heard = f"The last accepted webhook of {source.name} came {silence / 3600:.1f} h ago."
        missing = source.silence is not None and source.silence.missing
        if source.silence is not None:
            heard += _expected(source.silence)
        found.append(
            condition(
                "MailSourceSilent",
                Holds.YES if missing or (source.last_received_at and silence > silent_after) else Holds.NO,
                labels,
                summary=f"Source {source.name} is silent",
                description=heard if source.last_received_at else f"No webhook of {source.name} came yet.",
                runbook_base=runbook_base,
                states=source_key(source.name),
            )
        )
        refused = source.last_refused_at > source.last_received_at and since_refusal <= silent_after
        found.append(
            condition(
                "MailSourceRefused",
                Holds.YES if refused else Holds.NO,
                labels,
                summary=f"Webhooks of {source.name} are refused",
                description=f"The last webhook of {source.name} was refused as not authentic {since_refusal:.0f} s ago "
                "and none was accepted since. Most often the secret was changed on one side only."
                if refused
                else f"Webhooks of {source.name} are not being refused.",
                runbook_base=runbook_base,
                states=source_key(source.name),
            )
        )
    return found


def _expected(silence: Silence) -> str:
    since = datetime.fromtimestamp(silence.since, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f" By its rhythm of the last four weeks at least {silence.events:,.0f} events, in {silence.intervals:.0f} "
        f"intervals of five minutes, are usual for the time since {since}; none came. Up to {silence.needed:.0f} such "
        "intervals without a word can be chance."
    )


def unheard(
    conditions: Iterable[Condition], sources: Iterable[SourceHealth], snapshot: Snapshot | None
) -> dict[str, list[Clue]]:
    """The domains in whose rates the mail of a silent or refused source is missing, each with what to say of it.
    ``conditions`` are those of the sources. A source concerns its own domain, and without one all that its provider
    sent mail of within seven days."""
    not_heard = {
        c.labels["source"]: c.labels["alertname"] == "MailSourceRefused" for c in conditions if c.holds is Holds.YES
    }
    found: dict[str, list[Clue]] = defaultdict(list)
    for source in sources:
        if source.name not in not_heard:
            continue
        for domain, vitals in snapshot.domains.items() if snapshot else ():
            windows = vitals.parts.get("provider", {}).get(source.provider, {})
            if "7d" in windows and source.domain in ("", domain):
                found[domain].append(_clue(source, not_heard[source.name]))
    return dict(found)


def _clue(source: SourceHealth, refused: bool) -> Clue:
    why = "are refused" if refused else "have stopped"
    return Clue(
        kind=Kind.SOURCE,
        key=source_key(source.name),
        says=f"Webhooks of {source.name} {why}, so that deliveries through {source.provider} are missing from the rate",
        weight=-2,
        at=source.last_received_at or None,
    )
