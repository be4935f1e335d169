"""How bodies lie in quarantine: AES-GCM, under a key of its own derived from the identity key, bound to the source."""

from __future__ import annotations

import secrets

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent.ledger.base import StoreUnavailable

_NONCE = 12  # bytes


class Seal:
    """Seals and opens under one key (32 bytes)."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def close(self, source: str, headers: dict[str, str], body: bytes) -> bytes:
        """Headers and body of a request of ``source``, sealed."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, msgspec.msgpack.encode((headers, body)), source.encode())

    def open(self, quarantine_id: int, source: str, sealed: bytes) -> tuple[dict[str, str], bytes]:
        """What was sealed. Raises ``StoreUnavailable`` when it was altered, or sealed under another key."""
        try:
            plain = self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], source.encode())
        except InvalidTag:
            raise StoreUnavailable(f"quarantined body {quarantine_id} was altered or sealed with another key") from None
        return msgspec.msgpack.decode(plain, type=tuple[dict[str, str], bytes])
