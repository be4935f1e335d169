"""Simulated senders: their true rate is known here and to nobody else, and so is how their failures come."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from random import Random

Hour = list[int]
"""The failures of one hour by their place among its mails, in order."""


def independent(random: Random, rate: float, mails: int) -> Hour:
    """Each mail fails by itself."""
    failed, at = [], 0
    while True:
        at += int(math.log(1 - random.random()) / math.log1p(-rate)) + 1
        if at > mails:
            return failed
        failed.append(at)


def overdispersed(rho: float, random: Random, rate: float, mails: int) -> Hour:
    """Beta-binomial: each hour has a rate of its own, of which ``rho`` is the correlation within the hour."""
    size = 1 / rho - 1
    return independent(random, max(1e-9, random.betavariate(rate * size, (1 - rate) * size)), mails)


def in_bursts(size: int, random: Random, rate: float, mails: int) -> Hour:
    """Failures come in lumps of up to twice ``size`` - 1 neighbouring mails, of ``size`` on average."""
    failed: set[int] = set()
    for start in independent(random, rate / size, mails):
        failed.update(range(start, min(start + random.randint(1, 2 * size - 1), mails + 1)))
    return sorted(failed)


Nature = Callable[[Random, float, int], Hour]
NATURES: dict[str, Nature] = {
    "independent": independent,
    "hours differ (beta-binomial, correlation 0.02)": partial(overdispersed, 0.02),
    "lumps of 3 mails on average": partial(in_bursts, 3),
}


def hours(random: Random, nature: Nature, rate: float, monthly: int, count: int) -> Iterator[tuple[Hour, int]]:
    """``count`` hours of a sender: failures and mails. Volume has a day and a fraction of a mail is carried on."""
    owed = 0.0
    for h in range(count):
        owed += monthly / 720 * (1 + 0.6 * math.sin(2 * math.pi * h / 24))
        mails, owed = int(owed), owed - int(owed)
        if mails:
            yield nature(random, rate, mails), mails
