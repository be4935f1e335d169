"""What crosses the broker: batches of events, sealed bodies, and the core's word that it has them.

A batch is a JSON array of events; what describes it travels as user properties (MQTT 5 section 3.3.2.3.7), the last of
them an HMAC-SHA256 over the others and the payload, so that nobody who may merely publish can invent an event. No mail
address is on the bus: an event carries its identity, which the edge has worked out, a keyed hash of its recipient, and
the recipient's domain.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import groupby
from typing import Annotated, Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agent.events import REASON_LENGTH, BounceClass, Event, Kind, mask_addresses
from agent.ledger.base import Batch, Cell
from agent.ledger.identity import DIGEST_BYTES

PREFIX = "mailvitals"  # of every topic
VERSION = "1"
# Of one message, with which the broker that takes the least is content (128 KiB). An event takes 150 to 1,500 bytes.
EVENTS_A_MESSAGE = 500
EVENTS_BYTES = 120 * 1024
HEADER_BYTES = 4096  # at most, with topic and what the protocol adds
# Of one sealed body, compressed, and of what it is unpacked to.
SEALED_BYTES = 4 * 1024 * 1024
BODY_BYTES = 64 * 1024 * 1024
ID = r"^[0-9a-f]{32}$"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

What = Literal["events", "quarantine"]
Reason = Literal["forged", "version", "unreadable", "too_large"]

_Digest = Annotated[str, msgspec.Meta(pattern=rf"^[0-9a-f]{{{2 * DIGEST_BYTES}}}$")]
_DomainName = Annotated[str, msgspec.Meta(max_length=253)]


class WireEvent(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One event. ``at`` is Unix seconds, the event's own time. ``pair`` is the identity of a deferral's (message,
    recipient) pair in its hour. ``domain`` is the sending domain as the payload names it, ``stream`` what the source's
    settings make of its tags. ``token`` and ``content`` are those of ``ledger.base.Batch``."""

    id: _Digest
    kind: Kind
    at: float
    pair: _Digest | Literal[""] = ""
    recipient_hash: _Digest | Literal[""] = ""
    recipient_domain: _DomainName = ""
    domain: _DomainName = ""
    stream: Annotated[str, msgspec.Meta(max_length=100)] = ""
    bounce_class: BounceClass | None = None
    asynchronous: bool = False
    has_message_id: bool = False
    smtp_code: Annotated[int, msgspec.Meta(ge=0, le=999)] | None = None
    enhanced_code: Annotated[str, msgspec.Meta(max_length=20)] = ""
    reason: Annotated[str, msgspec.Meta(max_length=REASON_LENGTH)] = ""
    token: Annotated[str, msgspec.Meta(max_length=256)] = ""
    content: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{2}){0,64}$")] = ""


class Header(msgspec.Struct, frozen=True):
    """What describes one message. ``id`` is new for each; ``received_at`` (Unix seconds) that of the newest request in
    it; ``domain`` the sending domain of events that name none; ``reason`` why a sealed body could not be read."""

    what: What
    id: Annotated[str, msgspec.Meta(pattern=ID)]
    source: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    provider: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_]{1,40}$")]
    scope: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_:-]{1,80}$")]
    edge: Annotated[str, msgspec.Meta(pattern=NAME)]
    received_at: float
    domain: _DomainName = ""
    reason: Annotated[str, msgspec.Meta(max_length=200)] = ""


class Confirmation(msgspec.Struct, frozen=True):
    """What became of a message: ``counted`` durably, or ``refused`` because no core could ever read it."""

    id: Annotated[str, msgspec.Meta(pattern=ID)]
    outcome: Literal["counted", "refused"]


class Rejected(Exception):
    """A message that is not taken. ``header`` is known when it was authentic."""

    def __init__(self, reason: Reason, text: str, header: Header | None = None) -> None:
        super().__init__(text)
        self.reason = reason
        self.header = header


