"""``check_host()`` of RFC 7208 as a plan: it yields tuples of questions, is sent the answers, returns the result."""

from __future__ import annotations

from collections.abc import Generator
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_network
from urllib.parse import quote

import msgspec

from agent.dns.answer import Answer, Outcome, Question, valid_name
from agent.dns.space import address_of, network_of
from agent.dns.spf_record import (
    ESCAPES,
    LOOKUP_LIMIT,
    QUALIFIERS,
    QUERYING,
    VOID_LIMIT,
    Macro,
    MacroString,
    Record,
    SpfSyntaxError,
    Term,
    macro_string,
    parse,
    spf_records,
)

_NAMES_PER_TERM = 10  # MX exchanges or PTR names looked up for one term (section 4.6.4)


class SpfResult(StrEnum):
    """The results of section 2.6."""

    NONE = "none"
    NEUTRAL = "neutral"
    PASS = "pass"  # noqa: S105 - a result, no password
    FAIL = "fail"
    SOFTFAIL = "softfail"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


class SpfCheck(msgspec.Struct, frozen=True):
    """What ``check_host`` found. ``explanation`` is the domain's own text for a ``fail`` (section 6.2) or a default
    one, and for the other results a sentence that says why. ``term`` is the term that decided, as published by
    ``domain`` (the include's or redirect's, where it was one); ``lookups`` and ``voids`` are what it cost."""

    result: SpfResult
    explanation: str
    domain: str = ""
    term: str = ""
    lookups: int = 0
    voids: int = 0


# What decided: the result, the term's text, the domain it stands in, and the record that is asked for exp=.
class _Decision(msgspec.Struct, frozen=True):
    result: SpfResult
    domain: str
    why: str
    term: str = ""
    record: Record | None = None


SpfPlan = Generator[tuple[Question, ...], tuple[Answer, ...], SpfCheck]
_Flag = Generator[tuple[Question, ...], tuple[Answer, ...], bool]
_Text = Generator[tuple[Question, ...], tuple[Answer, ...], str]
_Deciding = Generator[tuple[Question, ...], tuple[Answer, ...], _Decision]


class _Stop(Exception):
    """Ends the evaluation at any depth: a ``temperror`` or ``permerror`` is the whole result (section 5.2)."""

    def __init__(self, decision: _Decision) -> None:
        super().__init__(decision.why)
        self.decision = decision


def evaluate(
    ip: str, sender: str, helo: str, *, receiver: str = "unknown", now: float = 0.0, void_limit: int = VOID_LIMIT
) -> SpfPlan:
    """The plan of ``check_host()`` (RFC 7208) for the client address ``ip`` and the MAIL FROM ``sender``.

    An empty ``sender`` is a null reverse-path: ``postmaster@helo`` is checked (section 2.4). ``now`` is Unix seconds,
    used by the ``%{t}`` macro alone. Raises ``ValueError`` when ``ip`` is not an address.
    """
    address = address_of(ip)
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped  # section 5
    local, _, domain = (sender or helo).rpartition("@")
    domain, helo = _a_labels(domain).removesuffix("."), _a_labels(helo)
    if domain.startswith("[") or not _checkable(domain):
        return SpfCheck(SpfResult.NONE, "there is no fully qualified domain to check (section 4.3)", domain)
    evaluation = _Evaluation(
        ip=address,
        local=local or "postmaster",
        domain=domain,
        helo=helo,
        receiver=receiver,
        now=now,
        void_limit=void_limit,
    )
    try:
        decision = yield from evaluation.check(domain)
        why = decision.why
        if decision.result is SpfResult.FAIL:
            why = (yield from evaluation.explain(decision)) or why
    except _Stop as stop:
        decision, why = stop.decision, stop.decision.why
    return SpfCheck(decision.result, why, decision.domain, decision.term, evaluation.lookups, evaluation.voids)


