"""Postal webhooks (self-hosted): one event per request, signed with the installation's RSA key.

Source: the source code of Postal. The signature is RSA PKCS#1 v1.5 (RFC 8017 section 8.2) over the body, with SHA-256
and, for older receivers, with SHA-1. No time is signed.
"""

from __future__ import annotations

import re
from base64 import b64decode
from functools import lru_cache

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

from agent.classify import classify, parse_reply
from agent.events import BounceClass, Event, Kind, reason_text
from agent.providers.base import (
    AuthenticationError,
    Credentials,
    Parsed,
    ParseError,
    WebhookRequest,
    address_in,
    as_time,
    domain_in,
    event_name,
    load_json,
    salvage,
    secrets,
)

CREDENTIALS: tuple[tuple[str, ...], ...] = (("public_key",),)
REPLAY_WINDOW = 0.0

_SIGNATURE, _SIGNATURE_256 = "x-postal-signature", "x-postal-signature-256"
_LEAST_BITS = 1024
_KEY_IN_RECORD = re.compile(r"(?:\A|;)\s*p\s*=\s*([^;]*)")


@lru_cache(maxsize=64)
def _load_key(text: str) -> RSAPublicKey | None:
    """The RSA key in a DKIM record, in base64 DER or in PEM; ``None`` for everything else and for keys under 1,024
    bits."""
    text = text.replace("\\n", "\n").replace('"', "").strip()
    try:
        if text.startswith("-----BEGIN"):
            key = load_pem_public_key(text.encode("ascii"))
        else:
            record = _KEY_IN_RECORD.search(text)
            key = load_der_public_key(b64decode("".join((record[1] if record else text).split()), validate=True))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, RSAPublicKey) and key.key_size >= _LEAST_BITS else None


def validate_credentials(credentials: Credentials) -> str | None:
    """A sentence when a configured ``public_key`` is not an RSA public key."""
    if all(_load_key(key) for key in secrets(credentials, "public_key")):
        return None
    return "public_key is not an RSA public key as in Postal's default DKIM record, in base64 (DER) or in PEM"


def authenticate(request: WebhookRequest, credentials: Credentials) -> None:
    """Check the SHA-256 signature against every live ``public_key``; that with SHA-1 only when it is the only one."""
    signature = request.header(_SIGNATURE_256)
    algorithm: SHA1 | SHA256 = SHA256()
    if not signature:
        signature, algorithm = request.header(_SIGNATURE), SHA1()  # noqa: S303 - all that older installations send
    if not signature:
        raise AuthenticationError("signature headers missing")
    try:
        given = b64decode(signature, validate=True)
    except ValueError:
        raise AuthenticationError("signature is not base64") from None
    for text in secrets(credentials, "public_key"):
        if (key := _load_key(text)) is not None:
            try:
                key.verify(given, request.body, PKCS1v15(), algorithm)
            except (InvalidSignature, ValueError):
                continue
            return
    raise AuthenticationError("signature does not match")


class _Message(msgspec.Struct, gc=False):
    token: str | None = None
    direction: str | None = None
    message_id: str | None = None
    to: str | None = None
    sender: str | None = msgspec.field(name="from", default=None)
    tag: str | None = None


class _Payload(msgspec.Struct, gc=False):
    message: _Message | None = None
    original_message: _Message | None = None
    bounce: object = None
    details: str | None = None
    output: str | None = None
    timestamp: str | float | None = None
    url: str | None = None


class _Record(msgspec.Struct, gc=False):
    """The fields that matter, as documented; what does not fit is read again by ``salvage``."""

    event: str | None = None
    timestamp: str | float | None = None
    payload: _Payload | None = None
    uuid: str | None = None


_decode = msgspec.json.Decoder(_Record).decode

_KINDS = {
    "MessageSent": Kind.DELIVERED,
    "MessageDelayed": Kind.DEFERRED,
    "MessageDeliveryFailed": Kind.BOUNCED,
    "MessageHeld": Kind.DEFERRED,
    "MessageBounced": Kind.BOUNCED,
    "MessageLoaded": Kind.OPENED,
    "MessageLinkClicked": Kind.CLICKED,
}
_WITH_REASON = frozenset({Kind.BOUNCED, Kind.DEFERRED, Kind.DROPPED})
# What Postal refuses by itself is told as a failed delivery, too.
_NEVER_SENT = re.compile(r"domain no longer exist|doesn't have an RCPT|is likely spam\. Threshold", re.IGNORECASE)
_SUPPRESSED = re.compile(r"suppression list", re.IGNORECASE)


def parse(request: WebhookRequest) -> Parsed:
    """The one event of the record; none when it is about incoming mail, of which Postal tells in the same words."""
    record = _read(request.body)
    name, payload = (record.event or "").strip(), record.payload or _Payload()
    at = as_time(record.timestamp) or as_time(payload.timestamp)
    if not name or at is None:
        return Parsed(malformed=1)
    # An asynchronous bounce is known by what it holds: it has been seen under the name of another event.
    later = isinstance(payload.bounce, dict)
    message = (payload.original_message if later else payload.message) or _Message()
    if message.direction == "incoming":
        return Parsed()

    kind, bounce_class = Kind.BOUNCED if later else _KINDS.get(name, Kind.OTHER), None
    details, output = payload.details or "", payload.output or ""
    if (kind is Kind.BOUNCED and not later and _is_drop(details, output)) or (
        name == "MessageHeld" and _SUPPRESSED.search(details)
    ):
        kind = Kind.DROPPED
    smtp_code, enhanced_code, reason = None, "", ""
    if kind in _WITH_REASON:
        smtp_code, enhanced_code = parse_reply(output)
        reason = reason_text(output or details)
    if kind is Kind.BOUNCED:
        bounce_class = BounceClass.UNDETERMINED if later else classify(output or details, smtp_code, enhanced_code)
    event = Event(
        kind,
        at,
        address_in(message.to or ""),
        (message.message_id or message.token or "").strip("<> ")[:512],
        (record.uuid or "")[:512],
        bounce_class,
        domain_in(message.sender or ""),
        "",
        (message.tag,) if message.tag else (),
        smtp_code,
        enhanced_code,
        reason,
        name if name in _KINDS else event_name(name),
        later or name == "MessageBounced",
        (payload.url or "") if kind is Kind.CLICKED else "",
    )
    return Parsed((event,))


def _is_drop(details: str, output: str) -> bool:
    """Whether a failed delivery never was one. That a refusal put the recipient on the suppression list is told in the
    same field, so the list counts only when no server has answered."""
    return bool(_NEVER_SENT.search(details) or (not output and _SUPPRESSED.search(details)))


def _read(body: bytes) -> _Record:
    try:
        return _decode(body)
    except (ValueError, RecursionError):
        record = salvage(load_json(body), _Record)
    if record is None:
        raise ParseError("body is not a JSON object")
    return record
