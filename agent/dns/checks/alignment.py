"""Alignment: whether what a mail stream proves by SPF and DKIM counts for its From domain (RFC 9989 section 4.4)."""

from __future__ import annotations

from collections.abc import Generator
from enum import Enum

import msgspec

from agent.dns.answer import Answer, Outcome, Question, valid_name
from agent.dns.checks.base import Finding, MailStream, Plan, Problem, Subject, Verdict, asked_once, conclude, lost
from agent.dns.dkim_key import DkimKey, KeyRecordError, read
from agent.dns.dmarc_discovery import Discovery, discovered, discovery_questions, organizational_domain
from agent.dns.senders import SPF_INCLUDES
from agent.dns.space import network_of, reachable
from agent.dns.spf_eval import SpfCheck, SpfResult, evaluate
from agent.dns.spf_record import SpfSyntaxError, parse, spf_records
from agent.suffix import registered_domain

_RFC = "RFC 9989 section 4.4"
_SAMPLE_RECORDS = 4  # records of a sending service read in search of one of its addresses


class _Holds(Enum):
    YES = 1
    NO = 2
    UNKNOWN = 3


class _Part(msgspec.Struct, frozen=True):
    """One of the two ways to prove who sends: whether it holds, a sentence that says why, and what to do if not."""

    holds: _Holds
    says: str
    advice: str = ""


_Asking = Generator[tuple[Question, ...], tuple[Answer, ...], _Part]


def plan(subject: Subject) -> Plan:
    """One finding for each of ``mail_streams``, none without any. From domain is the subject's domain."""
    if not subject.mail_streams:
        return ()
    known: dict[Question, Answer] = {}
    return (yield from asked_once(_plan(subject, known), known))


def _plan(subject: Subject, known: dict[Question, Answer]) -> Plan:
    *answers, existence = yield discovery_questions(subject.domain)
    found = discovered(subject.domain, answers, existence)
    findings = []
    for stream in subject.mail_streams:
        spf = yield from _spf(found, stream)
        dkim = yield from _dkim(found, stream, stream.selectors or subject.dkim_selectors)
        findings.append(_judged(found, stream, spf, dkim, known))
    return tuple(findings)


def _judged(found: Discovery, stream: MailStream, spf: _Part, dkim: _Part, known: dict[Question, Answer]) -> Finding:
    says = f"SPF: {spf.says} DKIM: {dkim.says}"
    advice = " ".join(part.advice for part in (dkim, spf) if part.advice)
    problems: list[Problem] = []
    if _Holds.UNKNOWN in (spf.holds, dkim.holds):
        problems = [Problem(Verdict.UNKNOWN, "indeterminate", says, "Nothing to change: it is asked again soon.", _RFC)]
    elif spf.holds is dkim.holds is _Holds.NO:
        problems = [Problem(Verdict.FAIL, "not_aligned", says, advice, _RFC)]
    elif dkim.holds is _Holds.NO:
        # A domain that asks for rejection must not rely on SPF alone, which does not survive forwarding.
        verdict = Verdict.FAIL if found.policy == "reject" else Verdict.WARN
        says += " SPF alone does not survive forwarding."
        problems = [Problem(verdict, "spf_only", says, advice, "RFC 9989 section 7.4")]
    elif spf.holds is _Holds.NO:
        problems = [Problem(Verdict.WARN, "dkim_only", says, advice, _RFC)]
    names = {stream.return_path, *(f"{s}._domainkey.{stream.dkim_domain or found.domain}" for s in stream.selectors)}
    return conclude(
        "alignment", stream.name, problems, ok=says, rfc=_RFC,
        records=[found.record.text] if found.record else (),
        answers=[a for q, a in known.items() if q.type == "TXT" and (q.name in names or q.name.startswith("_dmarc."))],
    )  # fmt: skip


# Whether a name counts for the From domain.


def _aligned(found: Discovery, name: str, tag: str) -> _Asking:
    domain = found.domain
    if name == domain:
        return _Part(_Holds.YES, f"{name} is the From domain")
    if found.record is None and found.lost is None:
        # Without any record every name is an organization of its own; what will count is the registered domain.
        own, other = registered_domain(domain), registered_domain(name)
    else:
        walk = yield from organizational_domain(name)
        if (gone := found.lost or walk.lost) is not None:
            return _Part(_Holds.UNKNOWN, lost(gone).detail.rstrip("."))
        own, other = found.organizational_domain, walk.organizational_domain
    if not own or own != other:
        return _Part(_Holds.NO, f"{name} belongs to {other or name}, not to {own or domain}")
    if found.strict(tag):
        record = found.record.rewritten(**{tag: "r"}) if found.record else ""
        publish = f'Publish: _dmarc.{found.policy_domain} TXT "{record}".'
        return _Part(_Holds.NO, f"{name} is not {domain} itself, which {tag}=s asks for", publish)
    return _Part(_Holds.YES, f"{name} and {domain} both belong to {own}")


# SPF.


def _spf(found: Discovery, stream: MailStream) -> _Asking:
    path = stream.return_path
    if not path:
        below = f"bounce.{found.domain}"
        return _Part(
            _Holds.NO, "the return path is the sending service's own.", f"Set up a return path such as {below}."
        )
    passes = yield from _passes(path, stream)
    aligned = yield from _aligned(found, path, "aspf")
    if passes.holds is not _Holds.YES:
        return _Part(passes.holds, f"{passes.says}.", passes.advice)
    advice = aligned.advice
    if aligned.holds is _Holds.NO and not advice:
        advice = f"Set up a return path below {found.domain} in place of {path}."
    return _Part(aligned.holds, f"{passes.says}; {aligned.says}.", advice)


