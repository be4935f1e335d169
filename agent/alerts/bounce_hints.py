"""What a domain's newest bounces have in common, as a sentence for those who must do something about it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from agent.classify import Diagnosis

# Fewer bounces, or a hint that less than half of them give, would send people the wrong way.
FEWEST = 10
SHARE = 0.5
_MOST = 2


class Hints(msgspec.Struct, frozen=True):
    """How many of so many bounces give each hint; one bounce can give several. They are a sample, the newest."""

    total: int
    counts: dict[str, int]


def count_hints(bounces: Iterable[tuple[str, Diagnosis]]) -> dict[str, Hints]:
    """The hints by domain. ``bounces`` are pairs of domain and diagnosis."""
    totals, hints = Counter[str](), defaultdict[str, Counter[str]](Counter)
    for domain, diagnosis in bounces:
        totals[domain] += 1
        hints[domain].update(diagnosis.points_to)
    return {domain: Hints(total, dict(hints[domain])) for domain, total in totals.items()}


def sentence(hints: Hints, words: Mapping[str, str]) -> str:
    """The one or two hints that at least half of the bounces give, ``""`` if there are none or fewer than ten bounces
    to go by. ``words`` names the hints for people."""
    common = [(hint, n) for hint, n in Counter(hints.counts).most_common(_MOST) if n >= SHARE * hints.total]
    if hints.total < FEWEST or not common:
        return ""
    told = " and ".join(f"{n} point to {words[hint]}" for hint, n in common)
    return f"Of the {hints.total} newest bounces at hand, {told}."
