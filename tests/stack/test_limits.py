"""The limits of the listeners: what is beyond them is turned away in words, and what is within them is served."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import time
from pathlib import Path

import pytest

from agent.clock import DAY
from agent.daemon import Daemon
from agent.intake import connections as connections_module
from agent.intake.connections import SPARE_DESCRIPTORS, affordable, network
from agent.settings import Settings
from agent.views.http import STREAM_CLIENTS
from tests.servers.base import wait_until
from tests.servers.raw import Answer, connect, exchange, read_answer, request
from tests.stack.live import SENDGRID, Live, live_agent, signed, taken

SECRET = {"X-Secret": "s" * 20}


def test_one_connection_more_than_there_may_be_is_told_to_come_back(tmp_path: Path) -> None:
    listen = {"max_connections": 40, "max_connections_per_address": 30}
    with live_agent(tmp_path, listen=listen) as live:
        _streams_have_an_end(live)
        held = [connect(live.port) for _ in range(30)]
        body = live.batch()
        whole = request("POST", "/webhooks/sg", signed("sg", body), body)
        refused = [exchange(live.port, whole) for _ in range(5)]
        assert {(a.status, a.headers["retry-after"], a.body) for a in refused} == {
            (503, "10", b"too many connections\n")
        }
        elsewhere = [connect(live.port, source="127.0.0.2") for _ in range(10)]
        with connect(live.port, source="127.0.0.3") as one_more:
            assert read_answer(one_more).status == 503
        counted = live.agent.counters("refused_connections_total", "reason")
        assert counted == {"address": 5, "full": 1}
        assert b"mailvitals_connections 40.0" in live.agent.get("/metrics")
        for connection in (held[3], elsewhere[3]):  # Who is in is served.
            own = live.batch()
            connection.sendall(request("POST", "/webhooks/sg", signed("sg", own), own))
            assert taken(read_answer(connection))
        held.pop().close()
        wait_until(lambda: taken(exchange(live.port, whole)), 5, "the room to be given back")
        for connection in (*held, *elsewhere):
            connection.close()
        wait_until(lambda: b"mailvitals_connections 0.0" in live.agent.get("/metrics"), 5, "all to be gone")
        lines = [line for line in live.agent.log.read_text().splitlines() if "connections.refused" in line]
        assert len(lines) == 1, "no stranger fills the log"


def _streams_have_an_end(live: Live) -> None:
    """The private listener's connections that stay open are so many, and keep nobody from a look or a probe."""
    watch = request("GET", "/api/v1/stream", {})
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(live.agent.private)) for _ in range(STREAM_CLIENTS)]
        for connection in held:
            connection.sendall(watch)
            assert connection.recv(12) == b"HTTP/1.1 200"
        refused = exchange(live.agent.private, watch)
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        assert json.loads(refused.body) == {"error": "too many streams"}
        for path in ("/healthz", "/readyz", "/metrics", "/api/v1/status"):
            live.agent.get(path)
        held[0].close()

        def room() -> bool:
            with connect(live.agent.private) as another:
                another.sendall(watch)
                return another.recv(12) == b"HTTP/1.1 200"

        wait_until(room, 5, "the place to be given back")


