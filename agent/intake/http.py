"""The public listener: ``POST /webhooks/{source}``, and what providers probe there. Nothing else.

Answers follow the strictest of the providers (sources in ``docs/providers``): exactly 200 for what was taken, 401 for
what cannot be proved (never 403, on which Postmark gives up), 503 for whatever the sender should bring again.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import structlog
from aiohttp import ClientError, web
from aiohttp.http_exceptions import HttpProcessingError

from agent.fetch import fetch
from agent.intake.connections import ConnectionMetrics, Connections
from agent.intake.gate import Overloaded
from agent.intake.outgoing import Certificates, Confirmations, Get
from agent.intake.source import Prepared, Source
from agent.ledger.base import Applied, Batch, StoreUnavailable
from agent.providers import (
    AuthenticationError,
    CertificateNeeded,
    Confirm,
    Ended,
    ParseError,
    Reply,
    WebhookRequest,
)

PREFIX = "/webhooks/"
SERVER = "mailvitals"  # and not which library of which version
UNKNOWN = "unknown"
RETRY_AFTER = "10"  # seconds
LOG_EVERY = 60.0  # seconds between two log lines about the same thing
READ_TIMEOUT = 30.0  # seconds for a whole body
# Bytes of bodies being read or waiting; beyond it senders are told to come back.
IN_FLIGHT = 256 * 1024 * 1024
# Larger bodies are verified and parsed in a thread: about the size that takes a millisecond.
INLINE_BYTES = 32 * 1024
_ENCODINGS = frozenset({"identity", "gzip", "deflate"})
_GZIP_OR_ZLIB, _RAW_DEFLATE = 47, -15  # zlib's window bits

log = structlog.get_logger()


class IntakeMetrics(ConnectionMetrics, Protocol):
    """What intake reports of itself."""

    def request(self, source: str, outcome: str, seconds: float) -> None:
        """One request; ``source`` is a configured name or ``unknown``."""

    def applied(self, source: str, result: Applied) -> None:
        """What became of a batch."""

    def tested(self, source: str, reason: str, n: int) -> None:
        """Events left out as test traffic."""

    def quarantined(self, source: str, reason: str) -> None:
        """One request sealed away."""


class Counting(Protocol):
    """Who takes batches: the gate before a ledger, or a relay to one."""

    async def submit(self, batch: Batch) -> Applied:
        """See ``Gate.submit``."""


class Keeping(Protocol):
    """Who keeps what cannot be read: a ledger, or a relay to one."""

    async def quarantine(self, source: str, reason: str, body: bytes, headers: Mapping[str, str], now: float) -> int:
        """See ``Ledger.quarantine``."""


class Door:
    """What a source's requests came to since the start, for people. Times are Unix seconds."""

    def __init__(self) -> None:
        self.requests: dict[str, int] = {}
        self.tests: dict[str, int] = {}
        self.quarantined = 0
        self.last_error = ""
        self.last_error_at = 0.0
        self.unauthorized_at = 0.0
        self.logged_at: dict[str, float] = {}


