"""Twilio SendGrid Event Webhook.

Source: docs "Event Webhook Reference" and "Event Webhook Security Features" of Twilio SendGrid. A request carries a
JSON array of events of all types. It is signed with ECDSA (P-256, SHA-256) over the timestamp header and the body.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from functools import lru_cache

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

from agent.classify import explain, is_enhanced_code, mailbox_full, parse_reply
from agent.events import BounceClass, Event, Kind, mask_addresses, reason_text
from agent.providers.base import (
    MAX_TIME,
    AuthenticationError,
    Credentials,
    Parsed,
    ParseError,
    WebhookRequest,
    as_text,
    as_time,
    load_json,
    secrets,
)

CREDENTIALS: tuple[tuple[str, ...], ...] = (("verification_key",),)
# SendGrid retries for 24 hours, and whether a retry is signed anew is not documented.
REPLAY_WINDOW = 86400.0
# Whom the test button's events are about, and where SendGrid throws mail away that tests the speed of sending.
TEST_RECIPIENTS = frozenset({"example@test.com", "sink.sendgrid.net"})

_SIGNATURE = "x-twilio-email-event-webhook-signature"
_TIMESTAMP = "x-twilio-email-event-webhook-timestamp"
_CLOCK_SKEW = 600.0
_ECDSA = ECDSA(SHA256())


@lru_cache(maxsize=64)
def _load_key(text: str) -> EllipticCurvePublicKey | None:
    """The P-256 key in base64 DER or PEM; ``None`` for everything else."""
    text = text.replace("\\n", "\n").strip()
    try:
        if text.startswith("-----BEGIN"):
            key = load_pem_public_key(text.encode("ascii"))
        else:
            key = load_der_public_key(b64decode("".join(text.split()), validate=True))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1) else None


def validate_credentials(credentials: Credentials) -> str | None:
    """A sentence when a configured ``verification_key`` is not a P-256 public key."""
    if all(_load_key(key) for key in secrets(credentials, "verification_key")):
        return None
    return "verification_key is not a P-256 public key in base64 (DER) or PEM, as SendGrid shows it"


def authenticate(request: WebhookRequest, credentials: Credentials) -> None:
    """Check the ECDSA signature against every live ``verification_key``, and the age of the signed timestamp."""
    signature, timestamp = request.header(_SIGNATURE), request.header(_TIMESTAMP)
    if not signature or not timestamp:
        raise AuthenticationError("signature headers missing")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 16):
        raise AuthenticationError("signed timestamp is not a number")
    if not -_CLOCK_SKEW <= request.received - int(timestamp) <= REPLAY_WINDOW:
        raise AuthenticationError("signed timestamp outside the accepted age")
    try:
        der = b64decode(signature, validate=True)
    except ValueError:
        raise AuthenticationError("signature is not base64") from None
    signed = timestamp.encode("ascii") + request.body
    for text in secrets(credentials, "verification_key"):
        if (key := _load_key(text)) is not None:
            try:
                key.verify(der, signed, _ECDSA)
            except (InvalidSignature, ValueError):
                continue
            return
    raise AuthenticationError("signature does not match")


class _Item(msgspec.Struct, gc=False):
    """The fields that matter, as documented; what does not fit is read again by ``_tolerant``."""

    event: str
    timestamp: float
    email: str | None = None
    sg_event_id: str | None = None
    sg_message_id: str | None = None
    smtp_id: str | None = msgspec.field(name="smtp-id", default=None)
    category: str | list[str] | None = None
    from_domain: str | None = None
    reason: str | None = None
    response: str | None = None
    status: str | None = None
    type: str | None = None
    bounce_classification: str | None = None
    attempt: str | int | None = None
    url: str | None = None


_decode_all = msgspec.json.Decoder(list[_Item]).decode
_decode_one = msgspec.json.Decoder(_Item).decode
_split = msgspec.json.Decoder(list[msgspec.Raw]).decode

_BOUNCED, _DEFERRED, _CLICKED = Kind.BOUNCED, Kind.DEFERRED, Kind.CLICKED
_KINDS = {
    "processed": Kind.ACCEPTED,
    "delivered": Kind.DELIVERED,
    "deferred": Kind.DEFERRED,
    "bounce": Kind.BOUNCED,
    "dropped": Kind.DROPPED,
    "open": Kind.OPENED,
    "click": Kind.CLICKED,
    "spamreport": Kind.COMPLAINED,
    "unsubscribe": Kind.UNSUBSCRIBED,
    "group_unsubscribe": Kind.UNSUBSCRIBED,
}
_WITH_REASON = frozenset({Kind.BOUNCED, Kind.DEFERRED, Kind.DROPPED})
# By the beginning of the classification: the API spells some of them longer than the webhook.
_CLASSES = (
    ("reputation", BounceClass.BLOCK),
    ("content", BounceClass.BLOCK),
    ("frequency", BounceClass.BLOCK),
    ("technical", BounceClass.SOFT),
    ("invalid", BounceClass.HARD),
)


def parse(request: WebhookRequest) -> Parsed:
    """The events of the array. Recipients are lower case; an asynchronous bounce carries no message id."""
    try:
        items: Sequence[_Item | None] = _decode_all(request.body)
    except (ValueError, RecursionError):
        items = _read_one_by_one(request.body)
    parsed = Parsed()
    add, kinds = parsed.append, _KINDS
    for item in items:
        # This loop is the hot path: no call that most events do not need; only failures are looked into.
        at: float | None = None
        if item is not None and not 0 < (at := item.timestamp) < MAX_TIME:
            at = as_time(at)
        if item is None or at is None or not (name := item.event):
            parsed.malformed += 1
            continue
        kind = kinds.get(name)
        if kind is None:
            kind, name = Kind.OTHER, mask_addresses(name[:256])[:64]
        message_id = (item.sg_message_id or "")[:512]
        domain = item.from_domain
        if domain:
            domain = domain.strip().lower()[:253]
        elif item.smtp_id:
            domain = _own_domain(item.smtp_id)
        bounce_class, smtp_code, enhanced_code, reason, discriminator = _NO_FAILURE
        if kind in _WITH_REASON:
            kind, bounce_class, smtp_code, enhanced_code, reason, discriminator = _failure(item, kind)
        category = item.category
        add(
            Event(
                kind,
                at,
                (item.email or "").strip().lower()[:512],
                message_id,
                (item.sg_event_id or "")[:512],
                bounce_class,
                domain or "",
                "",
                () if not category else (category,) if isinstance(category, str) else tuple(category[:32]),
                smtp_code,
                enhanced_code,
                reason,
                name,
                kind is _BOUNCED and not message_id,
                (item.url or "") if kind is _CLICKED else discriminator,
            )
        )
    return parsed


_Failure = tuple[BounceClass | None, int | None, str, str, str]
_NO_FAILURE: _Failure = (None, None, "", "", "")


def _failure(item: _Item, kind: Kind) -> tuple[Kind, BounceClass | None, int | None, str, str, str]:
    """What a bounce, drop or deferral is, and what it says beyond the others: class, codes, masked remote text, number
    of attempt."""
    text = item.reason or item.response or ""
    smtp_code, enhanced_code = parse_reply(text)
    status = (item.status or "").strip()
    if is_enhanced_code(status):
        enhanced_code = status
    bounce_class = None
    if kind is _BOUNCED:
        bounce_class = _known_class(item, text, smtp_code, enhanced_code)
        if bounce_class is None:
            kind, bounce_class = explain(text, smtp_code, enhanced_code).meaning
    attempt = as_text(item.attempt)[:64] if kind is _DEFERRED else ""
    return kind, bounce_class, smtp_code, enhanced_code, reason_text(text), attempt


def _known_class(item: _Item, text: str, smtp_code: int | None, enhanced_code: str) -> BounceClass | None:
    """The class that SendGrid's own names tell, ``None`` if they tell none."""
    bounce_type = (item.type or "").strip().lower()
    if bounce_type == "blocked":
        return BounceClass.BLOCK
    if bounce_type == "expired":
        return BounceClass.SOFT
    classification = (item.bounce_classification or "").strip().lower()
    for beginning, bounce_class in _CLASSES:
        if classification.startswith(beginning):
            return bounce_class
    if classification.startswith("mailbox"):
        # SendGrid puts full mailboxes and closed ones into one class.
        temporary = enhanced_code.startswith("4.") or (not enhanced_code and smtp_code is not None and smtp_code < 500)
        return BounceClass.SOFT if temporary or mailbox_full(text, enhanced_code) else BounceClass.HARD
    if not classification and bounce_type in ("bounce", "bounced"):
        return BounceClass.HARD
    return None


