"""NS: the zone of the domain is served by enough name servers, all of which know it (RFC 1034, 2181, 2182)."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from ipaddress import ip_address, ip_network

from agent.dns.answer import Answer, Outcome, Question, valid_name
from agent.dns.checks.base import Plan, Problem, Subject, Verdict, asked_once, conclude, lost
from agent.dns.space import everywhere, is_address
from agent.dns.zone import zone_names

_SERVERS = 13  # looked at
_PARENTS = 2  # servers of the zone above that are asked
_LAME = (Outcome.LAME, Outcome.REFUSED, Outcome.SERVFAIL)  # the server answers, and does not know the zone

_Problems = Generator[tuple[Question, ...], tuple[Answer, ...], list[Problem]]


def plan(subject: Subject) -> Plan:
    """One finding for the zone that the domain is in."""
    return (yield from asked_once(_plan(subject), {}))


def _plan(subject: Subject) -> Plan:
    domain = subject.domain
    names = zone_names(domain)
    answers = yield tuple(Question(name, "NS") for name in names)
    zone, apex = domain, answers[0]
    for name, answer in zip(names, answers, strict=True):
        zone, apex = name, answer
        if answer.outcome is Outcome.ANSWER or not answer.outcome.definitive:
            break
    hosts = [host for host in dict.fromkeys(apex.records) if valid_name(host)][:_SERVERS]
    if not apex.outcome.definitive:
        problems = [lost(apex)]
    elif not hosts:
        problems = [_none(zone, apex)]
    else:
        problems = yield from _servers(zone, hosts)
    finding = conclude(
        "ns", "", problems, ok=f"{zone} has {len(hosts)} name servers in different networks.", rfc="RFC 2182",
        records=apex.records, answers=[apex],
    )  # fmt: skip
    return (finding,)


def _none(zone: str, apex: Answer) -> Problem:
    if apex.outcome is Outcome.NXDOMAIN:
        return Problem(Verdict.FAIL, "missing_name", f"{zone} does not exist in the DNS.",
                       f"Renew {zone}, or have its name servers entered at the registrar.", "RFC 1034")  # fmt: skip
    return Problem(Verdict.FAIL, "ns_missing", f"No name servers are published for {zone}.",
                   f"Publish: {zone} NS <each of your name servers>", "RFC 1034 section 4.2.1")  # fmt: skip


def _servers(zone: str, hosts: list[str]) -> _Problems:
    questions = [Question(host, type_) for host in hosts for type_ in ("A", "AAAA")]
    parent_names = _above(zone)
    *answers, first, second = yield (*questions, *(Question(name, "NS") for name in parent_names))
    places = dict(zip(hosts, zip(answers[::2], answers[1::2], strict=True), strict=True))
    problems = list(_hosts(zone, places))
    found = {host: [ip for a in pair for ip in a.records] for host, pair in places.items()}
    problems += _spread(zone, found)
    problems += yield from _lame(zone, found)
    parent = next((a for a in (first, second) if a.outcome is Outcome.ANSWER), None)
    if parent is not None:
        problems += yield from _parent(zone, hosts, parent)
    return problems


def _above(zone: str) -> tuple[str, str]:
    """Names of the zone above: usually the next one, under a suffix such as co.uk perhaps the one after it."""
    labels = zone.split(".")
    return ".".join(labels[1:]) or zone, ".".join(labels[2:] or labels[-1:])


def _hosts(zone: str, places: dict[str, tuple[Answer, Answer]]) -> Iterator[Problem]:
    dead = []
    for host, pair in places.items():
        if any(a.cnames for a in pair):
            yield Problem(Verdict.WARN, "ns_cname", f"The name server {host} is a CNAME, which is forbidden.",
                          f"Give {host} address records of its own.", "RFC 2181 section 10.3")  # fmt: skip
        if not any(a.records for a in pair):
            undecided = [a for a in pair if not a.outcome.definitive]
            if undecided:
                yield lost(undecided[0])
            else:
                dead.append(host)
    if dead:
        every = len(dead) == len(places)
        yield Problem(
            Verdict.FAIL if every else Verdict.WARN, "ns_dangling", f"{', '.join(dead)[:300]}, name server of {zone}, "
            "has no address.", f"Publish an address for {dead[0]}, or remove it: {zone} NS {dead[0]}",
            "RFC 1912 section 2.8",
        )  # fmt: skip


def _spread(zone: str, found: dict[str, list[str]]) -> Iterator[Problem]:
    if len(found) == 1:
        yield Problem(Verdict.FAIL, "ns_single", f"{zone} has one name server: when it is down, so is all mail.",
                      f"Publish a second one in another network: {zone} NS <host>", "RFC 1034 section 4.1")  # fmt: skip
        return
    networks = {
        str(ip_network((ip, 24 if ip_address(ip).version == 4 else 48), strict=False))
        for ips in found.values() for ip in ips if is_address(ip)
    }  # fmt: skip
    if len(networks) == 1:
        yield Problem(Verdict.WARN, "ns_one_network", f"All name servers of {zone} are in {networks.pop()}.",
                      "Add one in another network, better at another provider.", "RFC 2182 section 3.1")  # fmt: skip


def _lame(zone: str, found: dict[str, list[str]]) -> _Problems:
    """Ask every server itself. A way out that is closed here (port 53, or IPv6) is nobody's fault there, so a server
    that does not answer counts only where another of the same kind does."""
    where = [(host, ip) for host, ips in found.items() for ip in dict.fromkeys(ips) if everywhere(ip)]
    where = where[: 4 * _SERVERS]
    if not where:
        return []
    answers = yield tuple(Question(zone, "SOA", server=ip) for _, ip in where)
    heard = {":" in ip for (_, ip), a in zip(where, answers, strict=True) if _said_something(a)}
    good: set[str] = set()
    lame: dict[str, str] = {}
    silent: dict[str, str] = {}
    for (host, ip), answer in zip(where, answers, strict=True):
        if answer.outcome is Outcome.ANSWER and answer.authoritative:
            good.add(host)
        elif answer.outcome in _LAME or answer.outcome.definitive:
            lame[host] = f"{host} ({ip}: {answer.outcome})"
        elif (":" in ip) in heard:
            silent[host] = f"{host} ({ip}: {answer.outcome})"
    problems = []
    if lame:
        left = len(found.keys() - lame.keys())
        problems.append(
            Problem(Verdict.FAIL if left <= 1 else Verdict.WARN, "ns_lame", f"{', '.join(lame.values())[:400]} is "
                    f"named as server of {zone} and does not serve it.",
                    f"Set the zone up on {next(iter(lame))}, or remove it from the NS records here and at the "
                    "registrar.", "RFC 1912 section 2.8")
        )  # fmt: skip
    gone = {host: text for host, text in silent.items() if host not in good and host not in lame}
    if gone:
        problems.append(
            Problem(Verdict.WARN, "ns_silent", f"{', '.join(gone.values())[:400]}, name server of {zone}, does not "
                    "answer.", f"Look after {next(iter(gone))}, and open UDP and TCP port 53.", "RFC 1912 2.8")
        )  # fmt: skip
    return problems


def _said_something(answer: Answer) -> bool:
    return answer.outcome.definitive or answer.outcome in _LAME


def _parent(zone: str, hosts: list[str], parent: Answer) -> _Problems:
    """What the zone above delegates to, read from its own servers. Nothing is said where they cannot be asked."""
    names = [host for host in parent.records if valid_name(host)][:_PARENTS]
    places = (yield tuple(Question(name, "A") for name in names)) if names else ()
    ips = [ip for place in places for ip in place.records[:1] if everywhere(ip)]
    answers = (yield tuple(Question(zone, "NS", server=ip) for ip in ips)) if ips else ()
    for answer in answers:
        # A referral is not authoritative; a server of both zones answers for the lower one.
        if answer.outcome is Outcome.LAME and answer.records and set(answer.records) != set(hosts):
            missing, extra = set(answer.records) - set(hosts), set(hosts) - set(answer.records)
            parts = [f"only there: {', '.join(sorted(missing))}"] if missing else []
            parts += [f"only in the zone: {', '.join(sorted(extra))}"] if extra else []
            return [
                Problem(Verdict.WARN, "ns_differs", f"The zone above delegates {zone} to other servers than the zone "
                        f"itself names ({'; '.join(parts)[:400]}).",
                        f"Enter at the registrar what the zone says: {', '.join(sorted(hosts))[:400]}",
                        "RFC 1034 section 4.2.2")
            ]  # fmt: skip
    return []
