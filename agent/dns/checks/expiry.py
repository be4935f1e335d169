"""Expiry: the registered domain does not run out unnoticed (RDAP, RFC 9082 and 9083). Only where settings allow it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import msgspec

from agent.clock import DAY
from agent.dns.checks.base import Plan, Problem, Subject, Verdict, conclude
from agent.dns.page import Page, get, page
from agent.suffix import registered_domain

_URL = "https://rdap.org/domain/"  # sends on to the registry that IANA's bootstrap file names (RFC 9224)
_LARGEST = 256 * 1024
_WARN, _FAIL = 30, 7  # days left
_RFC = "RFC 9083 section 4.5"
_HELD = ("client hold", "server hold", "redemption period", "pending delete")


class _Event(msgspec.Struct):
    eventAction: str = ""  # noqa: N815 - the registry's words
    eventDate: str = ""  # noqa: N815


class _Domain(msgspec.Struct):
    events: list[_Event] = []
    status: list[str] = []


def plan(subject: Subject) -> Plan:
    """One finding for the registered domain; none unless the registry may be asked."""
    top = registered_domain(subject.domain)
    if not subject.rdap or not top:
        return ()
    (answer,) = yield (get(_URL + top, limit=_LARGEST, redirects=3, max_age=DAY),)
    found = page(answer)
    record = _read(found) if found.status == 200 else None
    records: list[str] = []
    if record is None:
        problems = [_unknown(top, found)]
    else:
        expires = _expires(record)
        records = [f"status: {s}" for s in record.status] + ([f"expires: {expires:%Y-%m-%d}"] if expires else [])
        problems = list(_judge(top, record, expires, found.at))
    finding = conclude("expiry", "", problems, ok=f"{top} is registered for more than {_WARN} days.", rfc=_RFC,
                       records=records)  # fmt: skip
    return (finding,)


def _unknown(top: str, found: Page) -> Problem:
    if found.status == 404:
        return Problem(Verdict.OK, "expiry_unpublished", f"The registry of {top} tells nothing over RDAP.", rfc=_RFC)
    why = f"status {found.status}" if found.status not in (0, 200) else found.problem or "unreadable"
    detail = f"The registry of {top} could not be asked ({why}; {found.outcome})."
    return Problem(Verdict.UNKNOWN, "indeterminate", detail, "Nothing to change: it is asked again later.")


def _read(found: Page) -> _Domain | None:
    try:
        return msgspec.json.decode(found.body, type=_Domain)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _expires(record: _Domain) -> datetime | None:
    for event in record.events:
        if event.eventAction.lower() == "expiration":
            try:
                at = datetime.fromisoformat(event.eventDate)
            except ValueError:
                continue
            if at.tzinfo is not None:
                return at
    return None


def _judge(top: str, record: _Domain, expires: datetime | None, now: float) -> Iterator[Problem]:
    renew = f"Renew {top} at its registrar."
    held = [s for s in record.status if s.lower() in _HELD]
    if held:
        yield Problem(Verdict.FAIL, "domain_held", f"The registry holds {top} back ({held[0]}).", renew, _RFC)
    if expires is None:
        if not held:
            yield Problem(Verdict.OK, "expiry_unpublished", f"The registry does not say when {top} expires.", rfc=_RFC)
        return
    days = (expires.timestamp() - now) / DAY
    if days < _WARN:
        verdict = Verdict.FAIL if days < _FAIL else Verdict.WARN
        when = f"in {days:.0f} days" if days >= 0 else f"{-days:.0f} days ago"
        yield Problem(verdict, "expiry", f"{top} expires {when}.", renew, _RFC)
