"""Simulated Resend: one event per request, signed as Svix signs."""

from __future__ import annotations

import hmac
import secrets as tokens
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from hashlib import blake2b
from uuid import UUID

import msgspec

from agent.clock import HOUR, MINUTE
from agent.events import BounceClass, Kind
from agent.providers.base import Credentials, secrets
from agent.simulate.base import KeyPair, Request
from agent.simulate.retry import Schedule
from agent.simulate.traffic import Item, Voice
from agent.simulate.wording import remote_text

# An unsubscribed contact is no event of a message.
VOICE = Voice(
    reports_accepted=True, names_domain=frozenset(Kind), async_ids=True, silent=frozenset({Kind.UNSUBSCRIBED})
)  # fmt: skip
# Docs of Svix, "Retries".
RETRY = Schedule(delays=(5.0, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 10 * HOUR))

_TYPES: dict[Kind, tuple[str, ...]] = {
    Kind.ACCEPTED: ("email.sent",),
    Kind.DELIVERED: ("email.delivered",),
    Kind.DEFERRED: ("email.delivery_delayed",),
    Kind.BOUNCED: ("email.bounced",),
    Kind.DROPPED: ("email.suppressed", "email.failed"),
    Kind.COMPLAINED: ("email.complained",),
    Kind.OPENED: ("email.opened",),
    Kind.CLICKED: ("email.clicked",),
}
# Type and subtype of a bounce: several ways to say the same.
_BOUNCES: dict[BounceClass, tuple[tuple[str, str], ...]] = {
    BounceClass.HARD: (("Permanent", "General"), ("Permanent", "NoEmail")),
    BounceClass.SOFT: (("Transient", "General"), ("Transient", "MailboxFull")),
    BounceClass.BLOCK: (
        ("Transient", "ContentRejected"),
        ("Transient", "AttachmentRejected"),
        ("Permanent", "General"),
    ),
    BounceClass.UNDETERMINED: (("Undetermined", "Undetermined"),),
}
_BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
_encode = msgspec.json.Encoder().encode


def requests(items: Iterable[Item], batch: int) -> Iterator[Request]:
    """One event each: Resend does not batch, whatever ``batch`` is."""
    for item in items:
        yield Request(_encode(_payload(item)), 1, item.emitted_at)


def sign(body: bytes, credentials: Credentials, now: float) -> dict[str, str]:
    """The three Svix headers. The id is that of the body, so it stays the same when a request is sent again."""
    keys = secrets(credentials, "signing_secret")
    if not keys:
        raise ValueError("signing as Resend needs a signing_secret")
    try:
        key = b64decode(keys[0].removeprefix("whsec_"), validate=True)
    except ValueError as error:
        raise ValueError("signing_secret is not whsec_ and base64") from error
    identity, timestamp = "msg_" + blake2b(body, digest_size=13).hexdigest(), str(int(now))
    digest = hmac.digest(key, f"{identity}.{timestamp}.".encode() + body, "sha256")
    return {
        "Content-Type": "application/json",
        "User-Agent": "Svix-Webhooks/1.62.0 (sender-9YMgn; +https://www.svix.com/http-sender/)",
        "svix-id": identity,
        "svix-timestamp": timestamp,
        "svix-signature": "v1," + b64encode(digest).decode("ascii"),
    }


def new_credentials() -> KeyPair:
    """A fresh ``signing_secret``; both ends need the same."""
    both = {"signing_secret": "whsec_" + b64encode(tokens.token_bytes(24)).decode("ascii")}
    return KeyPair(both, both)


def _time(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _payload(item: Item) -> dict[str, object]:
    ways = _TYPES[item.kind]
    name = ways[item.choice % len(ways)]
    data: dict[str, object] = {
        "email_id": str(UUID(bytes=blake2b(item.recipient.encode(), digest_size=16).digest())),
        "created_at": _time(item.at - 60),
        "from": f"Simulated sender <hello@{item.domain}>",
        "to": [item.recipient],
        "subject": "Simulated message",
        "tags": {"category": item.stream, "origin": "simulated"},
    }
    return {"type": name, "created_at": _time(item.at), "data": data | _details(item, name)}


def _details(item: Item, name: str) -> dict[str, object]:
    """What an event says beyond the others."""
    if item.kind is Kind.BOUNCED:
        ways = _BOUNCES[item.bounce_class or BounceClass.HARD]
        bounce_type, sub_type = ways[item.choice % len(ways)]
        diagnostic = f"smtp; {remote_text(item).text}"
        if item.bounce_class is BounceClass.BLOCK and bounce_type == "Permanent":
            diagnostic = "smtp; 550 5.7.1 Message refused by policy"
        bounce: dict[str, object] = {"type": bounce_type, "subType": sub_type, "message": "The mail server bounced it."}
        return {"bounce": bounce | {"diagnosticCode": [diagnostic]}}
    if name == "email.suppressed":
        reason = ("previous_bounce", "previous_complaint")[item.choice // 2 % 2]
        return {
            "suppressed": {"type": "OnAccountSuppressionList", "reason": reason, "message": "On the suppression list."}
        }
    if name == "email.failed":
        return {"failed": {"reason": "reached_daily_quota"}}
    if item.kind is Kind.CLICKED:
        link = f"https://{item.domain}/offer/{item.choice % 50}"
        return {
            "click": {"ipAddress": "198.51.100.7", "link": link, "timestamp": _time(item.at), "userAgent": _BROWSER}
        }
    return {}
