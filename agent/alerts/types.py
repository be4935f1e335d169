"""The values alerts are made of: conditions that hold or not, and the incidents they open."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Holds(StrEnum):
    """Whether a condition holds now. ``UNKNOWN`` (a DNS time-out, too little data, a silent source) neither opens an
    incident nor brings one nearer to its end."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


class Onset(msgspec.Struct, frozen=True):
    """When a rate moved (Unix seconds), and the earliest and latest moment it can have been."""

    at: float
    earliest: float
    latest: float


class Cause(msgspec.Struct, frozen=True):
    """What may have caused a breach. ``key`` names the same thing at every look, ``says`` is a sentence about it,
    ``at`` when it began in Unix seconds, ``None`` if nobody knows. ``supports`` and ``contradicts`` are the evidence
    in words that made the ``score``; ``likely`` says that it is enough to tell both as one incident."""

    kind: str
    key: str
    says: str
    score: int
    likely: bool
    at: float | None = None
    supports: tuple[str, ...] = ()
    contradicts: tuple[str, ...] = ()


class Condition(msgspec.Struct, frozen=True):
    """One thing that would be worth an alert. ``labels`` are its whole identity (``alertname``, ``severity``,
    ``domain``, ``phase``, and ``target`` or ``check`` and ``subject``), never a value or a time; labels with an
    empty value are left out. ``annotations``: ``summary``, ``description``, ``runbook_url``. ``causes`` are ranked,
    the likeliest first, ``onset`` is when it began as far as is known; ``states`` is the key of the cause that the
    condition itself speaks of, ``""`` if it is none."""

    labels: dict[str, str]
    holds: Holds
    annotations: dict[str, str]
    causes: tuple[Cause, ...] = ()
    onset: Onset | None = None
    states: str = ""


class Incident(msgspec.Struct, frozen=True):
    """An open incident, as it is stored and shown. Times are Unix seconds. ``cleared_at`` is when the condition was
    first seen not to hold any more (the quiet period runs from it), 0 while it holds; ``resolved_at`` is when the
    quiet period was over, 0 before. A resolved incident is kept while Alertmanager is still being told. ``paused_at``
    is when a running quiet period was halted because nothing was known any more, 0 while it runs. ``also`` are the
    labels of further conditions of the same cause, told with this one; ``causes`` are ranked, the likeliest first;
    ``onset`` is when the rate moved, as it was first seen."""

    labels: dict[str, str]
    annotations: dict[str, str]
    starts_at: float
    cleared_at: float = 0.0
    resolved_at: float = 0.0
    paused_at: float = 0.0
    also: tuple[dict[str, str], ...] = ()
    causes: tuple[Cause, ...] = ()
    onset: Onset | None = None

    @property
    def state(self) -> str:
        """``open``, ``closing`` (quiet period running) or ``resolved``."""
        return "resolved" if self.resolved_at else "closing" if self.cleared_at else "open"
