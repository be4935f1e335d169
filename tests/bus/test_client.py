"""The connection to a real broker. These tests rest on the inside of aiomqtt and paho as the client does: when an
upgrade breaks one, look at ``agent/bus/client.py`` before anything else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from agent.bus import client as module
from agent.bus.client import (
    MAX_PACKET,
    RECEIVE,
    Broker,
    Client,
    Denied,
    Incoming,
    NotDelivered,
    TooLarge,
    _Link,
    _writer,
)
from agent.bus.wire import SEALED_BYTES
from tests.servers.agent import ROOT
from tests.servers.mosquitto import Mosquitto, mosquitto
from tests.servers.tls import Authority

SHARED = "$share/g/events/+"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.2)
    monkeypatch.setattr(module, "TIMEOUT", 1.0)


@contextlib.asynccontextmanager
async def connected(
    broker: Mosquitto | Broker, name: str = "a", *topics: str, keep: bool = False, wait: bool = True, packet: int = 0
) -> AsyncIterator[tuple[Client, list[Incoming]]]:
    """A running client and what it has received."""
    got: list[Incoming] = []
    where = Broker("127.0.0.1", broker.port) if isinstance(broker, Mosquitto) else broker
    one = Client(
        where, name, subscriptions=topics, receive=got.append, keep_session=keep, status_topic=f"status/{name}",
        needed_packet=packet, rng=random.Random(1),
    )  # fmt: skip
    running = asyncio.create_task(one.run())
    try:
        if wait:
            await until(lambda: one.connected)
        yield one, got
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    with mosquitto(tmp_path) as one:
        yield one


def test_the_version_whose_inside_is_known() -> None:
    from importlib.metadata import version

    assert (version("aiomqtt"), version("paho-mqtt")) == ("2.5.1", "2.2.0")
    assert hasattr(aiomqtt.Client, "_on_publish")


async def test_what_is_not_acknowledged_comes_again_and_no_more_than_announced_is_under_way(broker: Mosquitto) -> None:
    async with connected(broker, "member", SHARED, keep=True) as (_, got), connected(broker, "edge") as (edge, _):
        await asyncio.gather(*(edge.publish("events/sg", b"%d" % n, {"n": str(n)}) for n in range(RECEIVE + 20)))
        await until(lambda: len(got) == RECEIVE)
        await asyncio.sleep(0.1)
        assert len(got) == RECEIVE, "receive maximum holds the rest back"
    # The member went without acknowledging anything, in the middle of its work.
    async with connected(broker, "member", SHARED, keep=True) as (member, again):
        await until(lambda: len(again) == RECEIVE)
        for message in list(again):
            member.acknowledge(message)
        await until(lambda: len(again) == RECEIVE + 20)
        assert {m.payload for m in again} == {b"%d" % n for n in range(RECEIVE + 20)}
        assert again[0].properties == {"n": again[0].payload.decode()}
        for message in again[RECEIVE:]:
            member.acknowledge(message)
        await asyncio.sleep(0.1)
    async with connected(broker, "member", SHARED, keep=True) as (_, third):
        await asyncio.sleep(0.2)
        assert third == []


async def test_two_members_share_and_one_that_left_gets_nothing(broker: Mosquitto) -> None:
    async with (
        connected(broker, "one", SHARED) as (one, first),
        connected(broker, "two", SHARED) as (_, second),
        connected(broker, "edge") as (edge, _),
    ):
        for n in range(10):
            await edge.publish("events/sg", b"%d" % n, needs_reader=True)
        await until(lambda: len(first) + len(second) == 10)
        assert first
        assert second
        one.leave()
        await asyncio.sleep(0.1)
        before = len(first)
        for n in range(6):
            await edge.publish("events/sg", b"%d" % n, needs_reader=True)
        await until(lambda: len(first) + len(second) == 16)
        assert len(first) == before


async def test_nobody_listening_is_not_delivered_but_a_retained_message_is_there_for_who_comes(
    broker: Mosquitto,
) -> None:
    async with connected(broker) as (one, _):
        with pytest.raises(NotDelivered, match="nobody subscribes"):
            await one.publish("events/sg", b"x", needs_reader=True)
        await one.publish("verdicts/x", b"met", retain=True, expiry=100)
    async with connected(broker, "late", "verdicts/+", "status/+") as (_, got):
        await until(lambda: len(got) == 3)
        assert {(m.topic, m.payload) for m in got} == {
            ("verdicts/x", b"met"), ("status/a", b"offline"), ("status/late", b"online"),
        }  # fmt: skip


async def test_the_will_tells_of_a_death(broker: Mosquitto) -> None:
    async with connected(broker, "watcher", "status/+") as (_, got):
        async with connected(broker, "mortal") as (mortal, _):
            await until(lambda: ("status/mortal", b"online") in {(m.topic, m.payload) for m in got})
            link = mortal._link
            assert link is not None
            link.paho._sock.shutdown(socket.SHUT_RDWR)
        await until(lambda: ("status/mortal", b"offline") in {(m.topic, m.payload) for m in got})


async def test_a_denied_publish_raises_and_a_denied_subscription_is_said(tmp_path: Path) -> None:
    acl = "user edge\ntopic write events/sg\ntopic read events/sg\n"
    with mosquitto(tmp_path, users={"edge": "secret"}, acl=acl) as broker:
        where = Broker("127.0.0.1", broker.port, username="edge", password="secret")
        async with connected(where, "edge", "events/sg") as (edge, got):
            await edge.publish("events/sg", b"x")
            await until(lambda: got)
            with pytest.raises(Denied, match="Not authorized"):
                await edge.publish("events/other", b"x")
        wrong = Broker("127.0.0.1", broker.port, username="edge", password="wrong")
        async with connected(wrong, "intruder", wait=False) as (intruder, _):
            await until(lambda: "uthori" in intruder.problem)
            with pytest.raises(NotDelivered, match="uthori"):
                await intruder.publish("events/sg", b"x")


@pytest.mark.parametrize(("code", "words"), [
    (0x8E, ": another agent has the same name"), (0x8B, ": Server shutting down"), (0x80, ""), (0x00, ""),
])  # fmt: skip
async def test_why_a_broker_ended_the_connection_is_told(code: int, words: str) -> None:
    # Mosquitto ends it without a word, others do not.
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    gone.set_exception(aiomqtt.MqttCodeError(ReasonCode(PacketTypes.DISCONNECT, identifier=code)))
    assert module._why(SimpleNamespace(_disconnected=gone)) == words  # type: ignore[arg-type]


async def test_a_frozen_broker_is_noticed_and_come_back_to(broker: Mosquitto) -> None:
    async with connected(broker, "a", "events/+") as (one, got):
        broker.freeze()
        with pytest.raises(NotDelivered, match="in time"):
            await one.publish("events/sg", b"x")
        await until(lambda: not one.connected)
        with pytest.raises(NotDelivered):
            await one.publish("events/sg", b"x")
        broker.thaw()
        await until(lambda: one.connected)
        await one.publish("events/sg", b"back")
        await until(lambda: b"back" in [m.payload for m in got])


async def test_a_restart_of_the_broker_fails_what_waits_and_the_same_client_goes_on(broker: Mosquitto) -> None:
    async with connected(broker, "a", "events/+") as (one, got):
        broker.freeze()
        waiting = asyncio.create_task(one.publish("events/sg", b"lost"))
        await asyncio.sleep(0.05)
        broker.kill()
        with pytest.raises(NotDelivered):
            await waiting
        broker.start()
        await until(lambda: one.connected)
        await one.publish("events/sg", b"after")
        await until(lambda: got)
        stale = got[0]
        broker.kill()
        await until(lambda: not one.connected)
        broker.start()
        await until(lambda: one.connected)
        one.acknowledge(stale)  # Of another connection: nothing is sent, least of all for a message of this one.
        await one.publish("events/sg", b"still")
        assert one.connected


async def test_what_the_broker_cannot_do_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mosquitto(tmp_path, options=["max_packet_size 30000"]) as broker:
        async with connected(broker, "a") as (one, _):
            with pytest.raises(TooLarge, match="takes no message"):
                await one.publish("events/sg", b"x" * 30_000)
        async with connected(broker, "b", packet=40_000, wait=False) as (one, _):
            await until(lambda: "packets of 30000 bytes" in one.problem)
    one = Client(
        Broker("127.0.0.1", 1), "a", subscriptions=[SHARED], receive=lambda m: None, keep_session=True, status_topic="s"
    )
    for granted, sentence in (
        ({"SharedSubscriptionAvailable": 0}, "no shared subscriptions"),
        ({"MaximumQoS": 0}, "no QoS 1"),
        ({"RetainAvailable": 0}, "no retained messages"),
    ):
        with pytest.raises(Denied, match=sentence):
            one._judge(granted)
    one._judge({"SharedSubscriptionAvailable": 1, "MaximumQoS": 1, "RetainAvailable": 1, "MaximumPacketSize": 100})


async def test_the_limits_that_a_broker_states_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, object]] = []
    monkeypatch.setattr(Client, "_judge", lambda self, granted: seen.append(dict(granted)))
    with mosquitto(tmp_path, options=["max_packet_size 300000", "max_inflight_messages 3"]) as broker:
        async with connected(broker) as (one, _):
            assert seen[0]["MaximumPacketSize"] == 300000
            assert seen[0]["ReceiveMaximum"] == 3
            assert one.max_payload < 300000
            await asyncio.gather(*(one.publish("events/sg", b"x") for _ in range(20)))


async def test_the_shipped_configuration_runs_and_has_room_for_the_largest_message(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.server("127.0.0.1")
    pem = tmp_path / "127.0.0.1.pem"
    shipped = (ROOT / "deploy/mosquitto/mosquitto.conf").read_text()
    with mosquitto(tmp_path / "broker", users={"mailvitals-reader": "secret"}, acl="") as broker:
        broker.stop()
        for path, there in (
            ("/etc/mosquitto/tls/ca.pem", authority.file), ("/etc/mosquitto/tls/tls.pem", pem),
            ("/etc/mosquitto/tls/tls.key", pem), ("/etc/mosquitto/passwords", broker.folder / "passwords"),
            ("/etc/mosquitto/acl", ROOT / "deploy/mosquitto/acl"), ("/var/lib/mosquitto/", f"{broker.folder}/"),
            ("listener 8883", f"listener {broker.port} 127.0.0.1\nuser root"),
        ):  # fmt: skip
            assert path in shipped
            shipped = shipped.replace(path, str(there))
        broker.config.write_text(shipped)
        broker.start()
        where = Broker(
            "127.0.0.1", broker.port, tls=True, ca_file=str(authority.file), username="mailvitals-reader",
            password="secret",
        )  # fmt: skip
        async with connected(where, "reader", "mailvitals/verdicts/#") as (one, _):
            assert SEALED_BYTES + 1024 <= one.max_payload <= MAX_PACKET


async def test_tls_with_a_certificate_on_each_side(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.server("127.0.0.1")
    pem = tmp_path / "127.0.0.1.pem"
    options = [f"cafile {authority.file}", f"certfile {pem}", f"keyfile {pem}", "require_certificate true"]
    with mosquitto(tmp_path / "broker", options=options) as broker:
        where = Broker(
            "127.0.0.1", broker.port, tls=True, ca_file=str(authority.file), cert_file=str(pem), key_file=str(pem)
        )
        async with connected(where, "a", "events/+") as (one, got):
            await one.publish("events/sg", b"sealed")
            await until(lambda: got)
        unproved = Broker("127.0.0.1", broker.port, tls=True, ca_file=str(authority.file))
        unknown = Broker("127.0.0.1", broker.port, tls=True, cert_file=str(pem))
        for bad in (unproved, unknown, Broker("127.0.0.1", broker.port, tls=True, ca_file=str(tmp_path / "none.pem"))):
            async with connected(bad, "b", wait=False) as (one, _):
                await until(lambda one=one: one.problem != "not connected yet")
                assert not one.connected


async def test_a_socket_that_is_closed_before_the_loop_gets_to_it_is_not_mistaken_for_another() -> None:
    complaints: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    wrote = asyncio.Event()

    class Paho:
        def loop_write(self) -> None:
            wrote.set()

    write = _writer(_Link(Paho()))
    ours, theirs = socket.socketpair()
    another, end = socket.socketpair()
    number = ours.fileno()
    write(None, None, ours)
    ours.close()
    os.dup2(another.fileno(), number)  # The number is given out again.
    other = socket.socket(fileno=number)
    _, writer = await asyncio.open_connection(sock=other)
    await asyncio.sleep(0.01)
    assert not complaints
    assert not wrote.is_set()
    writer.close()
    ours, other = socket.socketpair()
    write(None, None, ours)
    await asyncio.wait_for(wrote.wait(), 1)
    loop.remove_writer(ours.fileno())
    for one in (ours, other, another, theirs, end):
        one.close()


async def test_a_socket_that_is_closed_while_the_loop_takes_it_up_breaks_the_link(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def closed(*_: object) -> None:
        raise RuntimeError("the handler is closed")  # as uvloop says

    loop, complaints = asyncio.get_running_loop(), list[object]()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    monkeypatch.setattr(loop, "add_writer", closed)
    link = _Link(None)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        _writer(link)(None, None, ours)
        await asyncio.wait_for(link.broken.wait(), 1)
    assert not complaints
