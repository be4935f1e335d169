"""What a domain's newest bounces have in common, as a sentence for those who must do something about it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from agent.classify import Diagnosis

# Fewer bounces, or a hint that less than half of them give, would send people the wrong way.
FEWEST = 10
SHARE = 0.5
_MOST = 2


def hint_sentences(bounces: Iterable[tuple[str, Diagnosis]], words: Mapping[str, str]) -> dict[str, str]:
    """By domain, the one or two hints that at least half of its bounces give, where there are at least ten to go by.

    ``bounces`` are pairs of domain and diagnosis; ``words`` names the hints for people. They are a sample, the newest,
    and the sentence says so.
    """
    totals, hints = Counter[str](), defaultdict[str, Counter[str]](Counter)
    for domain, diagnosis in bounces:
        totals[domain] += 1
        hints[domain].update(diagnosis.points_to)
    sentences = {}
    for domain, total in totals.items():
        common = [(hint, n) for hint, n in hints[domain].most_common(_MOST) if n >= SHARE * total]
        if total >= FEWEST and common:
            told = " and ".join(f"{n} point to {words[hint]}" for hint, n in common)
            sentences[domain] = f"Of the {total} newest bounces at hand, {told}."
    return sentences
