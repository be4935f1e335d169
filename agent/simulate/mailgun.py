"""Simulated Mailgun: one JSON event per request, with the proof within the body."""

from __future__ import annotations

import hmac
import secrets as tokens
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator
from hashlib import blake2b

import msgspec

from agent.clock import HOUR, MINUTE
from agent.events import BounceClass, Kind
from agent.providers.base import Credentials, secrets
from agent.simulate.base import KeyPair, Request
from agent.simulate.retry import Schedule
from agent.simulate.traffic import Item, Voice
from agent.simulate.wording import remote_text

VOICE = Voice(reports_accepted=True, names_domain=frozenset(Kind), async_ids=True)
# Docs "Webhook retries": 200 takes it, 406 ends it, and events of deliveries are not retried at all.
RETRY = Schedule(
    delays=(5 * MINUTE, 10 * MINUTE, 15 * MINUTE, HOUR, 2 * HOUR, 4 * HOUR),
    taken=frozenset({200}), final=frozenset({406}), once=b'"event":"delivered"',
)  # fmt: skip

_NAMES = {
    Kind.ACCEPTED: "accepted",
    Kind.DELIVERED: "delivered",
    Kind.DEFERRED: "failed",
    Kind.BOUNCED: "failed",
    Kind.DROPPED: "failed",
    Kind.OPENED: "opened",
    Kind.CLICKED: "clicked",
    Kind.COMPLAINED: "complained",
    Kind.UNSUBSCRIBED: "unsubscribed",
}
# Reason and code of a failure, 0 where the remote text has it: several ways to say the same.
_FAILURES: dict[Kind | BounceClass, tuple[tuple[str, int], ...]] = {
    BounceClass.HARD: (("bounce", 0), ("generic", 0), ("generic", 498)),
    BounceClass.SOFT: (("old", 0), ("generic", 499), ("bounce", 0)),
    BounceClass.BLOCK: (("espblock", 0), ("bounce", 0)),
    BounceClass.UNDETERMINED: (("generic", 0),),
    Kind.DEFERRED: (("generic", 0), ("greylisted", 0)),
    Kind.DROPPED: (("suppress-bounce", 605), ("suppress-complaint", 607), ("suppress-unsubscribe", 606)),
}
_encode = msgspec.json.Encoder().encode
_split = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def requests(items: Iterable[Item], batch: int) -> Iterator[Request]:
    """One event each: Mailgun does not batch, whatever ``batch`` is. ``sign_body`` adds the proof."""
    for item in items:
        yield Request(_encode({"event-data": _data(item)}), 1, item.emitted_at)


def sign_body(body: bytes, credentials: Credentials, now: float) -> bytes:
    """The body with its proof by the first ``signing_key``; what is no JSON object stays as it is. The same body bears
    the same token. Raises ``ValueError`` when there is no key."""
    key = _key(credentials)
    try:
        members = _split(body)
    except msgspec.MsgspecError:
        return body
    members.pop("signature", None)
    timestamp, token = str(int(now)), blake2b(body, digest_size=25).hexdigest()
    signature = hmac.digest(key.encode(), (timestamp + token).encode(), "sha256").hex()
    return _encode({"signature": {"timestamp": timestamp, "token": token, "signature": signature}, **members})


def sign(body: bytes, credentials: Credentials, now: float) -> dict[str, str]:
    """The headers, which prove nothing: ``sign_body`` does."""
    _key(credentials)
    return {"Content-Type": "application/json", "User-Agent": "mailgun/treq-22.2.0"}


def new_credentials() -> KeyPair:
    """A fresh signing key; both ends need the same."""
    both = {"signing_key": tokens.token_hex(16)}
    return KeyPair(both, both)


def _key(credentials: Credentials) -> str:
    keys = secrets(credentials, "signing_key")
    if not keys:
        raise ValueError("signing as Mailgun needs a signing_key")
    return keys[0]


def _id(text: str, size: int) -> bytes:
    return blake2b(text.encode(), digest_size=size).digest()


def _data(item: Item) -> dict[str, object]:
    engagement = item.kind in (Kind.OPENED, Kind.CLICKED, Kind.UNSUBSCRIBED)
    headers = {"message-id": f"20231114221320.{_id(item.recipient, 8).hex()}@{item.domain}"}
    if not engagement:
        headers |= {"to": item.recipient, "from": f"Hello <hello@{item.domain}>", "subject": "Simulated message"}
    data: dict[str, object] = {
        "event": _NAMES[item.kind],
        "id": urlsafe_b64encode(_id(f"{item.recipient}/{item.serial}/{item.id_version}", 16)).decode().rstrip("="),
        "timestamp": item.at + item.choice / 2**17,
        "log-level": "info",
        "recipient": item.recipient,
        "recipient-domain": item.recipient.rpartition("@")[2],
        "tags": [item.stream, "simulated"],
        "user-variables": {},
        "message": {"headers": headers},
        "flags": {"is-test-mode": False, "is-routed": False, "is-authenticated": True, "is-system-test": False},
    }
    if not engagement:
        sender = f"bounce+{item.message:x}-{item.recipient.replace('@', '=')}@{item.domain}"
        data["envelope"] = (
            {} if item.asynchronous else {"sender": sender, "transport": "smtp", "sending-ip": "192.0.2.25"}
        )
    match item.kind:
        case Kind.ACCEPTED:
            data["delivery-status"] = None
        case Kind.DELIVERED:
            data["delivery-status"] = {"code": 250, "message": remote_text(item).text, "attempt-no": 1, "tls": True}
        case Kind.BOUNCED | Kind.DEFERRED | Kind.DROPPED:
            data |= _failure(item)
        case Kind.OPENED | Kind.CLICKED:
            data |= {"ip": "198.51.100.7", "client-info": {"client-name": "Firefox", "client-type": "browser"}}
            if item.kind is Kind.CLICKED:
                data["url"] = f"https://{item.domain}/offer/{item.choice % 50}"
        case _:
            pass
    return data


def _failure(item: Item) -> dict[str, object]:
    wording, deferred = remote_text(item), item.kind is Kind.DEFERRED
    ways = _FAILURES[item.bounce_class or item.kind]
    # Of an asynchronous bounce nothing is known but its text.
    reason, code = ("bounce", 0) if item.asynchronous else ways[item.choice % len(ways)]
    status: dict[str, object] = {
        "code": code or int(wording.text[:3]),
        "enhanced-code": "" if code else wording.enhanced_code,
        "message": {498: "No MX for the recipient's domain", 499: "Too many attempts to connect"}.get(
            code, wording.text
        ),
        "description": "",
        "mx-host": f"mx.{item.recipient.rpartition('@')[2]}",
        "attempt-no": item.attempt or 1,
    }
    if deferred:
        status["retry-seconds"] = 600 * item.attempt
    flags = {"is-test-mode": False, "is-delayed-bounce": item.asynchronous}
    return {
        "log-level": "warn" if deferred else "error",
        "severity": "temporary" if deferred else "permanent",
        "reason": reason,
        "delivery-status": status,
        "flags": flags,
    }
