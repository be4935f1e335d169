"""Unisender Go and UniOne webhooks: up to 100 events per request or one flat event, proved within the body.

Source: UniOne webhook reference. The field ``auth`` is the hex MD5 of the body in which the API key (of the project, if
the webhook is a project's) stands in the place of ``auth``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

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
    equal,
    event_name,
    load_json,
    secrets,
)

CREDENTIALS: tuple[tuple[str, ...], ...] = (("api_key",),)
REPLAY_WINDOW = 0.0

_MD5 = re.compile(r"[0-9a-f]{32}", re.ASCII)


class _Proof(msgspec.Struct):
    auth: object = None


_decode_proof = msgspec.json.Decoder(_Proof).decode


def validate_credentials(credentials: Credentials) -> str | None:
    """A sentence when an API key has white space in it, which none has."""
    if any(key != "".join(key.split()) for key in secrets(credentials, "api_key")):
        return "api_key contains white space, which no Unisender Go key does"
    return None


def authenticate(request: WebhookRequest, credentials: Credentials) -> None:
    """Check the field ``auth`` of the body against every live ``api_key``."""
    auth = _auth(request.body)
    if not isinstance(auth, str) or not _MD5.fullmatch(auth):
        raise AuthenticationError("field auth is missing or no MD5")
    given = auth.encode("ascii")
    # In its own place and nowhere else: what is hashed must be what is read.
    if request.body.count(given) != 1:
        raise AuthenticationError("field auth does not stand exactly once in the body")
    matches = 0
    for key in secrets(credentials, "api_key"):
        signed = request.body.replace(given, key.encode("utf-8", "surrogatepass"))
        matches += equal(hashlib.md5(signed, usedforsecurity=False).hexdigest(), auth)
    if not matches:
        raise AuthenticationError("field auth does not match")


def _auth(body: bytes) -> object:
    try:
        return _decode_proof(body).auth
    except (ValueError, RecursionError):
        pass
    try:
        value = load_json(body)
    except ParseError:
        raise AuthenticationError("body is not JSON") from None
    return value.get("auth") if isinstance(value, dict) else None


class _Delivery(msgspec.Struct, gc=False):
    delivery_status: str | None = None
    destination_response: str | None = None


class _Event(msgspec.Struct, gc=False):
    """The fields that matter of ``event_data``, or of the flat form."""

    job_id: str | None = None
    email: str | None = None
    status: str | None = None
    event_time: str | None = None
    url: str | None = None
    metadata: object = None
    delivery_info: _Delivery | None = None
    delivery_status: str | None = None
    destination_response: str | None = None
    block_time: str | None = None
    block_type: str | None = None
    domain: str | None = None
    domain_status: str | None = None


class _Entry(msgspec.Struct, gc=False):
    event_data: _Event
    event_name: str | None = None


class _User(msgspec.Struct, gc=False):
    events: list[_Entry]


class _Batch(msgspec.Struct, gc=False):
    events_by_user: list[_User]


_decode_batch = msgspec.json.Decoder(_Batch).decode

_KINDS = {
    "accepted": Kind.ACCEPTED,
    "sent": Kind.ACCEPTED,
    "delivered": Kind.DELIVERED,
    "soft_bounced": Kind.DEFERRED,
    "hard_bounced": Kind.BOUNCED,
    "spam": Kind.COMPLAINED,
    "unsubscribed": Kind.UNSUBSCRIBED,
    "opened": Kind.OPENED,
    "clicked": Kind.CLICKED,
    "subscribed": Kind.OTHER,
}
_H, _S, _B = BounceClass.HARD, BounceClass.SOFT, BounceClass.BLOCK
# ``None``: it never left Unisender Go.
_STATUSES: dict[str, BounceClass | None] = {
    "err_spam_rejected": _B,
    "err_blacklisted": _B,
    "err_mailbox_full": _S,
    "err_too_large": _S,
    "err_unreachable": _S,
    "err_delivery_failed": _S,
    "err_lost": _S,
    "err_unsubscribed": None,
    "err_skip_letter": None,
    "err_spam_skipped": None,
    "err_user_unknown": _H,
    "err_user_inactive": _H,
    "err_mailbox_discarded": _H,
    "err_domain_inactive": _H,
    "err_destination_misconfigured": _H,
}
_WITH_REASON = frozenset({Kind.BOUNCED, Kind.DEFERRED, Kind.DROPPED})
_SPAM_BLOCK = "transactional_spam_block"


def parse(request: WebhookRequest) -> Parsed:
    """All events of the request. Times are UTC; a spam block of a receiving domain is ``other`` without recipient."""
    parsed = Parsed()
    for name, data in _read(request.body):
        event = _event(name, data) if data is not None else None
        if event is None:
            parsed.malformed += 1
        else:
            parsed.append(event)
    return parsed


def _event(name: str, data: _Event) -> Event | None:
    if name == _SPAM_BLOCK:
        at = as_time(data.block_time)
        what = " ".join(filter(None, (data.domain, data.block_type, data.domain_status)))
        return None if at is None else Event(Kind.OTHER, at, provider_event=name, discriminator=what)
    status, at = (data.status or "").strip(), as_time(data.event_time)
    if not status or at is None:
        return None
    kind, bounce_class = _KINDS.get(status, Kind.OTHER), None
    info = data.delivery_info or _Delivery(data.delivery_status, data.destination_response)
    text = info.destination_response or ""
    smtp_code, enhanced_code, reason = None, "", ""
    if kind in _WITH_REASON:
        smtp_code, enhanced_code = parse_reply(text)
        delivery_status = (info.delivery_status or "").strip()
        reason = reason_text(text or delivery_status)
        if kind is Kind.BOUNCED:
            kind, bounce_class = _bounce(delivery_status, text, smtp_code, enhanced_code)
    metadata = data.metadata if isinstance(data.metadata, dict) else {}
    stream = as_text(metadata.get("stream"))[:255]
    return Event(
        kind,
        at,
        address_in(data.email or ""),
        (data.job_id or "")[:512],
        "",
        bounce_class,
        as_text(metadata.get("from_domain")).strip().lower()[:253],
        stream,
        (stream,) if stream else (),
        smtp_code,
        enhanced_code,
        reason,
        event_name(status),
        False,
        (data.url or "") if kind is Kind.CLICKED else "",
    )


def _bounce(
    delivery_status: str, text: str, smtp_code: int | None, enhanced_code: str
) -> tuple[Kind, BounceClass | None]:
    if delivery_status in _STATUSES:
        known = _STATUSES[delivery_status]
        return Kind.BOUNCED if known else Kind.DROPPED, known
    # Unless asked to, Unisender Go tells no more than that the bounce is a hard one.
    return explain(text, smtp_code, enhanced_code).meaning if text else (Kind.BOUNCED, BounceClass.HARD)


def _read(body: bytes) -> Iterator[tuple[str, _Event | None]]:
    try:
        batch = _decode_batch(body)
    except (ValueError, RecursionError):
        yield from _tolerant(load_json(body))
        return
    for user in batch.events_by_user:
        for entry in user.events:
            yield entry.event_name or "", entry.event_data


def _tolerant(value: object) -> Iterator[tuple[str, _Event | None]]:
    """The events of a batch that is not as documented, or the one flat event."""
    if not isinstance(value, dict):
        raise ParseError("body is not a JSON object")
    users = value.get("events_by_user")
    if users is None:
        yield as_text(value.get("event_name")), _salvage(value)
        return
    for user in users if isinstance(users, list) else [users]:
        events = user.get("events") if isinstance(user, dict) else None
        if not isinstance(events, list):
            yield "", None
            continue
        for entry in events:
            data = entry.get("event_data") if isinstance(entry, dict) else None
            yield as_text(entry.get("event_name")) if isinstance(entry, dict) else "", _salvage(data)


def _salvage(value: object) -> _Event | None:
    if not isinstance(value, dict):
        return None
    info = value.get("delivery_info")
    delivery = _Delivery(**{f: as_text(info.get(f)) for f in _DELIVERY}) if isinstance(info, dict) else None
    texts = {name: as_text(value.get(name)) for name in _TEXTS}
    return _Event(**texts, metadata=value.get("metadata"), delivery_info=delivery)


_DELIVERY = ("delivery_status", "destination_response")
_TEXTS = (
    "job_id", "email", "status", "event_time", "url", "delivery_status", "destination_response", "block_time",
    "block_type", "domain", "domain_status",
)  # fmt: skip
