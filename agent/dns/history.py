"""Every change of the records that mail depends on, kept with its time.

A change counts once a second look sees the same: for what is worse, until then, the zone's own servers have to agree.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import msgspec
import structlog

from agent.dns.answer import Outcome, Question
from agent.dns.changes import Change, Direction, describe
from agent.dns.checks.base import Finding, Subject, Verdict, Watched
from agent.dns.dependents import Sender, senders
from agent.dns.follow import follow
from agent.dns.inventory import POLICY, Inventory, RecordSet, behind, harmless, plan
from agent.dns.opinion import Authority
from agent.dns.policy_age import begun, policy_findings
from agent.dns.resolver import Resolver

CHECK = "change"
_KEPT = 1000  # changes
_AGE = 400 * 86400.0  # seconds that a change is kept
_AT_ONCE = 8  # domains looked at at the same time
# Looks in a row that must see the same where no other server can be asked.
_PATIENCE = 3

log = structlog.get_logger(__name__)


class Known(msgspec.Struct, frozen=True):
    """What was last known of a domain's records, by ``RecordSet.key``; ``since`` when each policy among them was first
    seen in its mode."""

    records: Inventory = {}
    since: dict[str, float] = {}


class History:
    """Watches the records of ``subjects``.

    ``interval``, ``confirm_after`` and ``hold`` are seconds: between two looks at a domain, until the second look, and
    how long a change shows as a finding. ``known`` and ``changes`` are those of an earlier run. ``share`` gives the
    part of the last day's mail that a domain, or some of its senders, sent, 0..1, or ``None``. ``authority_port`` is
    that of the zones' own servers.
    """

    def __init__(
        self,
        resolver: Resolver,
        subjects: Sequence[Subject],
        *,
        interval: float = 300.0,
        confirm_after: float = 2.0,
        hold: float = 86400.0,
        clock: Callable[[], float] = time.time,
        share: Callable[[str, Sequence[Sender]], float | None] = lambda domain, of: None,
        known: Mapping[str, Known] | None = None,
        changes: Iterable[Change] = (),
        authority_port: int = 53,
    ) -> None:
        self._resolver = resolver
        self._subjects = list(subjects)
        self._interval = interval
        self._confirm_after = confirm_after
        self._hold = hold
        self._clock = clock
        self._share = share
        self._port = authority_port
        names = {subject.domain for subject in subjects}
        self._known = {domain: one for domain, one in (known or {}).items() if domain in names}
        self._stored = dict(self._known)
        self._changes = sorted(changes, key=lambda change: change.at)[-_KEPT:]
        self._seen: dict[tuple[str, str], tuple[RecordSet, int]] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def unsaved(self) -> dict[str, Known]:
        """What is known of each domain that is not stored as it is: to be stored, then given to ``saved``."""
        return {domain: known for domain, known in self._known.items() if self._stored.get(domain) is not known}

    def saved(self, known: Mapping[str, Known]) -> None:
        """These are stored now."""
        self._stored.update(known)

    def changes(self) -> tuple[Change, ...]:
        """Every change, newest first."""
        return tuple(reversed(self._changes))

    def findings(self, failing: Iterable[tuple[str, str]] = ()) -> tuple[Watched, ...]:
        """What has become weaker within ``hold`` seconds and still is, each record set as a finding of the check
        ``change``: ``fail`` while a weaker record stands that nothing else complains of. ``failing`` are the domains
        and checks that do: one cause, one alarm. They are given two looks' time to say so."""
        now, complaints = self._clock(), set(failing)
        quiet_until = now - 2 * (self._interval + self._confirm_after)
        newest: dict[tuple[str, str], Change] = {}
        for change in self._changes:
            if now - change.at < self._hold:
                newest[change.domain, change.after.key] = change
        weaker = tuple(
            _finding(
                change,
                alarming=change.at <= quiet_until
                and change.after.role != POLICY  # which protects mail to the domain, none that it sends
                and (domain, _check(change)) not in complaints,
                now=now,
            )
            for (domain, _), change in sorted(newest.items())
            if change.direction is Direction.WEAKER
        )
        return (*weaker, *self._of_policies(now, {(w.domain, w.finding.subject) for w in weaker}))

    def _of_policies(self, now: float, said: Collection[tuple[str, str]]) -> Iterator[Watched]:
        changes: dict[str, list[Change]] = {}
        for change in self._changes:
            changes.setdefault(change.domain, []).append(change)
        for domain, known in self._known.items():
            if known.since:
                for finding in policy_findings(
                    domain, known.records, known.since, changes.get(domain, ()), check=CHECK, now=now
                ):
                    if (domain, finding.subject) not in said:
                        yield Watched(domain, finding, now, now, now, finding)

    async def run(self) -> None:
        """Watch until cancelled, the domains spread evenly over each interval."""
        while True:
            began = time.monotonic()
            pause = self._interval / max(1, len(self._subjects))
            async with asyncio.TaskGroup() as group:
                for n, subject in enumerate(self._subjects):
                    await asyncio.sleep(max(0.0, began + n * pause - time.monotonic()))
                    group.create_task(self._guarded(subject))
            self.prune()
            await asyncio.sleep(max(0.0, began + self._interval - time.monotonic()))

    async def _guarded(self, subject: Subject) -> None:
        async with self._slots:
            try:
                await self.look(subject)
            except Exception as error:
                log.error("dns_history_crashed", domain=subject.domain, error=type(error).__name__)

    async def look(self, subject: Subject) -> tuple[Change, ...]:
        """One look at a domain. Returns the changes that it confirmed."""
        domain = subject.domain
        first = await follow(self._resolver, plan(subject))
        known = self._known.get(domain)
        if known is None:
            # Nothing to compare with: what stands there now is where history begins.
            self._known[domain] = Known(first, begun({}, {}, first, self._clock()))
            return ()
        if not (different := _different(known.records, first)):
            return ()
        await asyncio.sleep(self._confirm_after)
        second = await follow(self._resolver, plan(subject), anew=True)
        same = [key for key in different if second.get(key) == first[key]]
        # One for all of them: what it finds out about the zone's servers serves every record.
        authority = Authority(self._resolver, port=self._port)
        try:
            believed = [k for k in same if await self._stands(authority, domain, known.records.get(k), first[k])]
        finally:
            authority.close()
        records, found = dict(known.records), []
        for key in believed:
            self._seen.pop((domain, key), None)
            # A name that was never looked at before, such as a new include's, is no change of its own.
            if (before := records.get(key)) is not None:
                words, direction = describe(before, first[key])
                of = senders(subject, before, first[key])
                share = self._share(domain, of)
                found.append(Change(self._clock(), domain, before, first[key], words, direction, share, of))
            records[key] = first[key]
        # What no record names any more is forgotten, or its return would be compared with a past long gone. What could
        # not be looked up this time still stands in what is known.
        named = behind(records) | behind({**records, **second})
        self._known[domain] = Known(
            {k: r for k, r in records.items() if r.role != "include" or k in named},
            begun(known.records, known.since, records, self._clock()),
        )  # fmt: skip
        for change in found:
            log.info("dns.changed", domain=domain, role=change.after.role, direction=change.direction)
        self._changes = [*self._changes, *found][-_KEPT:]
        return tuple(found)

    async def _stands(self, authority: Authority, domain: str, old: RecordSet | None, new: RecordSet) -> bool:
        """Whether the zone's own server says so; where it cannot be asked, whether it has been so for some looks. A
        page was proved by its certificate, and fetched twice."""
        if new.role == POLICY:
            return True
        answer = await authority.ask(Question(new.name, new.type), 0)
        if answer.outcome.definitive:
            texts = set(map(harmless, answer.records if answer.outcome is Outcome.ANSWER else ()))
            gone = set(old.records if old else ()) - set(new.records)
            return set(new.records) <= texts and not gone & texts
        last, looks = self._seen.get((domain, new.key), (new, 0))
        looks = looks + 1 if last == new else 1
        self._seen[domain, new.key] = new, looks
        return looks >= _PATIENCE

    def prune(self) -> None:
        """Forget what is past its age."""
        oldest = self._clock() - _AGE
        self._changes = [change for change in self._changes if change.at >= oldest]


def _different(known: Inventory, now: Inventory) -> list[str]:
    return [key for key, record in now.items() if known.get(key) != record]


def _check(change: Change) -> str:
    """The check that looks at the record."""
    if change.after.role == "spf" and change.after.name != change.domain:
        return "alignment"
    return "spf" if change.after.role == "include" else change.after.role


def _finding(change: Change, *, alarming: bool, now: float) -> Watched:
    detail = "; ".join(change.words)[:1500] + "."
    if change.share is not None:
        through = ", ".join(dict.fromkeys(s.stream or s.provider for s in change.of))
        who = f"{change.domain} through {through}" if through else change.domain
        detail += f" {who} sent {change.share:.0%} of the mail of the 24 hours before."
    before = " | ".join(change.before.records)[:800] or "no record"
    advice = f"If nobody meant to, publish again what stood at {change.after.name}: {before}"
    verdict = Verdict.FAIL if alarming else Verdict.WARN
    finding = Finding(CHECK, change.after.key, verdict, "weakened", detail, advice, "", change.after.records)
    return Watched(change.domain, finding, now, change.at, now, finding)
