"""Mailjet event webhooks: one event as a bare object, or an array of the last second's, behind basic authentication.

Source: Mailjet developer docs "Event API". Mailjet signs nothing.
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
    attached_domain,
    check_basic,
    event_name,
    load_json,
    read_each,
    salvage,
    username_problem,
)

CREDENTIALS: tuple[tuple[str, ...], ...] = (("username", "password"),)
REPLAY_WINDOW = 0.0


def validate_credentials(credentials: Credentials) -> str | None:
    """A sentence when a user name cannot be sent."""
    return username_problem(credentials)


def authenticate(request: WebhookRequest, credentials: Credentials) -> None:
    """Check the basic authentication that the URL of the webhook carries."""
    if not check_basic(request, credentials):
        raise AuthenticationError("basic authentication does not match")


class _Item(msgspec.Struct, gc=False):
    """The fields that matter, as documented; what does not fit is read again by ``salvage``."""

    event: str | None = None
    time: float | str | None = None
    # Up to 19 digits: more than a double holds.
    message_id: int | str | None = msgspec.field(name="MessageID", default=None)
    message_guid: str | None = msgspec.field(name="Message_GUID", default=None)
    email: str | None = None
    customcampaign: str | None = None
    custom_id: str | None = msgspec.field(name="CustomID", default=None)
    payload: str | None = msgspec.field(name="Payload", default=None)
    hard_bounce: object = None
    error_related_to: str | None = None
    error: str | None = None
    comment: str | None = None
    url: str | None = None


_decode_all = msgspec.json.Decoder(list[_Item]).decode
_decode_one = msgspec.json.Decoder(_Item).decode
_split = msgspec.json.Decoder(list[msgspec.Raw]).decode

_KINDS = {
    "sent": Kind.DELIVERED,  # The recipient's server has taken it.
    "bounce": Kind.BOUNCED,
    "blocked": Kind.DROPPED,
    "spam": Kind.COMPLAINED,
    "unsub": Kind.UNSUBSCRIBED,
    "open": Kind.OPENED,
    "click": Kind.CLICKED,
}
_BLOCK_ERRORS = frozenset({"relay/access denied", "blacklisted"})
_HARD_ERRORS = frozenset({"user unknown", "mailbox inactive", "invalid domain", "no mail host"})


def parse(request: WebhookRequest) -> Parsed:
    """The events of the body, grouped or bare. The sending domain is ``from_domain`` in the message's own payload."""
    parsed = Parsed()
    for item in _read(request.body):
        event = _event(item) if item else None
        if event is None:
            parsed.malformed += 1
        else:
            parsed.append(event)
    return parsed


def _event(item: _Item) -> Event | None:
    name, at = (item.event or "").strip(), as_time(item.time)
    if at is None or not name:
        return None
    kind, bounce_class = _KINDS.get(name, Kind.OTHER), None
    smtp_code, enhanced_code, reason = None, "", ""
    if kind is Kind.BOUNCED or kind is Kind.DROPPED:
        text = item.comment or item.error or ""
        smtp_code, enhanced_code = parse_reply(text)
        reason = reason_text(text)
        if kind is Kind.BOUNCED:
            kind, bounce_class = _bounce(item, text)
    message_id = as_text(item.message_id)
    if message_id in ("", "0"):
        message_id = item.message_guid or ""
    tags = tuple([text[:255] for text in (item.customcampaign, item.custom_id) if text])
    return Event(
        kind,
        at,
        address_in(item.email or ""),
        message_id[:512],
        "",
        bounce_class,
        attached_domain(item.payload),
        "",
        tags,
        smtp_code,
        enhanced_code,
        reason,
        event_name(name),
        False,
        (item.url or "") if kind is Kind.CLICKED else "",
    )


def _bounce(item: _Item, text: str) -> tuple[Kind, BounceClass | None]:
    hard = None if item.hard_bounce is None else item.hard_bounce in (True, "true", "1")
    error, related_to = (item.error or "").strip().lower(), (item.error_related_to or "").strip().lower()
    if error == "greylisted" and not hard:
        return Kind.DEFERRED, None
    if related_to == "spam" or error in _BLOCK_ERRORS:
        return Kind.BOUNCED, BounceClass.BLOCK
    if hard or error in _HARD_ERRORS:
        return Kind.BOUNCED, BounceClass.HARD
    if hard is False or related_to == "system":
        return Kind.BOUNCED, BounceClass.SOFT
    return explain(text).meaning


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
            return [_decode_one(body)]
        except (ValueError, RecursionError):
            pass
    value = load_json(body)
    if not isinstance(value, list | dict):
        raise ParseError("body is neither a JSON object nor an array")
    return [_rescue(each) for each in (value if isinstance(value, list) else [value])]


def _rescue(value: object) -> _Item | None:
    return salvage(value, _Item)
