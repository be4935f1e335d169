"""The second opinion: what a check finds when the zones' own servers are asked instead of a resolver.

A resolver may be behind, rewrite answers or be cut off; the servers of a zone know what is published. Bad news counts
once they say the same, each server asked on its own, so that one that is behind shows as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from agent.dns.answer import Answer, Asks, Outcome, Question
from agent.dns.checks.base import SEVERITY, Check, Finding, Subject, Verdict
from agent.dns.follow import run_check
from agent.dns.resolver import Resolver

_VIEWS = 3  # servers of each zone that are heard
_SERVERS = 6  # addresses of a zone that are known at most
_LABELS = 20  # of a name that are searched for the zone's apex at most
_CHAIN = 8  # CNAMEs followed across zones


class Weight(StrEnum):
    """What second opinions make of bad news."""

    CONFIRMED = "confirmed"
    SPLIT = "split"  # somebody who must know says otherwise
    UNCONFIRMED = "unconfirmed"  # nobody else could tell


def weigh(first: Finding, others: Sequence[Finding], *, needed: int = 1) -> tuple[Weight, Finding]:
    """Bad news and what others found of the same subject: how it stands, and the finding to publish. ``needed`` is
    how many others must say so for it to be confirmed; ``unknown`` says nothing. One that is better contradicts,
    unless all are bad to some degree: then the mildest is what everybody agrees on."""
    definite = [f for f in others if f.verdict is not Verdict.UNKNOWN]
    if any(f.verdict is Verdict.OK for f in definite):
        return Weight.SPLIT, _doubt(
            first,
            "split_answers",
            "Name servers contradict each other",
            "Compare what each server of the zone answers.",
        )
    if len(definite) < needed:
        return Weight.UNCONFIRMED, _doubt(
            first,
            "unconfirmed",
            "No second server confirms it",
            "Let the agent reach the zone's name servers on port 53, UDP and TCP, or configure a second resolver.",
        )
    return Weight.CONFIRMED, max((first, *definite), key=lambda f: SEVERITY.index(f.verdict))


def _doubt(first: Finding, reason: str, why: str, advice: str) -> Finding:
    detail = f"{why}, so this is not believed: {first.detail}"[:2000]
    return Finding(first.check, first.subject, Verdict.UNKNOWN, reason, detail, advice, first.rfc, first.records)


class Authority:
    """Answers of the zones' own servers, found anew for each use of this object. ``port`` is theirs."""

    def __init__(self, resolver: Resolver, *, port: int = 53) -> None:
        self._resolver = resolver
        self._port = port
        self._zones: dict[str, asyncio.Task[tuple[str, ...] | None]] = {}
        self._answers: dict[Question, asyncio.Future[Answer]] = {}

    async def ask(self, question: Question, view: int) -> Answer:
        """The answer of one server of the zone, another for each ``view`` if there are several. CNAMEs are followed
        across zones. Not definitive where no server has an authoritative answer."""
        name = question.name
        chain: list[str] = []
        ttls: list[int] = []
        answer = Answer(question, Outcome.UNREACHABLE)
        while len(chain) <= _CHAIN:
            answer = await self._one(Question(name, question.type), view)
            ttls.append(answer.ttl)
            new = [hop for hop in answer.cnames if hop not in chain]
            chain += new
            if answer.outcome is not Outcome.NODATA or not new:
                break
            name = chain[-1]
        return msgspec.structs.replace(answer, question=question, cnames=tuple(chain), ttl=min(ttls, default=0))

    async def _one(self, question: Question, view: int) -> Answer:
        servers = await self._servers(question)
        answer = Answer(question, Outcome.UNREACHABLE)
        turn = view % max(1, len(servers))
        for server in (servers[turn:] + servers[:turn])[:_VIEWS]:
            answer = await self._asked(msgspec.structs.replace(question, server=server))
            if answer.outcome.definitive and answer.authoritative:
                return answer
        if answer.outcome.definitive:
            return msgspec.structs.replace(answer, outcome=Outcome.LAME)
        return answer

    def _asked(self, question: Question) -> asyncio.Future[Answer]:
        if question not in self._answers:
            self._answers[question] = asyncio.ensure_future(self._resolver.ask(question))
        return self._answers[question]

    async def _servers(self, question: Question) -> tuple[str, ...]:
        # What delegates a zone stands in its parent (RFC 4035 section 3.1.4.1).
        start = question.name.partition(".")[2] if question.type == "DS" else question.name
        labels = start.split(".")
        for n in range(max(0, len(labels) - _LABELS), len(labels)):
            zone = ".".join(labels[n:])
            if zone not in self._zones:
                self._zones[zone] = asyncio.create_task(self._apex(zone))
            servers = await self._zones[zone]
            if servers is not None:
                return servers
        return ()

    async def _apex(self, zone: str) -> tuple[str, ...] | None:
        """The servers of a zone that begins at this name, those that answer for it; ``None`` if no zone does."""
        answer = await self._resolver.ask(Question(zone, "NS"))
        if answer.outcome is not Outcome.ANSWER or answer.cnames:
            return None
        hosts = answer.records[:_SERVERS]
        found = await asyncio.gather(*(self._resolver.ask(Question(host, "A")) for host in hosts))
        if not any(a.records for a in found):
            found = await asyncio.gather(*(self._resolver.ask(Question(host, "AAAA")) for host in hosts))
        # One address of each server before the second of any.
        depth = max((len(a.records) for a in found), default=0)
        texts = [a.records[i] for i in range(depth) for a in found if i < len(a.records)]
        servers = [f"[{t}]:{self._port}" if ":" in t else f"{t}:{self._port}" for t in dict.fromkeys(texts)][:_SERVERS]
        soas = await asyncio.gather(*(self._asked(Question(zone, "SOA", server=server)) for server in servers))
        if any(soa.authoritative for soa in soas):
            return tuple(s for s, soa in zip(servers, soas, strict=True) if soa.authoritative)
        # Inside a network the configured server may itself be the zone's; that it says so for one name is not enough,
        # since filters do as well for what they block.
        own = await self._resolver.servers()
        soas = await asyncio.gather(*(self._asked(Question(zone, "SOA", server=server)) for server in own))
        return tuple(
            server for server, soa in zip(own, soas, strict=True) if soa.authoritative and soa.outcome is Outcome.ANSWER
        )

    def close(self) -> None:
        for zone in self._zones.values():
            zone.cancel()
        for answer in self._answers.values():
            answer.cancel()


