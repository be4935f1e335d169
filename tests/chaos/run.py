"""Everything that can die dies, again and again, under load; what was acknowledged is counted, once, and told, once.

Four replicas on PostgreSQL, each behind lines of its own to database, broker and Alertmanager, take webhooks through a
load balancer, and through a broker what an edge relays. A plan drawn from a seed kills, freezes, restarts and
cuts off while senders send, and retry what was not acknowledged; one stream comes both ways at once. Domains go bad one
after the other, and doors are knocked at by strangers until somebody is told: each is an incident, and those of the
doors end.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from agent.alerts.types import Incident
from agent.simulate.send import Sent
from tests.chaos.plan import BUS_SIDE, STORE_SIDE, plan
from tests.chaos.senders import BAD_EVERY, Senders
from tests.chaos.site import STATED, STEADY, Counts, Site
from tests.ledger.traffic import by_place
from tests.servers.receiver import Receiver, to_be_told

LONGEST_TAIL = 180.0  # seconds until what the senders began is taken


async def chaos(folder: Path, *, seconds: float, seed: int, rate: float = 150.0) -> None:
    """Prints what was done and found. Raises ``AssertionError``."""
    numbers = range(max(1, round(seconds / BAD_EVERY)))
    site = Site(seed, bad=[f"bad{n}.example" for n in numbers], doors=[f"door{n}" for n in numbers])
    async with AsyncExitStack() as stack:
        await site.open(stack, folder)
        began = time.monotonic()
        senders = Senders(site, began + seconds, rate)
        sending = asyncio.create_task(senders.send())
        store_side, bus_side = random.Random(seed), random.Random(seed + 1)
        await asyncio.gather(
            site.suffer(plan(STORE_SIDE, store_side), began + seconds),
            site.suffer(plan(BUS_SIDE, bus_side), began + seconds),
        )
        suffered = time.monotonic() - began
        await asyncio.wait_for(sending, LONGEST_TAIL)
        await site.settle()
        incidents, found = await site.incidents(), await site.counted()
        sessions = int(site.postgres.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mailvitals'"))
        left = [pid for one in (*site.replicas, site.edge) for pid in one.left()]
        logs = {one.agent.folder.name: one.agent.log.read_text() for one in (*site.replicas, site.edge)}
    sent = senders.sent
    _print(site, sent, incidents, seed, suffered)

    want: Counts = Counter()
    for provider, of_provider in sent.items():
        for one in of_provider[::2] if provider == "sendgrid" else of_provider:
            want += by_place(one.truth, provider)
    for width, counts in found.items():
        assert counts == want, f"roll-up of {width} s: {counts - want} too many, {want - counts} missing"
    assert not any(one.failed for of_provider in sent.values() for one in of_provider)
    assert sum(one.retries for of_provider in sent.values() for one in of_provider) > 0, "nothing was hit"

    assert not_told_once(site.receiver, incidents) == []
    assert {i.labels["domain"] for i in incidents if i.labels["alertname"] == "MailTargetBreached"} == {
        *site.bad, *STEADY
    }  # fmt: skip
    doors = [i.labels["source"] for i in incidents if i.labels["alertname"] == "MailSourceRefused" and i.resolved_at]
    assert sorted(doors) == sorted(site.doors)
    assert len(site.failovers) >= 2
    assert max(failover.followed for failover in site.failovers) <= STATED
    for name, log in logs.items():
        at = log.find("Traceback")
        assert at < 0, f"{name}: {log[max(0, at - 500) : at + 5000]}"
    assert _epochs_with_two_leaders(logs) == []
    assert sessions == 0
    assert left == []
    assert {code for one in (*site.replicas, site.edge) for code in one.ended} <= {1}, "the store was away at a start"


def not_told_once(receiver: Receiver, incidents: Sequence[Incident]) -> list[str]:
    """Where what was told is not what is stored: that each incident began, once, with the start that is stored, and
    that it ended, once, where it did. What the next of its kind has replaced in the store has ended."""
    stored = {to_be_told(i.labels, i.starts_at): bool(i.resolved_at) for i in incidents}
    firing, resolved = receiver.told["firing"], receiver.told["resolved"]
    open_kinds = {labels for labels, _ in stored}
    return [
        f"{labels} of {start:%X.%f}: {firing[labels, start]} times told, {resolved[labels, start]} times over"
        for labels, start in sorted({*stored, *firing, *resolved})
        if firing[labels, start] != 1
        or resolved[labels, start] != stored.get((labels, start), True)
        or labels not in open_kinds
    ]


def _epochs_with_two_leaders(logs: dict[str, str]) -> list[int]:
    taken: Counter[int] = Counter()
    for log in logs.values():
        for row in log.splitlines():
            if '"leadership.changed"' in row:
                said = msgspec.json.decode(row)
                taken[said["epoch"]] += said["own"]
    return [epoch for epoch, n in taken.items() if n > 1]


def _print(
    site: Site, sent: dict[str, list[Sent]], incidents: Sequence[Incident], seed: int, seconds: float
) -> None:  # fmt: skip
    print(f"\nseed {seed}, {seconds:.0f} s, {site.blows.total()} blows:")
    for blow, n in sorted(site.blows.items()):
        print(f"  {n:>3} × {blow}")
    for failover in site.failovers:
        print(f"  {failover}")
    for provider, of_provider in sent.items():
        reports, retries = sum(s.reports for s in of_provider), sum(s.retries for s in of_provider)
        print(f"  {provider}: {reports:,} reports acknowledged, {retries:,} tries again")
    again = [code for one in (*site.replicas, site.edge) for code in one.ended]
    told, over = site.receiver.told, sum(bool(i.resolved_at) for i in incidents)
    print(f"  {len(again)} starts without a store; {len(incidents)} incidents, {told['firing'].total()} told; "
          f"{over} over, {told['resolved'].total()} told", flush=True)  # fmt: skip
    for labels, start in told["firing"].keys() - {to_be_told(i.labels, i.starts_at) for i in incidents}:
        print(f"  told of {start:%X.%f} and begun anew: {dict(labels)}", flush=True)
