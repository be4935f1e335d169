"""Simulated traffic is what it says it is: read back by the providers and counted naively, it gives its own truth."""

from __future__ import annotations

import io
import itertools
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable

import aiohttp.web
import msgspec
import pytest

from agent.events import Event, Kind
from agent.mailbox import mailbox_provider
from agent.providers import PROVIDERS, WebhookRequest
from agent.simulate import SIMULATORS, Item, Place, Scenario, Traffic
from agent.simulate.send import Sent, simulate, write
from agent.simulate.wording import remote_text

START = 1_700_000_000.0
# Everything that can happen, often enough to happen in a small test.
ROUGH = Scenario(
    start=START, seed=7, messages=1200, hard=0.05, soft=0.04, block=0.03, undetermined=0.02, dropped=0.03, deferred=0.2,
    asynchronous=0.03, soft_then_hard=0.4, opened=0.5, clicked=0.5, complained=0.03, unsubscribed=0.03, duplicates=0.3,
    changed_ids=0.5, late=0.3,
)  # fmt: skip

every_provider = pytest.mark.parametrize("name", SIMULATORS)
# What comes of the voice alone is the same for all who share one.
every_voice = pytest.mark.parametrize("name", {repr(s.VOICE): name for name, s in SIMULATORS.items()}.values())


def _events(name: str, scenario: Scenario, batch: int = 100) -> tuple[list[Event], Traffic]:
    simulator = SIMULATORS[name]
    traffic = Traffic(scenario, simulator.VOICE)
    events: list[Event] = []
    for sent in simulator.requests(traffic, batch):
        parsed = PROVIDERS[name].parse(WebhookRequest("POST", "/", "", {}, sent.body, START))
        assert parsed.malformed == 0
        assert len(parsed) == sent.reports
        events.extend(parsed)
    return events, traffic


def _place(event: Event) -> Place:
    stream = event.stream or next(iter(event.tags), "")
    return Place(event.domain, stream, mailbox_provider(event.recipient.rpartition("@")[2]))


