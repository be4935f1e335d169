"""What cannot hurt a real agent: strangers, bombs, half requests, bytes of any kind, and JSON of any shape."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.intake import http
from agent.ledger.sqlite import SqliteLedger
from tests.ledger.conftest import KEY
from tests.servers.base import wait_until
from tests.servers.raw import Answer, chunked, connect, exchange, read_answer, request
from tests.stack.live import MAX_BODY, Live, intake_alone, live_agent, signed, taken, untroubled


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live_agent(tmp_path_factory.mktemp("hostile")) as one:
        yield one


def test_bombs_at_once_do_not_fill_the_memory(live: Live) -> None:
    bomb = request("POST", "/webhooks/sg", {"Content-Encoding": "gzip"}, gzip.compress(b" " * (100 * MAX_BODY)))
    connections = [connect(live.port) for _ in range(200)]
    for connection in connections:
        connection.sendall(bomb)
    statuses = {read_answer(connection).status for connection in connections}
    assert statuses <= {413, 503}
    for connection in connections:
        connection.close()


def test_who_announces_and_does_not_send_keeps_nobody_out(live: Live) -> None:
    held = [connect(live.port) for _ in range(400)]
    try:
        for i, connection in enumerate(held):
            # Together they announce more than may ever be in flight.
            whole = request("POST", "/webhooks/sg", {}, b"[", length=MAX_BODY)
            connection.sendall(whole if i % 4 else whole[:20])
        for _ in range(20):
            start = time.monotonic()
            assert taken(live.post("sg", live.batch()))
            assert time.monotonic() - start < 2
    finally:
        for connection in held:
            connection.close()


async def test_a_body_that_never_arrives_ends_its_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "READ_TIMEOUT", 0.3)
    ledger = SqliteLedger(tmp_path / "ledger.db", KEY)
    async with intake_alone(ledger) as (port, intake, _):

        def drip() -> Answer:
            with connect(port, 5) as connection:
                connection.sendall(request("POST", "/webhooks/pmh", {"X-Secret": "s" * 20}, b"{", length=1000))
                answer = read_answer(connection)
                while connection.recv(1000):
                    pass
                return answer

        answers = await asyncio.gather(*(asyncio.to_thread(drip) for _ in range(4)))
        assert {answer.status for answer in answers} == {408}
        assert intake._in_flight == 0
    await ledger.close()


async def test_what_is_in_flight_is_bounded_and_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "IN_FLIGHT", 300_000)
    ledger = SqliteLedger(tmp_path / "ledger.db", KEY)
    async with intake_alone(ledger) as (port, intake, _):
        headers = {"X-Secret": "s" * 20}
        large = b"{" + b" " * 200_000
        with connect(port) as first, connect(port) as second:
            first.sendall(request("POST", "/webhooks/pmh", headers, large, length=len(large) + 1))
            async with asyncio.timeout(5):
                while intake._in_flight < len(large):
                    await asyncio.sleep(0.01)
            # Told from its length, as it arrives, and as it unpacks.
            for data in (
                request("POST", "/webhooks/pmh", headers, large),
                request("POST", "/webhooks/pmh", {**headers, "Transfer-Encoding": "chunked"}, chunked([large])),
                request("POST", "/webhooks/pmh", {**headers, "Content-Encoding": "gzip"}, gzip.compress(large)),
            ):
                busy = await asyncio.to_thread(exchange, port, data)
                assert (busy.status, busy.headers["retry-after"]) == (503, "10")
            small = request("POST", "/webhooks/pmh", headers, b"[]")
            assert taken(await asyncio.to_thread(exchange, port, small)), "there is room for the small"
            first.sendall(b"}")
            assert taken(await asyncio.to_thread(read_answer, first))
            second.sendall(request("POST", "/webhooks/pmh", headers, large))
            assert taken(await asyncio.to_thread(read_answer, second))
        assert intake._in_flight == 0
    await ledger.close()


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 100, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"hello\r\n\r\n",
        b"POST /webhooks/sg\r\n\r\n", b"POST * HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        b"POST /webhooks/sg HTTP/9.9\r\nHost: a\r\n\r\n", b"POST /webhooks/sg HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST /webhooks/sg HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /webhooks/sg HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /webhooks/sg HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"POST /webhooks/sg HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /webhooks/sg HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        b"POST /webhooks/" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /webhooks/sg HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"POST /webhooks/sg HTTP/1.1\r\n" + b"".join(b"X%d: a\r\n" % i for i in range(5000)) + b"\r\n",
        b"POST http://[/webhooks/sg HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=lambda data: repr(data[:40]),
)  # fmt: skip
def test_what_is_no_http_is_refused(live: Live, data: bytes) -> None:
    assert exchange(live.port, data, end=True).status in (0, 400, 401, 404, 405, 413, 414, 431)


# What must not grow.


def _series(live: Live) -> set[str]:
    lines = live.agent.get("/metrics").decode().splitlines()
    return {line.rpartition(" ")[0] for line in lines if line and not line.startswith("#")}


def test_no_stranger_and_no_payload_makes_a_series(live: Live) -> None:
    hostile = {"email": "a@b.test", "category": ["news", "x"], "from_domain": "mail.example.com"}
    assert taken(live.post("sg", live.batch(**hostile)))
    assert live.post("nobody", b"", {}).status == 404
    seen: list[set[str]] = []

    def settled() -> bool:
        seen.append(_series(live))
        return len(seen) > 30 and seen[-1] == seen[-30]

    wait_until(settled, 20, "the series to settle")
    with connect(live.port) as connection, live.counts(unknown_source=1000, accepted=20):
        for i in range(1000):
            connection.sendall(request("POST", f"/webhooks/guess-{i}", {f"X-{i}": "1"}))
            assert read_answer(connection).status == 404
        for i in range(20):
            events = [
                live.fresh(
                    email=f"a@b{i}-{j}.test", category=["news", f'c{i}-{j}\n"{{}}'], from_domain=f"d{i}-{j}.example.com"
                )
                for j in range(100)
            ]
            assert taken(live.post("sg", json.dumps(events).encode()))
    time.sleep(1.5)  # An evaluation.
    assert _series(live) == seen[-1]


def test_no_stranger_fills_the_log(live: Live) -> None:
    def lines() -> list[str]:
        return [line for line in live.agent.log.read_text().splitlines() if "webhook.refused" in line]

    before = len(lines())
    for i in range(100):
        wrong = {} if i % 2 else signed("sg", b"another body")
        assert live.post("sg", b"[]", wrong).status == 401
    assert len(lines()) <= before + 2
    assert any("signature headers missing" in line for line in lines())
    assert any("signature does not match" in line for line in lines())


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_FIELDS = (
    "email", "event", "timestamp", "sg_event_id", "sg_message_id", "smtp-id", "category", "from_domain", "reason",
    "status", "type", "bounce_classification", "attempt", "url", "RecordType", "Type", "ID", "MessageID",
    "MessageStream", "Tag", "Recipient", "Email", "From", "Details", "DeliveredAt", "BouncedAt", "SuppressSending",
    "FromFull",
)  # fmt: skip
_words = st.sampled_from(
    ["bounce", "delivered", "deferred", "click", "dropped", "Bounce", "Delivery", "HardBounce", "Click"]
)
_item = st.dictionaries(st.sampled_from(_FIELDS), _json | _words | st.just(time.time() - 60), max_size=12)
_quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_quick
@given(source=st.sampled_from(["sg", "pm", "pmh"]), value=_json | _item | st.lists(_item | _json, max_size=5))
def test_any_json_that_is_authentic_is_taken(live: Live, source: str, value: object) -> None:
    assert taken(live.post(source, json.dumps(value).encode()))


@_quick
@given(
    junk=st.binary(max_size=60),
    at=st.floats(0, 1),
    cut=st.integers(0, 40),
    mode=st.sampled_from(["junk", "insert", "replace"]),
)
def test_any_bytes_at_all_are_survived(live: Live, junk: bytes, at: float, cut: int, mode: str) -> None:
    body = live.batch()
    whole = request("POST", "/webhooks/sg", signed("sg", body), body)
    place = int(at * len(whole))
    data = junk if mode == "junk" else whole[:place] + junk + whole[place + (cut if mode == "replace" else 0) :]
    assert exchange(live.port, data, end=True).status in (0, 200, 400, 401, 404, 405, 413, 414, 415, 431)


def test_after_all_of_it_the_agent_is_as_it_was(live: Live) -> None:
    assert live.agent.process is not None
    proc = Path(f"/proc/{live.agent.process.pid}")
    peak = int((proc / "status").read_text().partition("VmHWM:")[2].split()[0]) // 1024
    assert peak < 600, f"{peak} MB"
    wait_until(lambda: len(list((proc / "fd").iterdir())) < 60, 10, "connections to be given back")
    untroubled(live)
