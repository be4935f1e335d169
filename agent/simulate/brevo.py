"""Simulated Brevo: one event as an object, or a batch as an array; basic authentication."""

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

# The domain travels in the message's custom header. A bounce is hard or soft, so none is undetermined.
VOICE = Voice(
    reports_accepted=True,
    names_domain=frozenset(Kind),
    async_ids=True,
    classes={BounceClass.UNDETERMINED: BounceClass.SOFT},
)
RETRY = ASSUMED  # no schedule is documented

RETRY = ASSUMED

_LARGEST_BATCH = 500
# Two hours east of Greenwich, so that no one takes local times for UTC.
_TIME_ZONE = 7200
# Several ways to say the same; without a word for blocks, they come as either of the bounces.
_NAMES: dict[Kind | BounceClass, tuple[str, ...]] = {
    Kind.ACCEPTED: ("request",),
    Kind.DELIVERED: ("delivered",),
    Kind.DEFERRED: ("deferred",),
    Kind.DROPPED: ("blocked", "error", "invalid_email"),
    Kind.OPENED: ("opened", "unique_opened"),
    Kind.CLICKED: ("click",),
    Kind.COMPLAINED: ("spam", "complaint"),
    Kind.UNSUBSCRIBED: ("unsubscribed", "unsubscribe"),
    BounceClass.HARD: ("hard_bounce",),
    BounceClass.SOFT: ("soft_bounce",),
    BounceClass.BLOCK: ("hard_bounce", "soft_bounce"),
}
_encode = msgspec.json.Encoder().encode


def requests(items: Iterable[Item], batch: int) -> Iterator[Request]:
    """Arrays of up to ``batch`` events, 500 at most; bare objects when ``batch`` is 1."""
    bodies: list[bytes] = []
    emitted_at = 0.0
    for item in items:
        bodies.append(_encode(_payload(item)))
        emitted_at = item.emitted_at
        if len(bodies) >= min(batch, _LARGEST_BATCH):
            yield Request(bodies[0] if batch == 1 else b"[" + b",".join(bodies) + b"]", len(bodies), emitted_at)
            bodies = []
    if bodies:
        yield Request(b"[" + b",".join(bodies) + b"]", len(bodies), emitted_at)


def sign(body: bytes, credentials: Credentials, now: float) -> dict[str, str]:
    """Basic authentication by the first ``username`` and ``password``."""
    users, passwords = secrets(credentials, "username"), secrets(credentials, "password")
    if not users or not passwords:
        raise ValueError("signing as Brevo needs username and password")
    pair = b64encode(f"{users[0]}:{passwords[0]}".encode()).decode("ascii")
    return {"Content-Type": "application/json", "Authorization": f"Basic {pair}"}


def new_credentials() -> KeyPair:
    """A fresh user name and password; both ends need the same."""
    both = {"username": "brevo", "password": tokens.token_urlsafe(24)}
    return KeyPair(both, both)


def _payload(item: Item) -> dict[str, object]:
    names = _NAMES[item.bounce_class or item.kind]
    local = item.at + _TIME_ZONE
    payload: dict[str, object] = {
        "event": names[item.choice % len(names)],
        "email": item.recipient,
        "id": 26224,
        "date": datetime.fromtimestamp(local, UTC).strftime("%Y-%m-%d %H:%M:%S"),
        "ts": local,
        "ts_event": local,
        "ts_epoch": item.at * 1000,
        "message-id": f"<{blake2b(item.recipient.encode(), digest_size=8).hexdigest()}@smtp-relay.mailin.fr>",
        "subject": "Simulated message",
        "tags": [item.stream, "simulated"],
        "tag": _encode([item.stream, "simulated"]).decode(),
        "X-Mailin-custom": _encode({"from_domain": item.domain}).decode(),
        "sending_ip": "192.0.2.25",
    }
    match item.kind:
        case Kind.BOUNCED | Kind.DEFERRED:
            payload["reason"] = f" RecipientError: {remote_text(item).text}"
        case Kind.DROPPED:
            payload["reason"] = "blocked : due to blacklist user"
        case Kind.CLICKED:
            payload["link"] = f"https://{item.domain}/offer/{item.choice % 50}"
        case _:
            pass
    return payload
