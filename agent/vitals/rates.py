"""From counts to rates. The formulas are in ``docs/rates.md``."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from agent.vitals import bounds
from agent.vitals.types import Rate

BOUNCE_CLASSES = ("hard", "soft", "block", "undetermined")
# Which classes the bounce rate counts unless settings say otherwise: a full mailbox and a refused sender say nothing
# of the list's quality.
COUNTED_CLASSES = ("hard", "undetermined")


class Counts(msgspec.Struct, frozen=True, gc=False):
    """The measures rates are made of, in messages per recipient. ``delivered`` is net of later bounces.
    ``deferred_pairs`` counts (message, recipient) pairs once per UTC hour."""

    delivered: int = 0
    hard: int = 0
    soft: int = 0
    block: int = 0
    undetermined: int = 0
    dropped: int = 0
    complained: int = 0
    deferred_pairs: int = 0

    @property
    def bounced(self) -> int:
        """Bounces of every class."""
        return self.hard + self.soft + self.block + self.undetermined

    @property
    def attempted(self) -> int:
        """Final outcomes: deliveries that stood, and bounces."""
        return self.delivered + self.bounced

    def of_classes(self, classes: Collection[str]) -> int:
        """Bounces of the named classes. Raises ``ValueError`` for a name that is no bounce class."""
        unknown = set(classes) - set(BOUNCE_CLASSES)
        if unknown:
            raise ValueError(f"no bounce class: {', '.join(sorted(unknown))}")
        return sum(getattr(self, name) for name in set(classes))

    def __add__(self, other: Counts) -> Counts:
        return total((self, other))


FIELDS = Counts.__struct_fields__


def total(counts: Iterable[Counts]) -> Counts:
    """The sum of any number of counts; nothing sums to zero counts."""
    delivered = hard = soft = block = undetermined = dropped = complained = deferred_pairs = 0
    for c in counts:
        delivered += c.delivered
        hard += c.hard
        soft += c.soft
        block += c.block
        undetermined += c.undetermined
        dropped += c.dropped
        complained += c.complained
        deferred_pairs += c.deferred_pairs
    return Counts(delivered, hard, soft, block, undetermined, dropped, complained, deferred_pairs)


def proportion(numerator: int, denominator: int) -> Rate | None:
    """A rate with its 95 % bounds, ``None`` over nothing. A numerator above the denominator (complaints about mail
    delivered before the window) keeps its value, above 1, and has no bounds: there is no such proportion."""
    if denominator <= 0:
        return None
    value = numerator / denominator
    if not 0 <= numerator <= denominator:
        return Rate(value, None, None, numerator, denominator)
    lower, upper = bounds.lower(numerator, denominator), bounds.upper(numerator, denominator)
    return Rate(value, lower, upper, numerator, denominator)


def rates(counts: Counts, bounce_classes: Collection[str] = COUNTED_CLASSES) -> dict[str, Rate]:
    """Every rate that exists, by its name in ``RATES``. None does where nothing was attempted; ``complaint`` is
    absent where nothing was delivered. ``deferral`` has no bounds: it lags behind its denominator and may exceed it.
    """
    attempted = counts.attempted
    if attempted <= 0:
        return {}
    found = {
        "deliverability": proportion(counts.delivered, attempted),
        "bounce": proportion(counts.of_classes(bounce_classes), attempted),
        "block": proportion(counts.block, attempted),
        "soft_bounce": proportion(counts.soft, attempted),
        "complaint": proportion(counts.complained, counts.delivered),
        "deferral": Rate(counts.deferred_pairs / attempted, None, None, counts.deferred_pairs, attempted),
        "suppression": proportion(counts.dropped, attempted + counts.dropped),
    }
    return {name: rate for name, rate in found.items() if rate is not None}
