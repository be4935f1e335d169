"""SparkPost (Bird Email) webhooks: arrays of events of all types, behind basic authentication.

Source: SparkPost support docs "Webhook data streams", "Webhook authentication" and "Bounce classification codes".
SparkPost signs nothing. Each item wraps its event twice: ``{"msys": {"message_event": {...}}}``.
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
    as_text,
    as_time,
    check_basic,
    domain_in,
    event_name,
    load_json,
    read_each,
    salvage,
    username_problem,
)

CREDENTIALS: tuple[tuple[str, ...], ...] = (("username", "password"),)
REPLAY_WINDOW = 0.0
# The sink that stands for any mailbox: USER@DOMAIN.sink.sparkpostmail.com (support article "Using the sink server").
TEST_RECIPIENTS = frozenset({"sink.sparkpostmail.com"})


def validate_credentials(credentials: Credentials) -> str | None:
    """A sentence when a user name is one that HTTP cannot carry (RFC 7617)."""
    return username_problem(credentials)


def authenticate(request: WebhookRequest, credentials: Credentials) -> None:
    """Basic authentication is all that SparkPost offers to a receiver without a token server of its own."""
    if not check_basic(request, credentials):
        raise AuthenticationError("basic authentication does not match")


class _Data(msgspec.Struct, gc=False):
    """The fields that matter, as documented; what does not fit is read again by ``_rescue``."""

    type: str | None = None
    timestamp: str | int | float | None = None
    event_id: str | int | None = None
    message_id: str | None = None
    rcpt_to: str | None = None
    raw_rcpt_to: str | None = None
    friendly_from: str | None = None
    mailfrom: str | None = None
    campaign_id: str | None = None
    rcpt_tags: object = None
    bounce_class: str | int | None = None
    error_code: str | int | None = None
    raw_reason: str | None = None
    reason: str | None = None
    num_retries: str | int | None = None
    target_link_url: str | None = None
    fbtype: str | None = None
    delv_method: str | None = None


class _Item(msgspec.Struct, gc=False):
    msys: dict[str, _Data]


_decode_all = msgspec.json.Decoder(list[_Item]).decode
_decode_one = msgspec.json.Decoder(_Item).decode
_split = msgspec.json.Decoder(list[msgspec.Raw]).decode

_KINDS = {
    "injection": Kind.ACCEPTED,
    "delivery": Kind.DELIVERED,
    "delay": Kind.DEFERRED,
    "bounce": Kind.BOUNCED,
    "out_of_band": Kind.BOUNCED,
    "policy_rejection": Kind.DROPPED,
    "generation_failure": Kind.DROPPED,
    "generation_rejection": Kind.DROPPED,
    "spam_complaint": Kind.COMPLAINED,
    "list_unsubscribe": Kind.UNSUBSCRIBED,
    "link_unsubscribe": Kind.UNSUBSCRIBED,
    "open": Kind.OPENED,
    "initial_open": Kind.OPENED,
    "amp_open": Kind.OPENED,
    "amp_initial_open": Kind.OPENED,
    "click": Kind.CLICKED,
    "amp_click": Kind.CLICKED,
}
_Meaning = tuple[Kind, BounceClass | None]
# By the number of the classification. Not all of them are bounces.
_CLASSES: dict[str, _Meaning] = {
    "1": (Kind.BOUNCED, BounceClass.UNDETERMINED),
    **dict.fromkeys(("10", "30"), (Kind.BOUNCED, BounceClass.HARD)),
    **dict.fromkeys(("20", "21", "22", "23", "24", "40", "70"), (Kind.BOUNCED, BounceClass.SOFT)),
    **dict.fromkeys(("50", "51", "52", "53", "54"), (Kind.BOUNCED, BounceClass.BLOCK)),
    "25": (Kind.DROPPED, None),
    **dict.fromkeys(("60", "80", "100"), (Kind.OTHER, None)),
    "90": (Kind.UNSUBSCRIBED, None),
}
_WITH_REASON = frozenset({Kind.BOUNCED, Kind.DEFERRED, Kind.DROPPED})


def parse(request: WebhookRequest) -> Parsed:
    """The events of the array. ``{"msys": {}}``, which SparkPost posts to try a new webhook, and text messages hold
    none. Recipients are lower case."""
    try:
        items: Sequence[_Item | None] = _decode_all(request.body)
    except (ValueError, RecursionError):
        items = _read(request.body)
    parsed = Parsed()
    for item in items:
        if item is None:
            parsed.malformed += 1
            continue
        for data in item.msys.values():
            if data.delv_method and data.delv_method.lower() != "esmtp":
                continue
            event = _event(data)
            if event is None:
                parsed.malformed += 1
            else:
                parsed.append(event)
    return parsed


def _event(data: _Data) -> Event | None:
    name, at = (data.type or "").strip(), as_time(data.timestamp)
    if at is None or not name:
        return None
    kind, bounce_class = _KINDS.get(name, Kind.OTHER), None
    text, smtp_code, enhanced_code, reason = "", None, "", ""
    if kind in _WITH_REASON:
        text = data.raw_reason or data.reason or ""
        smtp_code, enhanced_code = parse_reply(text)
        smtp_code = _smtp_code(data.error_code) or smtp_code
    if kind is Kind.BOUNCED:
        known = _CLASSES.get(as_text(data.bounce_class).strip())
        kind, bounce_class = known or explain(text, smtp_code, enhanced_code).meaning
    elif kind is Kind.COMPLAINED and data.fbtype == "not-spam":
        kind = Kind.OTHER
    if kind in _WITH_REASON:
        reason = reason_text(text)
    else:
        smtp_code, enhanced_code = None, ""
    discriminator = ""
    if kind is Kind.CLICKED:
        discriminator = data.target_link_url or ""
    elif kind is Kind.DEFERRED:
        discriminator = as_text(data.num_retries)[:64]
    return Event(
        kind,
        at,
        (data.raw_rcpt_to or data.rcpt_to or "").strip().lower()[:512],
        (data.message_id or "")[:512],
        as_text(data.event_id)[:512],
        bounce_class,
        domain_in(data.friendly_from or data.mailfrom or ""),
        "",
        _tags(data),
        smtp_code,
        enhanced_code,
        reason,
        name if name in _KINDS else event_name(name),
        name == "out_of_band" and kind is Kind.BOUNCED,
        discriminator,
    )


def _smtp_code(value: str | int | None) -> int | None:
    text = as_text(value).strip()
    return int(text) if len(text) == 3 and text.isascii() and text.isdigit() and "200" <= text < "600" else None


def _tags(data: _Data) -> tuple[str, ...]:
    """The campaign, then the recipient's tags."""
    tags = data.rcpt_tags if isinstance(data.rcpt_tags, list) else []
    return tuple(filter(None, (data.campaign_id or "", *(as_text(tag) for tag in tags[:32]))))


def _read(body: bytes) -> list[_Item | None]:
    """The items of a body that is not as documented, ``None`` for those that cannot be read."""
    try:
        raws = _split(body)
    except (ValueError, RecursionError):
        values = load_json(body)
        if not isinstance(values, list):
            raise ParseError("body is not a JSON array") from None
        return [_rescue(value) for value in values]
    return read_each(raws, _decode_one, _rescue)


def _rescue(value: object) -> _Item | None:
    wrapped = value.get("msys") if isinstance(value, dict) else None
    if not isinstance(wrapped, dict):
        return None
    found = {as_text(name): salvage(data, _Data) for name, data in wrapped.items()}
    # What is no event at all still counts as one that cannot be read.
    return _Item({name: data or _Data() for name, data in found.items()})
