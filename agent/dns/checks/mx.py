"""MX: replies and bounces can be delivered (RFC 5321 section 5.1, RFC 7505)."""

from __future__ import annotations

from collections.abc import Generator

from agent.dns.answer import Answer, Outcome, Question, valid_name
from agent.dns.checks.base import Finding, Plan, Problem, Subject, Verdict, asked_once, conclude, lost
from agent.dns.esp import sender
from agent.dns.space import is_address, network_of, reachable

_EXCHANGES = 20  # looked at; the rest of an absurdly long answer is not

_Finding = Generator[tuple[Question, ...], tuple[Answer, ...], Finding]


def plan(subject: Subject) -> Plan:
    """Whether mail to the domain, and to each of ``return_path_domains``, has somewhere to go."""
    return (yield from asked_once(_plan(subject), {}))


def _plan(subject: Subject) -> Plan:
    findings = [(yield from _domain(subject.domain, "", parked=subject.parked))]
    for name in dict.fromkeys(subject.return_path_domains):
        if name != subject.domain:
            findings += [(yield from _domain(name, name))]
    return tuple(findings)


def _domain(domain: str, about: str, *, parked: bool = False) -> _Finding:
    (mx,) = yield (Question(domain, "MX"),)
    exchanges = list(dict.fromkeys(exchange for _, exchange in mx.mx()))[:_EXCHANGES]
    behind = [mx]
    if not mx.outcome.definitive:
        problems = [lost(mx)]
    elif parked and exchanges in ([], [""]) and mx.outcome is not Outcome.NXDOMAIN:
        problems = [] if exchanges else [_parked(domain)]
    elif not exchanges:
        problems = [(yield from _none(domain, mx))]
    elif "" in exchanges:
        problems = [_null(domain, alone=len(exchanges) == 1)]
    else:
        problems = [p for exchange in exchanges if (p := _name(domain, exchange))]
        broken = {exchange for exchange in exchanges if (p := _name(domain, exchange)) and p.verdict is Verdict.FAIL}
        hosts = [exchange for exchange in exchanges if exchange not in broken]
        questions = [Question(host, type_) for host in hosts for type_ in ("A", "AAAA")]
        answers = (yield tuple(questions)) if questions else ()
        pairs = dict(zip(hosts, zip(answers[::2], answers[1::2], strict=True), strict=True))
        problems += _addresses(domain, pairs) + _services(domain, exchanges)
        behind += answers
    goes = f"Mail for {domain} goes to {', '.join(exchanges)}." if any(exchanges) else f"{domain} takes no mail."
    return conclude(
        "mx", about, problems, ok=goes, rfc="RFC 5321 section 5.1", records=mx.records, answers=behind,
    )  # fmt: skip


def _parked(domain: str) -> Problem:
    return Problem(
        Verdict.OK, "mx_none", f"{domain} is parked and has no MX record.",
        f'Say so to senders: {domain} MX "0 ."', "RFC 7505 section 3",
    )  # fmt: skip


def _services(domain: str, exchanges: list[str]) -> list[Problem]:
    """What sending services ask of the MX of a return path."""
    problems: list[Problem] = []
    owners = [sender(exchange) for exchange in exchanges]
    feedback = [exchange for exchange in exchanges if exchange.startswith("feedback-smtp.")]
    if len(exchanges) > 1 and "Amazon SES" in map(sender, feedback):
        problems.append(
            Problem(Verdict.FAIL, "mx_ses", "A custom MAIL FROM domain of Amazon SES has exactly one MX record; with "
                    f"others beside it SES does not use {domain}.",
                    f'Leave one: {domain} MX "10 {feedback[0]}"', "Amazon SES developer guide, custom MAIL FROM")
        )  # fmt: skip
    elif any(owners) and not all(owners):
        other = exchanges[owners.index("")]
        problems.append(
            Problem(Verdict.WARN, "mx_mixed", f"The MX of {domain} names both {next(filter(None, owners))} and "
                    f"{other}: mail goes now to one and now to the other.",
                    f"Leave the MX of one of them at {domain}.", "RFC 5321 section 5.1")
        )  # fmt: skip
    return problems


