"""Delegation: names given to sending services lead somewhere, and to nobody else (RFC 1034 section 3.6.2)."""

from __future__ import annotations

from collections.abc import Generator

from agent.dns.answer import Answer, Outcome, Question, valid_name
from agent.dns.checks.base import Finding, Plan, Problem, Subject, Verdict, asked_once, conclude, lost
from agent.dns.esp import claimable, vendor
from agent.suffix import registered_domain

_HOPS = 8  # of CNAMEs followed
_SELECTORS = 50  # looked at
_RFC = "RFC 1034 section 3.6.2"

_Finding = Generator[tuple[Question, ...], tuple[Answer, ...], Finding]


def plan(subject: Subject) -> Plan:
    """One finding for each of ``link_domains`` and ``return_path_domains``, and one for each DKIM selector that is a
    CNAME into a domain that nobody has registered; none without."""
    return (yield from asked_once(_plan(subject), {}))


def _plan(subject: Subject) -> Plan:
    findings: list[Finding] = []
    for name in dict.fromkeys(subject.link_domains):
        findings += [(yield from _name(name, ("A", "AAAA")))]
    paths = [name for name in dict.fromkeys(subject.return_path_domains) if name not in subject.link_domains]
    own = (yield tuple(Question(name, "MX") for name in paths)) if paths else ()
    for name, mx in zip(paths, own, strict=True):
        if mx.outcome is Outcome.ANSWER and not mx.cnames:
            findings += [_led(name, [], [mx], [])]
        else:
            findings += [(yield from _name(name, ("MX", "TXT")))]
    # Whether a selector has a key is what the DKIM check says; this one says who else could put one there.
    keys = [f"{s}._domainkey.{subject.domain}" for s in dict.fromkeys(subject.dkim_selectors)][:_SELECTORS]
    # One that leads to a record can be taken over by nobody.
    answers = (yield tuple(Question(key, "TXT") for key in keys)) if keys else ()
    for key in (key for key, a in zip(keys, answers, strict=True) if a.outcome is not Outcome.ANSWER):
        finding = yield from _name(key, ("TXT",))
        if finding.reason == "takeover":
            findings.append(finding)
    return tuple(findings)


def _name(name: str, types: tuple[str, ...]) -> _Finding:
    """Follow the CNAMEs one by one: of a chain that leads nowhere a resolver may show no link at all."""
    chain: list[str] = []
    behind: list[Answer] = []
    at = name
    problems: list[Problem] = []
    while len(chain) <= _HOPS:
        (alias,) = yield (Question(at, "CNAME"),)
        behind.append(alias)
        target = alias.records[0] if alias.records else ""
        if not valid_name(target) or target in (name, *chain):
            break
        at = target
        chain.append(at)
    answers = yield tuple(Question(at, type_) for type_ in types)
    behind += answers
    if Outcome.ANSWER not in (a.outcome for a in answers):
        undecided = [a for a in (*behind,) if not a.outcome.definitive]
        problems = [lost(undecided[0])] if undecided else [(yield from _nowhere(name, at, chain, answers))]
    return _led(name, chain, behind, problems)


def _led(name: str, chain: list[str], behind: list[Answer], problems: list[Problem]) -> Finding:
    where = f" to {vendor(chain[-1]) or chain[-1]}" if chain else ""
    return conclude(
        "delegation", name, problems, ok=f"{name} leads{where}." if chain else f"{name} has records of its "
        "own.", rfc=_RFC,
        records=[f"{a} CNAME {b}" for a, b in zip([name, *chain], chain, strict=False)],
        answers=behind,
    )  # fmt: skip


def _nowhere(
    name: str, at: str, chain: list[str], answers: tuple[Answer, ...]
) -> Generator[tuple[Question, ...], tuple[Answer, ...], Problem]:
    gone = all(a.outcome is Outcome.NXDOMAIN for a in answers)
    if not chain:
        what = "does not exist" if gone else f"has no {' or '.join(a.question.type for a in answers)} record"
        return Problem(
            Verdict.FAIL, "delegation_missing", f"{name} {what}.",
            f"Publish: {name} CNAME <the target your sending service gives>, or remove the name from the "
            "settings.", _RFC,
        )  # fmt: skip
    owner = vendor(at)
    whose = f" ({owner})" if owner else ""
    remove = f"Remove the record {name} CNAME {chain[0]}, or set the service up again."
    top = registered_domain(at)
    if gone and top:
        (registered,) = yield (Question(top, "NS"),)
        if registered.outcome is Outcome.NXDOMAIN:
            return Problem(
                Verdict.FAIL, "takeover", f"{name} leads to {at}, and {top} is not registered: whoever registers it "
                f"speaks as {name}.", remove, _RFC,
            )  # fmt: skip
    if gone and claimable(at):
        return Problem(
            Verdict.FAIL, "takeover", f"{name} leads to {at}{whose}, which is gone and can be claimed by anyone: the "
            f"next holder speaks as {name}.", remove, _RFC,
        )  # fmt: skip
    what = "does not exist" if gone else "has nothing to offer there"
    return Problem(Verdict.FAIL, "cname_dangling", f"{name} leads to {at}{whose}, which {what}.", remove, _RFC)
