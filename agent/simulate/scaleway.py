"""Simulated Scaleway Transactional Email: one event per request, in the envelope of Topics and Events or bare."""

from __future__ import annotations

import secrets as tokens
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from hashlib import blake2b
from uuid import UUID

import msgspec

from agent.events import BounceClass, Kind
from agent.providers.base import Credentials, secrets
from agent.simulate.base import KeyPair, Request
from agent.simulate.retry import ASSUMED
from agent.simulate.traffic import Item, Voice
from agent.simulate.wording import remote_text

VOICE = Voice(
    reports_accepted=True,
    names_domain=frozenset(Kind),
    async_ids=True,
    silent=frozenset({Kind.OPENED, Kind.CLICKED, Kind.COMPLAINED, Kind.UNSUBSCRIBED}),
    names_stream=False,
)
RETRY = ASSUMED

_TYPES = {
    Kind.ACCEPTED: "email_queued",
    Kind.DELIVERED: "email_delivered",
    Kind.DEFERRED: "email_deferred",
    Kind.BOUNCED: "email_dropped",
    Kind.DROPPED: "email_blocklisted",
}
_encode = msgspec.json.Encoder().encode


def requests(items: Iterable[Item], batch: int) -> Iterator[Request]:
    """One event each: Scaleway does not batch, whatever ``batch`` is."""
    for item in items:
        body = _encode(_record(item))
        if item.choice % 2:
            topic = "arn:scw:sns:fr-par:project-00000000-0000-0000-0000-000000000000:simulated"
            body = _encode(
                {
                    "Type": "Notification",
                    "MessageId": _id(f"{item.recipient}/{item.serial}/{item.id_version}/envelope"),
                    "TopicArn": topic,
                    "Message": body.decode(),
                    "Timestamp": _time(item.at),
                    "SignatureVersion": "1",
                    "Signature": "",
                }
            )
        yield Request(body, 1, item.emitted_at)


def sign(body: bytes, credentials: Credentials, now: float) -> dict[str, str]:
    """The headers, with the first ``token`` as a bearer's: the simulator does not write URLs."""
    live = secrets(credentials, "token")
    if not live:
        raise ValueError("posting as Scaleway needs a token")
    return {"Content-Type": "text/plain; charset=UTF-8", "Authorization": f"Bearer {live[0]}"}


def new_credentials() -> KeyPair:
    """A fresh token; both ends need the same."""
    both = {"token": tokens.token_hex(16)}
    return KeyPair(both, both)


def _id(text: str) -> str:
    return str(UUID(bytes=blake2b(text.encode(), digest_size=16).digest()))


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _record(item: Item) -> dict[str, object]:
    name = _TYPES[item.kind]
    # One type says no more than the other where both could be told.
    if item.bounce_class is BounceClass.HARD and item.choice % 3 == 0:
        name = "email_mailbox_not_found"
    elif item.bounce_class is BounceClass.BLOCK and item.choice % 3 == 0:
        name = "email_spam"
    record: dict[str, object] = {
        "id": _id(f"{item.recipient}/{item.serial}/{item.id_version}"),
        "type": name,
        "organization_id": _id("organization"),
        "project_id": _id("project"),
        "domain_id": _id(item.domain),
        "domain_name": item.domain,
        "created_at": _time(item.at),
        "email_id": _id(item.recipient),
        "email_from": f"hello@{item.domain}",
        "email_to": item.recipient,
        "email_headers": [{"key": "Subject", "value": "Simulated message"}],
    }
    if item.kind is Kind.DROPPED:
        return record | {"blocklist_type": "mailbox_not_found", "blocklist_reason": "mailbox not found before"}
    if item.kind is not Kind.ACCEPTED:
        text = remote_text(item).text
        record |= {"email_try_count": item.attempt or 1, "email_response_message": text}
        record["email_response_code"] = int(text[:3])
    return record
