"""The gate: what waits shares a commit, everyone is answered for his own batch, nobody suffers for another's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agent.events import Event, Kind
from agent.intake import gate as gate_module
from agent.intake.gate import Gate, Overloaded
from agent.ledger.base import Applied, Batch, Cell, Counted, StoreUnavailable

NOW = 1_764_000_000.0
CELL = Cell("example.com", "sendgrid", "", "gmail")


def batch(name: str, size: int = 1) -> Batch:
    events = [Event(kind=Kind.DELIVERED, at=NOW, message_id=f"{name}-{i}") for i in range(size)]
    return Batch(name, "sendgrid", "sendgrid", NOW, events, [CELL] * size)


def applied(one: Batch) -> Applied:
    """A result that tells whose it is."""
    return Applied(counted={Counted(CELL, Kind.DELIVERED, None): len(one.events)}, duplicates={one.source: 1})


class Store:
    """Counts in memory. ``hold`` keeps commits waiting, ``trouble`` may raise for a group of batches."""

    def __init__(self) -> None:
        self.attempts = 0
        self.commits: list[list[str]] = []
        self.sizes: list[int] = []
        self.times: list[float] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.entered = asyncio.Event()
        self.trouble: Callable[[Sequence[Batch]], None] = lambda _: None

    async def apply(self, batches: Sequence[Batch], now: float) -> list[Applied]:
        self.attempts += 1
        self.entered.set()
        await self.hold.wait()
        self.trouble(batches)
        self.commits.append([one.source for one in batches])
        self.sizes.append(sum(len(one.events) for one in batches))
        self.times.append(now)
        return [applied(one) for one in batches]


class Seen:
    """The gate's metrics."""

    def __init__(self) -> None:
        self.commits: list[int] = []
        self.depths: list[int] = []

    def commit(self, seconds: float, events: int) -> None:
        assert seconds >= 0
        self.commits.append(events)

    def queue_depth(self, events: int) -> None:
        self.depths.append(events)


@asynccontextmanager
async def running(**options: int) -> AsyncIterator[tuple[Gate, Store, Seen]]:
    """A gate at work, whose end is waited for."""
    store, seen = Store(), Seen()
    gate = Gate(store, seen, clock=lambda: NOW, **options)  # type: ignore[arg-type]
    task = asyncio.create_task(gate.run())
    try:
        with capture_logs():
            yield gate, store, seen
    finally:
        store.hold.set()
        gate.close()
        await asyncio.wait_for(task, 5)


async def _held(gate: Gate, store: Store) -> asyncio.Task[Applied]:
    """A first batch whose commit has begun and does not end yet."""
    store.hold.clear()
    store.entered.clear()
    first = asyncio.create_task(gate.submit(batch("first")))
    await asyncio.wait_for(store.entered.wait(), 5)
    return first


async def _submit_all(gate: Gate, batches: Sequence[Batch]) -> list[asyncio.Task[Applied]]:
    tasks = [asyncio.create_task(gate.submit(one)) for one in batches]
    await asyncio.sleep(0)
    return tasks


async def test_what_waits_shares_one_commit_and_each_gets_its_own_result() -> None:
    async with running() as (gate, store, seen):
        first = await _held(gate, store)
        batches = [batch(f"s{i}", i % 4) for i in range(50)]
        tasks = await _submit_all(gate, batches)
        assert not any(task.done() for task in (first, *tasks)), "answered before the commit"
        store.hold.set()
        assert await first == applied(batch("first"))
        assert [await task for task in tasks] == [applied(one) for one in batches]
        assert store.commits == [["first"], [f"s{i}" for i in range(50)]]
        assert store.times == [NOW, NOW]
        assert seen.commits == [1, sum(i % 4 for i in range(50))]
        assert seen.depths == [0, 0]


async def test_a_commit_holds_so_many_events_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "COMMIT_EVENTS", 10)
    async with running() as (gate, store, seen):
        first = await _held(gate, store)
        tasks = await _submit_all(gate, [batch(f"s{i}", n) for i, n in enumerate([4, 4, 4, 25, 3, 3])])
        store.hold.set()
        await asyncio.gather(first, *tasks)
        assert store.commits[1:] == [["s0", "s1"], ["s2"], ["s3"], ["s4", "s5"]], "one too large goes alone"
        assert seen.depths[-1] == 0