class _Evaluation:
    """One evaluation: the message's identities and the counts that run through the whole recursion."""

    def __init__(
        self,
        *,
        ip: IPv4Address | IPv6Address,
        local: str,
        domain: str,
        helo: str,
        receiver: str,
        now: float,
        void_limit: int,
    ) -> None:
        self.ip, self.local, self.sender_domain, self.helo = ip, local, domain, helo
        self.receiver, self.now, self.void_limit = receiver, now, void_limit
        self.lookups = self.voids = 0
        self.address_type = "A" if isinstance(ip, IPv4Address) else "AAAA"

    def check(self, domain: str) -> _Deciding:
        """The decision for one domain, from its record down (sections 4.4 to 4.7)."""
        answer = yield from self._ask(domain, "TXT", "", domain)
        found = spf_records(answer.records)
        if not found:
            return _Decision(SpfResult.NONE, domain, f"{domain} has no SPF record")
        if len(found) > 1:
            raise self._permerror(domain, "", f"{domain} has {len(found)} SPF records (section 4.5)")
        try:
            record = parse(found[0])
        except SpfSyntaxError as e:
            raise self._permerror(domain, e.term, f"in the record of {domain}, {e.term!r} {e}") from e
        for term in record.mechanisms:
            self._count(term, domain)
            if (yield from self._matches(term, domain)):
                result = SpfResult(QUALIFIERS[term.qualifier])
                return _Decision(result, domain, f"{self.ip} matches {term.text!r} of {domain}", term.text, record)
        if (redirect := record.redirect) is not None:
            return (yield from self._redirect(redirect, domain))
        return _Decision(SpfResult.NEUTRAL, domain, f"no term of {domain} matches {self.ip} (section 4.7)")

    def _redirect(self, term: Term, domain: str) -> _Deciding:
        self._count(term, domain)
        target = yield from self._target(term, domain)
        if _checkable(target):
            decision = yield from self.check(target)
            if decision.result is not SpfResult.NONE:
                return decision
        raise self._permerror(domain, term.text, f"{target!r}, to which {domain} redirects, has no SPF record")

    def _matches(self, term: Term, domain: str) -> _Flag:
        if term.name == "all":
            return True
        if term.name in ("ip4", "ip6"):
            network = network_of(term.network)
            return network.version == self.ip.version and self.ip in network
        target = yield from self._target(term, domain)
        # A name that no question can be made of does not exist (sections 4.3 and 4.8 leave it open).
        if term.name == "include" and not _checkable(target):
            raise self._permerror(domain, term.text, f"{target!r} is not a domain name (section 5.2)")
        if not valid_name(target):
            return False
        if term.name == "include":
            decision = yield from self.check(target)
            if decision.result is SpfResult.NONE:
                raise self._permerror(domain, term.text, f"{target}, which {domain} includes, has no SPF record")
            return decision.result is SpfResult.PASS
        if term.name == "exists":
            answer = yield from self._ask(target, "A", term.text, domain, count=True)
            return answer.outcome is Outcome.ANSWER
        if term.name == "a":
            answer = yield from self._ask(target, self.address_type, term.text, domain, count=True)
            return self._holds(term, answer)
        if term.name == "mx":
            return (yield from self._mx(term, target, domain))
        names = yield from self._validated_names(term.text, domain, count=True)
        suffix = "." + target.lower()
        return any(name == target.lower() or name.endswith(suffix) for name in names)

    def _mx(self, term: Term, target: str, domain: str) -> _Flag:
        answer = yield from self._ask(target, "MX", term.text, domain, count=True)
        exchanges = [name for _, name in answer.mx() if valid_name(name)]
        if len(exchanges) > _NAMES_PER_TERM:
            raise self._permerror(domain, term.text, f"{target} has more than {_NAMES_PER_TERM} MX (section 4.6.4)")
        if not exchanges:
            return False
        answers = yield tuple(Question(name, self.address_type) for name in exchanges)
        if any(self._holds(term, a) for a in answers):
            return True
        for a in answers:
            if not a.outcome.definitive:
                raise self._temperror(a, term.text, domain)
        return False

    def _validated_names(
        self, term: str = "", domain: str = "", *, count: bool = False
    ) -> Generator[tuple[Question, ...], tuple[Answer, ...], list[str]]:
        """The client's reverse names that point back to it (section 5.5). Trouble means fewer names, never an error."""
        (answer,) = yield (Question(self.ip.reverse_pointer, "PTR"),)
        if count:
            self._count_void(answer, term, domain)
        names = [n.rstrip(".").lower() for n in answer.records][:_NAMES_PER_TERM]
        names = [n for n in names if valid_name(n)]
        if answer.outcome is not Outcome.ANSWER or not names:
            return []
        answers = yield tuple(Question(name, self.address_type) for name in names)
        return [
            name for name, a in zip(names, answers, strict=True) if any(_address(text) == self.ip for text in a.records)
        ]

    def _holds(self, term: Term, answer: Answer) -> bool:
        prefix = term.prefix4 if self.ip.version == 4 else term.prefix6
        networks = [ip_network(f"{text}/{prefix}", strict=False) for text in answer.records if _address(text)]
        return any(self.ip.version == network.version and self.ip in network for network in networks)

    def _ask(
        self, name: str, type_: str, term: str, domain: str, *, count: bool = False
    ) -> Generator[tuple[Question, ...], tuple[Answer, ...], Answer]:
        (answer,) = yield (Question(name.lower(), type_),)
        if not answer.outcome.definitive:
            raise self._temperror(answer, term, domain)
        if count:
            self._count_void(answer, term, domain)
        return answer

    def _count(self, term: Term, domain: str) -> None:
        if term.name in QUERYING:
            self.lookups += 1
            if self.lookups > LOOKUP_LIMIT:
                raise self._permerror(domain, term.text, f"more than {LOOKUP_LIMIT} lookups (section 4.6.4)")

    def _count_void(self, answer: Answer, term: str, domain: str) -> None:
        if answer.outcome in (Outcome.NODATA, Outcome.NXDOMAIN):
            self.voids += 1
            if self.voids > self.void_limit:
                raise self._permerror(domain, term, f"more than {self.void_limit} void lookups (section 4.6.4)")

    @staticmethod
    def _permerror(domain: str, term: str, why: str) -> _Stop:
        return _Stop(_Decision(SpfResult.PERMERROR, domain, why, term))

    @staticmethod
    def _temperror(answer: Answer, term: str, domain: str) -> _Stop:
        q = answer.question
        why = f"the {q.type} lookup of {q.name} ended in {answer.outcome}"
        return _Stop(_Decision(SpfResult.TEMPERROR, domain, why, term))

    def explain(self, decision: _Decision) -> _Text:
        """The domain's explanation of a fail, ``""`` when it has none that can be used (section 6.2)."""
        term = decision.record.modifier("exp") if decision.record else None
        if term is None:
            return ""
        target = yield from self._target(term, decision.domain)
        if not valid_name(target):
            return ""
        (answer,) = yield (Question(target.lower(), "TXT"),)
        if answer.outcome is not Outcome.ANSWER or len(answer.records) != 1 or not answer.records[0].isascii():
            return ""
        try:
            parts = macro_string(answer.records[0], explanation=True)
        except SpfSyntaxError:
            return ""
        return (yield from self._expand(parts, decision.domain))

    def _target(self, term: Term, domain: str) -> _Text:
        if term.domain is None:
            return domain
        name = (yield from self._expand(term.domain, domain)).removesuffix(".")
        while len(name) > 253 and "." in name:
            name = name.split(".", 1)[1]  # left labels go first (section 7.3)
        return name

    def _expand(self, parts: MacroString, domain: str) -> _Text:
        """The text of a macro-string (section 7.3)."""
        out: list[str] = []
        for part in parts:
            if isinstance(part, str):
                out.append(part)
            elif part.letter in ESCAPES:
                out.append(ESCAPES[part.letter])
            else:
                names = (yield from self._validated_names()) if part.letter in "pP" else []
                value = _transform(part, self._value(part.letter.lower(), domain, names))
                out.append(quote(value, safe="-._~") if part.letter.isupper() else value)
        return "".join(out)

    def _value(self, letter: str, domain: str, names: list[str]) -> str:
        packed = self.ip.packed
        v4 = self.ip.version == 4
        match letter:
            case "s":
                return f"{self.local}@{self.sender_domain}"
            case "l":
                return self.local
            case "o":
                return self.sender_domain
            case "d":
                return domain
            case "i":
                return str(self.ip) if v4 else ".".join(packed.hex().upper())
            case "p":
                lower = domain.lower()
                inside = [n for n in names if n.endswith("." + lower)]
                return lower if lower in names else next(iter(inside + names), "unknown")
            case "v":
                return "in-addr" if v4 else "ip6"
            case "h":
                return self.helo
            case "c":
                return str(self.ip)
            case "r":
                return self.receiver
            case _:
                return str(int(self.now))


def _a_labels(name: str) -> str:
    """The name as the DNS knows it (RFC 8616 section 4); one that cannot be converted stays as it is."""
    try:
        return name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError:
        return name


def _checkable(domain: str) -> bool:
    """Whether ``check_host()`` looks at the domain at all: well-formed and of several labels (section 4.3)."""
    return "." in domain and valid_name(domain)


def _transform(macro: Macro, value: str) -> str:
    for delimiter in macro.delimiters:
        value = value.replace(delimiter, "\0")
    parts = value.split("\0")
    if macro.reverse:
        parts.reverse()
    return ".".join(parts[-macro.digits :])


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return address_of(text)
    except ValueError:
        return None
