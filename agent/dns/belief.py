"""What the watch believes: bad news is looked at again, then the zone's own servers are asked; good news is audited."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping

from agent.dns.audit import Audits
from agent.dns.checks.base import SEVERITY, Check, Finding, Subject, Verdict
from agent.dns.follow import run_check
from agent.dns.health import Health
from agent.dns.opinion import Weight, second_opinion
from agent.dns.published import Published
from agent.dns.report import confirm
from agent.dns.resolver import Resolver
from agent.dns.shared import DomainAnswers

_PERSISTENT = 3600.0  # seconds after which, and
_LOOKS = 3  # looks by which bad news that no second server can be asked about is believed of a healthy resolver
_CONFIRMING = 16  # second opinions asked for at once


class Belief:
    """Judges the findings of looks against what is ``published``. The rest is as ``Watch`` has it; ``health`` is how
    the resolvers are, by address."""

    def __init__(
        self,
        resolver: Resolver,
        published: Published,
        *,
        clock: Callable[[], float],
        rng: random.Random,
        interval: float,
        confirm_after: float,
        limit: float,
        authority_port: int,
        on_opinion: Callable[[Weight], None] | None,
    ) -> None:
        self._resolver, self._published, self._clock = resolver, published, clock
        self._confirm_after, self._limit = confirm_after, limit
        self._authority_port, self._on_opinion = authority_port, on_opinion
        self._audits = Audits(
            resolver, clock=clock, rng=rng, interval=interval, limit=limit, port=authority_port,
            on_opinion=on_opinion,
        )  # fmt: skip
        self._confirming = asyncio.Semaphore(_CONFIRMING)
        self._doubted: dict[tuple[str, str, str], tuple[str, float, int]] = {}  # reason, since, looks
        self.health: Mapping[str, Health] = {}

    def at_once(self, domain: str, check: str, findings: tuple[Finding, ...]) -> bool:
        """Whether these are believed as they are; otherwise ``weighed`` says what remains of them."""
        for finding in findings:
            if finding.verdict is not Verdict.OK and self._is_bad_news(domain, finding):
                return False
        return not (self._is_deaf() or self._audits.is_due((domain, check), findings))

    async def weighed(
        self, answers: DomainAnswers, subject: Subject, name: str, check: Check, findings: tuple[Finding, ...]
    ) -> tuple[Finding, ...]:
        """What remains of findings that are bad news, or whose turn it is to be audited. Raises ``TimeoutError``."""
        # Each plan ends by itself at the limit; this one is for all of them.
        async with asyncio.timeout(4 * self._limit + self._confirm_after + 5):
            return await self._weighed(answers, subject, name, check, findings)

    def settled(self, domain: str, check: str, findings: tuple[Finding, ...], gone: frozenset[str]) -> None:
        """These are published, and subjects are ``gone``: of them only what is unconfirmed is still doubted."""
        if self._doubted:
            for subject in (*gone, *(f.subject for f in findings if f.reason != "unconfirmed")):
                self._doubted.pop((domain, check, subject), None)

    async def _weighed(
        self, answers: DomainAnswers, subject: Subject, name: str, plan: Check, findings: tuple[Finding, ...]
    ) -> tuple[Finding, ...]:
        domain = subject.domain
        if any(self._is_bad_news(domain, f) for f in findings):
            await asyncio.sleep(self._confirm_after)
            findings = confirm(findings, await run_check(self._resolver, plan, subject, limit=self._limit, anew=True))
        doubted = [f for f in findings if self._is_bad_news(domain, f)]
        if self._is_deaf():
            return tuple(_without_resolver(f) for f in findings)
        if doubted:
            async with self._confirming:
                weighed = await second_opinion(
                    self._resolver, plan, subject, doubted, limit=self._limit, port=self._authority_port
                )
            stands = {f.subject: self._stands(domain, f, *w) for f, w in zip(doubted, weighed, strict=True)}
            return tuple(stands.get(f.subject, f) for f in findings)
        if self._audits.is_due((domain, name), findings):
            async with self._confirming:
                return await self._audits.audited(answers, plan, subject, (domain, name), findings)
        return findings

    def _is_deaf(self) -> bool:
        return bool(self.health) and all(health is Health.BROKEN for health in self.health.values())

    def _stands(self, domain: str, bad: Finding, weight: Weight, finding: Finding) -> Finding:
        """What is published of bad news. Where nobody else can be asked, a resolver that is right about everything
        known, and has had to ask again itself meanwhile, is evidence too, once it says the same for long enough."""
        if self._on_opinion:
            self._on_opinion(weight)
        if weight is not Weight.UNCONFIRMED:
            return finding
        key = (domain, bad.check, bad.subject)
        reason, since, looks = self._doubted.get(key, ("", 0.0, 0))
        if reason != bad.reason or Health.HEALTHY not in self.health.values():
            since, looks = self._clock(), 0
        self._doubted[key] = (bad.reason, since, looks + 1)
        persistent = looks + 1 >= _LOOKS and self._clock() - since >= max(_PERSISTENT, 2.0 * bad.ttl)
        return bad if persistent else finding

    def _is_bad_news(self, domain: str, finding: Finding) -> bool:
        if finding.verdict not in (Verdict.FAIL, Verdict.WARN):
            return False
        known = self._published.get(domain, finding.check, finding.subject)
        before = known.last_definitive if known else None
        if known is None or before is None or (before.records and not finding.records):
            return True
        if known.finding.verdict is Verdict.UNKNOWN:  # what was bad before nobody could tell may be over
            return True
        better = SEVERITY.index(finding.verdict) - SEVERITY.index(before.verdict)
        return better < 0 or (better == 0 and finding.reason != before.reason)


def _without_resolver(finding: Finding) -> Finding:
    detail = "Every resolver fails its self-check: it denies what exists or makes up what does not."
    advice = "Use a resolver that does not rewrite answers, see dns.resolvers."
    return Finding(finding.check, finding.subject, Verdict.UNKNOWN, "resolver_broken", detail, advice)
