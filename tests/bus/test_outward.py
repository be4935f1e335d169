"""Verdicts and findings on the broker: the present, all of it, and nothing that is over."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from agent.bus.client import Denied, NotDelivered
from agent.bus.outward import KIND, NUMBERS_EVERY, RENEW_AFTER, Outward, messages
from agent.dns.checks.base import Finding, Verdict, Watched
from agent.vitals.types import DomainVitals, Judgement, Rate, Snapshot, TargetVerdict

VERDICT, FINDING = "mailvitals/verdicts/example.com/bounce", "mailvitals/findings/example.com/dkim"


def snapshot(*domains: str, verdict: TargetVerdict = TargetVerdict.MET, bounced: int = 1, at: float = 10.0) -> Snapshot:
    rate = Rate(bounced / 1000, 0.0, 0.01, bounced, 1000)
    judged = (
        Judgement("bounce", verdict, 0.01, "7d", rate, "1 of 1,000"),
        Judgement("capacity", TargetVerdict.INSUFFICIENT_DATA, 50_000, "30d", None, "too little"),
    )
    return Snapshot(at, {d: DomainVitals(d, "growth", {}, {}, {}, judged, 0, None, 0.0) for d in domains})


def watched(subject: str, verdict: Verdict, domain: str = "example.com", checked_at: float = 9.0) -> Watched:
    return Watched(domain, Finding("dkim", subject, verdict, "key_missing", "There is no key."), checked_at, 5.0)


class Broker:
    def __init__(self) -> None:
        self.now = 0.0
        self.snapshot: Snapshot | None = snapshot("example.com")
        self.findings: list[Watched] = [watched("s1", Verdict.OK)]
        self.retained: dict[str, Any] = {}
        self.sent: list[str] = []
        self.connected = True
        self.error: Exception | None = None
        self.documents: dict[str, bytes] = {}
        self.messages: Counter[str] = Counter()
        self.outward = self.restarted()

    def restarted(self) -> Outward:
        return Outward(
            lambda: self.snapshot, lambda: self.findings, self.publish, lambda: self.connected,
            self, self, clock=lambda: self.now, epoch=3,  # type: ignore[arg-type]
        )  # fmt: skip

    async def publish(self, topic: str, payload: bytes, *, retain: bool, expiry: float = 0) -> None:
        await asyncio.sleep(0)
        assert retain
        if self.error:
            raise self.error
        self.sent.append(topic)
        if payload:
            assert expiry > RENEW_AFTER
            self.retained[topic] = json.loads(payload)
        else:
            self.retained.pop(topic, None)

    def bus(self, direction: str, outcome: str, n: int = 1) -> None:
        self.messages[outcome] += n

    async def load(self, kind: str) -> dict[str, bytes]:
        assert kind == KIND
        return dict(self.documents)

    async def save(self, kind: str, documents: Mapping[str, bytes | None], *, epoch: int) -> None:
        assert (kind, epoch) == (KIND, 3)
        for key, body in documents.items():
            if body is None:
                self.documents.pop(key, None)
            else:
                self.documents[key] = body

    async def round(self, later: float = 1.0) -> list[str]:
        """What was sent in one round, with a new snapshot."""
        self.now += later
        self.sent.clear()
        if self.snapshot:
            self.snapshot = msgspec.structs.replace(self.snapshot, evaluated_at=self.now)
        await self.outward.round()
        return sorted(self.sent)


@pytest.fixture
def broker() -> Broker:
    return Broker()


async def test_whoever_subscribes_finds_the_present(broker: Broker) -> None:
    broker.findings = [watched("s2", Verdict.UNKNOWN), watched("s1", Verdict.WARN)]
    await broker.round()
    assert broker.retained[VERDICT] == {
        "domain": "example.com", "phase": "growth", "target": "bounce", "verdict": "met", "limit": 0.01, "window": "7d",
        "value": 0.001, "lower": 0.0, "upper": 0.01, "numerator": 1, "denominator": 1000, "reason": "1 of 1,000",
        "at": 1.0,
    }  # fmt: skip
    capacity = broker.retained["mailvitals/verdicts/example.com/capacity"]
    assert (capacity["verdict"], capacity["value"], capacity["numerator"]) == ("insufficient_data", None, None)
    finding = broker.retained[FINDING]
    assert finding["verdict"] == "warn", "the worst; unknown is never worse than what is known"
    assert [s["subject"] for s in finding["subjects"]] == ["s1", "s2"]


async def test_only_what_changed_is_sent_and_numbers_alone_can_wait(broker: Broker) -> None:
    assert len(await broker.round()) == 3
    assert await broker.round() == []
    broker.snapshot = snapshot("example.com", bounced=2)
    assert await broker.round() == []
    broker.snapshot = snapshot("example.com", verdict=TargetVerdict.BREACHED, bounced=2)
    assert await broker.round() == [VERDICT]
    broker.findings = [watched("s1", Verdict.FAIL)]
    assert await broker.round() == [FINDING]
    broker.snapshot = snapshot("example.com", verdict=TargetVerdict.BREACHED, bounced=3)
    assert VERDICT in await broker.round(NUMBERS_EVERY)
    assert len(await broker.round(RENEW_AFTER)) == 3, "before what is retained expires"


async def test_all_is_sent_again_after_a_reconnect(broker: Broker) -> None:
    await broker.round()
    broker.connected = False
    assert await broker.round() == []
    broker.connected = True
    broker.retained.clear()  # It forgot.
    broker.outward.reconnected()
    assert len(await broker.round()) == 3


async def test_what_is_not_watched_any_more_is_cleared_even_after_a_restart(broker: Broker) -> None:
    broker.snapshot = snapshot("example.com", "example.net")
    await broker.round()
    assert "mailvitals/verdicts/example.net/bounce" in broker.retained
    broker.outward = broker.restarted()
    broker.snapshot = None
    assert await broker.round() == [], "before the first evaluation nobody knows what there is"
    broker.snapshot = snapshot("example.com")
    await broker.round()
    assert not any("example.net" in topic for topic in broker.retained)
    assert set(broker.documents) == set(broker.retained)
    assert broker.messages["cleared"] == 2


@pytest.mark.parametrize("error", [NotDelivered("away"), Denied("not authorized")])
async def test_what_the_broker_does_not_take_is_tried_again(broker: Broker, error: Exception) -> None:
    broker.error = error
    with pytest.raises(type(error)):
        await broker.round()
    assert set(broker.documents), "noted before it is sent"
    broker.error = None
    assert len(await broker.round()) == 3


def test_a_name_is_one_level_of_a_topic_whatever_is_in_it() -> None:
    odd = messages(snapshot("example.com"), [watched("x", Verdict.OK, "a/+#b")])
    assert "mailvitals/findings/a___b/dkim" in odd
