"""Leadership by the store: one at a time, passed on, and what is written by one that lost it is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from agent.ledger.base import Deposed, Lease, Ledger


async def test_one_leads_until_it_gives_up(open_ledger: Callable[[], Ledger]) -> None:
    one, two = open_ledger(), open_ledger()
    assert await one.lead("a", 30.0) == Lease("a", 1)
    assert await two.lead("b", 30.0) == Lease("a", 1)
    assert await one.lead("a", 30.0) == Lease("a", 1)  # kept: the same epoch
    await one.lead("a", 0.0)
    assert await two.lead("b", 30.0) == Lease("b", 2)
    assert await one.lead("a", 30.0) == Lease("b", 2)
    await one.close()
    await two.close()


async def test_the_end_of_a_leader_passes_it_on(open_ledger: Callable[[], Ledger]) -> None:
    one, two = open_ledger(), open_ledger()
    assert (await one.lead("a", 1.0)).holder == "a"
    await one.close()  # without a word
    async with asyncio.timeout(3.0):
        while (await two.lead("b", 1.0)).holder != "b":
            await asyncio.sleep(0.1)
    assert await two.lead("b", 1.0) == Lease("b", 2)
    await two.close()


async def test_what_a_former_leader_writes_is_refused(open_ledger: Callable[[], Ledger]) -> None:
    one, two = open_ledger(), open_ledger()
    first = await one.lead("a", 30.0)
    await one.save("incident", {"x": b"1"}, epoch=first.epoch)
    await one.lead("a", 0.0)
    second = await two.lead("b", 30.0)
    with pytest.raises(Deposed):
        await one.save("incident", {"x": b"2", "y": b"2"}, epoch=first.epoch)
    assert await two.load("incident") == {"x": b"1"}
    await two.save("incident", {"x": b"3"}, epoch=second.epoch)
    await one.save("other", {"x": b"anyone's"})  # without an epoch nobody asks
    assert await one.load("incident") == {"x": b"3"}
    await one.close()
    await two.close()


async def test_a_crowd_has_one_leader(open_ledger: Callable[[], Ledger]) -> None:
    stores = [open_ledger() for _ in range(4)]
    found = await asyncio.gather(*(store.lead(f"p{n}", 30.0) for n, store in enumerate(stores)))
    again = await asyncio.gather(*(store.lead(f"p{n}", 30.0) for n, store in enumerate(stores)))
    assert len({lease.holder for lease in again}) == 1
    assert {lease.epoch for lease in again} == {1}
    assert {lease.holder for lease in found} <= {again[0].holder, ""}
    await asyncio.gather(*(store.close() for store in stores))
