"""MailerSend webhooks: one event per request, signed with HMAC-SHA256 over the body.

Source: MailerSend developer docs "Webhooks". Two generations of payloads are in the wild and both are read: the older
nests the message (``data.email.recipient.email``), the newer is flat (``data.email`` is the address). No time is
signed. When a webhook is saved, MailerSend posts a ping signed with a secret that its documentation publishes.
"""

from __future__ import annotations

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
    as_text,
    as_time,
    check_hex_hmac,
    domain_in,
    event_name,
    load_json,
    salvage,
    secrets,
)

CREDENTIALS: tuple[tuple[str, ...], ...] = (("signing_secret",),)
REPLAY_WINDOW = 0.0

# Known to everyone, so it proves nothing but that a ping is a ping.
PING_SECRET = "test_Am3L1GuOIc4blLUuHqAPxxwkZaJyEk8G"  # noqa: S105
_PING = "webhook.test"


def validate_credentials(credentials: Credentials) -> str | None:
    """A sentence when a configured ``signing_secret`` is the published one of the pings."""
    if PING_SECRET in secrets(credentials, "signing_secret"):
        return "signing_secret is the published test secret of MailerSend, with which anyone can sign"
    return None


def authenticate(request: WebhookRequest, credentials: Credentials) -> None:
    """Check the signature against every live ``signing_secret``; that of a ping, which counts nothing, may be by the
    published test secret."""
    given = request.header("signature")
    if not given:
        raise AuthenticationError("signature header missing")
    live = [secret for secret in secrets(credentials, "signing_secret") if secret != PING_SECRET]
    if check_hex_hmac(given, request.body, live):
        return
    if live and check_hex_hmac(given, request.body, (PING_SECRET,)) and _is_ping(request.body):
        return
    raise AuthenticationError("signature does not match")


class _Link(msgspec.Struct, gc=False):
    id: str | None = None
    email: str | None = None


class _Email(msgspec.Struct, gc=False):
    """The message as the older payloads nest it."""

    id: str | None = None
    sender: str | None = msgspec.field(name="from", default=None)
    tags: object = None
    message: _Link | None = None
    recipient: _Link | None = None


class _Details(msgspec.Struct, gc=False):
    reason: str | None = None
    readable_reason: str | None = None
    url: str | None = None


class _Data(msgspec.Struct, gc=False):
    id: str | None = None
    type: str | None = None
    created_at: str | None = None
    message_id: str | None = None
    email_id: str | None = None
    email: str | _Email | None = None
    tags: object = None
    morph: _Details | list[object] | None = None
    meta: _Details | list[object] | None = None


class _Record(msgspec.Struct, gc=False):
    """The fields that matter, as documented; what does not fit is read again by ``salvage``."""

    type: str | None = None
    created_at: str | None = None
    data: _Data | list[object] | None = None


_decode = msgspec.json.Decoder(_Record).decode

_KINDS = {
    "activity.sent": Kind.ACCEPTED,
    "activity.delivered": Kind.DELIVERED,
    "activity.deferred": Kind.DEFERRED,
    "activity.soft_bounced": Kind.BOUNCED,
    "activity.hard_bounced": Kind.BOUNCED,
    "activity.suppressed": Kind.DROPPED,
    "activity.opened": Kind.OPENED,
    "activity.opened_unique": Kind.OPENED,
    "activity.clicked": Kind.CLICKED,
    "activity.clicked_unique": Kind.CLICKED,
    "activity.unsubscribed": Kind.UNSUBSCRIBED,
    "activity.spam_complaint": Kind.COMPLAINED,
}
_WITH_REASON = frozenset({Kind.BOUNCED, Kind.DEFERRED, Kind.DROPPED})


def parse(request: WebhookRequest) -> Parsed:
    """The one event of the record; none for the ping."""
    record = _read(request.body)
    if _type(record) == _PING:
        return Parsed()
    data = record.data if isinstance(record.data, _Data) else _Data()
    name = _type(record) or (f"activity.{data.type.strip()}" if data.type else "")
    at = as_time(data.created_at) or as_time(record.created_at)
    if not name or at is None:
        return Parsed(malformed=1)
    email = data.email if isinstance(data.email, _Email) else _Email()
    recipient = data.email if isinstance(data.email, str) else email.recipient and email.recipient.email
    message_id = (email.message and email.message.id) or data.message_id or email.id or data.email_id
    details = next((each for each in (data.morph, data.meta) if isinstance(each, _Details)), _Details())

    kind, bounce_class = _KINDS.get(name, Kind.OTHER), None
    smtp_code, enhanced_code, reason = None, "", ""
    if kind in _WITH_REASON:
        text = details.reason or details.readable_reason or ""
        smtp_code, enhanced_code = parse_reply(text)
        reason = reason_text(text)
        if kind is Kind.BOUNCED:
            bounce_class = _bounce_class(name, text, smtp_code, enhanced_code)
    event = Event(
        kind,
        at,
        address_in(recipient or ""),
        (message_id or "")[:512],
        (data.id or "")[:512],
        bounce_class,
        domain_in(email.sender or ""),
        "",
        _tags(email.tags or data.tags),
        smtp_code,
        enhanced_code,
        reason,
        name if name in _KINDS else event_name(name),
        False,
        (details.url or "") if kind is Kind.CLICKED else "",
    )
    return Parsed((event,))


def _bounce_class(name: str, text: str, smtp_code: int | None, enhanced_code: str) -> BounceClass:
    """MailerSend calls everything soft that is not the address's fault, refusals of the sender included."""
    if name == "activity.hard_bounced":
        return BounceClass.HARD
    refused = classify(text, smtp_code, enhanced_code) is BounceClass.BLOCK
    return BounceClass.BLOCK if refused else BounceClass.SOFT


def _tags(tags: object) -> tuple[str, ...]:
    values = tags if isinstance(tags, list) else []
    return tuple(text for value in values[:32] if (text := as_text(value)))


def _type(record: _Record) -> str:
    return (record.type or "").strip()


def _is_ping(body: bytes) -> bool:
    try:
        return _type(_read(body)) == _PING
    except ParseError:
        return False


def _read(body: bytes) -> _Record:
    try:
        return _decode(body)
    except (ValueError, RecursionError):
        record = salvage(load_json(body), _Record)
    if record is None:
        raise ParseError("body is not a JSON object")
    return record
