"""Blocklists: what to ask them, and what their answers mean. Pure.

A list is believed about nothing until it has shown, by its own test entries, that it answers at all and does not answer
"listed" to everything (RFC 5782 section 5). An answer outside a list's own codes is never a listing: public resolvers,
used-up quotas and parked zones all answer with an address.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import msgspec

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.checks.base import Verdict
from agent.suffix import registered_domain


class Kind(StrEnum):
    """What a list lists."""

    IP4 = "ip4"
    IP6 = "ip6"
    DOMAIN = "domain"


class Meaning(msgspec.Struct, frozen=True):
    """What one code says: in words, and how bad it is (``ok`` is worth knowing and no listing)."""

    words: str
    verdict: Verdict


class Blocklist(msgspec.Struct, frozen=True, kw_only=True):
    """One list. ``codes`` maps an address that it answers with, ``bits`` a bit of the last octet, to its meaning.
    ``errors`` are answers in which it says no more than that it will not answer. ``zone`` holds ``{key}`` where a key
    is needed. ``tests`` are the entries, by kind, that are always listed and never listed (RFC 5782 section 5, or the
    list's own). ``removal`` is where its operator takes requests."""

    title: str
    zone: str
    kinds: tuple[Kind, ...] = (Kind.IP4,)
    codes: Mapping[str, Meaning] = {}
    bits: Mapping[int, Meaning] = {}
    errors: tuple[str, ...] = ()
    tests: Mapping[Kind, tuple[str, str]] = {}
    whole_name: bool = True
    removal: str = ""

    @property
    def needs_key(self) -> bool:
        return "{key}" in self.zone


_TESTS = {
    Kind.IP4: ("127.0.0.2", "127.0.0.1"),
    Kind.IP6: ("::ffff:127.0.0.2", "::ffff:127.0.0.1"),
    Kind.DOMAIN: ("test", "invalid"),
}
_FAIL, _WARN, _NOTE = Verdict.FAIL, Verdict.WARN, Verdict.OK
_BOTH = (Kind.IP4, Kind.IP6)
_LOCAL = ip_network("127.0.0.0/8")
# Reserved for "no answer" by everybody who uses them: the whole upper range, and a last octet of 255.
_ERRORS = ip_network("127.255.0.0/16")


def _listed(words: str, verdict: Verdict = _WARN, code: str = "127.0.0.2") -> dict[str, Meaning]:
    return {code: Meaning(words, verdict)}


_ZEN = {
    "127.0.0.2": Meaning("SBL: a source of spam, listed by hand", _FAIL),
    "127.0.0.3": Meaning("CSS: sends like a spammer, listed automatically", _FAIL),
    "127.0.0.4": Meaning("XBL: an infected or abused machine", _FAIL),
    "127.0.0.5": Meaning("XBL: an infected or abused machine", _FAIL),
    "127.0.0.6": Meaning("XBL: an infected or abused machine", _FAIL),
    "127.0.0.7": Meaning("XBL: an infected or abused machine", _FAIL),
    "127.0.0.9": Meaning("DROP: a hijacked or criminal network", _FAIL),
    "127.0.0.10": Meaning("PBL: should not send mail directly, says its provider", _FAIL),
    "127.0.0.11": Meaning("PBL: should not send mail directly, says Spamhaus", _FAIL),
    "127.0.0.30": Meaning("BCL: a botnet's controller", _FAIL),
}
_DBL = {
    "127.0.1.2": Meaning("a spam domain, or one of low reputation", _FAIL),
    "127.0.1.4": Meaning("phishing", _FAIL),
    "127.0.1.5": Meaning("malware", _FAIL),
    "127.0.1.6": Meaning("a botnet's controller", _FAIL),
    "127.0.1.102": Meaning("a good domain that is abused for spam", _FAIL),
    "127.0.1.103": Meaning("a good redirector that is abused for spam", _FAIL),
    "127.0.1.104": Meaning("a good domain that is abused for phishing", _FAIL),
    "127.0.1.105": Meaning("a good domain that is abused for malware", _FAIL),
    "127.0.1.106": Meaning("a good domain that is abused by a botnet", _FAIL),
}
_SPAMHAUS_ERRORS = ("127.255.255.252", "127.255.255.254", "127.255.255.255", "127.0.1.255")
_SPAMHAUS = "https://check.spamhaus.org/"
_DBL_TESTS = {Kind.DOMAIN: ("dbltest.com", "invalid")}

# Codes: the lists' own pages. To add a list: a row here, its test, and its row in docs/checks.md.
BLOCKLISTS: dict[str, Blocklist] = {
    "spamhaus_zen": Blocklist(
        title="Spamhaus ZEN", zone="zen.spamhaus.org", kinds=_BOTH, codes=_ZEN,
        errors=_SPAMHAUS_ERRORS, removal=_SPAMHAUS,
    ),
    "spamhaus_zen_dqs": Blocklist(
        title="Spamhaus ZEN", zone="{key}.zen.dq.spamhaus.net", kinds=_BOTH, codes=_ZEN,
        errors=_SPAMHAUS_ERRORS, removal=_SPAMHAUS,
    ),
    "spamhaus_dbl": Blocklist(
        title="Spamhaus DBL", zone="dbl.spamhaus.org", kinds=(Kind.DOMAIN,), codes=_DBL, tests=_DBL_TESTS,
        errors=_SPAMHAUS_ERRORS, removal=_SPAMHAUS,
    ),
    "spamhaus_dbl_dqs": Blocklist(
        title="Spamhaus DBL", zone="{key}.dbl.dq.spamhaus.net", kinds=(Kind.DOMAIN,), codes=_DBL, tests=_DBL_TESTS,
        errors=_SPAMHAUS_ERRORS, removal=_SPAMHAUS,
    ),
    "barracuda": Blocklist(
        title="Barracuda", zone="b.barracudacentral.org", codes=_listed("poor reputation"),
        removal="https://www.barracudacentral.org/rbl/removal-request",
    ),
    "spamcop": Blocklist(
        title="SpamCop", zone="bl.spamcop.net", codes=_listed("reported by its recipients within the last days"),
        removal="https://www.spamcop.net/bl.shtml",
    ),
    "psbl": Blocklist(
        title="PSBL", zone="psbl.surriel.com", codes=_listed("has sent mail to a spam trap"),
        removal="https://psbl.org/remove",
    ),
    "uceprotect_1": Blocklist(
        title="UCEPROTECT level 1", zone="dnsbl-1.uceprotect.net", codes=_listed("has sent mail to a spam trap"),
        removal="https://www.uceprotect.net/en/rblcheck.php",
    ),
    "uceprotect_2": Blocklist(
        title="UCEPROTECT level 2", zone="dnsbl-2.uceprotect.net",
        codes=_listed("neighbours in its network are listed", _NOTE),
    ),
    "uceprotect_3": Blocklist(
        title="UCEPROTECT level 3", zone="dnsbl-3.uceprotect.net",
        codes=_listed("others of its provider are listed", _NOTE),
    ),
    "mailspike": Blocklist(
        title="Mailspike", zone="bl.mailspike.net",
        codes={
            "127.0.0.2": Meaning("a machine that distributes spam", _WARN),
            "127.0.0.10": Meaning("the worst reputation", _WARN),
            "127.0.0.11": Meaning("a very bad reputation", _WARN),
            "127.0.0.12": Meaning("a bad reputation", _WARN),
            "127.0.0.13": Meaning("a suspicious reputation", _NOTE),
        },
        removal="https://mailspike.org/iplookup.html",
    ),
    "spamrats": Blocklist(
        title="SpamRATS", zone="all.spamrats.com",
        codes={
            "127.0.0.36": Meaning("Dyna: its reverse name is a generic one", _WARN),
            "127.0.0.37": Meaning("NoPtr: it has no reverse name", _WARN),
            "127.0.0.38": Meaning("Spam: has sent mail to a spam trap", _WARN),
            "127.0.0.43": Meaning("Auth: has guessed passwords", _WARN),
        },
        removal="https://www.spamrats.com/removal.php",
    ),
    "abusix": Blocklist(
        title="Abusix Mail Intelligence", zone="{key}.combined.mail.abusix.zone", kinds=_BOTH,
        codes={
            "127.0.0.2": Meaning("has sent mail to a spam trap", _FAIL),
            "127.0.0.3": Meaning("sends like a spammer", _WARN),
            "127.0.0.4": Meaning("an infected or abused machine", _FAIL),
            "127.0.0.11": Meaning("policy: should not send mail directly", _WARN),
            "127.0.0.12": Meaning("policy: a dynamic address", _WARN),
            "127.0.0.200": Meaning("listed by hand", _FAIL),
        },
        removal="https://lookup.abusix.com/",
    ),
    "surbl": Blocklist(
        title="SURBL", zone="multi.surbl.org", kinds=(Kind.DOMAIN,), whole_name=False,
        bits={
            1: Meaning("", Verdict.UNKNOWN),
            4: Meaning("DM: spreads through mail that nobody asked for", _FAIL),
            8: Meaning("phishing", _FAIL),
            16: Meaning("malware", _FAIL),
            32: Meaning("CT: tracks clicks in spam", _FAIL),
            64: Meaning("ABUSE: stands in spam", _FAIL),
            128: Meaning("cracked", _FAIL),
        },
        tests={Kind.DOMAIN: ("test.surbl.org", "invalid")}, removal="https://surbl.org/surbl-analysis",
    ),
    "uribl": Blocklist(
        title="URIBL", zone="multi.uribl.com", kinds=(Kind.DOMAIN,), whole_name=False,
        bits={
            1: Meaning("", Verdict.UNKNOWN),
            2: Meaning("black: stands in spam", _FAIL),
            4: Meaning("grey: stands in bulk mail", _NOTE),
            8: Meaning("red: new or suspicious", _WARN),
        },
        tests={Kind.DOMAIN: ("2.0.0.127", "invalid")}, removal="https://admin.uribl.com/",
    ),
}  # fmt: skip


class Health(StrEnum):
    """What a list's own test entries say of it. Only a ``usable`` one is believed."""

    USABLE = "usable"
    EMPTY = "empty"  # not even its test entry is listed: shut down, or no blocklist
    LISTS_ALL = "lists_all"  # its counter-test is listed too: wildcarded, or its domain sold
    REFUSED = "refused"  # answers that it will not answer: public resolver, quota, no key
    UNREACHABLE = "unreachable"  # no definitive answer
    REWRITTEN = "rewritten"  # answers with an address that no list uses: NXDOMAIN is rewritten on the way, or parked


class State(StrEnum):
    """What a list says of one subject."""

    LISTED = "listed"
    CLEAR = "clear"
    UNKNOWN = "unknown"


class Reading(msgspec.Struct, frozen=True):
    """One answer, understood. ``verdict`` is that of the worst code. ``why`` of an unknown one is a ``Health`` or an
    outcome; ``words`` say what the codes mean, ``records`` are the codes and the list's own text."""

    state: State
    verdict: Verdict = Verdict.OK
    words: tuple[str, ...] = ()
    records: tuple[str, ...] = ()
    why: str = ""
    ttl: int = 0


def kind_of(subject: str) -> Kind:
    """``ip4``, ``ip6`` or, for whatever is no address, ``domain``."""
    try:
        return Kind.IP4 if ip_address(subject).version == 4 else Kind.IP6
    except ValueError:
        return Kind.DOMAIN


def question(blocklist: Blocklist, subject: str, key: str = "", type_: str = "A") -> Question:
    """What to ask about an address or domain (RFC 5782 sections 2.1, 2.4, 3)."""
    zone = blocklist.zone.format(key=key)
    try:
        address: IPv4Address | IPv6Address = ip_address(subject)
    except ValueError:
        name = subject if blocklist.whole_name else registered_domain(subject) or subject
    else:
        name = address.reverse_pointer.removesuffix(".in-addr.arpa").removesuffix(".ip6.arpa")
    return Question(f"{name}.{zone}", type_)


def read(blocklist: Blocklist, answer: Answer) -> Reading:
    """What an answer means. Several codes at once are usual; one that is an error makes all of them worthless."""
    if not answer.outcome.definitive:
        why = Health.REFUSED if answer.outcome is Outcome.REFUSED else Health.UNREACHABLE
        return Reading(State.UNKNOWN, Verdict.UNKNOWN, why=why)
    if answer.outcome is not Outcome.ANSWER:
        return Reading(State.CLEAR, ttl=answer.ttl)
    meanings: list[Meaning] = []
    for record in answer.records:
        try:
            code = IPv4Address(record)
        except ValueError:
            return Reading(State.UNKNOWN, Verdict.UNKNOWN, why=Health.REWRITTEN)
        if code not in _LOCAL:
            return Reading(State.UNKNOWN, Verdict.UNKNOWN, records=answer.records[:8], why=Health.REWRITTEN)
        if record in blocklist.errors or code in _ERRORS or code.packed[3] == 255:
            return Reading(State.UNKNOWN, Verdict.UNKNOWN, records=answer.records[:8], why=Health.REFUSED)
        found = _meanings(blocklist, record, code)
        if any(meaning.verdict is Verdict.UNKNOWN for meaning in found):
            return Reading(State.UNKNOWN, Verdict.UNKNOWN, records=answer.records[:8], why=Health.REFUSED)
        meanings += found
    serious = [m for m in meanings if m.verdict in (Verdict.FAIL, Verdict.WARN)]
    words = tuple(dict.fromkeys(m.words for m in meanings))[:8]
    if not serious:
        return Reading(State.CLEAR, words=words, records=answer.records[:8], ttl=answer.ttl)
    worst = Verdict.FAIL if any(m.verdict is Verdict.FAIL for m in serious) else Verdict.WARN
    return Reading(State.LISTED, worst, words, answer.records[:8], ttl=answer.ttl)


def _meanings(blocklist: Blocklist, record: str, code: IPv4Address) -> list[Meaning]:
    """What one code says; nothing when the list does not document it, for then it is no listing."""
    if blocklist.bits:
        if code.packed[:3] != b"\x7f\x00\x00":
            return []
        return [meaning for bit, meaning in blocklist.bits.items() if code.packed[3] & bit]
    known = blocklist.codes.get(record)
    return [known] if known else []


Proof = Generator[tuple[Question, ...], tuple[Answer, ...], Health]


def prove(blocklist: Blocklist, kind: Kind, key: str = "") -> Proof:
    """Whether the list can be believed about a kind of subject now, by its test entries (RFC 5782 section 5)."""
    tests = blocklist.tests.get(kind) or _TESTS[kind]
    zone = blocklist.zone.format(key=key)
    # Asked as they stand: a test entry need not be a registered domain.
    names = [question(blocklist, test, key).name if kind is not Kind.DOMAIN else f"{test}.{zone}" for test in tests]
    positive, negative = (read(blocklist, a) for a in (yield tuple(Question(name, "A") for name in names)))
    for reading in (positive, negative):
        if reading.state is State.UNKNOWN:
            return Health(reading.why)
    # Words, not a listing: some lists' test entries carry mild codes only. An undocumented code has none.
    if not positive.words:
        return Health.EMPTY
    return Health.LISTS_ALL if negative.records else Health.USABLE
