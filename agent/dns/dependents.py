"""Whose mail depends on a record: all that a domain sends, or what one service or stream of it does. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from agent.dns.checks.base import MailStream, Subject
from agent.dns.inventory import RecordSet
from agent.dns.senders import SERVICES, SPF_INCLUDES
from agent.dns.spf_record import SpfSyntaxError, Term, parse
from agent.suffix import registered_domain
from agent.vitals.types import Rate, Snapshot

_WINDOW = "24h"


class Sender(msgspec.Struct, frozen=True):
    """A declared mail stream by name, a sending service by provider id, or both; ``""`` where it is not known."""

    stream: str = ""
    provider: str = ""


def senders(subject: Subject, before: RecordSet, after: RecordSet) -> tuple[Sender, ...]:
    """Who alone depends on a record that has changed; nobody in it means that all of the domain's mail does."""
    match after.role:
        case "include":
            return tuple(Sender(provider=p) for p in _including(after.name))
        case "dkim":
            return _signing(subject, after.name.removesuffix(f"._domainkey.{subject.domain}"))
        case "spf" if after.name != subject.domain:
            return tuple(map(_of, (s for s in subject.mail_streams if s.return_path == after.name)))
        case "spf":
            return _between(before, after)
        case _:
            return ()


def share(snapshot: Snapshot | None, domain: str, of: Sequence[Sender] = ()) -> float | None:
    """The part of the mail of the last 24 hours, all domains together, that a domain sent, 0..1, or that ``of`` sent of
    it; ``None`` when nothing was counted, of any of them."""
    if snapshot is None:
        return None
    total = sum(vitals.attempted.get(_WINDOW, 0) for vitals in snapshot.domains.values())
    vitals = snapshot.domains.get(domain)
    if not total:
        return None
    if not of:
        return vitals.attempted.get(_WINDOW, 0) / total if vitals else 0.0
    sent = {
        part: rates["deliverability"].denominator
        for sender in of
        for part in (("stream", sender.stream), ("provider", sender.provider))
        if vitals and part[1] and "deliverability" in (rates := _rates(vitals.parts, part))
    }
    # A stream's mail is its service's too: what is counted by stream is not counted again.
    counted = {
        next((p for p in (("stream", s.stream), ("provider", s.provider)) if p in sent), None) for s in of
    }  # fmt: skip
    known = [sent[part] for part in counted if part is not None]
    return min(1.0, sum(known) / total) if known else None


def _rates(
    parts: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Rate]]]], part: tuple[str, str]
) -> Mapping[str, Rate]:
    return parts.get(part[0], {}).get(part[1], {}).get(_WINDOW, {})


def _of(stream: MailStream) -> Sender:
    return Sender(stream.name, stream.provider)


def _including(name: str) -> list[str]:
    """The services that publish an SPF record at this name, or have it behind one."""
    whose = registered_domain(name) or name
    return [p for p, names in SPF_INCLUDES.items() if whose in {registered_domain(n) or n for n in names}]


def _signing(subject: Subject, selector: str) -> tuple[Sender, ...]:
    declared = [
        stream for stream in subject.mail_streams
        if stream.dkim_domain in ("", subject.domain) and selector in (stream.selectors or subject.dkim_selectors)
    ]  # fmt: skip
    if declared:
        return tuple(map(_of, declared))
    service = SERVICES.get(selector, "").lower().replace(" ", "_")
    return (Sender(provider=service),) if service in SPF_INCLUDES else ()


def _between(before: RecordSet, after: RecordSet) -> tuple[Sender, ...]:
    """Who depends on the terms that came or went, where each is a service's include."""
    try:
        old, new = ({t.text.lower() for t in _terms(records)} for records in (before, after))
    except SpfSyntaxError:
        return ()
    found: list[str] = []
    for text in old ^ new:
        name, _, target = text.lstrip("+-~?").partition(":")
        whose = _including(target) if name == "include" else []
        if not whose:
            return ()
        found += whose
    return tuple(Sender(provider=provider) for provider in sorted(set(found)))


def _terms(records: RecordSet) -> Iterable[Term]:
    if len(records.records) != 1:
        raise SpfSyntaxError("", "not one record")
    record = parse(records.records[0])
    return (*record.mechanisms, *record.modifiers)
