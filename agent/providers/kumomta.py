"""KumoMTA log hooks: log records as JSON, one per request or as an array, behind a token or secret headers.

Source: KumoMTA documentation "Log record", "Publishing log events via webhooks", "Bounce classification". What proves a
request is up to the operator's policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from agent.classify import explain
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


def validate_credentials(credentials: Credentials) -> str | None:
    """A sentence when a header name is none that HTTP can carry."""
    return header_problem(credentials)


def authenticate(request: WebhookRequest, credentials: Credentials) -> None:
    """Either way is enough: the bearer token that the policy sends, or all configured secret headers."""
    if not (check_token(request, credentials) or check_headers(request, credentials)):
        raise AuthenticationError("neither a token nor secret headers match")


class _Record(msgspec.Struct, gc=False):
    """The fields that matter, as documented; what does not fit is read again by ``salvage``."""

    type: str | None = None
    id: str | None = None
    sender: str | None = None
    recipient: object = None
    queue: str | None = None
    response: object = None
    timestamp: int | float | str | None = None
    event_time: str | None = None
    num_attempts: int | str | None = None
    bounce_classification: str | None = None
    headers: object = None
    reception_protocol: str | None = None
    feedback_report: object = None


_decode_one = msgspec.json.Decoder(_Record).decode
_decode_all = msgspec.json.Decoder(list[_Record]).decode
_split = msgspec.json.Decoder(list[msgspec.Raw]).decode

_KINDS = {
    "Reception": Kind.ACCEPTED,
    "Delivery": Kind.DELIVERED,
    "TransientFailure": Kind.DEFERRED,
    "Bounce": Kind.BOUNCED,
    "Expiration": Kind.BOUNCED,
    "OOB": Kind.BOUNCED,
    "AdminBounce": Kind.DROPPED,
    "Rejection": Kind.DROPPED,
    "Feedback": Kind.OTHER,
}
_WITH_REASON = frozenset({Kind.BOUNCED, Kind.DEFERRED, Kind.DROPPED})
_COMPLAINTS = frozenset({"abuse", "fraud", "virus"})
_H, _S, _B = BounceClass.HARD, BounceClass.SOFT, BounceClass.BLOCK
_CLASSES: dict[str, BounceClass | Kind] = {
    "InvalidRecipient": _H,
    "BadDomain": _H,
    "InactiveMailbox": _H,
    "RoutingErrors": _H,
    "InvalidSender": _B,
    "QuotaIssues": _S,
    "TransientFailure": _S,
    "BadConnection": _S,
    "NoAnswerFromHost": _S,
    "MessageExpired": _S,
    "DNSFailure": _S,
    "BadConfiguration": _S,
    "ProtocolErrors": _S,
    "TooManyRecipients": _S,
    "SpamBlock": _B,
    "SpamContent": _B,
    "SpamRelated": _B,
    "ContentRelated": _B,
    "PolicyRelated": _B,
    "VirusRelated": _B,
    "ProhibitedAttachment": _B,
    "RelayDenied": _B,
    "RelayingIssues": _B,
    "AuthenticationFailed": _B,
    "AutoReply": Kind.OTHER,
    "ChallengeResponse": Kind.OTHER,
    "Subscribe": Kind.OTHER,
    "Unsubscribe": Kind.UNSUBSCRIBED,
}
_MOST = 1000  # recipients of one record


def parse(request: WebhookRequest) -> Parsed:
    """One event for each recipient of each record. Records about the log hook's own traffic are left out."""
    parsed = Parsed()
    for record in _read(request.body):
        if record is None or not record.type:
            parsed.malformed += 1
        elif record.reception_protocol != "LogRecord":
            at = as_time(record.event_time) or as_time(record.timestamp)
            if at is None:
                parsed.malformed += 1
            else:
                parsed.extend(_events(record, record.type, at))
    return parsed


