"""What intake itself asks of vendors: certificates that prove their requests, and confirmations of subscriptions.

Strangers choose when, so both are few: one request under way for each URL, a limited number in a minute, and what has
just failed is not tried again at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import structlog
from cryptography.x509 import load_pem_x509_certificate

from agent.fetch import Fetched, FetchError, fetch

Get = Callable[[str], Awaitable[Fetched]]

MOST_CERTIFICATES = 16
LONGEST_AGE = 7 * 86400.0  # seconds that a certificate is kept
FETCHES_PER_MINUTE = 10
FAILED_FOR = 30.0  # seconds that a failure is remembered
_MOST_FAILED = 256
_MOST_CONFIRMATIONS = 8
# Seconds before each try. The vendor has the token wait for days.
CONFIRM_AFTER = (0.0, 2.0, 10.0, 60.0, 300.0)

log = structlog.get_logger()


class Certificates:
    """Signing certificates by URL. That one is the vendor's rests on its URL, which the provider has checked, and on
    the TLS of its host, which the fetch has; here only that it is valid now."""

    def __init__(self, get: Get = fetch, clock: Callable[[], float] = time.time) -> None:
        self.known: dict[str, str] = {}
        self._get = get
        self._clock = clock
        self._under_way: dict[str, asyncio.Task[bool]] = {}
        self._failed: dict[str, float] = {}
        self._fetched_at: list[float] = []

    async def obtain(self, url: str) -> bool:
        """Whether the certificate is in ``known``, fetched if need be."""
        if url in self.known:
            return True
        task = self._under_way.get(url)
        if task is None:
            if not self._may_fetch(url):
                return False
            task = self._under_way[url] = asyncio.create_task(self._fetch(url))
            task.add_done_callback(lambda done: self._under_way.pop(url, None))
        return await asyncio.shield(task)

    def close(self) -> None:
        """Give up what is under way."""
        for task in self._under_way.values():
            task.cancel()

    def _may_fetch(self, url: str) -> bool:
        now = self._clock()
        if abs(now - self._failed.get(url, -FAILED_FOR)) < FAILED_FOR:
            return False
        self._fetched_at = [at for at in self._fetched_at if abs(now - at) < 60]
        if len(self._fetched_at) >= FETCHES_PER_MINUTE:
            return False
        self._fetched_at.append(now)
        return True

    async def _fetch(self, url: str) -> bool:
        reason = ""
        try:
            answer = await self._get(url)
        except FetchError as e:
            reason = e.reason
        else:
            if answer.status != 200:
                reason = f"status {answer.status}"
        now = self._clock()
        left = 0.0 if reason else _seconds_left(answer.body, now)
        if left <= 0:
            if len(self._failed) >= _MOST_FAILED:
                self._failed.clear()
            self._failed[url] = now
            log.warning("certificate.unavailable", url=url, reason=reason or "not a certificate that is valid now")
            return False
        if len(self.known) >= MOST_CERTIFICATES:
            self.known.pop(next(iter(self.known)))
        self.known[url] = answer.body.decode("ascii")
        asyncio.get_running_loop().call_later(min(left, LONGEST_AGE), self.known.pop, url, None)
        log.info("certificate.fetched", url=url)
        return True


def _seconds_left(pem: bytes, now: float) -> float:
    """How long a certificate in PEM will be valid, 0 when it is not, or is none."""
    try:
        certificate = load_pem_x509_certificate(pem)
        pem.decode("ascii")
    except ValueError:
        return 0.0
    if certificate.not_valid_before_utc > datetime.fromtimestamp(now, UTC):
        return 0.0
    return max(0.0, certificate.not_valid_after_utc.timestamp() - now)


class Confirmations:
    """Confirms subscriptions in the background. Their URLs hold a secret and are not logged."""

    def __init__(self, get: Get = fetch, pauses: tuple[float, ...] = CONFIRM_AFTER) -> None:
        self._get = get
        self._pauses = pauses
        self._under_way: dict[str, asyncio.Task[None]] = {}

    def begin(self, source: str, url: str) -> None:
        """GET the URL until it is answered 200, a few times at most. The vendor asks again when nothing comes of it."""
        if url in self._under_way or len(self._under_way) >= _MOST_CONFIRMATIONS:
            return
        task = self._under_way[url] = asyncio.create_task(self._confirm(source, url))
        task.add_done_callback(lambda done: self._under_way.pop(url, None))

    def close(self) -> None:
        """Give up what is under way."""
        for task in self._under_way.values():
            task.cancel()

    async def _confirm(self, source: str, url: str) -> None:
        for pause in self._pauses:
            await asyncio.sleep(pause)
            try:
                status = (await self._get(url)).status
            except FetchError as e:
                reason = e.reason
            else:
                if status == 200:
                    log.info("subscription.confirmed", source=source)
                    return
                reason = f"status {status}"
            log.warning("subscription.not_confirmed_yet", source=source, reason=reason)
        log.error("subscription.not_confirmed", source=source, tries=len(self._pauses))
