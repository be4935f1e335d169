"""A real agent with a source of every provider, and requests as the providers send them, right or wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from agent.intake.gate import Gate
from agent.intake.http import Intake
from agent.intake.source import Source
from agent.providers import PROVIDERS
from agent.simulate import SIMULATORS, KeyPair
from tests.servers.agent import Agent
from tests.servers.base import wait_until
from tests.servers.raw import Answer, exchange, request

MAX_BODY = 1024 * 1024
SENDGRID, OTHER_SENDGRID = (SIMULATORS["sendgrid"].new_credentials() for _ in range(2))
POSTMARK, OTHER_POSTMARK = (SIMULATORS["postmark"].new_credentials() for _ in range(2))
SETTINGS: dict[str, Any] = {
    "sources": [
        {
            "name": "sg", "provider": "sendgrid", "domain": "example.com", "streams": ["news"],
            "verification_key": [OTHER_SENDGRID.settings["verification_key"], SENDGRID.settings["verification_key"]],
        },
        {
            "name": "pm", "provider": "postmark", "domain": "example.com", "username": "postmark",
            "password": [OTHER_POSTMARK.settings["password"], POSTMARK.settings["password"]],
        },
        {"name": "pmh", "provider": "postmark", "domain": "example.com", "headers": {"X-Secret": "s" * 20}},
    ],
    "domains": [{"name": "example.com"}],
    "dns": {"resolvers": ["127.0.0.1:9"]},
    "vitals": {"interval": "1s"},
}  # fmt: skip


class Live:
    """A running agent and how to talk to it."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.port = agent.public
        self._serial = 0

    def post(self, source: str, body: bytes, headers: Mapping[str, str] | None = None, **more: str) -> Answer:
        """A request, signed unless ``headers`` say otherwise; ``more`` headers are added (``_`` for ``-``)."""
        given = {**(signed(source, body) if headers is None else headers)}
        given |= {name.replace("_", "-"): value for name, value in more.items()}
        return exchange(self.port, request("POST", f"/webhooks/{source}", given, body), timeout=30)

    @contextlib.contextmanager
    def counts(self, **outcomes: int) -> Iterator[None]:
        """Exactly these requests are counted, by outcome, of all sources and strangers."""
        before = self.agent.counters("webhook_requests_total", "outcome")
        yield
        got: Counter[str] = Counter()

        def agree() -> bool:
            nonlocal got
            got = self.agent.counters("webhook_requests_total", "outcome") - before
            return got == Counter(outcomes)

        with contextlib.suppress(AssertionError):
            wait_until(agree, 3)
        assert got == Counter(outcomes)

    def events(self) -> int:
        return sum(self.agent.counters("events_total", "kind").values())

    def fresh(self, **fields: object) -> dict[str, object]:
        """One SendGrid event that nobody has seen."""
        self._serial += 1
        ids = {"sg_event_id": f"e{self._serial}", "sg_message_id": f"m{self._serial}.x"}
        return {
            "email": f"u{self._serial}@gmail.com", "timestamp": int(time.time()) - 60, "event": "delivered",
            **ids, **fields,
        }  # fmt: skip

    def batch(self, size: int = 1, **fields: object) -> bytes:
        return json.dumps([self.fresh(**fields) for _ in range(size)]).encode() + b"\r\n"

    def record(self, **fields: object) -> bytes:
        """One Postmark delivery that nobody has seen."""
        self._serial += 1
        at = datetime.fromtimestamp(time.time() - 60, UTC).isoformat()
        ids = {"MessageID": f"p{self._serial}", "Recipient": "u@gmail.com", "DeliveredAt": at}
        return json.dumps({"RecordType": "Delivery", **ids, **fields}).encode()


def signed(source: str, body: bytes, now: float = 0.0, pair: KeyPair | None = None) -> dict[str, str]:
    """The headers with which the source's provider posts a body."""
    if source == "pmh":
        return {"Content-Type": "application/json", "X-Secret": "s" * 20}
    provider = "sendgrid" if source == "sg" else "postmark"
    own = SENDGRID if source == "sg" else POSTMARK
    return SIMULATORS[provider].sign(body, (pair or own).signing, now or time.time())


def taken(answer: Answer) -> bool:
    """Answered as every provider wants it: exactly 200, and nothing to read."""
    return answer.status == 200 and answer.body == b"" and answer.headers.get("content-length", "0") == "0"


@contextlib.contextmanager
def live_agent(folder: Path, listen: Mapping[str, object] | None = None, **settings: object) -> Iterator[Live]:
    """A running agent that takes small bodies, which must end well; ``settings`` are added to the usual ones."""
    one = Agent(folder, {**SETTINGS, **settings})
    written = yaml.safe_load(one.config.read_text())
    written["listen"] |= {"max_body_bytes": MAX_BODY, **(listen or {})}
    one.config.write_text(yaml.safe_dump(written))
    try:
        one.start()
        yield Live(one)
    finally:
        code = one.stop()
    assert code == 0


def untroubled(live: Live) -> None:
    """Nothing in the log but what the product says on purpose, and all is well."""
    log = live.agent.log.read_text()
    assert "Traceback" not in log
    assert {json.loads(line)["level"] for line in log.splitlines()} <= {"debug", "info", "warning"}
    for path in ("/healthz", "/readyz"):
        live.agent.get(path)
    with live.counts(accepted=1):
        assert taken(live.post("sg", live.batch()))


class Deaf:
    """Metrics that nobody reads."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


@contextlib.asynccontextmanager
async def intake_alone(
    ledger: Any, server: Mapping[str, int] | None = None, doubt: Callable[[], str] = lambda: "", **options: int
) -> AsyncIterator[tuple[int, Intake, Gate]]:
    """The public listener in this process, before any ledger; ``options`` are the gate's, ``server`` those of the
    listener itself. Its port comes with it."""
    gate = Gate(ledger, Deaf(), **options)  # type: ignore[arg-type]
    header = {"headers": {"X-Secret": "s" * 20}}
    sources = {name: Source(name, "postmark", PROVIDERS["postmark"], header) for name in ("pmh", "quiet")}
    intake = Intake(sources, gate, ledger, Deaf(), max_body_bytes=MAX_BODY, doubt=doubt)  # type: ignore[arg-type]
    runner = web.ServerRunner(intake.server(**(server or {})), handle_signals=False, shutdown_timeout=2.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    committing = asyncio.create_task(gate.run())
    try:
        yield runner.addresses[0][1], intake, gate
    finally:
        gate.close()
        await asyncio.wait_for(committing, 10)
        await runner.cleanup()
        intake.close()
