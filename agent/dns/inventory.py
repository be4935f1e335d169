"""The records that a domain's mail depends on, as they are published now. Pure: a plan, as checks have them.

Only what decides something is in it: of the TXT records at a domain its SPF record, and those of every include and
redirect behind it, since vendors change theirs without telling anybody; and those of its return paths.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable

import msgspec

from agent.dns.answer import Answer, Outcome, Question, valid_name
from agent.dns.checks.base import Subject
from agent.dns.checks.mta_sts import read as read_policy
from agent.dns.dmarc_record import is_dmarc
from agent.dns.page import get, page
from agent.dns.spf_record import SpfSyntaxError, Term, is_spf, parse
from agent.events import mask_addresses

_INCLUDES = 30  # names behind one SPF record that are followed; ten is the limit of receivers (RFC 7208 section 4.6.4)
_RECORDS = 20  # of one name that are kept
_PAGE_AGE = 3600.0  # seconds for which a policy is not fetched again
POLICY = "sts_policy"


class RecordSet(msgspec.Struct, frozen=True):
    """What stands at one name. ``role`` is what it is for: ``spf``, ``include`` (somebody else's SPF record),
    ``dkim``, ``dmarc``, ``mx``, ``ns``, ``mta_sts``, ``tls_rpt``, ``sts_policy`` (the lines of an MTA-STS policy that
    can be read; ``type`` is ``GET``). ``records`` are sorted; none means that it is not
    there, definitely."""

    name: str
    type: str
    role: str
    records: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.role} {self.name}"


Inventory = dict[str, RecordSet]
Plan = Generator[tuple[Question, ...], tuple[Answer, ...], Inventory]


def plan(subject: Subject) -> Plan:
    """Everything definite about a domain now, by ``RecordSet.key``. What nobody could tell is left out."""
    domain = subject.domain
    wanted: list[tuple[Question, str, Callable[[str], bool]]] = [
        (Question(domain, "TXT"), "spf", is_spf),
        (Question(f"_dmarc.{domain}", "TXT"), "dmarc", is_dmarc),
        (Question(domain, "MX"), "mx", _any),
        (Question(domain, "NS"), "ns", _any),
        (Question(f"_mta-sts.{domain}", "TXT"), "mta_sts", lambda text: text.startswith("v=STSv1")),
        (Question(f"_smtp._tls.{domain}", "TXT"), "tls_rpt", lambda text: text.startswith("v=TLSRPTv1")),
    ]
    declared = (stream.return_path for stream in subject.mail_streams)
    paths = [name for name in dict.fromkeys((*subject.return_path_domains, *declared)) if name not in ("", domain)]
    wanted += [(Question(name, "TXT"), "spf", is_spf) for name in paths]
    wanted += [(Question(f"{s}._domainkey.{domain}", "TXT"), "dkim", _any) for s in subject.dkim_selectors]
    answers = yield tuple(question for question, _, _ in wanted)
    found: Inventory = {}
    for (question, role, belongs), answer in zip(wanted, answers, strict=True):
        _keep(found, question, role, answer, belongs)
    if (announced := found.get(f"mta_sts _mta-sts.{domain}")) and announced.records:
        host = f"mta-sts.{domain}"
        (answer,) = yield (get(f"https://{host}/.well-known/mta-sts.txt", max_age=_PAGE_AGE),)
        fetched = page(answer)
        policy = read_policy(fetched.body)[0] if fetched.status == 200 else None
        if policy is not None:
            lines = [f"mode: {policy.mode}", f"max_age: {policy.max_age}", *(f"mx: {mx}" for mx in policy.mx)]
            found[f"{POLICY} {host}"] = RecordSet(host, "GET", POLICY, tuple(sorted(set(lines))[:_RECORDS]))
    seen = {domain, *paths}
    waiting = [target for name in (domain, *paths) for target in _targets(name, found.get(f"spf {name}"))]
    while waiting and len(seen) <= _INCLUDES:
        names = [name for name in dict.fromkeys(waiting) if name not in seen][: _INCLUDES + 1 - len(seen)]
        seen.update(names)
        if not names:
            break
        questions = [Question(name, "TXT") for name in names]
        waiting = []
        for question, answer in zip(questions, (yield tuple(questions)), strict=True):
            waiting += _targets(question.name, _keep(found, question, "include", answer, is_spf))
    return found


def policy_lines(policy: RecordSet) -> dict[str, str]:
    """What a policy says, of ``mode`` and ``max_age``."""
    lines = (line.partition(": ") for line in policy.records)
    return {key: value for key, _, value in lines if key != "mx"}


_MAILBOX = re.compile(r"(mailto:)[^@,;!\s]{1,256}@([\w.-]{1,253})", re.IGNORECASE)


def harmless(text: str) -> str:
    """A record as it may be kept: of the mailboxes that it names, the host alone."""
    return mask_addresses(_MAILBOX.sub(r"\1<somebody at \2>", text))


def _any(text: str) -> bool:
    return bool(text)


def _keep(
    found: Inventory, question: Question, role: str, answer: Answer, belongs: Callable[[str], bool]
) -> RecordSet | None:
    if not answer.outcome.definitive:
        return None
    texts = answer.records if answer.outcome is Outcome.ANSWER else ()
    records = tuple(sorted({harmless(text) for text in texts if belongs(text)})[:_RECORDS])
    found[f"{role} {question.name}"] = kept = RecordSet(question.name, question.type, role, records)
    return kept


def _targets(current: str, records: RecordSet | None) -> list[str]:
    """The names that an SPF record hands over to; those made of macros are known only for a message."""
    names: list[str] = []
    for text in records.records if records else ():
        try:
            record = parse(text)
        except SpfSyntaxError:
            continue
        names += _named(current, (t for t in record.mechanisms if t.name == "include"))
        names += _named(current, (t for t in record.modifiers if t.name == "redirect"))
    return names


def behind(known: Inventory) -> set[str]:
    """The keys of the includes that SPF records lead to, by the records that are ``known``."""
    found: set[str] = set()
    waiting = [name for r in known.values() if r.role == "spf" for name in _targets(r.name, r)]
    while waiting:
        name = waiting.pop()
        key = f"include {name}"
        if f"spf {name}" not in known and key not in found:
            found.add(key)
            waiting += _targets(name, known.get(key))
    return found


def _named(current: str, terms: Iterable[Term]) -> list[str]:
    targets = (term.target(current) for term in terms)
    return [name.lower().rstrip(".") for name in targets if name and valid_name(name.rstrip("."))]
