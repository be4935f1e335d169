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


class Condition(msgspec.Struct, frozen=True):
    """One thing that would be worth an alert. ``labels`` are its whole identity (``alertname``, ``severity``,
    ``domain``, ``phase``, and ``target`` or ``check`` and ``subject``), never a value or a time; labels with an
    empty value are left out. ``annotations``: ``summary``, ``description``, ``runbook_url``."""

    labels: dict[str, str]
    holds: Holds
    annotations: dict[str, str]


class Incident(msgspec.Struct, frozen=True):
    """An open incident, as it is stored and shown. Times are Unix seconds. ``cleared_at`` is when the condition was
    first seen not to hold any more (the quiet period runs from it), 0 while it holds; ``resolved_at`` is when the
    quiet period was over, 0 before. A resolved incident is kept while Alertmanager is still being told. ``paused_at``
    is when a running quiet period was halted because nothing was known any more, 0 while it runs."""

    labels: dict[str, str]
    annotations: dict[str, str]
    starts_at: float
    cleared_at: float = 0.0
    resolved_at: float = 0.0
    paused_at: float = 0.0

    @property
    def state(self) -> str:
        """``open``, ``closing`` (quiet period running) or ``resolved``."""
        return "resolved" if self.resolved_at else "closing" if self.cleared_at else "open"
