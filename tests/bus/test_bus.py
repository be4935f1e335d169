"""Edges, a broker and cores, each a process that may die: what an ESP was told is taken is counted, once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.bus.client import Broker, Client, Denied, Incoming
from agent.bus.wire import Header, sign
from agent.clock import DAY, HOUR, MINUTE
from agent.ledger.sqlite import SqliteLedger
from agent.simulate import SIMULATORS
from agent.simulate.send import simulate
from tests.bus import agents
from tests.servers.agent import ROOT, Agent, command
from tests.servers.base import wait_until
from tests.servers.mosquitto import Mosquitto, mosquitto
from tests.servers.raw import exchange, request


async def net(core: Agent) -> dict[int, Counter[str]]:
    """What lies in a stopped core's ledger, by roll-up."""
    ledger = SqliteLedger(core.database, agents.IDENTITY_KEY.encode())
    found: dict[int, Counter[str]] = {}
    for width in (MINUTE, HOUR, DAY):
        found[width] = Counter()
        for row in await ledger.rows(width, 0, time.time() + DAY):
            found[width][row.measure] += row.count
    await ledger.close()
    return found


def gauge(one: Agent, name: str) -> float:
    return next(
        float(line.split()[-1])
        for line in one.get("/metrics").decode().splitlines()
        if line.startswith(f"mailvitals_{name} ")
    )


def post(one: Agent, source: str, body: bytes) -> tuple[int, float]:
    """A signed webhook: its status and how many seconds the answer took."""
    provider, pair = {"sg": ("sendgrid", agents.PAIR), "pm": ("postmark", agents.POSTMARK)}[source]
    headers = SIMULATORS[provider].sign(body, pair.signing, time.time())
    began = time.monotonic()
    answer = exchange(one.public, request("POST", f"/webhooks/{source}", headers, body), timeout=30)
    return answer.status, time.monotonic() - began


def fresh(number: int, size: int = 1) -> bytes:
    """Events of SendGrid that nobody has seen."""
    return json.dumps([
        {
            "email": f"jane{number}@small.example", "timestamp": int(time.time()) - 60, "event": "delivered",
            "sg_event_id": f"e{number}.{n}", "sg_message_id": f"m{number}.{n}", "category": ["newsletter"],
        }
        for n in range(size)
    ]).encode()  # fmt: skip


@contextlib.asynccontextmanager
async def client(
    broker: Mosquitto, name: str, *topics: str, user: str = ""
) -> AsyncIterator[tuple[Client, list[Incoming]]]:
    """A connected client and what it has received."""
    got: list[Incoming] = []
    where = Broker("127.0.0.1", broker.port, username=user, password="secret" if user else "")
    one = Client(
        where, name, subscriptions=topics, receive=lambda m: (got.append(m), one.acknowledge(m))[0],
        keep_session=False, status_topic=f"mailvitals/status/{name}",
    )  # fmt: skip
    running = asyncio.create_task(one.run())
    try:
        async with asyncio.timeout(10):
            while not one.connected:
                await asyncio.sleep(0.02)
        yield one, got
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_edge_broker_and_core_killed_again_and_again_every_count_is_exact(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path / "broker")
    edge, core = agents.edge(tmp_path, broker), agents.core(tmp_path, broker)
    other = agents.core(tmp_path, broker, "core-2", database=core.database)
    broker.start()
    for one in (core, other, edge):
        one.start()
    rng = random.Random(3)
    try:
        sending = asyncio.create_task(
            simulate(
                "sendgrid", agents.scenario(8_000, time.time()), edge.webhook("sg"), agents.PAIR.signing, rate=850,
                batch=40, concurrency=8, attempts=200,
            )
        )  # fmt: skip
        victims = [edge, core, broker] * 3
        rng.shuffle(victims)
        for number, victim in enumerate(victims):
            if number == 3:
                assert other.counters("bus_messages_total", "direction")["in"] > 0, "two cores share the work"
                other.kill()  # For good, with its share of what is under way.
            await asyncio.sleep(rng.uniform(0.3, 0.8))
            assert not sending.done(), "it outlasts the kills on any machine"
            victim.kill()
            await asyncio.sleep(rng.uniform(0.0, 0.3))
            if isinstance(victim, Agent):
                victim.start(wait=False)
            else:
                victim.start()
        sent = await sending
        assert sent.failed == 0
        assert sent.retries > 0, "the kills hit nothing"
        await asyncio.to_thread(wait_until, edge.ready)
        await asyncio.to_thread(wait_until, lambda: gauge(edge, "bus_spool_messages") == 0, 60, "the spool to be empty")
        assert edge.counters("bus_messages_total", "outcome")["refused"] == 0
        assert (edge.stop(), core.stop()) == (0, 0)
    finally:
        for last in (edge, core, other, broker):
            last.stop()
    found = await net(core)
    assert found[MINUTE] == found[HOUR] == found[DAY]
    assert found[HOUR] == Counter({m: sent.truth.total(m) for m in {measure for _, measure in sent.truth.counts}})


