"""DNSSEC: where a zone is signed, the signatures hold (RFC 4033 to 4035). Unsigned is fine."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import msgspec

from agent.dns.answer import Answer, Outcome, Question, valid_name
from agent.dns.checks.base import Plan, Problem, Subject, Verdict, conclude, lost
from agent.dns.zone import zone_names

_HASHES = {"1": hashlib.sha1, "2": hashlib.sha256, "4": hashlib.sha384}
_LAST, _PART = 3 * 86_400.0, 0.2  # seconds, and part of its time, that a signature has left when nobody renews it
_WEAK = frozenset(("1", "3", "5", "6", "7", "12"))  # MD5, DSA, SHA-1 and GOST: "must not sign" (RFC 8624 section 3.1)


class _Key(msgspec.Struct, frozen=True):
    algorithm: str
    rdata: bytes

    @property
    def tag(self) -> int:
        """RFC 4034 appendix B."""
        total = sum(octet << 8 if n % 2 == 0 else octet for n, octet in enumerate(self.rdata))
        return (total + (total >> 16)) & 0xFFFF


def plan(subject: Subject) -> Plan:
    """One finding for the zone that the domain is in."""
    names = zone_names(subject.domain)
    answers = yield tuple(Question(name, "SOA", dnssec=True) for name in names)
    zone, apex = names[0], answers[0]
    for name, answer in zip(names, answers, strict=True):
        zone, apex = name, answer
        if answer.outcome is Outcome.ANSWER or not answer.outcome.definitive:
            break
    (ds,) = yield (Question(zone, "DS", dnssec=True),)
    # What the zone above does not call signed needs no keys.
    unsigned = ds.outcome.definitive and not ds.records
    (dnskey,) = (ds,) if unsigned else (yield (Question(zone, "DNSKEY", dnssec=True),))
    behind = (apex, ds, dnskey)
    if Outcome.BOGUS in (a.outcome for a in behind):
        problems = [_bogus(zone, [a for a in behind if a.outcome is Outcome.BOGUS])]
    elif any(not a.outcome.definitive for a in behind):
        problems = [lost(next(a for a in behind if not a.outcome.definitive))]
    elif not ds.records:
        problems = [
            Problem(Verdict.OK, "dnssec_absent", f"{zone} is not signed.",
                    f"To sign {zone}: switch signing on at its DNS host, then enter the DS record at the registrar.",
                    "RFC 4035 section 5.2")
        ]  # fmt: skip
    else:
        problems = [*_signed(zone, ds, dnskey, validated=apex.authentic), *_ending(zone, (apex, dnskey))]
    finding = conclude(
        "dnssec", "", problems, ok=f"{zone} is signed and its signatures hold.", rfc="RFC 4035",
        records=[f"{zone} DS {record}" for record in ds.records], answers=[ds],
    )  # fmt: skip
    return (finding,)


def _bogus(zone: str, answers: list[Answer]) -> Problem:
    over = [a for a in answers if a.signed[1] and a.signed[1] < a.at]
    if over:
        return _expired(zone, min(a.signed[1] for a in over))
    return Problem(
        Verdict.FAIL, "dnssec_bogus", f"The signatures of {zone} do not hold: to receivers that validate, none of its "
        "records exist.", f"Sign {zone} anew, or have its DS record removed at the registrar.", "RFC 4035 section 5.5",
    )  # fmt: skip


def _expired(zone: str, end: float) -> Problem:
    return Problem(
        Verdict.FAIL, "dnssec_expired", f"The signatures of {zone} ended on {_date(end)}: to receivers that validate, "
        "none of its records exist.", f"Have the DNS host of {zone} sign it anew, and find out why it stopped.",
        "RFC 4035 section 5.3.1",
    )  # fmt: skip


def _ending(zone: str, answers: Iterable[Answer]) -> Iterator[Problem]:
    """Signatures that should have been renewed by now. Those made for each answer last a day or two, and that is
    fine; an end that has passed while a validator still says that all is well is this machine's clock."""
    seen = [a for a in answers if a.signed[1]]
    if over := [a for a in seen if a.signed[1] < a.at and not a.authentic]:
        yield _expired(zone, min(a.signed[1] for a in over))
        return
    near = [a for a in seen if 0 <= a.signed[1] - a.at < min(_LAST, _PART * (a.signed[1] - a.signed[0]))]
    if near:
        end = min(a.signed[1] for a in near)
        yield Problem(
            Verdict.WARN, "dnssec_expiring", f"The signatures of {zone} end on {_date(end)} and were not renewed.",
            f"See why the DNS host of {zone} does not sign it anew.", "RFC 6781 section 4.4.2",
        )  # fmt: skip


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _signed(zone: str, ds: Answer, dnskey: Answer, *, validated: bool) -> Iterator[Problem]:
    keys = [key for text in dnskey.records if (key := _key(text))]
    entries = [fields for record in ds.records if len(fields := record.split()) == 4]
    known = [fields for fields in entries if fields[2] in _HASHES]
    if not keys:
        yield Problem(
            Verdict.FAIL, "dnskey_missing", f"The zone above says that {zone} is signed, but {zone} has no keys.",
            f"Sign {zone}, or have its DS record removed at the registrar.", "RFC 4035 section 5",
        )  # fmt: skip
    elif known and not any(_matches(zone, fields, key) for fields in known for key in keys):
        tags = ", ".join(str(key.tag) for key in keys[:10])
        yield Problem(
            Verdict.FAIL, "ds_mismatch", f"No DS record of {zone} belongs to one of its keys (key tags {tags}).",
            f"Enter at the registrar the DS record that the DNS host of {zone} shows.", "RFC 4035 section 5.2",
        )  # fmt: skip
    weak = [fields[1] for fields in entries if fields[1] in _WEAK]
    if weak and len(weak) == len(entries):
        yield Problem(
            Verdict.WARN, "dnssec_weak", f"{zone} is signed with algorithm {weak[0][:5]}, which validators give up.",
            f"Sign {zone} with algorithm 13 (ECDSA P-256).", "RFC 8624 section 3.1",
        )  # fmt: skip
    if not validated:
        yield Problem(Verdict.OK, "unvalidated", "The resolver does not validate, so the signatures were not "
        "looked at.",
                      rfc="RFC 4035 section 3.2.3")  # fmt: skip


def _key(text: str) -> _Key | None:
    try:
        flags, protocol, algorithm, data = text.split()
        numbers = int(flags).to_bytes(2, "big") + bytes((int(protocol), int(algorithm)))
        return _Key(algorithm, numbers + base64.b64decode(data, validate=True))
    except (ValueError, OverflowError, binascii.Error):
        return None


def _matches(zone: str, fields: list[str], key: _Key) -> bool:
    tag, algorithm, digest_type, digest = fields
    if algorithm != key.algorithm or tag != str(key.tag) or not valid_name(zone):
        return False
    owner = b"".join(bytes((len(label),)) + label.encode("ascii") for label in zone.split(".")) + b"\0"
    return _HASHES[digest_type](owner + key.rdata).hexdigest() == digest.lower()
