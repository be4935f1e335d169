"""Mailgun webhooks: one event per request, as JSON or as the form fields of the older kind, with the proof in the body.

Source: Mailgun user manual "Webhooks" and "Events". Signed are a timestamp and a token, HMAC-SHA256 (RFC 2104) in hex;
the event itself is not.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from urllib.parse import parse_qsl

import msgspec

from agent.classify import explain, is_enhanced_code, parse_reply
from agent.events import BounceClass, Event, Kind, reason_text
from agent.providers.base import (
    AuthenticationError,
    Credentials,
    Parsed,
    ParseError,
    WebhookRequest,
    address_in,
    as_text,
    as_texts,
    as_time,
    domain_in,
    equal,
    event_name,
    load_json,
    salvage,
    secrets,
)

CREDENTIALS: tuple[tuple[str, ...], ...] = (("signing_key",),)
# Mailgun retries for 8 hours, and whether a retry is signed anew is not documented.
REPLAY_WINDOW = 9 * 3600.0

_CLOCK_SKEW = 600.0
_HEX_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST_TOKEN = 256


def validate_credentials(credentials: Credentials) -> str | None:
    """Any text can be a key: always ``None``."""
    return None


def authenticate(request: WebhookRequest, credentials: Credentials) -> None:
    """Check the signature of the timestamp and token in the body against every live ``signing_key``, and the age."""
    signed = _proof(request.body)
    timestamp, token, signature = signed.timestamp or "", signed.token or "", signed.signature or ""
    if not (timestamp and token and signature):
        raise AuthenticationError("signature fields missing")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 16):
        raise AuthenticationError("signed timestamp is not a number")
    if not -_CLOCK_SKEW <= request.received - int(timestamp) <= REPLAY_WINDOW:
        raise AuthenticationError("signed timestamp outside the accepted age")
    if len(token) > _LONGEST_TOKEN or not _HEX_SHA256.fullmatch(signature):
        raise AuthenticationError("signature is not 64 hex digits")
    message = (timestamp + token).encode("utf-8", "surrogatepass")
    expected = (hmac.digest(_bytes(key), message, "sha256").hex() for key in secrets(credentials, "signing_key"))
    if not sum(equal(signature, each) for each in expected):
        raise AuthenticationError("signature does not match")


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


class _Signature(msgspec.Struct, gc=False):
    timestamp: str | None = None
    token: str | None = None
    signature: str | None = None


class _Signed(msgspec.Struct, gc=False):
    signature: _Signature


class _Headers(msgspec.Struct, gc=False):
    message_id: str | None = msgspec.field(name="message-id", default=None)
    sender: str | None = msgspec.field(name="from", default=None)
    to: str | None = None


class _Message(msgspec.Struct, gc=False):
    headers: _Headers | None = None


class _Envelope(msgspec.Struct, gc=False):
    sender: str | None = None


class _Status(msgspec.Struct, gc=False, rename="kebab"):
    code: str | int | None = None
    enhanced_code: str | None = None
    message: str | None = None
    description: str | None = None
    attempt_no: str | int | None = None


class _Flags(msgspec.Struct, gc=False, rename="kebab"):
    is_delayed_bounce: object = None
    is_test_mode: object = None
    is_system_test: object = None


class _Reject(msgspec.Struct, gc=False):
    reason: str | None = None
    description: str | None = None


class _Data(msgspec.Struct, gc=False, rename="kebab"):
    """The fields that matter of ``event-data``, as documented; what does not fit is read again by ``salvage``."""

    event: str | None = None
    timestamp: float | str | None = None
    id: str | None = None
    recipient: str | None = None
    severity: str | None = None
    reason: str | None = None
    url: str | None = None
    tags: object = None
    message: _Message | None = None
    envelope: _Envelope | None = None
    delivery_status: _Status | None = None
    flags: _Flags | None = None
    reject: _Reject | None = None


class _Body(msgspec.Struct, gc=False, rename="kebab"):
    event_data: _Data


_decode = msgspec.json.Decoder(_Body).decode
_decode_proof = msgspec.json.Decoder(_Signed).decode

_KINDS = {
    "accepted": Kind.ACCEPTED,
    "rejected": Kind.DROPPED,
    "delivered": Kind.DELIVERED,
    "failed": Kind.BOUNCED,
    "bounced": Kind.BOUNCED,  # this and the next are of the older kind alone
    "dropped": Kind.BOUNCED,
    "complained": Kind.COMPLAINED,
    "unsubscribed": Kind.UNSUBSCRIBED,
    "opened": Kind.OPENED,
    "clicked": Kind.CLICKED,
}
_WITH_REASON = frozenset({Kind.BOUNCED, Kind.DEFERRED, Kind.DROPPED})
# Mailgun's own codes: no MX, cannot connect; suppressed after a bounce, an opt-out, a complaint.
_NO_MX, _CANNOT_CONNECT = 498, 499
_SUPPRESSED = frozenset({605, 606, 607})
# What the webhook tester's samples begin their message ids with, before the at sign and the domain.
_SAMPLES = frozenset({"20130503182626.18666.16540", "20130503192659.13651.20287", "20110215055645.25246.63817"})
_ADDRESS = re.compile(r"[^\s<>(),;:\"@]{1,64}@[^\s<>(),;:\"@]{1,255}")


def parse(request: WebhookRequest) -> Parsed:
    """The one event of the request; a rejected message makes one for each recipient. Mail in test mode, which never
    leaves Mailgun, and the samples of the webhook tester are marked as tests."""
    data = _read(request.body)
    name, at = (data.event or "").strip(), as_time(data.timestamp)
    if not name or at is None:
        return Parsed(malformed=1)
    flags, status = data.flags or _Flags(), data.delivery_status or _Status()
    kind = _KINDS.get(name, Kind.OTHER)
    smtp_code, enhanced_code, reason, discriminator = None, "", "", ""
    bounce_class, asynchronous = None, False
    if kind in _WITH_REASON:
        reject = data.reject or _Reject()
        text = status.message or status.description or reject.reason or reject.description or data.reason or ""
        code, enhanced_code = _codes(status, text)
        # Some of Mailgun's own numbers look like those of a server.
        smtp_code = code if 200 <= code < 600 and code not in (_NO_MX, _CANNOT_CONNECT) else parse_reply(text).smtp_code
        reason = reason_text(text)
        if kind is Kind.BOUNCED:
            kind = _failed(data, code)
        if kind is Kind.BOUNCED:
            asynchronous = _true(flags.is_delayed_bounce)
            kind, by_reply = explain(text, smtp_code, enhanced_code).meaning
            bounce_class = by_reply and _bounce_class(data, asynchronous, code, by_reply)
            asynchronous = asynchronous and kind is Kind.BOUNCED
        elif kind is Kind.DEFERRED:
            discriminator = as_text(status.attempt_no)[:64]
    elif kind is Kind.CLICKED:
        discriminator = data.url or ""
    headers = (data.message and data.message.headers) or _Headers()
    message_id = (headers.message_id or "").strip().strip("<>")[:512]
    domain, tags = _domain(data, headers, message_id), as_texts(data.tags)
    sample = message_id.partition("@")[0] in _SAMPLES
    test = sample or _true(flags.is_test_mode) or _true(flags.is_system_test)
    return Parsed(
        Event(
            kind, at, recipient, message_id, (data.id or "")[:512], bounce_class, domain, "", tags, smtp_code,
            enhanced_code, reason, event_name(name), asynchronous, discriminator, test,
        )
        for recipient in _recipients(data, headers)
    )  # fmt: skip


def _failed(data: _Data, code: int) -> Kind:
    if (data.severity or "").strip().lower() == "temporary":
        return Kind.DEFERRED
    suppressed = code in _SUPPRESSED or (data.reason or "").startswith("suppress-")
    return Kind.DROPPED if suppressed else Kind.BOUNCED


def _bounce_class(data: _Data, asynchronous: bool, code: int, by_reply: BounceClass) -> BounceClass:
    reason = (data.reason or "").strip().lower()
    if asynchronous:
        return by_reply
    if reason == "espblock":
        return BounceClass.BLOCK
    if code == _NO_MX:
        return BounceClass.HARD
    if reason == "old" or code == _CANNOT_CONNECT:
        return BounceClass.SOFT
    if by_reply is BounceClass.UNDETERMINED and (reason == "bounce" or data.event == "bounced"):
        return BounceClass.HARD
    return by_reply


def _codes(status: _Status, text: str) -> tuple[int, str]:
    """Mailgun's code (0: none) and the enhanced one; the older kind may have either in the place of the first."""
    code, enhanced_code = as_text(status.code).strip(), (status.enhanced_code or "").strip()
    if not is_enhanced_code(enhanced_code):
        enhanced_code = code if is_enhanced_code(code) else parse_reply(text).enhanced_code
    return int(code) if len(code) == 3 and code.isascii() and code.isdigit() else 0, enhanced_code


