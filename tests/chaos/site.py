"""Four replicas, their store, a broker with an edge behind it, who is told of alerts, and what is done to them."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from agent.alerts.types import Incident
from agent.clock import DAY, HOUR, MINUTE
from agent.leadership import LEASE
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
from tests.servers.receiver import Receiver, receiver, to_be_told

REPLICAS = 4
STATED = 15.0  # seconds until another agent leads
QUIET, RESEND = 5.0, 2.0  # seconds after which what is over is told to be over, and all is told again
KEY, BUS_KEY = "i" * 40, "b" * 40
STREAMS = ["transactional", "newsletter"]
STEADY = ("example.com", "news.example.org")
DATABASE = "mail"
Counts = Counter[tuple[Cell, str]]


class Failover(NamedTuple):
    """What became of a blow to the leader, in seconds since: the end of its lease by the store's clock, another leader,
    and that one's first word to the Alertmanager (``None``: it had nothing to say, or was struck itself)."""

    blow: str
    lapsed: float
    followed: float
    told: float | None

    def __str__(self) -> str:
        told = "" if self.told is None else f", told after {self.told:.1f} s"
        return f"{self.blow}: lease over after {self.lapsed:.1f} s, another led after {self.followed:.1f} s{told}"


class Site:
    """The servers, and what was done to them. ``bad`` are domains that go bad, ``doors`` sources that are refused."""

    def __init__(self, seed: int, bad: list[str], doors: list[str]) -> None:
        self.bad, self.doors = bad, doors
        self.rng = random.Random(seed)
        self.keys: dict[str, KeyPair] = {
            p: SIMULATORS[p].new_credentials() for p in ("sendgrid", "postmark", "mailgun")
        }
        self.blows: Counter[str] = Counter()
        self.failovers: list[Failover] = []
        self.replicas: list[Supervised] = []
        self.edge: Supervised
        self.stores: list[Line] = []
        self.alerts: list[Line] = []
        self.buses: list[Line] = []  # the edge's is the last
        self.postgres: Postgres
        self.broker: Mosquitto
        self.alertmanager: Alertmanager
        self.receiver: Receiver
        self.balancer: Balancer

    async def open(self, stack: AsyncExitStack, folder: Path) -> None:
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
            self.alerts.append(await stack.enter_async_context(line(self.alertmanager.port)))
        for _ in range(REPLICAS + 1):
            self.buses.append(await stack.enter_async_context(line(self.broker.port)))
        sendgrid = {"provider": "sendgrid", "streams": STREAMS, **self.keys["sendgrid"].settings}
        own = [
            {"name": name, "provider": provider, "streams": STREAMS, **self.keys[provider].settings}
            for name, provider in (("mailgun",) * 2, *((name, "postmark") for name in ("postmark", *self.doors)))
        ]
        for number in range(REPLICAS):
            settings = {
                "store": {"url": self.postgres.url(DATABASE, self.stores[number].port), "password": PASSWORD,
                          "identity_key": KEY},
                "bus": self._bus("core", f"core-{number}", self.buses[number]),
                "sources": [*own, {"name": "direct", **sendgrid}, {"name": "relayed", "provider": "sendgrid",
                                                                   "relayed": True}],
                "domains": [{"name": name} for name in (*STEADY, *self.bad)],
                "dns": {"resolvers": ["127.0.0.1:9"], "mailbox_lookup": False},
                "vitals": {"interval": "1s"},
                "alertmanagers": [f"http://127.0.0.1:{self.alerts[number].port}"],
                "alerts": {"resend": RESEND, "quiet_period": QUIET},
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
            # One that is frozen has been struck already.
            number = self.rng.choice([n for n, one in enumerate(self.replicas) if not one.frozen])
            await self._strike_agent(blow, self.replicas[number], number)
        else:
            epoch, number = await self._leader()
            striking = asyncio.create_task(self._strike_agent(blow, self.replicas[number], number))
            self.failovers.append(await self._failover(str(blow), epoch))
            await striking

    async def _failover(self, blow: str, epoch: int) -> Failover:
        began = lapses = time.time()
        while time.time() < began + 3 * STATED:
            now, _, expires = await asyncio.to_thread(self._lease)
            if now > epoch:
                followed = expires - LEASE
                told = await asyncio.to_thread(self._first_told, now, followed)
                return Failover(blow, lapses - began, followed - began, told and told - began)
            lapses = max(lapses, expires)
            await asyncio.sleep(0.2)
        return Failover(blow, lapses - began, 3 * STATED, None)

    def _first_told(self, epoch: int, since: float) -> float | None:
        """When the Alertmanager first heard something after ``since`` (Unix seconds) from the leader of ``epoch``."""
        while self.alertmanager.alerts() and time.time() < since + STATED and self._lease()[0] in (0, epoch):
            heard = [datetime.fromisoformat(alert["updatedAt"]).timestamp() for alert in self.alertmanager.alerts()]
            if after := [at for at in heard if at > since]:
                return min(after)
            time.sleep(0.2)
        return None

    def _lease(self) -> tuple[int, str, float]:
        """The epoch, its holder and when it expires (Unix seconds), as the store knows them."""
        try:
            said = self.postgres.sql(
                "SELECT epoch, holder, extract(epoch FROM expires) FROM mailvitals.lease", DATABASE
            )
        except OSError:
            return 0, "", 0.0
        epoch, holder, expires = said.split("|")
        return int(epoch), holder, float(expires)

    async def _leader(self) -> tuple[int, int]:
        """The epoch and the number of the replica that leads it, once there is one alive and awake."""
        while True:
            epoch, holder, _ = await asyncio.to_thread(self._lease)
            for number, one in enumerate(self.replicas):
                if one.running and not one.frozen and f"-{one.pid}-" in holder:
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
            ways = {"cut bus of": [self.buses], "cut store of": [self.stores],
                    "cut off": [self.buses, self.stores, self.alerts]}[blow.what]  # fmt: skip
            for way in ways:
                way[number].cut()
            await asyncio.sleep(blow.seconds)
            for way in ways:
                # No network keeps for others what their sender has taken back.
                way[number].mend(lost=blow.lost or way is self.alerts)

    # What there must be in the end.

    async def settle(self) -> None:
        """Wait until all is well and nothing is under way, and end the agents in good order."""
        for one in (*self.replicas, self.edge):
            await one.ready()
        spooled = lambda: b"mailvitals_bus_spool_messages 0.0" in self.edge.agent.get("/metrics")  # noqa: E731
        await asyncio.to_thread(wait_until, spooled, 60, "the spool to be empty")
        end = time.monotonic() + 40
        while not await self._all_told():
            assert time.monotonic() < end, f"not told: {self.receiver.told} of {await self.incidents()}"
            await asyncio.sleep(0.2)
        await asyncio.sleep(2 * RESEND)  # What is told again shows.
        assert await self.edge.stop() == 0
        assert await asyncio.gather(*(one.stop() for one in self.replicas)) == [0] * REPLICAS

    async def _all_told(self) -> bool:
        """Whether whatever went bad is an incident, whatever became well is over, and all of that was told."""
        incidents, told = await self.incidents(), self.receiver.told
        over = [i for i in incidents if i.resolved_at]
        return (
            {i.labels.get("domain") for i in incidents} >= {*self.bad, *STEADY}
            and {i.labels.get("source") for i in over} >= {*self.doors}
            and told["firing"].keys() >= {to_be_told(i.labels, i.starts_at) for i in incidents}
            and told["resolved"].keys() >= {to_be_told(i.labels, i.starts_at) for i in over}
        )

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
