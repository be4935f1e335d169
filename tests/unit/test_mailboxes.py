"""Lookups of mailbox providers in the background: what is asked, when again, and what the ledger is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from agent.clock import DAY
from agent.dns.answer import Answer, Outcome, Question
from agent.intake import mailboxes as module
from agent.intake.mailboxes import Mailboxes, by_name
from agent.ledger.base import StoreUnavailable

NOW = 1_764_000_000.0
GOOGLE = ("1 smtp.google.com.",)


class Box:
    """Lookups with a DNS, a ledger and a clock of one's own. ``zones`` has the records of a domain or an outcome."""

    def __init__(self) -> None:
        self.now = NOW
        self.zones: dict[str, tuple[str, ...] | Outcome] = {}
        self.ttl = 300
        self.asked: list[str] = []
        self.under_way = self.most = 0
        self.told: list[dict[str, str]] = []
        self.waits: list[str] = []
        self.outcomes: list[str] = []
        self.waiting = 0
        self.down = False
        self.mailboxes = Mailboxes(self.ask, self, self, clock=lambda: self.now)  # type: ignore[arg-type]

    async def ask(self, question: Question) -> Answer:
        assert question.type == "MX"
        self.asked.append(question.name)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.002)
        self.under_way -= 1
        found = self.zones.get(question.name, Outcome.NXDOMAIN)
        if isinstance(found, Outcome):
            return Answer(question, found)
        return Answer(question, Outcome.ANSWER, found, ttl=self.ttl)

    async def relabel(self, mailbox_providers: dict[str, str], now: float) -> None:
        if self.down:
            raise StoreUnavailable("no")
        self.told.append(mailbox_providers)

    async def pending(self) -> list[str]:
        if self.down:
            raise StoreUnavailable("no")
        return self.waits

    def mailbox_lookup(self, outcome: str) -> None:
        self.outcomes.append(outcome)

    def mailboxes_waiting(self, domains: int) -> None:
        self.waiting = domains

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.002)


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Box:
    monkeypatch.setattr(module, "TICK", 0.002)
    monkeypatch.setattr(module, "PAUSE", 0.0)
    return Box()


@asynccontextmanager
async def running(box: Box) -> AsyncIterator[None]:
    task = asyncio.create_task(box.mailboxes.run())
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize(
    ("domain", "label"),
    [
        ("gmail.com", "gmail"),
        ("example.net", "?example.net"),
        ("", "other"),
        ("localhost", "other"),
        ("[192.0.2.1]", "other"),
        ("b\u00fccher.example", "other"),
        ("x" * 64 + ".example", "other"),
        ("a..example", "other"),
        (".".join(["x" * 60] * 5), "other"),
    ],
)
def test_what_a_name_alone_tells(domain: str, label: str) -> None:
    assert by_name(domain) == label


async def test_a_domain_is_looked_up_once_and_the_ledger_is_told(box: Box) -> None:
    box.zones["example.net"] = GOOGLE
    assert box.mailboxes.label("example.net") == box.mailboxes.label("example.net") == "?example.net"
    assert box.mailboxes.label("gmail.com") == "gmail"
    async with running(box):
        await box.until(lambda: box.told)
        assert box.mailboxes.label("example.net") == "gmail"
        await asyncio.sleep(0.02)
    assert box.told == [{"example.net": "gmail"}]
    assert box.asked == ["example.net"]
    assert box.outcomes == ["listed"]


@pytest.mark.parametrize("zone", [Outcome.NXDOMAIN, Outcome.NODATA, ("0 .",), ("10 mx.example.net.",), ("odd",)])
async def test_whatever_is_definitive_and_not_listed_is_other(box: Box, zone: tuple[str, ...] | Outcome) -> None:
    box.zones["example.net"] = zone
    box.mailboxes.label("example.net")
    async with running(box):
        await box.until(lambda: box.told)
    assert box.told == [{"example.net": "other"}]
    assert box.mailboxes.label("example.net") == "other"


@pytest.mark.parametrize(("ttl", "days"), [(300, 1), (2 * 86400, 2), (900 * 86400, 7)])
async def test_an_answer_is_believed_for_its_ttl_within_bounds_and_old_ones_serve_meanwhile(
    box: Box, ttl: int, days: int
) -> None:
    box.zones["example.net"], box.ttl = GOOGLE, ttl
    box.mailboxes.label("example.net")
    async with running(box):
        await box.until(lambda: box.told)
        box.now = NOW + days * DAY - 1
        assert box.mailboxes.label("example.net") == "gmail"
        await asyncio.sleep(0.02)
        assert len(box.asked) == 1
        box.now += 2
        box.zones["example.net"] = ("5 mx.zoho.com.",)
        assert box.mailboxes.label("example.net") == "gmail"
        await box.until(lambda: box.mailboxes.label("example.net") == "zoho")
    assert len(box.asked) == 2


