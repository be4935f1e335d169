"""DANE: the keys of the mail hosts are in the signed DNS (RFC 7672). Without it the domain does as well."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.dns.answer import Answer, Outcome, Question, valid_name
from agent.dns.checks.base import Plan, Problem, Subject, Verdict, asked_once, conclude, lost
from agent.dns.page import Page, page, starttls

_EXCHANGES = 20  # looked at
_PROBE_AGE = 6 * 3600.0  # seconds for which a mail host is not connected to again
_DIGESTS = {"1": 64, "2": 128}  # hex digits of SHA-256 and SHA-512


def plan(subject: Subject) -> Plan:
    """One finding for the domain."""
    return (yield from asked_once(_plan(subject), {}))


def _plan(subject: Subject) -> Plan:
    domain = subject.domain
    # Whether the resolver validates at all shows at a name that is known to be signed.
    mx, signed = yield (Question(domain, "MX", dnssec=True), Question("org", "SOA", dnssec=True))
    hosts = [e for e in dict.fromkeys(e for _, e in mx.mx()) if e and valid_name(f"_25._tcp.{e}")][:_EXCHANGES]
    answers = (yield tuple(Question(f"_25._tcp.{host}", "TLSA", dnssec=True) for host in hosts)) if hosts else ()
    records = dict(zip(hosts, answers, strict=True))
    if not mx.outcome.definitive:
        problems = [_broken(mx)]
    elif not any(a.records for a in answers):
        lost_ones = [_broken(a) for a in answers if not a.outcome.definitive]
        problems = lost_ones[:1] or [_absent(domain, hosts)]
    else:
        problems = [p for host, answer in records.items() for p in _host(host, answer)]
        proven = mx.authentic and all(a.authentic for a in answers if a.records)
        problems += _whole(records, proven=proven, validates=signed.authentic or mx.authentic)
        probed = [host for host, a in records.items() if any(map(usable, a.records))] if subject.smtp_probe else []
        if probed:
            shown = yield tuple(starttls(host, max_age=_PROBE_AGE) for host in probed)
            for host, answer in zip(probed, shown, strict=True):
                problems += _shown(host, records[host].records, page(answer), proven=proven)
    finding = conclude(
        "dane", "", problems, ok="Every mail host has usable TLSA records in a signed zone.", rfc="RFC 7672",
        records=[f"{a.question.name} TLSA {r}" for a in answers for r in a.records], answers=answers,
    )  # fmt: skip
    return (finding,)


def _broken(answer: Answer) -> Problem:
    if answer.outcome is Outcome.BOGUS:
        name = answer.question.name
        return Problem(
            Verdict.FAIL, "dnssec_bogus", f"The signatures of {name} do not hold; senders that use DANE keep "
            "mail back.",
            f"Sign the zone of {name} anew.", "RFC 7672 section 2.2",
        )  # fmt: skip
    return lost(answer)


def _absent(domain: str, hosts: list[str]) -> Problem:
    where = f"_25._tcp.{hosts[0]}" if hosts else "_25._tcp.<mail host>"
    return Problem(
        Verdict.OK, "dane_absent", f"The mail hosts of {domain} have no TLSA records.",
        f"Once {domain} and its mail hosts are signed: {where} TLSA 3 1 1 <SHA-256 of the public key>", "RFC 7672 3.1",
    )  # fmt: skip


def usable(record: str) -> bool:
    """Whether a TLSA record serves SMTP: usage 2 or 3, known selector and matching type, a digest of its length
    (RFC 7672 section 3.1, RFC 6698 section 2.1)."""
    fields = record.split()
    if len(fields) != 4:
        return False
    usage, selector, matching, data = fields
    length = _DIGESTS.get(matching, len(data) if matching == "0" and data else -1)
    return usage in ("2", "3") and selector in ("0", "1") and len(data) == length


def _host(host: str, answer: Answer) -> Iterator[Problem]:
    if not answer.outcome.definitive:
        yield _broken(answer)
    bad = [record for record in answer.records if not usable(record)]
    if bad:
        every = len(bad) == len(answer.records)
        yield Problem(
            Verdict.FAIL if every else Verdict.WARN, "tlsa_unusable", f"{bad[0][:100]!r} at "
            f"{answer.question.name} is no "
            "use for SMTP" + (": TLS is demanded and nothing proves it." if every else "."),
            f"Publish: {answer.question.name} TLSA 3 1 1 <SHA-256 of the public key of {host}>", "RFC 7672 "
            "section 3.1.3",
        )  # fmt: skip
    elif len(answer.records) == 1:
        yield Problem(
            Verdict.WARN, "tlsa_single", f"{host} has one TLSA record: a new key breaks delivery for its TTL.",
            f"Publish the next key's record beside it before you change the key of {host}.", "RFC 7671 section 8.1",
        )  # fmt: skip


def _shown(host: str, records: Sequence[str], fetched: Page, *, proven: bool) -> Iterator[Problem]:
    """What the host shows on port 25 against its records. Where nothing proves the records, nobody acts on them."""
    bad = Verdict.FAIL if proven else Verdict.WARN
    if fetched.problem == "starttls":
        yield Problem(
            bad, "tlsa_no_tls", f"{host} has TLSA records and offers no TLS: senders that use DANE keep mail back.",
            f"Switch STARTTLS on at {host}, or remove its TLSA records.", "RFC 7672 section 2.2",
        )  # fmt: skip
        return
    try:
        chain = x509.load_pem_x509_certificates(fetched.body) if fetched.status == 200 else []
        matched = bool(chain) and any(matches(record, chain) for record in records if usable(record))
        key = chain[0].public_key() if chain else None
    except (ValueError, UnsupportedAlgorithm):
        chain, matched, key = [], False, None
    if key is None:
        why = fetched.problem or "unreadable"
        yield Problem(Verdict.UNKNOWN, "indeterminate", f"The certificate of {host} could not be had ({why}).",
                      "Nothing to change: it is asked again. Port 25 must be open to the outside.")  # fmt: skip
    elif not matched:
        digest = hashlib.sha256(_data(chain[0], "1")).hexdigest()
        yield Problem(
            bad, "tlsa_mismatch", f"No TLSA record of {host} belongs to the certificate that it shows: senders that "
            "use DANE keep mail back.", f"Publish: _25._tcp.{host} TLSA 3 1 1 {digest}", "RFC 7672 section 3.1",
        )  # fmt: skip


def matches(record: str, chain: Sequence[x509.Certificate]) -> bool:
    """Whether a usable TLSA record belongs to a chain, the host's own certificate first: usage 3 to that one, usage 2
    to any of them (RFC 7671 sections 5.1, 5.2). Raises ``UnsupportedAlgorithm`` for keys of unknown kinds."""
    usage, selector, matching, data = record.split()
    hashed = _HASHES.get(matching, bytes.hex)
    return any(hashed(_data(one, selector)) == data.lower() for one in (chain[:1] if usage == "3" else chain))


def _data(certificate: x509.Certificate, selector: str) -> bytes:
    if selector == "0":
        return certificate.public_bytes(Encoding.DER)
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


_HASHES: dict[str, Callable[[bytes], str]] = {
    "1": lambda data: hashlib.sha256(data).hexdigest(), "2": lambda data: hashlib.sha512(data).hexdigest(),
}  # fmt: skip


def _whole(records: dict[str, Answer], *, proven: bool, validates: bool) -> Iterator[Problem]:
    without = [host for host, a in records.items() if a.outcome.definitive and not a.records]
    if without:
        yield Problem(
            Verdict.WARN, "tlsa_partial", f"{without[0]} has no TLSA record, others have: an attacker sends "
            "mail there.",
            f"Publish: _25._tcp.{without[0]} TLSA 3 1 1 <SHA-256 of its public key>", "RFC 7672 section 2.2",
        )  # fmt: skip
    if not proven and validates:
        yield Problem(
            Verdict.WARN, "tlsa_insecure", "The TLSA records or the MX are in a zone that is not signed: no "
            "sender uses "
            "them.", "Sign the zones of the domain and of its mail hosts, or remove the TLSA records.",
            "RFC 7672 section 2.2",
        )  # fmt: skip
    elif not proven:
        yield Problem(Verdict.OK, "unvalidated", "The resolver does not validate, so the signatures were not "
        "looked at.",
                      rfc="RFC 4035 section 3.2.3")  # fmt: skip
