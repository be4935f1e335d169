"""A simulated sender that speaks the product's own format, signed; every other request as CloudEvents."""

from __future__ import annotations

import hmac
import secrets as tokens
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from hashlib import blake2b

import msgspec

from agent.events import Kind
from agent.providers.base import Credentials, secrets
from agent.simulate.base import KeyPair, Request
from agent.simulate.retry import ASSUMED
from agent.simulate.traffic import Item, Voice
from agent.simulate.wording import remote_text

VOICE = Voice(reports_accepted=True, names_domain=frozenset(Kind), async_ids=True)
# What a sender of one's own should do at least.
RETRY = ASSUMED

_WITH_REASON = frozenset({Kind.BOUNCED, Kind.DEFERRED, Kind.DROPPED})
_encode = msgspec.json.Encoder().encode


def requests(items: Iterable[Item], batch: int) -> Iterator[Request]:
    """Arrays of up to ``batch`` events, plain ones and batched CloudEvents in turn."""
    events: list[dict[str, object]] = []
    emitted_at, wrapped = 0.0, False
    for item in items:
        events.append(_cloud_event(item) if wrapped else _event(item))
        emitted_at = item.emitted_at
        if len(events) >= batch:
            yield Request(_encode(events), len(events), emitted_at)
            events, wrapped = [], not wrapped
    if events:
        yield Request(_encode(events), len(events), emitted_at)


def sign(body: bytes, credentials: Credentials, now: float) -> dict[str, str]:
    """The two signature headers, by the first ``signing_secret``."""
    keys = secrets(credentials, "signing_secret")
    if not keys:
        raise ValueError("signing as generic needs a signing_secret")
    timestamp = str(int(now))
    return {
        "Content-Type": "application/json",
        "X-Mailvitals-Timestamp": timestamp,
        "X-Mailvitals-Signature": hmac.digest(
            keys[0].encode(), timestamp.encode("ascii") + b"." + body, "sha256"
        ).hex(),
    }  # fmt: skip


def new_credentials() -> KeyPair:
    """A fresh secret; both ends need the same."""
    both = {"signing_secret": tokens.token_urlsafe(32)}
    return KeyPair(both, both)


def _event(item: Item) -> dict[str, object]:
    event: dict[str, object] = {
        "kind": item.kind,
        "at": item.at,
        "recipient": item.recipient,
        "message_id": blake2b(item.recipient.encode(), digest_size=12).hexdigest(),
        "domain": item.domain,
        "stream": item.stream,
    }
    if item.kind in _WITH_REASON:
        event["reason"] = remote_text(item).text
    if item.bounce_class is not None and item.choice % 2:
        event["bounce_class"] = item.bounce_class
    if item.asynchronous:
        event["asynchronous"] = True
    if item.kind is Kind.DEFERRED:
        event["discriminator"] = str(item.attempt)
    elif item.kind is Kind.CLICKED:
        event["discriminator"] = f"https://{item.domain}/offer/{item.choice % 50}"
    return event


def _cloud_event(item: Item) -> dict[str, object]:
    data = _event(item)
    del data["kind"], data["at"]
    return {
        "specversion": "1.0",
        "id": blake2b(f"{item.serial}/{item.id_version}".encode(), digest_size=12).hexdigest(),
        "source": f"/mta/{item.domain}",
        "type": f"com.example.mail.{item.kind}",
        "time": datetime.fromtimestamp(item.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "datacontenttype": "application/json",
        "data": data,
    }
