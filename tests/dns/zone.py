"""A dict as the whole DNS, to drive plans with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.checks import CHECKS
from agent.dns.checks.base import Finding, Subject, drive
from agent.dns.page import Fetch, Page, failed

# name -> type -> records, or an outcome for every question about the name
Zone = Mapping[str, Mapping[str, Sequence[str]] | Outcome]


def answers(zone: Zone, ttl: int = 300) -> Callable[[Question], Answer]:
    def answer(question: Question) -> Answer:
        name, chain = question.name, []
        while True:
            held = zone.get(name)
            if isinstance(held, Outcome):
                return Answer(question, held, cnames=tuple(chain) if held is Outcome.NODATA else ())
            if held is None:
                known = any(other.endswith("." + name) for other in zone)
                return Answer(question, Outcome.NODATA if known else Outcome.NXDOMAIN)
            if question.type in held:
                return Answer(question, Outcome.ANSWER, tuple(held[question.type]), tuple(chain), ttl)
            if "CNAME" not in held or len(chain) > 8:
                return Answer(question, Outcome.NODATA, cnames=tuple(chain))
            name = held["CNAME"][0]
            chain.append(name)

    return answer


def txt(*texts: str) -> dict[str, Sequence[str]]:
    return {"TXT": texts}


def findings(check: str, subject: Subject, zone: Zone) -> tuple[Finding, ...]:
    return drive(CHECKS[check].plan(subject), answers(zone))


def only(check: str, zone: Zone, domain: str = "example.com") -> Finding:
    """The one finding of a check that has one."""
    (finding,) = findings(check, Subject(domain), zone)
    return finding


def web(
    zone: Zone, pages: Mapping[str, bytes | int | str], *, kind: str = "text/plain", at: float = 0.0, ttl: int = 300
) -> Callable[[Question], Answer]:
    """The DNS and the Web as dicts: a URL leads to a body, a status, or the reason why nothing came. Whatever name is
    signed has a type ``AD`` in the zone."""
    held = answers(zone, ttl)

    def answer(question: Question) -> Answer:
        if not isinstance(question, Fetch):
            found = zone.get(question.name, {})
            return msgspec.structs.replace(held(question), authentic=isinstance(found, Mapping) and "AD" in found)
        said = pages.get(question.url, "dns")
        if isinstance(said, str):
            return msgspec.structs.replace(failed(question, said), at=at)
        status, body = (said, b"") if isinstance(said, int) else (200, said)
        if len(body) > question.limit:
            return failed(question, "too_large")
        return Page(question, Outcome.ANSWER, status=status, body=body, content_type=kind, at=at)

    return answer
