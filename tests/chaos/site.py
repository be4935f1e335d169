"""Four replicas, their store, a broker with an edge behind it, who is told of alerts, and what is done to them."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import msgspec

from agent.alerts.types import Incident
from agent.clock import DAY, HOUR, MINUTE
from agent.ledger.base import Cell, Server
from agent.ledger.postgres import PostgresLedger
from agent.simulate import SIMULATORS, KeyPair
from tests.chaos.plan import Blow
from tests.chaos.supervised import Supervised
from tests.servers.agent import Agent
from tests.servers.alertmanager import Alertmanager, alertmanager
from tests.servers.balancer import Balancer, balancer
from tests.servers.base import wait_until
from tests.servers.line import Line, line
from tests.servers.mosquitto import Mosquitto, mosquitto
from tests.servers.postgres import PASSWORD, Postgres, postgres
from tests.servers.receiver import Receiver, labels, receiver

REPLICAS = 4
STATED = 15.0  # seconds until another agent leads
KEY, BUS_KEY = "i" * 40, "b" * 40
STREAMS = ["transactional", "newsletter"]
STEADY = ("example.com", "news.example.org")
DATABASE = "mail"
Counts = Counter[tuple[Cell, str]]


class Site:
    """The servers, and what was done to them."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.keys: dict[str, KeyPair] = {
            p: SIMULATORS[p].new_credentials() for p in ("sendgrid", "postmark", "mailgun")
        }
        self.blows: Counter[str] = Counter()
        self.failovers: list[tuple[str, float]] = []
        self.replicas: list[Supervised] = []
        self.edge: Supervised
        self.stores: list[Line] = []
        self.buses: list[Line] = []  # the edge's is the last
        self.postgres: Postgres
        self.broker: Mosquitto
        self.alertmanager: Alertmanager
        self.receiver: Receiver
        self.balancer: Balancer

    async def open(self, stack: AsyncExitStack, folder: Path, bad: list[str]) -> None:
        """Start everything; ``stack`` ends it."""
        servers = stack.enter_context(ExitStack())
        enter = servers.enter_context
        self.postgres = await asyncio.to_thread(enter, postgres())
        self.postgres.create(DATABASE)
        self.broker = await asyncio.to_thread(enter, mosquitto(folder / "broker"))
        self.receiver = enter(receiver())
        self.alertmanager = await asyncio.to_thread(enter, alertmanager(folder / "am", webhook=self.receiver.url))
        for _ in range(REPLICAS):
            self.stores.append(await stack.enter_async_context(line(self.postgres.port)))
        for _ in range(REPLICAS + 1):
            self.buses.append(await stack.enter_async_context(line(self.broker.port)))
        sendgrid = {"provider": "sendgrid", "streams": STREAMS, **self.keys["sendgrid"].settings}
        own = [{"name": p, "provider": p, "streams": STREAMS, **self.keys[p].settings} for p in ("postmark", "mailgun")]
        for number in range(REPLICAS):
            settings = {
                "store": {"url": self.postgres.url(DATABASE, self.stores[number].port), "password": PASSWORD,
                          "identity_key": KEY},
                "bus": self._bus("core", f"core-{number}", self.buses[number]),
                "sources": [*own, {"name": "direct", **sendgrid}, {"name": "relayed", "provider": "sendgrid",
                                                                   "relayed": True}],
                "domains": [{"name": name} for name in (*STEADY, *bad)],
                "dns": {"resolvers": ["127.0.0.1:9"], "mailbox_lookup": False},
                "vitals": {"interval": "1s"}, "alertmanagers": [self.alertmanager.url], "alerts": {"resend": "2s"},
            }  # fmt: skip
            self.replicas.append(
                await stack.enter_async_context(Supervised(Agent(folder / f"core-{number}", settings)))
            )
        settings = {
            "store": {"url": f"sqlite:///{folder}/edge/spool.db", "identity_key": KEY},
            "bus": self._bus("edge", "edge-1", self.buses[-1]),
            "sources": [{"name": "relayed", **sendgrid}],
        }
        self.edge = await stack.enter_async_context(Supervised(Agent(folder / "edge", settings)))
        for one in (*self.replicas, self.edge):
            await one.ready()
        self.balancer = enter(balancer([one.agent for one in self.replicas]))

    def _bus(self, mode: str, name: str, way: Line) -> dict[str, Any]:
        return {"mode": mode, "url": f"mqtt://127.0.0.1:{way.port}", "name": name, "key": BUS_KEY}

    # What happens.

    async def suffer(self, blows: Iterator[Blow], until: float) -> None:
        for blow in blows:
            if time.monotonic() > until:
                return
            self.blows[str(blow)] += 1
            await self._strike(blow)
            await asyncio.sleep(blow.pause)

    async def _strike(self, blow: Blow) -> None:
        if blow.whom == "postgresql":
            await asyncio.to_thread(self._strike_server, self.postgres, blow)
        elif blow.whom == "broker":
            await asyncio.to_thread(self._strike_server, self.broker, blow)
        elif blow.whom == "edge":
            await self._strike_agent(blow, self.edge, -1)
        elif blow.whom == "replica":
            # Thawed with the other, one that is frozen would lead on.
            number = self.rng.choice([n for n, one in enumerate(self.replicas) if not one.frozen])
            await self._strike_agent(blow, self.replicas[number], number)
        else:
            epoch, number = await self._leader()
            began = time.monotonic()
            striking = asyncio.create_task(self._strike_agent(blow, self.replicas[number], number))
            while (await asyncio.to_thread(self._lease))[0] in (0, epoch):
                await asyncio.sleep(0.1)
                if time.monotonic() - began > 3 * STATED:
                    break
            self.failovers.append((str(blow), time.monotonic() - began))
            await striking

    def _lease(self) -> tuple[int, str]:
        """The epoch and its holder, as the store knows them."""
        try:
            epoch, _, holder = self.postgres.sql("SELECT epoch, holder FROM mailvitals.lease", DATABASE).partition("|")
        except OSError:
            return 0, ""
        return int(epoch), holder

    async def _leader(self) -> tuple[int, int]:
        """The epoch and the number of the replica that leads it, once there is one alive."""
        while True:
            epoch, holder = await asyncio.to_thread(self._lease)
            for number, one in enumerate(self.replicas):
                if one.running and f"-{one.pid}-" in holder:
                    return epoch, number
            await asyncio.sleep(0.2)

    def _strike_server(self, server: Postgres | Mosquitto, blow: Blow) -> None:
        if blow.what == "freeze":
            server.freeze()
            time.sleep(blow.seconds)
            server.thaw()
            return
        if blow.what == "kill":
            server.kill()
        else:
            server.stop()
        time.sleep(blow.seconds / 4)
        server.start()

    async def _strike_agent(self, blow: Blow, one: Supervised, number: int) -> None:
        if blow.what == "kill":
            one.kill()
        elif blow.what == "kill store of":
            one.kill_store()
        elif blow.what == "freeze":
            await one.freeze(blow.seconds)
        else:
            way = (self.buses if blow.what == "cut bus of" else self.stores)[number]
            way.cut()
            await asyncio.sleep(blow.seconds)
            way.mend(lost=blow.lost)

    # What there must be in the end.

    async def settle(self) -> None:
        """Wait until all is well and nothing is under way, and end the agents in good order."""
        for one in (*self.replicas, self.edge):
            await one.ready()
        spooled = lambda: b"mailvitals_bus_spool_messages 0.0" in self.edge.agent.get("/metrics")  # noqa: E731
        await asyncio.to_thread(wait_until, spooled, 60, "the spool to be empty")
        want = await self.incidents()
        told = lambda: self.receiver.told["firing"].keys() >= {labels(i.labels) for i in want}  # noqa: E731
        await asyncio.to_thread(wait_until, told, 30, "every incident to be told")
        for one in (self.edge, *self.replicas):
            assert await one.stop() == 0

    def ledger(self) -> PostgresLedger:
        return PostgresLedger(Server(self.postgres.url(DATABASE), PASSWORD), KEY.encode())

    async def incidents(self) -> list[Incident]:
        """As they are stored."""
        ledger = self.ledger()
        try:
            return [msgspec.json.decode(body, type=Incident) for body in (await ledger.load("incident")).values()]
        finally:
            await ledger.close()

    async def counted(self) -> dict[int, Counts]:
        """All that the store says, by width of the roll-up."""
        ledger = self.ledger()
        found: dict[int, Counts] = {width: Counter() for width in (MINUTE, HOUR, DAY)}
        for width, counts in found.items():
            for row in await ledger.rows(width, 0, time.time() + DAY):
                counts[row.cell, row.measure] += row.count
        await ledger.close()
        return found
