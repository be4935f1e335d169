"""Who may be connected: so many at once, so many from one address, and each says what it wants in time.

aiohttp bounds the rest: 128 header fields and 8,190 bytes of each, 32 pipelined requests, and an idle connection.
"""

from __future__ import annotations

import resource
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any, Protocol

import structlog
from aiohttp import web

HEAD_TIMEOUT = 15.0  # seconds from the connection to the end of its first request's head
KEEPALIVE_TIMEOUT = 75.0  # seconds between two requests; longer than the load balancers that keep connections open
LOG_EVERY = 60.0  # seconds between two log lines that connections are refused
# Descriptors that are not webhooks' connections: store, resolver, Alertmanagers, scrapes, files.
SPARE_DESCRIPTORS = 256
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 10\r\nConnection: close\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 21\r\n\r\ntoo many connections\n"
)

log = structlog.get_logger()


class ConnectionMetrics(Protocol):
    """What connections report."""

    def connections(self, n: int) -> None:
        """So many are open now."""

    def connection_refused(self, reason: str) -> None:
        """One ended before its first request: ``full``, ``address`` (too many from it) or ``slow`` (no head)."""


class Connections(web.Server):
    """aiohttp's low-level server with an end to what strangers can hold of it."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        metrics: ConnectionMetrics,
        malformed: Callable[[], None],
        *,
        limit: int,
        per_address: int,
        **options: Any,
    ) -> None:
        """``malformed`` is told of each request that is no HTTP; ``options`` are aiohttp's."""
        super().__init__(handler, keepalive_timeout=KEEPALIVE_TIMEOUT, **options)
        self.malformed = malformed
        self._metrics = metrics
        self._limit = limit
        self._per_address = per_address
        # By address, of an IPv6 address by its /64: as many as there are connections at most.
        self._of: dict[str, int] = {}
        self._open = 0
        self._logged_at = float("-inf")

    def __call__(self) -> web.RequestHandler:
        """What serves one connection; asked for by the event loop."""
        return _Connection(self, loop=self._loop, **self._kwargs)

    def admit(self, address: str) -> bool:
        """Take in a connection from an address, which ``leave`` gives back; or count that there is no room."""
        from_it = self._of.get(address, 0)
        if self._open >= self._limit or from_it >= self._per_address:
            self.refused("full" if self._open >= self._limit else "address")
            return False
        self._of[address] = from_it + 1
        self._open += 1
        self._metrics.connections(self._open)
        return True

    def leave(self, address: str) -> None:
        """An admitted connection has ended."""
        self._open -= 1
        left = self._of.pop(address) - 1
        if left:
            self._of[address] = left
        self._metrics.connections(self._open)

    def refused(self, reason: str) -> None:
        """Count a connection that did not come to a request."""
        self._metrics.connection_refused(reason)
        if reason != "slow" and (now := self._loop.time()) - self._logged_at >= LOG_EVERY:
            self._logged_at = now
            log.warning("connections.refused", reason=reason, open=self._open)


class _Connection(web.RequestHandler):
    __slots__ = ("_address", "_late", "_server")

    def __init__(self, server: Connections, **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server
        self._address: str | None = None
        self._late: Any = None

    def connection_made(self, transport: Any) -> None:
        address = network((transport.get_extra_info("peername") or ("",))[0])
        if not self._server.admit(address):
            self._force_close = True
            transport.write(_FULL)
            transport.close()
            return
        self._address = address
        self._late = self._loop.call_later(HEAD_TIMEOUT, self._end_if_late)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._late:
            self._late.cancel()
        super().connection_lost(exc)
        if self._address is not None:
            self._server.leave(self._address)
            self._address = None

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What aiohttp says of a request that it cannot read, without the words of the request."""
        if status == 400:
            self._server.malformed()
        else:
            log.error("request.failed", exc_info=exc)
        text = "not a request\n" if status == 400 else "failed\n"
        response = web.Response(status=status, text=text, headers={"Server": "mailvitals"})
        response.force_close()
        return response

    def _end_if_late(self) -> None:
        self._late = None
        if not self._request_count:
            self._server.refused("slow")
            self.force_close()


def network(address: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 of an IPv6 one, which is one customer's."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if ip.version == 6 and ip.ipv4_mapped is None:
        return ip.exploded[:19]
    return str(ip.ipv4_mapped if ip.version == 6 else ip)


def affordable(connections: int) -> int:
    """As many of the connections as this process has file descriptors for, after asking for all that it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (ValueError, OSError):
            pass  # Some systems bound it below what they call the hard limit.
    if soft == resource.RLIM_INFINITY or soft - SPARE_DESCRIPTORS >= connections:
        return connections
    most = max(16, soft - SPARE_DESCRIPTORS)
    log.warning("connections.limited", limit=most, wanted=connections, descriptors=soft)
    return most
