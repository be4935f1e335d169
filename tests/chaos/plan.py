"""What happens, and when: drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple


class Blow(NamedTuple):
    """One thing to happen: ``what`` to ``whom``, for ``seconds`` where it lasts, ``lost`` with what was under way, then
    ``pause`` seconds of peace."""

    what: str
    whom: str
    seconds: float
    lost: bool
    pause: float

    def __str__(self) -> str:
        return f"{self.what} {self.whom}"


# Two things happen at a time, one of each; who leads may be struck only while the store is well.
STORE_SIDE = [
    *[("kill", "leader"), ("freeze", "leader"), ("cut store of", "leader"), ("cut off", "leader")],
    *[("kill", "postgresql"), ("restart", "postgresql"), ("freeze", "postgresql")],
    *[("cut store of", "replica"), ("kill store of", "replica")],
]
BUS_SIDE = [
    *[("kill", "broker"), ("restart", "broker"), ("freeze", "broker"), ("kill", "edge"), ("freeze", "edge")],
    *[("cut bus of", "edge"), ("cut bus of", "replica"), ("kill", "replica"), ("freeze", "replica")],
]


def plan(kinds: list[tuple[str, str]], rng: random.Random) -> Iterator[Blow]:
    """For ever; every kind in each round."""
    while True:
        for what, whom in rng.sample(kinds, len(kinds)):
            # Who leads is away for longer than it takes until another does.
            longest = 13.0 if whom == "leader" else 4.0
            shortest = 10.0 if whom == "leader" else 0.5
            yield Blow(what, whom, rng.uniform(shortest, longest), rng.random() < 0.5, rng.uniform(0.5, 2.0))
