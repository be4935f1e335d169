"""A dict as the whole DNS, to drive plans with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.checks import CHECKS
from agent.dns.checks.base import Finding, Subject, drive

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