def _none(domain: str, mx: Answer) -> Generator[tuple[Question, ...], tuple[Answer, ...], Problem]:
    """Without MX records mail goes to the name's own address."""
    publish = f'Publish: {domain} MX "10 <your mail host>"'
    if mx.outcome is Outcome.NXDOMAIN:
        return Problem(Verdict.FAIL, "missing_name", f"{domain} does not exist in the DNS.", publish, "RFC 5321 5.1")
    a, aaaa = yield (Question(domain, "A"), Question(domain, "AAAA"))
    if Outcome.ANSWER in (a.outcome, aaaa.outcome):
        detail = f"{domain} has no MX record; mail for it goes to its own address, which many senders refuse."
        return Problem(Verdict.WARN, "mx_none", detail, publish, "RFC 5321 section 5.1")
    for answer in (a, aaaa):
        if not answer.outcome.definitive:
            return lost(answer)
    detail = f"{domain} has neither MX nor address records: replies and bounces cannot be delivered."
    return Problem(Verdict.FAIL, "mx_none", detail, publish, "RFC 5321 section 5.1")


def _null(domain: str, *, alone: bool) -> Problem:
    if alone:
        detail = f"{domain} declares that it takes no mail (null MX); receivers may refuse mail from it (550 5.7.27)."
        advice = f'Publish a mail host instead: {domain} MX "10 <your mail host>"'
        return Problem(Verdict.FAIL, "mx_null", detail, advice, "RFC 7505 section 4.2")
    detail = f"{domain} has a null MX beside others, which is a contradiction."
    return Problem(Verdict.FAIL, "mx_null", detail, f'Remove the record: {domain} MX "0 ."', "RFC 7505 section 3")


def _name(domain: str, exchange: str) -> Problem | None:
    """What is wrong with the exchange's name itself."""

    def fail(reason: str, detail: str) -> Problem:
        advice = f'Publish a host name instead of {exchange[:100]!r}: {domain} MX "10 <your mail host>"'
        return Problem(Verdict.FAIL, reason, detail, advice, "RFC 5321 section 5.1")

    if is_address(exchange):
        return fail("mx_ip", f"The MX {exchange} is an address; it must be a host name.")
    if "." not in exchange or not valid_name(exchange):
        return fail("mx_dangling", f"The MX {exchange[:100]!r} is no complete host name.")
    if exchange.endswith(f".{domain}.{domain}"):
        return fail("mx_dangling", f"The MX {exchange} ends in {domain} twice: a final dot is missing in the zone.")
    if "_" in exchange:
        return Problem(
            Verdict.WARN, "mx_name", f"The MX {exchange} has an underscore, which no host name may have.",
            f'Publish a host name without it: {domain} MX "10 <your mail host>"', "RFC 5321 section 2.3.5",
        )  # fmt: skip
    return None


def _addresses(domain: str, pairs: dict[str, tuple[Answer, Answer]]) -> list[Problem]:
    problems: list[Problem] = []
    dangling: list[str] = []
    for host, answers in pairs.items():
        found = [text for answer in answers for text in answer.records]
        if not found:
            undecided = [answer for answer in answers if not answer.outcome.definitive]
            problems += [lost(answer) for answer in undecided[:1]]
            if not undecided:
                dangling.append(host)
            continue
        if any(answer.cnames for answer in answers):
            problems.append(
                Problem(Verdict.WARN, "mx_cname", f"The MX {host} is a CNAME, which is forbidden.",
                        f"Give {host} address records of its own.", "RFC 2181 section 10.3")
            )  # fmt: skip
        hidden = [text for text in found if is_address(text) and not reachable(network_of(text))]
        if hidden:
            problems.append(
                Problem(Verdict.FAIL, "mx_private", f"The MX {host} has the address {hidden[0][:60]}, which the "
                        "Internet cannot reach.", f"Publish public addresses for {host}.", "RFC 5321 section 5.1")
            )  # fmt: skip
    if dangling:
        every = len(dangling) == len(pairs)
        detail = f"{', '.join(dangling)[:300]} {'has' if len(dangling) == 1 else 'have'} no address"
        detail += ": mail cannot be delivered." if every else "; mail goes to the other hosts."
        advice = f"Publish addresses for {dangling[0]}, or remove it from the MX of {domain}."
        verdict = Verdict.FAIL if every else Verdict.WARN
        problems.append(Problem(verdict, "mx_dangling", detail, advice, "RFC 5321 section 5.1"))
    return problems
