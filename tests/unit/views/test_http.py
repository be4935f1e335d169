"""The private listener: who gets in, what it answers, and how the stream behaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession, CookieJar
from aiohttp.test_utils import TestClient, TestServer

from agent.alerts.mutes import Mute, TooManyMutes, read
from agent.ledger.base import StoreUnavailable
from agent.views import http
from agent.views.metrics import Metrics
from agent.views.mutes import Mutes
from agent.views.state import Readiness, State
from tests.unit.views import states

TOKEN = "a-long-secret"


class Box:
    """The state of the moment, for a test to change."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.healthy = (True, "")

    def change(self, **changes: Any) -> None:
        self.state = msgspec.structs.replace(self.state, **changes)


@contextlib.asynccontextmanager
async def listener(
    box: Box,
    token: str | None = None,
    check_now: Callable[[str], Awaitable[None]] | None = None,
    mutes: Mutes | None = None,
) -> AsyncIterator[TestClient[Any, Any]]:
    metrics = Metrics(lambda: box.state, version="1.2.3")
    app = http.create_app(
        metrics, lambda: box.state, private_token=token, healthy=lambda: box.healthy, check_now=check_now, mutes=mutes
    )
    async with TestClient(TestServer(app), cookie_jar=CookieJar(unsafe=True)) as client:
        yield client


@pytest.fixture
def box() -> Box:
    return Box(states.state())


async def test_probes_say_why(box: Box) -> None:
    async with listener(box, TOKEN) as client:
        assert (await client.get("/healthz")).status == 200
        ready = await client.get("/readyz")
        assert (ready.status, (await ready.json())["ready"]) == (200, True)
        box.change(readiness=(Readiness("store", False, "disk full"), Readiness("intake", True)))
        box.healthy = (False, "event loop stuck")
        ready = await client.get("/readyz")
        assert ready.status == 503
        assert (await ready.json())["conditions"][0] == {"name": "store", "ok": False, "reason": "disk full"}
        health = await client.get("/healthz")
        assert (health.status, await health.json()) == (503, {"healthy": False, "reason": "event loop stuck"})


PATHS = ("/", "/metrics", "/api/v1/status", "/api/v1/stream", "/page/app.js", "/nowhere")


async def test_the_token_protects_everything_but_the_probes(box: Box) -> None:
    async with listener(box, TOKEN) as client:
        for path in PATHS:
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"},
                            {"Authorization": "Bearer"}, {"Cookie": f"{http.COOKIE}={TOKEN}"}):  # fmt: skip
                answer = await client.get(path, headers=headers)
                assert answer.status == 401, (path, headers)
                assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert (await client.get("/?token=wrong")).status == 401
        assert (await client.get(f"/api/v1/status?token={TOKEN}")).status == 401
        assert (await client.get("/metrics", headers={"Authorization": f"bearer {TOKEN}"})).status == 200


async def test_the_token_in_the_address_becomes_a_cookie_and_disappears(box: Box) -> None:
    async with listener(box, TOKEN) as client:
        answer = await client.get(f"/?token={TOKEN}", allow_redirects=False)
        assert (answer.status, answer.headers["Location"]) == (303, ".")
        cookie = answer.headers["Set-Cookie"]
        assert TOKEN not in cookie
        assert {"HttpOnly", "SameSite=Lax"} <= set(cookie.split("; "))
        for path in ("/", "/api/v1/status", "/page/style.css"):
            assert (await client.get(path)).status == 200


async def test_without_a_token_it_is_open(box: Box) -> None:
    async with listener(box) as client:
        assert (await client.get("/api/v1/status")).status == 200


async def test_security_headers_on_every_answer(box: Box) -> None:
    async with listener(box) as client:
        for path in ("/", "/metrics", "/healthz", "/nowhere", "/page/app.js"):
            headers = (await client.get(path)).headers
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Cache-Control"] == "no-store"


async def test_the_gates_have_a_page_of_the_api(box: Box) -> None:
    async with listener(box) as client:
        everything = await (await client.get("/api/v1/phase")).json()
        assert (everything["api"], sorted(everything["domains"])) == (1, ["example.com", "news.example.org"])
        assert everything["phases"]["enterprise"]["budget_usd"] == [1000, 2000]
        one = await (await client.get("/api/v1/phase?domain=example.com")).json()
        assert list(one["domains"]) == ["example.com"]
        assert one["domains"]["example.com"]["items"][0]["state"] == "blocking"
        assert (await client.get("/api/v1/phase?domain=nobody.example")).status == 404
        status = await (await client.get("/api/v1/status")).json()
        assert status["gates"] == everything["domains"]
        assert status["trends"]["news.example.org"]["shifts"][0]["direction"] == "worsening"


