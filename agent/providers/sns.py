"""The envelope of Amazon SNS over HTTP, which SES and Scaleway post through: its fields, its signature, its handshakes.

Source: Amazon SNS developer guide, "Verifying the signatures of Amazon SNS messages" and "HTTP/HTTPS notification JSON
format". The signature is RSA PKCS#1 v1.5 (RFC 8017 section 8.2), version 1 with SHA-1, version 2 with SHA-256.
"""

from __future__ import annotations

import re
from base64 import b64decode
from functools import lru_cache
from urllib.parse import parse_qs

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from agent.providers.base import AuthenticationError, WebhookRequest, load_json, salvage

NOTIFICATION = "Notification"
SUBSCRIPTION = "SubscriptionConfirmation"
UNSUBSCRIPTION = "UnsubscribeConfirmation"
TYPE_HEADER, ID_HEADER, TOPIC_HEADER = "x-amz-sns-message-type", "x-amz-sns-message-id", "x-amz-sns-topic-arn"

_LEAST_BITS = 2048
_LONGEST_URL = 2048
_TOPIC_ARN = re.compile(r"arn:(aws[a-z-]{0,16}):sns:([a-z0-9-]{3,32}):[0-9]{12}:[A-Za-z0-9_-]{1,256}(?:\.fifo)?")
_CERTIFICATE_URL = re.compile(
    r"https://(sns\.[a-z0-9-]{3,32}\.amazonaws\.com(?:\.cn)?)/SimpleNotificationService-[0-9a-f]{1,64}\.pem"
)
_SUBSCRIBE_URL = re.compile(r"https://(sns\.[a-z0-9-]{3,32}\.amazonaws\.com(?:\.cn)?)/\?([!-\[\]-~]+)")


class Envelope(msgspec.Struct, gc=False, rename="pascal"):
    """The fields of a message, ``None`` where absent or null."""

    type: str | None = None
    message_id: str | None = None
    topic_arn: str | None = None
    subject: str | None = None
    message: str | None = None
    timestamp: str | None = None
    signature_version: str | None = None
    signature: str | None = None
    signing_cert_url: str | None = msgspec.field(name="SigningCertURL", default=None)
    subscribe_url: str | None = msgspec.field(name="SubscribeURL", default=None)
    token: str | None = None


_decode = msgspec.json.Decoder(Envelope).decode


def read(body: bytes) -> Envelope | None:
    """The envelope of a body, ``None`` when the body is other JSON. Raises ``ParseError`` when it is none at all."""
    try:
        envelope: Envelope | None = _decode(body)
    except (ValueError, RecursionError):
        envelope = salvage(load_json(body), Envelope)
    return envelope if envelope is not None and envelope.type and envelope.message is not None else None


def is_topic_arn(text: str) -> bool:
    """Whether a text names an SNS topic of Amazon's."""
    return _TOPIC_ARN.fullmatch(text) is not None


def host_of(topic_arn: str) -> str:
    """The SNS host of the topic's region and partition, ``""`` when the text names no topic of Amazon's."""
    match = _TOPIC_ARN.fullmatch(topic_arn)
    return f"sns.{match[2]}.amazonaws.com{'.cn' if match[1] == 'aws-cn' else ''}" if match else ""


def checked(request: WebhookRequest) -> Envelope:
    """The envelope of a request, all that can be told without a key: it is well-formed, the headers say what the body
    says, and certificate and subscription are where the topic is. Raises ``AuthenticationError``."""
    try:
        envelope = _decode(request.body)
    except (ValueError, RecursionError):
        raise AuthenticationError("body is not an SNS message") from None
    if envelope.type not in (NOTIFICATION, SUBSCRIPTION, UNSUBSCRIPTION):
        raise AuthenticationError("body is not an SNS message")
    if request.header(TYPE_HEADER) != envelope.type or request.header(ID_HEADER) != envelope.message_id:
        raise AuthenticationError("SNS headers and body do not agree")
    if None in _signed(envelope)[1::2]:
        raise AuthenticationError("a signed field is missing")
    if envelope.signature_version not in ("1", "2"):
        raise AuthenticationError("unknown signature version")
    host = host_of(envelope.topic_arn or "")
    url = envelope.signing_cert_url or ""
    match = _CERTIFICATE_URL.fullmatch(url) if len(url) <= _LONGEST_URL else None
    if not host or match is None or match[1] != host:
        raise AuthenticationError("the signing certificate is not where the topic is")
    return envelope


def subscribe_url(envelope: Envelope) -> str:
    """Where an authentic subscription of a topic of Amazon's is confirmed; ``""`` unless that is the SNS host of the
    topic's own region."""
    url = envelope.subscribe_url or ""
    match = _SUBSCRIBE_URL.fullmatch(url) if len(url) <= _LONGEST_URL else None
    if match is None or match[1] != host_of(envelope.topic_arn or ""):
        return ""
    return url if parse_qs(match[2]).get("Action") == ["ConfirmSubscription"] else ""


def verify(envelope: Envelope, keys: tuple[str, ...]) -> bool:
    """Whether the message is signed by one of the keys (see ``load_key``)."""
    algorithm: SHA1 | SHA256 = SHA256() if envelope.signature_version == "2" else SHA1()  # noqa: S303 - SNS's default
    try:
        signature = b64decode(envelope.signature or "", validate=True)
    except ValueError:
        return False
    text = to_sign(envelope)
    for pem in keys:
        if (key := load_key(pem)) is not None:
            try:
                key.verify(signature, text, PKCS1v15(), algorithm)
            except (InvalidSignature, ValueError):
                continue
            return True
    return False


def to_sign(envelope: Envelope) -> bytes:
    """The signed text: names and values in turn, each on a line of its own, the last one included."""
    return "".join(f"{each}\n" for each in _signed(envelope)).encode("utf-8", "surrogatepass")


def _signed(e: Envelope) -> list[str | None]:
    between: list[str | None]
    if e.type == NOTIFICATION:
        between = [] if e.subject is None else ["Subject", e.subject]
    else:
        between = ["SubscribeURL", e.subscribe_url]
    token: list[str | None] = [] if e.type == NOTIFICATION else ["Token", e.token]
    return ["Message", e.message, "MessageId", e.message_id, *between, "Timestamp", e.timestamp, *token,
            "TopicArn", e.topic_arn, "Type", e.type]  # fmt: skip


@lru_cache(maxsize=64)
def load_key(text: str) -> RSAPublicKey | None:
    """The RSA key of a certificate in PEM, or a public key in PEM or base64 (DER); ``None`` for everything else and
    for keys under 2,048 bits."""
    text = text.replace("\\n", "\n").strip()
    key: object
    try:
        if "-----BEGIN CERTIFICATE-----" in text:
            key = load_pem_x509_certificate(text.encode("ascii")).public_key()
        elif text.startswith("-----BEGIN"):
            key = load_pem_public_key(text.encode("ascii"))
        else:
            key = load_der_public_key(b64decode("".join(text.split()), validate=True))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, RSAPublicKey) and key.key_size >= _LEAST_BITS else None
