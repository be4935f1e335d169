"""The targets of a domain's parts, and which of them explains a breach.

A domain has many parts, and whoever looks at twenty finds something in one of them. Evidence that is an e-value can
pay for that in the simplest way: each of m parts needs m times as much (the mean of e-values is one: Vovk and Wang,
"E-values: calibration, combination and applications", Annals of Statistics 49, 2021). So the promise of ``sequence``,
at a rate at the limit one false alarm in 336 hours of mail at most, holds for all parts of a domain together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations

import msgspec

from agent.clock import HOUR
from agent.vitals.late import Days
from agent.vitals.rates import Counts, total
from agent.vitals.sequence import ALARM, PROOF, charge, course
from agent.vitals.types import SCOPES, WINDOWS, TargetVerdict
from agent.vitals.verdicts import Target, judge, standing, standing_of_days

Cell = tuple[str, str, str, str]
"""(domain, provider, stream, mailbox provider)"""
Hours = Mapping[int, Counts]

_PLACE = {"provider": 1, "stream": 2, "mailbox_provider": 3}
_WORDS = {"mailbox_provider": "{} only", "provider": "through {} only", "stream": "in stream {} only"}
_ORDER = ("mailbox_provider", "provider", "stream")
_WORTH = 10.0  # a narrower explanation must be so much likelier than a wider one
_FEWEST = 10  # failures: fewer can be everywhere by chance
EVERYWHERE = "everywhere"
CANNOT_TELL = "cannot tell"


class PartVerdict(msgspec.Struct, frozen=True):
    """What a target says of one part. ``failures`` of ``trials`` are those of its longest window, ``since`` when a
    present breach is likely to have begun (Unix seconds)."""

    scope: str
    part: str
    target: str
    verdict: TargetVerdict
    failures: int
    trials: int
    since: float | None = None


class Explanation(msgspec.Struct, frozen=True):
    """Which part of the mail makes a breach. ``where`` is in words: ``microsoft only, through mailgun only``,
    ``everywhere`` or ``cannot tell``; the counts, since the breach began, are of that part and of the rest."""

    target: str
    where: str
    failures: int = 0
    trials: int = 0
    other_failures: int = 0
    other_trials: int = 0

    @property
    def sentence(self) -> str:
        """For people; ``""`` where there is nothing to tell."""
        if self.where == CANNOT_TELL:
            return ""
        if self.where == EVERYWHERE:
            return "Where: everywhere, no part of the mail stands out."
        here, rest = f"{self.failures:,} of {self.trials:,}", f"{self.other_failures:,} of {self.other_trials:,}"
        return f"Where: {self.where} ({here} failed there, {rest} elsewhere)."


def judge_parts(
    parts: Mapping[tuple[str, str], Hours], targets: Sequence[Target], now: float
) -> tuple[PartVerdict, ...]:
    """The verdicts of the parts of one domain by (scope, name), out of their hours of 30 days. Some 8 milliseconds for
    a part with mail in every hour."""
    several = {part: hours for part, hours in parts.items() if part[0]}
    alarm = ALARM * max(1, len(several))
    found = []
    for (scope, name), hours in sorted(several.items()):
        kept = {hour: counts for hour, counts in hours.items() if now - WINDOWS["30d"] - HOUR < hour <= now}
        for target in targets:
            if target.name == "capacity":
                continue
            totals = {
                window: total(counts for hour, counts in kept.items() if hour > now - WINDOWS[window] - HOUR)
                for window in target.windows
            }
            series = [(hour, *target.of(counts)) for hour, counts in kept.items()]
            if target.name == "complaint":
                days = Days()
                for each in series:
                    days.take(*each)
                stands = standing_of_days(days, target, now, alarm)
            else:
                stands = standing(course(series, target.share(target.breach), target.memory, alarm), target, now)
            judgement = judge(target, totals, stands, now)
            failures, trials = target.of(totals[target.windows[-1]])
            found.append(PartVerdict(scope, name, target.name, judgement.verdict, failures, trials, judgement.since))
    return tuple(found)


def explain(cells: Mapping[Cell, Counts], target: Target, dispersion: float = 1.0) -> Explanation:
    """Which part of a domain's mail makes a breach: one provider, mailbox provider or stream, or two of these together.

    ``cells`` are the counts since the breach began. If failures were everywhere alike, those of a part would be a
    share of all failures as its mails are of all mails; how much likelier a greater share is (``charge``) is the
    evidence that the part is worse than the rest. As many parts are tried, as many times it must exceed a proof. A part
    explains the breach if, without it, the rest is within the limit by its own rate. Of several that do, the likeliest
    is told, and the wider one unless the narrower is much likelier.
    """
    counted = {cell: target.of(counts) for cell, counts in cells.items()}
    failures, trials = (sum(each[i] for each in counted.values()) for i in (0, 1))
    limit = target.share(target.breach)
    nothing = Explanation(target.name, CANNOT_TELL)
    if failures < _FEWEST or failures > trials:
        return nothing
    candidates = list(_candidates(counted))
    best: tuple[float, tuple[tuple[str, str], ...], int, int] | None = None
    alike = bool(candidates)
    for labels, cells_of in candidates:
        x, n = (sum(counted[cell][i] for cell in cells_of) for i in (0, 1))
        if not 0 < n < trials:
            continue
        evidence = charge(x, failures, n / trials, dispersion)
        if evidence < PROOF * len(candidates):
            continue
        alike = False
        innocent = failures - x <= limit * (trials - n)
        if innocent and (best is None or evidence > best[0] * (_WORTH if len(labels) > len(best[1]) else 1)):
            best = evidence, labels, x, n
    if best is not None:
        _, labels, x, n = best
        told = sorted(labels, key=lambda label: _ORDER.index(label[0]))
        where = ", ".join(_WORDS[scope].format(name) for scope, name in told)
        return Explanation(target.name, where, x, n, failures - x, trials - n)
    # That nothing stands out tells something only where there was something to tell apart.
    if alike and _comparable(counted, failures / trials):
        return Explanation(target.name, EVERYWHERE, failures, trials)
    return nothing


def _candidates(cells: Collection[Cell]) -> Iterator[tuple[tuple[tuple[str, str], ...], list[Cell]]]:
    """Every part, then every pair of parts of two scopes that has mail and is not one of the parts again."""
    groups: dict[tuple[tuple[str, str], ...], list[Cell]] = {}
    for size in (1, 2):
        for scopes in combinations(SCOPES, size):
            for cell in cells:
                labels = tuple((scope, cell[_PLACE[scope]]) for scope in scopes)
                if all(name for _, name in labels):
                    groups.setdefault(labels, []).append(cell)
    seen: set[frozenset[Cell]] = set()
    for labels, own in groups.items():
        if len(own) < len(cells) and frozenset(own) not in seen:
            seen.add(frozenset(own))
            yield labels, own


def _comparable(counted: Mapping[Cell, tuple[int, int]], rate: float) -> bool:
    """Whether some scope has two parts in each of which enough failures were to be expected."""
    for place in _PLACE.values():
        trials: dict[str, int] = {}
        for cell, (_, n) in counted.items():
            trials[cell[place]] = trials.get(cell[place], 0) + n
        if sum(n * rate >= _FEWEST for n in trials.values()) > 1:
            return True
    return False