async def test_the_queue_is_bounded_and_opens_again() -> None:
    async with running(queue_events=10) as (gate, store, _):
        first = await _held(gate, store)
        tasks = await _submit_all(gate, [batch("a", 4), batch("b", 4)])
        for size in (0, 1, 1000):
            with pytest.raises(Overloaded):
                await gate.submit(batch("late", size))
        store.hold.set()
        await asyncio.gather(first, *tasks)
        assert await gate.submit(batch("again", 9)) == applied(batch("again", 9))
        assert store.commits == [["first"], ["a", "b"], ["again"]], "what was refused is not counted"


async def test_a_batch_larger_than_the_queue_is_taken_when_nothing_waits() -> None:
    async with running(queue_events=10) as (gate, _, _):
        assert await gate.submit(batch("large", 500)) == applied(batch("large", 500))


async def test_empty_batches_take_room_too() -> None:
    async with running(queue_events=10) as (gate, store, _):
        first = await _held(gate, store)
        tasks = await _submit_all(gate, [batch(f"e{i}", 0) for i in range(50)])
        store.hold.set()
        ends = await asyncio.gather(first, *tasks, return_exceptions=True)
        assert sum(isinstance(end, Overloaded) for end in ends) == 40


async def test_a_source_that_floods_leaves_room_and_its_turn_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "COMMIT_EVENTS", 100)
    async with running(queue_events=1000) as (gate, store, _):
        first = await _held(gate, store)
        noisy = await _submit_all(gate, [batch("noisy", 9) for _ in range(1000)])
        quiet = await _submit_all(gate, [batch("quiet", 9) for _ in range(3)])
        refused = [task for task in noisy if task.done()]
        assert len(refused) == 950, "half the queue is the most that one source has"
        assert not any(task.done() for task in quiet)
        store.hold.set()
        ends = await asyncio.gather(first, *noisy, *quiet, return_exceptions=True)
        assert sum(isinstance(end, Overloaded) for end in ends) == 950
        assert store.commits[1].count("quiet") == 3, "not behind what came before"
        assert store.commits[1][:6] == ["noisy", "quiet"] * 3
        assert sum(commit.count("noisy") for commit in store.commits) == 50


async def test_each_of_many_sources_that_flood_finds_room() -> None:
    async with running(queue_events=1000) as (gate, store, _):
        first = await _held(gate, store)
        names = [f"s{i}" for i in range(6)]
        tasks = []
        for name in names:
            tasks += await _submit_all(gate, [batch(name, 1) for _ in range(600)])
        waiting = {name: len(gate._waiting[name].entries) for name in names}
        late = await _submit_all(gate, [batch("late", 1)])
        assert min(waiting.values()) >= 1
        assert not late[0].done(), "however many flood, there is room for one more"
        assert gate._events <= 1000
        store.hold.set()
        await asyncio.gather(first, *late, *tasks, return_exceptions=True)


async def test_an_unavailable_store_is_told_to_all_who_wait_and_counts_nothing() -> None:
    def trouble(_: Sequence[Batch]) -> None:
        raise StoreUnavailable("disk full")

    async with running() as (gate, store, seen):
        first = await _held(gate, store)
        tasks = await _submit_all(gate, [batch(f"s{i}") for i in range(5)])
        store.trouble = trouble
        store.hold.set()
        for task in (first, *tasks):
            with pytest.raises(StoreUnavailable, match="disk full"):
                await task
        assert store.attempts == 1, "the others have waited long enough"
        assert store.commits == []
        assert seen.commits == []
        assert gate._events == 0
        store.trouble = lambda _: None
        assert await gate.submit(batch("later")) == applied(batch("later"))


