"""Brevo (once Sendinblue) transactional webhooks: one event per request or a batch, behind whichever secret they carry.

Source: Brevo developer docs "Transactional webhooks", "Batched webhooks", "Secured webhooks". Brevo signs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import msgspec

from agent.classify import classify, parse_reply
from agent.clock import DAY
from agent.events import BounceClass, Event, Kind, reason_text
from agent.providers.base import (
    AuthenticationError,
    Credentials,
    Parsed,
    ParseError,
    WebhookRequest,
    address_in,
    as_texts,
    as_time,
    attached_domain,
    check_basic,
    check_headers,
    check_token,
    event_name,
    header_problem,
    load_json,
    read_each,
    salvage,
    username_problem,
)

CREDENTIALS: tuple[tuple[str, ...], ...] = (("username", "password"), ("token",), ("headers",))
REPLAY_WINDOW = 0.0

# Local times are off by the account's time zone: -12 to +14 hours.


def validate_credentials(credentials: Credentials) -> str | None:
    """A sentence when a user name or header name is one that HTTP cannot carry."""
    return username_problem(credentials) or header_problem(credentials)


def authenticate(request: WebhookRequest, credentials: Credentials) -> None:
    """Any way is enough: basic authentication, the bearer token, or all configured secret headers."""
    if not (
        check_basic(request, credentials) or check_token(request, credentials) or check_headers(request, credentials)
    ):
        raise AuthenticationError("neither basic authentication nor a token nor secret headers match")


class _Item(msgspec.Struct, gc=False):
    """The fields that matter, as documented; what does not fit is read again by ``salvage``."""

    event: str | None = None
    email: str | None = None
    message_id: str | None = msgspec.field(name="message-id", default=None)
    ts_epoch: float | str | None = None
    s_epoch: float | str | None = None
    ts_event: float | str | None = None
    ts: float | str | None = None
    date: str | None = None
    reason: str | None = None
    link: str | None = None
    tags: object = None
    tag: object = None
    custom: str | None = msgspec.field(name="X-Mailin-custom", default=None)


_decode_all = msgspec.json.Decoder(list[_Item]).decode
_decode_one = msgspec.json.Decoder(_Item).decode
_split = msgspec.json.Decoder(list[msgspec.Raw]).decode

_KINDS = {
    "request": Kind.ACCEPTED,
    "delivered": Kind.DELIVERED,
    "deferred": Kind.DEFERRED,
    "soft_bounce": Kind.BOUNCED,
    "hard_bounce": Kind.BOUNCED,
    "invalid_email": Kind.DROPPED,
    "blocked": Kind.DROPPED,
    "error": Kind.DROPPED,
    "spam": Kind.COMPLAINED,
    "complaint": Kind.COMPLAINED,
    "unsubscribe": Kind.UNSUBSCRIBED,
    "unsubscribed": Kind.UNSUBSCRIBED,
    "opened": Kind.OPENED,
    "unique_opened": Kind.OPENED,
    "click": Kind.CLICKED,
}
_CLASSES = {"soft_bounce": BounceClass.SOFT, "hard_bounce": BounceClass.HARD}
_WITH_REASON = frozenset({Kind.BOUNCED, Kind.DEFERRED, Kind.DROPPED})


def parse(request: WebhookRequest) -> Parsed:
    """The events of the body, alone or batched. Mail that came in (an object with ``items``) is left out."""
    parsed = Parsed()
    for item in _read(request.body):
        event = _event(item, request.received) if item else None
        if event is None:
            parsed.malformed += 1
        else:
            parsed.append(event)
    return parsed


def _event(item: _Item, received: float) -> Event | None:
    name, at = (item.event or "").strip(), _time(item, received)
    if at is None or not name:
        return None
    kind, bounce_class = _KINDS.get(name, Kind.OTHER), None
    smtp_code, enhanced_code, reason = None, "", ""
    if kind in _WITH_REASON:
        text = item.reason or ""
        smtp_code, enhanced_code = parse_reply(text)
        reason = reason_text(text)
        if kind is Kind.BOUNCED:
            # Brevo has no word for a block.
            refused = classify(text, smtp_code, enhanced_code) is BounceClass.BLOCK
            bounce_class = BounceClass.BLOCK if refused else _CLASSES[name]
    return Event(
        kind,
        at,
        address_in(item.email or ""),
        (item.message_id or "").strip().strip("<>")[:512],
        "",
        bounce_class,
        attached_domain(item.custom),
        "",
        as_texts(item.tags) or _tag(item.tag),
        smtp_code,
        enhanced_code,
        reason,
        event_name(name),
        False,
        (item.link or "") if kind is Kind.CLICKED else "",
    )


def _time(item: _Item, received: float) -> float | None:
    """Brevo's UTC time. Where there is none, the arrival is nearer to it than a local time, unless that is long ago."""
    at = as_time(item.ts_epoch) or as_time(item.s_epoch)
    if at is None:
        at = as_time(item.ts_event) or as_time(item.ts) or as_time(item.date)
        if at is not None and abs(received - at) <= DAY:
            at = received
    return at


def _tag(value: object) -> tuple[str, ...]:
    """The older field: one tag, or several as JSON within the text."""
    if isinstance(value, str) and value.startswith("["):
        with suppress(ParseError):
            value = load_json(value.encode("utf-8", "replace"))
    return as_texts(value)


def _read(body: bytes) -> Sequence[_Item | None]:
    """The items of the body, ``None`` for those that cannot be read."""
    if body.lstrip()[:1] == b"[":
        try:
            return _decode_all(body)
        except (ValueError, RecursionError):
            pass
        try:
            return read_each(_split(body), _decode_one, _rescue)
        except (ValueError, RecursionError):
            pass
    else:
        try:
            item = _decode_one(body)
            if item.event:
                return [item]
        except (ValueError, RecursionError):
            pass
    value = load_json(body)
    if isinstance(value, dict) and "event" not in value:
        value = _unwrap(value)
    if not isinstance(value, list | dict):
        raise ParseError("body is neither a JSON object nor an array")
    return [_rescue(each) for each in (value if isinstance(value, list) else [value])]


def _unwrap(value: dict[str, object]) -> object:
    """The batch in an object, under whatever name; the object itself when there is none in it."""
    if isinstance(value.get("items"), list):
        return []
    return next((v for v in value.values() if isinstance(v, list) and v and isinstance(v[0], dict)), value)


def _rescue(value: object) -> _Item | None:
    return salvage(value, _Item)
