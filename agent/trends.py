"""The slow look at each domain: its last 30 days by the hour, and its days, read and thought over every few minutes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import structlog

from agent.alerts.clues import BLOCKLIST
from agent.alerts.types import Incident
from agent.clock import DAY, HOUR
from agent.dns.checks.base import Watched
from agent.ledger.base import Ledger, StoreUnavailable
from agent.vitals.gate import Check, PhaseGate, Proven, gate
from agent.vitals.phases import Phase
from agent.vitals.shifts import Shift
from agent.vitals.trends import DomainTrends, Memory, Plan, domain_trends
from agent.vitals.types import DomainVitals, Snapshot, TargetVerdict
from agent.vitals.verdicts import STALE_AFTER, targets

EVERY = 300.0  # seconds between two looks at the same domain, at least
SOON = 30.0  # seconds, where a breach is not explained yet
PAUSE = 1.0  # seconds between two rounds
# Of the time a look takes, so much more is waited: a thousand domains must not keep a core busy.
REST = 9.0
STEP = 5 * DAY  # seconds of hours read at a time: what comes at once is decoded at once, and nothing else runs then
DAYS = 62  # of history that a forecast rests on

log = structlog.get_logger()


class TrendWatch:
    """What is known of the configured domains over time. ``plans`` by domain; ``clock`` gives Unix seconds, ``doubt``
    why it is not to be believed, ``""`` if it is; ``snapshot`` is the newest evaluation, if there was one."""

    def __init__(
        self,
        ledger: Ledger,
        plans: Mapping[str, Plan],
        phases: Mapping[str, Phase],
        bounce_classes: tuple[str, ...],
        *,
        clock: Callable[[], float],
        doubt: Callable[[], str],
        snapshot: Callable[[], Snapshot | None],
        stale_after: float = STALE_AFTER,
    ) -> None:
        self._ledger, self._plans, self._phases, self._classes = ledger, plans, phases, bounce_classes
        self._clock, self._doubt, self._snapshot = clock, doubt, snapshot
        self._stale_after = stale_after
        self._memory: dict[str, Memory] = {domain: {} for domain in plans}
        self._seen: dict[str, tuple[object, ...]] = {}
        self._looked_at: dict[str, float] = {}
        self._proven: dict[str, Proven] = {}
        self.trends: dict[str, DomainTrends] = {}
        self.gates: dict[str, PhaseGate] = {}

    async def run(self) -> None:
        """Look at one domain after the other, for ever."""
        failing = False
        while True:
            began = time.monotonic()
            unexplained = self._unexplained()
            due = [
                d
                for d in sorted(self._plans, key=lambda domain: domain not in unexplained)
                if began - self._looked_at.get(d, float("-inf")) >= (SOON if d in unexplained else EVERY)
            ]
            for domain in due if not self._doubt() and self._snapshot() else ():
                began = time.monotonic()
                try:
                    await self.look(domain)
                except StoreUnavailable as e:
                    # What was known stays; it carries its age.
                    if not failing:
                        log.warning("trends.not_read", error=str(e))
                    failing = True
                    break
                failing = False
                self._looked_at[domain] = time.monotonic()
                await asyncio.sleep(REST * (time.monotonic() - began))
            await asyncio.sleep(PAUSE)

    def _unexplained(self) -> set[str]:
        """The domains with a breach that came after the last look: whoever is told of it wants to know where."""
        snapshot = self._snapshot()
        found = set()
        for domain, vitals in snapshot.domains.items() if snapshot else ():
            told = {e.target for e in self.trends[domain].explained} if domain in self.trends else set()
            if any(j.verdict is TargetVerdict.BREACHED and j.target not in told for j in vitals.judgements):
                found.add(domain)
        return found

    def explained(self) -> dict[tuple[str, str], str]:
        """By domain and target: a sentence on which part of the mail makes a breach, where there is one to tell."""
        return {
            (domain, found.target): found.sentence
            for domain, trends in self.trends.items()
            for found in trends.explained
            if found.sentence
        }

    async def look(self, domain: str) -> None:
        """Look at one domain, unless nothing has changed since. Raises ``StoreUnavailable``."""
        now, snapshot = self._clock(), self._snapshot()
        vitals = snapshot.domains.get(domain) if snapshot else None
        breached = [j.target for j in vitals.judgements if j.verdict is TargetVerdict.BREACHED] if vitals else []
        seen = (now // HOUR, vitals.last_event_at, vitals.rates.get("30d"), breached) if vitals else (now // HOUR,)
        if self._seen.get(domain) == seen:
            return
        plan = self._plans[domain]
        depth = max(DAYS, plan.phase.sustained_days + 32) * DAY
        hours = []
        for begin in range(0, 30 * DAY + HOUR, STEP):
            since = now - 30 * DAY - HOUR + begin
            hours += await self._ledger.rows(HOUR, since, min(since + STEP, now), domains=(domain,))
        days = await self._ledger.rows(DAY, now - depth, now, domains=(domain,))
        self.trends[domain], self._proven[domain] = await asyncio.to_thread(
            domain_trends,
            hours,
            days,
            plan,
            now,
            self._memory[domain],
            bounce_classes=self._classes,
            held=targets(
                plan.phase,
                last_event_at=vitals.last_event_at if vitals else 0.0,
                stale_after=self._stale_after,
                bounce_classes=self._classes,
                phases=self._phases,
            ),
            judgements=vitals.judgements if vitals else (),
        )
        self._seen[domain] = seen

    def shifts(self, domain: str) -> tuple[Shift, ...]:
        """Those of a domain's rates and volume within 30 days, oldest first, as last worked out."""
        trends = self.trends.get(domain)
        return trends.shifts if trends else ()

    def judge(self, findings: Iterable[Watched], incidents: Iterable[Incident]) -> None:
        """Hold all that is known now against the gate of each configured domain. Takes some 50 microseconds each; may
        be called in a thread."""
        now, snapshot = self._clock(), self._snapshot()
        checks: dict[str, list[Check]] = {}
        listed: dict[str, list[Check]] = {}
        for watched in findings:
            finding = watched.finding
            found = listed if finding.check == BLOCKLIST else checks
            name = finding.subject if finding.check == BLOCKLIST else f"{finding.check} {finding.subject}".strip()
            found.setdefault(watched.domain, []).append(Check(name, finding.verdict.value))
        live: dict[str, list[str]] = {}
        for incident in incidents:
            if not incident.resolved_at:
                summary = incident.annotations.get("summary") or incident.labels.get("alertname", "")
                live.setdefault(incident.labels.get("domain", ""), []).append(summary)
        self.gates = {
            domain: self._gate(
                domain,
                snapshot.domains.get(domain) if snapshot else None,
                now,
                checks=checks.get(domain, ()),
                blocklists=listed.get(domain, ()),
                incidents=live.get(domain, ()),
            )
            for domain in self._plans
        }

    def _gate(self, domain: str, vitals: DomainVitals | None, now: float, **known: Sequence[Any]) -> PhaseGate:
        plan, trends = self._plans[domain], self.trends.get(domain)
        return gate(
            domain,
            plan.phase,
            self._phases,
            now,
            self._proven.get(domain),
            judgements=vitals.judgements if vitals else (),
            forecasts=trends.forecasts if trends else (),
            phase_since=plan.since,
            **known,
        )