def _count(events: Iterable[Event]) -> tuple[Counter[tuple[Place, str]], int]:
    """The rules of counting once, in their plainest form: everything in memory, nothing ever forgotten."""
    outcomes: dict[object, Event] = {}
    seen: set[object] = set()
    pairs: set[object] = set()
    counts: Counter[tuple[Place, str]] = Counter()
    unmatched = 0
    for event in events:
        if event.kind in ("delivered", "bounced"):
            key = (event.message_id, event.recipient) if event.message_id else event.event_id
            before = outcomes.get(key)
            rank = (event.kind == "bounced", event.at)
            if before is None or rank > (before.kind == "bounced", before.at):
                outcomes[key] = event
            unmatched += before is None and event.kind == "bounced" and not event.message_id
            continue
        key = (event.kind, event.message_id, event.recipient, event.at, event.discriminator)
        if key in seen:
            continue
        seen.add(key)
        counts[_place(event), event.kind] += 1
        pair = (event.message_id, event.at // 3600)
        if event.kind == "deferred" and pair not in pairs:
            pairs.add(pair)
            counts[_place(event), "deferred_pairs"] += 1
    for event in outcomes.values():
        counts[_place(event), event.bounce_class or event.kind] += 1
    return counts, unmatched


@every_provider
@pytest.mark.parametrize("seed", [1, 2])
def test_naive_count_gives_the_truth(name: str, seed: int) -> None:
    events, traffic = _events(name, msgspec.structs.replace(ROUGH, seed=seed, messages=600))
    counts, unmatched = _count(events)
    assert counts == traffic.truth.counts
    assert unmatched == traffic.truth.unmatched_async_bounces
    assert len(events) == traffic.truth.reports
    for measure in (
        "hard",
        "soft",
        "block",
        "undetermined",
        "delivered",
        "deferred_pairs",
        "opened",
        "clicked",
        "complained",
    ):
        voice = SIMULATORS[name].VOICE
        untold = {kind.replace("deferred", "deferred_pairs") for kind in voice.silent} | {*voice.classes}
        assert (traffic.truth.total(measure) > 0) == (measure not in untold), measure
    assert (unmatched > 0) == (not SIMULATORS[name].VOICE.async_ids)


@every_voice
def test_every_message_comes_to_one_end(name: str) -> None:
    traffic = Traffic(ROUGH, SIMULATORS[name].VOICE)
    assert len(list(traffic)) == traffic.truth.reports
    ends = sum(traffic.truth.total(m) for m in ("delivered", "hard", "soft", "block", "undetermined", "dropped"))
    told = len({item.message for item in Traffic(ROUGH, SIMULATORS[name].VOICE)})
    assert ends - traffic.truth.unmatched_async_bounces == told
    assert (told == ROUGH.messages) == (Kind.DROPPED not in SIMULATORS[name].VOICE.silent)
    by_mailbox = sum(traffic.truth.total("hard", mailbox_provider=p) for p in ("gmail", "microsoft", "yahoo"))
    assert 0 < by_mailbox < traffic.truth.total("hard")


@every_voice
def test_shares_are_kept(name: str) -> None:
    scenario = Scenario(
        start=START, messages=5_000, hard=0.05, opened=0.0, complained=0.0, deferred=0.0, duplicates=0.05
    )
    traffic = Traffic(scenario, SIMULATORS[name].VOICE)
    assert len(list(traffic)) == (truth := traffic.truth).reports
    assert truth.total("hard") == pytest.approx(5_000 * 0.05, rel=0.2)
    assert truth.copies == pytest.approx((truth.reports - truth.copies) * 0.05, rel=0.2)
    assert truth.total("opened") == truth.total("complained") == truth.total("deferred") == 0


@every_provider
def test_same_seed_same_bodies(name: str) -> None:
    def bodies(seed: int) -> list[bytes]:
        simulator = SIMULATORS[name]
        scenario = msgspec.structs.replace(ROUGH, seed=seed, messages=300)
        return [request.body for request in simulator.requests(Traffic(scenario, simulator.VOICE), 50)]

    assert bodies(1) == bodies(1)
    assert bodies(1) != bodies(2)


@every_voice
def test_items_come_in_order_and_memory_stays_small(name: str) -> None:
    traffic = Traffic(ROUGH, SIMULATORS[name].VOICE)
    items = list(traffic)
    assert [item.emitted_at for item in items] == sorted(item.emitted_at for item in items)
    assert all(item.emitted_at > item.at >= START for item in items)
    assert len({item.serial for item in items}) == len(items) - traffic.truth.copies
    # The first reports leave before most messages are even drawn.
    early = Traffic(msgspec.structs.replace(ROUGH, messages=10**7), SIMULATORS[name].VOICE)
    assert len(list(itertools.islice(early, 1000))) == 1000


def test_ids_of_copies_change_only_where_a_message_id_holds_them_together() -> None:
    items = list(Traffic(ROUGH, SIMULATORS["sendgrid"].VOICE))
    assert any(item.id_version for item in items)
    assert not any(item.id_version for item in items if item.asynchronous)
    events, _ = _events("sendgrid", ROUGH)
    ids: dict[object, set[str]] = {}
    for event in events:
        ids.setdefault((event.message_id, event.recipient, event.kind, event.at), set()).add(event.event_id)
    assert any(len(versions) == 2 for versions in ids.values())


def test_batches_are_as_large_as_asked() -> None:
    simulator = SIMULATORS["sendgrid"]
    requests = list(simulator.requests(Traffic(ROUGH, simulator.VOICE), 250))
    assert {request.reports for request in requests[:-1]} == {250}
    assert all(request.body.endswith(b"]\r\n") for request in requests)
    postmark = SIMULATORS["postmark"]
    assert {request.reports for request in postmark.requests(Traffic(ROUGH, postmark.VOICE), 250)} == {1}


def test_asynchronous_bounces_of_sendgrid_name_nothing() -> None:
    events, traffic = _events("sendgrid", ROUGH)
    bare = [event for event in events if event.asynchronous]
    assert len(bare) >= traffic.truth.unmatched_async_bounces > 0
    assert all((e.kind, e.domain, e.tags, e.message_id) == ("bounced", "", (), "") for e in bare)
    delivered_recipients = {event.recipient for event in events if event.kind == "delivered"}
    assert {event.recipient for event in bare} <= delivered_recipients


@pytest.mark.parametrize(
    "changes",
    [
        {"hard": -0.1}, {"opened": 1.1}, {"hard": 0.6, "soft": 0.6}, {"messages": -1}, {"duration": 0},
        {"lateness": -1}, {"domains": {}}, {"streams": {"a": 0}}, {"mailboxes": {"a": -1.0}},
    ],
)  # fmt: skip
def test_impossible_scenarios_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Scenario(start=START, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("domain", ["gmail.com", "outlook.com", "yahoo.com", "company.example"])
@pytest.mark.parametrize("kind", [Kind.DEFERRED, Kind.DELIVERED])
def test_remote_texts_carry_their_code(domain: str, kind: Kind) -> None:
    wording = remote_text(Item(START, 1, kind, int(START), 0, f"a@{domain}", "example.com", "s"))
    assert re.fullmatch(r"[24]\.\d\.\d{1,3}", wording.enhanced_code) or "Queued" in wording.text
    assert "{" not in wording.text


def test_credentials_that_cannot_sign() -> None:
    p384 = SIMULATORS["sendgrid"]
    for bad in ({}, {"private_key": "nonsense"}, {"private_key": ""}):
        with pytest.raises(ValueError):
            p384.sign(b"", bad, START)
    with pytest.raises(ValueError):
        SIMULATORS["postmark"].sign(b"", {"username": "u"}, START)
    assert SIMULATORS["postmark"].sign(b"", {"headers": {"X-Key": ["a", "b"]}}, START)["x-key"] == "a"


@every_provider
def test_file_holds_one_readable_body_per_line(name: str) -> None:
    file = io.BytesIO()
    truth = write(name, msgspec.structs.replace(ROUGH, messages=200), file, batch=20)
    lines = file.getvalue().splitlines()
    events = [
        event for line in lines for event in PROVIDERS[name].parse(WebhookRequest("POST", "/", "", {}, line, START))
    ]  # fmt: skip
    assert len(events) == truth.reports
    assert _count(events)[0] == truth.counts


class Receiver:
    """A webhook endpoint that answers as told and keeps what it took."""

    def __init__(self, name: str, answer: Callable[[int], int]) -> None:
        self.name, self.answer = name, answer
        self.keys = SIMULATORS[name].new_credentials()
        self.requests = 0
        self.events: list[Event] = []
        self.url = ""

    async def handle(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        self.requests += 1
        status = self.answer(self.requests)
        if status == 200:
            headers = {key.lower(): value for key, value in request.headers.items()}
            # Signed now, so it arrives now.
            given = WebhookRequest("POST", request.path, "", headers, await request.read(), time.time())
            PROVIDERS[self.name].authenticate(given, self.keys.settings)
            self.events.extend(PROVIDERS[self.name].parse(given))
        return aiohttp.web.Response(status=status)


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Receiver], object]]:
    runners: list[aiohttp.web.AppRunner] = []

    async def start(receiver: Receiver) -> None:
        app = aiohttp.web.Application()
        app.router.add_post("/webhooks/test", receiver.handle)
        runner = aiohttp.web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        receiver.url = f"http://127.0.0.1:{port}/webhooks/test"

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.simulate.send._FIRST_PAUSE", 0.001)