async def test_failures_are_tried_again_with_growing_pauses_then_given_up(box: Box) -> None:
    box.zones |= {"broken.example": Outcome.SERVFAIL, "fine.example": GOOGLE}
    box.mailboxes.label("broken.example")
    async with running(box):
        for number, pause in enumerate(module.RETRIES, 1):
            await box.until(lambda n=number: len(box.asked) == n)  # type: ignore[misc]
            await box.until(lambda n=number: box.outcomes.count("failed") == n)  # type: ignore[misc]
            box.now += pause - 1
            await asyncio.sleep(0.01)
            assert len(box.asked) == number, "not before its time"
            assert box.mailboxes.label("broken.example") == "?broken.example"
            box.now += 2
        box.mailboxes.label("fine.example")
        await box.until(lambda: "listed" in box.outcomes and len(box.outcomes) >= len(module.RETRIES) + 2)
        box.now += module.RETRIES[-1] + 1  # Whichever came first: the other is believed now.
        await box.until(lambda: "given_up" in box.outcomes)
        await box.until(lambda: {"broken.example": "other"} in box.told)
    assert box.mailboxes.label("broken.example") == "other"


async def test_a_resolver_that_answers_nothing_makes_no_domain_other(box: Box) -> None:
    box.zones["example.net"] = Outcome.UNREACHABLE
    box.mailboxes.label("example.net")
    async with running(box):
        for number in range(1, 20):
            await box.until(lambda n=number: len(box.outcomes) == n)  # type: ignore[misc]
            box.now += module.RETRIES[-1] + 1
        assert set(box.outcomes) == {"failed"}
        box.zones["example.net"] = GOOGLE
        box.now += module.RETRIES[-1] + 1
        await box.until(lambda: box.told)
    assert box.told == [{"example.net": "gmail"}]


async def test_a_domain_that_cannot_be_refreshed_keeps_its_name(box: Box) -> None:
    box.zones |= {"example.net": GOOGLE, "other.example": GOOGLE}
    box.mailboxes.label("example.net")
    async with running(box):
        await box.until(lambda: box.told)
        box.zones["example.net"] = Outcome.TIMEOUT
        box.now += 9 * DAY
        box.mailboxes.label("example.net")
        await box.until(lambda: "failed" in box.outcomes)
        box.now += 1
        box.mailboxes.label("other.example")
        await box.until(lambda: box.outcomes.count("listed") == 2)
        while "given_up" not in box.outcomes:
            box.now += module.RETRIES[-1] + 1
            await asyncio.sleep(0.01)
    assert box.mailboxes.label("example.net") == "gmail"


async def test_what_waits_in_the_ledger_is_looked_up(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP_EVERY", 0.01)
    box.zones["before.example"] = GOOGLE
    box.waits = ["before.example", "gmail.com"]
    async with running(box):
        await box.until(lambda: any("before.example" in told for told in box.told))
        told = len(box.told)
        await box.until(lambda: len(box.told) > told)  # It waits there again: told again, not asked again.
    assert box.asked == ["before.example"]
    assert {"gmail.com": "gmail"} in [{k: v for k, v in told.items() if k == "gmail.com"} for told in box.told]


async def test_memory_and_lookups_under_way_are_bounded(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 50)
    monkeypatch.setattr(module, "KNOWN", 20)
    for i in range(1000):
        assert box.mailboxes.label(f"{i}.example") == f"?{i}.example"
    async with running(box):
        await box.until(lambda: box.waiting == 50)
        await box.until(lambda: sum(map(len, box.told)) == 50)
    assert sorted(box.asked) == sorted(f"{i}.example" for i in range(50))
    assert 1 < box.most <= module.CONCURRENT
    assert len(box.mailboxes._known) == 20
    assert not box.mailboxes._waiting
    assert box.mailboxes.label("49.example") == "other"


async def test_a_store_that_fails_is_told_later_and_logged_once_without_domains(box: Box) -> None:
    box.zones["secret.example"] = GOOGLE
    box.down = True
    box.mailboxes.label("secret.example")
    with capture_logs() as logs:
        async with running(box):
            await box.until(lambda: box.outcomes)
            await asyncio.sleep(0.03)
            assert box.told == []
            box.down = False
            await box.until(lambda: box.told)
    assert [entry["event"] for entry in logs] == ["mailboxes.not_relabelled"]
    assert "secret" not in str(logs)
