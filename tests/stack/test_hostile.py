"""What cannot hurt a real agent: strangers, bombs, half requests, bytes of any kind, and JSON of any shape; nor those
who send signed mail meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.intake import http
from agent.intake.connections import HEAD_TIMEOUT
from agent.ledger.sqlite import SqliteLedger
from tests.ledger.conftest import KEY
from tests.servers.base import wait_until
from tests.servers.raw import Answer, chunked, connect, exchange, read_answer, request
from tests.stack.hostile_bodies import SOURCES, bad_bodies
from tests.stack.hostile_http import Case, broken_http
from tests.stack.live import MAX_BODY, Live, intake_alone, live_agent, signed, taken, untroubled

DRIPPING = 100


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live_agent(tmp_path_factory.mktemp("hostile"), sources=SOURCES) as one:
        yield one


@pytest.fixture(scope="module")
def dripping(live: Live) -> Iterator[list[socket.socket]]:
    """Connections that send a head without end, a byte at a time (slowloris), all through the module."""
    connections = [connect(live.port, 60) for _ in range(DRIPPING)]
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.5):
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.sendall(b"X")

    for connection in connections:
        connection.sendall(b"POST /webhooks/sg HTTP/1.1\r\nX-A: ")
    thread = threading.Thread(target=drip)
    thread.start()
    yield connections
    stop.set()
    thread.join()
    for connection in connections:
        connection.close()


class Legitimate:
    """Signed traffic on a connection that is kept, as an ESP sends it: every answer, and the seconds to it."""

    def __init__(self, live: Live) -> None:
        self.statuses: Counter[int] = Counter()
        self.seconds: list[float] = []
        self._live = live
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> Legitimate:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _send(self) -> None:
        with connect(self._live.port) as connection:
            while not self._stop.wait(0.002):
                body = self._live.batch(5)
                start = time.monotonic()
                connection.sendall(request("POST", "/webhooks/sg", signed("sg", body), body))
                self.statuses[read_answer(connection).status] += 1
                self.seconds.append(time.monotonic() - start)

    def p99(self) -> float:
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)]


def _resident(live: Live) -> int:
    """The agent's memory, in MB."""
    assert live.agent.process is not None
    status = Path(f"/proc/{live.agent.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024


def _descriptors(live: Live) -> int:
    assert live.agent.process is not None
    return len(list(Path(f"/proc/{live.agent.process.pid}/fd").iterdir()))


def _answers(live: Live, cases: list[Case]) -> dict[str, int]:
    return {case.name: exchange(live.port, case.data, end=case.end).status for case in cases}


def test_each_of_300_bad_requests_is_answered_and_counted_and_harms_nobody(
    live: Live, dripping: list[socket.socket]
) -> None:
    cases = [*broken_http(), *bad_bodies(live)]
    assert len(cases) == len({case.name for case in cases}) >= 300
    before = live.agent.counters("webhook_requests_total", "outcome")
    open_before = _descriptors(live)
    with Legitimate(live) as legitimate:
        assert _answers(live, cases) == {case.name: case.status for case in cases}
    assert set(legitimate.statuses) == {200}, "signed traffic is taken meanwhile"
    wanted = Counter(case.counted for case in cases if case.counted)
    wanted["accepted"] += legitimate.statuses[200]
    wait_until(lambda: live.agent.counters("webhook_requests_total", "outcome") - before == wanted, 5, f"{wanted}")
    print(f"{len(cases)} cases; {len(legitimate.seconds)} signed requests, p99 {legitimate.p99() * 1000:.0f} ms")
    assert legitimate.p99() < 2

    resident = _resident(live)
    again = [*broken_http(), *bad_bodies(live)]
    _answers(live, again)
    grown = _resident(live) - resident
    print(f"{resident} MB, and after as many again {grown:+} MB")
    assert grown < 32
    wait_until(lambda: _descriptors(live) <= open_before + 10, 10, "connections to be given back")


def test_what_is_pipelined_is_answered_in_order_and_not_hoarded(live: Live) -> None:
    bodies = [live.batch() for _ in range(100)]
    posts = b"".join(request("POST", "/webhooks/sg", signed("sg", body), body) for body in bodies)
    with live.counts(accepted=100, probe=2000, invalid=1), connect(live.port) as connection:
        connection.sendall(posts)
        assert [_next(connection) for _ in bodies] == [200] * 100
        flood = request("GET", "/webhooks/sg", {}) * 2000
        sender = threading.Thread(target=connection.sendall, args=(flood,))
        sender.start()
        assert [_next(connection) for _ in range(2000)] == [200] * 2000
        sender.join()
        connection.sendall(b"nonsense\r\n\r\n" + flood)
        assert read_answer(connection).status == 400
        assert connection.recv(1) == b"", "nothing is read behind it"


def _next(connection: socket.socket) -> int:
    """The status of the next answer, which has no body; and no byte of the one after it."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += connection.recv(1)
    return int(data.split()[1])


def test_a_sender_that_hangs_up_anywhere_leaves_nothing_behind(live: Live) -> None:
    body = live.batch(3)
    whole = request("POST", "/webhooks/sg", signed("sg", body), body)
    before = live.events()
    for i in range(200):
        with connect(live.port) as connection:
            connection.sendall(whole[: (i * len(whole)) // 200])
            if i % 2:  # A reset, where the others only end.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for _ in range(3):  # All of it, and no ear for the answer: it may be counted, and once at most.
        with connect(live.port) as connection:
            connection.sendall(whole)
            connection.shutdown(socket.SHUT_WR)
    assert taken(live.post("sg", body))
    assert live.events() == before + 3


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


async def test_bodies_that_do_not_end_leave_room_for_small_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "IN_FLIGHT", 300_000)
    ledger = SqliteLedger(tmp_path / "ledger.db", KEY)
    async with intake_alone(ledger) as (port, intake, _):
        headers = {"X-Secret": "s" * 20}

        def flood() -> list[socket.socket]:
            """Bodies that grow a little at a time, all together, to just below what may be in flight."""
            held = [connect(port) for _ in range(5)]
            for connection in held:
                connection.sendall(request("POST", "/webhooks/pmh", headers, b"{", length=58_100))
            for _ in range(58):
                for connection in held:
                    with contextlib.suppress(OSError):
                        connection.sendall(b" " * 1000)
            return held

        held = await asyncio.to_thread(flood)
        await asyncio.sleep(0.2)
        small = request("POST", "/webhooks/pmh", headers, b"[" + b" " * 20_000 + b"]")
        assert taken(await asyncio.to_thread(exchange, port, small))
        for connection in held:
            connection.close()
        async with asyncio.timeout(5):
            while intake._in_flight:
                await asyncio.sleep(0.01)
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


def test_heads_that_do_not_end_are_cut_off(live: Live, dripping: list[socket.socket]) -> None:
    start = time.monotonic()
    for connection in dripping:
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b""
    assert time.monotonic() - start < HEAD_TIMEOUT + 5
    assert live.agent.counters("refused_connections_total", "reason")["slow"] == DRIPPING


def test_after_all_of_it_the_agent_is_as_it_was(live: Live) -> None:
    assert live.agent.process is not None
    proc = Path(f"/proc/{live.agent.process.pid}")
    peak = int((proc / "status").read_text().partition("VmHWM:")[2].split()[0]) // 1024
    assert peak < 600, f"{peak} MB"
    wait_until(lambda: _descriptors(live) < 60, 10, "connections to be given back")
    untroubled(live)
