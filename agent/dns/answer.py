"""Questions to the DNS and their answers, as values. A time-out is an answer too."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from enum import StrEnum
from functools import lru_cache
from typing import Protocol

import msgspec


class Outcome(StrEnum):
    """How a question ended. The first three are definitive; of the rest nothing may be concluded."""

    ANSWER = "answer"  # NOERROR with records of the type asked for
    NODATA = "nodata"  # NOERROR, none of that type
    NXDOMAIN = "nxdomain"
    SERVFAIL = "servfail"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"  # connection refused, network down
    MALFORMED = "malformed"  # the server's answer, or the question's name, cannot be read
    BOGUS = "bogus"  # the resolver's validation fails: SERVFAIL, but an answer when validation is switched off
    LAME = "lame"  # the server asked by ``server`` is not authoritative for the name

    @property
    def definitive(self) -> bool:
        return self in _DEFINITIVE


_DEFINITIVE = (Outcome.ANSWER, Outcome.NODATA, Outcome.NXDOMAIN)


class Question(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """``name`` without trailing dot, lower case; ``type`` is a record type's name, such as ``TXT``.

    ``server``, an IP address with ``:port`` if not 53, asks that server alone, without recursion; ``""`` asks the
    configured resolvers. ``dnssec`` asks them for what validation says (RFC 6840 section 5.7): the answer's
    ``authentic`` then means something.
    """

    name: str
    type: str
    server: str = ""
    dnssec: bool = False


class Answer(msgspec.Struct, frozen=True, gc=False):
    """``records`` in presentation order: TXT as joined text (latin-1), addresses as text, MX as ``"10 mx.example."``
    split into (preference, exchange) by ``mx``, SRV as ``"0 5 443 host."``, TLSA, DS and DNSKEY as numbers and the data
    in hex (DNSKEY: base64) without spaces, others in master-file form. ``cnames`` is the chain followed, first target
    first. ``signed`` are, of an answer asked for with ``dnssec``, inception and end of the signature that lasts
    longest, Unix seconds, ``(0, 0)`` where none was shown; ``at`` is when such an answer came.
    ``ttl`` in seconds is the lowest of the answer, 0 when there is none; of a negative answer that of the zone's SOA
    (RFC 2308 section 5), where the resolver shows it. ``authoritative`` is the AA flag, ``authentic`` the AD flag;
    both False where they were not asked for."""

    question: Question
    outcome: Outcome
    records: tuple[str, ...] = ()
    cnames: tuple[str, ...] = ()
    ttl: int = 0
    server: str = ""
    authoritative: bool = False
    authentic: bool = False
    signed: tuple[float, float] = (0.0, 0.0)
    at: float = 0.0

    def mx(self) -> list[tuple[int, str]]:
        """The answer's MX records as (preference, exchange); exchange without trailing dot, ``""`` for a null MX.
        What does not read as an MX record is left out."""
        pairs = (record.partition(" ") for record in self.records)
        return sorted((int(p), exchange.rstrip(".").lower()) for p, space, exchange in pairs if space and _number(p))


class Asks(Protocol):
    """Whoever answers questions: the resolver, or what stands in for it."""

    def ask(self, question: Question) -> Awaitable[Answer]:
        """The answer, whatever happens. A future that this returns is the caller's alone."""

    def fresh(self) -> None:
        """Answer nothing from now on that was learnt before."""


def _number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5


_NAME = re.compile(r"[ -\-/-~]{1,63}(?:\.[ -\-/-~]{1,63})*")


def valid_name(name: str) -> bool:
    """Whether a question can be made of the name: labels of 1 to 63 octets, 253 in all, printable ASCII."""
    return len(name) <= 253 and _valid(name)


@lru_cache(8192)
def _valid(name: str) -> bool:
    return _NAME.fullmatch(name) is not None
