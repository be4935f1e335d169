"""Simulated KumoMTA: log records as its hooks post them, in arrays where they batch, behind a token or headers."""

from __future__ import annotations

import secrets as tokens
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from hashlib import blake2b

import msgspec

from agent.classify import parse_reply
from agent.clock import DAY, MINUTE
from agent.events import BounceClass, Kind
from agent.providers.base import Credentials, header_secrets, secrets
from agent.simulate.base import KeyPair, Request
from agent.simulate.retry import Schedule, growing
from agent.simulate.traffic import Item, Voice
from agent.simulate.wording import remote_text

# It tracks no recipients, and the reports that come in about its mail do not say which message they are about.
VOICE = Voice(
    reports_accepted=True,
    names_domain=frozenset(Kind),
    async_ids=False,
    silent=frozenset({Kind.OPENED, Kind.CLICKED, Kind.UNSUBSCRIBED, Kind.COMPLAINED}),
)
# Source (policy-extras/log_hooks.lua): an answer that is no success drops the record; only while nobody answers it is
# kept, for as long as a message lives (7 days unless configured).
RETRY = Schedule(delays=(), without_answer=growing(MINUTE, 20 * MINUTE, 7 * DAY))

_NAMES = {
    Kind.ACCEPTED: "Reception",
    Kind.DELIVERED: "Delivery",
    Kind.DEFERRED: "TransientFailure",
    Kind.BOUNCED: "Bounce",
    Kind.DROPPED: "AdminBounce",
}
_CLASSES: dict[BounceClass, tuple[str, ...]] = {
    BounceClass.HARD: ("InvalidRecipient", "InactiveMailbox", "Uncategorized"),
    BounceClass.SOFT: ("QuotaIssues", "Uncategorized"),
    BounceClass.BLOCK: ("SpamBlock", "PolicyRelated", "Uncategorized"),
    BounceClass.UNDETERMINED: ("Uncategorized",),
}
_encode = msgspec.json.Encoder().encode


def requests(items: Iterable[Item], batch: int) -> Iterator[Request]:
    """One record as an object where ``batch`` is 1, as the stock hook does; else arrays of up to ``batch``."""
    records: list[bytes] = []
    emitted_at = 0.0
    for item in items:
        records.append(_encode(_record(item)))
        emitted_at = item.emitted_at
        if batch <= 1:
            yield Request(records.pop(), 1, emitted_at)
        elif len(records) >= batch:
            yield Request(b"[" + b",".join(records) + b"]", len(records), emitted_at)
            records = []
    if records:
        yield Request(b"[" + b",".join(records) + b"]", len(records), emitted_at)


def sign(body: bytes, credentials: Credentials, now: float) -> dict[str, str]:
    """The first ``token`` as a bearer, and secret headers, whichever are among the credentials."""
    headers = {"Content-Type": "application/json"}
    headers |= {name: values[0] for name, values in header_secrets(credentials).items()}
    if live := secrets(credentials, "token"):
        headers["Authorization"] = f"Bearer {live[0]}"
    if len(headers) == 1:
        raise ValueError("signing as KumoMTA needs a token, or headers")
    return headers


def new_credentials() -> KeyPair:
    """A fresh token; both ends need the same."""
    both = {"token": tokens.token_urlsafe(32)}
    return KeyPair(both, both)


def _id(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _record(item: Item) -> dict[str, object]:
    oob = item.asynchronous
    mailbox = item.recipient.rpartition("@")[2]
    record: dict[str, object] = {
        "type": "OOB" if oob else _NAMES[item.kind],
        "id": _id(f"report/{item.serial}") if oob else _id(item.recipient),
        "sender": "" if oob else f"bounces@{item.domain}",
        "recipient": item.recipient if item.choice % 2 else [item.recipient],
        "queue": mailbox if oob else f"{item.stream}:tenant@{mailbox}",
        "site": "" if item.kind is Kind.ACCEPTED or oob else f"source-1->mx.{mailbox}",
        "size": 2048,
        "response": _response(item),
        "peer_address": {"name": f"mx.{mailbox}", "addr": "0.0.0.0" if oob else "192.0.2.25"},  # noqa: S104 - as reported
        "timestamp": item.at,
        "created": item.at - 1,
        "event_time": datetime.fromtimestamp(item.at, UTC).strftime("%Y-%m-%dT%H:%M:%S.000000000Z"),
        "num_attempts": item.attempt,
        "bounce_classification": "Uncategorized",
        "egress_pool": None if oob else "pool-1",
        "egress_source": None if oob else "source-1",
        "source_address": None,
        "feedback_report": None,
        "meta": {},
        "headers": {},
        "delivery_protocol": None if item.kind is Kind.ACCEPTED or oob else "ESMTP",
        "reception_protocol": "ESMTP",
        "nodeid": "5e1f4c52-0000-4000-8000-000000000001",
    }
    if item.bounce_class is not None:
        classes = _CLASSES[item.bounce_class]
        record["bounce_classification"] = classes[item.choice % len(classes)]
    return record


def _response(item: Item) -> dict[str, object]:
    """The remote text taken apart, as KumoMTA logs it."""
    text = remote_text(item).text
    code, enhanced = parse_reply(text)
    parts = [int(part) for part in enhanced.split(".")] if enhanced else []
    content = text.removeprefix(f"{code} ").removeprefix(f"{enhanced} ")
    return {
        "code": code or (551 if item.kind is Kind.DROPPED else 250),
        "enhanced_code": dict(zip(("class", "subject", "detail"), parts, strict=True)) if parts else None,
        "content": content,
        "command": None,
    }
