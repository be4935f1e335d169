"""Simulated Amazon SES: one record per request, in SNS messages signed in both versions, told by both mechanisms.

The first report of an event is of event publishing; a copy with another id is the feedback notification of the same.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from secrets import randbelow
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

from agent.events import BounceClass, Kind
from agent.providers import sns
from agent.providers.base import Credentials, secrets
from agent.simulate.base import KeyPair, Request
from agent.simulate.retry import Schedule
from agent.simulate.traffic import Item, Voice
from agent.simulate.wording import remote_text

VOICE = Voice(reports_accepted=True, names_domain=frozenset(Kind), async_ids=True)
# The default delivery policy of SNS, for which everything below 500 is an answer; a 4xx loses the message.
RETRY = Schedule(delays=(20.0,) * 3, taken=range(200, 400), final=range(400, 500))

_NAMES = {
    Kind.ACCEPTED: "Send",
    Kind.DELIVERED: "Delivery",
    Kind.DEFERRED: "DeliveryDelay",
    Kind.BOUNCED: "Bounce",
    Kind.COMPLAINED: "Complaint",
    Kind.UNSUBSCRIBED: "Subscription",
    Kind.OPENED: "Open",
    Kind.CLICKED: "Click",
    Kind.DROPPED: "Bounce",
}
# Types and subtypes of bounces: several ways to say the same.
_BOUNCES: dict[Kind | BounceClass, tuple[tuple[str, str], ...]] = {
    BounceClass.HARD: (("Permanent", "General"), ("Permanent", "NoEmail")),
    BounceClass.SOFT: (("Transient", "General"), ("Transient", "MailboxFull"), ("Transient", "MessageTooLarge")),
    BounceClass.BLOCK: (
        ("Permanent", "General"),
        ("Transient", "ContentRejected"),
        ("Transient", "AttachmentRejected"),
    ),
    BounceClass.UNDETERMINED: (("Undetermined", "Undetermined"),),
    Kind.DROPPED: (("Permanent", "Suppressed"), ("Permanent", "OnAccountSuppressionList")),
}
# All that feedback notifications tell of.
_NOTIFIED = frozenset({Kind.BOUNCED, Kind.DROPPED, Kind.COMPLAINED, Kind.DELIVERED})
_BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, object]).decode


def requests(items: Iterable[Item], batch: int) -> Iterator[Request]:
    """One record each, as in raw delivery: SES does not batch, whatever ``batch`` is. ``sign_body`` puts it into an
    SNS message."""
    for item in items:
        yield Request(_encode(record(item)), 1, item.emitted_at)


def sign_body(body: bytes, credentials: Credentials, now: float) -> bytes:
    """The body as the text of a signed SNS message of the first of ``topic_arns``, in signature version 1 or 2 as the
    text would have it; what is an SNS message already is signed anew. The same text bears the same id.
    Raises ``ValueError`` when ``topic_arns`` or ``private_key`` (PEM) is missing."""
    topic, key = _signing(credentials)
    given = _message(body)
    version = given.get("SignatureVersion") or "12"[blake2b(body, digest_size=1).digest()[0] % 2]
    fields: dict[str, object] = {
        "Type": sns.NOTIFICATION,
        "MessageId": str(UUID(bytes=_hash(body.decode("utf-8", "replace")))),
        "TopicArn": topic,
        "Message": body.decode("utf-8", "replace"),
        "Timestamp": _time(now),
    } | given | {"SignatureVersion": version}  # fmt: skip
    fields.setdefault(
        "SigningCertURL", f"https://{sns.host_of(topic)}/SimpleNotificationService-{_hash(topic).hex()}.pem"
    )
    text = sns.to_sign(msgspec.convert(fields, sns.Envelope, strict=False))
    algorithm = SHA256() if version == "2" else SHA1()  # noqa: S303 - SNS's default
    fields["Signature"] = b64encode(key.sign(text, PKCS1v15(), algorithm)).decode("ascii")
    return _encode(fields)


def sign(body: bytes, credentials: Credentials, now: float) -> dict[str, str]:
    """The headers, which repeat what the body says: ``sign_body`` proves it."""
    topic, _ = _signing(credentials)
    given = _message(body)
    return {
        "Content-Type": "text/plain; charset=UTF-8",
        "User-Agent": "Amazon Simple Notification Service Agent",
        "x-amz-sns-message-type": str(given.get("Type", sns.NOTIFICATION)),
        "x-amz-sns-message-id": str(given.get("MessageId", "")),
        "x-amz-sns-topic-arn": str(given.get("TopicArn", topic)),
    }


def new_credentials() -> KeyPair:
    """A topic of its own, and a fresh RSA key: ``private_key`` as PEM, its public half as a pinned certificate."""
    topic = f"arn:aws:sns:us-east-1:123456789012:simulated-{randbelow(10**9):09}"
    key = generate_private_key(65537, 2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return KeyPair(
        {"topic_arns": topic, "private_key": private.decode("ascii")},
        {"topic_arns": topic, "certificates": b64encode(public).decode("ascii")},
    )


def _signing(credentials: Credentials) -> tuple[str, RSAPrivateKey]:
    topics, keys = secrets(credentials, "topic_arns"), secrets(credentials, "private_key")
    if not topics or not keys:
        raise ValueError("signing as SNS needs topic_arns and a private_key (RSA, PEM)")
    return topics[0], _private_key(keys[0])


@lru_cache(maxsize=8)
def _private_key(pem: str) -> RSAPrivateKey:
    try:
        key = load_pem_private_key(pem.encode("utf-8"), None)
    except (ValueError, TypeError) as error:
        raise ValueError("private_key is not a private key in PEM") from error
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("private_key is not an RSA key")
    return key


def _message(body: bytes) -> dict[str, object]:
    """The fields of an SNS message, none when the body is something else."""
    try:
        fields = _decode(body)
    except (ValueError, RecursionError):
        return {}
    return fields if "Type" in fields and "Message" in fields else {}


def _hash(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def record(item: Item) -> dict[str, object]:
    """What SES says of one event."""
    notified = bool(item.id_version) and item.kind in _NOTIFIED
    name, recipient = _NAMES[item.kind], {"emailAddress": item.recipient}
    mail: dict[str, object] = {
        # Sent before whatever is told of it, but for the sending itself.
        "timestamp": _time(item.at if item.kind is Kind.ACCEPTED else item.at - 3),
        "messageId": f"01000{_hash(item.recipient).hex()}-000000",
        "source": f"Hello <hello@{item.domain}>",
        "sourceArn": f"arn:aws:ses:us-east-1:123456789012:identity/{item.domain}",
        "sendingAccountId": "123456789012",
        "destination": [item.recipient],
        "headersTruncated": False,
        "headers": [
            {"name": "Subject", "value": "Simulated message"},
            {"name": "X-SES-MESSAGE-TAGS", "value": f"stream={item.stream}, origin=simulated"},
            {"name": "X-SES-CONFIGURATION-SET", "value": "simulated-set"},
        ],
    }
    if not notified:
        mail["tags"] = {
            "ses:configuration-set": ["simulated-set"],
            "ses:from-domain": [item.domain],
            "stream": [item.stream],
            "origin": ["simulated"],
        }
    said: dict[str, object] = {"timestamp": _time(item.at)}
    match item.kind:
        case Kind.ACCEPTED:
            said = {}
        case Kind.DELIVERED:
            said |= {
                "recipients": [item.recipient],
                "smtpResponse": remote_text(item).text,
                "processingTimeMillis": 640,
            }
        case Kind.DEFERRED:
            text = remote_text(item)
            delayed = recipient | {"status": text.enhanced_code, "diagnosticCode": f"smtp; {text.text}"}
            said |= {"delayType": "TransientCommunicationFailure", "delayedRecipients": [delayed]}
        case Kind.BOUNCED | Kind.DROPPED:
            said |= _bounce(item, recipient)
        case Kind.COMPLAINED:
            said |= {"complainedRecipients": [recipient], "feedbackId": _feedback_id(item), "complaintSubType": None}
            said |= {"complaintFeedbackType": "abuse", "userAgent": "Yahoo!-Mail-Feedback/2.0"}
        case Kind.UNSUBSCRIBED:
            said |= {"contactList": "simulated", "source": "UnsubscribeHeader"}
            said |= {"newTopicPreferences": {"unsubscribeAll": True, "topicSubscriptionStatus": []}}
        case _:
            said |= {"ipAddress": "198.51.100.7", "userAgent": _BROWSER}
            if item.kind is Kind.CLICKED:
                said["link"] = f"https://{item.domain}/offer/{item.choice % 50}"
    key = name[0].lower() + name[1:]
    return {"notificationType" if notified else "eventType": name, "mail": mail, key: said}


def _bounce(item: Item, recipient: dict[str, str]) -> dict[str, object]:
    ways = _BOUNCES[item.bounce_class or item.kind]
    kind, why = ways[item.choice % len(ways)]
    bounced: dict[str, str] = dict(recipient)
    if item.kind is Kind.BOUNCED:
        text = remote_text(item)
        bounced |= {"action": "failed", "status": text.enhanced_code, "diagnosticCode": f"smtp; {text.text}"}
    return {
        "bounceType": kind,
        "bounceSubType": why,
        "bouncedRecipients": [bounced],
        "feedbackId": _feedback_id(item),
        "reportingMTA": "dns; a8-70.smtp-out.amazonses.com",
    }


def _feedback_id(item: Item) -> str:
    return f"01000{_hash(f'{item.recipient}/{item.serial}').hex()}-000000"
