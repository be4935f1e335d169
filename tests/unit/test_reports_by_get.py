"""Some providers report by GET: such a request is taken like any other, and every other GET stays a probe."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from agent.intake.http import Intake
from agent.intake.source import Source
from agent.ledger.base import Applied, Batch
from agent.providers import PROVIDERS

REPORT = "status=Sent&date=2023-11-14+22%3A13%3A20&to=r%40example.com&messageid=m1"


class Recorder:
    """Gate, ledger and metrics in one: takes all, and keeps it."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.outcomes: list[str] = []

    async def submit(self, batch: Batch) -> Applied:
        self.batches.append(batch)
        return Applied()

    def request(self, source: str, outcome: str, seconds: float) -> None:
        self.outcomes.append(outcome)

    def applied(self, source: str, result: Any) -> None:
        pass

    def quarantined(self, source: str, reason: str) -> None:
        pass

    def connections(self, n: int) -> None:
        pass

    def connection_refused(self, reason: str) -> None:
        raise AssertionError(reason)

    async def quarantine(self, *arguments: object) -> int:
        return 0


@pytest.fixture
async def listener() -> AsyncIterator[tuple[str, Recorder]]:
    recorder = Recorder()
    sources = {
        "elastic": Source("elastic", "elastic_email", PROVIDERS["elastic_email"], {"token": "secret"}),
        "kumo": Source("kumo", "kumomta", PROVIDERS["kumomta"], {"token": "secret"}),
    }
    intake = Intake(sources, recorder, recorder, recorder, max_body_bytes=1024)  # type: ignore[arg-type]
    runner = web.ServerRunner(intake.server(), handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/webhooks/", recorder
    await runner.cleanup()
    intake.close()


@pytest.mark.parametrize(
    ("method", "path", "status", "outcome", "events"),
    [
        ("GET", f"elastic?token=secret&{REPORT}", 200, "accepted", 1),
        ("POST", f"elastic?token=secret&{REPORT}", 200, "accepted", 1),
        ("GET", f"elastic?token=wrong&{REPORT}", 401, "unauthorized", 0),
        ("GET", f"elastic?{REPORT}", 401, "unauthorized", 0),
        ("GET", "elastic?token=secret&status=Sent", 200, "quarantined", 0),
        ("GET", "elastic?token=secret", 200, "probe", 0),
        ("GET", "elastic", 200, "probe", 0),
        ("HEAD", f"elastic?token=secret&{REPORT}", 200, "probe", 0),
        ("PUT", f"elastic?token=secret&{REPORT}", 405, "invalid", 0),
        ("GET", f"kumo?token=secret&{REPORT}", 200, "probe", 0),
    ],
)
async def test_what_comes_of_it(
    listener: tuple[str, Recorder], method: str, path: str, status: int, outcome: str, events: int
) -> None:
    url, recorder = listener
    async with aiohttp.ClientSession() as session, session.request(method, url + path) as response:
        assert response.status == status
    assert recorder.outcomes == [outcome]
    assert sum(len(batch.events) for batch in recorder.batches) == events
