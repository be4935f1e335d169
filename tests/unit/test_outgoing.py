"""Certificates and confirmations: what strangers can make the agent ask of vendors is little, and ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from agent.fetch import Fetched, FetchError
from agent.intake import outgoing
from agent.intake.outgoing import FAILED_FOR, FETCHES_PER_MINUTE, MOST_CERTIFICATES, Certificates, Confirmations
from tests.servers.tls import DAY, certificate

URL = "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0.pem"
KEY = rsa.generate_private_key(65537, 2048)


def pem(begins: float | None = None, days: int = 30) -> bytes:
    return certificate("sns.amazonaws.com", KEY, begins=begins, days=days).public_bytes(Encoding.PEM)


GOOD = pem()


class Vendor:
    """Answers with what it is told to, and remembers what it was asked."""

    def __init__(self, *answers: Fetched | FetchError, slow: float = 0.0) -> None:
        self.answers = answers
        self.slow = slow
        self.asked: list[str] = []
        self.now = time.time()

    async def get(self, url: str) -> Fetched:
        self.asked.append(url)
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        await asyncio.sleep(self.slow)
        if isinstance(answer, FetchError):
            raise answer
        return answer

    def clock(self) -> float:
        return self.now

    def certificates(self) -> Certificates:
        return Certificates(self.get, self.clock)


def ok(body: bytes = GOOD, status: int = 200) -> Fetched:
    return Fetched(status, {}, body)


async def test_a_certificate_is_fetched_once() -> None:
    vendor = Vendor(ok(), slow=0.05)
    certificates = vendor.certificates()
    assert await asyncio.gather(*(certificates.obtain(URL) for _ in range(50))) == [True] * 50
    assert await certificates.obtain(URL)
    assert vendor.asked == [URL]
    assert certificates.known == {URL: GOOD.decode()}


async def test_one_that_waits_no_longer_does_not_end_it_for_the_others() -> None:
    vendor = Vendor(ok(), slow=0.1)
    certificates = vendor.certificates()
    first, second = (asyncio.create_task(certificates.obtain(URL)) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    assert await second
    assert vendor.asked == [URL]


@pytest.mark.parametrize(
    "answer",
    [
        FetchError("timeout"), FetchError("tls"), ok(status=404), ok(status=500), ok(b""), ok(b"nonsense"),
        ok(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), ok(GOOD + "é".encode()),
        ok(pem(begins=time.time() + DAY)), ok(pem(begins=time.time() - 40 * DAY)),
    ],
)  # fmt: skip
async def test_what_cannot_be_used_is_not_tried_again_at_once(answer: Fetched | FetchError) -> None:
    vendor = Vendor(answer, ok())
    certificates = vendor.certificates()
    for after in (0.0, FAILED_FOR - 1):
        vendor.now += after
        assert not await certificates.obtain(URL)
    assert (len(vendor.asked), certificates.known) == (1, {})
    vendor.now += 2
    assert await certificates.obtain(URL)
    assert len(vendor.asked) == 2


async def test_strangers_cannot_make_it_hammer_the_vendor() -> None:
    vendor = Vendor(ok(status=404))
    certificates = vendor.certificates()
    for n in range(1000):
        assert not await certificates.obtain(f"{URL}{n}")
    assert len(vendor.asked) == FETCHES_PER_MINUTE
    vendor.now += 61
    await certificates.obtain(URL)
    assert len(vendor.asked) == FETCHES_PER_MINUTE + 1


async def test_memory_has_an_end() -> None:
    vendor = Vendor(ok())
    certificates = vendor.certificates()
    for n in range(3 * MOST_CERTIFICATES):
        vendor.now += 10
        assert await certificates.obtain(f"{URL}{n}")
    assert len(certificates.known) == MOST_CERTIFICATES
    assert f"{URL}{3 * MOST_CERTIFICATES - 1}" in certificates.known
    failing = Vendor(ok(status=404))
    certificates = failing.certificates()
    for n in range(600):
        failing.now += 10
        await certificates.obtain(f"{URL}{n}")
    assert len(certificates._failed) <= 256


async def test_a_certificate_is_forgotten_when_it_is_no_longer_valid() -> None:
    body = pem(begins=time.time() - DAY + 1.2, days=1)
    certificates = Vendor(ok(body)).certificates()
    certificates._clock = time.time
    assert await certificates.obtain(URL)
    assert certificates.known
    await asyncio.sleep(1.6)
    assert certificates.known == {}
    assert not await certificates.obtain(URL)


async def test_a_certificate_is_forgotten_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "LONGEST_AGE", 0.05)
    vendor = Vendor(ok())
    certificates = vendor.certificates()
    assert await certificates.obtain(URL)
    await asyncio.sleep(0.15)
    assert certificates.known == {}
    assert await certificates.obtain(URL)
    assert len(vendor.asked) == 2


async def test_what_is_under_way_ends_with_the_agent() -> None:
    vendor = Vendor(ok(), slow=60)
    certificates, confirmations = vendor.certificates(), Confirmations(vendor.get)
    waiting = asyncio.create_task(certificates.obtain(URL))
    confirmations.begin("ses", URL)
    await asyncio.sleep(0.01)
    assert len(vendor.asked) == 2
    certificates.close()
    confirmations.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await _until(lambda: not confirmations._under_way)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def _confirmed(vendor: Vendor, begin: Callable[[Confirmations], Awaitable[None] | None]) -> None:
    confirmations = Confirmations(vendor.get, (0.0, 0.01, 0.01))
    begin(confirmations)
    await _until(lambda: not confirmations._under_way)


async def test_a_subscription_is_confirmed_with_patience() -> None:
    vendor = Vendor(FetchError("timeout"), ok(status=503), ok(b"<ConfirmSubscriptionResponse/>"))
    await _confirmed(vendor, lambda confirmations: confirmations.begin("ses", URL))
    assert vendor.asked == [URL] * 3


async def test_a_subscription_that_cannot_be_confirmed_is_given_up() -> None:
    vendor = Vendor(ok(status=403))
    await _confirmed(vendor, lambda confirmations: confirmations.begin("ses", URL))
    assert vendor.asked == [URL] * 3


async def test_confirmations_are_few_and_one_of_a_kind() -> None:
    vendor = Vendor(ok(), slow=0.05)

    def begin(confirmations: Confirmations) -> None:
        for n in range(100):
            confirmations.begin("ses", URL)
            confirmations.begin("ses", f"{URL}{n}")

    await _confirmed(vendor, begin)
    assert len(vendor.asked) == len(set(vendor.asked)) == 8


async def test_no_url_of_a_subscription_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    vendor = Vendor(FetchError("dns"))
    await _confirmed(vendor, lambda confirmations: confirmations.begin("ses", "https://x.example/?Token=secret"))
    said = "".join(capsys.readouterr())
    assert "not_confirmed" in said
    assert "secret" not in said