async def test_unknown_paths_and_methods_answer_json(box: Box) -> None:
    async with listener(box) as client:
        for path in ("/nowhere", "/page/..%2fhttp.py", "/page/secret", "/api/v1/domains/example.com/check"):
            method = client.post if path.endswith("check") else client.get
            answer = await method(path)
            assert (answer.status, await answer.json()) == (404, {"error": "not found"}), path
        answer = await client.post("/metrics")
        assert (answer.status, (await answer.json())["error"]) == (405, "method not allowed")
        assert "GET" in answer.headers["Allow"]


async def test_metrics_in_both_formats(box: Box) -> None:
    async with listener(box) as client:
        plain = await client.get("/metrics", headers={"Accept-Encoding": "identity"})
        assert plain.content_type == "text/plain"
        assert "mailvitals_ready 1.0" in await plain.text()
        accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
        packed = await client.get("/metrics", headers={"Accept": accept, "Accept-Encoding": "gzip"})
        assert packed.headers["Content-Encoding"] == "gzip"
        assert packed.content_type == "application/openmetrics-text"
        assert (await packed.text()).endswith("# EOF\n")
        named = await client.get("/metrics?name[]=mailvitals_ready")
        assert "monthly_volume" not in await named.text()


async def next_event(stream: Any) -> dict[str, Any]:
    async with asyncio.timeout(5):
        async for line in stream.content:
            if line.startswith(b"data: "):
                event: dict[str, Any] = json.loads(line[6:])
                return event
    raise AssertionError("the stream ended")


async def test_the_stream_sends_changes_and_only_changes(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "STREAM_INTERVAL", 0.02)
    async with listener(box) as client:
        stream = await client.get("/api/v1/stream")
        assert stream.content_type == "text/event-stream"
        assert (await next_event(stream))["overall"]["state"] == "failing"
        box.change(now=states.NOW + 5)  # time alone is no news
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await next_event(stream)
        box.change(demo=True)
        event = await next_event(stream)
        assert (event["demo"], event["now"]) == (True, states.NOW + 5)


async def test_a_quiet_stream_shows_that_it_lives(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "STREAM_INTERVAL", 0.02)
    monkeypatch.setattr(http, "HEARTBEAT", 0.1)
    async with listener(box) as client:
        stream = await client.get("/api/v1/stream")
        async with asyncio.timeout(5):
            async for line in stream.content:
                if line == b": alive\n":
                    return
        raise AssertionError("no sign of life")


async def test_streams_are_bounded_and_free_their_place(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "STREAM_INTERVAL", 0.02)
    monkeypatch.setattr(http, "HEARTBEAT", 0.05)
    monkeypatch.setattr(http, "STREAM_CLIENTS", 2)
    async with listener(box) as client, ClientSession() as other:
        url = client.make_url("/api/v1/stream")
        first = await client.get("/api/v1/stream")
        second = await other.get(url)
        await next_event(first)
        await next_event(second)
        refused = await client.get("/api/v1/stream")
        assert refused.status == 503
        second.close()
        async with asyncio.timeout(5):
            while (again := await client.get("/api/v1/stream")).status == 503:
                await asyncio.sleep(0.05)
        assert again.status == 200


async def test_streams_end_when_the_listener_shuts_down(box: Box) -> None:
    async with listener(box) as client:
        stream = await client.get("/api/v1/stream")
        await next_event(stream)
        async with asyncio.timeout(3):
            await client.server.close()
            assert await stream.content.read() == b"\n"


async def test_a_check_on_demand(box: Box) -> None:
    asked: list[str] = []
    release = asyncio.Event()

    async def check_now(domain: str) -> None:
        if domain != "example.com":
            raise KeyError(domain)
        asked.append(domain)
        await release.wait()

    async with listener(box, None, check_now) as client:
        url, proof = "/api/v1/domains/example.com/check", {"X-Mailvitals": "test"}
        assert (await client.post(url)).status == 403
        assert asked == []
        running = asyncio.create_task(client.post(url, headers=proof))
        while not asked:
            await asyncio.sleep(0.01)
        assert (await client.post(url, headers=proof)).status == 429
        release.set()
        answer = await running
        assert (answer.status, len(await answer.json())) == (200, len(states.findings()))
        assert (await client.post("/api/v1/domains/other.example/check", headers=proof)).status == 404