class _Refusal(Exception):
    def __init__(self, status: int, outcome: str, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.outcome = outcome
        self.text = text
        self.headers = headers


_BUSY = {"Retry-After": RETRY_AFTER}


class Intake:
    """Takes webhooks for a fixed set of sources."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        gate: Counting,
        ledger: Keeping,
        metrics: IntakeMetrics,
        *,
        max_body_bytes: int,
        clock: Callable[[], float] = time.time,
        get: Get = fetch,
        heard: Callable[[str, float, int], None] = lambda source, at, events: None,
        doubt: Callable[[], str] = lambda: "",
    ) -> None:
        """``get`` is how URLs that vendors name are fetched; ``heard`` is told the source, the time and the number of
        events of each request that was counted; ``doubt`` tells why the clock cannot be believed now."""
        self._sources = sources
        self._gate = gate
        self._ledger = ledger
        self._metrics = metrics
        self._max_body = max_body_bytes
        self._clock = clock
        self._certificates = Certificates(get, clock)
        self._confirmations = Confirmations(get)
        self._heard = heard
        self._doubt = doubt
        self._in_flight = 0
        self._parser = ThreadPoolExecutor(1, "intake-parser")
        self.doors = {name: Door() for name in sources}
        self.draining = False

    def server(self, *, connections: int = 2000, per_address: int = 1000) -> Connections:
        """An aiohttp low-level server: there is one route, so there is no router. The numbers are how many connections
        it holds at most, in all and from one address."""
        loop = asyncio.get_running_loop()
        limit = self._max_body

        def make_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
            return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=limit)

        return Connections(
            self.handle, self._metrics, lambda: self._metrics.request(UNKNOWN, "invalid", 0.0),
            limit=connections, per_address=per_address,
            request_factory=make_request, access_log=None, lingering_time=2.0,
            auto_decompress=False,  # It would go on unpacking a bomb that is refused already.
        )  # fmt: skip

    def close(self) -> None:
        """Stop the parser thread and give up what is asked of vendors."""
        self._certificates.close()
        self._confirmations.close()
        self._parser.shutdown(wait=False, cancel_futures=True)

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answer one request."""
        start = time.perf_counter()
        path, _, query = request.raw_path.partition("?")
        if path[:1] != "/":
            path = request.path  # A proxy may name the whole URL (RFC 9112 section 3.2.2).
        name = path[len(PREFIX) :] if path.startswith(PREFIX) else ""
        source = self._sources.get(name)
        try:
            if source is None:
                name = UNKNOWN
                raise _Refusal(404, "unknown_source", "unknown source")
            by_get = request.method == "GET" and source.is_report(query)
            if request.method in ("GET", "HEAD") and not by_get:
                outcome, response = "probe", web.Response()
            elif request.method == "OPTIONS" and (allowed := _options(source, request)) is not None:
                outcome, response = "probe", web.Response(headers=allowed)
            elif request.method != "POST" and not by_get:
                raise _Refusal(405, "invalid", "only POST is taken here", {"Allow": "GET, HEAD, POST"})
            else:
                outcome, reply = await self._take(source, request, path, query)
                response = web.Response(body=reply.body, content_type=reply.content_type) if reply else web.Response()
        except _Refusal as e:
            outcome = e.outcome
            response = web.Response(status=e.status, text=e.text + "\n", headers=e.headers)
            if source is not None:
                self._note(source.name, outcome, e.text)
        except Exception:
            # A defect of ours is no fault of the mail's: the sender keeps it.
            log.exception("webhook.failed", source=name)
            outcome = "unavailable"
            response = web.Response(status=503, text="internal error\n", headers=_BUSY)
        response.headers["Server"] = SERVER
        if self.draining or response.status == 413:
            response.force_close()
        if source is not None:
            requests = self.doors[name].requests
            requests[outcome] = requests.get(outcome, 0) + 1
        self._metrics.request(name, outcome, time.perf_counter() - start)
        return response

    async def _take(self, source: Source, request: web.BaseRequest, path: str, query: str) -> tuple[str, Reply | None]:
        if why := self._doubt():
            raise _Refusal(503, "unavailable", why, _BUSY)
        length = request.content_length or 0
        if length > self._max_body:
            raise self._too_large()
        encoding = request.headers.get("Content-Encoding", "")
        if encoding and encoding.lower() not in _ENCODINGS:
            raise _Refusal(415, "invalid", "unknown content encoding", {"Accept-Encoding": "gzip, deflate"})
        if self._in_flight + length > IN_FLIGHT and self._in_flight:
            raise _Refusal(503, "overloaded", "too much at once", _BUSY)
        body = bytearray()
        try:
            await self._read(request, body)
            if body and encoding and encoding.lower() != "identity":
                await self._unpack(body)
            webhook = WebhookRequest(
                request.method,
                path,
                query,
                {key.lower(): value for key, value in request.headers.items()},
                bytes(body),
                self._clock(),
            )
            return await self._process(source, webhook)
        finally:
            self._in_flight -= len(body)

    async def _read(self, request: web.BaseRequest, body: bytearray) -> None:
        """Append what arrives. Only that counts as in flight: who announces a body takes no room from others."""
        content = request.content
        try:
            if content.is_eof():  # All of it came with the head, as small bodies do.
                self._grow(body, content.read_nowait())
                return
            content.set_read_chunk_size(self._max_body)
            async with asyncio.timeout(READ_TIMEOUT):
                if "Expect" in request.headers:  # The sender waits for leave (RFC 9110 section 10.1.1).
                    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                while chunk := await content.readany():
                    self._grow(body, chunk)
        except TimeoutError:
            raise _Refusal(408, "invalid", "the body did not arrive in time") from None
        except (web.RequestPayloadError, HttpProcessingError, ClientError, ConnectionError, ValueError):
            raise _Refusal(400, "invalid", "the body was cut short") from None

    async def _unpack(self, body: bytearray) -> None:
        """Replace a compressed body by what it holds."""
        try:
            plain = await asyncio.get_running_loop().run_in_executor(self._parser, unpack, bytes(body), self._max_body)
        except ValueError:
            raise _Refusal(400, "invalid", "the body is not in the encoding it claims") from None
        self._in_flight -= len(body)
        body.clear()
        self._grow(body, plain)

    def _grow(self, body: bytearray, chunk: bytes) -> None:
        # A body may become no larger than the room it leaves, in whatever pieces it comes: many that do not end leave
        # room for small ones.
        if self._in_flight + len(body) + 2 * len(chunk) > IN_FLIGHT and self._in_flight > len(body):
            raise _Refusal(503, "overloaded", "too much at once", _BUSY)
        body += chunk
        self._in_flight += len(chunk)
        if len(body) > self._max_body:
            raise self._too_large()

    def _too_large(self) -> _Refusal:
        return _Refusal(413, "too_large", f"the body is larger than {self._max_body} bytes")

    async def _process(self, source: Source, webhook: WebhookRequest) -> tuple[str, Reply | None]:
        try:
            prepared = await self._prepare(source, webhook)
        except CertificateNeeded as e:
            # Never a 4xx, which Amazon SNS takes for an answer.
            raise _Refusal(503, "no_certificate", str(e), _BUSY) from None
        except AuthenticationError as e:
            raise _Refusal(401, "unauthorized", str(e), {"WWW-Authenticate": 'Basic realm="webhooks"'}) from None
        except ParseError as e:
            await self._quarantine(source, webhook, "unreadable", str(e))
            return "quarantined", None
        try:
            result = await self._gate.submit(prepared.batch)
        except Overloaded:
            raise _Refusal(503, "overloaded", "too much at once", _BUSY) from None
        except StoreUnavailable:
            raise _Refusal(503, "unavailable", "the store cannot commit now", _BUSY) from None
        if result.forged:
            raise _Refusal(401, "replayed", "the signature's token came with another body before")
        self._metrics.applied(source.name, result)
        if prepared.batch.events or prepared.tests:
            self._heard(source.name, webhook.received, len(prepared.batch.events))
        tests = self.doors[source.name].tests
        for reason, n in prepared.tests.items():
            self._metrics.tested(source.name, reason, n)
            tests[reason] = tests.get(reason, 0) + n
        if prepared.malformed:
            total = prepared.malformed + len(prepared.batch.events) + sum(prepared.tests.values())
            why = f"{prepared.malformed} of {total} items cannot be read"
            await self._quarantine(source, webhook, "malformed_items", why)
            return "quarantined", None
        match source.follow_up(webhook):
            case Reply() as reply:
                return "accepted", reply
            case Confirm(url=url):
                self._confirmations.begin(source.name, url)
            case Ended():
                self._note(source.name, "ended", "the vendor has ended the subscription")
        return "accepted", None

    async def _prepare(self, source: Source, webhook: WebhookRequest) -> Prepared:
        try:
            return await self._prepare_once(source, webhook)
        except CertificateNeeded as e:
            if not await self._certificates.obtain(e.url):
                raise
        source.trust(self._certificates.known)
        return await self._prepare_once(source, webhook)

    async def _prepare_once(self, source: Source, webhook: WebhookRequest) -> Prepared:
        if len(webhook.body) <= INLINE_BYTES:
            return source.prepare(webhook)
        return await asyncio.get_running_loop().run_in_executor(self._parser, source.prepare, webhook)

    async def _quarantine(self, source: Source, webhook: WebhookRequest, reason: str, why: str) -> None:
        headers = {k: webhook.headers[k] for k in ("content-type",) if k in webhook.headers}
        try:
            gone = await self._ledger.quarantine(source.name, why, webhook.body, headers, webhook.received)
        except StoreUnavailable:
            raise _Refusal(503, "unavailable", "the store cannot commit now", _BUSY) from None
        self._metrics.quarantined(source.name, reason)
        self.doors[source.name].quarantined += 1
        self._note(source.name, "quarantined", why)
        if gone:
            log.warning("quarantine.full", source=source.name, dropped=gone)

    def _note(self, name: str, outcome: str, why: str) -> None:
        """Keep an error for people, and log it unless the same was logged a moment ago: no stranger fills the log."""
        door, now = self.doors[name], self._clock()
        quarantined = outcome == "quarantined"  # Their reasons have numbers in them.
        happened = {"quarantined": "webhook.quarantined", "ended": "subscription.ended"}.get(outcome, "webhook.refused")
        if not 0 <= now - door.logged_at.get(outcome if quarantined else why, -LOG_EVERY) < LOG_EVERY:
            door.logged_at[outcome if quarantined else why] = now
            log.warning(happened, source=name, outcome=outcome, reason=why)
        door.last_error, door.last_error_at = why, now
        if outcome == "unauthorized":
            door.unauthorized_at = door.last_error_at


def _options(source: Source, request: web.BaseRequest) -> dict[str, str] | None:
    return source.answer_options({name.lower(): value for name, value in request.headers.items()})


def unpack(packed: bytes, limit: int) -> bytes:
    """What a gzip or deflate body holds; at most ``limit`` + 1 bytes of it, however large. Raises ``ValueError``."""
    for window in (_GZIP_OR_ZLIB, _RAW_DEFLATE):
        # Some call the format without a header deflate, too.
        unpacker = zlib.decompressobj(window)
        try:
            plain = unpacker.decompress(packed, limit + 1)
        except zlib.error:
            continue
        if len(plain) > limit or (unpacker.eof and not unpacker.unused_data):
            return plain
    raise ValueError("not gzip or deflate")