def _own_domain(message_id: str) -> str:
    """The domain of the sender's own Message-ID; ``""`` when SendGrid made it up."""
    domain = message_id.rpartition("@")[2].strip("<> \t").lower()
    if "ismtpd" in domain or "." not in domain or domain.endswith("sendgrid.net"):
        return ""
    return domain[:253]


def _read_one_by_one(body: bytes) -> list[_Item | None]:
    """The items of a body that is not as documented, ``None`` for those that cannot be read."""
    try:
        raws = _split(body)
    except (ValueError, RecursionError):
        values = load_json(body)
        if not isinstance(values, list):
            raise ParseError("body is not a JSON array") from None
        return [_tolerant(value) for value in values]
    return [_read_one(raw) for raw in raws]


def _read_one(raw: msgspec.Raw) -> _Item | None:
    try:
        return _decode_one(raw)
    except (ValueError, RecursionError):
        pass
    try:
        return _tolerant(load_json(bytes(raw)))
    except ParseError:
        return None


def _tolerant(value: object) -> _Item | None:
    """One event, field by field, whatever the types: only its name and its time are indispensable."""
    if not isinstance(value, dict):
        return None
    at = as_time(value.get("timestamp"))
    name = value.get("event")
    if at is None or not isinstance(name, str) or not name:
        return None
    category = value.get("category")
    tags = [text for tag in (category if isinstance(category, list) else [category]) if (text := as_text(tag))]
    return _Item(
        as_text(name),
        at,
        category=tags,
        smtp_id=as_text(value.get("smtp-id")),
        **{field: as_text(value.get(field)) for field in _TEXTS},
    )


_TEXTS = (
    "email", "sg_event_id", "sg_message_id", "from_domain", "reason", "response", "status", "type",
    "bounce_classification", "attempt", "url",
)  # fmt: skip
