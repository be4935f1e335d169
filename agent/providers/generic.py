"""The product's own format: events in its own vocabulary as signed JSON, for senders that no other provider covers.

The header ``X-Mailvitals-Signature`` is the lower-case hex HMAC-SHA256 of ``timestamp.body``; the timestamp is what the
header ``X-Mailvitals-Timestamp`` says (Unix seconds). The body is one event, an array of them, or CloudEvents 1.0 whose
``data`` is an event, in structured or batched mode.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agent.classify import explain, parse_reply
from agent.events import BounceClass, Event, Kind, reason_text
from agent.providers.base import (
    AuthenticationError,
    Credentials,
    Parsed,
    ParseError,
    WebhookRequest,
    address_in,
    as_text,
    as_time,
    check_hex_hmac,
    event_name,
    load_json,
    read_each,
    salvage,
    secrets,
)

CREDENTIALS: tuple[tuple[str, ...], ...] = (("signing_secret",),)
# A sender that tries again signs anew; the hour is for queues between it and the agent.
REPLAY_WINDOW = 3600.0

SIGNATURE, TIMESTAMP = "x-mailvitals-signature", "x-mailvitals-timestamp"
_CLOCK_SKEW = 600.0
_SHORTEST_SECRET = 16


def validate_credentials(credentials: Credentials) -> str | None:
    """A sentence when a secret is so short that it could be guessed: below 16 characters."""
    if any(len(secret) < _SHORTEST_SECRET for secret in secrets(credentials, "signing_secret")):
        return f"signing_secret is shorter than {_SHORTEST_SECRET} characters"
    return None


def authenticate(request: WebhookRequest, credentials: Credentials) -> None:
    """Check the signature against every live ``signing_secret``, and the age of the signed timestamp."""
    timestamp, signature = request.header(TIMESTAMP), request.header(SIGNATURE)
    if not timestamp or not signature:
        raise AuthenticationError("signature headers missing")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 16):
        raise AuthenticationError("signed timestamp is not a number")
    if not -_CLOCK_SKEW <= request.received - int(timestamp) <= REPLAY_WINDOW:
        raise AuthenticationError("signed timestamp outside the accepted age")
    signed = timestamp.encode("ascii") + b"." + request.body
    if not check_hex_hmac(signature, signed, secrets(credentials, "signing_secret")):
        raise AuthenticationError("signature does not match")


class _Item(msgspec.Struct, gc=False):
    """An event as documented; what does not fit is read again by ``salvage``."""

    kind: str | None = None
    at: float | str | None = None
    recipient: str | None = None
    message_id: str | None = None
    event_id: str | None = None
    bounce_class: str | None = None
    domain: str | None = None
    stream: str | None = None
    tags: object = None
    smtp_code: int | str | None = None
    enhanced_code: str | None = None
    reason: str | None = None
    asynchronous: object = None
    discriminator: str | None = None
    specversion: str | None = None
    id: str | None = None
    source: str | None = None
    type: str | None = None
    time: str | None = None
    data: object = None


_decode_one = msgspec.json.Decoder(_Item).decode
_decode_all = msgspec.json.Decoder(list[_Item]).decode
_split = msgspec.json.Decoder(list[msgspec.Raw]).decode

_KINDS = {kind.value: kind for kind in Kind}
_CLASSES = {bounce_class.value: bounce_class for bounce_class in BounceClass}
_WITH_REASON = frozenset({Kind.BOUNCED, Kind.DEFERRED, Kind.DROPPED})


def parse(request: WebhookRequest) -> Parsed:
    """All events. A bounce without a class is classified by its codes and reason; an event without ``kind`` or ``at``
    is malformed."""
    parsed = Parsed()
    for item in _read(request.body):
        plain = _unwrap(item) if item is not None and item.specversion else item
        event = _event(plain) if plain is not None else None
        if event is None:
            parsed.malformed += 1
        else:
            parsed.append(event)
    return parsed


def _unwrap(item: _Item) -> _Item | None:
    """The event in a CloudEvent, which lends it kind, time and id where it has none of its own."""
    event = salvage(item.data, _Item)
    if event is not None:
        event.kind = event.kind or (item.type or "").rpartition(".")[2]
        event.at = event.at or item.time
        # Source and id together are unique (CloudEvents 1.0 section "id").
        event.event_id = event.event_id or (f"{item.source or ''} {item.id}" if item.id else "")
    return event


def _event(item: _Item) -> Event | None:
    name, at = (item.kind or "").strip(), as_time(item.at)
    if not name or at is None:
        return None
    kind = _KINDS.get(name, Kind.OTHER)
    bounce_class, smtp_code, enhanced_code, reason = None, None, "", ""
    if kind in _WITH_REASON:
        text = item.reason or ""
        codes = parse_reply(f"{as_text(item.smtp_code)} {item.enhanced_code or ''}".strip())
        found = parse_reply(text)
        smtp_code = codes.smtp_code or found.smtp_code
        enhanced_code = codes.enhanced_code or found.enhanced_code
        reason = reason_text(text)
        if kind is Kind.BOUNCED:
            bounce_class = _CLASSES.get(item.bounce_class or "")
            if bounce_class is None:
                kind, bounce_class = explain(text, smtp_code, enhanced_code).meaning
    stream = (item.stream or "")[:255]
    tags = item.tags if isinstance(item.tags, list) else [item.tags]
    return Event(
        kind,
        at,
        address_in(item.recipient or ""),
        (item.message_id or "")[:512],
        (item.event_id or "")[:512],
        bounce_class,
        (item.domain or "").strip().lower()[:253],
        stream,
        tuple(text[:255] for tag in [stream, *tags[:32]] if (text := as_text(tag))),
        smtp_code,
        enhanced_code,
        reason,
        event_name(name),
        item.asynchronous is True,
        item.discriminator or "",
    )


def _read(body: bytes) -> Sequence[_Item | None]:
    batched = body.lstrip()[:1] == b"["
    try:
        return _decode_all(body) if batched else [_decode_one(body)]
    except (ValueError, RecursionError):
        pass
    if batched:
        try:
            return read_each(_split(body), _decode_one, lambda value: salvage(value, _Item))
        except (ValueError, RecursionError):
            pass
    value = load_json(body)
    if not isinstance(value, dict | list):
        raise ParseError("body is neither a JSON object nor an array")
    return [salvage(one, _Item) for one in (value if isinstance(value, list) else [value])]
