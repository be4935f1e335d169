"""A rolling restart behind a load balancer: who sends meanwhile, on connections that are kept, notices nothing."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from pathlib import Path

from agent.clock import DAY
from agent.ledger.base import Server
from agent.ledger.postgres import PostgresLedger
from tests.servers.agent import Agent
from tests.servers.balancer import Balancer, balancer
from tests.servers.base import wait_until
from tests.servers.postgres import database_of
from tests.servers.raw import connect, read_answer, request
from tests.stack.live import SETTINGS, Live, signed

SENDERS = 6
EVENTS = 5  # of a request
DRAIN = 3
IDENTITY_KEY = "i" * 40


class Sender(threading.Thread):
    """Sends on one connection for as long as it may be kept, which the answers say."""

    def __init__(self, number: int, live: Live, port: int, stop: threading.Event) -> None:
        super().__init__()
        self.statuses: Counter[int] = Counter()
        self.connections = 0
        self._number = number
        self._live = live
        self._port = port
        self._stop_sending = stop

    def run(self) -> None:
        serial = 0
        while not self._stop_sending.is_set():
            self.connections += 1
            with connect(self._port, 20) as connection:
                while not self._stop_sending.wait(0.01):
                    serial += 1
                    ids = [{"sg_message_id": f"m{self._number}-{serial}-{i}.x"} for i in range(EVENTS)]
                    data = json.dumps([self._live.fresh(**one) for one in ids]).encode()
                    connection.sendall(request("POST", "/webhooks/sg", signed("sg", data), data))
                    answer = read_answer(connection)
                    self.statuses[answer.status] += 1
                    if answer.headers.get("connection") == "close" or not answer.status:
                        break


def test_who_sends_on_kept_connections_notices_no_rolling_restart(tmp_path: Path) -> None:
    server = database_of(tmp_path)
    store = {"url": server.url, "password": server.password, "identity_key": IDENTITY_KEY}
    agents = [Agent(tmp_path / name, {**SETTINGS, "store": store}) for name in ("one", "two", "three")]
    for agent in agents:
        agent.config.write_text(agent.config.read_text().replace("drain: 100ms", f"drain: {DRAIN}s"))
    stop = threading.Event()
    try:
        for agent in agents:
            agent.start()
        with balancer(agents) as proxy:
            live = Live(agents[0])
            senders = [Sender(n, live, proxy.port, stop) for n in range(SENDERS)]
            for sender in senders:
                sender.start()
            try:
                for agent in agents:
                    _restart(agent, proxy)
            finally:
                stop.set()
                for sender in senders:
                    sender.join()
    finally:
        codes = [agent.stop(at_once=True) for agent in agents]
    assert set(codes) == {0}
    statuses = sum((sender.statuses for sender in senders), Counter())
    print(f"{statuses.total()} requests on {sum(s.connections for s in senders)} connections: {dict(statuses)}")
    assert set(statuses) == {200}
    assert statuses[200] > 500
    assert all(sender.connections >= 2 for sender in senders), "each was moved"
    assert asyncio.run(_counted(server)) == statuses[200] * EVENTS


def _restart(agent: Agent, proxy: Balancer) -> None:
    time.sleep(1)
    began = time.monotonic()
    assert agent.stop() == 0
    assert DRAIN <= time.monotonic() - began < 20, "it served on, and ended within the grace period"
    agent.start()
    before = proxy.sent_to[agent.public]
    time.sleep(1)
    with connect(proxy.port), connect(proxy.port):
        wait_until(lambda: proxy.sent_to[agent.public] > before, 5, "the balancer to see it")


async def _counted(server: Server) -> int:
    ledger = PostgresLedger(server, IDENTITY_KEY.encode())
    counted = sum(row.count for row in await ledger.rows(DAY, 0, time.time() + DAY))
    await ledger.close()
    return counted
