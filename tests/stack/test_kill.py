"""Killed at any moment, the agent has counted all that it acknowledged, and none of it twice."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from agent.clock import DAY, HOUR, MINUTE
from agent.events import BounceClass, Event, Kind
from agent.ledger.base import Cell
from agent.ledger.sqlite import SqliteLedger, load_or_create_key
from agent.providers import PROVIDERS, WebhookRequest
from agent.simulate import SIMULATORS, Scenario, Traffic
from agent.simulate.send import simulate
from tests.ledger.model import expected
from tests.servers.agent import Agent

KILLS = 20
SPREAD = 30 * HOUR


def _scenario(provider: str, messages: int) -> Scenario:
    """Everything at once: copies with changed ids, pairs of soft and hard out of order, repeated deferrals, bounces
    hours after the delivery, late arrivals, all over 30 hours."""
    now = time.time()
    return Scenario(
        start=now - SPREAD, duration=SPREAD, until=now, messages=messages, seed=11, hard=0.05, soft=0.04, block=0.03,
        undetermined=0.01, dropped=0.02, deferred=0.2, asynchronous=0.05, soft_then_hard=0.5, opened=0.2,
        complained=0.01, unsubscribed=0.01, duplicates=0.2, changed_ids=0.5, late=0.3, lateness=5 * HOUR,
    )  # fmt: skip


def _model(provider: str, scenario: Scenario) -> Counter[tuple[int, Cell, str]]:
    """The counts by the slow model, from the very bodies that are sent."""
    simulator = SIMULATORS[provider]
    reports = []
    for request in simulator.requests(Traffic(scenario, simulator.VOICE), 50):
        arrived = WebhookRequest("POST", "/", "", {}, request.body, time.time())
        cell = Cell("all", provider, "", "all")
        reports += [(provider, event, cell) for event in PROVIDERS[provider].parse(arrived)]
    return expected(reports)


@pytest.mark.parametrize(("provider", "messages", "batch"), [("sendgrid", 40_000, 40), ("postmark", 4_000, 1)])
async def test_killed_twenty_times_under_load_every_count_is_exact(
    tmp_path: Path, provider: str, messages: int, batch: int
) -> None:
    pair = SIMULATORS[provider].new_credentials()
    source = {"name": "main", "provider": provider, "domain": "example.com", **pair.settings}
    one = Agent(
        tmp_path, {"sources": [source], "domains": [{"name": "example.com"}], "dns": {"resolvers": ["127.0.0.1:9"]}}
    )
    scenario = _scenario(provider, messages)
    rng = random.Random(5)
    one.start()
    try:
        sending = asyncio.create_task(
            simulate(provider, scenario, one.webhook("main"), pair.signing, batch=batch, concurrency=8, attempts=100)
        )
        kills = 0
        while kills < KILLS:
            # Sometimes while it starts, mostly under load.
            await asyncio.sleep(rng.choice([rng.uniform(0.05, 0.5), rng.uniform(0.5, 1.5)]))
            assert not sending.done(), f"only {kills} kills fell into the load; make it longer"
            one.kill()
            kills += 1
            one.start(wait=False)
        sent = await sending
        assert sent.failed == 0
        assert sent.retries > 0, "the kills hit nothing"
        await asyncio.to_thread(one.ready)
        assert one.stop() == 0
    finally:
        one.stop()

    ledger = SqliteLedger(one.database, load_or_create_key(one.database.with_name("ledger.db.key")))
    counts: Counter[tuple[int, str]] = Counter()
    net: Counter[str] = Counter()
    for width in (MINUTE, HOUR, DAY):
        sums: Counter[str] = Counter()
        for row in await ledger.rows(width, 0, time.time() + DAY):
            sums[row.measure] += row.count
            if width == HOUR:
                counts[row.bucket, row.measure] += row.count
        net = net or sums
        assert sums == net, "the three roll-ups agree"
    await ledger.close()

    truth = sent.truth
    assert net == Counter({m: truth.total(m) for m in {measure for _, measure in truth.counts}})
    want: Counter[tuple[int, str]] = Counter()
    for (minute, _, measure), n in _model(provider, scenario).items():
        want[minute // HOUR * HOUR, measure] += n
    assert counts == want, "and each count lies in its own hour"


def test_the_model_knows_a_move() -> None:
    ids = {"message_id": "m", "recipient": "a@example.net"}
    cell = Cell("all", "p", "", "all")
    reports = [
        ("p", Event(kind=Kind.DELIVERED, at=60.0, **ids), cell),
        ("p", Event(kind=Kind.BOUNCED, at=7200.0, bounce_class=BounceClass.SOFT, **ids), cell),
        ("p", Event(kind=Kind.BOUNCED, at=3600.0, bounce_class=BounceClass.HARD, **ids), cell),
    ]
    assert expected(reports) == Counter({(7200, cell, "soft"): 1})
