"""The edge's side: nobody is answered before a core has it or the disk does, and the disk empties in order."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.bus import delivery
from agent.bus import relay as module
from agent.bus.client import Denied, Incoming, NotDelivered, TooLarge
from agent.bus.delivery import Delivery
from agent.bus.relay import Relay
from agent.bus.spool import Spool
from agent.bus.wire import Confirmation, Header, Seal, confirm, verify
from agent.events import Event, Kind
from agent.intake.gate import Overloaded
from agent.intake.mailboxes import is_host
from agent.ledger.base import Batch, Cell, StoreUnavailable
from agent.ledger.identity import Identifier

KEY = b"k" * 32
IDENTIFIER = Identifier(b"i" * 32)


class Core:
    """A broker with a core behind it, as far as a relay can tell."""

    def __init__(self) -> None:
        self.got: list[tuple[Header, bytes]] = []
        self.error: Exception | None = None
        self.denied: set[str] = set()
        self.outcome: str | None = "counted"  # None: it says nothing
        self.pause = 0.0
        self.delivery: Delivery
        self.acknowledged = 0

    async def publish(
        self, topic: str, payload: bytes, properties: Mapping[str, str], *, expiry: float, needs_reader: bool
    ) -> None:
        assert needs_reader
        assert expiry > 0
        await asyncio.sleep(self.pause)
        header = verify(properties, payload, (KEY,))
        assert topic == f"mailvitals/{header.what}/{header.source}"
        if self.error:
            raise self.error
        if header.source in self.denied:
            raise Denied("not authorized")
        self.got.append((header, payload))
        if self.outcome:
            asyncio.get_running_loop().call_soon(self.say, header.id, self.outcome)

    def say(self, message_id: str, outcome: Any, key: bytes = KEY) -> None:
        properties, payload = confirm(Confirmation(message_id, outcome), key)
        self.delivery.receive(Incoming("mailvitals/confirmed/edge-1", payload, properties, 0, 0, None))

    def events(self) -> list[dict[str, Any]]:
        return [event for _, payload in self.got for event in json.loads(payload)]

    def acknowledge(self, message: Incoming) -> None:
        self.acknowledged += 1


class Told:
    def __init__(self) -> None:
        self.messages: Counter[str] = Counter()
        self.spooled = (0, 0)

    def bus(self, direction: str, outcome: str, n: int = 1) -> None:
        self.messages[outcome if direction == "out" else f"in {outcome}"] += n

    def spool(self, size: int, messages: int) -> None:
        self.spooled = (size, messages)


class Bench:
    def __init__(self, folder: Path, max_bytes: int = 1024 * 1024) -> None:
        self.core, self.told = Core(), Told()
        seal = Seal(b"i" * 40)
        self.spool = Spool(folder / "spool.db", seal, max_bytes)
        sending = Delivery(self.core.publish, self.core.acknowledge, self.told, (KEY,))
        self.relay = Relay(
            sending, self.spool, seal, self.told, name="edge-1",
            domains={"sg": "example.com"}, providers={"sg": "sendgrid", "pm": "postmark"},
            recipient_hashes=IDENTIFIER.digests, host=is_host, max_payload=lambda: 10_000_000,
        )  # fmt: skip
        self.core.delivery = sending
        self.serial = 0

    def batch(self, size: int = 1, source: str = "sg") -> Batch:
        events = []
        for _ in range(size):
            self.serial += 1
            events.append(Event(Kind.DELIVERED, float(self.serial), recipient="a@gmail.com", message_id="m"))
        cell = Cell("example.com", "sendgrid", "", "")
        return Batch(source, "sendgrid", "sendgrid", 5.0, events, [cell] * size, IDENTIFIER.of("x", events))

    async def empty(self) -> None:
        async with asyncio.timeout(5):
            while self.spool.messages:
                await asyncio.sleep(0.005)

    def order(self) -> list[float]:
        return [event["at"] for event in self.core.events()]


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    monkeypatch.setattr(module, "DRAIN_PATIENCE", 0.1)
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.02)
    one = Bench(tmp_path, 100_000)
    await one.spool.open()
    running = asyncio.create_task(one.relay.run())
    yield one
    one.relay.close()
    await asyncio.wait_for(running, 5)
    await one.spool.close()


async def test_a_batch_is_answered_when_a_core_has_counted_it(bench: Bench) -> None:
    bench.core.outcome = None
    waiting = asyncio.create_task(bench.relay.submit(bench.batch(3)))
    while not bench.core.got:
        await asyncio.sleep(0)
    assert not waiting.done(), "that the broker took it is not enough"
    bench.core.say(bench.core.got[0][0].id, "counted")
    assert (await waiting).counted == {}
    assert bench.told.messages == Counter(counted=1)
    header = bench.core.got[0][0]
    assert (header.source, header.provider, header.edge, header.domain) == ("sg", "sendgrid", "edge-1", "example.com")


async def test_without_a_word_from_a_core_it_lies_on_the_disk_until_there_is_one(bench: Bench) -> None:
    bench.core.outcome = None
    await bench.relay.submit(bench.batch())
    assert bench.spool.messages == 1
    assert bench.told.spooled[1] == 1
    bench.core.outcome = "counted"
    await bench.empty()
    assert len({header.id for header, _ in bench.core.got}) == 1, "the same message, so that a core knows it again"


async def test_the_spool_empties_in_order_and_senders_do_not_wait_for_it(bench: Bench) -> None:
    bench.core.error = NotDelivered("away")
    for _ in range(40):
        await bench.relay.submit(bench.batch())
    assert bench.spool.messages == 40
    assert bench.told.messages["not_delivered"] < 40, "once is enough to know"
    bench.core.error = None
    await bench.empty()
    assert bench.order() == sorted(bench.order())
    assert len(bench.order()) == 40
    await bench.relay.submit(bench.batch())
    assert bench.told.messages["spooled"] == 40, "and now it goes straight through"


async def test_a_broker_that_is_back_is_used_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_PAUSE", 60.0)
    monkeypatch.setattr(module, "FIRST_PAUSE", 60.0)
    bench.core.error = NotDelivered("away")
    await bench.relay.submit(bench.batch())
    await asyncio.sleep(0.3)  # The drain has tried, in vain.
    bench.core.error = None
    bench.core.delivery.connected()
    await bench.empty()


async def test_requests_that_wait_together_share_a_message(bench: Bench) -> None:
    bench.core.pause = 0.01
    await asyncio.gather(*(bench.relay.submit(bench.batch()) for _ in range(400)))
    assert len(bench.order()) == 400
    assert len(bench.core.got) <= module.AT_ONCE + 2


async def test_sources_take_turns(bench: Bench) -> None:
    bench.core.pause = 0.01
    many = [bench.relay.submit(bench.batch(300, "sg")) for _ in range(30)]
    few = bench.relay.submit(bench.batch(1, "pm"))
    await asyncio.gather(*many, few)
    assert [header.source for header, _ in bench.core.got].index("pm") < module.AT_ONCE + 2


async def test_a_large_batch_is_cut_and_answered_when_all_of_it_is_safe(bench: Bench) -> None:
    await bench.relay.submit(bench.batch(1_700))
    assert len(bench.order()) == 1_700
    assert len(bench.core.got) >= 4


async def test_a_full_spool_sends_senders_away(bench: Bench) -> None:
    bench.core.error = NotDelivered("away")
    results = [await asyncio.gather(bench.relay.submit(bench.batch(50)), return_exceptions=True) for _ in range(20)]
    assert any(isinstance(r, StoreUnavailable) and "full" in str(r) for (r,) in results)
    assert bench.told.messages["spool_full"] >= 1
    bench.core.error = None
    await bench.empty()
    await bench.relay.submit(bench.batch())


async def test_a_disk_that_takes_nothing_sends_senders_away_and_is_logged_once(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.core.error = NotDelivered("away")
    assert bench.spool._db is not None
    bench.spool._db.execute("PRAGMA query_only = ON")
    for _ in range(5):
        with pytest.raises(StoreUnavailable, match="takes nothing"):
            await bench.relay.submit(bench.batch())
    bench.spool._db.execute("PRAGMA query_only = OFF")
    assert capsys.readouterr().out.count("spool.broken") == 1


async def test_a_denied_source_waits_on_the_disk_and_holds_up_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "DENIED_FOR", 0.1)
    bench.core.denied = {"pm"}
    await bench.relay.submit(bench.batch(source="pm"))
    await bench.relay.submit(bench.batch(source="sg"))
    assert bench.told.messages["denied"] >= 1
    assert (bench.spool.messages, bench.told.messages["counted"]) == (1, 1)
    bench.core.denied = set()
    await bench.empty()
    assert bench.told.messages["counted"] == 2


async def test_what_no_core_can_read_is_given_up_and_said(bench: Bench) -> None:
    bench.core.outcome = "refused"
    await bench.relay.submit(bench.batch())
    assert bench.told.messages == Counter(refused=1)
    assert bench.spool.messages == 0


async def test_a_forged_word_is_none_and_a_late_one_spares_the_second_sending(bench: Bench) -> None:
    bench.core.outcome = None
    waiting = asyncio.create_task(bench.relay.submit(bench.batch()))
    while not bench.core.got:
        await asyncio.sleep(0)
    bench.core.say(bench.core.got[0][0].id, "counted", b"x" * 32)
    await waiting
    assert bench.told.messages["in forged"] == 1
    assert bench.spool.messages == 1, "it was spooled when the true word did not come"
    bench.core.error = NotDelivered("away")  # So that nothing is sent again meanwhile.
    await asyncio.sleep(0.15)
    bench.core.say(bench.core.got[0][0].id, "counted")
    await bench.empty()
    assert bench.core.acknowledged == 2


async def test_an_unreadable_body_is_relayed_sealed_and_spooled_like_events(bench: Bench) -> None:
    bench.core.error = NotDelivered("away")
    body = b'{"email": "jane@mail.example"' * 10
    assert await bench.relay.quarantine("sg", "cut short", body, {"content-type": "application/json"}, 7.0) == 0
    assert bench.spool.messages == 1
    bench.core.error = None
    await bench.empty()
    ((header, payload),) = bench.core.got
    assert (header.what, header.reason, header.received_at) == ("quarantine", "cut short", 7.0)
    assert b"jane" not in payload


async def test_a_body_that_is_too_large_stays_with_its_sender(bench: Bench) -> None:
    bench.relay._max_payload = lambda: 100
    with pytest.raises(StoreUnavailable, match="too large"):
        await bench.relay.quarantine("sg", "why", bytes(range(256)) * 10, {}, 7.0)
    assert bench.spool.messages == 0
    bench.core.error = TooLarge("100 bytes")
    await bench.relay.submit(bench.batch())
    async with asyncio.timeout(5):
        while bench.spool.messages:
            await asyncio.sleep(0.005)
    assert bench.told.messages["too_large"] == 1


async def test_the_end_makes_safe_what_waits_and_takes_nothing_more(tmp_path: Path) -> None:
    one = Bench(tmp_path)
    await one.spool.open()
    one.core.error = NotDelivered("away")
    running = asyncio.create_task(one.relay.run())
    waiting = [asyncio.create_task(one.relay.submit(one.batch())) for _ in range(50)]
    await asyncio.sleep(0)
    one.relay.close()
    await asyncio.wait_for(running, 5)
    assert all(task.done() and task.exception() is None for task in waiting)
    with pytest.raises(Overloaded):
        await one.relay.submit(one.batch())
    await one.spool.close()
