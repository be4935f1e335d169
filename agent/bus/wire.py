"""What crosses the broker: batches of events, sealed bodies, and the core's word that it has them.

A batch is a JSON array of events; what describes it travels as user properties (MQTT 5 section 3.3.2.3.7), the last of
them an HMAC-SHA256 over the others and the payload, so that nobody who may merely publish can invent an event. No mail
address is on the bus: an event carries its identity, which the edge has worked out, a keyed hash of its recipient, and
the recipient's domain.
"""

from __future__ import annotations

import hmac
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import groupby
from typing import Annotated, Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agent.events import REASON_LENGTH, BounceClass, Kind, mask_addresses
from agent.ledger.base import Batch, Cell
from agent.ledger.columns import BOUNCED, CODE, DEFERRED, BounceReport, Columns
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

# That they are hexadecimal shows when a whole message's are read at once.
_Digest = Annotated[str, msgspec.Meta(min_length=2 * DIGEST_BYTES, max_length=2 * DIGEST_BYTES)]
_DigestOrNone = Annotated[str, msgspec.Meta(max_length=2 * DIGEST_BYTES)]
_DomainName = Annotated[str, msgspec.Meta(max_length=253)]


class WireEvent(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One event. ``at`` is Unix seconds, the event's own time. ``pair`` is the identity of a deferral's (message,
    recipient) pair in its hour. ``domain`` is the sending domain as the payload names it, ``stream`` what the source's
    settings make of its tags. ``token`` and ``content`` are those of ``ledger.base.Batch``."""

    id: _Digest
    kind: Kind
    at: float
    pair: _DigestOrNone = ""
    recipient_hash: _DigestOrNone = ""
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


def to_wire(
    batch: Batch, hashes: Callable[[Iterable[str]], Sequence[bytes]], host: Callable[[str], bool]
) -> list[WireEvent]:
    """The events of a batch with identities. ``hashes`` are those of recipients; ``host`` tells whether a recipient's
    domain is a host name: what is none may be part of an address, and stays here."""
    token, content = batch.token[:256], batch.body_digest.hex()
    # Hot: what many events of a batch share is worked out once.
    recipients = dict.fromkeys([event.recipient for event in batch.events])
    hash_of = dict(zip(recipients, map(bytes.hex, hashes(recipients)), strict=True)) | {"": ""}
    host_of: dict[str, str] = {}
    out = []
    for event, cell, identity in zip(batch.events, batch.cells, batch.identities, strict=True):
        recipient = event.recipient
        _, at, domain = recipient.rpartition("@")
        place = host_of.get(domain)
        if place is None:
            place = host_of[domain] = domain if host(domain) else ""
        key, sending, code = identity.hex(), event.domain, event.smtp_code
        out.append(
            WireEvent(
                key if len(key) == 2 * DIGEST_BYTES else key[: 2 * DIGEST_BYTES],
                event.kind,
                event.at,
                key[2 * DIGEST_BYTES :],
                hash_of[recipient],
                place if at else "",
                sending if len(sending) <= 253 and "@" not in sending else mask_addresses(sending)[:253],
                cell.stream,
                event.bounce_class,
                event.asynchronous,
                event.message_id != "",
                code if code is not None and 0 <= code <= 999 else None,
                event.enhanced_code[:20],
                event.reason,
                token,
                content,
            )
        )
    return out


def pack(events: Sequence[WireEvent]) -> list[tuple[int, bytes]]:
    """Events in parts that a message can hold: how many, and their encoded list without its brackets. One part without
    events if there are none."""
    parts: list[tuple[int, bytes]] = []
    left = [events[n : n + EVENTS_A_MESSAGE] for n in range(0, len(events), EVENTS_A_MESSAGE)] or [events]
    while left:
        some = left.pop(0)
        encoded = _encode(some)[1:-1]
        if fits(len(some), len(encoded)):
            parts.append((len(some), encoded))
        else:
            middle = len(some) // 2
            left[:0] = [some[:middle], some[middle:]]
    return parts


def fits(events: int, size: int) -> bool:
    """Whether a message can hold so many events of so many encoded bytes."""
    return events <= EVENTS_A_MESSAGE and size + events + 1 <= EVENTS_BYTES


def join(parts: Iterable[bytes]) -> bytes:
    """The payload of a message, of what ``pack`` has made."""
    return b"[" + b",".join(part for part in parts if part) + b"]"


def unpack(header: Header, payload: bytes, cell: Callable[[Header, WireEvent], Cell]) -> list[Columns]:
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
    if len({(event.token, event.content) for event in events}) <= 1:
        return [_columns(header, events, cell)]
    groups = groupby(events, lambda event: (event.token, event.content))
    return [_columns(header, list(group), cell) for _, group in groups]


def _columns(header: Header, events: Sequence[WireEvent], cell: Callable[[Header, WireEvent], Cell]) -> Columns:
    kinds = bytes([CODE[event.kind] for event in events])
    pairs = {n: event.pair for n, event in enumerate(events) if event.pair}
    if kinds.count(DEFERRED) != len(pairs) or any(kinds[n] != DEFERRED for n in pairs):
        raise Rejected("unreadable", "a deferral without its pair, or a pair without its deferral", header)
    numbers: dict[tuple[str, str, str], int] = {}
    places = array(
        "I", [numbers.setdefault((e.domain, e.stream, e.recipient_domain), len(numbers)) for e in events]
    )  # fmt: skip
    of_place = dict(zip(places, events, strict=True))
    bounces = [
        BounceReport(
            n, e.bounce_class, e.asynchronous, e.has_message_id, e.smtp_code, e.enhanced_code, mask_addresses(e.reason)
        )
        for n, e in enumerate(events)
        if kinds[n] == BOUNCED
    ]
    return Columns(
        header.source, header.scope, header.received_at, array("d", [event.at for event in events]).tobytes(), kinds,
        [cell(header, of_place[place]) for place in range(len(numbers))], places.tobytes(),
        _digests(header, [event.id for event in events]),
        {n: _digests(header, [pair]) for n, pair in pairs.items()}, bounces,
        events[0].token if events else "", bytes.fromhex(events[0].content) if events else b"",
    )  # fmt: skip


def _digests(header: Header, texts: Sequence[str]) -> bytes:
    try:
        digests = bytes.fromhex("".join(texts))
    except ValueError:
        digests = b""
    if len(digests) != DIGEST_BYTES * len(texts):  # A blank is no error to it.
        raise Rejected("unreadable", "an identity that is not hexadecimal", header)
    return digests


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
