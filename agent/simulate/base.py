"""What a simulated ESP is: how it words its reports and how it proves that they are its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

import msgspec

from agent.providers.base import Credentials
from agent.simulate.retry import Schedule
from agent.simulate.traffic import Item, Voice


class Request(msgspec.Struct, frozen=True):
    """One request body with the number of reports in it, and when (Unix seconds) the ESP sends it."""

    body: bytes
    reports: int
    emitted_at: float


class KeyPair(NamedTuple):
    """``signing`` is what ``sign`` needs, ``settings`` what belongs into the source's settings."""

    signing: Credentials
    settings: Credentials


class Simulator(Protocol):
    """What ``SIMULATORS`` maps a provider id to (modules satisfy it)."""

    @property
    def VOICE(self) -> Voice:  # noqa: N802 - a module constant
        """What this vendor's reports say and leave out."""

    @property
    def RETRY(self) -> Schedule:  # noqa: N802 - a module constant
        """What the vendor does with a request that was not taken."""

    def requests(self, items: Iterable[Item], batch: int) -> Iterator[Request]:
        """Bodies as the vendor posts them, in order; at most ``batch`` reports each where it batches at all."""

    def sign(self, body: bytes, credentials: Credentials, now: float) -> dict[str, str]:
        """The request's headers, authentication included. ``now`` is Unix seconds.
        Raises ``ValueError`` when the credentials cannot sign."""

    def new_credentials(self) -> KeyPair:
        """Fresh credentials for both ends."""


def sealed(simulator: Simulator, body: bytes, credentials: Credentials, now: float) -> bytes:
    """The body as it is posted. Vendors that put their proof into the body have a ``sign_body``, which completes it;
    all others post what ``requests`` gives. Raises ``ValueError`` when the credentials cannot sign."""
    sign_body: Callable[[bytes, Credentials, float], bytes] | None = getattr(simulator, "sign_body", None)
    return body if sign_body is None else sign_body(body, credentials, now)
