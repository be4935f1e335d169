"""The notifier against real Alertmanagers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from agent.alerts.alertmanager import Endpoint, Notifier
from agent.alerts.incidents import identity, step
from agent.alerts.types import Condition, Holds, Incident
from tests.servers.alertmanager import alertmanager
from tests.servers.base import free_port

RESEND = 0.5


def incident(target: str = "bounce", starts_at: float | None = None, **more: object) -> Incident:
    labels = {
        "alertname": "MailTargetBreached",
        "severity": "critical",
        "domain": "example.com",
        "phase": "growth",
        "target": target,
    }
    annotations = {
        "summary": f"{target} breached",
        "description": "150 of 1,000",
        "runbook_url": "https://x.example/#a",
    }
    return Incident(labels, annotations, starts_at or round(time.time() - 100, 3), **more)  # type: ignore[arg-type]


BAD = Incident({"alertname": "Bad", "not a name": "x"}, {}, time.time() - 100)


@contextlib.asynccontextmanager
async def running(notifier: Notifier) -> AsyncIterator[None]:
    task = asyncio.create_task(notifier.run())
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def eventually(condition: Callable[[], object], timeout: float = 15.0) -> None:
    end = time.monotonic() + timeout
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < end, f"not within {timeout:g} s"
        await asyncio.sleep(0.05)


def unix(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


async def test_an_incident_becomes_exactly_one_alert_and_survives_a_restart_of_the_agent(tmp_path: Path) -> None:
    with alertmanager(tmp_path) as server:
        first = incident()
        notifier = Notifier([Endpoint(server.url)], resend=RESEND, generator_url="https://mail.example/")
        notifier.update([first])
        async with running(notifier):
            await eventually(server.alerts)
            await asyncio.sleep(3 * RESEND)
        (alert,) = server.alerts()
        assert alert["labels"] == first.labels
        assert alert["annotations"] == first.annotations
        assert alert["generatorURL"] == "https://mail.example/"
        assert unix(alert["startsAt"]) == pytest.approx(first.starts_at, abs=0.002)
        # Not resolved by the end of the agent, and gone by itself if the agent never returns.
        assert time.time() + 1790 < unix(alert["endsAt"]) < time.time() + 1805

        again = Notifier([Endpoint(server.url + "/")], resend=RESEND)
        again.update([first, incident("complaint")])
        async with running(again):
            await eventually(lambda: len(server.alerts()) == 2)
        (same,) = server.alerts(target="bounce")
        assert unix(same["startsAt"]) == pytest.approx(first.starts_at, abs=0.002)
        assert same["fingerprint"] == alert["fingerprint"]


async def test_the_end_of_an_incident_is_told(tmp_path: Path) -> None:
    def look(incidents: dict[str, Incident], holds: Holds) -> dict[str, Incident]:
        example = incident()
        return step(incidents, [Condition(example.labels, holds, example.annotations)], time.time(), quiet_period=0)

    with alertmanager(tmp_path) as server:
        notifier = Notifier([Endpoint(server.url)], resend=60)
        incidents = look({}, Holds.YES)
        notifier.update(incidents.values())
        async with running(notifier):
            await eventually(server.alerts)
            incidents = look(incidents, Holds.NO)
            assert [i.state for i in incidents.values()] == ["resolved"]
            notifier.update(incidents.values())
            # Far sooner than the next repeat, and than the end that was announced while it was open.
            await eventually(lambda: not server.alerts(), timeout=5)


async def test_an_alertmanager_that_forgot_is_told_again(tmp_path: Path) -> None:
    with alertmanager(tmp_path) as server:
        outcomes: Counter[str] = Counter()
        notifier = Notifier(
            [Endpoint(server.url)], resend=RESEND, on_result=lambda url, outcome: outcomes.update([outcome])
        )
        notifier.update([incident()])
        async with running(notifier):
            await eventually(server.alerts)
            await asyncio.to_thread(server.stop)
            await eventually(lambda: outcomes["failed"] >= 2)
            assert notifier.status()[0].last_error
            assert notifier.status()[0].last_success_at > 0
            await asyncio.to_thread(server.start)
            await eventually(server.alerts)
            await eventually(lambda: notifier.status()[0].last_error == "")
        assert len(server.alerts()) == 1


async def test_one_bad_alert_keeps_no_good_one_back(tmp_path: Path) -> None:
    with alertmanager(tmp_path) as server:
        outcomes: Counter[str] = Counter()
        notifier = Notifier(
            [Endpoint(server.url)], resend=RESEND, on_result=lambda url, outcome: outcomes.update([outcome])
        )
        notifier.update([incident("bounce"), BAD, incident("complaint")])
        async with running(notifier):
            await eventually(lambda: outcomes["rejected"] == 1 and outcomes["sent"] >= 5)
        assert {a["labels"]["target"] for a in server.alerts()} == {"bounce", "complaint"}
        assert (outcomes["rejected"], outcomes["failed"]) == (1, 0)
        assert notifier.status()[0].last_error == ""


async def test_one_alertmanager_down_delays_no_other(tmp_path: Path) -> None:
    down = f"http://127.0.0.1:{free_port()}"
    with alertmanager(tmp_path) as server:
        outcomes: Counter[tuple[str, str]] = Counter()
        notifier = Notifier(
            [Endpoint(down), Endpoint(server.url)],
            resend=RESEND,
            on_result=lambda url, outcome: outcomes.update([(url, outcome)]),
        )
        notifier.update([incident()])
        began = time.monotonic()
        async with running(notifier):
            await eventually(server.alerts, timeout=5)
            assert time.monotonic() - began < 3
            await eventually(lambda: outcomes[down, "failed"] and outcomes[server.url, "sent"] >= 3)
        assert outcomes[server.url, "failed"] == 0
        broken, well = notifier.status()
        assert (broken.url, broken.last_success_at) == (down, 0.0)
        assert broken.last_error.startswith("ClientConnectorError")
        assert (well.last_error, well.last_success_at > 0) == ("", True)


async def test_an_alertmanager_under_a_path(tmp_path: Path) -> None:
    with alertmanager(tmp_path, prefix="/am") as server:
        notifier = Notifier([Endpoint(server.url)], resend=RESEND)
        notifier.update([incident()])
        async with running(notifier):
            await eventually(server.alerts)


async def test_with_nothing_open_the_way_is_tried_all_the_same(tmp_path: Path) -> None:
    with alertmanager(tmp_path) as server:
        outcomes: list[str] = []
        notifier = Notifier(
            [Endpoint(server.url)], resend=RESEND, on_result=lambda url, outcome: outcomes.append(outcome)
        )
        async with running(notifier):
            await eventually(lambda: notifier.status()[0].last_success_at)
        assert server.alerts() == []
        assert outcomes == []


async def test_what_a_lapsed_lease_finds_ready_is_not_sent() -> None:
    pretender, leases = Pretender(), [5.0, 5.0]  # enough to begin a request, and used up before its body leaves
    outcomes: list[str] = []
    async with pretender.serving() as url:
        notifier = Notifier(
            [Endpoint(url)], resend=RESEND, lease=lambda: leases.pop() if leases else 0.0,
            on_result=lambda url, outcome: outcomes.append(outcome),
        )  # fmt: skip
        notifier.update([incident()])
        async with running(notifier):
            await eventually(lambda: len(pretender.bodies) >= 2)
    assert not leases
    assert outcomes == ["failed"]
    assert set(pretender.bodies) == {b"[]"}, "it goes on showing whether the way is open"


async def test_what_the_lease_has_not_brought_over_does_not_come_later() -> None:
    with socket.socket() as hung:
        hung.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        hung.bind(("127.0.0.1", 0))
        hung.listen()
        ends, outcomes = time.monotonic() + 0.3, list[float]()
        notifier = Notifier(
            [Endpoint(f"http://127.0.0.1:{hung.getsockname()[1]}")], lease=lambda: ends - time.monotonic(),
            on_result=lambda url, outcome: outcomes.append(time.monotonic()),
        )  # fmt: skip
        large = msgspec.structs.replace(incident(), annotations={"description": "x" * 150_000})
        notifier.update([large])
        async with running(notifier):
            await eventually(lambda: outcomes)
            assert outcomes[0] - ends < 1
            peer, _ = hung.accept()
            arrived = await asyncio.to_thread(_drain, peer)
        assert 0 < arrived < 150_000


def _drain(peer: socket.socket) -> int:
    """How many bytes still come."""
    came = 0
    with peer, contextlib.suppress(ConnectionResetError):
        while data := peer.recv(65536):
            came += len(data)
    return came


class Pretender:
    """Answers as an Alertmanager in trouble would; what a real one cannot be made to say."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.seen: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.at: list[float] = []

    async def _answer(self, request: web.Request) -> web.Response:
        self.seen.append(request)
        self.bodies.append(await request.read())
        self.at.append(time.monotonic())
        status = self.statuses.pop(0) if self.statuses else 200
        return web.Response(status=status, headers={"Location": "/elsewhere"} if status == 302 else {})

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_route("*", "/{any:.*}", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            await runner.cleanup()


@pytest.mark.parametrize("status", [302, 401, 404, 429, 500, 503])
async def test_trouble_is_retried_and_rejects_no_alert(status: int) -> None:
    pretender = Pretender(status)
    outcomes: list[str] = []
    async with pretender.serving() as url:
        notifier = Notifier([Endpoint(url)], resend=60, on_result=lambda url, outcome: outcomes.append(outcome))
        notifier.update([incident()])
        async with running(notifier):
            await eventually(lambda: len(outcomes) == 1)
            assert notifier.status()[0].last_error.startswith(f"HTTP {status}")
            await eventually(lambda: len(outcomes) == 2)
    assert outcomes == ["failed", "sent"]
    assert [request.path for request in pretender.seen] == ["/api/v2/alerts"] * 2
    assert 0.4 < pretender.at[1] - pretender.at[0] < 5


async def test_changes_during_trouble_do_not_hurry_the_retries() -> None:
    pretender = Pretender(*[503] * 100)
    async with pretender.serving() as url:
        notifier = Notifier([Endpoint(url)], resend=60)
        async with running(notifier):
            for i in range(20):
                notifier.update([incident(starts_at=1_750_000_000 + i)])
                await asyncio.sleep(0.05)
    assert len(pretender.seen) <= 4


@pytest.mark.parametrize(
    ("credentials", "header"),
    [
        ({"token": "t0ken"}, "Bearer t0ken"),
        ({"username": "agent", "password": "s3cret"}, "Basic YWdlbnQ6czNjcmV0"),
    ],
)
async def test_credentials_are_sent(credentials: dict[str, str], header: str) -> None:
    pretender = Pretender()
    async with pretender.serving() as url, running(Notifier([Endpoint(url, **credentials)])):
        await eventually(lambda: pretender.seen)
    assert pretender.seen[0].headers["Authorization"] == header


async def test_credentials_of_the_url_are_sent_and_never_shown() -> None:
    pretender = Pretender(401)
    shown: list[str] = []
    async with pretender.serving() as url:
        secret = url.replace("http://", "http://agent:s3cret@")
        notifier = Notifier([Endpoint(secret)], on_result=lambda url, outcome: shown.append(url))
        async with running(notifier):
            await eventually(lambda: shown)
    assert pretender.seen[0].headers["Authorization"] == "Basic YWdlbnQ6czNjcmV0"
    assert shown[0] == notifier.status()[0].url == url
    assert "s3cret" not in repr(notifier.status())


def test_newest_state_replaces_the_older_one() -> None:
    notifier = Notifier([Endpoint("http://127.0.0.1:9")])
    one, other = incident("bounce"), incident("complaint")
    notifier.update([one])
    notifier.update([other])
    (channel,) = notifier._channels
    assert channel.state == {identity(other.labels): other}
