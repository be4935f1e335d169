"""Which DMARC policy applies to a domain, and which organization it belongs to (RFC 9989 section 4.10)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import lru_cache

import msgspec

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.dmarc_record import LEVELS, DmarcRecord, Walk, walk, walk_names
from agent.suffix import registered_domain


class Discovery(msgspec.Struct, frozen=True):
    """What receivers find for mail from ``domain`` (the author domain: lower case, A-labels, no final dot).

    ``record`` is the one that applies, ``None`` when DMARC does not; ``policy_domain`` the name it is published for,
    ``""`` without one. ``organizational_domain`` is the Tree Walk's, ``registered_domain`` the public suffix list's
    (``""`` when the domain is itself a suffix), which receivers of RFC 7489 use in its place. ``exists`` is false for a
    name error (section 3.2.13). ``policy`` is what the record asks for this domain, ``none``, ``quarantine`` or
    ``reject``, and ``""`` when nothing applies (section 4.10.1); ``effective_policy`` is one level weaker under ``t=y``
    (section 4.7). ``discarded`` are names with several records, all of which are ignored.

    ``lost`` is the answer that was needed and did not come: then nothing above the domain is certain, and without a
    record of its own neither is the policy.
    """

    domain: str
    record: DmarcRecord | None
    policy_domain: str
    organizational_domain: str
    registered_domain: str
    exists: bool
    policy: str
    effective_policy: str
    walk: Walk
    discarded: tuple[str, ...] = ()
    lost: Answer | None = None

    @property
    def own(self) -> bool:
        """Whether the record is the domain's own, so that ``p`` applies rather than ``sp`` or ``np``."""
        return self.policy_domain == self.domain

    def strict(self, tag: str) -> bool:
        """Whether ``adkim`` (DKIM) or ``aspf`` (SPF) asks for strict alignment."""
        return self.record is not None and self.record.flag(tag) == "s"


DiscoveryPlan = Generator[tuple[Question, ...], tuple[Answer, ...], Discovery]


def discovery(domain: str) -> DiscoveryPlan:
    """The plan of a policy discovery: at most eight records of the Tree Walk, asked for together, and whether the
    domain exists."""
    *answers, existence = yield discovery_questions(domain)
    return discovered(domain, answers, existence)


@lru_cache(1024)
def discovery_questions(domain: str) -> tuple[Question, ...]:
    """What ``discovered`` wants answered, in its order; the last is the domain's existence."""
    return (*(Question(f"_dmarc.{name}", "TXT") for name in walk_names(domain)), Question(domain, "A"))


def discovered(domain: str, answers: Sequence[Answer], existence: Answer) -> Discovery:
    """Read the answers to ``discovery_questions(domain)``."""
    found = walk(walk_names(domain), answers)
    exists = existence.outcome is not Outcome.NXDOMAIN
    record = found.policy_record
    policy = record.policy(own=record.name == domain, exists=exists) if record else ""
    weaker = record is not None and record.flag("t") == "y" and policy not in ("", "none")
    return Discovery(
        domain,
        record,
        record.name if record else "",
        found.organizational_domain,
        registered_domain(domain),
        exists,
        policy,
        LEVELS[LEVELS.index(policy) - 1] if weaker else policy,
        found,
        found.discarded,
        found.lost,
    )


def organizational_domain(domain: str) -> Generator[tuple[Question, ...], tuple[Answer, ...], Walk]:
    """The plan of a Tree Walk for any domain, such as a signature's or a return path's (section 4.10.2)."""
    names = walk_names(domain)
    return walk(names, (yield tuple(Question(f"_dmarc.{name}", "TXT") for name in names)))
