"""PTR: each sending address has a name, the name leads back to it, and the greeting is that name (RFC 8601 section 3,
RFC 5321 section 4.1.4). Gmail, Yahoo and Apple refuse or defer mail from addresses without."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from ipaddress import IPv4Address

from agent.dns.answer import Answer, Outcome, Question, valid_name
from agent.dns.checks.base import Finding, Plan, Problem, Subject, Verdict, asked_once, conclude, lost
from agent.dns.esp import sender
from agent.dns.space import address_of, is_address
from agent.suffix import registered_domain

_NAMES = 10  # looked at, as receivers do (RFC 7208 section 4.6.4)
# Words of names that access providers give to lines of their customers.
_GENERIC = re.compile(
    r"(^|[.\d-])(dynamic|dyn|dynip|dsl|adsl|vdsl|dhcp|pool|pools|static|broadband|cable|cust|customer|client|ppp|pppoe|"
    r"dial|dialup|rev|unassigned|unused|ip)([.\d-]|$)"
)
_RFC = "RFC 8601 section 3"

_Problems = Generator[tuple[Question, ...], tuple[Answer, ...], list[Problem]]


def plan(subject: Subject) -> Plan:
    """One finding for each of ``sending_ips``; none without."""
    return (yield from asked_once(_plan(subject), {}))


def _plan(subject: Subject) -> Plan:
    findings: list[Finding] = []
    for ip in dict.fromkeys(subject.sending_ips):
        findings += [(yield from _address(subject, ip))]
    return tuple(findings)


def _address(subject: Subject, ip: str) -> Generator[tuple[Question, ...], tuple[Answer, ...], Finding]:
    if not is_address(ip):
        return Finding("ptr", ip, Verdict.UNKNOWN, "bad_address", f"{ip!r} is not an IP address.",
                       "Correct sending_ips in the settings.")  # fmt: skip
    (answer,) = yield (Question(address_of(ip).reverse_pointer, "PTR"),)
    names = [name for name in dict.fromkeys(answer.records) if valid_name(name)][:_NAMES]
    helo = subject.helo.get(ip, "")
    problems: list[Problem] = []
    confirmed: list[str] = []
    behind = [answer]
    if not answer.outcome.definitive:
        problems.append(lost(answer))
    elif not names:
        problems.append(_missing(subject, ip, answer, helo))
    else:
        type_ = "A" if address_of(ip).version == 4 else "AAAA"
        forward = yield tuple(Question(name, type_) for name in names)
        behind += forward
        confirmed = [a.question.name for a in forward if ip in map(_usual, a.records)]
        problems += _names(ip, names, confirmed, forward)
    if helo:
        problems += yield from _greeting(ip, helo, confirmed or names)
    return conclude(
        "ptr", ip, problems, ok=f"{ip} is {', '.join(confirmed)}, and the name leads back to it.", rfc=_RFC,
        records=answer.records, answers=behind,
    )  # fmt: skip


def _usual(text: str) -> str:
    return str(address_of(text)) if is_address(text) else ""


def _missing(subject: Subject, ip: str, answer: Answer, helo: str) -> Problem:
    host = helo if "." in helo and valid_name(helo) and not is_address(helo) else f"mail.{subject.domain}"
    return Problem(
        Verdict.FAIL, "ptr_missing", f"{ip} has no reverse name; large receivers refuse or defer its mail.",
        f"Have the owner of the address publish: {answer.question.name} PTR {host}. and give {host} the address {ip}.",
        _RFC,
    )  # fmt: skip


def _names(ip: str, names: list[str], confirmed: list[str], forward: tuple[Answer, ...]) -> Iterator[Problem]:
    type_ = forward[0].question.type
    if not confirmed:
        undecided = [a for a in forward if not a.outcome.definitive]
        if undecided:
            yield lost(undecided[0])
        else:
            yield Problem(
                Verdict.FAIL, "ptr_unconfirmed", f"{ip} is called {', '.join(names)[:300]}, which does not lead back "
                "to it; receivers count that as no name.", f"Publish: {names[0]} {type_} {ip}", _RFC,
            )  # fmt: skip
    if len(names) > 1:
        yield Problem(
            Verdict.WARN, "ptr_several", f"{ip} has {len(names)} reverse names; which one a receiver sees is chance.",
            f"Leave one: {(confirmed or names)[0]}", "RFC 1912 section 2.1",
        )  # fmt: skip
    # A sending service's names hold the address by its own custom, and receivers know them.
    generic = [name for name in confirmed if not sender(name) and _generic(name, ip)]
    if generic:
        yield Problem(
            Verdict.WARN, "ptr_generic", f"{generic[0]} looks like the name of an access line, which blocklists "
            "take for a sign of an infected home computer.",
            f"Have the owner of the address give {ip} a name of its own, such as mail.<your domain>.", _RFC,
        )  # fmt: skip


def _generic(name: str, ip: str) -> bool:
    address = address_of(ip)
    own = registered_domain(name)
    host = name.removesuffix(own).rstrip(".") if own else name
    if _GENERIC.search(host):
        return True
    if isinstance(address, IPv4Address):
        numbers = re.findall(r"\d+", host)
        return len([octet for octet in set(ip.split(".")) if octet in {n.lstrip("0") or "0" for n in numbers}]) >= 2
    groups = {group.lstrip("0") for group in address.exploded.split(":")[-4:]} - {""}
    return len(groups & {part.lstrip("0") for part in re.split(r"[.-]", host)}) >= 2


def _greeting(ip: str, helo: str, names: list[str]) -> _Problems:
    name = helo.rstrip(".").lower()
    bare = is_address(name) or "." not in name or not valid_name(name) or name == "localhost.localdomain"
    if bare:
        return [
            Problem(Verdict.FAIL, "helo_bad", f"{ip} greets as {helo[:100]!r}, which is no full host name.",
                    f"Let the mail server at {ip} greet as {names[0] if names else 'its own full host name'}.",
                    "RFC 5321 section 4.1.4")
        ]  # fmt: skip
    a, aaaa = yield (Question(name, "A"), Question(name, "AAAA"))
    if Outcome.ANSWER not in (a.outcome, aaaa.outcome):
        undecided = [answer for answer in (a, aaaa) if not answer.outcome.definitive]
        if undecided:
            return [lost(undecided[0])]
        type_ = "AAAA" if ":" in ip else "A"
        return [
            Problem(Verdict.FAIL, "helo_bad", f"{ip} greets as {name}, which has no address.",
                    f"Publish: {name} {type_} {ip}", "RFC 5321 section 4.1.4")
        ]  # fmt: skip
    if names and name not in names:
        return [
            Problem(Verdict.WARN, "helo_differs", f"{ip} greets as {name}, but its reverse name is {names[0]}.",
                    f"Let it greet as {names[0]}, or have its reverse name changed to {name}.", "RFC 5321 4.1.4")
        ]  # fmt: skip
    return []
