"""Simulated Unisender Go: up to 100 events per request, with the proof within the body."""

from __future__ import annotations

import hashlib
import secrets as tokens
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import msgspec

from agent.clock import MINUTE
from agent.events import BounceClass, Kind
from agent.providers.base import Credentials, secrets
from agent.simulate.base import KeyPair, Request
from agent.simulate.retry import Schedule
from agent.simulate.traffic import Item, Voice
from agent.simulate.wording import remote_text

# The domain and the stream travel as metadata; a soft bounce is never final, so what is given up bounces hard.
VOICE = Voice(reports_accepted=True, names_domain=frozenset(Kind), async_ids=True)
# Docs "Webhooks": 200 takes it; every ten minutes for a day.
RETRY = Schedule(delays=(10 * MINUTE,) * 144, taken=frozenset({200}))

_NAMES = {
    Kind.ACCEPTED: "sent",
    Kind.DELIVERED: "delivered",
    Kind.DEFERRED: "soft_bounced",
    Kind.BOUNCED: "hard_bounced",
    Kind.DROPPED: "hard_bounced",
    Kind.OPENED: "opened",
    Kind.CLICKED: "clicked",
    Kind.COMPLAINED: "spam",
    Kind.UNSUBSCRIBED: "unsubscribed",
}
_STATUSES: dict[BounceClass | Kind, tuple[str, ...]] = {
    BounceClass.HARD: ("err_user_unknown", "err_user_inactive", "err_domain_inactive"),
    BounceClass.SOFT: ("err_mailbox_full", "err_delivery_failed"),
    BounceClass.BLOCK: ("err_spam_rejected", "err_blacklisted"),
    BounceClass.UNDETERMINED: ("err_other",),
    Kind.DEFERRED: ("err_will_retry",),
    Kind.DROPPED: ("err_unsubscribed", "err_skip_letter"),
}
_MOST = 100
# Stands where the proof will: what is hashed has the API key there.
BLANK = "0" * 32
_encode = msgspec.json.Encoder().encode


def requests(items: Iterable[Item], batch: int) -> Iterator[Request]:
    """Up to ``batch`` events each, never more than 100; ``sign_body`` completes them."""
    events: list[dict[str, object]] = []
    emitted_at = 0.0
    for item in items:
        events.append(_entry(item))
        emitted_at = item.emitted_at
        if len(events) >= min(batch, _MOST):
            yield Request(_body(events), len(events), emitted_at)
            events = []
    if events:
        yield Request(_body(events), len(events), emitted_at)


def sign_body(body: bytes, credentials: Credentials, now: float) -> bytes:
    """The body with its proof by the first ``api_key``. Raises ``ValueError`` when there is none."""
    keys = secrets(credentials, "api_key")
    if not keys:
        raise ValueError("signing as Unisender Go needs an api_key")
    blank = BLANK.encode("ascii")
    proof = hashlib.md5(body.replace(blank, keys[0].encode(), 1), usedforsecurity=False).hexdigest()
    return body.replace(blank, proof.encode("ascii"), 1)


def sign(body: bytes, credentials: Credentials, now: float) -> dict[str, str]:
    """The headers, which prove nothing: ``sign_body`` does."""
    if not secrets(credentials, "api_key"):
        raise ValueError("signing as Unisender Go needs an api_key")
    return {"Content-Type": "application/json", "User-Agent": "UniOne webhook"}


def new_credentials() -> KeyPair:
    """A fresh API key; both ends need the same."""
    both = {"api_key": tokens.token_hex(20)}
    return KeyPair(both, both)


def _body(events: list[dict[str, object]]) -> bytes:
    return _encode({"auth": BLANK, "events_by_user": [{"user_id": 4567, "events": events}]})


def _entry(item: Item) -> dict[str, object]:
    job = hashlib.blake2b(item.recipient.encode(), digest_size=9).hexdigest()
    data: dict[str, object] = {
        "job_id": f"{job[:6]}-{job[6:12]}-{job[12:]}",
        "metadata": {"from_domain": item.domain, "stream": item.stream},
        "email": item.recipient,
        "status": _NAMES[item.kind],
        "event_time": datetime.fromtimestamp(item.at, UTC).strftime("%Y-%m-%d %H:%M:%S"),
    }
    statuses = _STATUSES.get(item.bounce_class or item.kind)
    if statuses:
        status = statuses[item.choice % len(statuses)]
        data["delivery_info"] = {"delivery_status": status, "destination_response": remote_text(item).text}
    elif item.kind is Kind.CLICKED:
        data["url"] = f"https://{item.domain}/offer/{item.choice % 50}"
    return {"event_name": "transactional_email_status", "event_data": data}
