"""SPF: the published record read as a receiver reads it, in the worst case and for each declared address (RFC 7208)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from ipaddress import ip_network

import msgspec

from agent.dns.answer import Answer, Outcome, Question, valid_name
from agent.dns.checks.base import Finding, Plan, Problem, Subject, Verdict, asked_once, conclude, lost
from agent.dns.space import reachable
from agent.dns.spf_eval import SpfResult, evaluate
from agent.dns.spf_record import LOOKUP_LIMIT, QUERYING, VOID_LIMIT, Record, SpfSyntaxError, Term, parse, spf_records

_WALK_LIMIT = 40  # lookups after which an include tree is not followed any further: it is far beyond the ten anyway
_TEXT_LIMIT = 450  # octets that fit a DNS message without extensions (section 3.4)
_KNOWN_MODIFIERS = ("redirect", "exp")

_Problems = Generator[tuple[Question, ...], tuple[Answer, ...], list[Problem]]


def plan(subject: Subject) -> Plan:
    """One finding for the domain's record, and one for each of ``sending_ips``."""
    known: dict[Question, Answer] = {}
    return (yield from asked_once(_plan(subject, known), known))


def _plan(subject: Subject, known: dict[Question, Answer]) -> Plan:
    domain = subject.domain
    (answer,) = yield (Question(domain, "TXT"),)
    found = spf_records(answer.records)
    if len(found) == 1:
        problems = yield from _lint(domain, found[0], subject)
    else:
        problems = [_absent(answer, found, subject)]
    findings = [
        conclude(
            "spf",
            "",
            problems,
            ok="One valid SPF record that stays within the lookup limits.",
            rfc="RFC 7208",
            records=found or answer.records,
            answers=list(known.values()),
        )
    ]
    for ip in dict.fromkeys(subject.sending_ips):
        finding = yield from _authorised(domain, ip, found, known)
        findings.append(finding)
    return tuple(findings)


def _absent(answer: Answer, found: list[str], subject: Subject) -> Problem:
    domain = subject.domain
    if not answer.outcome.definitive:
        return lost(answer)
    if found:
        return Problem(
            Verdict.FAIL,
            "multiple_records",
            f"{domain} publishes {len(found)} SPF records; receivers then use none of them.",
            f'Replace them by one TXT record: {domain} TXT "{_merged(found)}"',
            "RFC 7208 section 4.5",
        )
    terms = " ".join(_ip_term(ip) for ip in subject.sending_ips) or "include:<the name your ESP gives>"
    publish = f'Publish one TXT record: {domain} TXT "v=spf1 {terms} ~all" ("v=spf1 -all" if it never sends).'
    if answer.outcome is Outcome.NXDOMAIN:
        return Problem(Verdict.FAIL, "missing_name", f"{domain} does not exist in the DNS.", publish, "RFC 7208 4.3")
    return Problem(Verdict.FAIL, "missing_record", f"{domain} has no SPF record.", publish, "RFC 7208 section 4.5")


def _lint(domain: str, text: str, subject: Subject) -> _Problems:
    try:
        record = parse(text)
    except SpfSyntaxError as e:
        return [_syntax(domain, e)]
    problems = list(_own(domain, record))
    return problems + (yield from _tree(domain, record))


def _syntax(domain: str, e: SpfSyntaxError, included: str = "") -> Problem:
    return Problem(
        Verdict.FAIL,
        "syntax_error",
        f"In the record of {domain}{included}, the term {e.term[:200]!r} {e}; receivers reject the whole record.",
        f"Correct or remove {e.term[:200]!r}." if not included else f"Tell the owner of {domain}, or remove it.",
        "RFC 7208 section 4.6",
    )


def _own(domain: str, record: Record) -> Iterator[Problem]:
    """What the record itself says, before anything else is asked."""

    def warn(reason: str, detail: str, advice: str, rfc: str = "RFC 7208") -> Problem:
        return Problem(Verdict.WARN, reason, detail, advice, rfc)

    names = [term.name for term in record.mechanisms]
    if "all" in names:
        last = record.mechanisms[names.index("all")]
        closed = " ".join(
            ["v=spf1", *(t.text for t in record.mechanisms[: names.index("all")]), "~all"]
            + [m.text for m in record.modifiers if m.name != "redirect"]
        )
        if last.qualifier == "+":
            yield Problem(
                Verdict.FAIL,
                "plus_all",
                f"{last.text!r} lets every host on the Internet send as {domain}.",
                f'Publish: {domain} TXT "{closed}"',
                "RFC 7208 section 5.1",
            )
        elif last.qualifier == "?":
            yield warn("neutral_all", "?all protects nothing.", f'Publish: {domain} TXT "{closed}"', "RFC 7208 8.2")
        dead = [term.text for term in record.mechanisms[names.index("all") + 1 :]]
        dead += [m.text for m in record.modifiers if m.name == "redirect"]
        if dead:
            yield warn(
                "dead_terms", f"{' '.join(dead)[:200]!r} has no effect beside all.", "Remove it.", "RFC 7208 5.1"
            )
    elif record.redirect is None:
        yield warn(
            "neutral_all",
            "The record ends without all or redirect, which means neutral for every other host.",
            f'Publish: {domain} TXT "{record.text.rstrip()} ~all"',
            "RFC 7208 section 4.7",
        )
    if "ptr" in names:
        yield warn("ptr_used", "ptr is slow and unreliable and should not be used.", "Replace ptr by ip4 or ip6 terms.",
                   "RFC 7208 section 5.5")  # fmt: skip
    if len(record.text) > _TEXT_LIMIT:
        yield warn("too_long", f"The record has {len(record.text)} octets; beyond {_TEXT_LIMIT} it may not fit a UDP "
                   "answer.", "Shorten it: remove terms that no longer send.", "RFC 7208 section 3.4")  # fmt: skip
    repeated = [text for text, n in Counter(t.text.lower() for t in record.mechanisms).items() if n > 1]
    if repeated:
        yield warn("duplicate_term", f"{repeated[0]!r} stands in the record more than once.", "Remove the repetition.")
    for term in record.mechanisms:
        if term.network:
            yield from _network(term)
    unknown = [m.text for m in record.modifiers if m.name not in _KNOWN_MODIFIERS]
    if unknown:
        yield warn("unknown_modifier", f"{unknown[0][:200]!r} is no known modifier and is ignored.",
                   "If a mechanism was meant, write it with a colon; else remove it.", "RFC 7208 6")  # fmt: skip


