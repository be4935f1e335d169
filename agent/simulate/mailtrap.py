"""Simulated Mailtrap: batches as one JSON object, signed over the body."""

from __future__ import annotations

import hmac
import secrets as tokens
from base64 import b64encode
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from uuid import UUID

import msgspec

from agent.events import BounceClass, Kind
from agent.providers.base import Credentials, secrets
from agent.simulate.base import KeyPair, Request
from agent.simulate.retry import ASSUMED, Schedule
from agent.simulate.traffic import Item, Voice
from agent.simulate.wording import remote_text

# A bounce whose text says nothing is a hard one; there is no event of mail that was merely taken.
VOICE = Voice(
    reports_accepted=False,
    names_domain=frozenset(),
    async_ids=True,
    classes={BounceClass.UNDETERMINED: BounceClass.HARD},
)
# Only that 200 takes it is documented.
RETRY = Schedule(delays=ASSUMED.delays, taken=frozenset({200}), confirmed=False)

_TYPES: dict[Kind, tuple[str, ...]] = {
    Kind.DELIVERED: ("delivery",),
    Kind.DEFERRED: ("soft bounce",),
    Kind.BOUNCED: ("bounce",),
    Kind.DROPPED: ("suspension", "reject"),
    Kind.COMPLAINED: ("spam",),
    Kind.UNSUBSCRIBED: ("unsubscribe",),
    Kind.OPENED: ("open",),
    Kind.CLICKED: ("click",),
}
_CATEGORIES = {BounceClass.HARD: "hard", BounceClass.SOFT: "unavailable", BounceClass.BLOCK: "spam"}
_BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
_encode = msgspec.json.Encoder().encode


def requests(items: Iterable[Item], batch: int) -> Iterator[Request]:
    """Objects with up to ``batch`` events of all types each."""
    bodies: list[bytes] = []
    emitted_at = 0.0
    for item in items:
        bodies.append(_encode(_payload(item)))
        emitted_at = item.emitted_at
        if len(bodies) >= batch:
            yield Request(b'{"events":[' + b",".join(bodies) + b"]}", len(bodies), emitted_at)
            bodies = []
    if bodies:
        yield Request(b'{"events":[' + b",".join(bodies) + b"]}", len(bodies), emitted_at)


def sign(body: bytes, credentials: Credentials, now: float) -> dict[str, str]:
    """The signature, basic authentication and a bearer token, whichever of them has its credentials."""
    headers = {"Content-Type": "application/json", "User-Agent": "Mailtrap"}
    users, passwords = secrets(credentials, "username"), secrets(credentials, "password")
    if keys := secrets(credentials, "signing_secret"):
        headers["Mailtrap-Signature"] = hmac.digest(keys[0].encode(), body, "sha256").hex()
    if users and passwords:
        headers["Authorization"] = "Basic " + b64encode(f"{users[0]}:{passwords[0]}".encode()).decode("ascii")
    elif found := secrets(credentials, "token"):
        headers["Authorization"] = f"Bearer {found[0]}"
    if len(headers) == 2:
        raise ValueError("signing as Mailtrap needs a signing_secret, username and password, or a token")
    return headers


def new_credentials() -> KeyPair:
    """A fresh ``signing_secret``; both ends need the same."""
    both = {"signing_secret": tokens.token_hex(16)}
    return KeyPair(both, both)


def _uuid(text: str) -> str:
    return str(UUID(bytes=blake2b(text.encode(), digest_size=16).digest()))


def _payload(item: Item) -> dict[str, object]:
    ways = _TYPES[item.kind]
    event: dict[str, object] = {
        "event": ways[item.choice % len(ways)],
        "event_id": _uuid(f"{item.recipient}/{item.serial}/{item.id_version}"),
        "message_id": _uuid(item.recipient),
        "email": item.recipient,
        "timestamp": item.at,
        "sending_stream": item.stream,
        "category": "simulated",
        "custom_variables": {"message": str(item.message)},
    }
    match item.kind:
        case Kind.BOUNCED | Kind.DEFERRED:
            text = remote_text(item).text
            wrapper = "soft bounce" if item.kind is Kind.DEFERRED else "bounced"
            category = _CATEGORIES.get(item.bounce_class or BounceClass.SOFT, "unavailable")
            event |= {"response": f"{wrapper} ({text})", "response_code": int(text[:3]), "bounce_category": category}
        case Kind.DROPPED:
            event["reason"] = "The recipient is on the suppression list"
        case Kind.OPENED | Kind.CLICKED:
            event |= {"ip": "198.51.100.7", "user_agent": _BROWSER}
            if item.kind is Kind.CLICKED:
                event["url"] = f"https://{item.domain}/offer/{item.choice % 50}"
        case _:
            pass
    return event