_FIELDS = tuple(Header.__struct_fields__)
_encode = msgspec.json.encode
_events = msgspec.json.Decoder(list[WireEvent])
_confirmation = msgspec.json.Decoder(Confirmation)


# Signing.


def _mac(key: bytes, purpose: str, properties: Mapping[str, str], payload: bytes) -> str:
    # JSON, so that no value can pass for two.
    head = _encode([purpose, properties.get("version", ""), *(properties.get(name, "") for name in _FIELDS)])
    return hmac.new(key, head + b"\n" + payload, sha256).hexdigest()


def _authentic(keys: Iterable[bytes], purpose: str, properties: Mapping[str, str], payload: bytes) -> bool:
    given = properties.get("hmac", "").encode()
    return any(hmac.compare_digest(_mac(key, purpose, properties, payload).encode(), given) for key in keys)


def sign(header: Header, payload: bytes, key: bytes) -> dict[str, str]:
    """The user properties of a message."""
    properties = {name: str(value) for name in _FIELDS if (value := getattr(header, name)) != ""}
    properties["version"] = VERSION
    return properties | {"hmac": _mac(key, "message", properties, payload)}


def verify(properties: Mapping[str, str], payload: bytes, keys: Sequence[bytes]) -> Header:
    """The header of an authentic message; any of ``keys`` may have signed it. Raises ``Rejected``."""
    if len(payload) > SEALED_BYTES + 1024:
        raise Rejected("too_large", f"a message of {len(payload)} bytes")
    if not _authentic(keys, "message", properties, payload):
        raise Rejected("forged", "the signature is not that of a key of ours")
    try:
        header = msgspec.convert(
            {name: properties[name] for name in _FIELDS if name in properties}, Header, strict=False
        )
    except msgspec.ValidationError as e:
        raise Rejected("unreadable", f"header: {e}") from None
    if properties.get("version") != VERSION:
        raise Rejected("version", "written by a version that this one does not know", header)
    return header


def confirm(confirmation: Confirmation, key: bytes) -> tuple[dict[str, str], bytes]:
    """User properties and payload of a confirmation."""
    payload = _encode(confirmation)
    return {"version": VERSION, "hmac": _mac(key, "confirmation", {"version": VERSION}, payload)}, payload


def confirmed(properties: Mapping[str, str], payload: bytes, keys: Sequence[bytes]) -> Confirmation:
    """An authentic confirmation. Raises ``Rejected``."""
    if len(payload) > 1024 or not _authentic(keys, "confirmation", {"version": VERSION, **properties}, payload):
        raise Rejected("forged", "the signature is not that of a key of ours")
    try:
        return _confirmation.decode(payload)
    except msgspec.MsgspecError as e:
        raise Rejected("unreadable", str(e)) from None


# Events.


def to_wire(batch: Batch, recipient_hash: Callable[[str], bytes], host: Callable[[str], bool]) -> list[WireEvent]:
    """The events of a batch with identities. ``host`` tells whether a recipient's domain is a host name: what is none
    may be part of an address, and stays here."""
    content = batch.body_digest.hex()
    out = []
    for event, cell, identity in zip(batch.events, batch.cells, batch.identities, strict=True):
        _, at, domain = event.recipient.rpartition("@")
        key = identity.hex()
        sending = event.domain if "@" not in event.domain else mask_addresses(event.domain)
        out.append(
            WireEvent(
                id=key[: 2 * DIGEST_BYTES],
                kind=event.kind,
                at=event.at,
                pair=key[2 * DIGEST_BYTES :],
                recipient_hash=recipient_hash(event.recipient).hex() if event.recipient else "",
                recipient_domain=domain if at and host(domain) else "",
                domain=sending[:253],
                stream=cell.stream,
                bounce_class=event.bounce_class,
                asynchronous=event.asynchronous,
                has_message_id=bool(event.message_id),
                smtp_code=event.smtp_code if event.smtp_code is not None and 0 <= event.smtp_code <= 999 else None,
                enhanced_code=event.enhanced_code[:20],
                reason=event.reason,
                token=batch.token[:256],
                content=content,
            )
        )
    return out


