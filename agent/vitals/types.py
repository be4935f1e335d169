"""The values that vitals produces: rates with bounds, verdicts with reasons, one snapshot of everything."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from agent.clock import DAY, HOUR, WEEK

WINDOWS = {"1h": HOUR, "6h": 6 * HOUR, "24h": DAY, "7d": WEEK, "30d": 30 * DAY}
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


class BudgetState(StrEnum):
    """``lasting``: it is proven to last to the end of the month; ``running_out``: not to; ``spending``: neither is
    proven; ``spent``: more has failed than the whole month may; ``too_little_to_say``: less than seven days of history,
    or so few mails that not even a week without a failure could prove anything."""

    LASTING = "lasting"
    SPENDING = "spending"
    RUNNING_OUT = "running_out"
    SPENT = "spent"
    TOO_LITTLE = "too_little_to_say"


class Budget(msgspec.Struct, frozen=True):
    """The budget of one target for one calendar month, in messages (``budget``). ``month`` is when it began;
    ``volume`` the mails of the month, projected to its end if ``projected``, else so far; ``allowed`` of them may fail,
    ``used`` did, ``left`` is below 0 when it is overdrawn. ``burn_24h`` and ``burn_7d`` are the failure rate of the
    last day and week in multiples of the limit, ``None`` without mail. ``ends_at`` is when the budget ends at the rate
    of the last seven days, ``earliest`` and ``latest`` at its 95 % bounds: Unix times, beginnings of days (UTC),
    ``None`` where it lasts to the end of the month or nobody can tell."""

    target: str
    state: BudgetState
    month: int
    volume: int
    projected: bool
    allowed: int
    used: int
    left: int
    burn_24h: float | None = None
    burn_7d: float | None = None
    ends_at: int | None = None
    earliest: int | None = None
    latest: int | None = None

    @property
    def sentence(self) -> str:
        """The budget for people: ``312 bounces left of 500``."""
        what = {"bounce": "bounces", "deliverability": "failures", "complaint": "complaints"}[self.target]
        basis = "projected" if self.projected else "so far"
        mails = f"for the {self.volume:,} mails of the month ({basis})"
        if self.left < 0:
            return f"{self.used:,} {what}, {-self.left:,} more than the {self.allowed:,} {mails}"
        return f"{self.left:,} {what} left of {self.allowed:,} {mails}"


class DomainVitals(msgspec.Struct, frozen=True):
    """Everything known of one domain. ``rates[window][rate]``; ``parts[scope][part][window][rate]`` for the scopes
    provider, mailbox_provider and stream; ``attempted[window]`` in messages. ``monthly_volume`` is attempted in the
    calendar month (UTC) so far, ``monthly_projection`` is ``None`` before seven days of history.
    ``last_event_at`` is Unix seconds, 0 when there never was an event. ``budgets`` are those of the rate targets.
    ``anytime[period][target]`` are the rates of the targets in the windows they are judged over, and in the calendar
    month so far (``month``), with bounds that hold at every look of the period at once (``agent.vitals.anytime``)."""

    domain: str
    phase: str
    rates: Mapping[str, Mapping[str, Rate]]
    parts: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Rate]]]]
    attempted: dict[str, int]
    judgements: tuple[Judgement, ...]
    monthly_volume: int
    monthly_projection: float | None
    last_event_at: float
    budgets: tuple[Budget, ...] = ()
    anytime: Mapping[str, Mapping[str, Rate]] = msgspec.field(default_factory=dict)


class Snapshot(msgspec.Struct, frozen=True):
    """All domains at one moment. ``evaluated_at`` is Unix seconds."""

    evaluated_at: float
    domains: dict[str, DomainVitals]
