"""SPF: the published record read as a receiver reads it, in the worst case and for each declared address (RFC 7208)."""

from __future__ import annotations

from collections.abc import Generator

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.checks.base import Finding, Plan, Problem, Subject, Verdict, asked_once, conclude, lost
from agent.dns.checks.spf_lint import ip_term, own_problems, syntax_problems, wide
from agent.dns.checks.spf_tree import tree
from agent.dns.spf_eval import SpfResult, evaluate
from agent.dns.spf_record import LOOKUP_LIMIT, SpfSyntaxError, parse, spf_records

_Linting = Generator[tuple[Question, ...], tuple[Answer, ...], tuple[list[Problem], str]]


def plan(subject: Subject) -> Plan:
    """One finding for the domain's record, and one for each of ``sending_ips``."""
    known: dict[Question, Answer] = {}
    return (yield from asked_once(_plan(subject, known), known))


def _plan(subject: Subject, known: dict[Question, Answer]) -> Plan:
    domain = subject.domain
    (answer,) = yield (Question(domain, "TXT"),)
    found = spf_records(answer.records)
    if len(found) == 1:
        problems, good = yield from _lint(domain, found[0], subject)
    else:
        problems, good = [_absent(answer, found, subject)], ""
    problems += yield from _relics(domain, answer)
    findings = [
        conclude(
            "spf",
            "",
            problems,
            ok=good,
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
    terms = " ".join(ip_term(ip) for ip in subject.sending_ips) or "include:<the name your ESP gives>"
    publish = f'Publish one TXT record: {domain} TXT "v=spf1 {terms} ~all" ("v=spf1 -all" if it never sends).'
    if subject.parked:
        publish = f'Publish: {domain} TXT "v=spf1 -all"'
    if answer.outcome is Outcome.NXDOMAIN:
        return Problem(Verdict.FAIL, "missing_name", f"{domain} does not exist in the DNS.", publish, "RFC 7208 4.3")
    return Problem(Verdict.FAIL, "missing_record", f"{domain} has no SPF record.", publish, "RFC 7208 section 4.5")


def _lint(domain: str, text: str, subject: Subject) -> _Linting:
    """The problems of the one record, and the sentence for when there are none."""
    try:
        record = parse(text)
    except SpfSyntaxError:
        return syntax_problems(domain, text), ""
    below = yield from tree(domain, record)
    problems = [*own_problems(domain, record), *below.problems]
    if subject.parked:
        if text.lower().split() != ["v=spf1", "-all"]:
            detail = f"{domain} is parked, yet its record does more than refuse: {text[:200]!r}."
            publish = f'Publish: {domain} TXT "v=spf1 -all"'
            problems.append(Problem(Verdict.WARN, "parked_open", detail, publish, "RFC 7208 section 10.1.2"))
        return problems, "No host may send as the parked domain."
    end = next((term.text for term in record.mechanisms if term.name == "all"), "redirect")
    return problems, f"One valid SPF record that costs {below.lookups} of {LOOKUP_LIMIT} lookups and ends in {end}."


def _relics(domain: str, answer: Answer) -> Generator[tuple[Question, ...], tuple[Answer, ...], list[Problem]]:
    """Records of two dead ends that nobody reads any more. That they cannot be looked up says nothing."""
    if not answer.outcome.definitive or answer.outcome is Outcome.NXDOMAIN:
        return []
    problems = []
    if old := [text for text in answer.records if text[:7].lower() == "spf2.0/"]:
        detail = f"{domain} still publishes a Sender ID record ({old[0][:60]!r}), which nobody reads any more."
        advice = f'Remove the record: {domain} TXT "{old[0][:500]}"'
        problems.append(Problem(Verdict.WARN, "sender_id", detail, advice, "RFC 6686 section 6"))
    (typed,) = yield (Question(domain, "SPF"),)
    if typed.outcome is Outcome.ANSWER and typed.records:
        detail = f"{domain} still publishes a record of type SPF (99), which nobody reads any more."
        advice = f"Remove the record of type SPF at {domain}; the TXT record is the one that counts."
        problems.append(Problem(Verdict.WARN, "type_spf", detail, advice, "RFC 7208 section 3.1"))
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
        text = f"v=spf1 {ip_term(ip)}{found[0][6:].rstrip()}" if len(found) == 1 else f"v=spf1 {ip_term(ip)} ~all"
        advice = f'Publish: {domain} TXT "{text}"'
        if outcome.result is SpfResult.PERMERROR:
            advice = "Correct the record first; nothing it allows counts before that."
        detail = f"Mail from {ip} gets SPF {outcome.result}: {outcome.explanation}."
        problems.append(Problem(Verdict.FAIL, "ip_not_authorised", detail, advice, "RFC 7208 section 4.7"))
    elif term == "all" or term.startswith("ptr"):
        reason = "plus_all" if term == "all" else "ptr_used"
        problems.append(Problem(Verdict.WARN, reason, f"{ip} passes only because of {outcome.term!r}.",
                                f"Name the address instead: {ip_term(ip)}"))  # fmt: skip
    elif any(wide(t) for t in parse(f"v=spf1 {outcome.term}").mechanisms):
        problems.append(Problem(Verdict.WARN, "network_too_wide", f"{ip} passes, with strangers, by {outcome.term!r}.",
                                f"Name the address instead: {ip_term(ip)}"))  # fmt: skip
    return conclude(
        "spf", ip, problems, ok=f"{ip} passes by {outcome.term!r} of {outcome.domain} ({outcome.lookups} lookups).",
        rfc="RFC 7208", records=found, answers=list(known.values()),
    )  # fmt: skip


def _merged(records: list[str]) -> str:
    """One record with the terms of several, each once, the catch-all last."""
    terms = list(dict.fromkeys(term for record in records for term in record[6:].split()))
    last = {"all", "+all", "-all", "~all", "?all"}
    return " ".join(["v=spf1", *(t for t in terms if t.lower() not in last), "~all"])
