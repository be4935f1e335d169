"""Simulated SMTP2GO: one JSON event per request, behind basic authentication."""

from __future__ import annotations

import secrets as tokens
from base64 import b64encode
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from hashlib import blake2b

import msgspec

from agent.events import BounceClass, Kind
from agent.providers.base import Credentials, secrets
from agent.simulate.base import KeyPair, Request
from agent.simulate.retry import ASSUMED
from agent.simulate.traffic import Item, Voice
from agent.simulate.wording import remote_text

# While attempts go on SMTP2GO tells of nothing.
VOICE = Voice(
    reports_accepted=True, names_domain=frozenset(Kind), async_ids=True, silent=frozenset({Kind.DEFERRED})
)  # fmt: skip
RETRY = ASSUMED

_NAMES = {
    Kind.ACCEPTED: "processed",
    Kind.DELIVERED: "delivered",
    Kind.BOUNCED: "bounce",
    Kind.DROPPED: "reject",
    Kind.OPENED: "open",
    Kind.CLICKED: "click",
    Kind.COMPLAINED: "spam",
    Kind.UNSUBSCRIBED: "unsubscribe",
}
# Without a word for blocks, they come as either of the two.
_BOUNCES = {
    BounceClass.HARD: ("hard",),
    BounceClass.SOFT: ("soft",),
    BounceClass.BLOCK: ("hard", "soft"),
    BounceClass.UNDETERMINED: ("",),
}
_encode = msgspec.json.Encoder().encode


def requests(items: Iterable[Item], batch: int) -> Iterator[Request]:
    """One event each: SMTP2GO does not batch, whatever ``batch`` is."""
    for item in items:
        yield Request(_encode(_payload(item)), 1, item.emitted_at)


def sign(body: bytes, credentials: Credentials, now: float) -> dict[str, str]:
    """Basic authentication by the first ``username`` and ``password``."""
    users, passwords = secrets(credentials, "username"), secrets(credentials, "password")
    if not users or not passwords:
        raise ValueError("signing as SMTP2GO needs username and password")
    pair = b64encode(f"{users[0]}:{passwords[0]}".encode()).decode("ascii")
    return {"Content-Type": "application/json", "Authorization": f"Basic {pair}"}


def new_credentials() -> KeyPair:
    """A fresh user name and password; both ends need the same."""
    both = {"username": "smtp2go", "password": tokens.token_urlsafe(24)}
    return KeyPair(both, both)


def _payload(item: Item) -> dict[str, object]:
    payload: dict[str, object] = {
        "event": _NAMES[item.kind],
        "time": datetime.fromtimestamp(item.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "email_id": "1" + blake2b(item.recipient.encode(), digest_size=8).hexdigest(),
        "rcpt": item.recipient,
        "sender": f"bounces@{item.domain}",
        "from": f"Simulated sender <hello@{item.domain}>",
        "auth": item.stream,
        "subject": "Simulated message",
    }
    if item.kind is Kind.BOUNCED:
        ways = _BOUNCES[item.bounce_class or BounceClass.UNDETERMINED]
        payload |= {"host": f"mx.{item.recipient.rpartition('@')[2]}", "message": remote_text(item).text}
        if bounce := ways[item.choice % len(ways)]:
            payload["bounce"] = bounce
    elif item.kind is Kind.DROPPED:
        payload["message"] = remote_text(item).text
    elif item.kind is Kind.CLICKED:
        payload["url"] = f"https://{item.domain}/offer/{item.choice % 50}"
    return payload
