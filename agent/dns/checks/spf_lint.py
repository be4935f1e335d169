"""What is wrong with a published SPF record: its own terms, and the tree of records it refers to (RFC 7208)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address

from agent.dns.checks.base import Problem, Verdict
from agent.dns.space import is_address, network_of, reachable
from agent.dns.spf_record import Record, SpfSyntaxError, Term, parse

_TEXT_LIMIT = 450  # octets that fit a DNS message without extensions (section 3.4)
_REPAIRS = 8  # broken terms put right in one record
_KNOWN_MODIFIERS = ("redirect", "exp")
_SEAM = re.compile(r"(?<=[^ +?~-])(?=[+?~-]?(?:include:|ip4:|ip6:|exists:|redirect=))", re.IGNORECASE)


def ip_term(ip: str) -> str:
    """The term that names one address."""
    return f"ip6:{ip}" if ":" in ip else f"ip4:{ip}"


def wide(term: Term) -> bool:
    """Whether a term covers more than a /16 of IPv4 or a /32 of IPv6 around what it names."""
    if term.network:
        network = network_of(term.network)
        return network.prefixlen < (16 if network.version == 4 else 32)
    return term.prefix4 < 16 or term.prefix6 < 32


def syntax_problem(domain: str, error: SpfSyntaxError, referrer: str) -> Problem:
    """The record of ``domain``, to which that of ``referrer`` refers, cannot be read."""
    advice = f"Tell the owner of {domain}, or remove it from the record of {referrer}."
    return _unreadable(f"{domain}, which {referrer} refers to", error, advice)


def syntax_problems(domain: str, text: str) -> list[Problem]:
    """Every term of a record that cannot be read, each with what is usually meant by it. The first comes with the
    record to publish, if all can be guessed."""
    wrong: list[tuple[SpfSyntaxError, str]] = []
    record = ""
    while len(wrong) < _REPAIRS:
        try:
            record = parse(text).text.rstrip()
            break
        except SpfSyntaxError as e:
            better = next((c for c in _candidates(e.term) if c != e.term and _readable(c)), "")
            wrong.append((e, better))
            terms = text.split(" ")
            if e.term not in terms:
                break
            text = " ".join(t for t in (better if term == e.term else term for term in terms) if t)
    advices = [
        f"Write {better!r} instead of {e.term[:200]!r} in the record of {domain}."
        if better else f"Correct or remove {e.term[:200]!r} in the record of {domain}."
        for e, better in wrong
    ]  # fmt: skip
    if record and all(better for _, better in wrong):
        advices[0] = f'Publish: {domain} TXT "{record}"'
    return [_unreadable(domain, e, advice) for (e, _), advice in zip(wrong, advices, strict=True)]


def _unreadable(whose: str, error: SpfSyntaxError, advice: str) -> Problem:
    detail = f"In the record of {whose}, the term {error.term[:200]!r} {error}; receivers reject the whole record."
    return Problem(Verdict.FAIL, "syntax_error", detail, advice, "RFC 7208 section 4.6")


def _candidates(term: str) -> Iterator[str]:
    bare = term.strip("\"'\\,;\t\u201c\u201d\x93\x94")
    yield bare
    qualifier, _, rest = re.match(r"([+?~-]?)()(.*)", bare, re.DOTALL).groups()  # type: ignore[union-attr]
    name, _, value = rest.replace("=", ":", 1).partition(":")
    address = value.partition("/")[0]
    if name.lower() in ("ip", "ipv4", "ipv6", "ip4", "ip6", "a") and is_address(address):
        yield f"{qualifier}ip{ip_address(address).version}:{value}"
    yield f"{qualifier}{name.lower()}:{value}"
    yield _SEAM.sub(" ", bare)


def _readable(terms: str) -> bool:
    try:
        return bool(terms) and bool(parse(f"v=spf1 {terms}").text)
    except SpfSyntaxError:
        return False


def own_problems(domain: str, record: Record) -> Iterator[Problem]:
    """What the record itself says, before anything else is asked."""

    def warn(reason: str, detail: str, advice: str, rfc: str = "RFC 7208") -> Problem:
        return Problem(Verdict.WARN, reason, detail, advice, rfc)

    publish = _publish(domain, record)
    yield from _ending(domain, record, publish)
    if any(term.name == "ptr" for term in record.mechanisms):
        yield warn("ptr_used", "ptr is slow and unreliable and should not be used.", "Replace ptr by ip4 or ip6 terms.",
                   "RFC 7208 section 5.5")  # fmt: skip
    if len(record.text) > _TEXT_LIMIT:
        yield warn("too_long", f"The record has {len(record.text)} octets; beyond {_TEXT_LIMIT} it may not fit a UDP "
                   "answer.", "Shorten it: remove terms that no longer send.", "RFC 7208 section 3.4")  # fmt: skip
    counts = Counter(t.text.lower().lstrip("+") for t in record.mechanisms)
    if repeated := [text for text, n in counts.items() if n > 1]:
        yield warn("duplicate_term", f"{repeated[0]!r} stands in the record more than once.",
                   publish)  # fmt: skip
    for term in record.mechanisms:
        if wide(term):
            yield warn("network_too_wide", f"{term.text!r} allows more hosts than one sender has.",
                       "Name only the addresses that send.", "RFC 7208 section 5.6")  # fmt: skip
        elif term.network and not reachable(network_of(term.network)):
            yield warn("network_not_public", f"{term.text!r} is no public address space.", publish,
                       "RFC 7208 section 5.6")  # fmt: skip
    if unknown := [m.text for m in record.modifiers if m.name not in _KNOWN_MODIFIERS]:
        yield warn("unknown_modifier", f"{unknown[0][:200]!r} is no known modifier and is ignored.",
                   "If a mechanism was meant, write it with a colon; else remove it.", "RFC 7208 6")  # fmt: skip


def _publish(domain: str, record: Record) -> str:
    """The record with all put right that needs no knowledge of who sends, so that no fix undoes another: each term
    once, none that cannot count, an end that refuses."""
    words = record.text.split()[1:]
    end = _end(words)
    useless = {t.text for t in record.mechanisms if t.network and not reachable(network_of(t.network))}
    before = words if end is None else [w for w in words[:end] if w.lower().partition("=")[0] not in _KNOWN_MODIFIERS]
    kept = {word.lower().lstrip("+"): word for word in reversed(before) if word not in useless}
    text = ["v=spf1", *reversed(kept.values())]
    if end is not None:
        closing = words[end] if words[end][0] in "-~" else "~all"
        text += [closing, *(word for word in words if word.lower().startswith("exp="))]
    elif record.redirect is None:
        text.append("~all")
    return f'Publish: {domain} TXT "{" ".join(text)}"'


def _end(words: list[str]) -> int | None:
    return next((n for n, word in enumerate(words) if word.lower().lstrip("+-~?") == "all"), None)


def _ending(domain: str, record: Record, publish: str) -> Iterator[Problem]:
    """What becomes of hosts that no term names."""
    words = record.text.split()[1:]
    end = _end(words)
    if end is None:
        if record.redirect is None:
            detail = "The record ends without all or redirect, which means neutral for every other host."
            yield Problem(Verdict.WARN, "neutral_all", detail, publish, "RFC 7208 section 4.7")
        return
    qualifier = words[end][0] if words[end][0] in "+-~?" else "+"
    if qualifier == "+":
        detail = f"{words[end]!r} lets every host on the Internet send as {domain}."
        yield Problem(Verdict.FAIL, "plus_all", detail, publish, "RFC 7208 section 5.1")
    elif qualifier == "?":
        yield Problem(Verdict.WARN, "neutral_all", "?all protects nothing.", publish, "RFC 7208 section 8.2")
    dead = [word for word in words[end + 1 :] if not word.lower().startswith("exp=")]
    dead += [word for word in words[:end] if word.lower().startswith("redirect=")]
    if dead:
        detail = f"{' '.join(dead)[:200]!r} has no effect beside all."
        yield Problem(Verdict.WARN, "dead_terms", detail, publish, "RFC 7208 section 5.1")
