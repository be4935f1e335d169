"""Elastic Email HTTP notifications: one event per request, as URL parameters, behind a secret in the URL.

Source: Elastic Email help pages on notification settings. Elastic Email signs nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime

from agent.classify import classify
from agent.events import BounceClass, Event, Kind, reason_text
from agent.providers.base import (
    AuthenticationError,
    Credentials,
    Parsed,
    ParseError,
    WebhookRequest,
    address_in,
    as_time,
    check_token,
    domain_in,
    event_name,
    flat_fields,
)

CREDENTIALS: tuple[tuple[str, ...], ...] = (("token",),)
REPLAY_WINDOW = 0.0

_KINDS = {
    "sent": Kind.DELIVERED,
    "error": Kind.BOUNCED,
    "abusereport": Kind.COMPLAINED,
    "unsubscribed": Kind.UNSUBSCRIBED,
    "opened": Kind.OPENED,
    "clicked": Kind.CLICKED,
}
_H, _S, _B, _U = BounceClass.HARD, BounceClass.SOFT, BounceClass.BLOCK, BounceClass.UNDETERMINED
_CATEGORIES: dict[str, BounceClass | None] = {
    "nomailbox": _H,
    "dnsproblem": _H,
    "greylisted": _S,
    "throttled": _S,
    "timeout": _S,
    "connectionproblem": _S,
    "connectionterminated": _S,
    "accountproblem": _S,
    "spam": _B,
    "blacklisted": _B,
    "spfproblem": _B,
    "whitelistingproblem": _B,
    "contentfilter": _B,
    "manualcancel": None,
    "ignore": None,
    "notdelivered": _U,
    "codeerror": _U,
    "unknown": _U,
}


def validate_credentials(credentials: Credentials) -> str | None:
    """Any text can be a token."""
    return None


def authenticate(request: WebhookRequest, credentials: Credentials) -> None:
    """Check the secret that the URL of the notification carries as ``token``."""
    if not check_token(request, credentials):
        raise AuthenticationError("no configured token in the URL")


def is_report(query: str) -> bool:
    """Whether a GET with this query is a notification, and not the probe of the set-up."""
    return "status=" in query


def parse(request: WebhookRequest) -> Parsed:
    """The one event of the parameters, from the body or else from the URL. Without a time or a name it is malformed."""
    fields = flat_fields(request.body or request.query.encode("utf-8", "replace"))
    if not fields.keys() & {"status", "messageid", "transaction"}:
        raise ParseError("request has no parameters of a notification")
    name, at = fields.get("status", "").strip(), _time(fields.get("date", ""))
    if not name or at is None:
        return Parsed(malformed=1)
    kind, bounce_class, reason = _KINDS.get(name.lower(), Kind.OTHER), None, ""
    if kind is Kind.BOUNCED:
        category = fields.get("category", "").strip()
        reason = reason_text(category)
        bounce_class = _CATEGORIES.get(category.lower(), classify(category))
        if bounce_class is None:
            kind = Kind.DROPPED
    stream = fields.get("channel", "")[:255]
    event = Event(
        kind,
        at,
        address_in(fields.get("to", "")),
        (fields.get("messageid") or fields.get("transaction", ""))[:512],
        "",
        bounce_class,
        domain_in(fields.get("from", "")),
        stream,
        (stream,) if stream else (),
        reason=reason,
        provider_event=event_name(name),
        discriminator=fields.get("target", "") if kind is Kind.CLICKED else "",
    )
    return Parsed((event,))


def _time(text: str) -> float | None:
    """Unix seconds of a UTC time, in ISO 8601 or the way .NET writes it by default (month first)."""
    if "/" not in text:
        return as_time(text)
    for form in ("%m/%d/%Y %I:%M:%S %p", "%m/%d/%Y %H:%M:%S"):
        try:
            return as_time(datetime.strptime(text.strip()[:32], form).replace(tzinfo=UTC).timestamp())
        except (ValueError, OverflowError):
            continue
    return None
