"""DKIM: the key of each selector, configured or found, fit for verifiers (RFC 6376, 8301, 8463)."""

from __future__ import annotations

from collections.abc import Generator

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.checks.base import Finding, Plan, Problem, Subject, Verdict, asked_once, conclude, lost
from agent.dns.dkim_key import DkimKey, KeyRecordError, read
from agent.dns.senders import SERVICES, Probe, probe

_ADVICE = {
    "key_undecodable": "Publish the key again, exactly as the signing system gives it.",
    "key_truncated": "Publish the key again as several strings of at most 255 characters in one TXT record.",
    "key_revoked": "Publish the active key, or sign with another selector and remove this one from the settings.",
    "hash_unusable": "Remove the h= tag from the record.",
    "service_excluded": "Remove the s= tag from the record.",
}
_HOPS = 2  # CNAMEs that delegation by a sending service takes
_TTL = 86400
_RFC = {"key_revoked": "RFC 6376 section 3.6.1", "hash_unusable": "RFC 8301 section 3.1"}


def plan(subject: Subject) -> Plan:
    """One finding for each of ``dkim_selectors``, and for each usual selector that is found where none is configured
    (or ``probe_selectors`` asks for it). Selectors cannot be listed by asking, so when none is found the only honest
    verdict is ``unknown``."""
    return (yield from asked_once(_plan(subject), {}))


def _plan(subject: Subject) -> Plan:
    selectors = tuple(dict.fromkeys(subject.dkim_selectors))
    findings = (yield from _configured(subject, selectors)) if selectors else ()
    if subject.probe_selectors or not (selectors or subject.parked):
        probed = yield from probe(subject.domain, subject.found_selectors)
        findings += tuple(_guessed(subject.domain, s, a) for s, a in probed.found.items() if s not in selectors)
        return findings or (_nothing(subject.domain, probed),)
    if not findings:
        detail = f"{subject.domain} is parked and signs nothing."
        return (Finding("dkim", "", Verdict.OK, "ok", detail, rfc="RFC 6376 section 3.6.1"),)
    return findings


def _nothing(domain: str, probed: Probe) -> Finding:
    if probed.lost is not None:
        return conclude("dkim", "", [lost(probed.lost)], ok="", rfc="RFC 6376 section 3.1")
    seen = f"None of {len(SERVICES)} usual selectors has a key"
    if probed.empty:
        seen = f"Nothing at all exists below _domainkey.{domain}"
    return Finding(
        "dkim", "", Verdict.UNKNOWN, "no_selectors",
        f"No DKIM selector is known, and the DNS cannot list them. {seen}, which proves nothing.",
        "Name the selectors your senders sign with (s= in the DKIM-Signature of a message): dkim_selectors in the "
        "settings, or --selector.", "RFC 6376 section 3.1",
    )  # fmt: skip


def _guessed(domain: str, selector: str, answer: Answer) -> Finding:
    """A key that was found and never configured: nobody knows whether it is in use, so it cannot fail."""
    name = f"{selector}._domainkey.{domain}"
    key, problems = _judge(domain, name, answer, None)
    service = SERVICES.get(selector, "")
    known = f" {service} uses this selector." if service else ""
    advice = f"If {domain} signs with it, name it in dkim_selectors."
    softened = [
        Problem(Verdict.WARN, p.reason, p.detail, p.advice, p.rfc) if p.verdict is Verdict.FAIL else p for p in problems
    ]
    return conclude(
        "dkim", selector, softened, ok=f"{_summary(key, answer)} Found by its usual name.{known} {advice}",
        rfc="RFC 6376 section 3.6.1", records=answer.records or answer.cnames, answers=[answer],
    )  # fmt: skip


def _configured(
    subject: Subject, selectors: tuple[str, ...]
) -> Generator[tuple[Question, ...], tuple[Answer, ...], tuple[Finding, ...]]:
    names = [f"{selector}._domainkey.{subject.domain}".lower() for selector in selectors]
    answers = yield tuple(Question(name, "TXT") for name in names)
    # On a name error c-ares drops the CNAME that led there, so it is asked for.
    missing = [a.question.name for a in answers if a.outcome in (Outcome.NXDOMAIN, Outcome.NODATA) and not a.cnames]
    aliases: dict[str, Answer] = {}
    doubled: dict[str, Answer] = {}
    if missing:
        found = yield (
            *(Question(name, "CNAME") for name in missing),
            *(Question(f"{name}.{subject.domain}", "TXT") for name in missing),
        )
        aliases = dict(zip(missing, found, strict=False))
        doubled = dict(zip(missing, found[len(missing) :], strict=True))
    keys: dict[str, DkimKey] = {}
    problems: dict[str, list[Problem]] = {}
    for selector, name, answer in zip(selectors, names, answers, strict=True):
        key, problems[selector] = _judge(subject.domain, name, answer, aliases.get(name), doubled.get(name))
        if key is not None:
            keys[selector] = key
    if keys and all(key.type == "ed25519" for key in keys.values()):
        for selector in keys:
            problems[selector].append(
                Problem(Verdict.WARN, "ed25519_only", "Several large receivers do not verify Ed25519 signatures.",
                        "Sign with an RSA key of 2048 bits beside it.", "RFC 8463 section 5")
            )  # fmt: skip
    return tuple(
        conclude(
            "dkim", selector, problems[selector], ok=_summary(keys.get(selector), answer), rfc="RFC 6376 section 3.6.1",
            records=answer.records or answer.cnames, answers=[answer],
        )
        for selector, answer in zip(selectors, answers, strict=True)
    )  # fmt: skip


