"""Simulated Mailjet: the events of a moment in one array, or one alone as a bare object; basic authentication."""

from __future__ import annotations

import secrets as tokens
from base64 import b64encode
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from uuid import UUID

import msgspec

from agent.events import BounceClass, Kind
from agent.providers.base import Credentials, secrets
from agent.simulate.base import KeyPair, Request
from agent.simulate.retry import Schedule
from agent.simulate.traffic import Item, Voice
from agent.simulate.wording import remote_text

# The domain travels in the message's payload. A bounce is a hard one or not, so none is undetermined.
VOICE = Voice(
    reports_accepted=False,
    names_domain=frozenset(Kind),
    async_ids=True,
    classes={BounceClass.UNDETERMINED: BounceClass.SOFT},
)
# Docs "Event API": 200 takes it; every 30 seconds for 24 hours, then the URL is suspended.
RETRY = Schedule(delays=(30.0,) * 2880, taken=frozenset({200}))

_NAMES = {
    Kind.DELIVERED: "sent",
    Kind.DEFERRED: "bounce",
    Kind.BOUNCED: "bounce",
    Kind.DROPPED: "blocked",
    Kind.OPENED: "open",
    Kind.CLICKED: "click",
    Kind.COMPLAINED: "spam",
    Kind.UNSUBSCRIBED: "unsub",
}
# Whether it is a hard bounce, what the error is related to, and the error: several ways to say the same.
_FAILURES: dict[Kind | BounceClass, tuple[tuple[bool, str, str], ...]] = {
    BounceClass.HARD: (
        (True, "recipient", "user unknown"),
        (False, "domain", "invalid domain"),
        (True, "domain", "no mail host"),
    ),
    BounceClass.SOFT: (
        (False, "recipient", "quota exceeded"),
        (False, "system", "connection issue"),
        (False, "system", "system issue"),
    ),
    BounceClass.BLOCK: (
        (False, "spam", "sender blocked"),
        (False, "spam", "content blocked"),
        (True, "domain", "relay/access denied"),
    ),
    Kind.DEFERRED: ((False, "domain", "greylisted"),),
    Kind.DROPPED: ((False, "mailjet", "preblocked"), (False, "recipient", "spam reporter")),
}
_BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
_encode = msgspec.json.Encoder().encode


def requests(items: Iterable[Item], batch: int) -> Iterator[Request]:
    """Arrays of up to ``batch`` events of all types; bare objects when ``batch`` is 1."""
    bodies: list[bytes] = []
    emitted_at = 0.0
    for item in items:
        bodies.append(_encode(_payload(item)))
        emitted_at = item.emitted_at
        if len(bodies) >= batch:
            yield Request(bodies[0] if batch == 1 else b"[" + b",".join(bodies) + b"]", len(bodies), emitted_at)
            bodies = []
    if bodies:
        yield Request(b"[" + b",".join(bodies) + b"]", len(bodies), emitted_at)


def sign(body: bytes, credentials: Credentials, now: float) -> dict[str, str]:
    """Basic authentication by the first ``username`` and ``password``."""
    users, passwords = secrets(credentials, "username"), secrets(credentials, "password")
    if not users or not passwords:
        raise ValueError("signing as Mailjet needs username and password")
    pair = b64encode(f"{users[0]}:{passwords[0]}".encode()).decode("ascii")
    return {"Content-Type": "application/json", "User-Agent": "Mailjet-api/1.0", "Authorization": f"Basic {pair}"}


def new_credentials() -> KeyPair:
    """A fresh user name and password; both ends need the same."""
    both = {"username": "mailjet", "password": tokens.token_urlsafe(24)}
    return KeyPair(both, both)


def _payload(item: Item) -> dict[str, object]:
    digest = blake2b(item.recipient.encode(), digest_size=16).digest()
    payload: dict[str, object] = {
        "event": _NAMES[item.kind],
        "time": item.at,
        "MessageID": int.from_bytes(digest[:7], "big") + 10**17,
        "Message_GUID": str(UUID(bytes=digest)),
        "email": item.recipient,
        "mj_campaign_id": 7,
        "mj_contact_id": item.message,
        "customcampaign": item.stream,
        "CustomID": "simulated",
        "Payload": _encode({"from_domain": item.domain}).decode(),
    }
    match item.kind:
        case Kind.DELIVERED:
            payload["smtp_reply"] = f"sent ({remote_text(item).text})"
        case Kind.BOUNCED | Kind.DEFERRED | Kind.DROPPED:
            ways = _FAILURES[item.bounce_class or item.kind]
            hard, related_to, error = ways[item.choice % len(ways)]
            payload |= {"error_related_to": related_to, "error": error}
            if item.kind is not Kind.DROPPED:
                payload |= {"blocked": hard, "hard_bounce": hard, "comment": remote_text(item).text}
        case Kind.COMPLAINED:
            payload["source"] = "JMRPP"
        case Kind.OPENED | Kind.CLICKED | Kind.UNSUBSCRIBED:
            payload |= {"ip": "198.51.100.7", "geo": "DE", "agent": _BROWSER}
            if item.kind is Kind.CLICKED:
                payload["url"] = f"https://{item.domain}/offer/{item.choice % 50}"
        case _:
            pass
    return payload
