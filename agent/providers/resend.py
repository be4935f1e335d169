"""Resend webhooks: one event per request, signed as Svix and Standard Webhooks do.

Source: Resend docs "Event Types", Svix docs "Verifying payloads manually", the Standard Webhooks specification. The
HMAC-SHA256 covers the id, the time and the body; a request sent again is signed anew and keeps its id.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from functools import lru_cache

import msgspec

from agent.bounce_rules import Category
from agent.classify import explain, is_policy, parse_reply
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
    domain_in,
    equal,
    event_name,
    load_json,
    salvage,
    secrets,
)

CREDENTIALS: tuple[tuple[str, ...], ...] = (("signing_secret",),)
# What Svix's own libraries allow, in either direction.
REPLAY_WINDOW = 300.0
# Where Resend plays the recipient (docs, "Send Test Emails"): delivered@, bounced@, complained@, each with +labels.
TEST_RECIPIENTS = frozenset({"resend.dev"})

_PREFIX = "whsec_"
_MOST_SIGNATURES = 16


@lru_cache(maxsize=64)
def _key(text: str) -> bytes:
    """The key in ``whsec_<base64>``; empty for everything else."""
    text = text.strip().removeprefix(_PREFIX)
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return b""


def validate_credentials(credentials: Credentials) -> str | None:
    """A sentence when a configured ``signing_secret`` holds no key."""
    if all(_key(secret) for secret in secrets(credentials, "signing_secret")):
        return None
    return "signing_secret is not whsec_ and base64, as Resend shows it"


def authenticate(request: WebhookRequest, credentials: Credentials) -> None:
    """Check each signature in the header against every live ``signing_secret``, and the age of the signed time."""
    for prefix in ("svix", "webhook"):
        identity, timestamp, signatures = (
            request.header(f"{prefix}-{part}") for part in ("id", "timestamp", "signature")
        )
        if identity and timestamp and signatures:
            break
    else:
        raise AuthenticationError("signature headers missing")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 16):
        raise AuthenticationError("signed timestamp is not a number")
    if abs(request.received - int(timestamp)) > REPLAY_WINDOW:
        raise AuthenticationError("signed timestamp outside the accepted age")
    signed = f"{identity}.{timestamp}.".encode("utf-8", "surrogatepass") + request.body
    # A list while the vendor rotates; other versions than v1 are other algorithms.
    given = [text[3:] for text in signatures.split(" ")[:_MOST_SIGNATURES] if text.startswith("v1,")]
    keys = [key for secret in secrets(credentials, "signing_secret") if (key := _key(secret))]
    expected = [b64encode(hmac.digest(key, signed, "sha256")).decode("ascii") for key in keys]
    if not sum(equal(one, other) for one in given for other in expected):
        raise AuthenticationError("signature does not match")


class _Bounce(msgspec.Struct, gc=False, rename="camel"):
    type: str | None = None
    sub_type: str | None = None
    message: str | None = None
    reason: str | None = None
    diagnostic_code: object = None


class _Click(msgspec.Struct, gc=False):
    link: str | None = None


class _Data(msgspec.Struct, gc=False):
    email_id: str | None = None
    sender: str | None = msgspec.field(name="from", default=None)
    to: object = None
    tags: object = None
    bounce: _Bounce | None = None
    suppressed: _Bounce | None = None
    failed: _Bounce | None = None
    click: _Click | None = None


class _Record(msgspec.Struct, gc=False):
    """The fields that matter, as documented; what does not fit is read again by ``salvage``."""

    type: str | None = None
    created_at: str | None = None
    data: _Data | None = None


_decode = msgspec.json.Decoder(_Record).decode

_KINDS = {
    "email.sent": Kind.ACCEPTED,
    "email.delivered": Kind.DELIVERED,
    "email.delivery_delayed": Kind.DEFERRED,
    "email.delivered_delayed": Kind.DEFERRED,
    "email.bounced": Kind.BOUNCED,
    "email.suppressed": Kind.DROPPED,
    "email.failed": Kind.DROPPED,
    "email.complained": Kind.COMPLAINED,
    "email.opened": Kind.OPENED,
    "email.clicked": Kind.CLICKED,
}
_CLASSES = {
    "permanent": BounceClass.HARD,
    "transient": BounceClass.SOFT,
    "undetermined": BounceClass.UNDETERMINED,
}
_ANSWERS = frozenset({Category.AUTO_REPLY, Category.CHALLENGE_RESPONSE})
_REFUSED = frozenset({"contentrejected", "attachmentrejected"})
_SUPPRESSED = frozenset({"suppressed", "onaccountsuppressionlist"})
_WITH_REASON = frozenset({Kind.BOUNCED, Kind.DEFERRED, Kind.DROPPED})


def parse(request: WebhookRequest) -> Parsed:
    """The one event of the record, for the first of the message's recipients: Resend does not say which it means."""
    record = _read(request.body)
    name, at = (record.type or "").strip(), as_time(record.created_at)
    if not name or at is None:
        return Parsed(malformed=1)
    data = record.data or _Data()
    kind, bounce_class = _KINDS.get(name, Kind.OTHER), None
    smtp_code, enhanced_code, reason = None, "", ""
    if kind in _WITH_REASON:
        details = data.bounce or data.suppressed or data.failed or _Bounce()
        text = _diagnostic(details) or details.message or details.reason or ""
        smtp_code, enhanced_code = parse_reply(text)
        reason = reason_text(text)
        if kind is Kind.BOUNCED:
            # Before it had an event of its own, suppression was told as a bounce.
            if "suppressed sending" in (details.message or "").lower() or _sub_type(details) in _SUPPRESSED:
                kind = Kind.DROPPED
            else:
                kind, bounce_class = _bounce(details, text, smtp_code, enhanced_code)
    event = Event(
        kind,
        at,
        _first_recipient(data.to),
        (data.email_id or "")[:512],
        (request.header("svix-id") or request.header("webhook-id"))[:512],
        bounce_class,
        domain_in(data.sender or ""),
        "",
        _tags(data.tags),
        smtp_code,
        enhanced_code,
        reason,
        name if name in _KINDS else event_name(name),
        False,
        (data.click.link or "") if kind is Kind.CLICKED and data.click else "",
    )
    return Parsed((event,))