def _network(term: Term) -> Iterator[Problem]:
    network = ip_network(term.network)
    if _wide(term.network):
        yield Problem(Verdict.WARN, "network_too_wide", f"{term.text!r} allows more hosts than one sender has.",
                      "Name only the addresses that send.", "RFC 7208 section 5.6")  # fmt: skip
    elif not reachable(network):
        yield Problem(Verdict.WARN, "network_not_public", f"{term.text!r} is no public address space.",
                      f"Remove {term.text}.", "RFC 7208 section 5.6")  # fmt: skip


def _wide(network: str) -> bool:
    parsed = ip_network(network)
    return parsed.prefixlen < (16 if parsed.version == 4 else 32)


class _Node(msgspec.Struct, frozen=True):
    """A record in the tree of includes and redirects; ``path`` are the names that lead to it, itself last."""

    path: tuple[str, ...]
    record: Record


def _tree(domain: str, record: Record) -> _Problems:
    """Follow every include and redirect, and count what the worst case costs (section 4.6.4)."""
    problems: list[Problem] = []
    hosts: dict[Question, str] = {}
    lookups = 0
    level = [_Node((domain,), record)]
    while level and lookups <= _WALK_LIMIT:
        wanted: list[tuple[str, tuple[str, ...]]] = []
        for node in level:
            redirect = node.record.redirect
            for term in (*node.record.mechanisms, *((redirect,) if redirect else ())):
                lookups += term.name in QUERYING
                target = term.target(node.path[-1])
                # What macros name depends on the message, so it counts and cannot be followed.
                if target is None or term.name not in QUERYING or not valid_name(target):
                    continue
                if term.name in ("a", "mx"):
                    hosts.setdefault(Question(target, "MX" if term.name == "mx" else "A"), term.text)
                elif term.name in ("ptr", "exists"):
                    continue
                elif target in node.path:
                    problems.append(_loop((*node.path, target)))
                elif len(node.path) <= LOOKUP_LIMIT and len(wanted) < _WALK_LIMIT:
                    wanted.append((target, (*node.path, target)))
        level = []
        answers = (yield tuple(Question(name, "TXT") for name, _ in wanted)) if wanted else ()
        for (name, path), answer in zip(wanted, answers, strict=True):
            nested = _nested(name, path, answer)
            if isinstance(nested, Problem):
                problems.append(nested)
            else:
                level.append(nested)
                problems += [
                    Problem(Verdict.FAIL, "plus_all", f"{name}, which the record includes, lets every host send.",
                            f"Remove {name} from the record of {path[-2]}.", "RFC 7208 section 5.1")
                    for term in nested.record.mechanisms if term.name == "all" and term.qualifier == "+"
                ]  # fmt: skip
    problems += _limit(
        "lookup_limit", lookups, LOOKUP_LIMIT, near=LOOKUP_LIMIT - 1, what="DNS lookups",
        advice="Remove includes that no longer send, or replace a and mx terms by addresses.",
    )  # fmt: skip
    return problems + (yield from _voids(hosts))


def _limit(reason: str, count: int, limit: int, *, near: int, what: str, advice: str) -> Iterator[Problem]:
    if count >= near:
        beyond = count > limit
        much = f"more than {_WALK_LIMIT}" if count > _WALK_LIMIT else str(count)
        yield Problem(
            Verdict.FAIL if beyond else Verdict.WARN,
            reason,
            f"The record and what it includes cost {much} {what} of the {limit} allowed"
            + ("; receivers end in permerror." if beyond else "."),
            advice,
            "RFC 7208 section 4.6.4",
        )


def _loop(path: tuple[str, ...]) -> Problem:
    return Problem(Verdict.FAIL, "loop", f"The records include each other: {' > '.join(path)}.",
                   f"Remove {path[-1]} from the record of {path[-2]}.", "RFC 7208 section 4.6.4")  # fmt: skip


