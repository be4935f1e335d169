"""A simulated week of a thousand domains with a DNS that errs in every way: no false alarm, no change missed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter

import pytest

from agent.dns.checks import CHECKS
from agent.dns.checks.base import Subject, Verdict, Watched
from agent.dns.resolver import Resolver
from agent.dns.watch import Watch
from tests.dns.virtual import VirtualLoop
from tests.dns.world import DAY, HOUR, World, rank
from tests.servers.faulty_dns import Fault, Records, faulty, losing, rcode, rewriting, silent

DAYS, DOMAINS, INTERVAL, TTL = 7.0, 1000, 6 * HOUR, 10_800
NAME = {"spf": "{}", "dmarc": "_dmarc.{}"}
SLACK = 120.0  # seconds: a few time-outs, the second look, the watch's own pace


@pytest.mark.timeout(900)
def test_a_week_without_one_false_alarm() -> None:
    began = time.monotonic()
    world = World(DOMAINS, DAYS, ttl=TTL, seed=16)
    false: list[tuple[float, Watched]] = []
    found: dict[tuple[str, str], float] = {}
    seen: Counter[str] = Counter()
    weights: Counter[str] = Counter()

    async def main() -> Watch:
        loop = asyncio.get_running_loop()

        def changed(w: Watched) -> None:
            now = loop.time()
            seen[f"{w.finding.verdict}/{w.finding.reason}"] += 1
            if w.finding.verdict is Verdict.FAIL or w.finding.reason.startswith("missing"):
                name = NAME[w.finding.check].format(w.domain)
                if not (world.gone(name, now) or world.gone(name, now - SLACK)):
                    false.append((now, w))
                found.setdefault((name, w.finding.check), now)

        w = Watch(
            world, [Subject(d) for d in world.domains], interval=INTERVAL, min_interval=4 * HOUR, clock=loop.time,
            rng=random.Random(1), checks={name: CHECKS[name] for name in NAME}, on_change=changed,
            on_opinion=lambda weight: weights.update([weight.value]),
        )  # fmt: skip
        task = asyncio.create_task(w.run())
        await asyncio.sleep(DAYS * DAY)
        assert w.late() < 60
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return w

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        w = runner.run(main())

    delays: list[float] = []
    missed = []
    for change in world.planted:
        check = "dmarc" if change.name.startswith("_dmarc.") else "spf"
        lag = world.lag if world._number[change.domain] % 5 == 0 else 0.0
        due = change.at + lag + TTL + INTERVAL + SLACK
        clear = world.troubled(change.at, due, change.name)
        due = max(due, clear + INTERVAL + SLACK)
        at = found.get((change.name, check))
        if due < change.back and (at is None or not change.at <= at <= due):
            missed.append((change, at))
        if at is not None:
            delays.append(at - change.at)
    delays.sort()
    print(
        f"\n{DOMAINS} domains, {DAYS:g} days, {sum(world.asked.values()):,} questions {dict(world.asked)}, "
        f"{time.monotonic() - began:.0f} s\nverdicts {dict(seen)}\nsecond opinions {dict(weights)}\n"
        f"false fails {len(false)}, planted {len(world.planted)}, found {len(delays)}, "
        f"after {rank(delays, 0.5) / 60:.0f} min in the middle, {delays[-1] / 60:.0f} at most (TTL + interval = "
        f"{(TTL + INTERVAL) / 60:.0f}); shared include asked {len(world.esp)} times"
    )
    assert not false
    assert not missed
    assert len(world.planted) == DOMAINS // 10
    assert len(delays) > DOMAINS // 12
    assert weights["split"] > DOMAINS // 20
    assert weights["unconfirmed"] > 0
    assert weights["confirmed"] >= len(delays)
    # Once per TTL, and past every cache where bad news was looked at again.
    assert len(world.esp) < DAYS * DAY / TTL * 3 + sum(weights.values())
    assert len(w.findings()) == 2 * DOMAINS
    assert not w._turns
    assert len(w._belief._doubted) < DOMAINS


def zone(domains: list[str]) -> Records:
    records: dict[str, dict[str, list[str]]] = {
        "com": {"NS": ["ns.hosts.test."]},
        "test": {"NS": ["ns.hosts.test."], "SOA": ["ns.test. h.test. 1 60 60 60 60"]},
        "ns.hosts.test": {"A": ["127.0.0.1"]},
    }
    for domain in domains:
        records[domain] = {"TXT": ['"v=spf1 -all"'], "NS": ["ns.hosts.test."], "SOA": ["ns.test. h.test. 1 6 6 6 6"]}
        records["_dmarc." + domain] = {"TXT": [f'"v=DMARC1; p=reject; rua=mailto:r@{domain}"']}
    return records


async def test_real_packets_lost_refused_rewritten_and_one_resolver_out() -> None:
    domains = [f"d{i}.test" for i in range(15)]
    records = dict(zone(domains))
    everything = {"recursive": True, "zones": ("test", "com", "invalid"), "ttl": 1}
    bad: list[Watched] = []
    gone: set[str] = set()

    def changed(w: Watched) -> None:
        if w.finding.verdict is Verdict.FAIL and w.domain not in gone:
            bad.append(w)

    loss = losing(0.05, random.Random(5))
    async with (
        faulty(records, loss, **everything) as a,
        faulty(records, loss, **everything) as b,
        faulty(records, loss, zones=("test", *domains)) as owner,
    ):
        resolver = Resolver([a.address, b.address], timeout=0.3, tries=2)
        w = Watch(
            resolver, [Subject(d) for d in domains], interval=0.5, min_interval=0.3, confirm_after=0.1,
            checks={name: CHECKS[name] for name in NAME}, on_change=changed, authority_port=owner.port,
        )  # fmt: skip
        task = asyncio.create_task(w.run())
        faults: list[Fault] = [loss, silent, rcode(2), rcode(5), rewriting, rcode(3), loss]
        for fault in faults:
            a.fault = fault
            await asyncio.sleep(1)
        gone.add("d3.test")
        del records["_dmarc.d3.test"]
        begun = time.monotonic()
        while not any(
            f.domain == "d3.test" and f.finding.check == "dmarc" and f.finding.verdict is Verdict.FAIL
            for f in w.findings()
        ):
            assert time.monotonic() - begun < 60
            await asyncio.sleep(0.05)
        print(f"\nfound after {time.monotonic() - begun:.1f} s; false fails {len(bad)}")
        assert bad == []
        assert {f.domain for f in w.findings()} == set(domains)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await resolver.aclose()
