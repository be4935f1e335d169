"""What another policy would have alerted on: stored hours judged anew, one after the other, as if each were now.

Whether an alert was worth its noise is told with hindsight. An *episode* is a stretch in which failures rose above the
limit: an excursion of their excess over ``limit * mails`` from its beginning to its highest point (E. S. Page,
Continuous inspection schemes, Biometrika 41, 1954), provided that over the whole stretch the exact lower bound lies
above the limit with ``HINDSIGHT`` confidence: the stretch was chosen among many, so ordinary confidence would find
episodes in chance.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from agent.alerts.catalogue import target_holds
from agent.alerts.incidents import step
from agent.alerts.types import Condition, Incident
from agent.clock import DAY, HOUR
from agent.vitals import bounds
from agent.vitals.late import Days
from agent.vitals.phases import Phase
from agent.vitals.rates import FIELDS, Counts
from agent.vitals.sequence import LEAST_FAILURES, Course
from agent.vitals.types import WINDOWS, Judgement
from agent.vitals.verdicts import Hour, Target, judge, standing, standing_of_days, targets

HINDSIGHT = 0.9999
# So long after its end an episode still fills the shortest window that is judged.
_LINGERS = DAY


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What of the settings decides which rates become alerts. ``domains`` gives each domain its phase; times are
    seconds."""

    domains: Mapping[str, Phase]
    phases: Mapping[str, Phase]
    bounce_classes: tuple[str, ...]
    stale_after: float
    quiet_period: float


class Episode(msgspec.Struct, frozen=True):
    """A stretch that was beyond the limit, told afterwards: from ``begins`` to ``ends`` (Unix seconds), with its
    failures among so many mails."""

    begins: int
    ends: int
    failures: int
    mails: int


class Alert(msgspec.Struct, frozen=True):
    """One alert that the policy would have raised. ``ended_at`` is 0 while it would still be open. ``episode`` is the
    one it told of, ``None`` if hindsight knows none; ``again`` says that an earlier alert had told of it already.
    ``delay`` (seconds) and ``mails`` are from the beginning of the episode to the alert."""

    domain: str
    target: str
    starts_at: int
    ended_at: int
    reason: str
    episode: Episode | None = None
    again: bool = False
    delay: int = 0
    mails: int = 0


class Missed(msgspec.Struct, frozen=True):
    """An episode that no alert told of."""

    domain: str
    target: str
    episode: Episode


class Result(msgspec.Struct, frozen=True):
    """What a policy would have done between ``since`` and ``until`` (Unix seconds)."""

    since: int
    until: int
    alerts: tuple[Alert, ...]
    missed: tuple[Missed, ...]

    @property
    def noise(self) -> int:
        """Alerts without an episode."""
        return sum(alert.episode is None for alert in self.alerts)

    @property
    def delays(self) -> list[tuple[int, int]]:
        """Seconds and mails that the first alert of each episode came after its beginning, shortest first."""
        return sorted((a.delay, a.mails) for a in self.alerts if a.episode and not a.again)


def replay(
    history: Mapping[str, Sequence[Hour]],
    policy: Policy,
    since: int,
    until: int,
    on_step: Callable[[int], None] = lambda done: None,
) -> Result:
    """Judge every full hour between ``since`` and ``until`` (Unix seconds) as the agent would have at its end.

    ``history`` has each domain's hours, in any order, those of the 30 days before ``since`` too where there are any;
    domains without a phase are left out. ``on_step`` is told how many (domain, hour) pairs are done. An agent judges
    every few seconds: its alerts come up to an hour earlier. Cost: some 50 microseconds for each hour and
    target.
    """
    alerts: list[Alert] = []
    missed: list[Missed] = []
    done = 0
    for domain, phase in policy.domains.items():
        hours = sorted(history.get(domain, ()), key=lambda hour: hour[0])
        raised: list[Alert] = []
        for alert in _alerts(domain, hours, policy, since, until):
            if alert is None:
                done += 1
                on_step(done)
            else:
                raised.append(alert)
        for target in _targets(phase, policy, 0.0):
            mine = [alert for alert in raised if alert.target == target.name]
            told, untold = _hindsight(mine, hours, target, since, until)
            alerts += told
            missed += (Missed(domain, target.name, episode) for episode in untold)
    return Result(since, until, tuple(sorted(alerts, key=lambda a: (a.starts_at, a.domain, a.target))), tuple(missed))


def _targets(phase: Phase, policy: Policy, last_event_at: float) -> list[Target]:
    return [
        target
        for target in targets(
            phase, last_event_at=last_event_at, stale_after=policy.stale_after, bounce_classes=policy.bounce_classes,
            phases=policy.phases,
        )
        if target.name != "capacity"
    ]  # fmt: skip


