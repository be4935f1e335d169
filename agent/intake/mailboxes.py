"""Recipient domains looked up in the background: whose mailboxes they are, by their MX.

Intake never waits for it. Until a domain is known its events count under ``?domain``; then the ledger moves them.
Neither here nor anywhere else is a recipient domain logged or made a label.
"""

from __future__ import annotations

import asyncio
import heapq
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec
import structlog

from agent.clock import DAY
from agent.dns.answer import Answer, Question, valid_name
from agent.ledger.base import Ledger, StoreUnavailable
from agent.mailbox import OTHER, PENDING, by_mx, mailbox_provider

KNOWN = 200_000  # domains remembered; about 40 MB
WAITING = 8192  # domains to be looked up; more are found in the ledger when these are done
CONCURRENT = 24  # lookups under way at once: the watch asks through the same resolver
PAUSE = 0.01  # seconds between two lookups
TICK = 0.5  # seconds between two looks at what there is to do
SWEEP_EVERY = 60.0  # seconds between two looks into the ledger for domains that wait there
RELABELLED_AT_ONCE = 64  # domains a transaction: apply waits for it
YOUNGEST, OLDEST = DAY, 7 * DAY  # seconds an answer is believed, within which its TTL decides
# Seconds until a lookup that failed is tried again, and again; then the domain is ``other`` for a day.
RETRIES = (15.0, 60.0, 300.0, 1800.0, 7200.0)

log = structlog.get_logger()


_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]")


class MailboxMetrics(Protocol):
    """What the lookups report of themselves."""

    def mailbox_lookup(self, outcome: str) -> None:
        """One lookup: ``listed`` (a known mailbox provider), ``other``, ``failed`` or ``given_up``."""

    def mailboxes_waiting(self, domains: int) -> None:
        """Domains that wait for their lookup."""


class _Known(msgspec.Struct, frozen=True, gc=False):
    mailbox_provider: str
    until: float


class _Attempts(msgspec.Struct, gc=False):
    since: float
    failures: int = 0


def is_host(domain: str) -> bool:
    """Whether a recipient domain (lower case) is a host name (RFC 1123 section 2.1), which alone is asked for, and so
    stored. An address literal is none, nor is a local part behind an escaped at sign."""
    return valid_name(domain) and _HOST.fullmatch(domain) is not None


def by_name(domain: str) -> str:
    """The mailbox provider of a recipient domain (lower case) as far as its name tells, else ``?domain``."""
    name = mailbox_provider(domain)
    return PENDING + domain if name == OTHER and is_host(domain) else name


class Mailboxes:
    """The mailbox provider of every recipient domain. ``label`` may be called in any thread; ``run`` looks up."""

    def __init__(
        self,
        ask: Callable[[Question], Awaitable[Answer]],
        ledger: Ledger,
        metrics: MailboxMetrics,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ask = ask
        self._ledger = ledger
        self._metrics = metrics
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._waiting: dict[str, _Attempts] = {}
        self._asked: deque[str] = deque()  # from other threads
        self._due: list[tuple[float, str]] = []
        self._settled: dict[str, str] = {}
        self._answered_at = 0.0
        self._swept_at = -SWEEP_EVERY
        self._failing = False

    def label(self, domain: str) -> str:
        """The mailbox provider of a recipient domain (lower case), ``?domain`` until it is known. Never waits."""
        name = by_name(domain)
        if not name.startswith(PENDING):
            return name
        known = self._known.get(domain)
        if known is None or known.until <= self._clock():
            self._want(domain)
        return known.mailbox_provider if known else name

    def _want(self, domain: str) -> None:
        if domain not in self._waiting and len(self._waiting) < WAITING:
            self._waiting[domain] = _Attempts(self._clock())
            self._asked.append(domain)

    async def run(self) -> None:
        """Look up and relabel until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._relabel_for_ever())
            slots = asyncio.Semaphore(CONCURRENT)
            while True:
                domain = self._next()
                if domain is None:
                    await asyncio.sleep(TICK)
                    continue
                await slots.acquire()
                task = group.create_task(self._look_up(domain))
                task.add_done_callback(lambda _: slots.release())
                await asyncio.sleep(PAUSE)

    def _next(self) -> str | None:
        now = self._clock()
        while self._asked:
            heapq.heappush(self._due, (now, self._asked.popleft()))
        self._metrics.mailboxes_waiting(len(self._waiting))
        return heapq.heappop(self._due)[1] if self._due and self._due[0][0] <= now else None

    async def _look_up(self, domain: str) -> None:
        answer = await self._ask(Question(domain, "MX"))
        now, attempts = self._clock(), self._waiting[domain]
        if answer.outcome.definitive:
            self._answered_at = now
            name = by_mx(answer.mx())
            self._metrics.mailbox_lookup("listed" if name != OTHER else OTHER)
            self._learn(domain, name, now + min(max(answer.ttl, YOUNGEST), OLDEST))
            return
        # A resolver that answers nothing at all says nothing about this domain.
        if attempts.failures >= len(RETRIES) and self._answered_at > attempts.since:
            self._metrics.mailbox_lookup("given_up")
            known = self._known.get(domain)
            self._learn(domain, known.mailbox_provider if known else OTHER, now + YOUNGEST)
            return
        self._metrics.mailbox_lookup("failed")
        pause = RETRIES[min(attempts.failures, len(RETRIES) - 1)]
        attempts.failures += 1
        heapq.heappush(self._due, (now + pause, domain))

    def _learn(self, domain: str, name: str, until: float) -> None:
        self._known.pop(domain, None)  # The newest stand last.
        while len(self._known) >= KNOWN:
            del self._known[next(iter(self._known))]
        self._known[domain] = _Known(name, until)
        self._settled[domain] = name
        del self._waiting[domain]

    async def _relabel_for_ever(self) -> None:
        while True:
            try:
                await self._relabel()
                if not 0 <= time.monotonic() - self._swept_at < SWEEP_EVERY:
                    await self._sweep()
                self._failing = False
            except StoreUnavailable as e:
                if not self._failing:
                    self._failing = True
                    log.warning("mailboxes.not_relabelled", error=str(e))
            await asyncio.sleep(TICK)

    async def _relabel(self) -> None:
        while self._settled:
            part = dict(list(self._settled.items())[:RELABELLED_AT_ONCE])
            await self._ledger.relabel(part, self._clock())
            for domain, name in part.items():
                if self._settled.get(domain) == name:
                    del self._settled[domain]

    async def _sweep(self) -> None:
        """Take up what waits in the ledger: from before a restart, from an import, from a request that overtook."""
        for domain in await self._ledger.pending():
            label = self.label(domain)
            if not label.startswith(PENDING):
                self._settled[domain] = label
        self._swept_at = time.monotonic()