async def test_without_a_broker_webhooks_are_taken_and_counted_when_there_is_one(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path / "broker")
    edge, core = agents.edge(tmp_path, broker), agents.core(tmp_path, broker)
    try:
        edge.start()
        for number in range(20):
            status, seconds = post(edge, "sg", fresh(number, 3))
            assert status == 200
            assert seconds < 3
        unreadable = b'[{"email": "john@mail.example", '
        assert post(edge, "sg", unreadable)[0] == 200
        assert gauge(edge, "bus_spool_messages") == 21
        assert all(b"@" not in line for line in edge.log.read_bytes().splitlines())
        # What lies on the disk outlives the edge, and names nobody.
        edge.kill()
        stored = b"".join(path.read_bytes() for path in edge.folder.glob("spool.db*"))
        assert not [word for word in (b"small.example", b"jane", b"john", b"mail.example") if word in stored]

        edge.start()
        broker.start()
        core.start()
        wait_until(lambda: core.counters("events_total", "kind")["delivered"] == 60, 30, "the spool to drain")
        wait_until(lambda: gauge(edge, "bus_spool_messages") == 0)

        # A broker that hangs costs time, not webhooks, and what it brought is not counted again.
        broker.freeze()
        status, seconds = post(edge, "sg", fresh(100))
        assert status == 200
        assert seconds < 3, "within the time that every vendor waits"
        assert post(edge, "sg", fresh(101))[1] < 1, "and the next need not find out again"
        broker.thaw()
        wait_until(lambda: core.counters("events_total", "kind")["delivered"] == 62, 40, "the broker to come back")
        assert post(edge, "sg", fresh(100))[0] == 200
        wait_until(lambda: core.counters("duplicate_events_total", "reason")["same_outcome"] >= 1)
        assert core.counters("events_total", "kind") == Counter(delivered=62)
        assert core.counters("events_total", "stream") == Counter(newsletter=62)

        assert {s["name"] for s in core.status()["sources"] if s["last_received_at"]} == {"sg"}
        held = command("quarantine", "list", "--config", str(core.config), "--json")
        assert [entry["source"] for entry in json.loads(held.stdout)] == ["sg"]
        assert command("import", "--config", str(edge.config), "--source", "sg", str(edge.log)).returncode == 78
        assert (edge.stop(), core.stop()) == (0, 0)
    finally:
        edge.stop()
        core.stop()
        broker.stop()
    for one in (edge, core):
        assert "Traceback" not in one.log.read_text()
        assert "jane" not in one.log.read_text()


