"""Incidents and who is told of them: what conditions make of them, what is kept, what is muted, what is sent."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec
import structlog

from agent.alerts.alertmanager import Notifier
from agent.alerts.bounce_hints import Hints, count_hints
from agent.alerts.budgets import budget_conditions
from agent.alerts.catalogue import Known, conditions
from agent.alerts.causes import Clue
from agent.alerts.clues import BLOCKLIST, onsets, volume_clues
from agent.alerts.incidents import step
from agent.alerts.mutes import MOST, Mute, TooManyMutes, muted_until, read
from agent.alerts.sources import SourceHealth, source_conditions, unheard
from agent.alerts.types import Condition, Incident
from agent.bounce_rules import shipped
from agent.classify import explain_again
from agent.dns.checks.base import Verdict, Watched
from agent.ledger.base import Ledger, RecentBounce
from agent.ledger.documents import Documents
from agent.settings import Settings
from agent.vitals.shifts import Shift
from agent.vitals.types import Snapshot, TargetVerdict

log = structlog.get_logger()
_encode, _incident, _mute = msgspec.json.encode, msgspec.json.Decoder(Incident), msgspec.json.Decoder(Mute)


Decision = tuple[dict[str, Incident], dict[str, Incident]]
"""The incidents before and after."""


class OnCall:
    """Every incident and every mute, of all agents that share ``ledger``. ``clock`` gives Unix seconds; ``clues`` gives
    what findings may explain a breach with at that time, by domain, ``shifts`` those of a domain's rates and volume.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        notifier: Notifier,
        *,
        clock: Callable[[], float],
        clues: Callable[[Sequence[Watched], float], dict[str, list[Clue]]],
        shifts: Callable[[str], Sequence[Shift]],
    ) -> None:
        self._settings, self._notifier, self._ledger = settings, notifier, ledger
        self._clock, self._clues, self._shifts = clock, clues, shifts
        self._phases: dict[str, str] = {d.name: d.phase for d in settings.domains}
        self._stored = Documents(ledger, "incident")
        self._incidents: dict[str, Incident] = {}
        self._news: list[Incident] = []  # what was taken and not told yet
        self._mutes: dict[str, Mute] = {}

    async def load(self) -> None:
        """Take up what is stored. Raises ``StoreUnavailable``."""
        self._incidents = {key: _incident.decode(body) for key, body in (await self._stored.load()).items()}
        self._news = []
        await self.load_mutes()

    async def load_mutes(self) -> None:
        """Take up the mutes that are stored, which any agent may have changed. Raises ``StoreUnavailable``."""
        self._mutes = {key: _mute.decode(body) for key, body in (await self._ledger.load("mute")).items()}

    def decide(
        self,
        now: float,
        snapshot: Snapshot | None,
        *,
        findings: Sequence[Watched],
        sources: Sequence[SourceHealth],
        hints: dict[tuple[str, str], Hints],
        explained: dict[tuple[str, str], str],
    ) -> Decision:
        """What follows at ``now`` from what is known, for ``take``. Changes nothing: for another thread."""
        base, silent_after = self._settings.alerts.runbook_base, self._settings.vitals.stale_after
        of_sources = source_conditions(sources, now, silent_after, base)
        not_heard = unheard(of_sources, sources, snapshot)
        clues = self._clues(findings, now)
        # Of thousands of domains nearly all are well, and say nothing where no incident is open.
        concerned = {
            labels.get("domain") for i in self._incidents.values() for labels in (i.labels, *i.also)
        }  # fmt: skip
        shifts = {
            name: self._shifts(name) for name, vitals in (snapshot.domains.items() if snapshot else ())
            if name in concerned or any(j.verdict is TargetVerdict.BREACHED for j in vitals.judgements)
        }  # fmt: skip
        jumps = {domain: volume_clues(domain, of_domain, now) for domain, of_domain in shifts.items()}
        known = Known(
            clues={
                domain: [*clues.get(domain, ()), *jumps.get(domain, ()), *not_heard.get(domain, ())]
                for domain in {*clues, *jumps, *not_heard}
            },
            onsets=onsets(shifts, self._incidents.values(), now),
            hints=hints,
            explained=explained,
            words=shipped().hints,
            unheard=not_heard.keys(),
        )
        telling = [
            w for w in findings
            if w.finding.verdict is Verdict.FAIL or w.finding.check == BLOCKLIST or w.domain in concerned
        ]  # fmt: skip
        of_targets = conditions(snapshot, telling, self._phases, base, known=known, concerned=concerned)
        return self.follow(of_targets + budget_conditions(snapshot, base, concerned) + of_sources, now)

    def follow(self, found: Iterable[Condition], now: float) -> Decision:
        """What incidents these conditions make of those that there are."""
        before = self._incidents
        return before, step(before, found, now, self._settings.alerts.quiet_period)

    def take(self, decision: Decision) -> None:
        """Have it so, unless other incidents were taken up meanwhile. To be followed by ``save`` and ``tell``."""
        before, after = decision
        if before is not self._incidents:
            return
        self._incidents = after
        self._news = [i for key, i in after.items() if key not in before or before[key].state != i.state]

    def undo(self, decision: Decision) -> None:
        """What was taken could not be kept: whoever leads next decides from what was before."""
        before, after = decision
        if self._incidents is after:
            self._incidents, self._news = before, []

    async def save(self, epoch: int) -> None:
        """Keep what changed, as the leader of ``epoch``. Raises ``StoreUnavailable`` and ``Deposed``."""
        await self._stored.save({key: _encode(incident) for key, incident in self._incidents.items()}, epoch=epoch)

    def tell(self) -> None:
        """Hand to the notifier what is not muted, and log what is new."""
        for incident in self._news:
            log.warning(
                "incident." + incident.state, **incident.labels, summary=incident.annotations.get("summary", "")
            )
        self._news = []
        now, mutes = self._clock(), self._mutes.values()
        self._notifier.update(i for i in self._incidents.values() if not muted_until(i.labels, mutes, now))

    def incidents(self) -> tuple[Incident, ...]:
        """Every incident, the muted ones too."""
        return tuple(self._incidents.values())

    def mutes(self) -> tuple[Mute, ...]:
        """Every mute that lasts."""
        now = self._clock()
        return tuple(mute for mute in self._mutes.values() if now < mute.until)

    async def mute(self, body: bytes) -> Mute:
        """Add the mute that is asked for, or change how long it lasts. Raises ``MuteError``,
        ``TooManyMutes`` and ``StoreUnavailable``."""
        now = self._clock()
        mute = read(body, now)
        await self.load_mutes()
        over: dict[str, bytes | None] = {key: None for key, one in self._mutes.items() if one.until <= now}
        if mute.id not in self._mutes and len(self._mutes) - len(over) >= MOST:
            raise TooManyMutes
        await self._ledger.save("mute", over | {mute.id: _encode(mute)})
        await self.load_mutes()
        self._changed(mute, "incident.muted")
        return mute

    async def unmute(self, mute_id: str) -> None:
        """End a mute before its time. Raises ``KeyError``, ``StoreUnavailable``."""
        await self.load_mutes()
        mute = self._mutes[mute_id]
        await self._ledger.save("mute", {mute_id: None})
        del self._mutes[mute_id]
        self._changed(mute, "incident.unmuted")

    def _changed(self, mute: Mute, what: str) -> None:
        # Who leads has it told, or not, with its next look.
        log.info(what, until=mute.until, why=mute.why, **{f"match_{name}": v for name, v in mute.matchers.items()})


def bounce_hints(
    bounces: Sequence[RecentBounce], since: float, counted: Collection[str]
) -> dict[tuple[str, str], Hints]:
    """By domain and target, what the newest bounces that count for it point to."""
    explained = [(b, explain_again(b.reason, b.smtp_code, b.enhanced_code)) for b in bounces if b.at >= since]
    of_target = {
        "deliverability": [(b.cell.domain, diagnosis) for b, diagnosis in explained],
        "bounce": [(b.cell.domain, diagnosis) for b, diagnosis in explained if b.bounce_class in counted],
    }
    return {
        (domain, target): hints for target, pairs in of_target.items() for domain, hints in count_hints(pairs).items()
    }
