"""Evidence that may be looked at whenever one likes: what verdicts rest on.

A bound of fixed confidence holds at one look. Looked at every few seconds over sliding windows it is bound to fail at
some of them. The two instruments here keep their promise whenever they are read.

**For a change**: a mixture of Shiryaev-Roberts procedures, which is the e-detector of Shin, Ramdas and Rinaldo
("E-detectors: a nonparametric framework for sequential change detection", New England Journal of Statistics in Data
Science 2, 2024; the recursion is Shiryaev 1963 and Roberts 1966). For each of five alternatives to the limit, given as
odds, R becomes (R + 1) L with every hour of mail, L being the likelihood ratio of the hour's counts; the evidence is
the weighted mean of the R. While the true rate is within the limit the expectation of the evidence never exceeds the
number of hours, at whatever moment one looks, be it in the middle of an hour. So an alarm at ``ALARM`` = 336 comes,
even at a true rate exactly at the limit, no more often than once in 336 hours of mail on average (14 days), at any
volume, and far more rarely below it. An hour with less mail than could hold half a failure at the limit (50 mails at
1 %) counts as the part of an hour that it is, or the smallest senders would be judged most often by the mail. The sum
over all beginnings makes up for most of what the mixture costs.

A breach ends in the same way: the mirrored procedure must show a rate below the limit. It does so falsely, at a rate
exactly at the limit, at most once in ``RECOVERY`` = 168 hours of mail, and above it hardly ever. Evidence of a breach
that nothing confirms again goes out of date after the target's longest window.

**For a fixed beginning**: ``proof`` is made of two e-processes, likelihood ratios against the limit (Ville 1939;
Ramdas, Grünwald, Vovk and Shafer, "Game-theoretic statistics and safe anytime-valid inference", Statistical Science
38, 2023). Counted from one beginning, the chance that it *ever* proves what is false is at most 5 %.

Both assume that failures come one by one. They do not: one bad list bounces in a lump. ``Course`` measures the lumps
in the series' own quiet past (``dispersion``) and takes every likelihood ratio to the power of its inverse. For lumps
of one size that is exact (a compound Poisson count, scaled), and for independent failures merely cautious (Jensen).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import exp, log, log1p
from operator import mul

import msgspec

ALARM = 336.0
RECOVERY = 168.0
MOUNTING = ALARM / 10  # no proof of a breach, but enough to keep `met` from being said and an incident from closing
PROOF = 40.0  # a proof that a rate is within its limit: two such chances of error make 5 %
# A ratio alone would convict on two bad addresses among the first ten.
LEAST_FAILURES = 3
MOST_DISPERSION = 5.0
MOST_SCATTER = 20.0
MOST_BESIDE = 10  # failures beside the first that an hour and the one before it are believed for
PRIOR = 50.0  # the weight of having no lumps, in failures seen beside others

_ABOVE = (1.25, 1.6, 3.0, 9.0, 30.0)
_ABOVE_WEIGHTS = (0.05, 0.10, 0.33, 0.47, 0.05)
_BELOW = (1 / 1.5, 1 / 3, 1 / 9)
_BELOW_WEIGHTS = (0.4, 0.4, 0.2)
_DATING = 1  # the alternative by which the beginning of a change is found: the mildest that a breach is worth

_WHOLE_HOUR = 0.5  # failures expected at the limit: an hour of mail
_KEPT = 1 - 1 / 720  # of what is known of the dispersion, from hour to hour: a memory of some 30 days
_NEIGHBOUR = 86400  # seconds: mail of longer ago says nothing of lumps


@lru_cache(maxsize=1024)
def _ratios(limit: float, odds: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """By alternative: what one failure, and what one trial, add to the logarithm of the likelihood ratio."""
    return tuple((log(factor), -log1p(limit * (factor - 1))) for factor in odds)


class Course(msgspec.Struct):
    """How far the evidence of one series has come. Hours are Unix seconds of their beginning, 0 = none.

    ``evidence`` is in hours of mail: ``alarm`` of it is an alarm. ``breached_since`` is when the present breach is
    likely to have begun, ``confirmed`` the last hour whose evidence reached the alarm, ``ended`` the hour in which the
    last breach was over.
    """

    limit: float
    alarm: float = ALARM
    hour: int = 0
    evidence: float = 0.0
    breached_since: int = 0
    confirmed: int = 0
    ended: int = 0
    above: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(_ABOVE))
    below: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(_BELOW))
    run: float = 0.0
    run_began: int = 0
    run_failures: int = 0
    last_failures: int = 0
    last_trials: int = 0
    last_quiet: bool = True
    lumps: float = PRIOR
    weight: float = PRIOR
    all_lumps: float = PRIOR
    all_weight: float = PRIOR

    @property
    def dispersion(self) -> float:
        """By how much the variance of failures exceeds that of independent ones in hours without a breach, in
        1..``MOST_DISPERSION``."""
        return min(MOST_DISPERSION, max(1.0, self.lumps / self.weight))

    @property
    def scatter(self) -> float:
        """As ``dispersion``, which it is not below, of all hours, up to ``MOST_SCATTER``: what an interval of all of
        them has to allow for. A verdict must not put up with so much, an interval has nothing to miss by it."""
        return min(MOST_SCATTER, max(self.dispersion, self.all_lumps / self.all_weight))

    def copy(self) -> Course:
        """A course of its own that has come as far."""
        return msgspec.structs.replace(self)  # `take` replaces the lists and changes none

    def take(self, hour: int, failures: int, trials: int, memory: float) -> None:
        """Go on by one hour, or by the part of it that is over. Hours must come in order; one without trials changes
        nothing. ``memory`` in seconds is for how long a breach stands that is not confirmed again."""
        trials = max(trials, failures)
        if trials <= 0 or failures < 0:
            return
        if self.breached_since and hour - self.confirmed > memory:
            self._begin_anew()
        part = 1 / self.dispersion
        x, n = failures * part, trials * part
        ratios = _ratios(self.limit, _ABOVE)
        if self.run <= 0:
            self.run, self.run_began, self.run_failures = 0.0, hour, 0
        self.run += x * ratios[_DATING][0] + n * ratios[_DATING][1]
        self.run_failures += failures
        hours = min(1.0, trials * self.limit / _WHOLE_HOUR)
        self.above = _stepped(self.above, ratios, hours, x, n)
        self.evidence = sum(map(mul, _ABOVE_WEIGHTS, self.above))
        alarmed = self.evidence >= self.alarm and self.run_failures >= LEAST_FAILURES
        if self.breached_since and not alarmed:
            self.below = _stepped(self.below, _ratios(self.limit, _BELOW), hours, x, n)
            if sum(map(mul, _BELOW_WEIGHTS, self.below)) >= RECOVERY:
                self.ended = hour
                self._begin_anew()
        if alarmed:
            self.breached_since = self.breached_since or self.run_began
            self.confirmed = hour
            self.above, self.below = [0.0] * len(_ABOVE), [0.0] * len(_BELOW)
            self.run = 0.0
        # What a breach was made of is no measure of the quiet hours.
        quiet = not self.breached_since and self.ended != hour
        self._measure_lumps(failures, trials if hour - self.hour <= _NEIGHBOUR else 0, quiet)
        self.hour, self.last_failures, self.last_trials, self.last_quiet = hour, failures, trials, quiet

    def _begin_anew(self) -> None:
        self.breached_since = self.confirmed = 0
        self.above, self.below = [0.0] * len(_ABOVE), [0.0] * len(_BELOW)
        self.run = 0.0

    def _measure_lumps(self, failures: int, trials: int, quiet: bool) -> None:
        """Compare the hour with the one before: given the failures of both, independent ones part like the trials, so
        that the chi-square of the split is 1 on average, whatever the rate. Neighbours are compared, and not each with
        the mean, so that a rate which moved is not taken for lumps. Each counts by the failures beside the first."""
        both = failures + self.last_failures
        if both >= 2 and trials and self.last_trials:
            off = failures * self.last_trials - self.last_failures * trials
            beside = min(both - 1, MOST_BESIDE)
            split = off * off / (both * trials * self.last_trials)
            self.all_lumps += beside * min(split, 2 * MOST_SCATTER)
            self.all_weight += beside
            if quiet and self.last_quiet:
                self.lumps += beside * min(split, 2 * MOST_DISPERSION)
                self.weight += beside
        self.all_lumps = PRIOR + (self.all_lumps - PRIOR) * _KEPT
        self.all_weight = PRIOR + (self.all_weight - PRIOR) * _KEPT
        if quiet:
            self.lumps = PRIOR + (self.lumps - PRIOR) * _KEPT
            self.weight = PRIOR + (self.weight - PRIOR) * _KEPT


def _stepped(
    evidence: Sequence[float], ratios: Sequence[tuple[float, float]], hours: float, x: float, n: float
) -> list[float]:
    if x > 100 or n > 10_000:  # More might not fit a float; each of the terms is beyond doubt long before.
        return [
            (r + hours) * exp(min(x * gain + n * cost, 690)) for r, (gain, cost) in zip(evidence, ratios, strict=True)
        ]
    return [(r + hours) * exp(x * gain + n * cost) for r, (gain, cost) in zip(evidence, ratios, strict=True)]


def course(hours: Iterable[tuple[int, int, int]], limit: float, memory: float, alarm: float = ALARM) -> Course:
    """The course of a whole series of (hour, failures, trials), in any order. About 3 microseconds an hour."""
    found = Course(limit, alarm)
    for hour, failures, trials in sorted(hours):
        found.take(hour, failures, trials, memory)
    return found


def proof(failures: int, trials: int, limit: float, dispersion: float = 1.0) -> float:
    """The evidence of one period that its rate is below the limit; ``PROOF`` of it is enough.

    The greater of two, each of which reaches ``PROOF`` = 40 by chance with probability 1/40: that nothing ever fails
    (368 clean mails prove a rate below 1 %), and that the rate is a known part of the limit.
    """
    if failures == 0:
        return exp(min(-trials * log1p(-limit) / dispersion, 690))
    return _mixed(failures, trials, dispersion, _ratios(limit, _BELOW), _BELOW_WEIGHTS)


def charge(failures: int, trials: int, limit: float, dispersion: float = 1.0) -> float:
    """The evidence of one period that its rate is above the limit, as a ratio of likelihoods."""
    return _mixed(failures, trials, dispersion, _ratios(limit, _ABOVE), _ABOVE_WEIGHTS)


def _mixed(
    failures: int, trials: int, dispersion: float, ratios: Iterable[tuple[float, float]], weights: Iterable[float]
) -> float:
    exponents = ((failures * gain + trials * cost) / dispersion for gain, cost in ratios)
    return sum(w * exp(min(e, 690)) for w, e in zip(weights, exponents, strict=True))


def pooled(
    days: Iterable[tuple[int, int, int]], beginnings: Iterable[int], limit: float, dispersion: float = 1.0
) -> tuple[float, int]:
    """The evidence that a rate is above the limit, summed over the times at which the change may have come, and the
    likeliest of them: an e-detector that knows those beginnings alone.

    ``days`` are (beginning, failures, trials) and ``beginnings`` Unix seconds, both newest first. Where failures come
    long after their trials, as complaints do, a beginning that is too young would hold them against the wrong mail;
    one with more failures than trials says nothing.
    """
    evidence = held = most = 0.0
    likeliest = failures = trials = 0
    left = list(days)[::-1]
    for beginning in beginnings:
        if not held or (left and left[-1][0] >= beginning):
            while left and left[-1][0] >= beginning:
                _, failed, tried = left.pop()
                failures, trials = failures + failed, trials + tried
            held = charge(failures, trials, limit, dispersion) if failures <= trials else 0.0
        evidence += held
        if held > most:
            most, likeliest = held, beginning
    return evidence, likeliest
