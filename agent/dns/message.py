"""Queries and answers as they are on the wire (RFC 1035 section 4, RFC 6891), read no further than is needed.

A watch of thousands of domains reads millions of answers: names and records that nobody asked for are passed over.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import dns.rdata
import dns.rdataclass
import dns.rdatatype
import msgspec

from agent.dns.answer import Question

NUMBERS = {
    "A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28, "SRV": 33, "DS": 43,
    "RRSIG": 46, "DNSKEY": 48, "TLSA": 52, "SVCB": 64, "HTTPS": 65, "SPF": 99, "CAA": 257,
}  # fmt: skip
CNAME, SOA, NS, RRSIG = 5, 6, 2, 46
QR, AA, TC, RD, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0020, 0x0010
_OPCODE, _IN, _OPT, _DO = 0x7800, 1, 41, 0x8000
_LONGEST_TTL = 0x7FFFFFFF  # what is beyond it counts as 0 (RFC 2181 section 8)
_POINTERS = 128  # followed for one name
_NO_QUESTION = (1, 2, 4, 5)  # FORMERR, SERVFAIL, NOTIMP, REFUSED: some servers then leave the question out

_HEAD, _RECORD, _SERVICE = struct.Struct("!6H"), struct.Struct("!HHIH"), struct.Struct("!HHH")
_TIMES, _SIGNATURE = struct.Struct("!5I"), struct.Struct("!HBBIII")


class Record(msgspec.Struct, frozen=True):
    """One resource record; ``start`` and ``end`` are where its data stand in the message. ``name`` is lower case
    without final dot, ``ttl`` in seconds."""

    name: str
    type: int
    ttl: int
    start: int
    end: int


class Message(msgspec.Struct, frozen=True):
    """A response. ``rcode`` is the extended one, where there is an OPT record."""

    data: bytes
    flags: int
    rcode: int
    answer: tuple[Record, ...]
    authority: tuple[Record, ...]

    def text(self, record: Record) -> str:
        """A record as ``Answer.records`` has it. Raises ``ValueError`` or what dnspython raises when it cannot be
        read."""
        least, reader = _TEXTS.get(record.type, (0, None))
        if reader is None:
            kind = dns.rdatatype.RdataType.make(record.type)
            data = dns.rdata.from_wire(dns.rdataclass.IN, kind, self.data, record.start, record.end - record.start)
            return str(data)
        try:
            return reader(self.data, record.start, record.end) if record.end - record.start >= least else _long()
        except (struct.error, IndexError) as e:
            raise ValueError("a record's data are too short") from e


def query(question: Question, number: int, flags: int, payload: int) -> bytes:
    """The query of a question under an id, ``flags`` being those of the header. ``payload`` is the size of UDP that is
    announced, octets; 0 leaves EDNS out. Raises ``KeyError`` for a type that is not known."""
    labels = question.name.encode("ascii").split(b".")
    name = b"".join([bytes((len(label),)) + label for label in labels])
    head = _HEAD.pack(number, flags, 1, 0, 0, 1 if payload else 0)
    asked = name + struct.pack("!BHH", 0, NUMBERS[question.type], _IN)
    edns = struct.pack("!BHHIH", 0, _OPT, payload, _DO if question.dnssec else 0, 0) if payload else b""
    return head + asked + edns


def response(sent: bytes, data: bytes) -> Message | None:
    """What came back, read; ``None`` when it answers another query than the one sent (RFC 5452 section 9). Raises
    ``ValueError`` when it cannot be read."""
    try:
        number, flags, questions, answers, authorities, others = _HEAD.unpack_from(data)
        at, asked = 12, None
        for _ in range(questions):
            name, at = _name(data, at)
            asked = (name, data[at : at + 4])
            at += 4
        records: list[Record] = []
        rcode = flags & 0x000F
        for n in range(answers + authorities + others):
            name, at = _name(data, at)
            kind, _, ttl, length = _RECORD.unpack_from(data, at)
            at += 10
            if at + length > len(data):
                raise ValueError("a record ends beyond the message")
            if n < answers + authorities:
                records.append(Record(name, kind, ttl if ttl <= _LONGEST_TTL else 0, at, at + length))
            elif kind == _OPT:
                rcode |= ttl >> 24 << 4
            at += length
    except (struct.error, IndexError) as e:
        raise ValueError("the message ends within a record") from e
    name, end = _name(sent, 12)
    same = questions == 1 and asked == (name, sent[end : end + 4])
    if number != int.from_bytes(sent[:2]) or not flags & QR or flags & _OPCODE:
        return None
    if not same and not (questions == 0 and rcode in _NO_QUESTION):
        return None
    return Message(data, flags, rcode, tuple(records[:answers]), tuple(records[answers:]))


def _name(data: bytes, at: int) -> tuple[str, int]:
    """The name that begins there, lower case without final dot, and where the message goes on. Raises ``ValueError``
    and ``IndexError``."""
    labels: list[bytes] = []
    size, after = 0, -1
    while length := data[at]:
        if length < 64:
            label = data[at + 1 : at + 1 + length]
            size += length + 1
            if len(label) < length or size > 254:
                raise ValueError("a name is cut off or too long")
            labels.append(label)
            at += 1 + length
        elif length >= 192:
            target = (length & 63) << 8 | data[at + 1]
            if after < 0:
                after = at + 2
            # Only back (RFC 1035 section 4.1.4): so it ends.
            if target >= at or len(labels) > _POINTERS:
                raise ValueError("a name refers to itself")
            at = target
        else:
            raise ValueError("a label of an unknown kind")
    return b".".join(labels).decode("latin-1").lower(), after if after >= 0 else at + 1


def _only_name(data: bytes, start: int, end: int) -> str:
    name, after = _name(data, start)
    return name if after == end else _long()


def _txt(data: bytes, start: int, end: int) -> str:
    parts = []
    while start < end:
        after = start + 1 + data[start]
        parts.append(data[start + 1 : after])
        start = after
    return b"".join(parts).decode("latin-1") if start == end and parts else _long()


def _mx(data: bytes, start: int, end: int) -> str:
    return f"{int.from_bytes(data[start : start + 2])} {_only_name(data, start + 2, end)}."


def _srv(data: bytes, start: int, end: int) -> str:
    priority, weight, port = _SERVICE.unpack_from(data, start)
    return f"{priority} {weight} {port} {_only_name(data, start + 6, end)}."


def _soa(data: bytes, start: int, end: int) -> str:
    primary, at = _name(data, start)
    mailbox, at = _name(data, at)
    return f"{primary} {mailbox} {' '.join(map(str, _TIMES.unpack(data[at:end])))}"


def minimum(message: Message, soa: Record) -> int:
    """The last number of an SOA record: how long a negative answer may be kept, seconds."""
    return int.from_bytes(message.data[soa.end - 4 : soa.end]) if soa.end - soa.start >= 22 else 0


def signature(message: Message, rrsig: Record) -> tuple[int, float, float]:
    """The type that an RRSIG record covers, its inception and its end, Unix seconds (RFC 4034 section 3.1); zeros when
    it is cut off."""
    if rrsig.end - rrsig.start < 18:
        return 0, 0.0, 0.0
    covers, _, _, _, end, inception = _SIGNATURE.unpack_from(message.data, rrsig.start)
    return covers, float(inception), float(end)


def _tlsa(data: bytes, start: int, end: int) -> str:
    return f"{data[start]} {data[start + 1]} {data[start + 2]} {data[start + 3 : end].hex()}"


def _ds(data: bytes, start: int, end: int) -> str:
    return (
        f"{int.from_bytes(data[start : start + 2])} {data[start + 2]} {data[start + 3]} {data[start + 4 : end].hex()}"
    )


def _dnskey(data: bytes, start: int, end: int) -> str:
    key = base64.b64encode(data[start + 4 : end]).decode("ascii")
    return f"{int.from_bytes(data[start : start + 2])} {data[start + 2]} {data[start + 3]} {key}"


def _long() -> str:
    raise ValueError("a record's data do not end where they should")


# By type: the fewest octets that it has, and how it reads.
_TEXTS: dict[int, tuple[int, Callable[[bytes, int, int], str]]] = {
    1: (4, lambda data, start, end: str(IPv4Address(data[start:end]))),
    28: (16, lambda data, start, end: str(IPv6Address(data[start:end]))),
    2: (1, _only_name), 5: (1, _only_name), 12: (1, _only_name), 6: (22, _soa), 15: (3, _mx), 16: (1, _txt),
    99: (1, _txt), 33: (7, _srv), 43: (4, _ds), 48: (4, _dnskey), 52: (3, _tlsa),
}  # fmt: skip
