"""Every provider's signed traffic through a real agent comes to exactly its truth; the table says how much of what."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from agent.clock import DAY, HOUR, MINUTE
from agent.simulate import SIMULATORS, Scenario, Truth
from agent.simulate.send import Sent, simulate
from tests.servers.agent import Agent
from tests.stack.replay import counted, pairs, part, settings, wanted

MESSAGES = 400
SPREAD = 30 * HOUR


def _scenario() -> Scenario:
    now = time.time()
    return Scenario(
        start=now - SPREAD, duration=SPREAD - 2 * HOUR, until=now, messages=MESSAGES, seed=21, hard=0.08, soft=0.05,
        block=0.04, undetermined=0.02, dropped=0.03, deferred=0.25, asynchronous=0.06, soft_then_hard=0.5, opened=0.2,
        complained=0.02, unsubscribed=0.02, duplicates=0.25, changed_ids=0.5, late=0.3, lateness=6 * HOUR,
        domains={"example.com": 3.0, "news.example.org": 1.0},
        mailboxes={"gmail.com": 40.0, "outlook.com": 20.0, "yahoo.com": 12.0, "icloud.com": 8.0, "gmx.de": 3.0},
    )  # fmt: skip


async def test_signed_traffic_of_every_provider_is_counted_exactly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    providers = sorted(SIMULATORS)
    keys = pairs(providers)
    scenario = _scenario()
    agent = Agent(tmp_path, settings(keys))
    truths: dict[str, Truth] = {}
    first: dict[str, Sent] = {}
    try:
        agent.start()
        for provider in providers:
            url = agent.webhook(provider)
            # Once as it comes; then all of it again, split otherwise and many at a time, so that nothing is in order.
            first[provider] = await simulate(provider, scenario, url, keys[provider].signing, batch=7, concurrency=1)
            again = await simulate(provider, scenario, url, keys[provider].signing, batch=23, concurrency=16)
            for sent in (first[provider], again):
                assert sent.failed == 0, sent.last_error
                assert sent.retries == 0, sent.last_error
            truths[provider] = first[provider].truth
        repeats = agent.counters("duplicate_events_total", "source")
    finally:
        assert agent.stop() == 0

    want = wanted(truths)
    got = await counted(agent.database)
    rows = []
    for provider in providers:
        truth = truths[provider]
        mine = {width: part(counts, provider=provider) for width, counts in got.items()}
        exact = all(mine[width] == part(want, provider=provider) for width in (MINUTE, HOUR, DAY))
        bounces = sum(mine[DAY][c] for c in ("hard", "soft", "block", "undetermined"))
        rows.append(
            f"{provider:<14} {truth.reports:>7,} {truth.copies:>6,} {repeats[provider]:>8,} "
            f"{mine[DAY]['delivered']:>9,} {bounces:>8,} {mine[DAY]['deferred_pairs']:>8,} "
            f"{truth.unmatched_async_bounces:>9,}   {'exact' if exact else 'WRONG'}"
        )
    head = "provider       reports copies repeated delivered  bounced deferred unmatched   totals"
    with capsys.disabled():
        # To where it is shown from a process of pytest-xdist too.
        print("\n" + head, *rows, sep="\n", file=sys.stderr)
    for width in (MINUTE, HOUR, DAY):
        assert got[width] == want
    for provider, truth in truths.items():
        # The second time nothing is new, nor are the copies of the first.
        assert repeats[provider] == truth.reports + truth.copies, provider
