"""Scaleway Transactional Email webhooks: one event per request, through a Topics and Events topic or bare.

Source: Scaleway documentation "Webhook events and payloads" (beta). Topics and Events speaks the protocol of Amazon
SNS; how it signs is not documented, so a secret in the URL is the proof.
"""

from __future__ import annotations

import re

import msgspec

from agent.classify import explain, parse_reply
from agent.events import BounceClass, Event, Kind, reason_text
from agent.providers import sns
from agent.providers.base import (
    AuthenticationError,
    Confirm,
    Credentials,
    Ended,
    Parsed,
    ParseError,
    WebhookRequest,
    address_in,
    as_text,
    as_time,
    check_basic,
    check_token,
    domain_in,
    event_name,
    load_json,
    salvage,
    username_problem,
)

CREDENTIALS: tuple[tuple[str, ...], ...] = (("token",), ("username", "password"))
REPLAY_WINDOW = 0.0

_SUBSCRIBE_URL = re.compile(r"https://(?:[a-z0-9-]{1,63}\.){1,8}(?:scaleway\.com|scw\.cloud)/[!-\[\]-~]{0,2000}")


def validate_credentials(credentials: Credentials) -> str | None:
    """A sentence when a user name is one that HTTP cannot carry (RFC 7617)."""
    return username_problem(credentials)


def authenticate(request: WebhookRequest, credentials: Credentials) -> None:
    """Any of the live secrets is enough: the token, or basic authentication."""
    if not (check_token(request, credentials) or check_basic(request, credentials)):
        raise AuthenticationError("neither token nor basic authentication match")


def follow_up(request: WebhookRequest) -> Confirm | Ended | None:
    """Where a subscription is confirmed, if that is a host of Scaleway's."""
    if b"Confirmation" not in request.body:
        return None
    try:
        envelope = sns.read(request.body)
    except ParseError:
        return None
    if envelope is not None and envelope.type == sns.UNSUBSCRIPTION:
        return Ended()
    url = (envelope.subscribe_url or "") if envelope is not None and envelope.type == sns.SUBSCRIPTION else ""
    return Confirm(url) if _SUBSCRIBE_URL.fullmatch(url) else None


class _Record(msgspec.Struct, gc=False):
    """The fields that matter, as documented; what does not fit is read again by ``salvage``."""

    id: str | None = None
    type: str | None = None
    created_at: str | None = None
    domain_name: str | None = None
    email_id: str | None = None
    email_from: str | None = None
    email_to: str | None = None
    email_try_count: int | str | None = None
    email_response_code: int | str | None = None
    email_response_message: str | None = None
    email_error: str | None = None
    blocklist_reason: str | None = None


_decode = msgspec.json.Decoder(_Record).decode

_KINDS = {
    "email_queued": Kind.ACCEPTED,
    "email_delivered": Kind.DELIVERED,
    "email_deferred": Kind.DEFERRED,
    "email_dropped": Kind.BOUNCED,  # by the receiver; the word is Scaleway's
    "email_mailbox_not_found": Kind.BOUNCED,
    "email_spam": Kind.BOUNCED,
    "email_blocklisted": Kind.DROPPED,
}
_WITH_REASON = frozenset({Kind.BOUNCED, Kind.DEFERRED, Kind.DROPPED})
_CLASSES = {"email_mailbox_not_found": BounceClass.HARD, "email_spam": BounceClass.BLOCK}


def parse(request: WebhookRequest) -> Parsed:
    """The one event of the request; a handshake has none."""
    envelope = sns.read(request.body)
    if envelope is not None and envelope.type != sns.NOTIFICATION:
        return Parsed()
    record = _read(request.body if envelope is None else (envelope.message or "").encode("utf-8", "surrogatepass"))
    name, at = (record.type or "").strip(), as_time(record.created_at)
    if not name or at is None:
        return Parsed(malformed=1)
    kind = _KINDS.get(name, Kind.OTHER)
    bounce_class, smtp_code, enhanced_code, reason = None, None, "", ""
    if kind in _WITH_REASON:
        text = record.email_response_message or record.email_error or record.blocklist_reason or ""
        smtp_code, enhanced_code = parse_reply(text)
        code = as_text(record.email_response_code).strip()
        if re.fullmatch("[2-5][0-9]{2}", code, re.ASCII):
            smtp_code = int(code)
        reason = reason_text(text)
        if kind is Kind.BOUNCED:
            bounce_class = _CLASSES.get(name)
            if bounce_class is None:
                kind, bounce_class = explain(text, smtp_code, enhanced_code).meaning
    event = Event(
        kind,
        at,
        address_in(record.email_to or ""),
        (record.email_id or "")[:512],
        (record.id or "")[:512],
        bounce_class,
        (record.domain_name or "").strip().lower()[:253] or domain_in(record.email_from or ""),
        "",
        (),
        smtp_code,
        enhanced_code,
        reason,
        name if name in _KINDS else event_name(name),
        False,
        as_text(record.email_try_count)[:64] if kind is Kind.DEFERRED else "",
    )
    return Parsed((event,))


def _read(body: bytes) -> _Record:
    try:
        return _decode(body)
    except (ValueError, RecursionError):
        record = salvage(load_json(body), _Record)
    if record is None:
        raise ParseError("body is not a JSON object")
    return record
