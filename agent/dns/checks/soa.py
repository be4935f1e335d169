"""SOA: all servers hold the same version of the zone, and mistakes in it are forgotten soon (RFC 1912, 2308)."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from agent.dns.answer import Answer, Outcome, Question, valid_name
from agent.dns.checks.base import Plan, Problem, Subject, Verdict, asked_once, conclude, lost
from agent.dns.space import everywhere
from agent.dns.zone import zone_names

_SERVERS = 13  # compared
_NEGATIVE = 10_800  # seconds for which "no such name" may be kept before it hurts
_LONGEST = 86_400  # seconds of a TTL beyond which correcting a mistake takes more than a day
# What RFC 1912 section 2.2 and common practice recommend, seconds.
_USUAL = {"refresh": (1200, 43_200), "retry": (120, 7200), "expire": (1_209_600, 2_419_200)}


class _Soa(msgspec.Struct, frozen=True):
    serial: int
    refresh: int
    retry: int
    expire: int
    minimum: int


def plan(subject: Subject) -> Plan:
    """One finding for the zone that the domain is in."""
    return (yield from asked_once(_plan(subject), {}))


def _plan(subject: Subject) -> Plan:
    domain = subject.domain
    names = zone_names(domain)
    answers = yield tuple(Question(name, "SOA") for name in names)
    zone, apex = names[0], answers[0]
    for name, answer in zip(names, answers, strict=True):
        zone, apex = name, answer
        if answer.outcome is Outcome.ANSWER or not answer.outcome.definitive:
            break
    soa = next((s for text in apex.records if (s := _read(text))), None)
    if not apex.outcome.definitive:
        problems = [lost(apex)]
    elif soa is None:
        problems = [
            Problem(Verdict.FAIL, "soa_missing", f"{zone} has no readable SOA record.",
                    f"Set up the zone {zone} at its name servers anew.", "RFC 1034 section 4.2.1")
        ]  # fmt: skip
    else:
        problems = list(_values(zone, soa, apex.ttl))
        records = yield (
            Question(domain, "TXT"), Question(domain, "MX"), Question(f"_dmarc.{domain}", "TXT"),
            *(Question(f"{s}._domainkey.{domain}", "TXT") for s in subject.dkim_selectors[:20]),
            Question(zone, "NS"),
        )  # fmt: skip
        problems += _slow(records)
        hosts = [host for host in records[-1].records if valid_name(host)][:_SERVERS]
        places = (yield tuple(Question(host, "A") for host in hosts)) if hosts else ()
        servers = {ip: a.question.name for a in places for ip in a.records[:1] if everywhere(ip)}
        own = (yield tuple(Question(zone, "SOA", server=ip) for ip in servers)) if servers else ()
        problems += _serials(zone, {servers[a.question.server]: a for a in own})
    finding = conclude(
        "soa", "", problems, ok=f"{zone} has version {soa.serial if soa else 0} and sensible times.",
        rfc="RFC 1912 section 2.2", records=apex.records, answers=[apex],
    )  # fmt: skip
    return (finding,)


def _read(text: str) -> _Soa | None:
    fields = text.split()
    if len(fields) != 7 or not all(f.isascii() and f.isdigit() and len(f) <= 10 for f in fields[2:]):
        return None
    return _Soa(*map(int, fields[2:]))


def _values(zone: str, soa: _Soa, ttl: int) -> Iterator[Problem]:
    # What the resolver shows of the SOA's own TTL has been counting down; the minimum alone is sure.
    if soa.minimum > _NEGATIVE and (ttl == 0 or ttl > _NEGATIVE):
        yield Problem(
            Verdict.WARN, "negative_ttl", f"A record that was missing for a moment stays missing for {soa.minimum} s "
            "in caches.", f"Set the last number of the SOA of {zone} to 3600 or less.", "RFC 2308 section 5",
        )  # fmt: skip
    odd = [f"{name} {n} s" for name, (low, high) in _USUAL.items() if not low <= (n := getattr(soa, name)) <= high]
    if soa.retry >= soa.refresh:
        odd.append("retry not below refresh")
    if odd:
        yield Problem(Verdict.OK, "soa_unusual", f"The SOA of {zone} has unusual times: {', '.join(odd)}.",
                      rfc="RFC 1912 section 2.2")  # fmt: skip


def _slow(records: tuple[Answer, ...]) -> Iterator[Problem]:
    slow = [a for a in records if a.outcome is Outcome.ANSWER and a.ttl > _LONGEST and a.question.type != "NS"]
    if slow:
        q = slow[0].question
        yield Problem(
            Verdict.WARN, "ttl_long", f"The {q.type} record of {q.name} is kept for {slow[0].ttl} s: a mistake in it "
            "lasts for more than a day.", f"Set the TTL of {q.name} to 3600.", "RFC 1912 section 2.2",
        )  # fmt: skip


def _serials(zone: str, answers: dict[str, Answer]) -> Iterator[Problem]:
    serials: dict[int, str] = {}
    for host, answer in answers.items():
        if answer.outcome is Outcome.ANSWER and answer.authoritative and answer.records:
            soa = _read(answer.records[0])
            if soa:
                serials.setdefault(soa.serial, host)
    if len(serials) > 1:
        seen = ", ".join(f"{host} has {serial}" for serial, host in sorted(serials.items()))
        yield Problem(
            Verdict.WARN, "serial_skew", f"The servers of {zone} hold different versions: {seen[:400]}. Receivers see "
            "one or the other.", "Wait for the refresh; if it stays, repair the zone transfer to the older ones.",
            "RFC 1912 section 2.2",
        )  # fmt: skip
