"""DMARC: the policy that applies to the domain, and whether its reports arrive (RFC 9989, RFC 9990)."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.checks.base import Plan, Problem, Subject, Verdict, asked_once, conclude, lost
from agent.dns.dmarc_record import LEVELS, DmarcRecord, Walk, is_dmarc, walk, walk_names

_REPORT_HOSTS = 10  # destinations looked at; more is nobody's real record

_Problems = Generator[tuple[Question, ...], tuple[Answer, ...], list[Problem]]


def plan(subject: Subject) -> Plan:
    """One finding: the policy in force for the domain and what weakens it."""
    return (yield from asked_once(_plan(subject), {}))


def _plan(subject: Subject) -> Plan:
    domain = subject.domain
    names = walk_names(domain)
    *answers, existence = yield (*(Question(f"_dmarc.{name}", "TXT") for name in names), Question(domain, "A"))
    found = walk(names, answers)
    own = answers[0]
    own_records = [text for text in own.records if is_dmarc(text)]
    record = found.policy_record
    if not own.outcome.definitive:
        problems = [lost(own)]
    elif existence.outcome is Outcome.NXDOMAIN:
        problems = [_no_such_name(domain)]
    elif len(own_records) > 1:
        problems = [_several(domain, own_records)]
    elif not own_records and (mistaken := [text for text in own.records if _lookalike(text)]):
        problems = [_malformed(domain, mistaken[0])]
    elif not own_records and found.lost is not None:
        problems = [lost(found.lost)]
    elif record is None:
        problems = yield from _absent(domain)
    else:
        problems = list(_policy(domain, found, record)) + list(_strangers(domain, own, own_records))
        problems += yield from _reports(found, record)
    applied = "" if record is None or record.name == domain else f" (from {record.name})"
    level = record.policy(own=record.name == domain) if record else ""
    finding = conclude(
        "dmarc",
        "",
        problems,
        ok=f"The policy {level} applies{applied}, and reports are accepted where they go.",
        rfc="RFC 9989",
        records=own_records or ([record.text] if record else own.records),
        answers=[a for a in answers if any(is_dmarc(text) for text in a.records)],
    )
    return (finding,)


def _no_such_name(domain: str) -> Problem:
    return Problem(
        Verdict.FAIL, "missing_name", f"{domain} does not exist in the DNS; receivers distrust mail from it.",
        f"Publish records for {domain}, or send from a domain that exists.", "RFC 9989 section 3.2.13",
    )  # fmt: skip


def _several(domain: str, records: list[str]) -> Problem:
    return Problem(
        Verdict.FAIL, "multiple_records", f"_dmarc.{domain} has {len(records)} DMARC records; all are discarded.",
        f'Leave one: _dmarc.{domain} TXT "{records[0][:1000]}"', "RFC 9989 section 4.10",
    )  # fmt: skip


def _lookalike(text: str) -> bool:
    lower = text.lower()
    return "dmarc1" in lower or lower.startswith("v=spf1")


def _malformed(domain: str, text: str) -> Problem:
    return Problem(
        Verdict.FAIL, "syntax_error", f"The TXT record at _dmarc.{domain} is no DMARC record: it begins {text[:60]!r}.",
        f'It must begin "v=DMARC1;", exactly so: _dmarc.{domain} TXT "{_first(domain)}"', "RFC 9989 section 4.8",
    )  # fmt: skip


def _first(domain: str) -> str:
    return f"v=DMARC1; p=none; rua=mailto:dmarc@{domain}"


def _absent(domain: str) -> _Problems:
    """Nothing applies. Look where the record is put by mistake."""
    places = (domain, f"dmarc.{domain}", f"_dmarc.{domain}.{domain}")
    *others, alias = yield (
        *(Question(name, "TXT") for name in places),
        Question(f"_dmarc.{domain}", "CNAME"),
    )
    publish = f'Publish: _dmarc.{domain} TXT "{_first(domain)}", and tighten p once the reports are clean.'
    if alias.outcome is Outcome.ANSWER and alias.records:
        detail = f"_dmarc.{domain} is a CNAME to {alias.records[0]}, where there is no DMARC record."
        return [Problem(Verdict.FAIL, "cname_dangling", detail, publish, "RFC 9989 section 4.5")]
    for name, answer in zip(places, others, strict=True):
        for text in answer.records:
            if is_dmarc(text):
                return [
                    Problem(Verdict.FAIL, "wrong_location", f"The DMARC record stands at {name}, where nobody looks.",
                            f'Move it: _dmarc.{domain} TXT "{text[:1000]}"', "RFC 9989 section 4.5")
                ]  # fmt: skip
    detail = f"No DMARC record applies to {domain}; large receivers require one."
    return [Problem(Verdict.FAIL, "missing_record", detail, publish, "RFC 9989 section 4.10")]


def _policy(domain: str, found: Walk, record: DmarcRecord) -> Iterator[Problem]:
    own = record.name == domain
    where = f"_dmarc.{record.name}"
    level = record.policy(own=own)

    def warn(reason: str, detail: str, advice: str, rfc: str = "RFC 9989 section 4.7") -> Problem:
        return Problem(Verdict.WARN, reason, detail, advice, rfc)

    if record.invalid_policy or not record.level("p"):
        tag = record.invalid_policy[0] if record.invalid_policy else "p"
        what = f"{tag}={record.tags[tag][:40]} is no policy" if tag in record.tags else "The tag p= is missing"
        effect = "it counts as p=none" if level else "and without a usable rua= the record is not applied at all"
        changes = {**dict.fromkeys(record.invalid_policy, ""), "p": record.level("p") or "none"}
        publish = f'Publish: {where} TXT "{record.rewritten(**changes)}"'
        verdict = Verdict.WARN if level else Verdict.FAIL
        yield Problem(verdict, "policy_invalid", f"{what}; {effect}.", publish, "RFC 9989 section 4.10.1")
    elif level == "none":
        tag = "p" if own else ("sp" if record.level("sp") else "p")
        yield warn("policy_none", f"{tag}=none asks receivers to do nothing about forged mail.",
                   f'When the reports are clean, publish: {where} TXT "{record.rewritten(**{tag: "quarantine"})}"',
                   "RFC 9989 section 7.4")  # fmt: skip
    if record.flag("t") == "y" and level not in ("", "none"):
        yield warn("policy_test", "t=y asks receivers to apply the next weaker policy.",
                   f'Publish: {where} TXT "{record.rewritten(t="")}"')  # fmt: skip
    if own and found.organizational_domain == domain:
        for tag in ("sp", "np"):
            if (sub := record.level(tag)) and LEVELS.index(sub) < LEVELS.index(record.level("p") or "none"):
                yield warn("sub_weaker", f"{tag}={sub} leaves subdomains open to forgery.",
                           f'Publish: {where} TXT "{record.rewritten(**{tag: record.level("p")})}"')  # fmt: skip
    pct = record.tags.get("pct", "100")
    if pct != "100":
        yield warn("removed_tag", f"pct={pct[:20]} is no longer part of DMARC; old receivers apply the policy in part.",
                   f'Publish: {where} TXT "{record.rewritten()}"', "RFC 9989 appendix C")  # fmt: skip
    if record.faults:
        yield warn("syntax_error", f"In the record at {where}, {'; '.join(record.faults)}.",
                   f'Publish: {where} TXT "{record.rewritten()}"', "RFC 9989 section 4.8")  # fmt: skip


def _strangers(domain: str, own: Answer, own_records: list[str]) -> Iterator[Problem]:
    if own_records and len(own.records) > len(own_records):
        yield Problem(Verdict.WARN, "unrelated_txt", f"_dmarc.{domain} has other TXT records beside DMARC.",
                      "Remove them: some receivers stumble over them.", "RFC 9989 section 4.10")  # fmt: skip


def _reports(found: Walk, record: DmarcRecord) -> _Problems:
    """Whether aggregate reports have somewhere to go, and may go there (RFC 9990 section 4)."""
    where = f"_dmarc.{record.name}"
    hosts = record.report_hosts[:_REPORT_HOSTS]
    if not hosts:
        example = f"mailto:dmarc@{record.name}"
        detail = "The record names no mailbox for aggregate reports, so nobody sees who sends as the domain."
        if record.tags.get("rua"):
            detail = "rua= holds no usable mailto: address."
        publish = f'Publish: {where} TXT "{record.rewritten(rua=example)}"'
        return [Problem(Verdict.WARN, "rua_missing", detail, publish, "RFC 9989 section 4.7")]
    organization = found.organizational_domain if found.lost is None else record.name
    external = [h for h in hosts if h != organization and not h.endswith(f".{organization}")]
    answers = yield (
        *(Question(host, "MX") for host in hosts),
        *(Question(host, "A") for host in hosts),
        *(Question(f"{record.name}._report._dmarc.{host}", "TXT") for host in external),
    )
    problems: list[Problem] = []
    for host, mx, a in zip(hosts, answers, answers[len(hosts) :], strict=False):
        if mx.outcome is Outcome.ANSWER:
            deliverable = any(exchange for _, exchange in mx.mx())
        elif mx.outcome.definitive and a.outcome.definitive:
            deliverable = a.outcome is Outcome.ANSWER
        else:
            problems.append(lost(a if mx.outcome.definitive else mx))
            continue
        if not deliverable:
            problems.append(
                Problem(Verdict.WARN, "rua_undeliverable", f"Reports go to {host}, which takes no mail.",
                        f"Name a mailbox that exists in rua= at {where}.", "RFC 9989 section 4.7")
            )  # fmt: skip
    for host, answer in zip(external, answers[2 * len(hosts) :], strict=True):
        if not answer.outcome.definitive:
            problems.append(lost(answer))
        elif not any(is_dmarc(text) for text in answer.records):
            problems.append(
                Problem(Verdict.WARN, "rua_unauthorised", f"{host} has not agreed to take reports of {record.name}; "
                        "they are dropped.",
                        f'Have {host} publish: {answer.question.name} TXT "v=DMARC1"', "RFC 9990 section 4")
            )  # fmt: skip
    return problems
