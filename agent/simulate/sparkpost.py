"""Simulated SparkPost: batches of events of all types, behind basic authentication."""

from __future__ import annotations

import secrets as tokens
from base64 import b64encode
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from uuid import UUID

import msgspec

from agent.clock import MINUTE
from agent.events import BounceClass, Kind
from agent.providers.base import Credentials, secrets
from agent.simulate.base import KeyPair, Request
from agent.simulate.retry import Schedule
from agent.simulate.traffic import Item, Voice
from agent.simulate.wording import remote_text

VOICE = Voice(reports_accepted=True, names_domain=frozenset(Kind), async_ids=True)
# Docs "Webhooks": 11 retries within 8 hours. How the intervals grow is not documented.
RETRY = Schedule(delays=(*((2 << n) * MINUTE for n in range(6)), *(70 * MINUTE,) * 5))

# Class of the wrapper, and type, of each kind: several ways to say the same.
_TYPES: dict[Kind, tuple[tuple[str, str], ...]] = {
    Kind.ACCEPTED: (("message_event", "injection"),),
    Kind.DELIVERED: (("message_event", "delivery"),),
    Kind.DEFERRED: (("message_event", "delay"),),
    Kind.BOUNCED: (("message_event", "bounce"),),
    Kind.DROPPED: (
        ("message_event", "policy_rejection"),
        ("gen_event", "generation_failure"),
        ("gen_event", "generation_rejection"),
    ),
    Kind.COMPLAINED: (("message_event", "spam_complaint"),),
    Kind.UNSUBSCRIBED: (("unsubscribe_event", "list_unsubscribe"), ("unsubscribe_event", "link_unsubscribe")),
    Kind.OPENED: (("track_event", "open"),),
    Kind.CLICKED: (("track_event", "click"),),
}
_CLASSES: dict[BounceClass, tuple[str, ...]] = {
    BounceClass.HARD: ("10", "30"),
    BounceClass.SOFT: ("20", "21", "22", "24", "40", "70"),
    BounceClass.BLOCK: ("50", "51", "52", "54"),
    BounceClass.UNDETERMINED: ("1",),
}
_BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
_encode = msgspec.json.Encoder().encode


def requests(items: Iterable[Item], batch: int) -> Iterator[Request]:
    """Arrays of up to ``batch`` events of all types."""
    bodies: list[bytes] = []
    emitted_at = 0.0
    for item in items:
        bodies.append(_encode(_payload(item)))
        emitted_at = item.emitted_at
        if len(bodies) >= batch:
            yield Request(b"[" + b",".join(bodies) + b"]", len(bodies), emitted_at)
            bodies = []
    if bodies:
        yield Request(b"[" + b",".join(bodies) + b"]", len(bodies), emitted_at)


def sign(body: bytes, credentials: Credentials, now: float) -> dict[str, str]:
    """Basic authentication, and the batch id that stays the same when a batch is sent again."""
    users, passwords = secrets(credentials, "username"), secrets(credentials, "password")
    if not users or not passwords:
        raise ValueError("signing as SparkPost needs username and password")
    return {
        "Content-Type": "application/json",
        "User-Agent": "SparkPost",
        "X-MessageSystems-Batch-ID": str(UUID(bytes=blake2b(body, digest_size=16).digest())),
        "Authorization": "Basic " + b64encode(f"{users[0]}:{passwords[0]}".encode()).decode("ascii"),
    }


def new_credentials() -> KeyPair:
    """A fresh user name and password; both ends need the same."""
    both = {"username": "sparkpost", "password": tokens.token_urlsafe(24)}
    return KeyPair(both, both)


def _hash(text: str, size: int) -> bytes:
    return blake2b(text.encode(), digest_size=size).digest()


def _payload(item: Item) -> dict[str, object]:
    ways = _TYPES[item.kind]
    wrapper, name = ways[item.choice % len(ways)]
    if item.asynchronous:
        name = "out_of_band"
    event_id = _hash(f"{item.recipient}/{item.serial}/{item.id_version}", 16)
    data: dict[str, object] = {
        "type": name,
        # Of mail events it is a number in text, of engagement a UUID.
        "event_id": str(UUID(bytes=event_id)) if wrapper == "track_event" else str(int.from_bytes(event_id[:8], "big")),
        "timestamp": str(item.at),
        "message_id": _hash(item.recipient, 10).hex(),
        "rcpt_to": item.recipient,
        "raw_rcpt_to": item.recipient.replace("mv.", "Mv.", 1),
        "customer_id": "1",
        "subaccount_id": "0",
        "campaign_id": item.stream,
        "rcpt_tags": ["simulated"],
        "rcpt_meta": {},
    }
    if not item.asynchronous:
        data["transmission_id"] = str(10**17 + item.message)
    if item.kind is Kind.UNSUBSCRIBED:
        data["mailfrom"] = f"bounce@{item.domain}"
    else:
        data |= {"friendly_from": f"hello@{item.domain}", "msg_from": f"bounce@rp.{item.domain}"}
    return {"msys": {wrapper: data | _details(item)}}


def _details(item: Item) -> dict[str, object]:
    """What an event says beyond the others."""
    details: dict[str, object] = {"delv_method": "esmtp", "ip_pool": "shared", "sending_ip": "192.0.2.25"}
    text = remote_text(item).text
    match item.kind:
        case Kind.BOUNCED | Kind.DEFERRED:
            classes = _CLASSES[item.bounce_class or BounceClass.SOFT]
            masked = text.replace(item.recipient, "<recipient>").replace("192.0.2.25", "x.x.x.x")
            details |= {"bounce_class": classes[item.choice % len(classes)], "error_code": text[:3]}
            details |= {"raw_reason": text, "reason": masked}
            if not item.asynchronous:
                details |= {"num_retries": str(item.attempt), "queue_time": str(1000 + item.choice)}
        case Kind.DROPPED:
            reason = "554 5.7.1 recipient address suppressed due to customer policy"
            details |= {"error_code": "554", "raw_reason": reason, "reason": reason}
        case Kind.DELIVERED:
            details |= {"num_retries": "0", "queue_time": str(1000 + item.choice)}
        case Kind.COMPLAINED:
            details |= {"fbtype": "abuse", "report_by": "feedback.example", "report_to": "abuse.sparkpost.example"}
        case Kind.OPENED | Kind.CLICKED:
            details |= {"user_agent": _BROWSER, "ip_address": "198.51.100.7", "geo_ip": {"country": "DE"}}
            if item.kind is Kind.CLICKED:
                details["target_link_url"] = f"https://{item.domain}/offer/{item.choice % 50}"
        case _:
            pass
    return details