class _View:
    """Stands in for the resolver while a plan is followed."""

    def __init__(self, resolver: Resolver, authority: Authority, number: int) -> None:
        self._resolver, self._authority, self._number = resolver, authority, number

    def fresh(self) -> None:
        """Every answer is new."""

    async def ask(self, question: Question) -> Answer:
        if question.server:
            return await self._resolver.ask(question)
        answer = await self._authority.ask(question, self._number)
        if question.dnssec:  # only a validating resolver can say
            validated = await self._resolver.ask(question)
            if not validated.outcome.definitive:
                return validated
            answer = msgspec.structs.replace(
                answer, authentic=validated.authentic, signed=validated.signed, at=validated.at
            )  # fmt: skip
        return answer


class _Other:
    """Stands in for the resolver: one of its servers alone."""

    def __init__(self, resolver: Resolver, server: str) -> None:
        self._resolver, self._server = resolver, server

    def fresh(self) -> None:
        """Every question is asked anew."""

    async def ask(self, question: Question) -> Answer:
        if question.server:
            return await self._resolver.ask(question)
        return await self._resolver.ask_one(question, self._server)


class _Own(_View):
    """Stands in for the resolver: the domain's own names are asked of its own server, others ``elsewhere``."""

    def __init__(self, resolver: Resolver, authority: Authority, domain: str, elsewhere: Asks) -> None:
        super().__init__(resolver, authority, 0)
        self._domain, self._elsewhere = domain, elsewhere

    async def ask(self, question: Question) -> Answer:
        own = question.name == self._domain or question.name.endswith("." + self._domain)
        return await super().ask(question) if own else await self._elsewhere.ask(question)


async def own_server(
    resolver: Resolver, check: Check, subject: Subject, elsewhere: Asks, *, limit: float, port: int = 53
) -> tuple[Finding, ...]:
    """What a check finds when the domain's own names are asked of one of its own servers."""
    authority = Authority(resolver, port=port)
    try:
        view = _Own(resolver, authority, subject.domain, elsewhere)
        return await run_check(view, check, subject, limit=limit)
    finally:
        authority.close()


async def second_opinion(
    resolver: Resolver, check: Check, subject: Subject, doubted: Sequence[Finding], *, limit: float, port: int = 53
) -> list[tuple[Weight, Finding]]:
    """How each of the ``doubted`` findings of a check stands: by the zones' own servers, and where those cannot tell,
    by the other configured resolvers. Ends within about twice ``limit`` seconds."""
    authority = Authority(resolver, port=port)
    try:
        looks = await asyncio.gather(
            *(run_check(_View(resolver, authority, n), check, subject, limit=limit) for n in range(_VIEWS))
        )
    finally:
        authority.close()
    weighed = [weigh(f, _same(f, looks)) for f in doubted]
    servers = await resolver.servers()
    if len(servers) > 1 and any(weight is Weight.UNCONFIRMED for weight, _ in weighed):
        looks = await asyncio.gather(
            *(run_check(_Other(resolver, server), check, subject, limit=limit) for server in servers[:_VIEWS])
        )
        # The first look came from one of them, nobody knows which: only two that say so are one more.
        weighed = [
            weigh(f, _same(f, looks), needed=2) if weight is Weight.UNCONFIRMED else (weight, finding)
            for f, (weight, finding) in zip(doubted, weighed, strict=True)
        ]
    return weighed


def _same(finding: Finding, looks: Sequence[tuple[Finding, ...]]) -> list[Finding]:
    return [f for look in looks for f in look if f.subject == finding.subject]
