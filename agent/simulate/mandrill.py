"""Simulated Mandrill: signed forms with the events as JSON in one of their fields."""

from __future__ import annotations

import secrets as tokens
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from urllib.parse import parse_qsl, urlencode

import msgspec

from agent.events import BounceClass, Kind
from agent.providers.base import Credentials, secrets
from agent.providers.mandrill import signature
from agent.simulate.base import KeyPair, Request
from agent.simulate.retry import ASSUMED, Schedule
from agent.simulate.traffic import Item, Voice
from agent.simulate.wording import remote_text

# A bounce is hard or soft, so none is undetermined; of mail that Mandrill merely took it does not tell.
VOICE = Voice(
    reports_accepted=False,
    names_domain=frozenset(Kind),
    async_ids=True,
    classes={BounceClass.UNDETERMINED: BounceClass.SOFT},
)

RETRY = Schedule(delays=ASSUMED.delays, taken=frozenset({200}), confirmed=False)

_LARGEST_BATCH = 1000
# Several ways to say the same; without a word for blocks, they come as either of the bounces.
_NAMES: dict[Kind | BounceClass, tuple[str, ...]] = {
    Kind.DELIVERED: ("send", "delivered"),
    Kind.DEFERRED: ("deferral",),
    Kind.DROPPED: ("reject",),
    Kind.OPENED: ("open",),
    Kind.CLICKED: ("click",),
    Kind.COMPLAINED: ("spam",),
    Kind.UNSUBSCRIBED: ("unsub",),
    BounceClass.HARD: ("hard_bounce",),
    BounceClass.SOFT: ("soft_bounce",),
    BounceClass.BLOCK: ("hard_bounce", "soft_bounce"),
}
_STATES = {
    "send": "sent", "delivered": "sent", "deferral": "deferred", "reject": "rejected", "spam": "spam", "unsub": "unsub",
    "hard_bounce": "bounced", "soft_bounce": "soft-bounced",
}  # fmt: skip
_DESCRIPTIONS = {BounceClass.HARD: "bad_mailbox", BounceClass.SOFT: "mailbox_full", BounceClass.BLOCK: "general"}
_encode = msgspec.json.Encoder().encode


def requests(items: Iterable[Item], batch: int) -> Iterator[Request]:
    """Forms of up to ``batch`` events, 1,000 at most."""
    events: list[dict[str, object]] = []
    emitted_at = 0.0
    for item in items:
        events.append(_payload(item))
        emitted_at = item.emitted_at
        if len(events) >= min(batch, _LARGEST_BATCH):
            yield Request(_form(events), len(events), emitted_at)
            events = []
    if events:
        yield Request(_form(events), len(events), emitted_at)


def _form(events: list[dict[str, object]]) -> bytes:
    return urlencode({"mandrill_events": _encode(events)}).encode("ascii")


def sign(body: bytes, credentials: Credentials, now: float) -> dict[str, str]:
    """Sign the form with the first ``signing_key`` for the first ``url``."""
    keys, urls = secrets(credentials, "signing_key"), secrets(credentials, "url")
    if not keys or not urls:
        raise ValueError("signing as Mandrill needs signing_key and url")
    fields = parse_qsl(body.decode("latin-1"), keep_blank_values=True, encoding="latin-1")
    text = "".join(name + value for name, value in sorted(fields))
    return {
        "Content-Type": "application/x-www-form-urlencoded",
        "User-Agent": "Mandrill-Webhook/1.0",
        "X-Mandrill-Signature": signature(urls[0], text, keys[0]),
    }


def new_credentials() -> KeyPair:
    """A fresh signing key for an invented URL; both ends need the same."""
    both = {"signing_key": tokens.token_urlsafe(16), "url": "https://hooks.example.com/webhooks/mandrill"}
    return KeyPair(both, both)


def _payload(item: Item) -> dict[str, object]:
    names = _NAMES[item.bounce_class or item.kind]
    name = names[item.choice % len(names)]
    message_id = blake2b(item.recipient.encode(), digest_size=16).hexdigest()
    message: dict[str, object] = {
        "_id": message_id,
        "ts": item.at,
        "email": item.recipient,
        "sender": f"hello@{item.domain}",
        "subject": "Simulated message",
        "state": _STATES.get(name, "sent"),
        "tags": [item.stream, "simulated"],
        "metadata": {},
        "opens": [],
        "clicks": [],
    }
    payload: dict[str, object] = {"event": name, "_id": message_id, "ts": item.at, "msg": message}
    match item.kind:
        case Kind.BOUNCED | Kind.DEFERRED:
            message["diag"] = f"smtp;{remote_text(item).text}"
            if item.bounce_class:
                message["bounce_description"] = _DESCRIPTIONS[item.bounce_class]
        case Kind.OPENED | Kind.CLICKED:
            payload |= {"ip": "198.51.100.7", "user_agent": "Mozilla/5.0", "location": {"country_short": "DE"}}
            if item.kind is Kind.CLICKED:
                payload["url"] = f"https://{item.domain}/offer/{item.choice % 50}"
        case _:
            pass
    return payload
