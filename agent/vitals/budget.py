"""Targets as a budget of the calendar month (UTC), in messages: how many may fail, how many are left, for how long.

What may fail is the limit times the mails of the month, projected to its end. Burn rates are multiples of the limit, as
in the workbook of site reliability (Google, "The Site Reliability Workbook", chapter 5); its fixed thresholds are not
for mail: fourteen times a budget of 5 % is 72 %, and at 70 mails an hour its windows of an hour decide nothing. Here a
budget runs out when the evidence of the last seven days says that the rate is above the one it can bear to the end of
the month, and the last day goes on like that.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from agent.clock import DAY
from agent.vitals import bounds
from agent.vitals.rates import Counts
from agent.vitals.sequence import LEAST_FAILURES, charge
from agent.vitals.types import Budget, BudgetState
from agent.vitals.verdicts import Target
from agent.vitals.volume import month_start

ENOUGH = 100.0
"""The likelihood ratio that a ticket asks for."""


def budget(
    target: Target,
    now: float,
    *,
    month: Counts,
    week: Counts,
    day: Counts,
    to_come: Mapping[int, float] | None,
    dispersion: float = 1.0,
) -> Budget:
    """The budget of a target at ``now`` (Unix seconds), from what happened in the calendar month, the last seven days
    and the last day.

    ``to_come`` are the mails expected on each day from now to the end of the month (``volume.expected``), ``None``
    before there is enough history. Takes about 100 microseconds.
    """
    limit = target.share(target.met)
    used, trials = target.of(month)
    failures, mails = target.of(week)
    # Complaints are of delivered mail.
    part = trials / month.attempted if month.attempted else 1.0
    ahead = {d: n * part for d, n in sorted((to_come or {}).items())}
    rest = sum(ahead.values())
    volume = trials + round(rest)
    allowed = int(limit * volume)
    found = Budget(
        target.name, BudgetState.TOO_LITTLE, month_start(now), volume, to_come is not None, allowed, used,
        allowed - used, _burn(*target.of(day), limit), _burn(failures, mails, limit),
    )  # fmt: skip
    if to_come is None or mails <= 0 or not 0 <= failures <= mails:
        return found
    if used > allowed:
        # What has failed stays failed: only a month larger than expected could make room.
        state = BudgetState.SPENT if used - allowed >= LEAST_FAILURES else BudgetState.SPENDING
        return msgspec.structs.replace(found, state=state, ends_at=int(now // DAY) * DAY)
    x, n = round(failures / dispersion), max(1, round(mails / dispersion))
    low, high = bounds.lower(x, n), bounds.upper(x, n)
    bearable = (allowed - used) / rest if rest else 1.0
    last, still = target.of(day)
    if (
        failures >= LEAST_FAILURES
        and 0 < bearable < 1
        and charge(failures, mails, bearable, dispersion) >= ENOUGH
        and last > bearable * still
    ):
        state = BudgetState.RUNNING_OUT
    elif high <= bearable:
        state = BudgetState.LASTING
    elif bounds.upper(0, n) > bearable > 0:
        return found
    else:
        state = BudgetState.SPENDING
    left = float(allowed - used)
    return msgspec.structs.replace(
        found,
        state=state,
        ends_at=_ends(ahead, left, failures / mails),
        earliest=_ends(ahead, left, high),
        latest=_ends(ahead, left, low),
    )


def _burn(failures: int, trials: int, limit: float) -> float | None:
    return failures / trials / limit if 0 <= failures <= trials and trials else None


def _ends(ahead: Mapping[int, float], left: float, rate: float) -> int | None:
    for day, mails in ahead.items():
        left -= rate * mails
        if left < 0:
            return day
    return None
