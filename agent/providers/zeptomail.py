"""ZeptoMail (Zoho) webhooks: one message per request, its details as arrays, signed or behind secret headers.

Source: ZeptoMail help "Webhooks in a Mail Agent". The signature is base64 HMAC-SHA256 over the timestamp in the header
``producer-signature`` (milliseconds) and the body.
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Iterator
from urllib.parse import unquote

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
    check_headers,
    domain_in,
    equal,
    event_name,
    header_problem,
    load_json,
    secrets,
)

CREDENTIALS: tuple[tuple[str, ...], ...] = (("signing_secret",), ("headers",))
# For how long ZeptoMail tries again, and whether it signs anew, is not documented.
REPLAY_WINDOW = 86400.0

_HEADER = "producer-signature"
_CLOCK_SKEW = 600.0


def validate_credentials(credentials: Credentials) -> str | None:
    """A sentence when a header name is none that HTTP can carry."""
    return header_problem(credentials)


def authenticate(request: WebhookRequest, credentials: Credentials) -> None:
    """Either way is enough: a signature by a live ``signing_secret``, or all configured secret headers."""
    if check_headers(request, credentials):
        return
    parts = dict(part.lstrip().partition("=")[::2] for part in request.header(_HEADER)[:1024].split(";"))
    timestamp, signature = parts.get("ts", ""), parts.get("s", "")
    if parts.get("s-algorithm", "HmacSHA256") != "HmacSHA256":
        raise AuthenticationError("unknown signature algorithm")
    if not timestamp or not signature:
        raise AuthenticationError("neither a signature nor secret headers match")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 16):
        raise AuthenticationError("signed timestamp is not a number")
    if not -_CLOCK_SKEW <= request.received - int(timestamp) / 1000 <= REPLAY_WINDOW:
        raise AuthenticationError("signed timestamp outside the accepted age")
    signed = timestamp.encode("ascii") + request.body
    # Some deliveries escape the base64 for the header.
    given = (signature, unquote(signature))
    matches = 0
    for key in secrets(credentials, "signing_secret"):
        expected = b64encode(hmac.digest(key.encode("utf-8", "surrogatepass"), signed, "sha256")).decode("ascii")
        matches += sum(equal(one, expected) for one in given)
    if not matches:
        raise AuthenticationError("signature does not match")


_KINDS = {
    "delivered": Kind.DELIVERED,
    "delivery": Kind.DELIVERED,
    "email_delivered": Kind.DELIVERED,
    "hardbounce": Kind.BOUNCED,
    "softbounce": Kind.BOUNCED,
    "email_open": Kind.OPENED,
    "email_link_click": Kind.CLICKED,
    "feedback_loop": Kind.COMPLAINED,
    "fbl": Kind.COMPLAINED,
}
_MOST = 1000  # details of one request that are looked at


def parse(request: WebhookRequest) -> Parsed:
    """One event for each detail of each message; a delivery's details fan out to the recipients of the message."""
    body = load_json(request.body)
    if not isinstance(body, dict):
        raise ParseError("body is not a JSON object")
    names = [as_text(name).strip() for name in _list(body.get("event_name"))]
    messages = _list(body.get("event_message"))
    if not names and not messages:
        raise ParseError("body has neither event_name nor event_message")
    agent = as_text(body.get("mailagent_key"))[:255]
    parsed = Parsed()
    for position, message in enumerate(messages[:_MOST]):
        name = names[position] if position < len(names) else names[0] if names else ""
        info, details = _dict(_dict(message).get("email_info")), list(_details(_dict(message).get("event_data")))
        if not name or not details:
            parsed.malformed += 1
        for detail in details if name else ():
            at = as_time(detail.get("time"))
            if at is None:
                parsed.malformed += 1
                continue
            parsed.extend(_events(name, at, info, detail, agent))
    if not messages:
        parsed.malformed += 1
    return parsed


def _events(name: str, at: float, info: dict[str, object], detail: dict[str, object], agent: str) -> Iterator[Event]:
    kind = _KINDS.get(name.lower(), Kind.OTHER)
    bounce_class, smtp_code, enhanced_code, reason = None, None, "", ""
    if kind is Kind.BOUNCED:
        text = as_text(detail.get("diagnostic_message")) or as_text(detail.get("reason"))
        smtp_code, enhanced_code = parse_reply(text)
        reason = reason_text(text)
        bounce_class = classify(text, smtp_code, enhanced_code)
        if bounce_class is not BounceClass.BLOCK:
            bounce_class = BounceClass.HARD if name.lower() == "hardbounce" else BounceClass.SOFT
    # The part before the at sign is the message; behind it stands the host that takes its bounces.
    message_id = as_text(info.get("email_reference")).partition("@")[0][:512]
    link = as_text(detail.get("clicked_link")) if kind is Kind.CLICKED else ""
    for recipient in _recipients(kind, info, detail):
        yield Event(
            kind,
            at,
            recipient,
            message_id,
            "",
            bounce_class,
            domain_in(_address(info.get("from"))),
            agent,
            (agent,) if agent else (),
            smtp_code,
            enhanced_code,
            reason,
            event_name(name),
            False,
            link,
        )


def _recipients(kind: Kind, info: dict[str, object], detail: dict[str, object]) -> list[str]:
    if named := address_in(as_text(detail.get("bounced_recipient"))):
        return [named]
    to = [address for one in _list(info.get("to"))[:_MOST] if (address := address_in(_address(one)))]
    # Of several recipients nobody knows which one opened, clicked or complained.
    return to if len(to) == 1 or (to and kind is Kind.DELIVERED) else [""]


def _address(value: object) -> str:
    """The address of ``{"email_address": {"address": …}}``, ``{"address": …}`` or plain text."""
    outer = _dict(value)
    inner = _dict(outer.get("email_address"))
    return as_text(value) or as_text(outer.get("address")) or as_text(inner.get("address"))


def _details(value: object) -> Iterator[dict[str, object]]:
    for data in _list(value)[:_MOST]:
        for detail in _list(_dict(data).get("details"))[:_MOST]:
            yield _dict(detail)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _dict(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}
