"""Telling Alertmanagers what is open: API v2, one state per Alertmanager, sent again and again.

Alertmanager forgets its alerts when it restarts and drops those that nobody repeats. So nothing is queued: each
endpoint holds the newest state of every incident and sends all of it every ``resend`` seconds and whenever something
opens or ends. Every member of a cluster is told by itself, as its documentation asks.

Of several agents one speaks. Alertmanager takes whatever comes last, so nothing leaves after the sender's lease: what
was frozen or held up on its way is not sent when it comes to, and not delivered late by the kernel.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
import msgspec
import structlog
from aiohttp.abc import AbstractStreamWriter

from agent.alerts.incidents import identity
from agent.alerts.types import Incident
from agent.events import mask_addresses

log = structlog.get_logger()

_BATCH = 256
_LONGEST = 10.0  # seconds a request may take
_TIMEOUT = aiohttp.ClientTimeout(connect=5)
_FIRST_RETRY = 1.0
# Answers that speak of an alert and not of the request: the same alert would be refused again.
_BAD_ALERT = (400, 422)
# As Prometheus does it: so many missed repeats, and Alertmanager takes a firing alert as resolved.
_HORIZON = 4
# And longer than another agent needs to lead, than an upgrade, and than most failures of a store, while which nobody
# speaks: an alert that ended meanwhile would be told twice, and its end would be false.
_LEAST_HORIZON = 1800.0


class Endpoint(msgspec.Struct, frozen=True):
    """One Alertmanager: base URL (with its path, if it is served under one) and at most one way to authenticate:
    ``token`` as a bearer, or ``username`` and ``password``."""

    url: str
    token: str = ""
    username: str = ""
    password: str = ""

    @property
    def label(self) -> str:
        """The URL without credentials, for people, logs and metrics."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


class Delivery(msgspec.Struct, frozen=True):
    """How it goes with one Alertmanager. ``last_success_at`` is Unix seconds, 0 = never; ``last_error`` is ``""``
    when the last try succeeded."""

    url: str
    last_success_at: float
    last_error: str


class Notifier:
    """Keeps every Alertmanager informed. ``run`` does the work; ``update`` hands over what to tell.

    ``on_result(url, outcome)`` is called with ``sent`` for each request that carried alerts and was taken, with
    ``failed`` for each try that was not, and with ``rejected`` once per alert that an Alertmanager will not take.
    ``clock`` gives Unix seconds. ``lease()`` is for how many seconds this process may speak: at 0 no alert goes out,
    only the empty batch that shows whether an Alertmanager can be reached.
    """

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        *,
        resend: float = 60.0,
        lease: Callable[[], float] = lambda: _LONGEST,
        on_result: Callable[[str, str], None] = lambda url, outcome: None,
        clock: Callable[[], float] = time.time,
        generator_url: str = "",
    ) -> None:
        self._channels = [
            _Channel(e, resend, on_result, clock=clock, generator_url=generator_url, lease=lease) for e in endpoints
        ]

    def update(self, incidents: Iterable[Incident]) -> None:
        """Replace what is told by this. Never waits. What opened, ended or vanished goes out at once; new
        annotations go with the next repeat."""
        state = {identity(incident.labels): incident for incident in incidents}
        for channel in self._channels:
            channel.update(state)

    def status(self) -> list[Delivery]:
        """How it goes with each Alertmanager, in the order they were given."""
        return [Delivery(c.label, c.last_success_at, c.last_error) for c in self._channels]

    async def run(self) -> None:
        """Send until cancelled. Says nothing on the way out: an alert outlives a restart by its horizon."""
        connector = aiohttp.TCPConnector(socket_factory=_socket)
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT, connector=connector) as session,
            asyncio.TaskGroup() as group,
        ):
            for channel in self._channels:
                group.create_task(channel.run(session))


class _Failed(Exception):
    """This try did not succeed; a later one may."""


