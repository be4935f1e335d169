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
    return Leadership(ledger, holder, patience=60.0, lease=9.0, every=3.0, clock=clock)


async def test_a_lease_lapses_by_ones_own_clock() -> None:
    store, clock = Store(), Clock()
    one = made(store, clock)
    assert (one.epoch, one.may_tell) == (0, False)
    assert await one.ask()
    assert (one.epoch, one.may_tell, one.leader) == (1, True, "me")
    clock.now += 8.9
    assert one.epoch == 1
    clock.now += 0.2
    # As after a stop of the whole process: nothing is done, and nothing told, before the store was asked.
    assert (one.epoch, one.may_tell) == (0, False)
    assert await one.ask()
    assert one.epoch == 1


async def test_another_leader_ends_it_at_once() -> None:
    store, clock = Store(), Clock()
    one = made(store, clock)
    await one.ask()
    store.lease = Lease("other", 2)
    assert not await one.ask()
    assert (one.epoch, one.may_tell, one.leader) == (0, False, "other")


async def test_without_a_store_what_was_open_is_told_for_a_while_and_nothing_decided() -> None:
    store, clock = Store(), Clock()
    one = made(store, clock)
    await one.ask()
    store.down = True
    for _ in range(3):
        clock.now += 3.0
        await one.ask()
    clock.now += 1.0
    assert (one.epoch, one.may_tell) == (0, True)
    clock.now += 56.0
    await one.ask()
    assert one.may_tell
    clock.now += 5.0
    await one.ask()
    assert not one.may_tell  # beyond its patience
    never = made(store, clock, "never led")
    await never.ask()
    assert not never.may_tell


async def test_a_duty_runs_while_it_leads_and_anew_in_the_next_epoch() -> None:
    store, clock = Store(), Clock()
    ledger: Any = store
    one = Leadership(ledger, "me", lease=9.0, every=0.01, clock=clock)
    seen: list[str] = []

    async def duty() -> None:
        seen.append(f"begun {one.epoch}")
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

    async def duty() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise StoreUnavailable("just now")
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        async with asyncio.timeout(5):
            await one.run(duty)
    assert tries == 2
