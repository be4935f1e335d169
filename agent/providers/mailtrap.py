"""Mailtrap Email Sending webhooks: batches as one JSON object or as JSON Lines, signed with HMAC-SHA256 over the body.

Source: Mailtrap docs "Webhooks" and Mailtrap's OpenAPI description. No time is signed. Instead of the signature, basic
authentication or a token in the URL can be the proof.
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
    check_basic,
    check_hex_hmac,
    check_token,
    event_name,
    load_json,
    read_each,
    salvage,
    secrets,
    username_problem,
)

CREDENTIALS: tuple[tuple[str, ...], ...] = (("signing_secret",), ("username", "password"), ("token",))
REPLAY_WINDOW = 0.0


def validate_credentials(credentials: Credentials) -> str | None:
    """A sentence when a user name is one that HTTP cannot carry (RFC 7617)."""
    return username_problem(credentials)


def authenticate(request: WebhookRequest, credentials: Credentials) -> None:
    """Any of the ways is enough: the signature, basic authentication, or the token."""
    signed = check_hex_hmac(
        request.header("mailtrap-signature"), request.body, secrets(credentials, "signing_secret")
    )  # fmt: skip
    if not (signed or check_basic(request, credentials) or check_token(request, credentials)):
        raise AuthenticationError("neither signature nor basic authentication nor token match")


class _Item(msgspec.Struct, gc=False):
    """The fields that matter, as documented; what does not fit is read again by ``salvage``."""

    event: str | None = None
    timestamp: str | int | float | None = None
    event_id: str | None = None
    message_id: str | None = None
    email: str | None = None
    sending_stream: str | None = None
    category: str | None = None
    response: str | None = None
    response_code: str | int | None = None
    reason: str | None = None
    url: str | None = None


class _Body(msgspec.Struct, gc=False):
    events: list[_Item]


class _Split(msgspec.Struct, gc=False):
    events: list[msgspec.Raw]


_decode_all = msgspec.json.Decoder(_Body).decode
_decode_one = msgspec.json.Decoder(_Item).decode
_split = msgspec.json.Decoder(_Split).decode

# By the name with underscores: payloads and subscriptions spell some of them differently.
_KINDS = {
    "delivery": Kind.DELIVERED,
    "soft_bounce": Kind.DEFERRED,
    "bounce": Kind.BOUNCED,
    "suspension": Kind.DROPPED,
    "reject": Kind.DROPPED,
    "spam": Kind.COMPLAINED,
    "spam_complaint": Kind.COMPLAINED,
    "unsubscribe": Kind.UNSUBSCRIBED,
    "open": Kind.OPENED,
    "click": Kind.CLICKED,
}
_WITH_REASON = frozenset({Kind.BOUNCED, Kind.DEFERRED, Kind.DROPPED})


def parse(request: WebhookRequest) -> Parsed:
    """The events of the body, in either format."""
    try:
        items: Sequence[_Item | None] = _decode_all(request.body).events
    except (ValueError, RecursionError):
        items = _read(request.body)
    parsed = Parsed()
    for item in items:
        event = _event(item) if item else None
        if event is None:
            parsed.malformed += 1
        else:
            parsed.append(event)
    return parsed


def _event(item: _Item) -> Event | None:
    name, at = (item.event or "").strip(), as_time(item.timestamp)
    if at is None or not name:
        return None
    kind, bounce_class = _KINDS.get(name.lower().replace(" ", "_"), Kind.OTHER), None
    smtp_code, enhanced_code, reason = None, "", ""
    if kind in _WITH_REASON:
        text = item.response or item.reason or ""
        smtp_code, enhanced_code = parse_reply(text)
        smtp_code = _smtp_code(item.response_code) or smtp_code
        reason = reason_text(text)
        if kind is Kind.BOUNCED:
            kind, bounce_class = explain(text, smtp_code, enhanced_code).meaning
            if bounce_class is BounceClass.UNDETERMINED:
                # Mailtrap has an event of its own for what is not permanent.
                bounce_class = BounceClass.HARD
    stream, category = (item.sending_stream or "")[:255], (item.category or "")[:255]
    return Event(
        kind,
        at,
        address_in(item.email or ""),
        (item.message_id or "")[:512],
        (item.event_id or "")[:512],
        bounce_class,
        "",
        stream,
        tuple(filter(None, (stream, category))),
        smtp_code,
        enhanced_code,
        reason,
        event_name(name),
        False,
        (item.url or "") if kind is Kind.CLICKED else "",
    )


def _smtp_code(value: str | int | None) -> int | None:
    text = as_text(value).strip()
    return int(text) if len(text) == 3 and text.isascii() and text.isdigit() and "200" <= text < "600" else None


def _read(body: bytes) -> list[_Item | None]:
    """The items of a body that is not one object as documented, ``None`` for those that cannot be read."""
    try:
        return read_each(_split(body).events, _decode_one, _rescue)
    except (ValueError, RecursionError):
        pass
    try:
        whole = load_json(body)
    except ParseError:
        return _read_lines(body)
    if not isinstance(whole, dict):
        raise ParseError("body is neither a JSON object nor JSON Lines")
    events = whole.get("events")
    # A single line of JSON Lines is an object, too.
    return [_rescue(event) for event in (events if isinstance(events, list) else [whole])]


def _read_lines(body: bytes) -> list[_Item | None]:
    lines = (msgspec.Raw(line) for line in body.split(b"\n") if line.strip())
    items = read_each(lines, _decode_one, _rescue)
    if not any(items):
        raise ParseError("body is neither a JSON object nor JSON Lines")
    return items


def _rescue(value: object) -> _Item | None:
    return salvage(value, _Item)
