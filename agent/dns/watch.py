"""The watch: every check of every domain, again and again, published only when it is believed.

A record that is removed from the DNS becomes a ``fail`` within ``interval`` plus its TTL: the next look is never later
than ``interval`` after the last, and no cache holds anything longer than the TTL. What only a resolver says is no
``fail``: the zone's own servers are asked, and where they say otherwise or nothing, nobody can tell.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from weakref import WeakValueDictionary

import structlog

from agent.dns.audit import Audits
from agent.dns.checks import CHECKS
from agent.dns.checks.base import SEVERITY, Check, Finding, Subject, Verdict, Watched
from agent.dns.discovery import Discoveries
from agent.dns.follow import CHECK_LIMIT, run_check
from agent.dns.health import Health, self_check
from agent.dns.opinion import Weight, second_opinion
from agent.dns.published import Published
from agent.dns.report import confirm
from agent.dns.resolver import Resolver
from agent.dns.schedule import Schedule
from agent.dns.shared import DomainAnswers, SharedAnswers

_FIRST_RETRY = 15.0  # seconds until a failed look is tried again; doubled each time up to the interval
_NEGATIVE = (60.0, 900.0)  # seconds after which a record that is not there is asked for again
_START_SPREAD = 0.05  # seconds between the first looks, so that a start is no burst
_PERSISTENT = 3600.0  # seconds after which, and
_LOOKS = 3  # looks by which bad news that no second server can be asked about is believed of a healthy resolver
_SELF_CHECK = 60.0  # seconds between two looks at the resolvers themselves
_TOGETHER = 1.0  # seconds for which looks at one domain share their answers
_CONFIRMING = 16  # second opinions asked for at once

log = structlog.get_logger(__name__)


class Watch:
    """Watches the DNS of ``subjects``.

    ``interval`` is the longest, ``min_interval`` the shortest time between two looks at the same thing, seconds; in
    between, the TTL decides. Bad news is looked at again after ``confirm_after`` seconds, then by a second opinion,
    before it is published. A check that takes longer than ``limit`` seconds ends as ``unknown``. ``rate`` is the
    questions a second that looks may ask. ``on_change`` is told of every finding whose verdict or reason has changed,
    ``on_opinion`` how each second opinion ended, ``on_health`` how the resolvers are, by address. ``authority_port`` is
    the port of the zones' own servers. ``restored`` are the findings of an earlier run; those of subjects and checks
    that are no longer watched are dropped as their check is run.
    """

    def __init__(
        self,
        resolver: Resolver,
        subjects: Sequence[Subject],
        *,
        interval: float = 300.0,
        min_interval: float = 60.0,
        confirm_after: float = 2.0,
        limit: float = CHECK_LIMIT,
        checks: dict[str, Check] | None = None,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        rate: float = 500.0,
        authority_port: int = 53,
        on_change: Callable[[Watched], None] | None = None,
        on_opinion: Callable[[Weight], None] | None = None,
        on_health: Callable[[Mapping[str, Health]], None] | None = None,
        restored: Iterable[Watched] = (),
    ) -> None:
        self._resolver = resolver
        self._subjects = {subject.domain: subject for subject in subjects}
        self._interval = interval
        self._min_interval = min(min_interval, interval)
        self._confirm_after = confirm_after
        self._limit = limit
        self._checks = CHECKS if checks is None else checks
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._on_opinion, self._on_health = on_opinion, on_health
        self._authority_port = authority_port
        self._shared = SharedAnswers(resolver, rate=rate)
        self._views: WeakValueDictionary[str, DomainAnswers] = WeakValueDictionary()
        self._health: Mapping[str, Health] = {}
        self._audits = Audits(
            resolver, clock=clock, rng=self._rng, interval=interval, limit=limit, port=authority_port,
            on_opinion=on_opinion,
        )  # fmt: skip
        self._confirming = asyncio.Semaphore(_CONFIRMING)
        self._doubted: dict[tuple[str, str, str], tuple[str, float, int]] = {}  # reason, since, looks
        self._failures: dict[tuple[str, str], int] = {}
        self._discoveries = Discoveries(self._rng)
        self._turns: dict[tuple[str, str], asyncio.Future[None]] = {}
        self._due: dict[str, float] = {}
        self._schedule = Schedule(self._look)
        self.published = Published(
            self._subjects,
            (w for w in restored if w.domain in self._subjects and w.finding.check in self._checks),
            on_change=on_change,
        )
        self._looked: set[tuple[str, str]] = set()
        self._last_round_at = 0.0

    def findings(self) -> tuple[Watched, ...]:
        """What is known now, by domain, check and subject. Checks not looked at yet since the start are in it only
        if they were restored."""
        return self.published.all()

    @property
    def last_round_at(self) -> float:
        """When every check of every domain had last been looked at once more, Unix seconds; 0 before the first
        time."""
        return self._last_round_at

    async def run(self) -> None:
        """Watch until cancelled."""
        keys = [(domain, check) for domain in self._subjects for check in self._checks]
        step = min(_START_SPREAD, self._interval / max(1, len(keys)))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._check_resolvers(), name="dns resolvers")
            group.create_task(self._schedule.run((n * step, key) for n, key in enumerate(keys)), name="dns looks")

    def late(self) -> float:
        """Seconds by which the next look is overdue: more than a few say that ``rate`` or the resolvers do not
        suffice."""
        return self._schedule.late()

    async def check_now(self, domain: str) -> tuple[Watched, ...]:
        """Look at one domain at once, and return what is then known of it. Raises ``KeyError`` for a domain that is
        not watched."""
        if domain not in self._subjects:
            raise KeyError(domain)
        self._discoveries.forget(domain)
        await asyncio.gather(*(self._look((domain, check)) for check in self._checks))
        return self.published.of(domain)

    async def _check_resolvers(self) -> None:
        while True:
            await self.check_resolvers()
            await asyncio.sleep(_SELF_CHECK)

    async def check_resolvers(self) -> None:
        """Look at the resolvers themselves: those found broken are not asked while there are others; when all are,
        every finding is ``unknown``."""
        self._health = await self_check(self._resolver)
        broken = [server for server, health in self._health.items() if health is Health.BROKEN]
        self._resolver.avoid(broken)
        if self._on_health:
            self._on_health(self._health)

    async def _look(self, key: tuple[str, str]) -> float:
        """One look, published, one at a time for each key. Returns the seconds until the next."""
        while (other := self._turns.get(key)) is not None:
            await asyncio.wait((other,))
        ended = self._turns[key] = asyncio.get_running_loop().create_future()
        try:
            return await self._look_now(key)
        finally:
            del self._turns[key]
            ended.set_result(None)

    async def _look_now(self, key: tuple[str, str]) -> float:
        domain, check = key
        try:
            findings = await self._believed(domain, check)
        except Exception as error:
            log.error("dns_check_crashed", domain=domain, check=check, error=type(error).__name__)
            findings = self._crashed(domain, check)
        for gone in self.published.publish(domain, check, findings, self._clock()):
            self._doubted.pop((domain, check, gone), None)
        self._looked.add(key)
        if len(self._looked) == len(self._subjects) * len(self._checks):
            self._looked.clear()
            self._last_round_at = self._clock()
        return self._aligned(domain, self._next(key, findings))

    def _aligned(self, domain: str, delay: float) -> float:
        """Looks at one domain that would fall close together begin at once: what one asks, the others need not."""
        now = asyncio.get_running_loop().time()
        due = self._due.get(domain, 0.0)
        if max(0.9 * delay, self._min_interval) <= due - now <= delay:
            return due - now
        self._due[domain] = now + delay
        return delay

    async def _believed(self, domain: str, check: str) -> tuple[Finding, ...]:
        subject, plan = self._discoveries.known(self._subjects[domain], self._clock()), self._checks[check]
        answers = self._view(domain)
        findings = await run_check(answers, plan, subject, limit=self._limit)
        bad = any(self._is_bad_news(domain, f) for f in findings if f.verdict is not Verdict.OK)
        if bad or self._is_deaf() or self._audits.is_due((domain, check), findings):
            # Each plan ends by itself at the limit; this one is for all of them.
            async with asyncio.timeout(4 * self._limit + self._confirm_after + 5):
                findings = await self._weighed(answers, subject, check, findings, bad=bad)
        if check == "dkim":
            self._discoveries.note(subject, findings, self._clock())
        if self._doubted:
            for f in findings:
                if f.reason != "unconfirmed":
                    self._doubted.pop((domain, check, f.subject), None)
        return findings

    async def _weighed(
        self, answers: DomainAnswers, subject: Subject, check: str, findings: tuple[Finding, ...], *, bad: bool
    ) -> tuple[Finding, ...]:
        """What remains of findings that are bad news, or whose turn it is to be audited."""
        domain, plan = subject.domain, self._checks[check]
        if bad:
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
        if self._audits.is_due((domain, check), findings):
            async with self._confirming:
                return await self._audits.audited(answers, plan, subject, (domain, check), findings)
        return findings

    def _is_deaf(self) -> bool:
        return bool(self._health) and all(health is Health.BROKEN for health in self._health.values())

    def _view(self, domain: str) -> DomainAnswers:
        """One for the looks at a domain that begin together."""
        now = asyncio.get_running_loop().time()
        view = self._views.get(domain)
        if view is None or now - view.born > min(_TOGETHER, self._min_interval / 2):
            view = self._views[domain] = DomainAnswers(self._shared, domain, born=now)
        return view

    def _stands(self, domain: str, bad: Finding, weight: Weight, finding: Finding) -> Finding:
        """What is published of bad news. Where nobody else can be asked, a resolver that is right about everything
        known, and has had to ask again itself meanwhile, is evidence too, once it says the same for long enough."""
        if self._on_opinion:
            self._on_opinion(weight)
        if weight is not Weight.UNCONFIRMED:
            return finding
        key = (domain, bad.check, bad.subject)
        reason, since, looks = self._doubted.get(key, ("", 0.0, 0))
        if reason != bad.reason or Health.HEALTHY not in self._health.values():
            since, looks = self._clock(), 0
        self._doubted[key] = (bad.reason, since, looks + 1)
        persistent = looks + 1 >= _LOOKS and self._clock() - since >= max(_PERSISTENT, 2.0 * bad.ttl)
        return bad if persistent else finding

    def _is_bad_news(self, domain: str, finding: Finding) -> bool:
        if finding.verdict not in (Verdict.FAIL, Verdict.WARN):
            return False
        known = self.published.get(domain, finding.check, finding.subject)
        before = known.last_definitive if known else None
        if known is None or before is None or (before.records and not finding.records):
            return True
        if known.finding.verdict is Verdict.UNKNOWN:  # what was bad before nobody could tell may be over
            return True
        better = SEVERITY.index(finding.verdict) - SEVERITY.index(before.verdict)
        return better < 0 or (better == 0 and finding.reason != before.reason)

    def _crashed(self, domain: str, check: str) -> tuple[Finding, ...]:
        subjects = sorted(self.published.subjects(domain, check)) or [""]
        detail = "The check itself did not come to an end; its last answer may no longer hold."
        return tuple(
            Finding(check, subject, Verdict.UNKNOWN, "check_failed", detail, "See the log, and report this as a bug.")
            for subject in subjects
        )

    def _next(self, key: tuple[str, str], findings: tuple[Finding, ...]) -> float:
        # no_selectors is unknown for good: only other settings change it.
        if any(f.verdict is Verdict.UNKNOWN and f.reason != "no_selectors" for f in findings):
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            base = min(_FIRST_RETRY * 2 ** min(failures - 1, 20), self._interval)
        else:
            self._failures.pop(key, None)
            ttls = [f.ttl for f in findings if f.ttl > 0]
            missing = any(f.verdict is Verdict.FAIL and not f.ttl for f in findings)
            base = min(ttls, default=self._interval)
            if missing:
                base = min(base, max(_NEGATIVE[0], min(self._interval, _NEGATIVE[1])))
            base = max(self._min_interval, min(base, self._interval))
        jitter = self._rng.uniform(0.0, 0.1)
        # Jitter spreads the looks but must never make one late.
        return (
            min(base * (1 + jitter), self._interval) if base < self._interval * 0.9 else self._interval * (1 - jitter)
        )


def _without_resolver(finding: Finding) -> Finding:
    detail = "Every resolver fails its self-check: it denies what exists or makes up what does not."
    advice = "Use a resolver that does not rewrite answers, see dns.resolvers."
    return Finding(finding.check, finding.subject, Verdict.UNKNOWN, "resolver_broken", detail, advice)
