"""Agents on PostgreSQL: what they acknowledge is counted once by all of them together, whatever goes and comes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

from agent.clock import DAY, HOUR
from agent.ledger.base import Server
from agent.ledger.postgres import PostgresLedger
from agent.simulate import SIMULATORS
from agent.simulate.send import simulate
from tests.servers.agent import Agent
from tests.servers.base import wait_until
from tests.servers.postgres import PASSWORD, postgres
from tests.stack.test_kill import _scenario

KEY = "an identity key that both agents know"


async def test_two_agents_count_once_while_the_database_restarts_and_one_of_them_dies(tmp_path: Path) -> None:
    pair = SIMULATORS["sendgrid"].new_credentials()
    (tmp_path / "password").write_text(PASSWORD + "\n")
    with postgres() as server:
        server.create("mail")
        settings = {
            "store": {
                "url": server.url("mail"), "password_file": str(tmp_path / "password"), "identity_key": KEY,
            },
            "sources": [{"name": "main", "provider": "sendgrid", "domain": "example.com", **pair.settings}],
            "domains": [{"name": "example.com"}], "dns": {"resolvers": ["127.0.0.1:9"]}, "vitals": {"interval": "1s"},
        }  # fmt: skip
        agents = [Agent(tmp_path / name, settings) for name in ("one", "two")]
        scenario = _scenario("sendgrid", 12_000)
        try:
            for one in agents:
                one.start()
            # The same traffic through both at once: each is the other's storm of duplicates.
            sending = [
                asyncio.create_task(
                    simulate(
                        "sendgrid", scenario, one.webhook("main"), pair.signing, batch=40, concurrency=6, attempts=100
                    )
                )
                for one in agents
            ]
            await asyncio.sleep(1.5)
            await asyncio.to_thread(server.stop, immediate=True)
            await asyncio.sleep(0.5)
            await asyncio.to_thread(server.start)
            await asyncio.sleep(1.0)
            agents[1].kill()
            agents[1].start(wait=False)
            sent = await asyncio.gather(*sending)
            assert [one.failed for one in sent] == [0, 0]
            assert all(one.retries > 0 for one in sent), "nobody noticed"
            truth = sent[0].truth
            want = Counter({m: truth.total(m) for m in {measure for _, measure in truth.counts}})
            for one in agents:
                await asyncio.to_thread(wait_until, one.ready, 30, "both to be ready again")
            refused = agents[0].counters("webhook_requests_total", "outcome")
            assert refused["unavailable"] + refused["overloaded"] > 0, "the database's absence was a 503"

            def shown() -> bool:
                holders = [one.status()["domains"] for one in agents]
                return any(domains for domains in holders)

            await asyncio.to_thread(wait_until, shown, 30, "one of them to lead and to evaluate")
            assert [one.stop() for one in agents] == [0, 0]
        finally:
            for one in agents:
                one.stop()
        ledger = PostgresLedger(Server(server.url("mail"), PASSWORD), KEY.encode())
        net: Counter[str] = Counter()
        for row in await ledger.rows(HOUR, 0, time.time() + DAY):
            net[row.measure] += row.count
        await ledger.close()
        assert net == want
        for one in agents:
            assert PASSWORD not in one.log.read_text()
            assert KEY not in one.log.read_text()
