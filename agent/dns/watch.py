"""The watch: every check of every domain, again and again, published only when it is believed.

A record that is removed from the DNS becomes a ``fail`` within ``interval`` plus its TTL: the next look is never later
than ``interval`` after the last, and no cache holds anything longer than the TTL. What only a resolver says is no
``fail``: the zone's own servers are asked, and where they say otherwise or nothing, nobody can tell.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from weakref import WeakSet, WeakValueDictionary

import structlog

from agent.dns.belief import Belief
from agent.dns.checks import CHECKS
from agent.dns.checks.base import Check, Finding, Plan, Subject, Verdict, Watched
from agent.dns.discovery import Discoveries
from agent.dns.follow import CHECK_LIMIT, Together
from agent.dns.health import Health, self_check
from agent.dns.opinion import Weight
from agent.dns.published import Published
from agent.dns.resolver import Resolver
from agent.dns.schedule import Schedule
from agent.dns.shared import DomainAnswers, SharedAnswers

_FIRST_RETRY = 15.0  # seconds until a failed look is tried again; doubled each time up to the interval
_NEGATIVE = (60.0, 900.0)  # seconds after which a record that is not there is asked for again
_START_SPREAD = 0.05  # seconds between the first looks, so that a start is no burst
_SELF_CHECK = 60.0  # seconds between two looks at the resolvers themselves
_TOGETHER = 1.0  # seconds for which looks at one domain share their answers

Key = tuple[str, str]  # domain, check
_Told = Callable[[Key, float], None]

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
        self._limit = limit
        self._checks = CHECKS if checks is None else checks
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._on_health = on_health
        self._shared = SharedAnswers(resolver, rate=rate)
        self._views: WeakValueDictionary[str, DomainAnswers] = WeakValueDictionary()
        self.published = Published(
            self._subjects,
            (w for w in restored if w.domain in self._subjects and w.finding.check in self._checks),
            on_change=on_change,
        )
        self._belief = Belief(
            resolver, self.published, clock=clock, rng=self._rng, interval=interval, confirm_after=confirm_after,
            limit=limit, authority_port=authority_port, on_opinion=on_opinion,
        )  # fmt: skip
        self._failures: dict[Key, int] = {}
        self._discoveries = Discoveries(self._rng)
        self._turns: dict[Key, deque[_Told]] = {}  # who is told of the look under way, then those who wait for theirs
        self._looking: WeakSet[Together[tuple[Finding, ...]]] = WeakSet()  # a look lives by its timer
        self._beginning: deque[tuple[str, list[str]]] = deque()
        self._weighing: set[asyncio.Task[None]] = set()
        self._due: dict[str, float] = {}
        self._schedule = Schedule(self._due_now)
        self._looked: set[Key] = set()
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
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._check_resolvers(), name="dns resolvers")
                group.create_task(self._schedule.run((n * step, key) for n, key in enumerate(keys)), name="dns looks")
        finally:
            self._stop()

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
        left = set(self._checks)
        done = asyncio.get_running_loop().create_future()

        def told(key: Key, _: float) -> None:
            left.discard(key[1])
            if not left and not done.done():
                done.set_result(None)

        self._ask_for(domain, self._checks, told)
        if left:
            await done
        return self.published.of(domain)

    async def _check_resolvers(self) -> None:
        while True:
            await self.check_resolvers()
            await asyncio.sleep(_SELF_CHECK)

    async def check_resolvers(self) -> None:
        """Look at the resolvers themselves: those found broken are not asked while there are others; when all are,
        every finding is ``unknown``."""
        health = self._belief.health = await self_check(self._resolver)
        self._resolver.avoid([server for server, how in health.items() if how is Health.BROKEN])
        if self._on_health:
            self._on_health(health)

    def _due_now(self, keys: list[Key]) -> None:
        together: dict[str, list[str]] = {}
        for domain, check in keys:
            together.setdefault(domain, []).append(check)
        for domain, checks in together.items():
            self._ask_for(domain, checks, self._schedule.again)

    def _ask_for(self, domain: str, checks: Iterable[str], told: _Told) -> None:
        """Have checks look at a domain, each when an earlier look of its has ended; ``told`` is given the key of each
        and the seconds until its next look."""
        free: list[str] = []
        for check in checks:
            if (waiting := self._turns.get((domain, check))) is not None:
                waiting.append(told)
            else:
                self._turns[domain, check] = deque((told,))
                free.append(check)
        if free:
            self._look(domain, free)

    def _look(self, domain: str, checks: list[str]) -> None:
        """Of the looks that are to begin at once, one begins in each turn of the loop: it takes a few milliseconds."""
        if not self._beginning:
            asyncio.get_running_loop().call_soon(self._begin)
        self._beginning.append((domain, checks))

    def _begin(self) -> None:
        """A look of some checks at once: they share what they are told, and their limit."""
        if not self._beginning:  # given up meanwhile
            return
        domain, checks = self._beginning.popleft()
        if self._beginning:
            asyncio.get_running_loop().call_soon(self._begin)
        subject = self._discoveries.known(self._subjects[domain], self._clock())
        answers = self._view(domain)
        ended = functools.partial(self._found, subject, answers)
        plans: dict[str, Plan] = {}
        for check in checks:
            try:
                plans[check] = self._checks[check].plan(subject)
            except Exception as error:
                ended(check, error)
        self._looking.add(Together(answers, plans, ended, limit=self._limit))

    def _found(
        self, subject: Subject, answers: DomainAnswers, check: str, got: tuple[Finding, ...] | Exception
    ) -> None:
        if not isinstance(got, Exception) and self._belief.at_once(subject.domain, check, got):
            self._publish(subject, check, got)
            return
        weighing = asyncio.get_running_loop().create_task(self._weigh(subject, answers, check, got))
        self._weighing.add(weighing)
        weighing.add_done_callback(self._weighing.discard)

    async def _weigh(
        self, subject: Subject, answers: DomainAnswers, check: str, got: tuple[Finding, ...] | Exception
    ) -> None:
        try:
            if isinstance(got, Exception):
                raise got
            findings = await self._belief.weighed(answers, subject, check, self._checks[check], got)
        except Exception as error:
            log.error("dns_check_crashed", domain=subject.domain, check=check, error=type(error).__name__)
            findings = self._crashed(subject.domain, check)
        self._publish(subject, check, findings)

    def _publish(self, subject: Subject, check: str, findings: tuple[Finding, ...]) -> None:
        """These are believed, and its next look is due in time."""
        domain = subject.domain
        key = domain, check
        now = self._clock()
        if check == "dkim":
            self._discoveries.note(subject, findings, now)
        try:
            gone = self.published.publish(domain, check, findings, now)
        except Exception as error:  # whoever is told of changes must not end the watch
            log.error("dns_finding_not_told", domain=domain, check=check, error=type(error).__name__)
            gone = frozenset()
        self._belief.settled(domain, check, findings, gone)
        self._looked.add(key)
        if len(self._looked) == len(self._subjects) * len(self._checks):
            self._looked.clear()
            self._last_round_at = now
        self._end_turn(key, self._aligned(domain, self._next(key, findings)))

    def _end_turn(self, key: Key, delay: float) -> None:
        if (waiting := self._turns.get(key)) is None:  # given up meanwhile
            return
        told = waiting.popleft()
        if waiting:
            self._look(key[0], [key[1]])
        else:
            del self._turns[key]
        told(key, delay)

    def _stop(self) -> None:
        """Give up all looks; whoever waits for one waits no longer."""
        self._beginning.clear()
        for look in list(self._looking):
            look.close()
        for weighing in list(self._weighing):
            weighing.cancel()
        turns, self._turns = self._turns, {}
        for key, waiting in turns.items():
            for told in waiting:
                told(key, self._interval)

    def _aligned(self, domain: str, delay: float) -> float:
        """Looks at one domain that would fall close together begin at once: what one asks, the others need not."""
        now = asyncio.get_running_loop().time()
        due = self._due.get(domain, 0.0)
        if max(0.9 * delay, self._min_interval) <= due - now <= delay:
            return due - now
        self._due[domain] = now + delay
        return delay

    def _view(self, domain: str) -> DomainAnswers:
        """One for the looks at a domain that begin together."""
        now = asyncio.get_running_loop().time()
        view = self._views.get(domain)
        if view is None or now - view.born > min(_TOGETHER, self._min_interval / 2):
            view = self._views[domain] = DomainAnswers(self._shared, domain, born=now)
        return view

    def _crashed(self, domain: str, check: str) -> tuple[Finding, ...]:
        subjects = sorted(self.published.subjects(domain, check)) or [""]
        detail = "The check itself did not come to an end; its last answer may no longer hold."
        return tuple(
            Finding(check, subject, Verdict.UNKNOWN, "check_failed", detail, "See the log, and report this as a bug.")
            for subject in subjects
        )

    def _next(self, key: Key, findings: tuple[Finding, ...]) -> float:
        # no_selectors is unknown for good: only other settings change it.
        least, lost, missing = 0, False, False
        for f in findings:
            if 0 < f.ttl < (least or f.ttl + 1):
                least = f.ttl
            if f.verdict is Verdict.UNKNOWN:
                lost = lost or f.reason != "no_selectors"
            elif f.verdict is Verdict.FAIL:
                missing = missing or not f.ttl
        if lost:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            base = min(_FIRST_RETRY * 2 ** min(failures - 1, 20), self._interval)
        else:
            self._failures.pop(key, None)
            base = least or self._interval
            if missing:
                base = min(base, max(_NEGATIVE[0], min(self._interval, _NEGATIVE[1])))
            base = max(self._min_interval, min(base, self._interval))
        jitter = self._rng.uniform(0.0, 0.1)
        # Jitter spreads the looks but must never make one late.
        return (
            min(base * (1 + jitter), self._interval) if base < self._interval * 0.9 else self._interval * (1 - jitter)
        )
