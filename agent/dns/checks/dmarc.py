"""DMARC: the policy that applies to the domain, and whether its reports arrive (RFC 9989, RFC 9990)."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.checks.base import Plan, Problem, Subject, Verdict, asked_once, conclude, lost
from agent.dns.dmarc_discovery import Discovery, discovered, discovery_questions
from agent.dns.dmarc_record import LEVELS, DmarcRecord, is_dmarc
from agent.suffix import registered_domain

_REPORT_HOSTS = 10  # destinations looked at; more is nobody's real record
_REPORT_URIS = 2  # that every reporter sends to

_Problems = Generator[tuple[Question, ...], tuple[Answer, ...], list[Problem]]


def plan(subject: Subject) -> Plan:
    """One finding: the policy in force for the domain and what weakens it."""
    return (yield from asked_once(_plan(subject), {}))


def _plan(subject: Subject) -> Plan:
    domain = subject.domain
    *answers, existence = yield discovery_questions(domain)
    found = discovered(domain, answers, existence)
    own = answers[0]
    own_records = [text for text in own.records if is_dmarc(text)]
    record = found.record
    if not own.outcome.definitive:
        problems = [lost(own)]
    elif not found.exists and not subject.parked:
        problems = [_no_such_name(domain)]
    elif len(own_records) > 1:
        problems = [_several(domain, own_records)]
    elif not own_records and (mistaken := [text for text in own.records if _lookalike(text)]):
        problems = [_malformed(domain, mistaken[0])]
    elif not own_records and (dangling := (yield from _dangling(domain, found))):
        problems = [dangling]
    elif not own_records and found.lost is not None:
        problems = [lost(found.lost)]
    elif record is None:
        problems = yield from _absent(subject)
    else:
        problems = list(_policy(found, record, parked=subject.parked))
        problems += [*_strangers(domain, own, own_records), *_organization(found, record)]
        problems += yield from _reports(found, record, parked=subject.parked)
    applied = "" if record is None or found.own else f" (from {record.name})"
    reports = "" if subject.parked else ", and reports are accepted where they go"
    finding = conclude(
        "dmarc",
        "",
        problems,
        ok=f"The policy {found.policy} applies{applied}{reports}.",
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


def _publish(record: DmarcRecord, **changes: str) -> str:
    """The record with ``changes``, and with whatever else in it is wrong put right, so that no fix undoes another."""
    return f'Publish: _dmarc.{record.name} TXT "{record.rewritten(**{**_repairs(record), **changes})}"'


def _repairs(record: DmarcRecord) -> dict[str, str]:
    changes = dict.fromkeys(record.invalid_policy, "")
    if not record.level("p"):
        changes["p"] = "none"
    uris = [uri.partition("!")[0] for uri in record.uris("rua")]
    if len(uris) > _REPORT_URIS:
        changes["rua"] = ",".join(uris[:_REPORT_URIS])
    elif not record.report_hosts():
        changes["rua"] = f"mailto:dmarc@{record.name}"
    return changes


def _dangling(domain: str, found: Discovery) -> Generator[tuple[Question, ...], tuple[Answer, ...], Problem | None]:
    """The domain's own record is a CNAME to nothing, so that what it was to say does not apply."""
    (alias,) = yield (Question(f"_dmarc.{domain}", "CNAME"),)
    if alias.outcome is not Outcome.ANSWER or not alias.records:
        return None
    detail = f"_dmarc.{domain} is a CNAME to {alias.records[0][:253]}, where there is no DMARC record."
    instead = found.record.rewritten() if found.record else _first(domain)
    publish = f'Have its owner publish there, or publish here: _dmarc.{domain} TXT "{instead}"'
    return Problem(Verdict.FAIL, "cname_dangling", detail, publish, "RFC 9989 section 4.5")


def _absent(subject: Subject) -> _Problems:
    """Nothing applies. Look where the record is put by mistake."""
    domain = subject.domain
    places = (domain, f"dmarc.{domain}", f"_dmarc.{domain}.{domain}")
    answers = yield tuple(Question(name, "TXT") for name in places)
    for name, answer in zip(places, answers, strict=True):
        for text in answer.records:
            if is_dmarc(text):
                return [
                    Problem(Verdict.FAIL, "wrong_location", f"The DMARC record stands at {name}, where nobody looks.",
                            f'Move it: _dmarc.{domain} TXT "{text[:1000]}"', "RFC 9989 section 4.5")
                ]  # fmt: skip
    detail = f"No DMARC record applies to {domain}; large receivers require one."
    publish = f'Publish: _dmarc.{domain} TXT "{_first(domain)}", and tighten p once the reports are clean.'
    if subject.parked:
        publish = f'Publish: _dmarc.{domain} TXT "v=DMARC1; p=reject"'
    return [Problem(Verdict.FAIL, "missing_record", detail, publish, "RFC 9989 section 4.10")]


