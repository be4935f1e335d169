"""How the pages that checks ask for are fetched, and kept where that is allowed."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence

import msgspec

from agent.dns.answer import Asks, Outcome, Question
from agent.dns.page import Fetch, Page, failed
from agent.dns.smtp import certificates
from agent.fetch import Address, FetchError, fetch, is_public

_TIMEOUT = 10.0  # seconds for one page, redirects included
_KEPT = 2000  # pages, and
_KEPT_BYTES = 16 * 1024 * 1024  # of their bodies
_RETRY = 3600.0  # seconds, at most, for which a page that could not be had is not asked for again


class Pages:
    """Fetches pages from addresses that ``resolver`` gives. ``tls``, ``allowed`` and ``smtp_port`` are for a server of
    one's own."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        tls: ssl.SSLContext | None = None,
        allowed: Callable[[Address], bool] = is_public,
        smtp_port: int = 25,
    ) -> None:
        self._clock = clock
        self._tls = tls
        self._allowed = allowed
        self._smtp_port = smtp_port
        self._kept: dict[str, tuple[float, Page]] = {}
        self._bytes = 0

    async def get(self, wanted: Fetch, resolver: Asks, *, anew: bool = False) -> Page:
        """The page, whatever happens; ``anew`` takes none that was kept."""
        now = self._clock()
        begun, known = self._kept.get(wanted.url, (0.0, None))
        if known is not None and not anew:
            age = wanted.max_age if known.status in (200, 404) else min(wanted.max_age, _RETRY)
            if 0 <= now - begun < age:
                return msgspec.structs.replace(known, question=wanted, at=now)
        got = msgspec.structs.replace(await self._fetched(wanted, resolver), at=now)
        if wanted.max_age:
            self._keep(wanted.url, now, got)
        return got

    async def _fetched(self, wanted: Fetch, resolver: Asks) -> Page:
        async def addresses(host: str, port: int) -> Sequence[tuple[str, int]]:
            name = host.rstrip(".").lower()
            answers = await asyncio.gather(*(resolver.ask(Question(name, type_)) for type_ in ("A", "AAAA")))
            return [(address, port) for answer in answers for address in answer.records]

        try:
            if wanted.url.startswith("smtp:"):
                chain = await certificates(
                    wanted.name, self._smtp_port, timeout=_TIMEOUT, resolve=addresses, allowed=self._allowed
                )  # fmt: skip
                return Page(wanted, Outcome.ANSWER, status=200, body=chain)
            answer = await fetch(
                wanted.url, timeout=_TIMEOUT, limit=wanted.limit, redirects=wanted.redirects, tls=self._tls,
                resolve=addresses, allowed=self._allowed,
            )  # fmt: skip
        except FetchError as error:
            return failed(wanted, error.reason)
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        return Page(
            wanted, Outcome.ANSWER, status=answer.status, content_type=kind[:100], body=answer.body,
            certificate=answer.certificate,
        )  # fmt: skip

    def _keep(self, url: str, now: float, page: Page) -> None:
        self._forget(url)
        self._kept[url] = (now, page)
        self._bytes += len(page.body)
        while len(self._kept) > _KEPT or self._bytes > _KEPT_BYTES:
            self._forget(next(iter(self._kept)))

    def _forget(self, url: str) -> None:
        if url in self._kept:
            self._bytes -= len(self._kept.pop(url)[1].body)
