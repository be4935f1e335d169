"""Postmark webhooks: one record per request, in basic authentication or secret headers.

Source: Postmark developer docs "Webhooks overview" and "Bounce API" (types of bounces). Postmark signs nothing.
"""

from __future__ import annotations

import msgspec

from agent.classify import is_policy, parse_reply
from agent.events import BounceClass, Event, Kind, mask_addresses, reason_text
from agent.providers.base import (
    AuthenticationError,
    Credentials,
    Parsed,
    ParseError,
    WebhookRequest,
    as_text,
    as_time,
    check_basic,
    check_headers,
    domain_in,
    header_problem,
    load_json,
    username_problem,
)

CREDENTIALS: tuple[tuple[str, ...], ...] = (("username", "password"), ("headers",))
REPLAY_WINDOW = 0.0
# Postmark's own, for trying (support articles "How to test bounces", "Testing with the black hole").
TEST_RECIPIENTS = frozenset({"blackhole.postmarkapp.com", "bounce-testing.postmarkapp.com"})
# Of the record that the test button posts, in whatever type.
_SAMPLE_MESSAGE = "883953f4-6105-42a2-a16a-77a8eac79483"


def validate_credentials(credentials: Credentials) -> str | None:
    """A sentence when a user name or header name is one that HTTP cannot carry (RFC 7617, RFC 9110 section 5.6.2)."""
    return username_problem(credentials) or header_problem(credentials)


def authenticate(request: WebhookRequest, credentials: Credentials) -> None:
    """Either way is enough: basic authentication or all configured secret headers."""
    if not (check_basic(request, credentials) or check_headers(request, credentials)):
        raise AuthenticationError("neither basic authentication nor secret headers match")


class _Record(msgspec.Struct, gc=False, rename="pascal"):
    """The fields that matter, as documented; what does not fit is read again by ``_tolerant``."""

    record_type: str | None = None
    type: str | None = None
    id: int | str | None = msgspec.field(name="ID", default=None)
    message_id: str | None = msgspec.field(name="MessageID", default=None)
    message_stream: str | None = None
    tag: str | None = None
    recipient: str | None = None
    email: str | None = None
    sender: str | None = msgspec.field(name="From", default=None)
    details: str | None = None
    description: str | None = None
    delivered_at: str | None = None
    bounced_at: str | None = None
    received_at: str | None = None
    changed_at: str | None = None
    suppress_sending: bool | None = None
    suppression_reason: str | None = None
    original_link: str | None = None
    from_full: object = None


_decode = msgspec.json.Decoder(_Record).decode

_H, _S, _B, _U = BounceClass.HARD, BounceClass.SOFT, BounceClass.BLOCK, BounceClass.UNDETERMINED
_BOUNCES: dict[str, tuple[Kind, BounceClass | None]] = {
    "HardBounce": (Kind.BOUNCED, _H),
    "SoftBounce": (Kind.BOUNCED, _S),
    "Transient": (Kind.DEFERRED, None),
    "DnsError": (Kind.DEFERRED, None),
    "Blocked": (Kind.BOUNCED, _B),
    "SpamNotification": (Kind.BOUNCED, _B),
    "VirusNotification": (Kind.BOUNCED, _B),
    "DMARCPolicy": (Kind.BOUNCED, _B),
    "ChallengeVerification": (Kind.OTHER, None),
    "AutoResponder": (Kind.OTHER, None),
    "AddressChange": (Kind.OTHER, None),
    "OpenRelayTest": (Kind.OTHER, None),
    "BadEmailAddress": (Kind.DROPPED, None),
    "ManuallyDeactivated": (Kind.DROPPED, None),
    "Unconfirmed": (Kind.DROPPED, None),
    "SMTPApiError": (Kind.DROPPED, None),
    "TemplateRenderingFailed": (Kind.DROPPED, None),
    "InboundError": (Kind.OTHER, None),
    "Unsubscribe": (Kind.UNSUBSCRIBED, None),
    "Subscribe": (Kind.OTHER, None),
    "Unknown": (Kind.BOUNCED, _U),
    "SpamComplaint": (Kind.COMPLAINED, None),
}
_RECORDS = {
    "Delivery": Kind.DELIVERED,
    "SpamComplaint": Kind.COMPLAINED,
    "Open": Kind.OPENED,
    "Click": Kind.CLICKED,
}
_WITH_REASON = frozenset({Kind.BOUNCED, Kind.DEFERRED, Kind.DROPPED})