async def test_rights_forgeries_and_verdicts_under_the_shipped_acl(tmp_path: Path) -> None:
    names = ("mailvitals-core", "mailvitals-edge-1", "mailvitals-reader")
    acl = (ROOT / "deploy/mosquitto/acl").read_text().replace("/postmark", "/pm").replace("/sendgrid", "/other")
    with mosquitto(tmp_path / "broker", users=dict.fromkeys(names, "secret"), acl=acl) as broker:
        edge = agents.edge(tmp_path, broker, username="mailvitals-edge-1", password="secret")
        core = agents.core(tmp_path, broker, username="mailvitals-core", password="secret")
        try:
            core.start()
            edge.start()
            reading = ("mailvitals/verdicts/#", "mailvitals/findings/#", "mailvitals/dead/+", "mailvitals/status/+")
            async with client(broker, "reader", *reading, user="mailvitals-reader") as (reader, got):
                # The ACL lets this edge speak for pm, not for sg: what comes for sg waits on its disk, and is shown.
                assert (await asyncio.to_thread(post, edge, "sg", fresh(1)))[0] == 200
                body = json.dumps({
                    "RecordType": "Delivery", "MessageID": "p1", "Recipient": "u@gmail.com",
                    "DeliveredAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60)),
                }).encode()  # fmt: skip
                assert (await asyncio.to_thread(post, edge, "pm", body))[0] == 200
                counted = lambda: core.counters("events_total", "source")  # noqa: E731
                await asyncio.to_thread(wait_until, lambda: counted() == Counter(pm=1))
                told = edge.counters("bus_messages_total", "outcome")
                assert told["denied"] >= 1
                assert told["spooled"] == gauge(edge, "bus_spool_messages") == 1
                assert "bus.denied" in edge.log.read_text()
                for topic in ("events/pm", "confirmed/edge-1", "verdicts/example.com/bounce"):
                    with pytest.raises(Denied, match="Not authorized"):
                        await reader.publish(f"mailvitals/{topic}", b"[]")

                # Who has the edge's password, not the key, invents nothing.
                header = Header("events", "f" * 32, "pm", "postmark", "postmark", "edge-1", time.time())
                event = b'[{"id":"%s","kind":"bounced","at":%d}]' % (b"0" * 24, time.time())
                async with client(broker, "thief", user="mailvitals-edge-1") as (thief, _):
                    await thief.publish("mailvitals/events/pm", event, sign(header, event, b"x" * 40))
                    await thief.publish("mailvitals/events/pm", event, {})
                    # Nor does who has both speak for another source, or in a way that nobody understands.
                    wrong = Header("events", "f" * 32, "sg", "sendgrid", "sendgrid", "edge-1", time.time())
                    await thief.publish("mailvitals/events/pm", event, sign(wrong, event, agents.BUS_KEY.encode()))
                    await thief.publish("mailvitals/events/pm", b"{", sign(header, b"{", agents.BUS_KEY.encode()))
                    with pytest.raises(Denied, match="Not authorized"):
                        await thief.publish("mailvitals/events/sg", event, {})

                def buried() -> Counter[str]:
                    return Counter(m.properties["dead_reason"] for m in got if m.topic == "mailvitals/dead/pm")

                async with asyncio.timeout(10):
                    while buried() != Counter(forged=3, unreadable=1):
                        await asyncio.sleep(0.05)
                counts = core.counters("bus_messages_total", "outcome")
                assert (counts["forged"], counts["unreadable"]) == (3, 1)
                assert core.counters("events_total", "kind") == Counter(delivered=1)

                async with asyncio.timeout(10):
                    while not {"mailvitals/verdicts/example.com/bounce", "mailvitals/findings/example.com/spf"} <= {
                        m.topic for m in got
                    }:
                        await asyncio.sleep(0.05)
                bounce = [m.payload for m in got if m.topic == "mailvitals/verdicts/example.com/bounce"][-1]
                assert json.loads(bounce)["verdict"] in ("insufficient_data", "stale")
                assert ("mailvitals/status/edge-1", b"online") in {(m.topic, m.payload) for m in got}
                assert (edge.stop(), core.stop()) == (0, 0)
                async with asyncio.timeout(10):
                    while ("mailvitals/status/core-1", b"offline") not in {(m.topic, m.payload) for m in got}:
                        await asyncio.sleep(0.05)
        finally:
            edge.stop()
            core.stop()


def test_without_a_bus_its_client_is_not_loaded() -> None:
    code = (
        "import sys, agent.daemon, agent.cli\n"
        "from agent.settings import loads\n"
        "loads('listen: {}\\nstore: {url: sqlite:////var/lib/x.db}\\ndomains: [{name: example.com}]', {})\n"
        "sys.exit('aiomqtt' in sys.modules or 'paho' in sys.modules or 'agent.bus' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