def _domain(data: _Data, headers: _Headers, message_id: str) -> str:
    """The domain of the envelope's sender, else of the header From, else of the Message-ID (opens and clicks)."""
    domain = domain_in((data.envelope and data.envelope.sender) or "") or domain_in(headers.sender or "")
    if not domain and "." in (right := domain_in(message_id)):
        return right
    return domain


def _recipients(data: _Data, headers: _Headers) -> list[str]:
    if data.recipient or data.event != "rejected":
        return [address_in(data.recipient or "")]
    found = _ADDRESS.findall((headers.to or "")[:4096].lower())
    return list(dict.fromkeys(found)) or [""]


def _true(value: object) -> bool:
    return value is True or value in ("true", "True", 1)


def _read(body: bytes) -> _Data:
    if not _is_json(body):
        return _from_form(body)
    try:
        return _decode(body).event_data
    except (ValueError, RecursionError):
        value = load_json(body)
    if not isinstance(value, dict) or "event-data" not in value:
        raise ParseError("body has no event-data")
    return salvage(value["event-data"], _Data) or _Data()


class _Content(msgspec.Struct):
    data: msgspec.Raw = msgspec.field(name="event-data", default=msgspec.Raw(b""))


_decode_content = msgspec.json.Decoder(_Content).decode
_PROOF = frozenset({"timestamp", "token", "signature"})