async def test_a_poison_batch_fails_alone_and_its_neighbours_are_counted_once() -> None:
    def trouble(batches: Sequence[Batch]) -> None:
        if any(one.source == "poison" for one in batches):
            raise ZeroDivisionError("a defect")

    async with running() as (gate, store, seen):
        store.trouble = trouble
        first = await _held(gate, store)
        tasks = await _submit_all(gate, [batch("a", 2), batch("poison", 3), batch("b", 4)])
        store.hold.set()
        await first
        assert await tasks[0] == applied(batch("a", 2))
        assert await tasks[2] == applied(batch("b", 4))
        with pytest.raises(StoreUnavailable, match="internal error: ZeroDivisionError"):
            await tasks[1]
        assert store.commits == [["first"], ["a"], ["b"]]
        assert seen.commits == [1, 2, 4]


async def test_close_drains_what_waits_and_takes_nothing_more() -> None:
    store = Store()
    gate = Gate(store, Seen(), clock=lambda: NOW)  # type: ignore[arg-type]
    run = asyncio.create_task(gate.run())
    first = await _held(gate, store)
    tasks = await _submit_all(gate, [batch(f"s{i}") for i in range(20)])
    gate.close()
    with pytest.raises(Overloaded):
        await gate.submit(batch("late"))
    assert not run.done()
    store.hold.set()
    await asyncio.wait_for(run, 5)
    assert [await task for task in (first, *tasks)] == [
        applied(batch(n)) for n in ("first", *(f"s{i}" for i in range(20)))
    ]
    assert store.commits == [["first"], [f"s{i}" for i in range(20)]]


async def test_a_gate_with_nothing_to_do_ends_at_once() -> None:
    gate = Gate(Store(), Seen(), clock=lambda: NOW)  # type: ignore[arg-type]
    run = asyncio.create_task(gate.run())
    await asyncio.sleep(0)
    gate.close()
    await asyncio.wait_for(run, 1)


@pytest.mark.parametrize("outcome", ["committed", "unavailable", "defect"])
async def test_a_cancelled_waiter_harms_nobody(outcome: str) -> None:
    def trouble(_: Sequence[Batch]) -> None:
        if outcome == "unavailable":
            raise StoreUnavailable("no")
        if outcome == "defect":
            raise ZeroDivisionError("a defect")

    async with running() as (gate, store, _):
        first = await _held(gate, store)
        gone, stays = await _submit_all(gate, [batch("gone"), batch("stays")])
        first.cancel()
        gone.cancel()
        await asyncio.gather(first, gone, return_exceptions=True)
        store.trouble = trouble
        store.hold.set()
        if outcome == "committed":
            assert await stays == applied(batch("stays"))
            assert store.commits == [["first"], ["gone", "stays"]], (
                "it may have been counted: the sender will repeat it"
            )
        else:
            with pytest.raises(StoreUnavailable):
                await stays
        store.trouble = lambda _: None
        assert await gate.submit(batch("later")) == applied(batch("later"))


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["go", "cancel", "poison", "pause"])), max_size=40),
    queue=st.integers(1, 60),
)
def test_whatever_comes_every_batch_is_counted_once_or_refused(steps: list[tuple[int, str]], queue: int) -> None:
    async def scenario() -> None:
        async with running(queue_events=queue) as (gate, store, _):

            def trouble(batches: Sequence[Batch]) -> None:
                if any("poison" in one.source for one in batches):
                    raise ZeroDivisionError

            store.trouble = trouble
            tasks: dict[str, asyncio.Task[Applied]] = {}
            for i, (size, action) in enumerate(steps):
                name = f"{action}{i}"
                tasks[name] = asyncio.create_task(gate.submit(batch(name, size)))
                if action == "pause":
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                if action == "cancel":
                    await asyncio.sleep(0)
                    tasks[name].cancel()
                assert gate._events <= max(queue, 31), "the queue is bounded"
            await asyncio.wait_for(asyncio.gather(*tasks.values(), return_exceptions=True), 5)
            counted = [name for commit in store.commits for name in commit]
            assert len(counted) == len(set(counted)), "never twice"
            for name, task in tasks.items():
                if task.cancelled():
                    continue
                error = task.exception()
                assert (name in counted) == (error is None)
                refusals = (StoreUnavailable, Overloaded) if "poison" in name else Overloaded
                assert error is None or isinstance(error, refusals)
            assert gate._events == 0

    asyncio.run(scenario())
