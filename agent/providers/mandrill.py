"""Mandrill (Mailchimp Transactional) webhooks: up to 1,000 events as JSON within a form field, signed with HMAC-SHA1.

Source: Mailchimp Transactional docs "Webhooks" and "Authenticating webhook requests". Signed is the URL as entered at
Mandrill, followed by name and value of every field, in the order of the names (RFC 2104). No time is signed.
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Sequence
from urllib.parse import parse_qsl, urlsplit

import msgspec

from agent.classify import classify, parse_reply
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
    domain_in,
    equal,
    event_name,
    load_json,
    read_each,
    salvage,
    secrets,
)

CREDENTIALS: tuple[tuple[str, ...], ...] = (("signing_key", "url"),)
REPLAY_WINDOW = 0.0

_FIELD = "mandrill_events"
_MOST_FIELDS = 16
# Mandrill signs its first trial of a URL, without events, with a key that everyone knows. Taken for a proof, it would
# let anyone make a silent source look alive.
_TRIAL_KEY = "test-webhook"


def validate_credentials(credentials: Credentials) -> str | None:
    """A sentence when a ``url`` is none that a webhook can have, or a ``signing_key`` one that everyone knows."""
    if not all(_is_url(url) for url in secrets(credentials, "url")):
        return "url is not the whole http:// or https:// URL, as it was entered at Mandrill"
    if _TRIAL_KEY in secrets(credentials, "signing_key"):
        return f"signing_key is {_TRIAL_KEY}, which everyone knows"
    return None


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and text == "".join(text.split())
    except ValueError:
        return False


def authenticate(request: WebhookRequest, credentials: Credentials) -> None:
    """Check the signature for every live ``signing_key`` and ``url``."""
    given = request.header("x-mandrill-signature")
    if not given:
        raise AuthenticationError("signature header missing")
    try:
        fields = _fields(request.body)
        _events(fields)
    except ParseError as error:
        raise AuthenticationError(error.args[0]) from None
    keys = secrets(credentials, "signing_key")
    text = "".join(name + value for name, value in sorted(fields))
    expected = [signature(url, text, key) for url in secrets(credentials, "url") for key in keys]
    if not sum(equal(given, each) for each in expected):
        raise AuthenticationError("signature does not match")


def signature(url: str, text: str, key: str) -> str:
    """The signature under ``key`` of ``text``: names and values of the fields, whose characters are bytes."""
    signed = url.encode("utf-8", "surrogatepass") + text.encode("latin-1")
    return b64encode(hmac.digest(key.encode("utf-8", "surrogatepass"), signed, "sha1")).decode("ascii")


def _fields(body: bytes) -> list[tuple[str, str]]:
    """The form, decoded; each character stands for one byte, so that what is signed is what was sent."""
    try:
        return parse_qsl(
            body.decode("latin-1"), keep_blank_values=True, encoding="latin-1", max_num_fields=_MOST_FIELDS
        )  # fmt: skip
    except ValueError:
        raise ParseError("body has too many fields for a form") from None


def _events(fields: list[tuple[str, str]]) -> str:
    found = [value for name, value in fields if name == _FIELD]
    if len(found) != 1:
        raise ParseError(f"body is no form with one field {_FIELD}")
    return found[0]


class _Message(msgspec.Struct, gc=False):
    id: str | None = msgspec.field(name="_id", default=None)
    email: str | None = None
    sender: str | None = None
    subaccount: str | None = None
    tags: object = None
    diag: str | None = None
    bounce_description: str | None = None


class _Item(msgspec.Struct, gc=False):
    """The fields that matter, as documented; what does not fit is read again by ``salvage``."""

    event: str | None = None
    type: str | None = None
    ts: float | str | None = None
    id: str | None = msgspec.field(name="_id", default=None)
    url: str | None = None
    msg: _Message | None = None


_decode_all = msgspec.json.Decoder(list[_Item]).decode
_decode_one = msgspec.json.Decoder(_Item).decode
_split = msgspec.json.Decoder(list[msgspec.Raw]).decode

_KINDS = {
    # Both say so of one and the same outcome, which is counted once.
    "send": Kind.DELIVERED,
    "delivered": Kind.DELIVERED,
    "deferral": Kind.DEFERRED,
    "hard_bounce": Kind.BOUNCED,
    "soft_bounce": Kind.BOUNCED,
    "reject": Kind.DROPPED,
    "spam": Kind.COMPLAINED,
    "unsub": Kind.UNSUBSCRIBED,
    "open": Kind.OPENED,
    "click": Kind.CLICKED,
}
_CLASSES = {"hard_bounce": BounceClass.HARD, "soft_bounce": BounceClass.SOFT}
_WITH_REASON = frozenset({Kind.BOUNCED, Kind.DEFERRED, Kind.DROPPED})
_INBOUND = "inbound"
_EXAMPLE = "example.webhook@mandrillapp.com"


def parse(request: WebhookRequest) -> Parsed:
    """The events of the field. Mail that came in is left out; changes of the allow- and denylist are ``other``."""
    parsed = Parsed()
    for item in _read(_events(_fields(request.body)).encode("latin-1")):
        if item is not None and item.event == _INBOUND:
            continue
        event = _event(item, request.received) if item else None
        if event is None:
            parsed.malformed += 1
        else:
            parsed.append(event)
    return parsed


def _event(item: _Item, received: float) -> Event | None:
    name, at = (item.event or "").strip(), as_time(item.ts)
    if not name:
        # A change of a list, which may lack a time.
        name = (item.type or "").strip()
        return Event(Kind.OTHER, at or received, provider_event=event_name(name)) if name else None
    if at is None:
        return None
    message = item.msg or _Message()
    kind, bounce_class = _KINDS.get(name, Kind.OTHER), None
    smtp_code, enhanced_code, reason = None, "", ""
    if kind in _WITH_REASON:
        text = message.diag or message.bounce_description or ""
        smtp_code, enhanced_code = parse_reply(text)
        reason = reason_text(text)
        if kind is Kind.BOUNCED:
            # Mandrill has no word for a block.
            refused = classify(text, smtp_code, enhanced_code) is BounceClass.BLOCK
            bounce_class = BounceClass.BLOCK if refused else _CLASSES[name]
    recipient = address_in(message.email or "")
    return Event(
        kind,
        at,
        recipient,
        (item.id or message.id or "")[:512],
        "",
        bounce_class,
        domain_in(message.sender or ""),
        "",
        (*as_texts(message.tags), *as_texts(message.subaccount)),
        smtp_code,
        enhanced_code,
        reason,
        event_name(name),
        False,
        (item.url or "") if kind is Kind.CLICKED else "",
        recipient == _EXAMPLE,
    )


def _read(events: bytes) -> Sequence[_Item | None]:
    """The items of the array, ``None`` for those that cannot be read."""
    try:
        return _decode_all(events)
    except (ValueError, RecursionError):
        pass
    try:
        return read_each(_split(events), _decode_one, _rescue)
    except (ValueError, RecursionError):
        pass
    values = load_json(events)
    if not isinstance(values, list):
        raise ParseError(f"{_FIELD} is not a JSON array")
    return [_rescue(value) for value in values]


def _rescue(value: object) -> _Item | None:
    return salvage(value, _Item)
