"""Simulated Postmark: one record per request, behind basic authentication or secret headers."""

from __future__ import annotations

import secrets as tokens
from base64 import b64encode
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from hashlib import blake2b
from uuid import UUID

import msgspec

from agent.clock import HOUR, MINUTE
from agent.events import BounceClass, Kind
from agent.providers.base import Credentials, header_secrets, secrets
from agent.simulate.base import KeyPair, Request
from agent.simulate.retry import Schedule
from agent.simulate.traffic import Item, Voice
from agent.simulate.wording import remote_text

# Only bounces and complaints carry the sender; there is no record of mail that was merely taken.
VOICE = Voice(
    reports_accepted=False,
    names_domain=frozenset({Kind.BOUNCED, Kind.DEFERRED, Kind.DROPPED, Kind.COMPLAINED}),
    async_ids=True,
)
# Article "What is the webhook retry schedule?": 200 takes it, 403 ends it. A shorter schedule for deliveries, opens and
# clicks is told of elsewhere; unconfirmed.
RETRY = Schedule(
    delays=(*(m * MINUTE for m in (1, 5, 10, 10, 10, 15, 30)), HOUR, 2 * HOUR, 6 * HOUR),
    taken=frozenset({200}), final=frozenset({403}),
)  # fmt: skip

# Type, type code, name and fixed description of a bounce: several ways to say the same.
_Way = tuple[str, int, str, str]
_BOUNCES: dict[Kind | BounceClass, tuple[_Way, ...]] = {
    BounceClass.HARD: (("HardBounce", 1, "Hard bounce", "The server was unable to deliver your message."),),
    BounceClass.SOFT: (("SoftBounce", 4096, "Soft bounce", "Unable to temporarily deliver message."),),
    BounceClass.BLOCK: (
        ("Blocked", 100006, "ISP block", "Blocked from this ISP due to content or blacklisting."),
        ("SpamNotification", 512, "Spam notification", "The message was classified as spam by the recipient's server."),
        ("DMARCPolicy", 100009, "DMARC Policy", "Email rejected due to the DMARC policy of the sender's domain."),
    ),
    BounceClass.UNDETERMINED: (("Unknown", 2048, "Undetermined", "The email could not be delivered; unknown reason."),),
    Kind.DEFERRED: (
        ("Transient", 2, "Message delayed", "The server could not temporarily deliver your message."),
        ("DnsError", 256, "DNS error", "A temporary DNS error."),
    ),
    Kind.DROPPED: (
        ("BadEmailAddress", 100000, "Invalid email address", "The address is not a valid email address."),
        ("ManuallyDeactivated", 100002, "Manually deactivated", "The email was manually deactivated."),
    ),
    Kind.COMPLAINED: (("SpamComplaint", 100001, "Spam complaint", "The subscriber marked this message as spam."),),
}
_encode = msgspec.json.Encoder().encode
_EASTERN = timezone(timedelta(hours=-5))


def requests(items: Iterable[Item], batch: int) -> Iterator[Request]:
    """One record each: Postmark does not batch, whatever ``batch`` is."""
    for item in items:
        yield Request(_encode(_payload(item)), 1, item.emitted_at)


def sign(body: bytes, credentials: Credentials, now: float) -> dict[str, str]:
    """Basic authentication and secret headers, whichever of them is among the credentials."""
    headers = {"Content-Type": "application/json", "User-Agent": "Postmark"}
    headers |= {name: values[0] for name, values in header_secrets(credentials).items()}
    users, passwords = secrets(credentials, "username"), secrets(credentials, "password")
    if users and passwords:
        pair = f"{users[0]}:{passwords[0]}".encode()
        headers["Authorization"] = "Basic " + b64encode(pair).decode("ascii")
    if len(headers) == 2:
        raise ValueError("signing as Postmark needs username and password, or headers")
    return headers


def new_credentials() -> KeyPair:
    """A fresh user name and password; both ends need the same."""
    both = {"username": "postmark", "password": tokens.token_urlsafe(24)}
    return KeyPair(both, both)


def _hash(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()


def _time(at: int, zone: timezone = UTC) -> str:
    """ISO 8601 with the seven digits and the offset that .NET writes."""
    text = datetime.fromtimestamp(at, zone).strftime("%Y-%m-%dT%H:%M:%S.0000000")
    return text + ("Z" if zone is UTC else "-05:00")


def _payload(item: Item) -> dict[str, object]:
    payload: dict[str, object] = {
        "MessageID": str(UUID(bytes=_hash(item.recipient))),
        "ServerID": 1000 + len(item.domain),
        "MessageStream": item.stream,
        "Tag": "simulated",
        "Metadata": {"message": str(item.message)},
    }
    return payload | _RENDER[item.kind](item)


def _delivery(item: Item) -> dict[str, object]:
    return {
        "RecordType": "Delivery",
        "Recipient": item.recipient,
        "DeliveredAt": _time(item.at),
        "Details": remote_text(item).text,
    }


def _bounce(item: Item) -> dict[str, object]:
    ways = _BOUNCES[item.bounce_class or item.kind]
    bounce_type, code, name, description = ways[item.choice % len(ways)]
    text = "" if item.kind in (Kind.DROPPED, Kind.COMPLAINED) else f"smtp;{remote_text(item).text}"
    return {
        "RecordType": "SpamComplaint" if item.kind is Kind.COMPLAINED else "Bounce",
        "ID": int.from_bytes(_hash(f"{item.recipient}/{item.serial}/{item.id_version}")[:6], "big") + 1,
        "Type": bounce_type,
        "TypeCode": code,
        "Name": name,
        "Description": description,
        "Details": text,
        "Email": item.recipient,
        "From": f"Simulated sender <hello@{item.domain}>",
        "BouncedAt": _time(item.at, _EASTERN if item.choice % 2 else UTC),
        "DumpAvailable": item.kind is not Kind.DROPPED,
        "Inactive": item.bounce_class is BounceClass.HARD,
        "CanActivate": item.kind is not Kind.COMPLAINED,
        "Subject": "Simulated message",
        "Content": "",
    }


def _subscription_change(item: Item) -> dict[str, object]:
    return {
        "RecordType": "SubscriptionChange",
        "Recipient": item.recipient,
        "ChangedAt": _time(item.at),
        "Origin": "Recipient",
        "SuppressSending": True,
        "SuppressionReason": "ManualSuppression",
    }


def _engagement(item: Item) -> dict[str, object]:
    record: dict[str, object] = {
        "RecordType": "Open" if item.kind is Kind.OPENED else "Click",
        "Recipient": item.recipient,
        "ReceivedAt": _time(item.at),
        "Client": {"Name": "Firefox", "Company": "Mozilla", "Family": "Firefox"},
        "OS": {"Name": "Linux", "Company": "Linux", "Family": "Linux"},
        "Platform": "Desktop",
        "UserAgent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        "Geo": {"CountryISOCode": "DE", "Country": "Germany", "IP": "198.51.100.7"},
    }
    if item.kind is Kind.OPENED:
        return record | {"FirstOpen": True, "ReadSeconds": item.choice % 30}
    return record | {"ClickLocation": "HTML", "OriginalLink": f"https://{item.domain}/offer/{item.choice % 50}"}


_RENDER = {
    Kind.DELIVERED: _delivery,
    Kind.BOUNCED: _bounce,
    Kind.DEFERRED: _bounce,
    Kind.DROPPED: _bounce,
    Kind.COMPLAINED: _bounce,
    Kind.UNSUBSCRIBED: _subscription_change,
    Kind.OPENED: _engagement,
    Kind.CLICKED: _engagement,
}