async def test_sender_rules_of_a_configured_domain(box: Box) -> None:
    domain = next(iter(box.state.domain_phases))
    async with listener(box, TOKEN) as client:
        path = f"/api/v1/domains/{domain}/sender-rules"
        assert (await client.get(path)).status == 401
        answer = await client.get(path, headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.status == 200
        rules = {r["provider"]: r for r in await answer.json()}
        assert set(rules) == {"gmail", "yahoo", "microsoft", "apple"}
        dmarc = next(i for i in rules["gmail"]["items"] if i["topic"] == "dmarc")
        held = [w.finding for w in box.state.findings if w.domain == domain and w.finding.check == "dmarc"]
        assert (dmarc["verdict"] != "unknown") == any(f.verdict != "unknown" for f in held)
        other = await client.get(
            "/api/v1/domains/nobody.test/sender-rules", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        assert other.status == 404
        box.change(snapshot=None, findings=())
        early = await client.get(path, headers={"Authorization": f"Bearer {TOKEN}"})
        assert {i["verdict"] for r in await early.json() for i in r["items"]} <= {"unknown", "fail"}


class Kept:
    """Mutes that are kept nowhere; the store may fail."""

    def __init__(self) -> None:
        self.mutes: dict[str, Mute] = {}
        self.trouble: Exception | None = None

    async def mute(self, body: bytes) -> Mute:
        mute = read(body, states.NOW)
        if self.trouble:
            raise self.trouble
        self.mutes[mute.id] = mute
        return mute

    async def unmute(self, mute_id: str) -> None:
        if self.trouble:
            raise self.trouble
        del self.mutes[mute_id]


async def test_mutes_are_made_and_ended(box: Box) -> None:
    kept, proof = Kept(), {"X-Mailvitals": "test"}
    wanted = {"matchers": {"domain": "news.example.org", "target": "bounce"}, "hours": 2, "why": "a known list"}
    async with listener(box, None, mutes=kept) as client:
        assert (await client.post("/api/v1/mutes", json=wanted)).status == 403
        assert (await client.delete("/api/v1/mutes/x")).status == 403
        refused = await client.post("/api/v1/mutes", headers=proof, json=wanted | {"hours": 0})
        assert (refused.status, "hours" in (await refused.json())["error"]) == (422, True)
        assert kept.mutes == {}
        made = await client.post("/api/v1/mutes", headers=proof, json=wanted)
        mute = await made.json()
        assert (made.status, mute["matchers"], mute["until"]) == (201, wanted["matchers"], states.NOW + 7200)
        box.change(mutes=tuple(kept.mutes.values()))
        shown = await (await client.get("/api/v1/status")).json()
        assert shown["mutes"] == [mute]
        assert {i["labels"].get("target"): i["muted_until"] for i in shown["incidents"]} == {
            "bounce": states.NOW + 7200, None: 0,
        }  # fmt: skip
        series = await (await client.get("/metrics")).text()
        assert 'mailvitals_incidents{domain="news.example.org",state="muted"} 1.0' in series
        assert 'mailvitals_incidents{domain="news.example.org",state="open"} 0.0' in series
        for trouble, status in ((StoreUnavailable("no"), 503), (TooManyMutes(), 409)):
            kept.trouble = trouble
            assert (await client.post("/api/v1/mutes", headers=proof, json=wanted)).status == status
        told = [line for line in series.splitlines() if line.startswith("mailvitals_incident_open{")]
        assert [line.partition("{")[2] for line in told] == [
            'alert="MailDnsCheckFailing",check="dkim",domain="news.example.org",phase="foundation",severity="critical",'
            'source="",subject="mg",target=""} 1.0'
        ]
        kept.trouble = StoreUnavailable("no")
        assert (await client.delete(f"/api/v1/mutes/{mute['id']}", headers=proof)).status == 503
        kept.trouble = None
        assert (await client.delete(f"/api/v1/mutes/{mute['id']}", headers=proof)).status == 204
        assert (await client.delete(f"/api/v1/mutes/{mute['id']}", headers=proof)).status == 404


async def test_mutes_are_behind_the_token(box: Box) -> None:
    kept = Kept()
    async with listener(box, TOKEN, mutes=kept) as client:
        body = b'{"matchers":{"domain":"a"},"hours":1}'
        assert (await client.post("/api/v1/mutes", headers={"X-Mailvitals": "test"}, data=body)).status == 401
    assert kept.mutes == {}
