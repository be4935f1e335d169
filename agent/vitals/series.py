"""The series that are looked at over time: what each counts by the hour, and of how many mails."""

from __future__ import annotations

from collections.abc import Collection

from agent.vitals.rates import COUNTED_CLASSES, Counts, proportion
from agent.vitals.types import Rate

Hour = tuple[int, Counts]
"""(Unix time at which the hour began, what happened in it)"""

SERIES = ("bounce", "deliverability", "complaint", "block", "deferral", "volume")


def measured(counts: Counts, rate: str, bounce_classes: Collection[str] = COUNTED_CLASSES) -> tuple[int, int]:
    """What a series counts, and of how many mails: failures for every rate, ``deliverability`` included. Of ``volume``
    the second is 1: each hour weighs the same. Raises ``ValueError`` for a rate that is not in ``SERIES``."""
    if rate == "bounce":
        return counts.of_classes(bounce_classes), counts.attempted
    if rate == "deliverability":
        return counts.bounced, counts.attempted
    if rate == "complaint":
        return counts.complained, counts.delivered
    if rate == "block":
        return counts.block, counts.attempted
    if rate == "deferral":
        return counts.deferred_pairs, counts.attempted
    if rate == "volume":
        return counts.attempted, 1
    raise ValueError(f"no series {rate}")


def as_rate(rate: str, failures: int, trials: int) -> Rate | None:
    """The rate that these failures make, as ``rates`` would publish it; ``None`` over nothing."""
    if trials <= 0:
        return None
    if rate == "deferral":
        return Rate(failures / trials, None, None, failures, trials)
    return proportion(trials - failures if rate == "deliverability" else failures, trials)