def replay_token(request: WebhookRequest) -> tuple[str, bytes]:
    """What Mailgun signs once for each request, and the content that came with it ("Securing webhooks": cache the
    token, refuse it with other content). The proof is no part of the content, since a retry may be signed anew. To be
    asked of authentic requests."""
    token = _proof(request.body).token or ""
    if not _is_json(request.body):
        pairs = sorted(pair for pair in _fields(request.body) if pair[0] not in _PROOF)
        return token, repr(pairs).encode("utf-8", "replace")
    try:
        return token, bytes(_decode_content(request.body).data)
    except (ValueError, RecursionError):
        value = load_json(request.body)
        data = value.get("event-data") if isinstance(value, dict) else value
        return token, repr(data).encode("utf-8", "replace")


def _proof(body: bytes) -> _Signature:
    """The signature fields of the body, whichever kind it is. Raises ``AuthenticationError`` when it is none."""
    try:
        if not _is_json(body):
            # User variables are merged into the older kind: the last of each name is Mailgun's own.
            last = dict(_fields(body))
            return _Signature(last.get("timestamp"), last.get("token"), last.get("signature"))
        try:
            return _decode_proof(body).signature
        except (ValueError, RecursionError):
            value = load_json(body)
    except ParseError:
        raise AuthenticationError("body is neither JSON nor a form") from None
    given = value.get("signature") if isinstance(value, dict) else None
    return salvage(given, _Signature) or _Signature()


def _is_json(body: bytes) -> bool:
    return body.lstrip()[:1] in (b"{", b"[")


# The older kind: form fields, url-encoded or, of bounces with the returned mail, multipart (RFC 7578).

_MOST_FIELDS = 512
_FORM_NAME = re.compile(rb'name="?([^"\r\n;]{1,128})"?', re.IGNORECASE)


def _from_form(body: bytes) -> _Data:
    pairs = _fields(body)
    first: dict[str, str] = {}
    for name, value in pairs:
        first.setdefault(name, value)
    if not first.keys() & {"event", "signature"}:
        raise ParseError("body is no Mailgun event")
    get: Callable[[str], str | None] = first.get
    return _Data(
        event=get("event"),
        timestamp=dict(pairs).get("timestamp"),
        recipient=get("recipient"),
        severity=get("severity"),
        reason=get("reason"),
        url=get("url"),
        tags=[value for name, value in pairs if name in ("tag", "X-Mailgun-Tag")],
        envelope=_Envelope(f"@{first['domain']}") if "domain" in first else None,
        message=_Message(_Headers(get("Message-Id") or get("message-id"), get("from") or get("sender"), get("to"))),
        delivery_status=_Status(get("code"), None, get("error") or get("description") or get("notification")),
    )


def _fields(body: bytes) -> list[tuple[str, str]]:
    """The fields of a form in their order. Raises ``ParseError`` when it has too many or is cut short."""
    if body.startswith(b"--"):
        return _multipart(body)
    try:
        return parse_qsl(body.decode("utf-8", "replace"), max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise ParseError("body has too many fields for a form") from None


def _multipart(body: bytes) -> list[tuple[str, str]]:
    delimiter = body[:80].partition(b"\r\n")[0]
    if len(delimiter) > 72:  # RFC 2046 section 5.1.1
        raise ParseError("body is neither JSON nor a form")
    parts = body.split(delimiter, _MOST_FIELDS + 1)[1:]
    if len(parts) > _MOST_FIELDS:
        raise ParseError("body has too many fields for a form")
    fields = []
    for part in parts:
        head, _, value = part.partition(b"\r\n\r\n")
        # Files are the returned mail, which is not looked at.
        if b"filename" not in head[:1024] and (name := _FORM_NAME.search(head[:1024])):
            fields.append((name[1].decode("utf-8", "replace"), value.removesuffix(b"\r\n").decode("utf-8", "replace")))
    return fields