class _Body(aiohttp.BytesPayload):
    """Alerts that leave within the lease: the time for a connection may have used it up."""

    def __init__(self, alerts: bytes, lease: Callable[[], float]) -> None:
        super().__init__(alerts, content_type="application/json")
        self._lease = lease

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        if self._lease() <= 0:
            raise _Failed("no longer the leader")
        await super().write_with_length(writer, content_length)


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """One that forgets at its end what has not arrived: else a network that was cut would bring it minutes later."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return made


class _Channel:
    """One Alertmanager, the state it should know, and what it said."""

    def __init__(
        self,
        endpoint: Endpoint,
        resend: float,
        on_result: Callable[[str, str], None],
        *,
        clock: Callable[[], float],
        generator_url: str,
        lease: Callable[[], float],
    ) -> None:
        url = urlsplit(endpoint.url)
        username = endpoint.username or unquote(url.username or "")
        password = endpoint.password or unquote(url.password or "")
        self.label = endpoint.label
        self.target = f"{self.label}/api/v2/alerts"
        self.headers = {}
        if endpoint.token:
            self.headers["Authorization"] = f"Bearer {endpoint.token}"
        elif username:
            self.headers["Authorization"] = aiohttp.encode_basic_auth(username, password)
        self.resend, self.on_result, self.clock, self.generator_url = resend, on_result, clock, generator_url
        self.lease = lease
        self.state: dict[str, Incident] = {}
        self.rejected: set[str] = set()
        self.changed = asyncio.Event()
        self.last_success_at, self.last_error = 0.0, ""

    def update(self, state: dict[str, Incident]) -> None:
        if _outline(state) != _outline(self.state):
            self.changed.set()
        self.state = state
        self.rejected &= state.keys()

    async def run(self, session: aiohttp.ClientSession) -> None:
        failures = 0
        while True:
            self.changed.clear()
            if await self._tell(session):
                failures = 0
                try:
                    async with asyncio.timeout(self.resend):
                        await self.changed.wait()
                except TimeoutError:
                    pass
            else:
                # Not cut short by changes: an Alertmanager in trouble is not helped by more requests.
                pause = min(self.resend, _FIRST_RETRY * 2.0 ** min(failures, 16))
                failures += 1
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads retries, hides nothing

    async def _tell(self, session: aiohttp.ClientSession) -> bool:
        """Send the whole state. Whether it arrived (what was rejected counts as dealt with)."""
        state = self.state if self.lease() > 0 else {}
        wanted = [(key, incident) for key, incident in state.items() if key not in self.rejected]
        try:
            # With nothing to tell an empty batch goes out: a wrong address or password shows before it matters.
            for start in range(0, max(len(wanted), 1), _BATCH):
                batch = wanted[start : start + _BATCH]
                # A batch is not atomic: its good alerts may have been taken. Only one by one can the bad one be told.
                if await self._post(session, [incident for _, incident in batch]):
                    for key, incident in batch:
                        await self._tell_one(session, key, incident)
        except _Failed as failed:
            self.on_result(self.label, "failed")
            if str(failed) != self.last_error:
                log.warning("alertmanager_unreachable", alertmanager=self.label, error=str(failed))
            self.last_error = str(failed)
            return False
        if self.last_error:
            log.info("alertmanager_reachable_again", alertmanager=self.label)
        self.last_success_at, self.last_error = self.clock(), ""
        return True

    async def _tell_one(self, session: aiohttp.ClientSession, key: str, incident: Incident) -> None:
        problem = await self._post(session, [incident])
        if problem:
            self.rejected.add(key)
            self.on_result(self.label, "rejected")
            log.error("alert_rejected", alertmanager=self.label, labels=incident.labels, error=problem)

    async def _post(self, session: aiohttp.ClientSession, incidents: Sequence[Incident]) -> str:
        """``""`` when taken, what was said when an alert is bad. Raises ``_Failed`` for everything else."""
        body = msgspec.json.encode([self._alert(incident) for incident in incidents])
        lease = self.lease if incidents else lambda: _LONGEST
        try:
            async with (
                asyncio.timeout(min(lease(), _LONGEST)),
                session.post(
                    self.target, data=_Body(body, lease), headers=self.headers, allow_redirects=False
                ) as response,
            ):
                said = await response.content.read(2000)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _Failed(f"{type(error).__name__}: {error}".rstrip(": ")) from error
        if response.status in _BAD_ALERT:
            return mask_addresses(said.decode("utf-8", "replace").strip()) or f"HTTP {response.status}"
        if not 200 <= response.status < 300:
            raise _Failed(f"HTTP {response.status} {response.reason or ''}".rstrip())
        if incidents:
            self.on_result(self.label, "sent")
        return ""

    def _alert(self, incident: Incident) -> dict[str, Any]:
        # An explicit end is needed in either case: a firing alert must run out if the agent stays away, and a later
        # end cannot be shortened afterwards, so it is kept near.
        horizon = self.clock() + max(_HORIZON * self.resend, _LEAST_HORIZON)
        alert = {
            "labels": incident.labels,
            "annotations": incident.annotations,
            "startsAt": _rfc3339(incident.starts_at),
            "endsAt": _rfc3339(max(incident.resolved_at, incident.starts_at) if incident.resolved_at else horizon),
        }
        if self.generator_url:
            alert["generatorURL"] = self.generator_url
        return alert


def _outline(state: dict[str, Incident]) -> dict[str, tuple[float, float]]:
    """What makes a state worth telling at once."""
    return {key: (incident.starts_at, incident.resolved_at) for key, incident in state.items()}


def _rfc3339(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
