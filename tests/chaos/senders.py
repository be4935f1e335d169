"""Who sends to a site: the load, domains that go bad, and strangers at a door that is then used again."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncIterator

import aiohttp

from agent.clock import HOUR
from agent.simulate import Scenario
from agent.simulate.send import Sent, simulate
from tests.chaos.site import STEADY, Site

BAD_EVERY = 30.0  # seconds between two domains that go bad, and between two doors that strangers knock at
PIECE = 10.0  # seconds of load that are thought out at a time: senders end when the time is over, however slow it went


class Senders:
    """``sent`` is what each provider sent."""

    def __init__(self, site: Site, until: float, rate: float) -> None:
        """Until about ``until`` (monotonic), at about ``rate`` messages a second."""
        self.sent: defaultdict[str, list[Sent]] = defaultdict(list)
        self._site, self._until, self._rate = site, until, rate

    async def send(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._both_ways())
            group.create_task(self._one_way())
            for number, name in enumerate(self._site.bad):
                group.create_task(self._go_bad(number, name))
            for number, name in enumerate(self._site.doors):
                group.create_task(self._knock(number, name))

    async def _both_ways(self) -> None:
        """One stream through an edge and past it."""
        async for scenario in self._pieces(0.35, 0):
            direct, relayed = await asyncio.gather(
                self._post("sendgrid", scenario, self._url("direct"), 20),
                self._post("sendgrid", scenario, self._site.edge.agent.webhook("relayed"), 20),
            )
            assert direct.truth == relayed.truth
            self.sent["sendgrid"] += [direct, relayed]

    async def _one_way(self) -> None:
        async for scenario in self._pieces(0.08, 10_000):
            self.sent["postmark"].append(await self._post("postmark", scenario, self._url("postmark")))

    async def _pieces(self, share: float, seed: int) -> AsyncIterator[Scenario]:
        for n in itertools.count():
            began = time.monotonic()
            if began >= self._until:
                return
            yield _everything(max(1, int(share * self._rate * PIECE)), seed + n)
            await asyncio.sleep(began + PIECE - time.monotonic())

    async def _go_bad(self, number: int, domain: str) -> None:
        await asyncio.sleep(5 + number * BAD_EVERY)
        now = time.time()
        scenario = Scenario(start=now - 5 * HOUR, duration=4 * HOUR, until=now, messages=300, seed=100 + number,
                            hard=0.2, opened=0.0, domains={domain: 1.0})  # fmt: skip
        self.sent["mailgun"].append(await self._post("mailgun", scenario, self._url("mailgun"), 1))

    async def _knock(self, number: int, source: str) -> None:
        """Until somebody is told of it; then the owner comes, so that it is over."""
        await asyncio.sleep(3 + number * BAD_EVERY)

        def told() -> bool:
            return any(("source", source) in labels for labels, _ in self._site.receiver.told["firing"])

        stranger = {"Authorization": aiohttp.encode_basic_auth("stranger", "guess")}
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2), headers=stranger) as session:
            while not told():
                try:
                    async with session.post(self._url(source), data=b"{}") as response:
                        assert response.status in (401, 503)
                except (aiohttp.ClientError, TimeoutError, OSError):
                    pass
                await asyncio.sleep(1)
        # A replica that was frozen refuses what the stranger sent there before the owner comes, not after.
        await asyncio.sleep(15)
        now = time.time()
        scenario = Scenario(start=now - HOUR, duration=60.0, until=now, messages=1, seed=20_000 + number,
                            domains=dict.fromkeys(STEADY, 1.0))  # fmt: skip
        self.sent["postmark"].append(await self._post("postmark", scenario, self._url(source)))

    def _url(self, source: str) -> str:
        return f"http://127.0.0.1:{self._site.balancer.port}/webhooks/{source}"

    async def _post(self, provider: str, scenario: Scenario, url: str, batch: int = 1) -> Sent:
        signing = self._site.keys[provider].signing
        return await simulate(provider, scenario, url, signing, batch=batch, concurrency=8, attempts=1000)


def _everything(messages: int, seed: int) -> Scenario:
    """Everything at once: copies with changed ids, soft then hard, deferrals, late bounces, over thirty hours."""
    now = time.time()
    return Scenario(
        start=now - 30 * HOUR, duration=30 * HOUR, until=now, messages=messages, seed=seed, hard=0.05, soft=0.04,
        block=0.03, undetermined=0.01, dropped=0.02, deferred=0.2, asynchronous=0.05, soft_then_hard=0.5, opened=0.2,
        complained=0.01, unsubscribed=0.01, duplicates=0.2, changed_ids=0.5, late=0.3, lateness=5 * HOUR,
        domains=dict.fromkeys(STEADY, 1.0),
    )  # fmt: skip
