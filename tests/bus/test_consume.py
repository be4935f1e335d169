"""The core's side: acknowledged after the commit and not before, whatever comes."""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest

from agent.bus import consume as module
from agent.bus.client import Denied, Incoming, NotDelivered
from agent.bus.consume import Consumer, Labels
from agent.bus.wire import Header, Seal, confirmed, join, pack, sign, to_wire
from agent.events import Event, Kind
from agent.intake.gate import Overloaded
from agent.intake.mailboxes import by_name, is_host
from agent.ledger.base import Applied, Batch, Cell, Counted, StoreUnavailable
from agent.ledger.identity import Identifier

KEY, OLD = b"k" * 32, b"o" * 32
NOW = 1_000_000.0
HEADER = Header("events", "a" * 32, "sg", "sendgrid", "sendgrid", "edge-1", NOW - 5, "example.com")
IDENTIFIER = Identifier(b"i" * 32)
SEAL = Seal(b"i" * 40)


class Broker:
    """What a consumer has around it."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.bodies: list[tuple[Any, ...]] = []
        self.published: list[tuple[str, bytes, Mapping[str, str]]] = []
        self.acknowledged: list[Incoming] = []
        self.errors: list[Exception] = []
        self.publish_error: Exception | None = None
        self.messages: Counter[str] = Counter()
        self.heard: list[tuple[str, float, int]] = []
        self.results = {Counted(Cell("example.com", "sendgrid", "", "gmail"), Kind.DELIVERED, None): 1}
        self.consumer = Consumer(
            self.submit, self.quarantine, self.publish, self.acknowledged.append,
            Labels(["example.com", "sub.example.com"], by_name), SEAL, self, keys=(KEY, OLD),
            heard=lambda *about: self.heard.append(about), clock=lambda: NOW,
        )  # fmt: skip

    async def submit(self, batch: Batch) -> Applied:
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.pop(0)
        self.batches.append(batch)
        return Applied(dict(self.results))

    async def quarantine(self, *arguments: Any) -> int:
        if self.errors:
            raise self.errors.pop(0)
        self.bodies.append(arguments)
        return 0

    async def publish(self, topic: str, payload: bytes, properties: Mapping[str, str], **options: Any) -> None:
        if self.publish_error:
            raise self.publish_error
        self.published.append((topic, payload, properties))

    def bus(self, direction: str, outcome: str, n: int = 1) -> None:
        assert direction == "in"
        self.messages[outcome] += n

    def applied(self, source: str, result: Applied) -> None:
        assert source == "sg"

    async def take(self, properties: dict[str, str], payload: bytes, topic: str = "mailvitals/events/sg") -> Incoming:
        message = Incoming(topic, payload, properties, 1, 7, None)
        self.consumer.receive(message)
        await self.consumer.finish(5)
        return message

    def word(self) -> str:
        """What the edge was told, the only thing it was told."""
        ((_, payload, properties),) = [p for p in self.published if p[0] == "mailvitals/confirmed/edge-1"]
        return confirmed(properties, payload, (KEY,)).outcome

    def dead(self) -> str:
        ((_, _, properties),) = [p for p in self.published if p[0].startswith("mailvitals/dead/")]
        return properties["dead_reason"]


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)
    return Broker()


def payload(*events: Event) -> bytes:
    cells = [Cell("", "", "news", "")] * len(events)
    one = Batch("sg", "sendgrid", "sendgrid", NOW, events, cells, IDENTIFIER.of("sendgrid", events))
    return join(part for _, part in pack(to_wire(one, IDENTIFIER.digests, is_host)))


def delivered(recipient: str = "a@gmail.com", domain: str = "") -> Event:
    return Event(Kind.DELIVERED, NOW - 60, recipient=recipient, message_id="m", domain=domain)


async def test_counted_confirmed_and_acknowledged(broker: Broker) -> None:
    body = payload(delivered())
    message = await broker.take(sign(HEADER, body, OLD), body)
    assert broker.acknowledged == [message]
    assert broker.word() == "counted"
    assert broker.messages == Counter(counted=1)
    assert broker.heard == [("sg", NOW - 5, 1)]
    (batch,) = broker.batches
    assert batch.cells == [Cell("example.com", "sendgrid", "news", "gmail")]


@pytest.mark.parametrize(("sending", "recipient", "cell"), [
    ("mail.sub.example.com", "a@gmail.com", Cell("sub.example.com", "sendgrid", "news", "gmail")),
    ("elsewhere.example", "a@small.example", Cell("example.com", "sendgrid", "news", "?small.example")),
    ("", "nobody", Cell("example.com", "sendgrid", "news", "other")),
])  # fmt: skip
async def test_labels_are_the_cores_to_give(broker: Broker, sending: str, recipient: str, cell: Cell) -> None:
    body = payload(delivered(recipient, sending))
    await broker.take(sign(HEADER, body, KEY), body)
    assert broker.batches[0].cells == [cell]


async def test_a_store_that_is_away_is_waited_for_and_nothing_acknowledged_meanwhile(broker: Broker) -> None:
    broker.errors = [StoreUnavailable("away"), Overloaded(), StoreUnavailable("still")]
    body = payload(delivered())
    message = Incoming("mailvitals/events/sg", body, sign(HEADER, body, KEY), 1, 7, None)
    broker.consumer.receive(message)
    while len(broker.errors) > 1:
        assert not broker.acknowledged
        assert not broker.published
        await asyncio.sleep(0.002)
    await broker.consumer.finish(5)
    assert (broker.acknowledged, len(broker.batches)) == ([message], 1)


async def test_what_is_not_done_at_the_end_is_not_acknowledged(broker: Broker) -> None:
    broker.errors = [StoreUnavailable("away")] * 1000
    body = payload(delivered())
    broker.consumer.receive(Incoming("mailvitals/events/sg", body, sign(HEADER, body, KEY), 1, 7, None))
    await broker.consumer.finish(0.05)
    await asyncio.sleep(0.02)
    assert (broker.acknowledged, broker.published) == ([], [])


def _version_2(body: bytes) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agent.bus.wire.VERSION", "2")
        return sign(HEADER, body, KEY)


@pytest.mark.parametrize(("properties", "body", "topic", "reason", "told"), [
    (lambda b: sign(HEADER, b, b"x" * 32), b"[]", "sg", "forged", False),
    (lambda b: {}, b"[]", "sg", "forged", False),
    (lambda b: sign(HEADER, b, KEY), b"[]", "pm", "forged", False),  # one source's edge in another's name
    (_version_2, b"[]", "sg", "version", False),  # a later core will read it
    (lambda b: sign(HEADER, b, KEY), b"nonsense", "sg", "unreadable", True),
    (lambda b: sign(HEADER, b, KEY), b"[" + b" " * 200_000 + b"]", "sg", "too_large", True),
])  # fmt: skip
async def test_what_cannot_be_taken_goes_to_the_dead_letters_and_its_edge_keeps_what_may_yet_be(
    broker: Broker, properties: Callable[[bytes], dict[str, str]], body: bytes, topic: str, reason: str, told: bool
) -> None:
    message = await broker.take(properties(body), body, f"mailvitals/events/{topic}")
    assert broker.dead() == reason
    assert broker.messages == Counter({reason: 1})
    assert broker.acknowledged == [message]
    assert (broker.word() == "refused") if told else len(broker.published) == 1
    assert broker.batches == []


@pytest.mark.parametrize("error", [NotDelivered("away"), Denied("not authorized")])
async def test_a_broker_that_takes_no_word_and_no_dead_letter_changes_nothing(broker: Broker, error: Exception) -> None:
    broker.publish_error = error
    body = payload(delivered())
    await broker.take(sign(HEADER, body, KEY), body)
    await broker.take({}, b"nonsense")
    assert broker.messages == Counter(counted=1, forged=1)
    assert len(broker.acknowledged) == 2


async def test_a_defect_does_not_bring_the_message_back_for_ever(broker: Broker) -> None:
    broker.errors = [ZeroDivisionError()]
    body = payload(delivered())
    await broker.take(sign(HEADER, body, KEY), body)
    assert broker.dead() == "unreadable"
    assert len(broker.acknowledged) == 1


async def test_repeats_and_old_signs_of_life_say_nothing_of_the_rhythm(broker: Broker) -> None:
    broker.results = {}
    body = payload(delivered())
    await broker.take(sign(HEADER, body, KEY), body)
    old = msgspec.structs.replace(HEADER, received_at=NOW - 5000)
    await broker.take(sign(old, b"[]", KEY), b"[]")
    assert broker.heard == []
    await broker.take(sign(HEADER, b"[]", KEY), b"[]")
    assert broker.heard == [("sg", NOW - 5, 0)]


def body(
    headers: dict[str, str], content: bytes, about: str = "quarantine sg", at: float = NOW
) -> tuple[Header, bytes]:
    header = msgspec.structs.replace(HEADER, what="quarantine", received_at=at, reason="cut short")
    return header, SEAL.close(zlib.compress(msgspec.msgpack.encode((headers, content))), b"n" * 12, about)


async def test_a_sealed_body_lands_in_quarantine_once(broker: Broker) -> None:
    header, sealed = body({"content-type": "text/plain"}, b"jane@mail.example")
    broker.errors = [StoreUnavailable("away")]
    for _ in range(2):
        await broker.take(sign(header, sealed, KEY), sealed, "mailvitals/quarantine/sg")
    assert broker.bodies == [("sg", "cut short", b"jane@mail.example", {"content-type": "text/plain"}, NOW)]
    assert broker.messages == Counter(counted=2)
    late, sealed = body({}, b"x", at=NOW - 8 * 86400)
    await broker.take(sign(late, sealed, KEY), sealed, "mailvitals/quarantine/sg")
    assert len(broker.bodies) == 1


@pytest.mark.parametrize("sealed", [
    body({}, b"x", "quarantine pm")[1], SEAL.close(b"not deflated", b"n" * 12, "quarantine sg"), b"", b"x" * 30,
    SEAL.close(zlib.compress(b"\xc1"), b"n" * 12, "quarantine sg"),
])  # fmt: skip
async def test_a_sealed_body_that_does_not_open_is_a_dead_letter(broker: Broker, sealed: bytes) -> None:
    header, _ = body({}, b"")
    await broker.take(sign(header, sealed, KEY), sealed, "mailvitals/quarantine/sg")
    assert broker.dead() == "unreadable"
    assert broker.bodies == []