def pack(events: Iterable[WireEvent]) -> list[list[bytes]]:
    """Encoded events in parts that a message can hold; one part without events if there are none."""
    parts: list[list[bytes]] = [[]]
    size = 0
    for event in events:
        encoded = _encode(event)
        if not fits(len(parts[-1]) + 1, size + len(encoded)):
            parts.append([])
            size = 0
        parts[-1].append(encoded)
        size += len(encoded)
    return parts


def fits(events: int, size: int) -> bool:
    """Whether a message can hold so many encoded events of so many bytes."""
    return events <= EVENTS_A_MESSAGE and size + events + 1 <= EVENTS_BYTES


def join(encoded: Iterable[bytes]) -> bytes:
    """The payload of a message."""
    return b"[" + b",".join(encoded) + b"]"


def unpack(header: Header, payload: bytes, cell: Callable[[Header, WireEvent], Cell]) -> list[Batch]:
    """The batches that a message holds, one for each token. Raises ``Rejected``."""
    if len(payload) > EVENTS_BYTES:
        raise Rejected("too_large", f"events of {len(payload)} bytes", header)
    try:
        events = _events.decode(payload)
    except msgspec.MsgspecError as e:
        raise Rejected("unreadable", str(e), header) from None
    except RecursionError:
        raise Rejected("unreadable", "nested too deeply", header) from None
    if len(events) > EVENTS_A_MESSAGE:
        raise Rejected("too_large", f"{len(events)} events", header)
    if any((event.kind is Kind.DEFERRED) != bool(event.pair) for event in events):
        raise Rejected("unreadable", "a deferral without its pair, or a pair without its deferral", header)
    if not events:  # A sign of life.
        return [Batch(header.source, header.provider, header.scope, header.received_at, (), ())]
    return [
        _batch(header, list(group), token, content, cell)
        for (token, content), group in groupby(events, lambda event: (event.token, event.content))
    ]


def _batch(
    header: Header, events: list[WireEvent], token: str, content: str, cell: Callable[[Header, WireEvent], Cell]
) -> Batch:
    return Batch(
        header.source, header.provider, header.scope, header.received_at,
        [_event(e) for e in events], [cell(header, e) for e in events], [bytes.fromhex(e.id + e.pair) for e in events],
        token, bytes.fromhex(content),
    )  # fmt: skip


def _event(event: WireEvent) -> Event:
    if event.kind is not Kind.BOUNCED:
        return Event(event.kind, event.at)
    return Event(
        Kind.BOUNCED, event.at, bounce_class=event.bounce_class, asynchronous=event.asynchronous,
        message_id="named" if event.has_message_id else "", smtp_code=event.smtp_code,
        enhanced_code=event.enhanced_code, reason=mask_addresses(event.reason),
    )  # fmt: skip


# Sealing.


class Seal:
    """AES-GCM under a key derived from the identity key, which edges and core share."""

    def __init__(self, identity_key: bytes) -> None:
        self._seal = AESGCM(HKDF(SHA256(), 32, None, b"mailvitals bus").derive(identity_key))

    def close(self, plain: bytes, nonce: bytes, about: str) -> bytes:
        """``nonce`` is 12 random bytes; ``about`` must be the same when it is opened."""
        return nonce + self._seal.encrypt(nonce, plain, about.encode())

    def open(self, sealed: bytes, about: str) -> bytes:
        """Raises ``ValueError`` for what was altered, or sealed with another key or about something else."""
        try:
            return self._seal.decrypt(sealed[:12], sealed[12:], about.encode())
        except InvalidTag:
            raise ValueError("altered, or sealed with another key") from None
