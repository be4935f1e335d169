"""What is said of which hours: the rules of ``docs/rates.md`` as a table."""

from __future__ import annotations

import pytest

from agent.alerts.catalogue import target_holds
from agent.alerts.types import Holds
from agent.clock import DAY, HOUR
from agent.vitals import bounds
from agent.vitals.phases import PHASES
from agent.vitals.rates import Counts
from agent.vitals.types import TargetVerdict
from agent.vitals.verdicts import Hour, Target, decide, targets

NOW = 1_750_000_123.0
MET, BREACHED, UNDECIDED, INSUFFICIENT, STALE = TargetVerdict


def target(name: str, last_event_at: float = NOW - 60) -> Target:
    return next(t for t in targets(PHASES["growth"], last_event_at=last_event_at) if t.name == name)


def mail(name: str, failed: int, mails: int, age: float = 60) -> Hour:
    """One hour of so many mails, so long ago (seconds)."""
    start = int((NOW - age) // HOUR) * HOUR
    if name == "complaint":
        return start, Counts(delivered=mails, complained=failed)
    return start, Counts(delivered=mails - failed, **{"hard" if name == "bounce" else "soft": failed})


# Target; failures of mails in the last hour, three days ago, twenty days ago; the verdict and the window that decided.
TABLE = [
    # Small numbers: three failures can be chance, whatever the rate; a week of silence convicts nobody.
    ("bounce", (1, 13), (0, 0), (0, 0), INSUFFICIENT, "7d"),
    ("bounce", (2, 13), (0, 0), (0, 0), INSUFFICIENT, "7d"),
    ("bounce", (3, 13), (0, 0), (0, 0), INSUFFICIENT, "7d"),
    ("bounce", (4, 14), (0, 0), (0, 0), BREACHED, "24h"),
    ("bounce", (3, 3), (0, 0), (0, 0), INSUFFICIENT, "7d"),
    # Insufficient exactly where even no failure could not give `met`.
    ("bounce", (0, 367), (0, 0), (0, 0), INSUFFICIENT, "7d"),
    ("bounce", (0, 368), (0, 0), (0, 0), MET, "24h"),
    ("bounce", (1, 367), (0, 0), (0, 0), INSUFFICIENT, "7d"),
    ("bounce", (1, 368), (0, 0), (0, 0), UNDECIDED, "24h"),
    ("bounce", (0, 100), (0, 267), (0, 0), INSUFFICIENT, "7d"),
    ("bounce", (0, 100), (0, 268), (0, 0), MET, "7d"),
    ("bounce", (0, 100), (0, 0), (0, 100_000), INSUFFICIENT, "7d"),
    ("deliverability", (0, 71), (0, 0), (0, 0), INSUFFICIENT, "7d"),
    ("deliverability", (0, 72), (0, 0), (0, 0), MET, "24h"),
    ("complaint", (0, 3687), (0, 0), (0, 0), INSUFFICIENT, "30d"),
    ("complaint", (0, 3688), (0, 0), (0, 0), MET, "7d"),
    # The worst of the windows wins, whichever it is.
    ("bounce", (2, 5000), (2, 5000), (0, 0), MET, "24h"),
    ("bounce", (6, 500), (0, 100_000), (0, 0), UNDECIDED, "24h"),
    ("bounce", (0, 5000), (90, 3900), (0, 0), UNDECIDED, "7d"),
    ("bounce", (0, 5000), (400, 5000), (0, 0), UNDECIDED, "7d"),
    ("bounce", (400, 5000), (0, 500_000), (0, 0), BREACHED, "24h"),
    ("bounce", (1, 100), (400, 5000), (0, 0), BREACHED, "7d"),
    ("bounce", (0, 5000), (0, 0), (4000, 5000), MET, "24h"),
    ("deliverability", (0, 5000), (900, 5000), (0, 0), UNDECIDED, "7d"),
    ("deliverability", (400, 2000), (0, 500_000), (0, 0), BREACHED, "24h"),
    # Complaints: 7d and 30d alone. A bad day is none of its own, a bad month is told although the week is good.
    ("complaint", (3, 300), (0, 20_000), (0, 0), MET, "7d"),
    ("complaint", (0, 20_000), (0, 0), (60, 20_000), UNDECIDED, "30d"),
    ("complaint", (0, 20_000), (0, 0), (900, 20_000), BREACHED, "30d"),
    # More failures than trials: that window is no proportion. The other one may have something to say.
    ("complaint", (50, 10), (0, 0), (0, 0), INSUFFICIENT, "30d"),
    ("complaint", (5, 3), (0, 0), (5, 100_000), MET, "30d"),
]


@pytest.mark.parametrize(("name", "hour", "days", "weeks", "verdict", "window"), TABLE)
def test_truth(
    name: str,
    hour: tuple[int, int],
    days: tuple[int, int],
    weeks: tuple[int, int],
    verdict: TargetVerdict,
    window: str,
) -> None:
    hours = [mail(name, *hour), mail(name, *days, 3 * DAY), mail(name, *weeks, 20 * DAY)]
    found = decide(hours, target(name), NOW)
    assert (found.verdict, found.window) == (verdict, window)
    gone = decide(hours, target(name, NOW - DAY - 1), NOW)
    assert gone.verdict is STALE
    assert target_holds(gone) is Holds.UNKNOWN


def steady(rate: float, per_hour: int, count: int, before: float) -> list[Hour]:
    """Hours that fail as evenly as whole mails can, the last of them ``before`` seconds ago."""
    failed = [int((h + 1) * rate * per_hour) - int(h * rate * per_hour) for h in range(count)]
    return [mail("bounce", x, per_hour, before + (count - 1 - h) * HOUR) for h, x in enumerate(failed)]


@pytest.mark.parametrize(
    ("rate", "per_hour", "over", "met"), [(0.03, 70, 21, 148), (0.03, 700, 4, 131), (0.1, 70, 21, 164)]
)
def test_after_a_breach_the_week_has_to_be_good_as_well(rate: float, per_hour: int, over: int, met: int) -> None:
    """Twenty bad days, then 0.4 %: the breach is over when the hours since prove it, and its alert ends; ``met`` comes
    when the week as well is within the target."""
    said = {}
    for since in (over - 1, over, met - 1, met):
        hours = steady(rate, per_hour, 480, since * HOUR) + steady(0.004, per_hour, since, 0)
        said[since] = found = decide(hours, target("bounce"), NOW - NOW % HOUR + HOUR - 1)
        assert (target_holds(found) is Holds.NO) == (since >= over)
        if found.verdict is UNDECIDED and found.rate is not None and (found.rate.lower or 0) > 0.01:
            assert "was over by" in found.reason
    assert [j.verdict for j in said.values()] == [BREACHED, UNDECIDED, UNDECIDED, MET]
    undecided = said[over]
    assert undecided.window == "7d"
    assert undecided.ended is not None


@pytest.mark.parametrize("week", range(0, 400, 40))
def test_met_is_never_said_beside_a_window_that_is_beyond_the_target(week: int) -> None:
    for day in range(0, 60, 20):
        found = decide([mail("bounce", day, 5000), mail("bounce", week, 5000, 3 * DAY)], target("bounce"), NOW)
        both = day + week
        if found.verdict is MET:
            assert both < 100
            assert bounds.lower(both, 10_000) <= 0.01
        elif day == 0:
            assert both >= 80
