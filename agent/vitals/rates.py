"""From counts to rates. The formulas are in ``docs/rates.md``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

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


def rates(
    counts: Counts, bounce_classes: Collection[str] = COUNTED_CLASSES, *, bounded: bool = True
) -> dict[str, Rate]:
    """Every rate that exists, by its name in ``RATES``. None does where nothing was attempted; ``complaint`` is
    absent where nothing was delivered. ``deferral`` has no bounds: it lags behind its denominator and may exceed it.
    Unless ``bounded``, which takes a hundred times as long, no rate has any.
    """
    attempted = counts.attempted
    if attempted <= 0:
        return {}
    pairs = {
        "deliverability": (counts.delivered, attempted),
        "bounce": (counts.of_classes(bounce_classes), attempted),
        "block": (counts.block, attempted),
        "soft_bounce": (counts.soft, attempted),
        "complaint": (counts.complained, counts.delivered),
        "deferral": (counts.deferred_pairs, attempted),
        "suppression": (counts.dropped, attempted + counts.dropped),
    }
    found: dict[str, Rate] = {}
    for name, (numerator, denominator) in pairs.items():
        rate = proportion(numerator, denominator) if bounded and name != "deferral" else None
        if rate is not None:
            found[name] = rate
        elif denominator > 0:
            found[name] = Rate(numerator / denominator, None, None, numerator, denominator)
    return found


class Windows(Mapping[str, dict[str, Rate]]):
    """The rates of a domain or of one of its parts by window. Bounds cost more than all else, and most are looked at by
    nobody: they are worked out for who asks, and once."""

    __slots__ = ("_classes", "_found", "counts")

    def __init__(self, counts: Mapping[str, Counts], bounce_classes: Collection[str] = COUNTED_CLASSES) -> None:
        self.counts = counts
        self._classes = bounce_classes
        self._found: dict[str, dict[str, Rate]] = {}

    def __getitem__(self, window: str) -> dict[str, Rate]:
        found = self._found.get(window)
        if found is None:
            found = self._found[window] = rates(self.counts[window], self._classes)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.counts)

    def __len__(self) -> int:
        return len(self.counts)

    def unbounded(self) -> dict[str, dict[str, Rate]]:
        """The same without bounds, where only numerators and denominators matter."""
        return {window: rates(each, self._classes, bounded=False) for window, each in self.counts.items()}