def _policy(found: Discovery, record: DmarcRecord, *, parked: bool) -> Iterator[Problem]:
    def warn(reason: str, detail: str, advice: str, rfc: str = "RFC 9989 section 4.7") -> Problem:
        return Problem(Verdict.WARN, reason, detail, advice, rfc)

    level, p = found.policy, record.level("p")
    organizational = record.name == found.organizational_domain or record.flag("psd") == "y"
    if record.invalid_policy or not p:
        tag = record.invalid_policy[0] if record.invalid_policy else "p"
        what = f"{tag}={record.tags[tag][:40]} is no policy" if tag in record.tags else "The tag p= is missing"
        effect = "it counts as p=none" if level else "and without a usable rua= the record is not applied at all"
        publish = _publish(record)
        verdict = Verdict.WARN if level else Verdict.FAIL
        yield Problem(verdict, "policy_invalid", f"{what}; {effect}.", publish, "RFC 9989 section 4.10.1")
    elif parked and (found.effective_policy != "reject" or {record.level("sp"), record.level("np")} - {"", "reject"}):
        text = record.rewritten(p="reject", sp="", np="", t="")
        publish = f'Publish: _dmarc.{record.name} TXT "{text}"'
        yield warn("parked_open", "The domain is parked, yet not all mail in its name is to be rejected.", publish)
    elif level == "none":
        tag = "p" if found.own else ("sp" if record.level("sp") else "p")
        yield warn("policy_none", f"{tag}=none asks receivers to do nothing about forged mail.",
                   f"When the reports are clean, p{_publish(record, **{tag: 'quarantine'})[1:]}",
                   "RFC 9989 section 7.4")  # fmt: skip
    if found.effective_policy != level:
        yield warn("policy_test", f"t=y asks receivers to apply {found.effective_policy} in place of {level}.",
                   _publish(record, t=""))  # fmt: skip
    if found.own and organizational:
        for tag in ("sp", "np"):
            if (sub := record.level(tag)) and LEVELS.index(sub) < LEVELS.index(p or "none"):
                yield warn(
                    "sub_weaker", f"{tag}={sub} leaves subdomains open to forgery.", _publish(record, **{tag: p})
                )
    if (
        found.own
        and not organizational
        and found.lost is None
        and (ignored := [t for t in ("sp", "np") if t in record.tags])
    ):
        yield warn("sub_ignored", f"{ignored[0]}= is read only at the organizational domain "
                   f"{found.organizational_domain}, not here.", _publish(record, sp="", np=""))  # fmt: skip
    if record.removed:
        effect = (
            "old receivers apply the policy in part" if record.tags.get("pct", "100") != "100" else "it has no effect"
        )
        yield warn("removed_tag", f"{record.removed[0]}= is no longer part of DMARC; {effect}.", _publish(record),
                   "RFC 9989 appendix C")  # fmt: skip
    if p and list(record.tags)[1:2] != ["p"]:
        yield warn("policy_late", "p= does not come right after v=, where older receivers want it.", _publish(record),
                   "RFC 7489 section 6.3")  # fmt: skip
    if record.faults:
        yield warn("syntax_error", f"In the record at _dmarc.{record.name}, {'; '.join(record.faults)}.",
                   _publish(record), "RFC 9989 section 4.8")  # fmt: skip


def _organization(found: Discovery, record: DmarcRecord) -> Iterator[Problem]:
    """Receivers that still ask the public suffix list may align mail with another domain."""
    walked, listed = found.organizational_domain, found.registered_domain
    if found.lost is None and listed and walked != listed:
        detail = f"By the tree walk the organizational domain is {walked}, by the public suffix list it is {listed}: "
        detail += "receivers of the older kind align other names."
        advice = f'Publish a record there too: _dmarc.{listed} TXT "{record.rewritten(psd="")}"'
        if record.flag("psd") == "n":
            advice = "Nothing, if psd=n is meant; old receivers will not see it."
        yield Problem(Verdict.WARN, "org_mismatch", detail, advice, "RFC 9989 section 4.10.2")


def _strangers(domain: str, own: Answer, own_records: list[str]) -> Iterator[Problem]:
    if own_records and len(own.records) > len(own_records):
        yield Problem(Verdict.WARN, "unrelated_txt", f"_dmarc.{domain} has other TXT records beside DMARC.",
                      "Remove them: some receivers stumble over them.", "RFC 9989 section 4.10")  # fmt: skip


def _reports(found: Discovery, record: DmarcRecord, *, parked: bool) -> _Problems:
    """Whether reports have somewhere to go, and may go there (RFC 9990 section 4)."""
    where = f"_dmarc.{record.name}"
    hosts = record.report_hosts()[:_REPORT_HOSTS]
    failure = [host for host in record.report_hosts("ruf")[:_REPORT_HOSTS] if host not in hosts]
    problems = list(_addresses(record))
    if not hosts and not parked:
        example = f"mailto:dmarc@{record.name}"
        detail = "The record names no mailbox for aggregate reports, so nobody sees who sends as the domain."
        if record.tags.get("rua"):
            detail = "rua= holds no usable mailto: address."
        publish = _publish(record, rua=example)
        problems.append(Problem(Verdict.WARN, "rua_missing", detail, publish, "RFC 9989 section 4.7"))
    external = [host for host in (*hosts, *failure) if not _internal(host, found, record)]
    if not hosts and not external:
        return problems
    answers = yield (
        *(Question(host, "MX") for host in hosts),
        *(Question(host, "A") for host in hosts),
        *(Question(f"{record.name}._report._dmarc.{host}", "TXT") for host in external),
    )
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


def _internal(host: str, found: Discovery, record: DmarcRecord) -> bool:
    """Whether reports stay within the organization, by the tree walk or by the public suffix list."""
    organization = found.organizational_domain if found.lost is None else record.name
    within = host == organization or host.endswith(f".{organization}")
    return within or registered_domain(host) == registered_domain(record.name) != ""


def _addresses(record: DmarcRecord) -> Iterator[Problem]:
    if any("!" in uri for tag in ("rua", "ruf") for uri in record.uris(tag)):
        yield Problem(Verdict.WARN, "removed_tag", "Size limits on report addresses (!) are no longer part of DMARC.",
                      _publish(record), "RFC 9989 appendix C")  # fmt: skip
    if len(uris := record.uris("rua")) > _REPORT_URIS:
        yield Problem(Verdict.WARN, "rua_many", f"rua= has {len(uris)} addresses; some reporters stop after two.",
                      _publish(record, rua=",".join(u.partition("!")[0] for u in uris[:_REPORT_URIS])),
                      "RFC 9989 section 4.7")  # fmt: skip
