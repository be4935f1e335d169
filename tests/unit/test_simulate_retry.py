"""Vendors retry as they say they do: which answers, after how long, how often, and what is lost then."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable

import aiohttp.web
import pytest

from agent.clock import DAY, HOUR, MINUTE
from agent.simulate import SIMULATORS, Scenario
from agent.simulate.retry import ASSUMED, Schedule, growing
from agent.simulate.send import Sent, simulate

START = 1_700_000_000.0
BODY = b'{"event":"failed"}'


def fate(schedule: Schedule, answer: int, body: bytes = BODY) -> tuple[list[float], str]:
    """The delays when the same answer comes again and again, and the rule that ends it."""
    delays: list[float] = []
    while not isinstance(then := schedule.next(body, answer, len(delays) + 1), str):
        delays.append(then)
    return delays, then


@pytest.mark.parametrize(
    ("provider", "answer", "minutes", "rule"),
    [
        ("postmark", 500, [1, 5, 10, 10, 10, 15, 30, 60, 120, 360], "10 retries in 10.3 h"),
        ("postmark", 204, [1, 5, 10, 10, 10, 15, 30, 60, 120, 360], "10 retries in 10.3 h"),
        ("postmark", 0, [1, 5, 10, 10, 10, 15, 30, 60, 120, 360], "10 retries in 10.3 h"),
        ("postmark", 403, [], "HTTP 403 ends it"),
        ("mailgun", 503, [5, 10, 15, 60, 120, 240], "6 retries in 7.5 h"),
        ("mailgun", 406, [], "HTTP 406 ends it"),
        ("resend", 429, [1 / 12, 5, 30, 120, 300, 600, 600], "7 retries in 27.6 h"),
        ("postal", 302, [2, 3, 6, 10, 15], "5 retries in 36 min"),
        ("mailjet", 204, [0.5] * 2880, "2880 retries in 24 h"),
        ("unisender_go", 500, [10] * 144, "144 retries in 24 h"),
        ("mailersend", 503, [1 / 6, 5 / 3], "2 retries in 1.83 min"),
        ("mailersend", 429, [1 / 6, 5 / 3], "2 retries in 1.83 min"),
        ("mailersend", 404, [], "HTTP 404 ends it"),
        ("kumomta", 503, [], "no retries"),
    ],
)
def test_schedules(provider: str, answer: int, minutes: list[float], rule: str) -> None:
    delays, last = fate(SIMULATORS[provider].RETRY, answer)
    assert delays == [pytest.approx(m * MINUTE) for m in minutes]
    assert last == rule


def test_mailgun_posts_a_delivery_once() -> None:
    delivered = b'{"event-data":{"event":"delivered"}}'
    assert fate(SIMULATORS["mailgun"].RETRY, 500, delivered) == ([], "events of this kind are posted once")


def test_kumomta_keeps_what_nobody_answered() -> None:
    delays, _ = fate(SIMULATORS["kumomta"].RETRY, 0)
    assert delays[:7] == [m * MINUTE for m in (1, 2, 4, 8, 16, 20, 20)]
    assert 7 * DAY - 20 * MINUTE < sum(delays) <= 7 * DAY


@pytest.mark.parametrize(("provider", "patience"), [("sendgrid", DAY), ("sparkpost", 8 * HOUR)])
def test_intervals_grow_and_end_within_the_vendors_patience(provider: str, patience: float) -> None:
    delays, _ = fate(SIMULATORS[provider].RETRY, 500)
    assert delays == sorted(delays)
    assert 0.9 * patience < sum(delays) <= patience
    assert provider != "sparkpost" or len(delays) == 11


@pytest.mark.parametrize("provider", SIMULATORS)
def test_every_vendor_takes_a_200_and_comes_to_an_end(provider: str) -> None:
    schedule = SIMULATORS[provider].RETRY
    assert 200 in schedule.taken
    assert 500 not in schedule.taken
    assert 200 not in schedule.final
    for answer in (0, 302, 404, 500, 503):
        assert sum(fate(schedule, answer)[0]) <= 8 * DAY


def test_growing_delays() -> None:
    assert growing(1.0, 4.0, 15.0) == (1.0, 2.0, 4.0, 4.0, 4.0)
    assert growing(2.0, 4.0, 1.0) == ()
    assert not ASSUMED.confirmed


class Planned:
    """An endpoint whose answers to each body are planned: the last one stays."""

    def __init__(self, *answers: int) -> None:
        self.answers = answers
        self.seen: Counter[bytes] = Counter()
        self.url = ""

    async def handle(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        body = await request.read()
        # Mailgun's proof changes with every attempt.
        key = body.partition(b'"event-data"')[2] or body
        self.seen[key] += 1
        return aiohttp.web.Response(status=self.answers[min(self.seen[key], len(self.answers)) - 1])


@pytest.fixture
async def run() -> AsyncIterator[Callable[..., object]]:
    runners: list[aiohttp.web.AppRunner] = []
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    async def start(
        provider: str, *answers: int, messages: int = 8, time_scale: float | None = None, **shares: float
    ) -> tuple[Sent, Planned, list[float]]:
        planned = Planned(*answers)
        app = aiohttp.web.Application()
        app.router.add_post("/webhooks/test", planned.handle)
        runners.append(runner := aiohttp.web.AppRunner(app))
        await runner.setup()
        await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
        planned.url = f"http://127.0.0.1:{runner.addresses[0][1]}/webhooks/test"
        quiet = dict.fromkeys(("opened", "complained", "unsubscribed", "deferred", "duplicates", "dropped"), 0.0)
        scenario = Scenario(start=START, messages=messages, **(quiet | shares))  # type: ignore[arg-type]
        keys = SIMULATORS[provider].new_credentials()
        sent = await simulate(
            provider, scenario, planned.url, keys.signing, batch=1, time_scale=time_scale, sleep=pause
        )  # fmt: skip
        return sent, planned, pauses

    yield start
    for runner in runners:
        await runner.cleanup()


async def test_an_outage_is_sat_out(run) -> None:  # type: ignore[no-untyped-def]
    sent, planned, pauses = await run("postmark", 503, 503, 200)
    assert (sent.delivered, sent.failed, sent.lost) == (8, 0, 0)
    assert (sent.retries, sent.retried, sent.given_up) == (16, {"HTTP 503": 16}, {})
    assert set(planned.seen.values()) == {3}
    assert Counter(pauses) == {1 * MINUTE / 3600: 8, 5 * MINUTE / 3600: 8}


async def test_patience_ends(run) -> None:  # type: ignore[no-untyped-def]
    sent, planned, pauses = await run("postal", 500, messages=3)
    assert (sent.delivered, sent.failed, sent.lost, sent.retries) == (0, 3, 3, 15)
    assert sent.given_up == {"5 retries in 36 min": 3}
    assert set(planned.seen.values()) == {6}
    assert sum(pauses) == pytest.approx(3 * 36 * MINUTE / 3600)


async def test_what_ends_it_ends_it(run) -> None:  # type: ignore[no-untyped-def]
    sent, planned, _ = await run("postmark", 503, 403)
    assert (sent.retries, sent.failed, sent.given_up) == (8, 8, {"HTTP 403 ends it": 8})
    assert sent.last_error == "HTTP 403"
    assert set(planned.seen.values()) == {2}


@pytest.mark.parametrize("provider", SIMULATORS)
async def test_wrong_credentials_are_tried_once(provider: str, run) -> None:  # type: ignore[no-untyped-def]
    sent, planned, pauses = await run(provider, 401, messages=3)
    assert (sent.retries, pauses, set(planned.seen.values())) == (0, [], {1})
    assert sum(sent.given_up.values()) == sent.failed > 0


async def test_deliveries_of_mailgun_are_lost_in_an_outage_and_bounces_are_not(run) -> None:  # type: ignore[no-untyped-def]
    sent, _, _ = await run("mailgun", 503, 200, messages=40, hard=0.3, soft_then_hard=0.0, asynchronous=0.0)
    delivered, hard = sent.truth.total("delivered"), sent.truth.total("hard")
    assert delivered > 0
    assert hard > 0
    assert sent.given_up == {"events of this kind are posted once": delivered}
    assert sent.lost == delivered
    assert sent.reports == sent.truth.reports - delivered


async def test_a_day_is_replayed_in_its_own_order_and_so_many_times_as_fast(run) -> None:  # type: ignore[no-untyped-def]
    sent, _, pauses = await run("postal", 503, 200, messages=5, time_scale=86400.0)
    assert sent.delivered == sent.truth.reports
    retries = [p for p in pauses if p == 2 * MINUTE / 86400.0]
    waits = [p for p in pauses if p != 2 * MINUTE / 86400.0]
    assert len(retries) == 5
    # Nobody really slept, so each wait is counted from the beginning, and the last is nearly the whole day.
    assert waits == sorted(waits)
    assert 0.5 < waits[-1] <= 1.1
