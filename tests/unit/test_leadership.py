"""Leading, losing it, and what may be told meanwhile: with a store of a dict and a clock of one's own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agent.leadership import Leadership
from agent.ledger.base import Lease, StoreUnavailable


class Store:
    def __init__(self) -> None:
        self.lease = Lease("", 0)
        self.down = False

    async def lead(self, holder: str, seconds: float) -> Lease:
        if self.down:
            raise StoreUnavailable("down")
        if seconds <= 0:
            self.lease = Lease("", self.lease.epoch)
        elif self.lease.holder in ("", holder) and self.lease.holder != holder:
            self.lease = Lease(holder, self.lease.epoch + 1)
        return self.lease


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def made(store: Store, clock: Clock, holder: str = "me") -> Leadership:
    ledger: Any = store
    return Leadership(ledger, holder, lease=9.0, every=3.0, clock=clock)


async def test_a_lease_lapses_by_ones_own_clock() -> None:
    store, clock = Store(), Clock()
    one = made(store, clock)
    assert (one.epoch, one.remaining) == (0, 0.0)
    assert await one.ask()
    assert (one.epoch, one.remaining, one.leader) == (1, 9.0, "me")
    clock.now += 8.9
    assert one.epoch == 1
    clock.now += 0.2
    # As after a stop of the whole process: nothing is done, and nothing told, before the store was asked.
    assert (one.epoch, one.remaining) == (0, 0.0)
    assert await one.ask()
    assert one.epoch == 1


async def test_another_leader_ends_it_at_once() -> None:
    store, clock = Store(), Clock()
    one = made(store, clock)
    await one.ask()
    store.lease = Lease("other", 2)
    assert not await one.ask()
    assert (one.epoch, one.remaining, one.leader) == (0, 0.0, "other")


async def test_a_store_that_does_not_answer_ends_it_with_the_lease() -> None:
    store, clock = Store(), Clock()
    one = made(store, clock)
    await one.ask()
    store.down = True
    clock.now += 6.0
    assert await one.ask()
    assert one.remaining == 3.0
    clock.now += 3.0
    # Somebody else may be able to ask it: from here on nothing is decided, and nothing told.
    assert (one.epoch, one.remaining) == (0, 0.0)
    store.down = False
    assert await one.ask()
    assert one.epoch == 1, "nobody led meanwhile"


async def test_a_slow_answer_is_asked_for_again_the_sooner() -> None:
    store, clock, at = Store(), Clock(), list[float]()
    ledger: Any = store
    answer = store.lead

    async def slow(holder: str, seconds: float) -> Lease:
        at.append(clock.now)
        clock.now += 4.0
        return await answer(holder, seconds)

    store.lead = slow  # type: ignore[method-assign]

    async def duty(epoch: int) -> None:
        await asyncio.sleep(3600)

    running = asyncio.create_task(Leadership(ledger, "me", lease=9.0, every=3.0, clock=clock).run(duty))
    for _ in range(20):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert at[:3] == [100.0, 104.0, 108.0]


async def test_a_duty_runs_while_it_leads_and_anew_in_the_next_epoch() -> None:
    store, clock = Store(), Clock()
    ledger: Any = store
    one = Leadership(ledger, "me", lease=9.0, every=0.01, clock=clock)
    seen: list[str] = []

    async def duty(epoch: int) -> None:
        seen.append(f"begun {epoch}")
        try:
            await asyncio.sleep(3600)
        finally:
            seen.append("ended")

    running = asyncio.create_task(one.run(duty))
    await asyncio.sleep(0.03)
    store.lease = Lease("other", 2)
    await asyncio.sleep(0.05)
    assert seen == ["begun 1", "ended"]
    store.lease = Lease("", 2)
    await asyncio.sleep(0.05)
    assert seen == ["begun 1", "ended", "begun 3"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert seen[-1] == "ended"
    await one.resign()
    assert store.lease.holder == ""


async def test_a_duty_that_the_store_fails_is_tried_again_and_a_defect_is_not_hidden() -> None:
    clock = Clock()
    ledger: Any = Store()
    one = Leadership(ledger, "me", lease=9.0, every=0.01, clock=clock)
    tries = 0

    async def duty(epoch: int) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise StoreUnavailable("just now")
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        async with asyncio.timeout(5):
            await one.run(duty)
    assert tries == 2