def _passes(path: str, stream: MailStream) -> _Asking:
    """Whether mail with this return path gets ``pass``: from the stream's addresses, else from one of its service's."""
    includes = SPF_INCLUDES.get(stream.provider, ())
    addresses = list(stream.ips)
    if not addresses:
        for include in includes:
            sample = yield from _sample(include)
            addresses += [sample] if sample else []
    terms = " ".join(
        [*(f"ip{6 if ':' in ip else 4}:{ip}" for ip in stream.ips), *(f"include:{i}" for i in includes[:1])]
    )
    publish = f'Publish: {path} TXT "v=spf1 {terms or "include:<the name your service gives>"} ~all".'
    if not addresses:
        return (yield from _sound(path, publish))
    results: list[tuple[str, SpfCheck]] = []
    for ip in addresses:
        result = yield from evaluate(ip, f"postmaster@{path}", path)
        results += [(ip, result)]
    passed = [(ip, result) for ip, result in results if result.result is SpfResult.PASS]
    # Of a service's regions one will do; of the stream's own addresses every one must pass.
    if passed and (len(passed) == len(results) or not stream.ips):
        ip, result = passed[0]
        return _Part(_Holds.YES, f"{path} passes for {ip} by {result.term!r} of {result.domain}")
    ip, result = next((r for r in results if r[1].result is not SpfResult.PASS), results[0])
    says = f"{path} gets {result.result} for {ip} ({result.explanation[:300]})"
    if any(r.result is SpfResult.TEMPERROR for _, r in results):
        return _Part(_Holds.UNKNOWN, says)
    return _Part(_Holds.NO, says, publish)


def _sound(path: str, publish: str) -> _Asking:
    """Without any address to try: whether there is a record that lets somebody send."""
    (answer,) = yield (Question(path, "TXT"),)
    if not answer.outcome.definitive:
        return _Part(_Holds.UNKNOWN, lost(answer).detail.rstrip("."))
    found = spf_records(answer.records)
    if len(found) != 1:
        return _Part(_Holds.NO, f"{path} has {len(found) or 'no'} SPF record{'s' if found else ''}", publish)
    try:
        record = parse(found[0])
    except SpfSyntaxError as e:
        return _Part(_Holds.NO, f"the SPF record of {path} cannot be read: {e.term[:100]!r} {e}", publish)
    if not record.redirect and all(term.name == "all" for term in record.mechanisms):
        return _Part(_Holds.NO, f"the SPF record of {path} lets nobody send", publish)
    return _Part(_Holds.YES, f"{path} has an SPF record (no address is declared to try it with)")


def _sample(include: str) -> Generator[tuple[Question, ...], tuple[Answer, ...], str]:
    """One of the addresses that a service's published record allows; ``""`` when none shows in its first records."""
    names = [include]
    for n in range(_SAMPLE_RECORDS):
        if n >= len(names) or not valid_name(names[n]):
            break
        (answer,) = yield (Question(names[n], "TXT"),)
        for text in spf_records(answer.records)[:1]:
            try:
                terms = parse(text).mechanisms
            except SpfSyntaxError:
                continue
            networks = [network_of(t.network) for t in terms if t.network and t.qualifier == "+"]
            if public := [network for network in networks if reachable(network)]:
                return str(public[0].network_address + (public[0].num_addresses > 1))
            names += [target for t in terms if t.name == "include" and (target := t.target(names[n]))]
    return ""


# DKIM.


def _dkim(found: Discovery, stream: MailStream, selectors: tuple[str, ...]) -> _Asking:
    signer = stream.dkim_domain or found.domain
    if not selectors:
        return _Part(
            _Holds.NO, "no selector is known to sign it.", f"Sign with d={found.domain}, and name its selectors."
        )
    names = [f"{selector}._domainkey.{signer}".lower() for selector in dict.fromkeys(selectors)]
    answers = yield tuple(Question(name, "TXT") for name in names)
    keys = {name: key for name, answer in zip(names, answers, strict=True) if (key := _usable(answer))}
    if not keys:
        undecided = [a for a in answers if not a.outcome.definitive]
        if undecided:
            return _Part(_Holds.UNKNOWN, lost(undecided[0]).detail)
        advice = (
            f'Publish what the signing system shows: {names[0]} TXT "v=DKIM1; k=rsa; p=<public key>", or its CNAME.'
        )
        return _Part(_Holds.NO, f"there is no usable key at {' or '.join(names)[:300]}.", advice)
    aligned = yield from _aligned(found, signer, "adkim")
    advice = aligned.advice
    if aligned.holds is _Holds.NO and not advice:
        advice = f"Have the service sign with d={found.domain} in place of {signer}."
    name, key = next(iter(keys.items()))
    return _Part(aligned.holds, f"{name} holds a usable {key.type} key of {key.bits} bits; {aligned.says}.", advice)


def _usable(answer: Answer) -> DkimKey | None:
    if answer.outcome is not Outcome.ANSWER:
        return None
    for record in answer.records[:20]:
        try:
            key = read(record)
        except KeyRecordError:
            continue
        if not key.testing and (key.type != "rsa" or key.bits >= 1024):
            return key
    return None