def _events(record: _Record, name: str, at: float) -> Iterator[Event]:
    kind, bounce_class = _KINDS.get(name, Kind.OTHER), None
    # A report about mail has an id of its own, never that of the mail.
    own_id = name in ("OOB", "Feedback")
    asynchronous = name == "OOB"
    recipients = _texts(record.recipient)
    domain = domain_in(_header_from(record.headers)) or domain_in(record.sender or "")
    if name == "Reception" and not record.sender:
        kind = Kind.OTHER  # A delivery status report comes in.
    if name == "Feedback":
        report = record.feedback_report if isinstance(record.feedback_report, dict) else {}
        if as_text(report.get("feedback_type")).lower() in _COMPLAINTS:
            kind = Kind.COMPLAINED
        # One report is one complaint, whoever it lists.
        recipients = _texts(report.get("original_rcpto_to"))[:1] or recipients[:1]
        domain = domain_in(as_text(report.get("original_mail_from")))
        domain = domain or next(iter(_texts(report.get("reported_domain"))), "").strip().lower()[:253]
    smtp_code, enhanced_code, text = _response(record.response)
    if kind is Kind.BOUNCED:
        meaning = _CLASSES.get(record.bounce_classification or "")
        if name == "Expiration":
            bounce_class = BounceClass.SOFT
        elif isinstance(meaning, Kind):
            kind = meaning
        else:
            kind, bounce_class = (kind, meaning) if meaning else explain(text, smtp_code, enhanced_code).meaning
    reason = ""
    if kind in _WITH_REASON:
        reason = reason_text(" ".join(filter(None, (str(smtp_code or ""), enhanced_code, text))))
    else:
        smtp_code, enhanced_code = None, ""
    campaign, tenant = ("", "") if own_id else _queue(record.queue or "")
    for recipient in recipients[:_MOST] or [""]:
        yield Event(
            kind,
            at,
            address_in(recipient),
            "" if own_id else (record.id or "")[:512],
            (record.id or "")[:512] if own_id else "",
            bounce_class,
            domain,
            campaign or tenant,
            tuple(filter(None, (campaign, tenant))),
            smtp_code,
            enhanced_code,
            reason,
            event_name(name),
            asynchronous,
            as_text(record.num_attempts)[:64] if kind is Kind.DEFERRED else "",
        )


def _response(value: object) -> tuple[int | None, str, str]:
    """Basic code, enhanced code and text of a record's response."""
    if not isinstance(value, dict):
        return None, "", ""
    code, parts = value.get("code"), value.get("enhanced_code")
    if isinstance(parts, dict):
        numbers = [parts.get(part) for part in ("class", "subject", "detail")]
        valid = all(type(n) is int and 0 <= n < 1000 for n in numbers) and numbers[0] in (2, 4, 5)
        enhanced = ".".join(map(str, numbers)) if valid else ""
    else:
        enhanced = ""
    return (
        code if type(code) is int and 200 <= code <= 599 else None,
        enhanced,
        as_text(value.get("content")),
    )


def _queue(name: str) -> tuple[str, str]:
    """Campaign and tenant of ``campaign:tenant@domain``, where either may be missing."""
    before, at, _ = name[:1024].partition("@")
    if not at:
        return "", ""
    campaign, colon, tenant = before.partition(":")
    return (campaign[:255], tenant[:255]) if colon else ("", campaign[:255])


def _header_from(headers: object) -> str:
    if not isinstance(headers, dict):
        return ""
    return next((text for name in ("From", "from") for text in _texts(headers.get(name))), "")


def _texts(value: object) -> list[str]:
    return [text for one in (value if isinstance(value, list) else [value]) if (text := as_text(one))]


def _read(body: bytes) -> Sequence[_Record | None]:
    batched = body.lstrip()[:1] == b"["
    try:
        return _decode_all(body) if batched else [_decode_one(body)]
    except (ValueError, RecursionError):
        pass
    if batched:
        try:
            return read_each(_split(body), _decode_one, lambda value: salvage(value, _Record))
        except (ValueError, RecursionError):
            pass
    value = load_json(body)
    if not isinstance(value, dict | list):
        raise ParseError("body is neither a JSON object nor an array")
    return [salvage(one, _Record) for one in (value if isinstance(value, list) else [value])]