SMALL = msgspec.structs.replace(ROUGH, messages=60)


@every_provider
async def test_what_is_refused_is_sent_again_until_it_is_taken(name: str, serve) -> None:  # type: ignore[no-untyped-def]
    # Rare enough that nobody is refused until they give up.
    receiver = Receiver(name, lambda n: {0: 503, 8: 401, 16: 302}.get(n % 23, 200))
    await serve(receiver)
    seen: list[int] = []
    sent = await simulate(
        name,
        SMALL,
        receiver.url,
        receiver.keys.signing,
        batch=7,
        concurrency=3,
        attempts=8,
        progress=lambda s: seen.append(s.reports),
    )
    assert sent.failed == 0
    assert sent.retries == receiver.requests - sent.delivered > 0
    assert sent.reports == sent.truth.reports == len(receiver.events) == seen[-1]
    assert sent.last_error in ("HTTP 503", "HTTP 401", "HTTP 302")
    assert _count(receiver.events)[0] == sent.truth.counts


async def test_gives_up_in_the_end(serve) -> None:  # type: ignore[no-untyped-def]
    receiver = Receiver("postmark", lambda n: 500)
    await serve(receiver)
    scenario = msgspec.structs.replace(SMALL, messages=3)
    sent = await simulate("postmark", scenario, receiver.url, receiver.keys.signing, attempts=3)
    assert (sent.delivered, sent.failed, sent.retries) == (0, sent.truth.reports, 2 * sent.truth.reports)
    assert receiver.requests == 3 * sent.truth.reports


async def test_nobody_there_is_not_an_exception() -> None:
    keys = SIMULATORS["postmark"].new_credentials()
    scenario = msgspec.structs.replace(SMALL, messages=2)
    sent: Sent = await simulate("postmark", scenario, "http://127.0.0.1:9/x", keys.signing, attempts=1)
    assert sent.failed == sent.truth.reports
    assert "Error" in sent.last_error


async def test_rate_is_kept(serve) -> None:  # type: ignore[no-untyped-def]
    receiver = Receiver("sendgrid", lambda n: 200)
    await serve(receiver)
    start = time.monotonic()
    sent = await simulate("sendgrid", SMALL, receiver.url, receiver.keys.signing, rate=400, batch=10)
    took = time.monotonic() - start
    assert took >= (sent.reports - 10) / 400


async def test_wrong_credentials_show_at_once() -> None:
    with pytest.raises(ValueError):
        await simulate("sendgrid", SMALL, "http://127.0.0.1:9/x", {})
    with pytest.raises(KeyError):
        await simulate("pigeon", SMALL, "http://127.0.0.1:9/x", {})
