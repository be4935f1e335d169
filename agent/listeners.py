"""An agent's two listeners, opened together and closed together; and whether the event loop that serves them turns."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from agent.intake.connections import KEEPALIVE_TIMEOUT, affordable
from agent.intake.http import Intake
from agent.settings import Listen
from agent.views.tls import ServerTls

SHUTDOWN_REQUESTS = 10.0  # seconds that webhooks under way may take to finish
SHUTDOWN_VIEWS = 2.0
PROBE_EVERY = 5.0  # seconds between two looks at what readiness tells of
LAG_EVERY = 0.5
STUCK_AFTER = 30.0  # seconds without a turn of the event loop: not alive


def private_tls(listen: Listen) -> ServerTls | None:
    """The TLS that the private listener is to have. Raises ``OSError`` for files that cannot be used."""
    tls = listen.private_tls
    return ServerTls(tls.certificate, tls.key, tls.client_ca or "") if tls else None


@asynccontextmanager
async def listening(
    listen: Listen, intake: Intake, private: web.Application, tls: ServerTls | None
) -> AsyncIterator[tuple[web.ServerRunner, dict[str, str]]]:
    """Serve on both, and close the intake with them. Gives the runner of the public one, whose ``cleanup`` ends it
    before the other, and the addresses that were bound, by ``public`` and ``private``. Raises ``OSError`` when an
    address cannot be bound."""
    most = affordable(listen.max_connections)
    server = intake.server(connections=most, per_address=min(most, listen.max_connections_per_address))
    webhooks = web.ServerRunner(server, handle_signals=False, shutdown_timeout=SHUTDOWN_REQUESTS)
    views = web.AppRunner(
        private, handle_signals=False, access_log=None, shutdown_timeout=SHUTDOWN_VIEWS,
        keepalive_timeout=KEEPALIVE_TIMEOUT,
    )  # fmt: skip
    try:
        addresses = {
            "private": await _open(views, listen.private, "private", tls.context if tls else None),
            "public": await _open(webhooks, listen.public, "public"),
        }
        yield webhooks, addresses
    finally:
        # Orderly ends have closed the public one: until now, probes and a last scrape have seen "not ready".
        await views.cleanup()
        await webhooks.cleanup()
        intake.close()


async def _open(runner: web.BaseRunner, address: str, name: str, tls: ssl.SSLContext | None = None) -> str:
    host, _, port = address.rpartition(":")
    await runner.setup()
    try:
        site = web.TCPSite(runner, host.strip("[]"), int(port), backlog=1024, ssl_context=tls)
        await site.start()
    except OSError as e:
        raise OSError(e.errno, f"listen.{name}: cannot listen on {address}: {e.strerror or e}") from None
    bound: socket.socket = next(iter(site._server.sockets))  # type: ignore[union-attr] # the port when 0 was asked for
    return f"{host}:{bound.getsockname()[1]}"


class LoopWatch:
    """How late the event loop gives turns, told to ``report`` in seconds."""

    def __init__(self, report: Callable[[float], None]) -> None:
        self._report = report
        self._turned = time.monotonic()

    async def run(self) -> None:
        while True:
            due = time.monotonic() + LAG_EVERY
            await asyncio.sleep(LAG_EVERY)
            self._turned = time.monotonic()
            self._report(max(0.0, self._turned - due))

    def healthy(self) -> tuple[bool, str]:
        """Whether it turned lately, and if not, what is wrong."""
        behind = time.monotonic() - self._turned
        return (True, "") if behind < STUCK_AFTER else (False, f"the event loop is {behind:.0f} s behind")
