"""Everything that can die dies, again and again, under load; what was acknowledged is counted, once.

Four replicas on PostgreSQL, each behind lines of its own to the database and the broker, take webhooks through a load
balancer, and through a broker what an edge relays. A plan drawn from a seed kills, freezes, restarts and cuts off
while senders send, and retry what was not acknowledged; one stream comes both ways at once. Domains go bad one after
the other, each of which is an incident.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from agent.alerts.types import Incident
from agent.clock import HOUR
from agent.simulate import Scenario
from agent.simulate.send import Sent, simulate
from tests.chaos.plan import BUS_SIDE, STORE_SIDE, plan
from tests.chaos.site import STATED, STEADY, Counts, Site
from tests.ledger.traffic import by_place
from tests.servers.receiver import labels

BAD_EVERY = 30.0  # seconds between two domains that go bad


class Senders:
    """Who sends to a site."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def send(self, seconds: float, rate: float, bad: list[str]) -> dict[str, list[Sent]]:
        """By provider. Lasts ``seconds`` at least."""
        scenarios = {provider: _scenario(int(share * rate * seconds), n) for n, (provider, share) in
                     enumerate((("sendgrid", 0.35), ("postmark", 0.08)))}  # fmt: skip
        async with asyncio.TaskGroup() as group:
            relayed = group.create_task(
                self._post("sendgrid", scenarios["sendgrid"], self._site.edge.agent.webhook("relayed"), rate, 20)
            )
            direct = group.create_task(self._post("sendgrid", scenarios["sendgrid"], self._url("direct"), rate, 20))
            single = group.create_task(self._post("postmark", scenarios["postmark"], self._url("postmark"), rate / 6))
            going_bad = [group.create_task(self._go_bad(n, name)) for n, name in enumerate(bad)]
        assert direct.result().truth == relayed.result().truth
        return {
            "sendgrid": [direct.result(), relayed.result()], "postmark": [single.result()],
            "mailgun": [task.result() for task in going_bad],
        }  # fmt: skip

    def _url(self, source: str) -> str:
        return f"http://127.0.0.1:{self._site.balancer.port}/webhooks/{source}"

    async def _post(self, provider: str, scenario: Scenario, url: str, rate: float, batch: int = 1) -> Sent:
        signing = self._site.keys[provider].signing
        return await simulate(
            provider, scenario, url, signing, rate=rate, batch=batch, concurrency=8, attempts=1000
        )  # fmt: skip

    async def _go_bad(self, number: int, domain: str) -> Sent:
        await asyncio.sleep(5 + number * BAD_EVERY)
        now = time.time()
        scenario = Scenario(start=now - 5 * HOUR, duration=4 * HOUR, until=now, messages=300, seed=100 + number,
                            hard=0.2, opened=0.0, domains={domain: 1.0})  # fmt: skip
        return await self._post("mailgun", scenario, self._url("mailgun"), 0.0)


def _scenario(messages: int, seed: int) -> Scenario:
    """Everything at once: copies with changed ids, soft then hard, deferrals, late bounces, over thirty hours."""
    now = time.time()
    return Scenario(
        start=now - 30 * HOUR, duration=30 * HOUR, until=now, messages=messages, seed=seed, hard=0.05, soft=0.04,
        block=0.03, undetermined=0.01, dropped=0.02, deferred=0.2, asynchronous=0.05, soft_then_hard=0.5, opened=0.2,
        complained=0.01, unsubscribed=0.01, duplicates=0.2, changed_ids=0.5, late=0.3, lateness=5 * HOUR,
        domains=dict.fromkeys(STEADY, 1.0),
    )  # fmt: skip


async def chaos(folder: Path, *, seconds: float, seed: int, rate: float = 150.0) -> None:
    """Prints what was done and found. Raises ``AssertionError``."""
    bad = [f"bad{n}.example" for n in range(max(2, int(seconds / BAD_EVERY) - 1))]
    site = Site(seed)
    async with AsyncExitStack() as stack:
        await site.open(stack, folder, bad)
        sending = asyncio.create_task(Senders(site).send(seconds, rate, bad))
        until = time.monotonic() + seconds
        store_side, bus_side = random.Random(seed), random.Random(seed + 1)
        await asyncio.gather(
            site.suffer(plan(STORE_SIDE, store_side), until), site.suffer(plan(BUS_SIDE, bus_side), until)
        )
        sent = await asyncio.wait_for(sending, 300)
        await site.settle()
        incidents, found = await site.incidents(), await site.counted()
        sessions = int(site.postgres.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mailvitals'"))
        left = [pid for one in (*site.replicas, site.edge) for pid in one.left()]
        logs = {one.agent.folder.name: one.agent.log.read_text() for one in (*site.replicas, site.edge)}
    _print(site, sent, incidents, seed, seconds)

    want: Counts = Counter()
    for provider, of_provider in sent.items():
        for one in of_provider[:1] if provider == "sendgrid" else of_provider:
            want += by_place(one.truth, provider)
    for width, counts in found.items():
        assert counts == want, f"roll-up of {width} s: {counts - want} too many, {want - counts} missing"
    assert not any(one.failed for of_provider in sent.values() for one in of_provider)
    assert sum(one.retries for of_provider in sent.values() for one in of_provider) > 0, "nothing was hit"

    told, once = site.receiver.told["firing"], Counter({labels(i.labels): 1 for i in incidents})
    assert told == once, f"each told once: {told - once} too often, {once - told} not"
    breached = {i.labels["domain"] for i in incidents if i.labels["alertname"] == "MailTargetBreached"}
    assert breached == {*bad, *STEADY}
    assert len(site.failovers) >= 2
    assert max(seconds for _, seconds in site.failovers) <= STATED
    for name, log in logs.items():
        assert "Traceback" not in log, name
    assert _epochs_with_two_leaders(logs) == []
    assert sessions == 0
    assert left == []
    assert {code for one in (*site.replicas, site.edge) for code in one.ended} <= {1}, "the store was away at a start"


def _epochs_with_two_leaders(logs: dict[str, str]) -> list[int]:
    taken: Counter[int] = Counter()
    for log in logs.values():
        for row in log.splitlines():
            if '"leadership.changed"' in row:
                said = msgspec.json.decode(row)
                taken[said["epoch"]] += said["own"]
    return [epoch for epoch, n in taken.items() if n > 1]


def _print(site: Site, sent: dict[str, list[Sent]], incidents: list[Incident], seed: int, seconds: float) -> None:
    print(f"\nseed {seed}, {seconds:.0f} s, {site.blows.total()} blows:")
    for blow, n in sorted(site.blows.items()):
        print(f"  {n:>3} × {blow}")
    for blow, took in site.failovers:
        print(f"  {blow}: another led after {took:.1f} s")
    for provider, of_provider in sent.items():
        reports, retries = sum(s.reports for s in of_provider), sum(s.retries for s in of_provider)
        print(f"  {provider}: {reports:,} reports acknowledged, {retries:,} tries again")
    again = [code for one in (*site.replicas, site.edge) for code in one.ended]
    print(f"  {len(again)} starts without a store; {len(incidents)} incidents, "
          f"{site.receiver.told['firing'].total()} told")  # fmt: skip