def test_no_file_descriptors_left_and_the_agent_serves_again(tmp_path: Path) -> None:
    with live_agent(tmp_path) as live:
        assert live.agent.process is not None
        body = live.batch(3)
        whole = request("POST", "/webhooks/sg", signed("sg", body), body)
        with connect(live.port) as before:
            before.sendall(request("GET", "/webhooks/sg", {}))
            assert read_answer(before).status == 200
            own = live.batch(3)
            used = len(list(Path(f"/proc/{live.agent.process.pid}/fd").iterdir()))
            limits = resource.prlimit(live.agent.process.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(live.agent.process.pid, resource.RLIMIT_NOFILE, (used + 5, limits[1]))
            held = [connect(live.port, 3) for _ in range(40)]
            before.sendall(request("POST", "/webhooks/sg", signed("sg", own), own))
            assert taken(read_answer(before)), "who is in is served"
            for connection in held:
                connection.close()
        wait_until(lambda: taken(exchange(live.port, whole)), 5, "connections to be accepted again")
        resource.prlimit(live.agent.process.pid, resource.RLIMIT_NOFILE, limits)
        assert live.events() == 6
        assert live.agent.get("/readyz")
        assert "Traceback" not in live.agent.log.read_text()


def test_as_many_connections_as_there_are_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"soft": 1024, "hard": 4096}

    def raise_limit(_: int, wanted: tuple[int, int]) -> None:
        limits["soft"] = wanted[0]

    monkeypatch.setattr(connections_module.resource, "getrlimit", lambda _: (limits["soft"], limits["hard"]))
    monkeypatch.setattr(connections_module.resource, "setrlimit", raise_limit)
    assert affordable(2000) == 2000
    assert limits["soft"] == 4096, "all that may be had is asked for"
    assert affordable(10_000) == 4096 - SPARE_DESCRIPTORS
    limits.update(soft=64, hard=64)
    assert affordable(2000) == 16
    limits.update(soft=resource.RLIM_INFINITY, hard=resource.RLIM_INFINITY)
    assert affordable(100_000) == 100_000


def test_what_counts_as_one_address() -> None:
    assert network("192.0.2.1") == network("::ffff:192.0.2.1") == "192.0.2.1"
    assert network("2001:db8::1") == network("2001:db8:0:0:ffff::2%eth0") != network("2001:db8:0:1::1")
    assert network("") == network("no address") == ""


async def test_while_the_clock_cannot_be_believed_mail_stays_with_its_senders(tmp_path: Path) -> None:
    moved = {"by": 0.0}
    settings = Settings.model_validate(
        {
            "listen": {"public": "127.0.0.1:0", "private": "127.0.0.1:0"},
            "store": {"url": f"sqlite:///{tmp_path}/ledger.db"},
            "sources": [{"name": "sg", "provider": "sendgrid", "domain": "example.com", **SENDGRID.settings}],
            "vitals": {"interval": "1s"},
        }
    )
    daemon = Daemon(settings, clock=lambda: time.time() + moved["by"])
    started = asyncio.Event()

    async def alongside(_: Daemon) -> None:
        started.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(daemon.run(alongside))
    await asyncio.wait_for(started.wait(), 30)
    port = int(daemon.addresses["public"].rpartition(":")[2])

    async def post(n: int) -> Answer:
        at = int(time.time()) - 60
        event = {
            "email": "a@gmail.com",
            "event": "delivered",
            "timestamp": at,
            "sg_message_id": f"m{n}",
            "sg_event_id": f"e{n}",
        }
        body = json.dumps([event]).encode()
        return await asyncio.to_thread(exchange, port, request("POST", "/webhooks/sg", signed("sg", body), body))

    async def counted() -> int:
        return sum(row.count for row in await daemon.ledger.rows(DAY, 0, time.time() + DAY))

    try:
        assert taken(await post(1))
        for n, jump in enumerate((400 * DAY, -400 * DAY), 2):
            moved["by"] = jump
            answer = await post(n)
            assert (answer.status, answer.headers["retry-after"]) == (503, "10")
            assert answer.body == f"the clock jumped by {jump:+.0f} s\n".encode()
            async with asyncio.timeout(10):
                while not daemon._ready["clock"]:
                    await asyncio.sleep(0.1)
            assert daemon._ready["clock"].startswith("the clock jumped by")
            assert not daemon._clock_watch.settled()
            assert await counted() == n - 1, "nothing is pruned"
            jumped_at = time.time()
            async with asyncio.timeout(10):
                while not (seen := daemon.state().snapshot) or seen.evaluated_at < jumped_at:
                    await asyncio.sleep(0.1)
            assert abs(seen.evaluated_at - time.time()) < 60, "what is judged goes on in the time that was"
            assert abs(daemon.state().now - time.time()) < 60
            moved["by"] = 0.0
            assert taken(await post(n))
        assert await counted() == 3
    finally:
        daemon.stop(at_once=True)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(running, 30)
