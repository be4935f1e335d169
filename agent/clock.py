"""Whether the time of day can be believed. A clock that is set wrong would have every event refused as too old or in
the future, whole days pruned and every source called silent, none of which can be taken back.
"""

from __future__ import annotations

from collections.abc import Callable

MINUTE, HOUR, DAY, WEEK = 60, 3600, 86400, 7 * 86400  # seconds
# Seconds; half of how far ahead of the clock an event may be.
TOLERATED = 300.0
HELD = 900.0


class ClockWatch:
    """Compares the time of day with a clock that nobody sets. A jump is doubted until it is taken back, or has stood
    for ``HELD`` seconds: then the machine was set right, most likely, and the new time is believed. Until then the time
    goes on as if nothing had happened."""

    def __init__(self, wall: Callable[[], float], steady: Callable[[], float]) -> None:
        """``wall`` is the time of day, ``steady`` runs on whatever is set, through a sleep of the machine too; both in
        seconds."""
        self._wall = wall
        self._steady = steady
        self._believed = wall() - steady()
        self._doubted: float | None = None
        self._since = 0.0
        self._jumped_at = float("-inf")

    def doubt(self) -> str:
        """Why the time of day cannot be believed now, empty when it can."""
        now = self._steady()
        offset = self._wall() - now
        jump = offset - self._believed
        if -TOLERATED <= jump <= TOLERATED:  # Small corrections are followed.
            self._believed, self._doubted = offset, None
            return ""
        if self._doubted is None or abs(offset - self._doubted) > TOLERATED:
            self._doubted, self._since = offset, now
        self._jumped_at = now
        if now - self._since >= HELD:
            self._believed, self._doubted = offset, None
            return ""
        return f"the clock jumped by {jump:+.0f} s"

    def now(self) -> float:
        """The time of day that can be believed, in Unix seconds."""
        return self._steady() + self._believed if self.doubt() else self._wall()

    def settled(self) -> bool:
        """Whether there was no doubt within the last day: time enough to see that a clock is wrong before anything is
        thrown away by it."""
        return not self.doubt() and self._steady() - self._jumped_at >= DAY
