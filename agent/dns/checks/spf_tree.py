"""What an SPF record costs and where it leads in the worst case: every include, redirect, a and mx of its tree
(RFC 7208 sections 4.6.4 and 5.2)."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import msgspec

from agent.dns.answer import Answer, Outcome, Question, valid_name
from agent.dns.checks.base import Problem, Verdict, lost
from agent.dns.checks.spf_lint import syntax_problem
from agent.dns.spf_record import LOOKUP_LIMIT, QUERYING, VOID_LIMIT, Record, SpfSyntaxError, parse, spf_records
from agent.suffix import registered_domain

_WALK_LIMIT = 40  # lookups after which an include tree is not followed any further: it is far beyond the ten anyway
_EXCHANGES = 10  # address lookups allowed for one mx term


class Tree(msgspec.Struct, frozen=True):
    """``lookups`` is what the whole tree costs of the ten, ``names`` are the domains whose
    records it refers to, the checked one first."""

    problems: list[Problem]
    lookups: int
    names: tuple[str, ...]


TreePlan = Generator[tuple[Question, ...], tuple[Answer, ...], Tree]
_Problems = Generator[tuple[Question, ...], tuple[Answer, ...], list[Problem]]


class _Node(msgspec.Struct, frozen=True):
    """A record in the tree of includes and redirects; ``path`` are the names that lead to it, itself last."""

    path: tuple[str, ...]
    record: Record


def tree(domain: str, record: Record) -> TreePlan:
    """Follow every include and redirect of the record of ``domain``."""
    problems: list[Problem] = []
    hosts: dict[Question, str] = {}
    gone: dict[str, str] = {}
    read: dict[str, Problem | Record] = {}
    lookups = 0
    level = [_Node((domain,), record)]
    while level and lookups <= _WALK_LIMIT:
        wanted: list[tuple[str, tuple[str, ...]]] = []
        for node in level:
            redirect = node.record.redirect
            for term in (*node.record.mechanisms, *((redirect,) if redirect else ())):
                if lookups > _WALK_LIMIT:
                    break
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
            if answer.outcome is Outcome.NXDOMAIN:
                gone.setdefault(name, path[-2])
            if name not in read:
                read[name] = _nested(name, path[-2], answer)
            nested = read[name]
            if isinstance(nested, Problem):
                problems.append(nested)
            else:
                level.append(_Node(path, nested))
                problems += _open(level[-1])
    problems += _limit(
        "lookup_limit", lookups, LOOKUP_LIMIT, near=LOOKUP_LIMIT - 1, what="DNS lookups",
        advice="Remove includes that no longer send, or replace a and mx terms by addresses.",
    )  # fmt: skip
    problems += yield from _hosts(domain, hosts, gone)
    problems += yield from _unregistered(gone)
    return Tree(problems, lookups, (domain, *read))


def _open(node: _Node) -> Iterator[Problem]:
    for term in node.record.mechanisms:
        if term.name == "all" and term.qualifier == "+":
            yield Problem(
                Verdict.FAIL, "plus_all", f"{node.path[-1]}, which the record includes, lets every host send.",
                f"Remove {node.path[-1]} from the record of {node.path[-2]}.", "RFC 7208 section 5.1",
            )  # fmt: skip


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


def _nested(name: str, referrer: str, answer: Answer) -> Problem | Record:
    if not answer.outcome.definitive:
        return lost(answer)
    found = spf_records(answer.records)
    advice = f"Remove {name} from the record of {referrer}, or have its owner publish SPF there."
    if not found:
        what = "does not exist" if answer.outcome is Outcome.NXDOMAIN else "has no SPF record"
        detail = f"{name}, which {referrer} refers to, {what}; receivers end in permerror."
        return Problem(Verdict.FAIL, "include_dangling", detail, advice, "RFC 7208 section 5.2")
    if len(found) > 1:
        detail = f"{name}, which {referrer} refers to, has {len(found)} SPF records."
        return Problem(Verdict.FAIL, "multiple_records", detail, advice, "RFC 7208 section 4.5")
    try:
        return parse(found[0])
    except SpfSyntaxError as e:
        return syntax_problem(name, e, referrer)


def _hosts(domain: str, hosts: dict[Question, str], gone: dict[str, str]) -> _Problems:
    """Terms that find nothing. An A lookup without data is void only if there is no AAAA either: which of the two a
    receiver asks for depends on the client. Names that do not exist are noted in ``gone``."""
    asked = dict(list(hosts.items())[:_WALK_LIMIT])
    if not asked:
        return []
    answers = yield tuple(asked)
    problems = [lost(a) for a in answers if not a.outcome.definitive]
    empty = [a.question for a in answers if a.outcome in (Outcome.NODATA, Outcome.NXDOMAIN)]
    gone.update({a.question.name: domain for a in answers if a.outcome is Outcome.NXDOMAIN})
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
    return problems + (yield from _exchanges([a for a in answers if a.question.type == "MX"], asked))


def _exchanges(answers: list[Answer], terms: dict[Question, str]) -> _Problems:
    """The hosts behind mx terms: more than ten end in permerror, and without addresses the term allows nobody."""
    problems: list[Problem] = []
    behind: dict[Question, list[str]] = {}
    for answer in answers:
        found = list(dict.fromkeys(exchange for _, exchange in answer.mx() if valid_name(exchange)))
        if len(found) > _EXCHANGES:
            detail = f"{answer.question.name} has {len(found)} mail exchanges; an mx term may lead to {_EXCHANGES}."
            advice = f"Replace {terms[answer.question]} by the addresses that send."
            problems.append(Problem(Verdict.FAIL, "mx_limit", detail, advice, "RFC 7208 section 4.6.4"))
        elif answer.outcome is Outcome.ANSWER:
            behind[answer.question] = found
    names = list(dict.fromkeys(name for found in behind.values() for name in found))[:_WALK_LIMIT]
    if names:
        addresses = yield tuple(Question(name, type_) for name in names for type_ in ("A", "AAAA"))
        without = {
            name
            for name, pair in zip(names, zip(addresses[::2], addresses[1::2], strict=True), strict=True)
            if all(a.outcome in (Outcome.NODATA, Outcome.NXDOMAIN) for a in pair)
        }
    else:
        without = set()
    for question, found in behind.items():
        if without.issuperset(found):
            detail = f"{terms[question]!r} allows nobody: no mail exchange of {question.name} has an address."
            advice = f"Remove {terms[question]}, or replace it by the addresses that send."
            problems.append(Problem(Verdict.WARN, "mx_without_address", detail, advice, "RFC 7208 section 5.4"))
    return problems


def _unregistered(gone: dict[str, str]) -> _Problems:
    """Names that do not exist because their whole domain does not: whoever registers it may send as the domain."""
    owners = {registered_domain(name): (name, referrer) for name, referrer in list(gone.items())[:_WALK_LIMIT]}
    owners.pop("", None)
    if not owners:
        return []
    answers = yield tuple(Question(owner, "NS") for owner in owners)
    problems = []
    for answer, (name, referrer) in zip(answers, owners.values(), strict=True):
        if answer.outcome is Outcome.NXDOMAIN:
            owner = answer.question.name
            detail = f"{owner} is not in the DNS at all: whoever registers it can send in the name of {referrer}."
            advice = f"Remove {name} from the record of {referrer} now."
            problems.append(Problem(Verdict.FAIL, "target_unregistered", detail, advice, "RFC 7208 section 11.2"))
    return problems