def parse(request: WebhookRequest) -> Parsed:
    """The one event of the record.

    Of what enters a rate, a record without a time is malformed. Opt-outs and ``other`` (unsubscribe bounces can lack
    a time; of new record types nobody knows the field) take the arrival's instead.
    """
    record = _read(request.body)
    record_type = (record.record_type or "").strip()
    if not record_type:
        if record.from_full is None:
            return Parsed(malformed=1)
        record_type = "Inbound"
    kind, bounce_class, name = _meaning(record, record_type)
    at = _time(record, request.received if kind is Kind.OTHER or kind is Kind.UNSUBSCRIBED else None)
    if at is None:
        return Parsed(malformed=1)

    smtp_code, enhanced_code, reason = None, "", ""
    if kind in _WITH_REASON:
        text = record.details or record.description or ""
        smtp_code, enhanced_code = parse_reply(text)
        reason = reason_text(text)
        if bounce_class is _H and is_policy(enhanced_code):
            bounce_class = _B
    stream, tag = (record.message_stream or "")[:255], (record.tag or "")[:255]
    has_id = record_type in ("Bounce", "SpamComplaint") and record.id
    event = Event(
        kind,
        at,
        (record.recipient or record.email or "").strip().lower()[:512],
        (record.message_id or "")[:512],
        as_text(record.id)[:512] if has_id else "",
        bounce_class,
        domain_in(record.sender or ""),
        stream,
        tuple(filter(None, (stream, tag))),
        smtp_code,
        enhanced_code,
        reason,
        name,
        False,
        (record.original_link or "") if kind is Kind.CLICKED else "",
        record.message_id == _SAMPLE_MESSAGE,
    )
    return Parsed((event,))


def _meaning(record: _Record, record_type: str) -> tuple[Kind, BounceClass | None, str]:
    """Kind, class, and the vendor's words for them: the record type, with its kind of bounce where it has one."""
    if record_type == "Bounce":
        # A bounce that does not say which is what Postmark itself calls unknown.
        bounce_type = (record.type or "").strip() or "Unknown"
        kind, bounce_class = _BOUNCES.get(bounce_type, (Kind.OTHER, None))
        return kind, bounce_class, _name(f"Bounce:{bounce_type[:256]}")
    if record_type == "SubscriptionChange":
        # The other reasons repeat what a Bounce or SpamComplaint record has told.
        opted_out = bool(record.suppress_sending) and record.suppression_reason == "ManualSuppression"
        return Kind.UNSUBSCRIBED if opted_out else Kind.OTHER, None, record_type
    return _RECORDS.get(record_type, Kind.OTHER), None, _name(record_type[:256])


def _name(text: str) -> str:
    return mask_addresses(text)[:64]


def _time(record: _Record, arrival: float | None) -> float | None:
    times = (record.delivered_at, record.bounced_at, record.changed_at, record.received_at)
    given = next(filter(None, times), None)
    return as_time(given) if given else arrival


def _read(body: bytes) -> _Record:
    try:
        return _decode(body)
    except (ValueError, RecursionError):
        value = load_json(body)
    if not isinstance(value, dict):
        raise ParseError("body is not a JSON object")
    # JSON names, converted as one: every field is a string by now but these two.
    fields: dict[str, object] = {
        f.encode_name: as_text(value.get(f.encode_name)) for f in msgspec.structs.fields(_Record)
    }
    fields["SuppressSending"] = value.get("SuppressSending") in (True, "true", "True")
    fields["FromFull"] = "{}" if "FromFull" in value else None
    return msgspec.convert(fields, _Record)
