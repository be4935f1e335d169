"""A real agent and a cloud of our own: certificates and confirmations over real TLS, handshakes, and who is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from agent.daemon import Daemon
from agent.fetch import fetch
from agent.providers.sns import SUBSCRIPTION, UNSUBSCRIPTION
from agent.settings import Settings
from agent.simulate import SIMULATORS, Scenario
from agent.simulate.base import sealed
from agent.simulate.send import simulate
from tests.servers.tls import Authority, answer, certificate, serving

HOST = "sns.us-east-1.amazonaws.com"
SES, OTHER = (SIMULATORS["ses"].new_credentials() for _ in range(2))
TOPIC = str(SES.signing["topic_arns"])


class Cloud:
    """The vendor's host: serves the signing certificate and takes confirmations. ``down`` answers 500."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.down = False
        key = load_pem_private_key(str(SES.signing["private_key"]).encode(), None)
        self.certificate = certificate("sns.amazonaws.com", key).public_bytes(Encoding.PEM)  # type: ignore[arg-type]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).decode().split()[1]
        self.asked.append(path)
        if self.down:
            writer.write(answer("500 Internal Server Error"))
        elif path.endswith(".pem"):
            writer.write(answer("200 OK", self.certificate))
        else:
            writer.write(answer("200 OK", b"<ConfirmSubscriptionResponse/>"))
        await writer.drain()


class Running:
    """An agent at work, whose vendors live on ``cloud``."""

    def __init__(self, daemon: Daemon, cloud: Cloud, session: aiohttp.ClientSession) -> None:
        self.daemon = daemon
        self.cloud = cloud
        self._session = session

    def url(self, source: str, query: str = "") -> str:
        return f"http://{self.daemon.addresses['public']}/webhooks/{source}{query}"

    async def ask(
        self, method: str, source: str, body: bytes = b"", headers: Mapping[str, str] | None = None, query: str = ""
    ) -> tuple[int, str, Mapping[str, str]]:
        async with self._session.request(method, self.url(source, query), data=body, headers=headers) as response:
            return response.status, await response.text(), response.headers

    async def post(self, body: bytes, credentials: Any = SES.signing) -> int:
        """The status that answers a signed message of SNS."""
        body = sealed(SIMULATORS["ses"], body, credentials, 0)
        return (await self.ask("POST", "ses", body, SIMULATORS["ses"].sign(body, credentials, 0)))[0]

    def requests(self, source: str = "ses") -> dict[str, int]:
        return self.daemon._intake.doors[source].requests


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    authority, cloud = Authority(tmp_path), Cloud()
    settings = Settings.model_validate(
        {
            "listen": {"public": "127.0.0.1:0", "private": "127.0.0.1:0"},
            "store": {"url": f"sqlite:///{tmp_path}/ledger.db"},
            "sources": [
                {"name": "ses", "provider": "ses", "topic_arns": [TOPIC], "streams": ["transactional", "newsletter"]},
                {"name": "azure", "provider": "azure", "token": "azure-token"},
                {"name": "scaleway", "provider": "scaleway", "token": "scaleway-token"},
            ],
        }
    )
    async with serving(cloud.handle, authority.server(HOST)) as port:

        async def resolve(host: str, asked: int) -> list[tuple[str, int]]:
            if host != HOST:
                raise OSError("no such host")
            return [("127.0.0.1", port)]

        get = partial(fetch, tls=authority.client(), resolve=resolve, allowed=lambda address: True)
        daemon = Daemon(settings, get=get)
        started = asyncio.Event()

        async def alongside(_: Daemon) -> None:
            started.set()
            await asyncio.Event().wait()

        agent = asyncio.create_task(daemon.run(alongside))
        await asyncio.wait_for(started.wait(), 30)
        async with aiohttp.ClientSession() as session:
            yield Running(daemon, cloud, session)
        daemon.stop(at_once=True)
        await asyncio.wait_for(agent, 30)


