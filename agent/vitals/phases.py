"""The three phases a sender goes through, with their built-in targets. Settings can override each number."""

from __future__ import annotations

import msgspec


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """One phase and what it asks for. Ratios are 0..1, capacity is attempted messages in 30 days, budget is USD a
    month, ROI is percent, duration is weeks; pairs are (least, most), ``None`` where there is no such end.

    ``complaint_max`` is met below, ``complaint_breach`` breached above: mailbox providers act on these two
    (Google and Yahoo bulk-sender rules: below 0.1 %, never 0.3 %), so every phase has them. ``sustained_days`` is for
    how many days in a row the targets must be proven before the next phase.
    """

    name: str
    duration_weeks: tuple[float, float]
    budget_usd: tuple[float, float]
    expected_roi_percent: tuple[float, float]
    deliverability_min: float = 0.95
    bounce_max: float = 0.01
    complaint_max: float = 0.001
    complaint_breach: float = 0.003
    capacity: tuple[int | None, int | None] = (None, None)
    sustained_days: int = 14


PHASES: dict[str, Phase] = {
    "foundation": Phase(name="foundation", duration_weeks=(2, 4), budget_usd=(20, 25), expected_roi_percent=(200, 400)),
    "growth": Phase(
        name="growth",
        duration_weeks=(4, 8),
        budget_usd=(150, 200),
        expected_roi_percent=(300, 500),
        capacity=(50_000, 100_000),
    ),
    "enterprise": Phase(
        name="enterprise",
        duration_weeks=(8, 12),
        budget_usd=(1_000, 2_000),
        expected_roi_percent=(400, 600),
        capacity=(500_000, None),
    ),
}
