"""Simulated MailerSend: one event per request in either generation of payloads, signed over the body."""

from __future__ import annotations

import hmac
import secrets as tokens
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from hashlib import blake2b

import msgspec

from agent.events import BounceClass, Kind
from agent.providers.base import Credentials, secrets
from agent.simulate.base import KeyPair, Request
from agent.simulate.retry import Schedule
from agent.simulate.traffic import Item, Voice
from agent.simulate.wording import remote_text

# Only the older payloads name the sender. Bounces are hard or soft, and nothing else.
VOICE = Voice(
    reports_accepted=True,
    names_domain=frozenset({Kind.ACCEPTED, Kind.OPENED, Kind.CLICKED, Kind.UNSUBSCRIBED, Kind.COMPLAINED}),
    async_ids=True,
    classes={BounceClass.UNDETERMINED: BounceClass.SOFT},
)
# The older docs' two retries; newer ones speak of some three days. No 4xx but 429 is retried. Unconfirmed.
RETRY = Schedule(delays=(10.0, 100.0), final=frozenset(range(400, 500)) - {429}, confirmed=False)

_TYPES = {
    Kind.ACCEPTED: "sent",
    Kind.DELIVERED: "delivered",
    Kind.DEFERRED: "deferred",
    Kind.DROPPED: "suppressed",
    Kind.OPENED: "opened",
    Kind.CLICKED: "clicked",
    Kind.UNSUBSCRIBED: "unsubscribed",
    Kind.COMPLAINED: "spam_complaint",
}
_OBJECTS = {
    Kind.OPENED: "open",
    Kind.CLICKED: "click",
    Kind.UNSUBSCRIBED: "recipient_unsubscribe",
    Kind.COMPLAINED: "spam_complaint",
}
_encode = msgspec.json.Encoder().encode


def requests(items: Iterable[Item], batch: int) -> Iterator[Request]:
    """One event each: MailerSend does not batch, whatever ``batch`` is. Slashes are escaped, as it does."""
    for item in items:
        yield Request(_encode(_payload(item)).replace(b"/", b"\\/"), 1, item.emitted_at)


def sign(body: bytes, credentials: Credentials, now: float) -> dict[str, str]:
    """The signature, by the ``signing_secret`` among the credentials."""
    keys = secrets(credentials, "signing_secret")
    if not keys:
        raise ValueError("signing as MailerSend needs a signing_secret")
    digest = hmac.digest(keys[0].encode(), body, "sha256")
    return {"Content-Type": "application/json", "User-Agent": "MailerSend", "Signature": digest.hex()}


def new_credentials() -> KeyPair:
    """A fresh ``signing_secret``; both ends need the same."""
    both = {"signing_secret": tokens.token_urlsafe(24)}
    return KeyPair(both, both)


def _id(text: str) -> str:
    return blake2b(text.encode(), digest_size=12).hexdigest()


def _payload(item: Item) -> dict[str, object]:
    if item.kind is Kind.BOUNCED:
        name = "hard_bounced" if item.bounce_class is BounceClass.HARD else "soft_bounced"
    else:
        name = _TYPES[item.kind]
    at = datetime.fromtimestamp(item.at, UTC).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
    event_id = _id(f"{item.recipient}/{item.serial}/{item.id_version}")
    message_id, email_id = _id(f"message {item.recipient}"), _id(f"email {item.recipient}")
    tags = [item.stream, "simulated"]
    details = _details(item)
    if item.kind in VOICE.names_domain:
        email = {
            "object": "email",
            "id": email_id,
            "created_at": at,
            "from": f"hello@{item.domain}",
            "subject": "Simulated message",
            "status": "delivered",
            "tags": tags,
            "message": {"object": "message", "id": message_id, "created_at": at},
            "recipient": {"object": "recipient", "id": _id(f"recipient {item.recipient}"), "email": item.recipient},
        }
        morph = {"object": _OBJECTS.get(item.kind, ""), **details} if details else None
        data: dict[str, object] = {"object": "activity", "id": event_id, "type": name, "created_at": at}
        data |= {"email": email, "morph": morph, "template_id": "simulated"}
        top = {"domain_id": _id(item.domain), "webhook_id": "simulated", "url": "https://hooks.example.com/mailersend"}
        return {"type": f"activity.{name}", **top, "created_at": at, "data": data}
    flat = {
        "id": event_id,
        "type": name,
        "domain_id": _id(item.domain),
        "message_id": message_id,
        "email_id": email_id,
        "email": item.recipient,
        "tags": tags,
        "meta": details or [],
    }
    return {"type": f"activity.{name}", "created_at": at, "data": flat}


def _details(item: Item) -> dict[str, object]:
    """What an event says beyond the others."""
    match item.kind:
        case Kind.BOUNCED if item.bounce_class is BounceClass.SOFT and item.choice % 2:
            return {"reason": "Unknown reason", "readable_reason": "Unknown reason"}
        case Kind.BOUNCED | Kind.DEFERRED:
            return {"reason": remote_text(item).text, "readable_reason": "The receiving server did not take it"}
        case Kind.DROPPED:
            return {"reason": "The recipient is on a suppression list"}
        case Kind.CLICKED:
            return {"ip": "198.51.100.7", "url": f"https://{item.domain}/offer/{item.choice % 50}"}
        case Kind.OPENED:
            return {"ip": "198.51.100.7"}
        case Kind.UNSUBSCRIBED:
            return {"reason": "Other", "readable_reason": "Other"}
        case _:
            return {}