def subscription(kind: str = SUBSCRIPTION, topic: str = TOPIC, token: str = "secret-token") -> bytes:
    return json.dumps(
        {
            "Type": kind,
            "MessageId": f"id of {token}",
            "Token": token,
            "TopicArn": topic,
            "Message": "You have chosen to subscribe.",
            "Timestamp": "2023-11-14T22:13:20.000Z",
            "SubscribeURL": f"https://{HOST}/?Action=ConfirmSubscription&TopicArn={topic}&Token={token}",
        }
    ).encode()


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_topic_is_subscribed_and_its_events_are_counted_once(running: Running) -> None:
    assert await running.post(subscription()) == 200
    await until(lambda: len(running.cloud.asked) == 2)
    fetched, confirmed = running.cloud.asked
    assert fetched.startswith("/SimpleNotificationService-")
    assert confirmed.startswith("/?Action=ConfirmSubscription&")
    assert "Token=secret-token" in confirmed

    assert await running.post(b"Successfully validated SNS topic for Amazon SES event publishing.") == 200
    now = running.daemon._clock()
    scenario = Scenario(start=now - 7200, duration=3600, until=now, messages=150, hard=0.1, duplicates=0.3, late=0.0)
    sent = await simulate("ses", scenario, running.url("ses"), SES.signing, concurrency=4)
    assert (sent.failed, sent.retries) == (0, 0)
    assert running.requests() == {"accepted": sent.delivered + 2}
    assert len(running.cloud.asked) == 2, "one certificate, fetched once"
    rows = await running.daemon.ledger.rows(60, 0, now + 86400)
    for measure in ("delivered", "hard", "opened", "accepted"):
        assert sum(row.count for row in rows if row.measure == measure) == sent.truth.total(measure) > 0


async def test_who_is_not_the_topic_is_refused_before_anything_is_fetched(running: Running) -> None:
    assert OTHER.signing["topic_arns"] != TOPIC
    assert await running.post(b'{"eventType":"Send"}', OTHER.signing) == 401
    assert await running.post(subscription(topic=str(OTHER.signing["topic_arns"])), OTHER.signing) == 401
    assert running.cloud.asked == []
    # The right topic, by another key: the certificate is the vendor's, and says so.
    forger = dict(OTHER.signing) | {"topic_arns": TOPIC}
    assert await running.post(b'{"eventType":"Send"}', forger) == 401
    assert await running.post(subscription(), forger) == 401
    assert running.requests() == {"unauthorized": 4}
    await asyncio.sleep(0.1)
    assert [path for path in running.cloud.asked if not path.endswith(".pem")] == []


async def test_without_the_certificate_the_sender_is_told_to_come_back(running: Running) -> None:
    running.cloud.down = True
    for _ in range(5):
        assert await running.post(b'{"eventType":"Send"}') == 503
    assert running.requests() == {"no_certificate": 5}
    assert len(running.cloud.asked) == 1, "a failure is remembered"
    running.cloud.down = False
    running.daemon._intake._certificates._failed.clear()
    assert await running.post(b"Successfully validated SNS topic") == 200


async def test_the_end_of_a_subscription_is_told_and_not_followed(running: Running) -> None:
    assert await running.post(subscription(UNSUBSCRIPTION)) == 200
    await asyncio.sleep(0.1)
    assert len(running.cloud.asked) == 1
    assert "ended" in running.daemon._intake.doors["ses"].last_error


async def test_event_grid_is_answered(running: Running) -> None:
    event = {
        "id": "v",
        "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
        "eventTime": "2023-11-14T22:13:20Z",
        "data": {"validationCode": "code-1"},
    }
    body, headers = json.dumps([event]).encode(), {"aeg-event-type": "SubscriptionValidation"}
    status, text, said = await running.ask("POST", "azure", body, headers, "?token=azure-token")
    assert (status, json.loads(text)) == (200, {"validationResponse": "code-1"})
    assert said["Content-Type"].startswith("application/json")
    assert (await running.ask("POST", "azure", body, headers, "?token=x"))[0] == 401

    origin = {"WebHook-Request-Origin": "eventgrid.azure.net", "WebHook-Request-Rate": "120"}
    status, text, said = await running.ask("OPTIONS", "azure", b"", origin, "?token=azure-token")
    assert (status, text, said["WebHook-Allowed-Origin"]) == (200, "", "eventgrid.azure.net")
    for source, said in (("azure", {}), ("azure", {"WebHook-Request-Origin": "evil.example"}), ("ses", origin)):
        assert (await running.ask("OPTIONS", source, b"", said))[0] == 405


async def test_scaleway_is_confirmed_at_its_own_hosts_alone(running: Running) -> None:
    for url, tried in (("https://evil.example/", 0), (f"https://{HOST}/", 0)):
        body = json.dumps({"Type": SUBSCRIPTION, "Message": "x", "SubscribeURL": url}).encode()
        assert (await running.ask("POST", "scaleway", body, {}, "?token=scaleway-token"))[0] == 200
        await asyncio.sleep(0.05)
        assert len(running.cloud.asked) == tried
