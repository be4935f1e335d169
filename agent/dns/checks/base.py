"""What a DNS check is: a plan that yields tuples of questions, is sent tuples of answers, and returns findings.

It never waits, never opens a socket and knows no clock: a dict drives it in tests, the resolver in life.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from enum import StrEnum
from typing import Protocol

import msgspec

from agent.dns.answer import Answer, Outcome, Question


class Verdict(StrEnum):
    """``unknown`` is never ``fail``: it says that nobody could tell."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


class MailStream(msgspec.Struct, frozen=True):
    """How one kind of a domain's mail is sent. ``provider`` is a provider id; ``return_path`` and ``dkim_domain`` are
    the domains of MAIL FROM and of the signature's ``d=``. What is ``""`` or empty is not declared; without
    ``dkim_domain`` the domain itself signs, without ``selectors`` with the domain's."""

    name: str
    provider: str = ""
    return_path: str = ""
    dkim_domain: str = ""
    selectors: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()


class Subject(msgspec.Struct, frozen=True):
    """What is checked: a domain and what settings say of it. ``parked`` is a domain that sends nothing and must not be
    usable by others; ``probe_selectors`` looks for the usual DKIM selectors although some are known; of the usual ones
    ``found_selectors`` were found not long ago, and the others need not be looked for, ``None`` when they must.
    ``helo`` are the names with which sending addresses greet. ``rdap`` allows the registry to be asked when the domain
    expires, ``smtp_probe`` a connection to port 25 of its mail hosts."""

    domain: str
    dkim_selectors: tuple[str, ...] = ()
    sending_ips: tuple[str, ...] = ()
    parked: bool = False
    probe_selectors: bool = False
    helo: dict[str, str] = {}
    return_path_domains: tuple[str, ...] = ()
    link_domains: tuple[str, ...] = ()
    rdap: bool = False
    smtp_probe: bool = False
    mail_streams: tuple[MailStream, ...] = ()
    found_selectors: tuple[str, ...] | None = None


# What is kept by the hundred thousand holds no cycles, and the garbage collector need not walk through it.
class Problem(msgspec.Struct, frozen=True, gc=False):
    """One thing that is not as it should be, and what to do about it; a check concludes from all of them."""

    verdict: Verdict
    reason: str
    detail: str
    advice: str = ""
    rfc: str = ""


class Finding(msgspec.Struct, frozen=True, gc=False):
    """What one check says. ``subject`` is the selector, address or list concerned, else ``""``. ``reason`` is a
    stable code (``key_missing``, ``policy_none``, ...), ``detail`` a sentence for people, ``advice`` what to do,
    with the exact record to publish where there is one, ``rfc`` the section it rests on. ``records`` are the
    offending or confirming records as found, ``ttl`` the lowest TTL behind the finding, in seconds. ``problems`` are
    all that were found, the worst first, each with advice of its own; empty where nothing is wrong, or where the
    finding itself is all there is to say."""

    check: str
    subject: str
    verdict: Verdict
    reason: str
    detail: str
    advice: str = ""
    rfc: str = ""
    records: tuple[str, ...] = ()
    ttl: int = 0
    problems: tuple[Problem, ...] = ()


class Watched(msgspec.Struct, frozen=True, gc=False):
    """A finding as the watch publishes it: with its times (Unix seconds, 0 = never) and the last good answer.

    ``finding`` is the current one (``unknown`` while lookups fail); ``last_definitive`` the newest one that was not
    ``unknown``, from ``definitive_at``. ``since`` is when the current verdict began; ``checked_at`` the last try.
    """

    domain: str
    finding: Finding
    checked_at: float
    since: float
    definitive_at: float = 0.0
    last_definitive: Finding | None = None


Plan = Generator[tuple[Question, ...], tuple[Answer, ...], tuple[Finding, ...]]


class Check(Protocol):
    """What ``CHECKS`` maps a check's name to (modules satisfy it)."""

    def plan(self, subject: Subject) -> Plan:
        """The check of one subject. Ends for every sequence of answers, however absurd."""


# Of several things said at once the first of these wins: a definite failure stands whatever else nobody could tell.
SEVERITY = (Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN, Verdict.OK)


def lost(answer: Answer) -> Problem:
    """The problem of an answer from which nothing can be concluded."""
    q = answer.question
    at = f" at {q.server}" if q.server else ""
    detail = f"The {q.type} lookup of {q.name}{at} ended in {answer.outcome}."
    return Problem(Verdict.UNKNOWN, "indeterminate", detail, "Nothing to change: it is asked again soon.")


def conclude(
    check: str,
    subject: str,
    problems: Iterable[Problem],
    *,
    ok: str,
    rfc: str,
    records: Iterable[str] = (),
    answers: Iterable[Answer] = (),
) -> Finding:
    """One finding out of all problems: verdict, reason and advice of the worst, and what every one of them says.
    ``ok`` is the sentence when there are none; ``answers`` are those behind it, for the TTL."""
    ordered = sorted(problems, key=lambda p: SEVERITY.index(p.verdict))
    ttl = min((a.ttl for a in answers if a.outcome is Outcome.ANSWER and a.ttl > 0), default=0)
    shown = tuple(record[:1000] for record in list(records)[:10])
    if not ordered:
        return Finding(check, subject, Verdict.OK, "ok", ok, rfc=rfc, records=shown, ttl=ttl)
    worst = ordered[0]
    detail = " ".join(dict.fromkeys(p.detail for p in ordered[:10]))[:2000]
    advice = worst.advice[:2000]
    listed = [p for p in dict.fromkeys(ordered) if p.verdict is not Verdict.OK][:10]
    return Finding(check, subject, worst.verdict, worst.reason, detail, advice, worst.rfc or rfc, shown, ttl,
                   tuple(_short(p, rfc) for p in listed))  # fmt: skip


def _short(problem: Problem, rfc: str) -> Problem:
    """A problem as a finding may keep it: hostile records make sentences of any length."""
    return Problem(
        problem.verdict, problem.reason, problem.detail[:2000], problem.advice[:2000], problem.rfc or rfc
    )  # fmt: skip


def asked_once(plan: Plan, known: dict[Question, Answer]) -> Plan:
    """The same plan, asking no question twice. ``known`` is filled with the answers as they come."""
    try:
        questions = next(plan)
        while True:
            new = tuple(dict.fromkeys([q for q in questions if q not in known]))
            answers: tuple[Answer, ...] = ()
            if new:
                answers = yield new
                known.update(zip(new, answers, strict=True))
            whole = len(new) == len(questions)
            questions = plan.send(answers if whole else tuple([known[q] for q in questions]))
    except StopIteration as stop:
        findings: tuple[Finding, ...] = stop.value
        return findings


def drive(plan: Plan, answers: Callable[[Question], Answer]) -> tuple[Finding, ...]:
    """Lead a plan to its end on answers that are there already."""
    try:
        questions = next(plan)
        while True:
            questions = plan.send(tuple(map(answers, questions)))
    except StopIteration as stop:
        findings: tuple[Finding, ...] = stop.value
        return findings