def _nested(name: str, path: tuple[str, ...], answer: Answer) -> Problem | _Node:
    if not answer.outcome.definitive:
        return lost(answer)
    found = spf_records(answer.records)
    advice = f"Remove {name} from the record of {path[-2]}, or have its owner publish SPF there."
    if not found:
        gone = answer.outcome is Outcome.NXDOMAIN
        what = "does not exist" if gone else "has no SPF record"
        if gone:
            what += " (whoever registers it can send in your name)" if name.count(".") == 1 else ""
        detail = f"{name}, which {path[-2]} refers to, {what}; receivers end in permerror."
        return Problem(Verdict.FAIL, "include_dangling", detail, advice, "RFC 7208 section 5.2")
    if len(found) > 1:
        detail = f"{name}, which {path[-2]} refers to, has {len(found)} SPF records."
        return Problem(Verdict.FAIL, "multiple_records", detail, advice, "RFC 7208 section 4.5")
    try:
        return _Node(path, parse(found[0]))
    except SpfSyntaxError as e:
        return _syntax(name, e, f", which {path[-2]} refers to")


def _voids(hosts: dict[Question, str]) -> _Problems:
    """Terms that find nothing. An A lookup without data is void only if there is no AAAA either: which of the two a
    receiver asks for depends on the client."""
    asked = dict(list(hosts.items())[:_WALK_LIMIT])
    if not asked:
        return []
    answers = yield tuple(asked)
    problems = [lost(a) for a in answers if not a.outcome.definitive]
    empty = [a.question for a in answers if a.outcome in (Outcome.NODATA, Outcome.NXDOMAIN)]
    again = [q for q in empty if q.type == "A"]
    if again:
        second = yield tuple(Question(q.name, "AAAA") for q in again)
        for question, answer in zip(again, second, strict=True):
            if answer.outcome is Outcome.ANSWER:
                empty.remove(question)
            elif not answer.outcome.definitive:
                empty.remove(question)
                problems.append(lost(answer))
    terms = [asked[q] for q in empty]
    if terms:
        problems += _limit(
            "void_limit", len(terms), VOID_LIMIT, near=1, what=f"void lookups ({', '.join(terms)[:200]})",
            advice="Remove the terms that find no address.",
        )  # fmt: skip
    return problems


def _authorised(
    domain: str, ip: str, found: list[str], known: dict[Question, Answer]
) -> Generator[tuple[Question, ...], tuple[Answer, ...], Finding]:
    try:
        outcome = yield from evaluate(ip, f"postmaster@{domain}", domain)
    except ValueError:
        return Finding("spf", ip, Verdict.UNKNOWN, "bad_address", f"{ip!r} is not an IP address.",
                       "Correct sending_ips in the settings.")  # fmt: skip
    problems: list[Problem] = []
    term = outcome.term.lower().lstrip("+")
    if outcome.result is SpfResult.TEMPERROR:
        problems.append(Problem(Verdict.UNKNOWN, "indeterminate", f"Nobody could tell: {outcome.explanation}.",
                                "Nothing to change: it is asked again soon."))  # fmt: skip
    elif outcome.result is not SpfResult.PASS:
        text = f"v=spf1 {_ip_term(ip)}{found[0][6:].rstrip()}" if len(found) == 1 else f"v=spf1 {_ip_term(ip)} ~all"
        advice = f'Publish: {domain} TXT "{text}"'
        if outcome.result is SpfResult.PERMERROR:
            advice = "Correct the record first; nothing it allows counts before that."
        detail = f"Mail from {ip} gets SPF {outcome.result}: {outcome.explanation}."
        problems.append(Problem(Verdict.FAIL, "ip_not_authorised", detail, advice, "RFC 7208 section 4.7"))
    elif term == "all" or term.startswith("ptr"):
        reason = "plus_all" if term == "all" else "ptr_used"
        problems.append(Problem(Verdict.WARN, reason, f"{ip} passes only because of {outcome.term!r}.",
                                f"Name the address instead: {_ip_term(ip)}"))  # fmt: skip
    elif term.startswith(("ip4:", "ip6:")) and _wide(term[4:]):
        problems.append(Problem(Verdict.WARN, "network_too_wide", f"{ip} passes, with strangers, by {outcome.term!r}.",
                                f"Name the address instead: {_ip_term(ip)}"))  # fmt: skip
    return conclude(
        "spf", ip, problems, ok=f"{ip} passes by {outcome.term!r} of {outcome.domain} ({outcome.lookups} lookups).",
        rfc="RFC 7208", records=found, answers=list(known.values()),
    )  # fmt: skip


def _ip_term(ip: str) -> str:
    return f"ip6:{ip}" if ":" in ip else f"ip4:{ip}"


def _merged(records: list[str]) -> str:
    """One record with the terms of several, each once, the catch-all last."""
    terms = list(dict.fromkeys(term for record in records for term in record[6:].split()))
    last = {"all", "+all", "-all", "~all", "?all"}
    return " ".join(["v=spf1", *(t for t in terms if t.lower() not in last), "~all"])