def _alerts(domain: str, hours: Sequence[Hour], policy: Policy, since: int, until: int) -> Iterator[Alert | None]:
    """The alerts of one domain as they end, and ``None`` after each hour."""
    incidents: dict[str, Incident] = {}
    reasons: dict[str, str] = {}
    coming = iter(hours)
    ahead = next(coming, None)
    told = [Told(target) for target in _targets(policy.domains[domain], policy, 0.0)]
    last = 0
    for now in range(since - since % HOUR + HOUR, until + 1, HOUR):
        while ahead is not None and ahead[0] < now:
            start, counts = ahead
            if any(msgspec.structs.astuple(counts)):
                last = start + HOUR
            for one in told:
                one.take(start, counts)
            ahead = next(coming, None)
        seen = []
        for one in told:
            judgement = one.judgement(now, float(last))
            labels = {"domain": domain, "target": judgement.target}
            seen.append(Condition(labels, target_holds(judgement), {"summary": judgement.reason}))
        before = incidents
        incidents = step(before, seen, float(now), policy.quiet_period)
        for key, incident in incidents.items():
            if incident.starts_at == now:
                reasons[key] = incident.annotations["summary"]
            if incident.resolved_at == now:
                yield _alert(domain, incident, reasons[key])
        yield None
    for key, incident in incidents.items():
        if not incident.resolved_at:
            yield _alert(domain, incident, reasons[key])


def _alert(domain: str, incident: Incident, reason: str) -> Alert:
    return Alert(domain, incident.labels["target"], int(incident.starts_at), int(incident.resolved_at), reason)


class Told:
    """One target as its hours come: what ``decide`` makes of all of them, at a cost of its own for each hour."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._course = Course(target.share(target.breach))
        self._days = Days()
        self._windows = {window: (deque[Hour](), [0] * len(FIELDS)) for window in target.windows}

    def take(self, start: int, counts: Counts) -> None:
        failures, trials = self._target.of(counts)
        self._course.take(start, failures, trials, self._target.memory)
        self._days.take(start, failures, trials)
        for hours, sums in self._windows.values():
            hours.append((start, counts))
            _add(sums, counts, 1)

    def judgement(self, now: int, last_event_at: float) -> Judgement:
        target = msgspec.structs.replace(self._target, last_event_at=last_event_at)
        totals = {}
        for window, (hours, sums) in self._windows.items():
            while hours and hours[0][0] <= now - WINDOWS[window] - HOUR:
                _add(sums, hours.popleft()[1], -1)
            totals[window] = Counts(*sums)
        if target.name == "complaint":
            self._days.keep(now - target.memory - DAY)
            stands = standing_of_days(self._days, target, float(now))
        else:
            stands = standing(self._course, target, float(now))
        return judge(target, totals, stands, float(now))


def _add(sums: list[int], counts: Counts, sign: int) -> None:
    for i, n in enumerate(msgspec.structs.astuple(counts)):
        sums[i] += sign * n


def episodes(hours: Sequence[Hour], target: Target) -> list[Episode]:
    """The stretches of ``hours`` (in order of time) that were beyond the target, told afterwards."""
    limit = target.share(target.breach)
    found = []
    excess = highest = 0.0
    now = best = _NOTHING
    for start, counts in hours:
        failures, mails = target.of(counts)
        if excess and _is_over(best, now, limit):
            found.append(best)
            excess = 0.0
        if excess == 0.0:
            now, best, highest = Episode(start, start, 0, 0), _NOTHING, 0.0
        excess = max(0.0, excess + failures - limit * mails)
        now = Episode(now.begins, start + HOUR, now.failures + failures, now.mails + mails)
        if excess > highest:
            highest, best = excess, now
        elif excess == 0.0:
            found.append(best)
    found.append(best)
    return [episode for episode in found if _proven(episode, limit)]


_NOTHING = Episode(0, 0, 0, 0)


def _is_over(best: Episode, now: Episode, limit: float) -> bool:
    """Whether what came after the highest point is within the limit as surely as an alert must be sure."""
    failures, mails = now.failures - best.failures, now.mails - best.mails
    return 0 <= failures <= mails and mails > 0 and bounds.upper(failures, mails, bounds.BREACH) < limit


def _proven(episode: Episode, limit: float) -> bool:
    # Complaints are of older mail and may outnumber what was delivered meanwhile.
    mails = max(episode.mails, episode.failures)
    return episode.failures >= LEAST_FAILURES and bounds.lower(episode.failures, mails, HINDSIGHT) > limit


def _hindsight(
    raised: Sequence[Alert], hours: Sequence[Hour], target: Target, since: int, until: int
) -> tuple[list[Alert], list[Episode]]:
    """The alerts with the episodes they told of, and the episodes that none told of."""
    inside = [e for e in episodes(hours, target) if since <= e.ends and e.begins < until]
    told: dict[Episode, Alert] = {}
    result = []
    for alert in sorted(raised, key=lambda a: a.starts_at):
        own = [
            e for e in inside
            if e.begins < (alert.ended_at or until + 1) and alert.starts_at <= e.ends + _LINGERS
        ]  # fmt: skip
        if not own:
            result.append(alert)
            continue
        first = next((e for e in own if e not in told), own[0])
        mails = sum(target.of(counts)[1] for start, counts in hours if first.begins <= start < alert.starts_at)
        delay = max(0, alert.starts_at - first.begins)
        known = first in told
        result.append(
            msgspec.structs.replace(
                alert, episode=first, again=known, delay=0 if known else delay, mails=0 if known else mails
            )
        )
        for episode in own:
            told.setdefault(episode, alert)
    return result, [e for e in inside if e not in told]
