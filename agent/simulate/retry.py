"""How vendors retry a webhook: which answers end it, how long they wait, and when what they hold is lost."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from agent.clock import DAY, HOUR, MINUTE


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A vendor's retries. ``delays`` are the seconds before each of them, in order: their number is the number of
    retries, their sum the vendor's patience. ``taken`` are the answers that count as success there, ``final`` those
    after which it gives up at once; everything else, redirects among it, is retried. ``without_answer`` are the delays
    after a failure to get any answer where they differ. A body that holds ``once`` is posted a single time.
    ``confirmed`` tells a documented schedule from a guess."""

    delays: tuple[float, ...]
    taken: Collection[int] = range(200, 300)
    final: Collection[int] = ()
    without_answer: tuple[float, ...] | None = None
    once: bytes = b""
    confirmed: bool = True

    def next(self, body: bytes, answer: int, attempt: int) -> float | str:
        """Seconds until the next attempt after ``attempt`` of them (from 1) the last of which got ``answer`` (an HTTP
        status that is not in ``taken``, 0 for none); or the rule by which there is no next one."""
        if answer in self.final:
            return f"HTTP {answer} ends it"
        if self.once and self.once in body:
            return "events of this kind are posted once"
        delays = self.delays if answer or self.without_answer is None else self.without_answer
        if attempt > len(delays):
            return f"{len(delays)} retries in {_in_words(sum(delays))}" if delays else "no retries"
        return delays[attempt - 1]


def growing(first: float, longest: float, patience: float) -> tuple[float, ...]:
    """Delays that double from ``first`` up to ``longest``, ``patience`` in all; every figure in seconds."""
    delays = []
    while patience >= first:
        delays.append(first)
        patience -= first
        first = min(2 * first, longest)
    return tuple(delays)


def _in_words(seconds: float) -> str:
    for size, unit in ((HOUR, "h"), (MINUTE, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


# For vendors that document none.
ASSUMED = Schedule(delays=growing(5 * MINUTE, 4 * HOUR, DAY), confirmed=False)
