"""Simulated Elastic Email: one notification per request, its parameters as a form, behind a token."""

from __future__ import annotations

import secrets as tokens
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from hashlib import blake2b
from urllib.parse import urlencode
from uuid import UUID

from agent.events import BounceClass, Kind
from agent.providers.base import Credentials, secrets
from agent.simulate.base import KeyPair, Request
from agent.simulate.retry import ASSUMED, Schedule
from agent.simulate.traffic import Item, Voice

# It tells neither of mail it took nor of attempts that failed for now.
VOICE = Voice(
    reports_accepted=False, names_domain=frozenset(Kind), async_ids=True, silent=frozenset({Kind.DEFERRED})
)  # fmt: skip
# Only that 200 takes it, and that 1,000 failures disable the webhook, is documented.
RETRY = Schedule(delays=ASSUMED.delays, taken=frozenset({200}), confirmed=False)

_NAMES = {
    Kind.DELIVERED: "Sent",
    Kind.BOUNCED: "Error",
    Kind.DROPPED: "Error",
    Kind.OPENED: "Opened",
    Kind.CLICKED: "Clicked",
    Kind.COMPLAINED: "AbuseReport",
    Kind.UNSUBSCRIBED: "Unsubscribed",
}
_CATEGORIES: dict[BounceClass | Kind, tuple[str, ...]] = {
    BounceClass.HARD: ("NoMailbox", "DNSProblem"),
    BounceClass.SOFT: ("GreyListed", "Timeout", "ConnectionProblem"),
    BounceClass.BLOCK: ("Spam", "BlackListed", "SPFProblem"),
    BounceClass.UNDETERMINED: ("NotDelivered", "Unknown"),
    Kind.DROPPED: ("ManualCancel", "Ignore"),
}


def requests(items: Iterable[Item], batch: int) -> Iterator[Request]:
    """One notification each: Elastic Email does not batch, whatever ``batch`` is."""
    for item in items:
        yield Request(urlencode(_parameters(item)).encode("ascii"), 1, item.emitted_at)


def sign(body: bytes, credentials: Credentials, now: float) -> dict[str, str]:
    """The first ``token``, as a bearer: a simulator is told its URL, and does not change it."""
    live = secrets(credentials, "token")
    if not live:
        raise ValueError("signing as Elastic Email needs a token")
    return {"Content-Type": "application/x-www-form-urlencoded", "Authorization": f"Bearer {live[0]}"}


def new_credentials() -> KeyPair:
    """A fresh token; both ends need the same."""
    both = {"token": tokens.token_urlsafe(32)}
    return KeyPair(both, both)


def _parameters(item: Item) -> dict[str, str]:
    message = blake2b(item.recipient.encode(), digest_size=16).digest()
    parameters = {
        "from": f"hello@{item.domain}",
        "to": item.recipient,
        "date": datetime.fromtimestamp(item.at, UTC).strftime("%Y-%m-%d %H:%M:%S"),
        "subject": "Simulated message",
        "status": _NAMES[item.kind],
        "channel": item.stream,
        "account": "simulated",
        "messageid": message.hex()[:22],
        "transaction": str(UUID(bytes=message)),
    }
    if item.kind in (Kind.BOUNCED, Kind.DROPPED):
        categories = _CATEGORIES[item.bounce_class or item.kind]
        parameters["category"] = categories[item.choice % len(categories)]
    elif item.kind is Kind.CLICKED:
        parameters["target"] = f"https://{item.domain}/offer/{item.choice % 50}"
    return parameters
