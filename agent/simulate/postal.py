"""Simulated Postal: one event per request, signed with an RSA key of our own."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator
from functools import lru_cache
from hashlib import blake2b
from uuid import UUID

import msgspec
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from agent.clock import MINUTE
from agent.events import BounceClass, Kind
from agent.providers.base import Credentials, secrets
from agent.simulate.base import KeyPair, Request
from agent.simulate.retry import Schedule
from agent.simulate.traffic import Item, Voice
from agent.simulate.wording import remote_text

# Postal knows no complaints and no opt-outs, and says nothing of why a bounce message came.
VOICE = Voice(
    reports_accepted=False,
    names_domain=frozenset(Kind),
    async_ids=True,
    silent=frozenset({Kind.COMPLAINED, Kind.UNSUBSCRIBED}),
    async_class=BounceClass.UNDETERMINED,
)
# Source (webhook_delivery_service): five retries, then the request is deleted.
RETRY = Schedule(delays=(2 * MINUTE, 3 * MINUTE, 6 * MINUTE, 10 * MINUTE, 15 * MINUTE))

# Event, and status of its payload.
_EVENTS = {
    Kind.DELIVERED: ("MessageSent", "Sent"),
    Kind.DEFERRED: ("MessageDelayed", "SoftFail"),
    Kind.BOUNCED: ("MessageDeliveryFailed", "HardFail"),
    Kind.DROPPED: ("MessageHeld", "Held"),
    Kind.OPENED: ("MessageLoaded", ""),
    Kind.CLICKED: ("MessageLinkClicked", ""),
}
_BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
_encode = msgspec.json.Encoder().encode


def requests(items: Iterable[Item], batch: int) -> Iterator[Request]:
    """One event each: Postal does not batch, whatever ``batch`` is."""
    for item in items:
        yield Request(_encode(_record(item)), 1, item.emitted_at)


def sign(body: bytes, credentials: Credentials, now: float) -> dict[str, str]:
    """Both signature headers, by the ``private_key`` (PEM) among the credentials."""
    keys = secrets(credentials, "private_key")
    if not keys:
        raise ValueError("signing as Postal needs a private_key (RSA, PEM)")
    key = _private_key(keys[0])
    sha1 = key.sign(body, PKCS1v15(), SHA1())  # noqa: S303 - Postal sends it beside the other
    return {
        "Content-Type": "application/json",
        "User-Agent": "Postal/3.3.4",
        "X-Postal-Signature": b64encode(sha1).decode("ascii"),
        "X-Postal-Signature-256": b64encode(key.sign(body, PKCS1v15(), SHA256())).decode("ascii"),
        "X-Postal-Signature-KID": "simulated",
    }


def new_credentials() -> KeyPair:
    """A fresh RSA key pair: ``private_key`` as PEM, ``public_key`` as in the ``p=`` of the DKIM record."""
    key = generate_private_key(65537, 2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return KeyPair({"private_key": private.decode("ascii")}, {"public_key": b64encode(public).decode("ascii")})


@lru_cache(maxsize=8)
def _private_key(pem: str) -> RSAPrivateKey:
    try:
        key = load_pem_private_key(pem.encode("utf-8"), None)
    except (ValueError, TypeError) as error:
        raise ValueError("private_key is not a private key in PEM") from error
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("private_key is not an RSA key")
    return key


def _hash(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()


def _record(item: Item) -> dict[str, object]:
    message = {
        "id": item.message + 1,
        "token": _hash(f"token {item.recipient}").hex()[:16],
        "direction": "outgoing",
        "message_id": f"{UUID(bytes=_hash(item.recipient))}@rp.postal.example",
        "to": item.recipient,
        "from": f"hello@{item.domain}",
        "subject": "Simulated message",
        "timestamp": item.at - 60.5,
        "spam_status": "NotChecked",
        "tag": item.stream,
    }
    name, status = _EVENTS[item.kind]
    payload: dict[str, object] = {"message": message}
    if item.asynchronous:
        name = "MessageBounced"
        bounce = {"id": item.message + 10**9, "direction": "incoming", "to": "psrp@rp.postal.example", "from": ""}
        payload = {"original_message": message, "bounce": bounce}
    elif status:
        payload |= {"status": status, "sent_with_ssl": True, "timestamp": float(item.at), "time": 0.25}
        payload |= _delivery(item)
    else:
        payload |= {"ip_address": "198.51.100.7", "user_agent": _BROWSER}
        if item.kind is Kind.CLICKED:
            payload |= {"url": f"https://{item.domain}/offer/{item.choice % 50}", "token": "simulated"}
    uuid = str(UUID(bytes=_hash(f"{item.recipient}/{item.serial}/{item.id_version}")))
    return {"event": name, "timestamp": float(item.at), "payload": payload, "uuid": uuid}


def _delivery(item: Item) -> dict[str, object]:
    """What Postal says of a try, and what the server said."""
    if item.kind is Kind.DROPPED:
        details = f"Recipient ({item.recipient}) is on the suppression list (reason: too many hard fails)"
        return {"details": details, "output": ""}
    server = "mx.example.net (192.0.2.40)"
    if item.kind is Kind.DELIVERED:
        details = f"Message for {item.recipient} accepted by {server}"
    elif item.kind is Kind.DEFERRED:
        details = f"Temporary SMTP delivery error when sending to {server}"
    else:
        details = f"Permanent SMTP delivery error when sending to {server}"
        if item.choice % 4 == 0:
            details += ". Recipient added to suppression list (too many hard fails)"
    return {"details": details, "output": remote_text(item).text}
