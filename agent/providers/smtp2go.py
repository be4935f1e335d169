"""SMTP2GO webhooks: one event per request, as form fields or JSON, behind basic authentication in the URL.

Source: SMTP2GO developer docs "Webhooks". SMTP2GO signs nothing.
"""

from __future__ import annotations

from agent.classify import classify, parse_reply
from agent.events import BounceClass, Event, Kind, reason_text
from agent.providers.base import (
    AuthenticationError,
    Credentials,
    Parsed,
    ParseError,
    WebhookRequest,
    address_in,
    as_time,
    check_basic,
    domain_in,
    event_name,
    flat_fields,
    username_problem,
)

CREDENTIALS: tuple[tuple[str, ...], ...] = (("username", "password"),)
REPLAY_WINDOW = 0.0

_KINDS = {
    "processed": Kind.ACCEPTED,
    "delivered": Kind.DELIVERED,
    "bounce": Kind.BOUNCED,
    "reject": Kind.DROPPED,
    "spam": Kind.COMPLAINED,
    "unsubscribe": Kind.UNSUBSCRIBED,
    "resubscribe": Kind.OTHER,
    "open": Kind.OPENED,
    "click": Kind.CLICKED,
}
_CLASSES = {"hard": BounceClass.HARD, "soft": BounceClass.SOFT}


def validate_credentials(credentials: Credentials) -> str | None:
    """A sentence when a user name is one that basic authentication cannot carry (RFC 7617 section 2)."""
    return username_problem(credentials)


def authenticate(request: WebhookRequest, credentials: Credentials) -> None:
    """Check the basic authentication that the URL of the webhook carries."""
    if not check_basic(request, credentials):
        raise AuthenticationError("basic authentication does not match")


def parse(request: WebhookRequest) -> Parsed:
    """The one event of the fields. Without a time or a name it is malformed."""
    fields = flat_fields(request.body)
    if not fields.keys() & {"event", "email_id", "rcpt"}:
        raise ParseError("body is no SMTP2GO event")
    name, at = fields.get("event", "").strip(), as_time(fields.get("time"))
    if not name or at is None:
        return Parsed(malformed=1)
    kind = _KINDS.get(name, Kind.OTHER)
    bounce_class, smtp_code, enhanced_code, reason = None, None, "", ""
    if kind is Kind.BOUNCED or kind is Kind.DROPPED:
        text = fields.get("message") or fields.get("context", "")
        smtp_code, enhanced_code = parse_reply(text)
        reason = reason_text(text)
        if kind is Kind.BOUNCED:
            bounce_class = classify(text, smtp_code, enhanced_code)
            # SMTP2GO has no word for a block.
            if bounce_class is not BounceClass.BLOCK:
                bounce_class = _CLASSES.get(fields.get("bounce", "").strip().lower(), bounce_class)
    user = fields.get("auth", "")[:255]
    # The sender's SMTP user; an API key in its place is nobody's stream.
    stream = "" if user.startswith("api-") else user
    event = Event(
        kind,
        at,
        address_in(fields.get("rcpt", "")),
        fields.get("email_id", "")[:512],
        "",
        bounce_class,
        domain_in(fields.get("from", "")) or domain_in(fields.get("sender", "")),
        stream,
        (stream,) if stream else (),
        smtp_code,
        enhanced_code,
        reason,
        event_name(name),
        False,
        fields.get("url", "") if kind is Kind.CLICKED else "",
    )
    return Parsed((event,))
