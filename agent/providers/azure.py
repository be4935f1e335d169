"""Azure Communication Services e-mail, through Event Grid: batches in its own schema, or CloudEvents 1.0.

Source: Microsoft Learn, "Azure Communication Services - Email events" and "Webhook event delivery"; the second schema
is that of CloudEvents 1.0 ("HTTP 1.1 Web Hooks for Event Delivery"). Nothing is signed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from agent.classify import explain, is_policy, parse_reply
from agent.events import BounceClass, Event, Kind, reason_text
from agent.providers.base import (
    AuthenticationError,
    Credentials,
    Parsed,
    ParseError,
    Reply,
    WebhookRequest,
    address_in,
    as_text,
    as_time,
    check_headers,
    check_token,
    domain_in,
    event_name,
    header_problem,
    load_json,
    read_each,
    salvage,
)

CREDENTIALS: tuple[tuple[str, ...], ...] = (("token",), ("headers",))
REPLAY_WINDOW = 0.0

_EVENT_TYPE, _VALIDATION = "aeg-event-type", "Microsoft.EventGrid.SubscriptionValidationEvent"
_ORIGIN = re.compile(r"eventgrid\.azure\.(?:net|com|us|cn)")


def validate_credentials(credentials: Credentials) -> str | None:
    """A sentence when a header name is one that HTTP cannot carry."""
    return header_problem(credentials)


def authenticate(request: WebhookRequest, credentials: Credentials) -> None:
    """Any of the ways is enough: the token, or all secret headers."""
    if not (check_token(request, credentials) or check_headers(request, credentials)):
        raise AuthenticationError("neither token nor secret headers match")


def follow_up(request: WebhookRequest) -> Reply | None:
    """The answer to the event with which Event Grid tries a new subscription (its own schema): the code in it."""
    if request.header(_EVENT_TYPE) != "SubscriptionValidation":
        return None
    try:
        items = _items(request.body)
    except ParseError:
        return None
    codes = [item.data.validation_code for item in items if item and item.event_type == _VALIDATION and item.data]
    if not codes or not codes[0]:
        return None
    return Reply(msgspec.json.encode({"validationResponse": codes[0][:512]}), "application/json")


def answer_options(headers: Mapping[str, str]) -> dict[str, str] | None:
    """The permission that Event Grid asks for before it posts CloudEvents. It proves nothing to either side."""
    origin = headers.get("webhook-request-origin", "").strip().lower()
    if not _ORIGIN.fullmatch(origin):
        return None
    return {"WebHook-Allowed-Origin": origin, "WebHook-Allowed-Rate": "*", "Allow": "GET, HEAD, POST, OPTIONS"}


class _Details(msgspec.Struct, gc=False, rename="camel"):
    status_message: str | None = None


class _Data(msgspec.Struct, gc=False, rename="camel"):
    sender: str | None = None
    recipient: str | None = None
    message_id: str | None = None
    status: str | None = None
    delivery_status_details: str | _Details | None = None
    delivery_attempt_timestamp: str | None = None
    # As it is spelt in the payloads, where the reference has the other.
    delivery_attempt_time_stamp: str | None = None
    engagement_type: str | None = None
    engagement_context: str | None = None
    user_action_timestamp: str | None = None
    user_action_time_stamp: str | None = None
    validation_code: str | None = None


class _Item(msgspec.Struct, gc=False, rename="camel"):
    """The fields that matter, of both schemas; what does not fit is read again by ``salvage``."""

    id: str | None = None
    event_type: str | None = None
    event_time: str | None = None
    type: str | None = None
    time: str | None = None
    data: _Data | None = None


_decode = msgspec.json.Decoder(list[_Item]).decode
_decode_one = msgspec.json.Decoder(_Item).decode
_split = msgspec.json.Decoder(list[msgspec.Raw]).decode

_PREFIX = "Microsoft.Communication."
_REPORT, _ENGAGEMENT = _PREFIX + "EmailDeliveryReportReceived", _PREFIX + "EmailEngagementTrackingReportReceived"
_STATUSES = {
    "delivered": Kind.DELIVERED,
    "bounced": Kind.BOUNCED,
    "failed": Kind.BOUNCED,
    "filteredspam": Kind.BOUNCED,
    "quarantined": Kind.BOUNCED,
    "suppressed": Kind.DROPPED,
}
_ENGAGEMENTS = {"view": Kind.OPENED, "click": Kind.CLICKED}


def parse(request: WebhookRequest) -> Parsed:
    """An event for each report, none for the validation of a subscription."""
    parsed = Parsed()
    for item in _items(request.body):
        if item is None:
            parsed.malformed += 1
        elif (item.event_type or item.type) != _VALIDATION:
            event = _event(item)
            if event is None:
                parsed.malformed += 1
            else:
                parsed.append(event)
    return parsed


def _event(item: _Item) -> Event | None:
    name, data = (item.event_type or item.type or "").strip(), item.data or _Data()
    kind, raw_name = Kind.OTHER, name.removeprefix(_PREFIX)
    bounce_class, smtp_code, enhanced_code, reason, discriminator = None, None, "", "", ""
    if name == _REPORT:
        status = (data.status or "").strip()
        kind, raw_name = _STATUSES.get(status.lower(), Kind.OTHER), status or raw_name
    elif name == _ENGAGEMENT:
        what = (data.engagement_type or "").strip()
        kind, raw_name = _ENGAGEMENTS.get(what.lower(), Kind.OTHER), what or raw_name
        discriminator = (data.engagement_context or "") if kind is Kind.CLICKED else ""
    if kind in (Kind.BOUNCED, Kind.DROPPED):
        details = data.delivery_status_details
        text = (details.status_message if isinstance(details, _Details) else details) or ""
        smtp_code, enhanced_code = parse_reply(text)
        reason = reason_text(text)
        if kind is Kind.BOUNCED:
            kind, bounce_class = _bounce(raw_name.lower(), text, smtp_code, enhanced_code)
    at = (
        as_time(data.delivery_attempt_time_stamp)
        or as_time(data.delivery_attempt_timestamp)
        or as_time(data.user_action_time_stamp)
        or as_time(data.user_action_timestamp)
        or as_time(item.event_time)
        or as_time(item.time)
    )
    if not name or at is None:
        return None
    return Event(
        kind, at, address_in(data.recipient or ""), (data.message_id or "")[:512], (item.id or "")[:512], bounce_class,
        domain_in(data.sender or ""), "", (), smtp_code, enhanced_code, reason, event_name(raw_name), False,
        discriminator,
    )  # fmt: skip


def _bounce(status: str, text: str, smtp_code: int | None, enhanced_code: str) -> tuple[Kind, BounceClass | None]:
    if status == "failed":
        return explain(text, smtp_code, enhanced_code).meaning
    block = status != "bounced" or is_policy(enhanced_code)
    return Kind.BOUNCED, BounceClass.BLOCK if block else BounceClass.HARD


def _items(body: bytes) -> list[_Item | None]:
    one = body.lstrip()[:1] == b"{"  # CloudEvents that are not batched
    try:
        return [_decode_one(body)] if one else [*_decode(body)]
    except (ValueError, RecursionError):
        pass
    if one:
        return [_rescue(load_json(body))]
    try:
        raws = _split(body)
    except (ValueError, RecursionError):
        value = load_json(body)
        if not isinstance(value, list):
            raise ParseError("body is neither an event nor an array of them") from None
        return [_rescue(each) for each in value]
    return read_each(raws, _decode_one, _rescue)


def _rescue(value: object) -> _Item | None:
    item = salvage(value, _Item)
    given = value.get("data") if isinstance(value, dict) else None
    if item is not None and isinstance(given, dict) and (data := salvage(given, _Data)) is not None:
        item.data = data
        details = given.get("deliveryStatusDetails")
        if isinstance(details, str):
            data.delivery_status_details = as_text(details)
    return item
