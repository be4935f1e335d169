"""Traffic of every provider, read as live traffic is, comes to exactly its own truth: in any order, in any split."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from agent.clock import DAY, HOUR, MINUTE
from agent.events import BounceClass, Kind
from agent.ledger.base import Applied, Batch, Cell, Ledger
from agent.simulate import SIMULATORS
from tests.ledger.conftest import QUICK, STORES
from tests.ledger.model import expected
from tests.ledger.traffic import NOW, by_place, counted, domains, reports, sample, split, told

MESSAGES = 400
RESTARTS = 8
every_provider = pytest.mark.parametrize("provider", sorted(SIMULATORS))
# What is told is the same for every store: one has it of all, the others of those that tell it in different ways.
FEW = ("mailgun", "sendgrid", "ses")
each = pytest.mark.parametrize(
    ("open_ledger", "provider"),
    [(store, p) for store in sorted(STORES) for p in (sorted(SIMULATORS) if store in QUICK else FEW)],
    indirect=["open_ledger"],
)


@each
@pytest.mark.parametrize("shuffled", [False, True], ids=["in order", "shuffled"])
@pytest.mark.parametrize("seed", [1, 2])
async def test_totals_are_the_truth_in_every_place(ledger: Ledger, provider: str, shuffled: bool, seed: int) -> None:
    rng = random.Random(seed)
    batches, truth = sample(provider, MESSAGES, seed)
    results: list[Applied] = []
    for commit in split(rng, batches, shuffled):
        results += await ledger.apply(commit, NOW)
    want = by_place(truth, provider)
    assert len({cell.domain for cell, _ in want}) == domains(provider, 2), "configured ones, and mail that names none"
    assert (len({cell.stream for cell, _ in want}) >= 2) == SIMULATORS[provider].VOICE.names_stream
    assert len({cell.mailbox_provider for cell, _ in want}) > 5
    for width in (MINUTE, HOUR, DAY):
        assert await counted(ledger, width) == want
    assert sum(sum(r.counted.values()) for r in results) == truth.reports - truth.copies
    assert sum(sum(r.duplicates.values()) for r in results) == truth.copies > 0
    assert not any(r.refused for r in results)
    assert sum(r.unmatched_async_bounces for r in results) == truth.unmatched_async_bounces
    assert (truth.unmatched_async_bounces > 0) == (not SIMULATORS[provider].VOICE.async_ids)


@each
async def test_each_count_lies_in_its_own_minute(ledger: Ledger, provider: str) -> None:
    batches, _ = sample(provider, MESSAGES, 1)
    for commit in split(random.Random(9), batches, True):
        await ledger.apply(commit, NOW)
    assert {(r.bucket, r.cell, r.measure): r.count for r in await ledger.rows(MINUTE, 0, NOW + DAY)} == dict(
        expected(reports(batches))
    )


async def test_providers_at_once_do_not_touch_each_other(ledger: Ledger) -> None:
    want: Counter[tuple[Cell, str]] = Counter()
    everything: list[Batch] = []
    for provider in sorted(SIMULATORS):
        # The same messages to the same recipients, told by two vendors.
        batches, truth = sample(provider, MESSAGES // 2, 4)
        want += by_place(truth, provider)
        everything += batches
    for commit in split(random.Random(4), everything, True):
        await ledger.apply(commit, NOW)
    assert await counted(ledger, HOUR) == want


@each
async def test_everything_again_after_a_restart_changes_nothing(
    open_ledger: Callable[[], Ledger], provider: str
) -> None:
    rng = random.Random(6)
    batches, truth = sample(provider, MESSAGES // 2, 4)
    first = open_ledger()
    for commit in split(rng, batches, False):
        await first.apply(commit, NOW)
    await first.close()
    second = open_ledger()
    for commit in split(rng, batches, True):
        for result in await second.apply(commit, NOW + 3600):
            assert not result.counted
    assert await counted(second, DAY) == by_place(truth, provider)
    await second.close()


@each
async def test_a_restart_after_every_commit_changes_nothing(open_ledger: Callable[[], Ledger], provider: str) -> None:
    batches, truth = sample(provider, 200, 8)
    shuffled = random.Random(8).sample(batches, len(batches))
    for n in range(RESTARTS):
        ledger = open_ledger()
        await ledger.apply(shuffled[n::RESTARTS], NOW)
        await ledger.close()
    ledger = open_ledger()
    assert await counted(ledger, HOUR) == by_place(truth, provider)
    await ledger.close()


@every_provider
async def test_what_the_truth_covers_is_not_nothing(provider: str) -> None:
    _, truth = sample(provider, MESSAGES, 1)
    classes = SIMULATORS[provider].VOICE.classes
    measures = {str(classes.get(c, c)) for c in BounceClass} | {str(k) for k in told(provider) - {Kind.BOUNCED}}
    for measure in measures:
        assert truth.total(measure) > 0, measure
    assert {"delivered", "hard"} <= measures
    if Kind.DEFERRED in told(provider):
        assert truth.total("deferred") > truth.total("deferred_pairs") > 0
    assert (truth.total(Kind.ACCEPTED) > 0) == (Kind.ACCEPTED in told(provider))
