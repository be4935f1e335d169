"""What makes two reports the same event.

Event ids are not trusted: some ESPs change them on a retry, some have none. An outcome (delivered or bounced) is one
per (scope, message id, recipient); accepted, dropped, complained and unsubscribed likewise, each for itself; the
repeatable kinds add their own time and discriminator. Without a message id: the event id, then recipient and time.

The digest is a keyed BLAKE2b, so that the store holds nothing from which an address could be tried out without the key.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from math import isfinite

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agent.events import Event, Kind

DIGEST_BYTES = 12  # 96 bits: with 10^9 identities the chance of any collision is below 10^-10

# The two reports of one outcome share a mark; every other kind is its own.
_OUTCOME = "outcome"
_MARK = {kind: _OUTCOME if kind in (Kind.DELIVERED, Kind.BOUNCED) else kind.value for kind in Kind}
REPEATABLE = frozenset((Kind.DEFERRED, Kind.OPENED, Kind.CLICKED, Kind.OTHER))


def derive(key: bytes) -> tuple[bytes, bytes]:
    """Two independent keys out of the identity key: for identities, and for sealing."""
    both = HKDF(SHA256(), 64, None, b"mailvitals ledger").derive(key)
    return both[:32], both[32:]


class Identifier:
    """Turns events into digests under one key (16 to 64 bytes)."""

    def __init__(self, key: bytes) -> None:
        self._keyed = blake2b(digest_size=DIGEST_BYTES, key=key)

    def digest(self, text: str) -> bytes:
        """The keyed hash of a text, as ``DIGEST_BYTES`` bytes."""
        return self.digests((text,))[0]

    def digests(self, texts: Iterable[str]) -> list[bytes]:
        """Those of many texts."""
        copy = self._keyed.copy
        out = []
        for text in texts:
            h = copy()
            h.update(text.encode("utf-8", "surrogatepass"))
            out.append(h.digest())
        return out

    def of(self, scope: str, events: Iterable[Event]) -> list[bytes]:
        """The digests that identify events within everything ``scope`` ever reported, ``DIGEST_BYTES`` each; a
        deferral's is followed by that of its (message, recipient) pair in its UTC hour, where the pair counts once in
        the deferral rate."""
        # Hot: one pass without a call for each event, and no look at what the kind decides.
        copy = self._keyed.copy
        once = {kind: f"m\0{scope}\0{mark}\0" for kind, mark in _MARK.items() if kind not in REPEATABLE}.get
        digests = []
        for event in events:
            kind = event.kind
            beginning, message_id = once(kind), event.message_id
            if not message_id:
                text = _without_message_id(scope, event)
            elif beginning is not None:
                text = f"{beginning}{message_id}\0{event.recipient}"
            else:
                name = event.provider_event if kind == Kind.OTHER else ""
                text = (
                    f"m\0{scope}\0{_MARK[kind]}\0{message_id}\0{event.recipient}"
                    f"\0{_millis(event.at)}\0{event.discriminator}\0{name}"
                )
            h = copy()
            h.update(text.encode("utf-8", "surrogatepass"))
            digests.append(h.digest() if kind != Kind.DEFERRED else h.digest() + self._pair(scope, event))
        return digests

    def _pair(self, scope: str, event: Event) -> bytes:
        hour = _millis(event.at) // 3_600_000
        return self.digest(f"p\0{scope}\0{event.message_id or event.event_id}\0{event.recipient}\0{hour}")


def _without_message_id(scope: str, event: Event) -> str:
    if event.event_id:
        # The vendor's id already tells repeats apart.
        return f"e\0{scope}\0{_MARK[event.kind]}\0{event.event_id}\0{event.recipient}"
    return f"t\0{scope}\0{event.kind}\0{event.recipient}\0{_millis(event.at)}\0{event.discriminator}"


def _millis(at: float) -> int:
    """Unix milliseconds; 0 for a time that is no number, which no ledger accepts anyway."""
    return int(at * 1000) if isfinite(at) else 0
