"""Simulated SendGrid: batches as its servers post them, signed with a key of our own."""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from functools import lru_cache
from hashlib import blake2b

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from agent.clock import DAY, HOUR
from agent.events import BounceClass, Kind
from agent.providers.base import Credentials, secrets
from agent.simulate.base import KeyPair, Request
from agent.simulate.retry import Schedule, growing
from agent.simulate.traffic import Item, Voice
from agent.simulate.wording import remote_text

# The domain travels as a custom argument; SendGrid repeats none of these, nor an id, on an asynchronous bounce.
VOICE = Voice(reports_accepted=True, names_domain=frozenset(Kind), async_ids=False)
# Docs: every answer but 2xx, at growing intervals, for 24 hours. How they grow is not documented.
RETRY = Schedule(delays=growing(30.0, HOUR, DAY))

_NAMES = {
    Kind.ACCEPTED: "processed",
    Kind.DELIVERED: "delivered",
    Kind.DEFERRED: "deferred",
    Kind.BOUNCED: "bounce",
    Kind.DROPPED: "dropped",
    Kind.OPENED: "open",
    Kind.CLICKED: "click",
    Kind.COMPLAINED: "spamreport",
    Kind.UNSUBSCRIBED: "group_unsubscribe",
}
# Type and classification of a bounce: several ways to say the same.
_BOUNCES: dict[BounceClass, tuple[tuple[str, str], ...]] = {
    BounceClass.HARD: (("bounce", "Invalid Address"), ("bounce", "Invalid Address"), ("bounce", "")),
    BounceClass.SOFT: (("bounce", "Mailbox Unavailable"), ("expired", ""), ("bounce", "Technical")),
    BounceClass.BLOCK: (("blocked", "Reputation"), ("blocked", "Content"), ("bounce", "Frequency or Volume Too High")),
    BounceClass.UNDETERMINED: (("bounce", "Unclassified"),),
}
_BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
_encode = msgspec.json.Encoder().encode


def requests(items: Iterable[Item], batch: int) -> Iterator[Request]:
    """Arrays of up to ``batch`` events of all types, separated and ended by CR LF."""
    bodies: list[bytes] = []
    emitted_at = 0.0
    for item in items:
        bodies.append(_encode(_payload(item)))
        emitted_at = item.emitted_at
        if len(bodies) >= batch:
            yield Request(b"[" + b",\r\n".join(bodies) + b"]\r\n", len(bodies), emitted_at)
            bodies = []
    if bodies:
        yield Request(b"[" + b",\r\n".join(bodies) + b"]\r\n", len(bodies), emitted_at)


def sign(body: bytes, credentials: Credentials, now: float) -> dict[str, str]:
    """The two signature headers, by the ``private_key`` (PEM) among the credentials."""
    keys = secrets(credentials, "private_key")
    if not keys:
        raise ValueError("signing as SendGrid needs a private_key (P-256, PEM)")
    timestamp = str(int(now))
    signature = _private_key(keys[0]).sign(timestamp.encode("ascii") + body, ECDSA(SHA256()))
    return {
        "Content-Type": "application/json; charset=utf-8",
        "User-Agent": "SendGrid Event API",
        "X-Twilio-Email-Event-Webhook-Signature": b64encode(signature).decode("ascii"),
        "X-Twilio-Email-Event-Webhook-Timestamp": timestamp,
    }


def new_credentials() -> KeyPair:
    """A fresh P-256 key pair: ``private_key`` as PEM, ``verification_key`` in the form SendGrid shows it."""
    key = generate_private_key(SECP256R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return KeyPair(
        {"private_key": private.decode("ascii")}, {"verification_key": b64encode(public).decode("ascii")}
    )  # fmt: skip


@lru_cache(maxsize=8)
def _private_key(pem: str) -> EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(pem.encode("utf-8"), None)
    except (ValueError, TypeError) as error:
        raise ValueError("private_key is not a private key in PEM") from error
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise ValueError("private_key is not a P-256 key")
    return key


def _id(text: str, size: int = 16) -> str:
    return urlsafe_b64encode(blake2b(text.encode(), digest_size=size).digest()).decode("ascii").rstrip("=")


def _payload(item: Item) -> dict[str, object]:
    unmatched = item.asynchronous
    payload: dict[str, object] = {
        "email": item.recipient,
        "event": _NAMES[item.kind],
        "timestamp": item.at,
        "sg_event_id": _id(f"{item.recipient}/{item.serial}/{item.id_version}"),
    }
    if not unmatched:
        name = _id(item.recipient)
        payload["sg_message_id"] = (
            f"{name}.filterdrecv-7c6d5b8f9-{item.message % 97:05d}-1-65537A1F-{item.message % 7}.0"
        )
        payload["from_domain"] = item.domain
        if item.kind not in (Kind.UNSUBSCRIBED,):
            payload["category"] = item.stream if item.choice % 2 else [item.stream, "simulated"]
        if item.kind not in (Kind.OPENED, Kind.CLICKED, Kind.COMPLAINED, Kind.UNSUBSCRIBED):
            payload["smtp-id"] = f"<{name}@geopod-ismtpd-{item.message % 9}>"
    _RENDER.get(item.kind, _nothing)(item, payload)
    return payload


def _nothing(item: Item, payload: dict[str, object]) -> None:
    pass


def _delivered(item: Item, payload: dict[str, object]) -> None:
    payload.update(response=remote_text(item).text, ip="192.0.2.25", tls=1)


def _deferred(item: Item, payload: dict[str, object]) -> None:
    payload.update(response=remote_text(item).text, attempt=str(item.attempt), ip="192.0.2.25")


def _dropped(item: Item, payload: dict[str, object]) -> None:
    reasons = ("Bounced Address", "Unsubscribed Address", "Spam Reporting Address", "Invalid")
    payload.update(reason=reasons[item.choice % len(reasons)], status="5.0.0")


def _bounced(item: Item, payload: dict[str, object]) -> None:
    wording = remote_text(item)
    ways = _BOUNCES[item.bounce_class or BounceClass.HARD]
    bounce_type, classification = ways[item.choice % len(ways)]
    payload.update(reason=wording.text, status=wording.enhanced_code, type=bounce_type)
    if classification:
        payload["bounce_classification"] = classification
    if not item.asynchronous:
        payload.update(ip="192.0.2.25", tls=1)


def _opened(item: Item, payload: dict[str, object]) -> None:
    payload.update(useragent=_BROWSER, ip="198.51.100.7", sg_machine_open=item.choice % 3 == 0)


def _clicked(item: Item, payload: dict[str, object]) -> None:
    payload.update(
        useragent=_BROWSER,
        ip="198.51.100.7",
        url=f"https://{item.domain}/offer/{item.choice % 50}",
        url_offset={"index": item.choice % 3, "type": "html"},
    )


def _unsubscribed(item: Item, payload: dict[str, object]) -> None:
    payload.update(
        useragent=_BROWSER, ip="198.51.100.7", asm_group_id=item.choice % 5 + 1, category=[item.stream]
    )  # fmt: skip


_RENDER = {
    Kind.DELIVERED: _delivered,
    Kind.DEFERRED: _deferred,
    Kind.DROPPED: _dropped,
    Kind.BOUNCED: _bounced,
    Kind.OPENED: _opened,
    Kind.CLICKED: _clicked,
    Kind.UNSUBSCRIBED: _unsubscribed,
}
