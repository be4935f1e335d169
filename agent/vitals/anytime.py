"""Intervals that hold at every look of a period at once: confidence sequences.

The interval of Clopper and Pearson errs in five of a hundred cases at one look, and sooner or later for whoever goes on
looking. These err in five of a hundred *periods*, whatever the looks, and however the worst of them was chosen.

Let every mail, given all that came before it, fail with a chance of its own. Then for any fixed factor e^k the product
of e^(k x) over the failures x and e^(-m (e^k - 1)) over m, the sum of the chances so far, is a nonnegative
supermartingale (1 + p (e^k - 1) <= e^(p (e^k - 1))). So is a mean of several, and by Ville's inequality (1939) it ever
reaches 40 with probability 1/40 at most. All m for which it has not are the interval, for each end by factors of its
own. This is a discrete mixture in the sense of Howard, Ramdas, McAuliffe and Sekhon ("Time-uniform, nonparametric,
nonasymptotic confidence sequences", Annals of Statistics 49, 2021) for Poisson counts, after Robbins ("Statistical
methods related to the law of the iterated logarithm", Annals of Mathematical Statistics 41, 1970).

What it covers is m / n, the mean of the chances of the period so far. They may differ from mail to mail, drift, and
depend on the past; nothing is assumed to be constant, and failures need not be of the mail beside them (complaints). A
sliding window is a period that begins at every step anew: each beginning gets its share of the 5 % (a union bound), so
that all looks at all windows of 31 days are covered together. Lumps count as in ``sequence``: what is seen is divided
by their dispersion.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from math import ceil, exp, expm1, log, sqrt

from agent.vitals.rates import Counts
from agent.vitals.types import Rate
from agent.vitals.verdicts import Target

MONTH = "month"
BEGINNINGS = {MONTH: 1, "24h": 31 * 24 * 60, "7d": 31 * 24, "30d": 31 * 24}
"""By period: how many of it begin in 31 days. 24h moves by the minute, longer windows by the hour."""

_ENOUGH = 40.0  # two ends with a chance of 1/40 each make 5 %
_FACTORS = tuple(4 / 2**i for i in range(12))  # from the scale of one failure to that of four million
_STEP = 20  # a dispersion is rounded up to the next twentieth, so that bounds are found again


def interval(failures: int, trials: int, *, beginnings: int = 1, dispersion: float = 1.0) -> tuple[float, float]:
    """The bounds (0..1) of the mean chance to fail of a period with so many failures of so many trials, at every look
    at once; for a window, at all of its ``beginnings``. Some 90 microseconds for a number of failures that is new,
    less than one for others. Raises ``ValueError`` unless 0 <= failures <= trials and trials, beginnings and dispersion
    are 1 at least."""
    if not (0 <= failures <= trials and trials >= 1 and beginnings >= 1 and dispersion >= 1):
        raise ValueError(f"no interval for {failures} of {trials}, {beginnings} beginnings, dispersion {dispersion}")
    lumps = ceil(dispersion * _STEP - 1e-9) / _STEP
    low, high = _expected(failures / lumps, log(_ENOUGH * beginnings))
    return low * lumps / trials, min(1.0, high * lumps / trials)


def published(target: Target, counts: Counts, period: str, dispersion: float) -> Rate | None:
    """The rate of a target in a period of ``BEGINNINGS`` with the interval that holds at every look, ``None`` over
    nothing. More failures than trials have no bounds, as in ``proportion``."""
    failures, trials = target.of(counts)
    if trials <= 0:
        return None
    good = target.name == "deliverability"
    numerator = trials - failures if good else failures
    if not 0 <= failures <= trials:
        return Rate(numerator / trials, None, None, numerator, trials)
    low, high = interval(failures, trials, beginnings=BEGINNINGS[period], dispersion=dispersion)
    if good:
        low, high = 1 - high, 1 - low
    return Rate(numerator / trials, low, high, numerator, trials)


class Anytime(Mapping[str, dict[str, Rate]]):
    """The intervals of one domain by period and target, as far as there was mail. They are worked out for who asks, and
    once."""

    __slots__ = ("_counts", "_found", "_held")

    def __init__(self, counts: Mapping[str, Counts], held: Iterable[tuple[Target, float]]) -> None:
        """``counts`` by period, ``MONTH`` among them; ``held`` are the targets, each with the dispersion of its
        failures."""
        self._counts = counts
        self._held: dict[str, list[tuple[Target, float]]] = {}
        for target, dispersion in held:
            for period in (*target.windows, MONTH) if target.name != "capacity" else ():
                if target.of(counts[period])[1] > 0:
                    self._held.setdefault(period, []).append((target, dispersion))
        self._found: dict[str, dict[str, Rate]] = {}

    def __getitem__(self, period: str) -> dict[str, Rate]:
        found = self._found.get(period)
        if found is None:
            rates = {each.name: published(each, self._counts[period], period, d) for each, d in self._held[period]}
            found = self._found[period] = {name: rate for name, rate in rates.items() if rate is not None}
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)


@lru_cache(maxsize=65536)
def _expected(seen: float, enough: float) -> tuple[float, float]:
    """The bounds of the sum of chances after so many failures; ``enough`` is the logarithm of the evidence at which a
    sum is excluded."""
    spread = sqrt(2 * enough * (seen + enough))
    high = _crossing(seen, enough, -1, seen + spread)
    return (_crossing(seen, enough, 1, max(0.0, seen - spread)) if seen else 0.0), high


def _crossing(seen: float, enough: float, sign: int, guess: float) -> float:
    """Where the evidence against a sum m, by factors above 1 (``sign`` 1) or below (-1), is ``enough``; 0 if even no
    chance at all leaves less. The logarithm of the evidence is convex in m, so that Newton's steps, from the second on,
    come from the excluded side and never pass the root: what is returned errs on the safe side."""
    gains = [sign * k * seen for k in _FACTORS]
    costs = [-expm1(sign * k) for k in _FACTORS]
    m = guess
    for _ in range(60):
        exponents = [gain + m * cost for gain, cost in zip(gains, costs, strict=True)]
        most = max(exponents)
        terms = [exp(e - most) for e in exponents]
        whole = sum(terms)
        off = most + log(whole / len(terms)) - enough
        if m <= 0 and sign > 0 and off <= 0:
            return 0.0
        step = off * whole / sum(term * cost for term, cost in zip(terms, costs, strict=True))
        m = max(0.0, m - step)
        if abs(step) <= 1e-6 * (1 + m):  # the step just made left about its square
            break
    return m