def _bounce(details: _Bounce, text: str, smtp_code: int | None, enhanced_code: str) -> tuple[Kind, BounceClass | None]:
    if _sub_type(details) in _REFUSED:
        return Kind.BOUNCED, BounceClass.BLOCK
    known = _CLASSES.get((details.type or "").strip().lower())
    if known is BounceClass.HARD and is_policy(enhanced_code):
        return Kind.BOUNCED, BounceClass.BLOCK
    if known is BounceClass.SOFT:
        if enhanced_code == "5.4.4":
            return Kind.BOUNCED, BounceClass.HARD
        # Amazon SES, which Resend sends through, files replies of people and programs under the transient ones.
        if explain(text, smtp_code, enhanced_code).category in _ANSWERS:
            return Kind.OTHER, None
    return (Kind.BOUNCED, known) if known else explain(text, smtp_code, enhanced_code).meaning


def _sub_type(details: _Bounce) -> str:
    return (details.sub_type or "").strip().lower()


def _diagnostic(details: _Bounce) -> str:
    """The remote text: of several recipients, that of the first."""
    codes = details.diagnostic_code
    return as_text(codes[0] if isinstance(codes, list) and codes else codes)


def _first_recipient(to: object) -> str:
    return address_in(as_text(to[0] if isinstance(to, list) and to else to))


def _tags(tags: object) -> tuple[str, ...]:
    """The values of the tags, which come by name; as a list of pairs where they come as they were sent."""
    values: list[object] = []
    if isinstance(tags, dict):
        values = list(tags.values())
    elif isinstance(tags, list):
        values = [tag.get("value") if isinstance(tag, dict) else tag for tag in tags]
    return tuple(text for value in values[:32] if (text := as_text(value)))


def _read(body: bytes) -> _Record:
    try:
        return _decode(body)
    except (ValueError, RecursionError):
        record = salvage(load_json(body), _Record)
    if record is None:
        raise ParseError("body is not a JSON object")
    return record
