"""Mail as it might come, hour by hour, from a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

from agent.vitals.rates import Counts
from agent.vitals.series import Hour

HOUR, DAY = 3600, 86400
# A Monday, 00:00 UTC.
MONDAY = 1_750_032_000


def poisson(draw: random.Random, mean: float) -> int:
    if mean > 50:
        return max(0, round(draw.gauss(mean, math.sqrt(mean))))
    limit, product, count = math.exp(-mean), draw.random(), 0
    while product > limit:
        product *= draw.random()
        count += 1
    return count


def flat(hour: int) -> float:
    return 1.0


def office(hour: int) -> float:
    """Weekends and nights are quieter; of the mean over the week."""
    day, clock = hour // 24 % 7, hour % 24
    return (0.3 if day >= 5 else 1.28) * (0.3 if clock < 7 else 1.5 if clock < 18 else 0.8)


def weekend(hour: int) -> float:
    """Three times as much goes wrong on Saturdays and Sundays."""
    return 3.0 if hour // 24 % 7 >= 5 else 1.0


def mail(
    seed: object,
    monthly: float,
    share: float,
    *,
    hours: int = 720,
    volume: Callable[[int], float] = flat,
    failing: Callable[[int], float] = flat,
    spread: float = 0.0,
) -> list[Hour]:
    """Hours from ``MONDAY`` on with ``monthly`` mails in 720 of them, of which ``share`` bounces hard; both times a
    factor by the hour. With ``spread``, each day has a bounce rate of its own, with this coefficient of variation."""
    draw = random.Random(repr(seed))
    return list(_mail(draw, monthly, share, hours, volume, failing, spread))


def _mail(
    draw: random.Random, monthly: float, share: float, hours: int, volume: Callable[[int], float],
    failing: Callable[[int], float], spread: float,
) -> Iterator[Hour]:  # fmt: skip
    today = 1.0
    for hour in range(hours):
        if spread and hour % 24 == 0:
            today = draw.gammavariate(1 / spread**2, spread**2)
        mails = poisson(draw, monthly / 720 * volume(hour))
        hard = min(mails, poisson(draw, mails * share * failing(hour) * today))
        yield MONDAY + hour * HOUR, Counts(delivered=mails - hard, hard=hard)