def _summary(key: DkimKey | None, answer: Answer) -> str:
    if key is None:
        return ""
    through = f" through {answer.cnames[-1]}" if answer.cnames else ""
    only = " It signs for the domain itself, not for subdomains (t=s)." if key.strict else ""
    return f"A usable {key.type} key of {key.bits} bits{through}.{only}"


def _judge(
    domain: str, name: str, answer: Answer, alias: Answer | None, doubled: Answer | None = None
) -> tuple[DkimKey | None, list[Problem]]:
    if not answer.outcome.definitive:
        return None, [lost(answer)]
    if answer.outcome is not Outcome.ANSWER or not answer.records:
        return None, [_missing(domain, name, answer, alias, doubled)]
    keys: list[DkimKey] = []
    errors: list[KeyRecordError] = []
    for record in answer.records[:20]:
        try:
            keys.append(read(record))
        except KeyRecordError as e:
            errors.append(e)
    if not keys:
        error = next((e for e in errors if e.reason != "key_undecodable"), errors[0])
        rfc = _RFC.get(error.reason, "RFC 6376 section 3.6.1")
        return None, [Problem(Verdict.FAIL, error.reason, f"At {name} {error}.", _ADVICE[error.reason], rfc)]
    problems: list[Problem] = []
    if len(answer.records) > 1:
        problems.append(
            Problem(Verdict.WARN, "multiple_records", f"{name} has {len(answer.records)} TXT records; verifiers may "
                    "try any one.", "Leave one TXT record, the active key.", "RFC 6376 section 3.6.2.2")
        )  # fmt: skip
    key = keys[0]
    problems += [*_weak(name, key), *_delegation(name, answer)]
    if key.testing:
        problems.append(
            Problem(Verdict.WARN, "key_testing", f"t=y at {name} tells verifiers to treat signed mail like unsigned.",
                    "Remove t=y from the record.", "RFC 6376 section 3.6.1")
        )  # fmt: skip
    if key.late_version:
        problems.append(
            Problem(Verdict.WARN, "syntax_error", f"v= is not the first tag at {name}; verifiers may discard the key.",
                    "Move v=DKIM1 to the front, or leave it out.", "RFC 6376 section 3.6.1")
        )  # fmt: skip
    return key, problems


def _delegation(name: str, answer: Answer) -> list[Problem]:
    problems = []
    if len(answer.cnames) > _HOPS:
        detail = f"{name} leads through {len(answer.cnames)} CNAMEs; each is one more that can break."
        advice = f"Point {name} to {answer.cnames[-1]} directly, if the service allows it."
        problems.append(Problem(Verdict.WARN, "cname_chain", detail, advice, "RFC 1034 section 3.6.2"))
    if answer.ttl > _TTL:
        detail = (
            f"The key at {name} may be kept for {answer.ttl // 3600} hours: a compromised one stays in use as long."
        )
        advice = "Lower its TTL to an hour or a day."
        problems.append(Problem(Verdict.WARN, "key_ttl", detail, advice, "RFC 6376 section 3.6.2"))
    return problems


def _missing(domain: str, name: str, answer: Answer, alias: Answer | None, doubled: Answer | None) -> Problem:
    targets = answer.cnames or (alias.records if alias is not None and alias.outcome is Outcome.ANSWER else ())
    if targets:
        return Problem(
            Verdict.FAIL, "cname_dangling", f"{name} is a CNAME to {targets[-1]}, where there is no key.",
            "Have the sending service activate the key, or point the CNAME to the target it shows now.",
            "RFC 6376 section 6.1.2",
        )  # fmt: skip
    if alias is not None and not alias.outcome.definitive:
        return lost(alias)
    if doubled is not None and doubled.records:
        return Problem(
            Verdict.FAIL, "wrong_location", f"The key stands at {doubled.question.name}, with the zone's name twice.",
            f'Move it: {name} TXT "{doubled.records[0][:1000]}"', "RFC 6376 section 3.6.2.1",
        )  # fmt: skip
    return Problem(
        Verdict.FAIL, "key_missing", f"There is no key at {name}: signatures of this selector fail.",
        f'Publish what the signing system shows for this selector: {name} TXT "v=DKIM1; k=rsa; p=<public key>", or its '
        f"CNAME. If {domain} no longer signs with it, remove it from the settings.",
        "RFC 6376 section 6.1.2",
    )  # fmt: skip


def _weak(name: str, key: DkimKey) -> list[Problem]:
    if key.type != "rsa" or 2048 <= key.bits <= 4096:
        return []
    if key.bits > 4096:
        detail = f"The RSA key at {name} has {key.bits} bits; verifiers need not support more than 4096."
        return [Problem(Verdict.WARN, "key_oversized", detail, "Use a 2048-bit key.", "RFC 8301 section 3.2")]
    verdict = Verdict.FAIL if key.bits < 1024 else Verdict.WARN
    effect = "verifiers must not accept it" if key.bits < 1024 else "2048 are recommended"
    detail = f"The RSA key at {name} has {key.bits} bits; {effect}."
    return [Problem(verdict, "key_weak", detail, "Create a 2048-bit key under a new selector.", "RFC 8301 section 3.2")]
