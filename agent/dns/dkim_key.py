"""DKIM public keys as they are published: the record's tags and the key's size (RFC 6376 section 3.6.1, RFC 8301,
RFC 8463)."""

from __future__ import annotations

import re
from base64 import b64decode
from functools import lru_cache

import msgspec

from agent.dns import taglist

_RSA = bytes.fromhex("2a864886f70d010101")  # the object identifier rsaEncryption, 1.2.840.113549.1.1.1


class KeyRecordError(ValueError):
    """The record holds no usable key. ``reason`` is a reason code of the check, ``args[0]`` a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class DkimKey(msgspec.Struct, frozen=True):
    """``type`` is ``rsa`` or ``ed25519``, ``bits`` the modulus length (256 for Ed25519), ``testing`` the flag ``t=y``,
    ``strict`` the flag ``t=s`` (the signer's ``i=`` must be ``d=`` itself), ``late_version`` tells that ``v=`` is not
    the first tag."""

    type: str
    bits: int
    testing: bool = False
    late_version: bool = False
    strict: bool = False


class _Truncated(ValueError):
    pass


def read(text: str) -> DkimKey:
    """The key of one TXT record. Raises ``KeyRecordError``."""
    return _read_kept(text) if len(text) <= _KEPT_LENGTH else _read(text)


def _read(text: str) -> DkimKey:
    if "\\;" in text or text[:1] == '"':
        raise KeyRecordError(
            "key_undecodable", "the record holds quotes or backslashes that belong to the zone file only"
        )
    try:
        tags = taglist.parse(text)
    except taglist.TagListError as e:
        raise KeyRecordError("key_undecodable", f"the record is no DKIM key: {e}") from e
    if again := taglist.repeated(tags):
        raise KeyRecordError("key_undecodable", f"the tag {again[0]}= stands in it twice")
    values = dict(tags)
    if values.get("v", "DKIM1") != "DKIM1":
        raise KeyRecordError("key_undecodable", f"v={values['v'][:40]} is not v=DKIM1")
    if "p" not in values:
        raise KeyRecordError("key_undecodable", "the record has no p= tag")
    if not values["p"]:
        raise KeyRecordError("key_revoked", "the key is revoked (empty p=)")
    if "h" in values and "sha256" not in _list(values["h"]):
        raise KeyRecordError("hash_unusable", f"h={values['h'][:40]} excludes sha256, the only hash still valid")
    if "s" in values and not {"*", "email"} & set(_list(values["s"])):
        raise KeyRecordError("service_excluded", f"s={values['s'][:40]} excludes e-mail")
    flags = _list(values.get("t", ""))
    late = "v" in values and tags[0][0] != "v"
    kind = values.get("k", "rsa").lower()
    if kind not in ("rsa", "ed25519"):
        raise KeyRecordError("key_undecodable", f"k={kind[:40]} is no key type that verifiers know")
    return DkimKey(kind, _bits(kind, re.sub(r"\s+", "", values["p"]), len(text)), "y" in flags, late, "s" in flags)


# Several checks read the same key.
_KEPT_LENGTH = 1500
_read_kept = lru_cache(1024)(_read)


def _list(value: str) -> list[str]:
    return [item.strip().lower() for item in value.split(":")]


def _bits(kind: str, encoded: str, length: int) -> int:
    try:
        if len(encoded.rstrip("=")) % 4 == 1 or (len(encoded) % 4 and length >= 250):
            raise _Truncated
        data = b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        if kind == "ed25519":
            if len(data) != 32:
                raise ValueError("not 32 octets")
            return 256
        modulus, exponent = _rsa(data)
    except _Truncated as e:
        raise KeyRecordError("key_truncated", f"the key ends too early, the record has {length} octets") from e
    except ValueError as e:
        raise KeyRecordError("key_undecodable", "p= does not decode to a public key") from e
    if exponent < 3 or not exponent % 2 or not modulus % 2:
        raise KeyRecordError("key_undecodable", "p= holds no sound RSA key")
    return modulus.bit_length()


def _rsa(data: bytes) -> tuple[int, int]:
    """Modulus and exponent of an RSAPublicKey, bare (as the RFC says) or in a SubjectPublicKeyInfo (as all publish)."""
    body = _element(data, 0x30)[0]
    if body[:1] == b"\x30":
        algorithm, rest = _element(body, 0x30)
        if _element(algorithm, 0x06)[0] != _RSA:
            raise ValueError("not RSA")
        bits = _element(rest, 0x03)[0]
        body = _element(bits[1:], 0x30)[0]
    modulus, rest = _element(body, 0x02)
    exponent = _element(rest, 0x02)[0]
    return int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big")


def _element(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """The content of the first DER element and what follows it."""
    if len(data) < 2:
        raise _Truncated
    if data[0] != tag:
        raise ValueError("unexpected element")
    length, start = data[1], 2
    if length & 0x80:
        octets = length & 0x7F
        if not 1 <= octets <= 4:
            raise ValueError("bad length")
        start += octets
        length = int.from_bytes(data[2:start], "big")
    if len(data) < start + length:
        raise _Truncated
    return data[start : start + length], data[start + length :]
