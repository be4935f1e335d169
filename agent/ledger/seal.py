"""How bodies lie in quarantine: AES-GCM, under a key of its own derived from the identity key, bound to the source."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent.ledger.base import StoreUnavailable

_NONCE = 12  # bytes
_REASON = 200  # characters that are kept


class Seal:
    """Seals and opens under one key (32 bytes)."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def row(
        self, source: str, reason: str, body: bytes, headers: Mapping[str, str], now: float
    ) -> tuple[float, str, str, int, bytes]:
        """A refused request as it is stored: when it came, from whom, why, its size, and headers and body sealed."""
        nonce = secrets.token_bytes(_NONCE)
        plain = msgspec.msgpack.encode((dict(headers), body))
        return now, source, reason[:_REASON], len(body), nonce + self._cipher.encrypt(nonce, plain, source.encode())

    def open(self, quarantine_id: int, found: Sequence[Any] | None) -> tuple[dict[str, str], bytes]:
        """Headers and body out of the source and the sealed bytes that were found under a number. Raises ``KeyError``
        if nothing was, ``StoreUnavailable`` when it was altered, or sealed under another key."""
        if not found:
            raise KeyError(quarantine_id)
        source, sealed = found
        try:
            plain = self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], source.encode())
        except InvalidTag:
            raise StoreUnavailable(f"quarantined body {quarantine_id} was altered or sealed with another key") from None
        return msgspec.msgpack.decode(plain, type=tuple[dict[str, str], bytes])
