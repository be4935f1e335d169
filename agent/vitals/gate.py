"""Whether a domain is ready for the next phase: every condition with its evidence, and the earliest day it can be.

Unknown is neither passed nor failed: a gate with something blocking is ``not_yet``, one without, but with something
unknown, ``cannot_tell``. A condition that is met as soon as somebody mends it has today as its earliest day.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from agent.clock import DAY, WEEK
from agent.vitals.forecast import Forecast
from agent.vitals.phases import Phase
from agent.vitals.proof import STRETCH, TARGETS, Proof, Standing, Table, limits, prove, standing
from agent.vitals.rates import COUNTED_CLASSES, Counts, total
from agent.vitals.types import Judgement, TargetVerdict

LARGE_SHARE = 0.1
"""A mailbox provider that takes this share of the last 30 days' mail is large: it must be within the targets itself."""
NOT_PROVIDERS = ("other", "unresolved")
WINDOW_DAYS = 30


class ItemState(StrEnum):
    PASSED = "passed"
    BLOCKING = "blocking"
    UNKNOWN = "unknown"


class GateState(StrEnum):
    READY = "ready"
    NOT_YET = "not_yet"
    CANNOT_TELL = "cannot_tell"


class Item(msgspec.Struct, frozen=True):
    """One condition. ``evidence`` is a sentence with the numbers; ``earliest`` the beginning (Unix time) of the first
    day on which it can be passed, today where it is or could be at once, ``None`` where no date can be given."""

    name: str
    state: ItemState
    evidence: str
    earliest: float | None


class PhaseGate(msgspec.Struct, frozen=True):
    """Whether ``domain`` is ready to leave ``phase`` for ``next_phase`` (``""`` after the last one: then, whether it
    holds the phase it is in). ``earliest`` is Unix time, ``None`` where no date can be given. ``weeks`` is the time in
    the phase, ``None`` if its beginning is not known."""

    domain: str
    phase: str
    next_phase: str
    state: GateState
    earliest: float | None
    items: tuple[Item, ...]
    weeks: float | None


class Check(msgspec.Struct, frozen=True):
    """What a DNS check or a blocklist says: ``verdict`` is ``ok``, ``warn``, ``fail`` or ``unknown``."""

    name: str
    verdict: str


class Proven(msgspec.Struct, frozen=True):
    """What the daily roll-ups prove of a domain: days within each target, the large mailbox providers, and volume."""

    proofs: tuple[Proof, ...]
    mailbox_providers: Item
    volume: int
    capacity_at: float | None


def proven(
    days: Mapping[int, Counts],
    mailbox_providers: Mapping[str, Mapping[int, Counts]],
    phase: Phase,
    now: float,
    *,
    capacity_at: float | None = None,
    bounce_classes: Collection[str] = COUNTED_CLASSES,
) -> Proven:
    """What changes with the days only, and may be kept for minutes. ``days`` as for ``proof.prove``, in all and by
    mailbox provider; ``capacity_at`` is when the phase's least volume is expected to be reached, if it is."""
    today = _midnight(now)
    proofs = tuple(prove(days, phase, target, today, bounce_classes) for target in TARGETS)
    volume = sum(c.attempted for day, c in days.items() if today - WINDOW_DAYS * DAY <= day < today)
    return Proven(proofs, _providers(mailbox_providers, volume, phase, today, bounce_classes), volume, capacity_at)


def gate(
    domain: str,
    phase: Phase,
    phases: Mapping[str, Phase],
    now: float,
    evidence: Proven | None,
    *,
    judgements: Iterable[Judgement] = (),
    checks: Sequence[Check] = (),
    blocklists: Sequence[Check] = (),
    incidents: Sequence[str] = (),
    forecasts: Iterable[Forecast] = (),
    phase_since: float | None = None,
) -> PhaseGate:
    """Everything that is asked of a domain before its next phase, held against what is known at ``now`` (Unix seconds).

    ``evidence`` is ``None`` until the roll-ups were read. ``incidents`` are the summaries of those that are open,
    ``phase_since`` is Unix time, ``None`` if not known. ``phases`` are in their order.
    """
    now = _midnight(now)  # Nothing here is told in less than days.
    order = list(phases)
    after = order[order.index(phase.name) + 1 :] if phase.name in order else []
    next_phase = phases[after[0]] if after else None
    now_of = {judgement.target: judgement for judgement in judgements}
    items = [
        *(_target(proof, now_of.get(proof.target), now) for proof in (evidence.proofs if evidence else ())),
        evidence.mailbox_providers if evidence else _unread("mailbox_providers", now),
        _capacity(evidence, phase, phases, now_of.get("capacity"), now),
        *_headroom(forecasts, next_phase, now),
        _findings("dns", "DNS check", checks, now, "no DNS check has come to a finding yet"),
        _findings("blocklists", "blocklist", blocklists, now, "no blocklist is asked: `blocklists` names none"),
        _incidents(incidents, now),
        _duration(phase, phase_since, now),
    ]
    if evidence is None:
        items[:0] = [_unread(target, now) for target in TARGETS]
    states = {item.state for item in items}
    state = GateState.READY
    if ItemState.BLOCKING in states:
        state = GateState.NOT_YET
    elif ItemState.UNKNOWN in states:
        state = GateState.CANNOT_TELL
    dates = [item.earliest for item in items]
    earliest = None if None in dates else max(d for d in dates if d is not None)
    weeks = None if phase_since is None else max(0.0, now - phase_since) / WEEK
    name = next_phase.name if next_phase else ""
    return PhaseGate(domain, phase.name, name, state, earliest, tuple(items), weeks)


def _unread(name: str, now: float) -> Item:
    return Item(name, ItemState.UNKNOWN, "the daily counts have not been read yet", now)


def _target(proof: Proof, judgement: Judgement | None, now: float) -> Item:
    met = _percent(proof.limit)
    seen = f"{proof.failures:,} of {proof.trials:,} failed" if proof.target != "complaint" else (
        f"{proof.failures:,} complaints of {proof.trials:,}"
    )  # fmt: skip
    seen += " yesterday" if proof.stretch == 1 else f" in {proof.stretch} days"
    if judgement is not None and judgement.verdict is TargetVerdict.STALE:
        return Item(proof.target, ItemState.UNKNOWN, judgement.reason, proof.earliest)
    if judgement is not None and judgement.verdict is TargetVerdict.BREACHED:
        # Today's mail has broken what was proven until yesterday: the days begin anew, tomorrow at the earliest.
        earliest = None if proof.earliest is None else max(proof.earliest, now + (1 + proof.needed) * DAY)
        return Item(proof.target, ItemState.BLOCKING, f"breached now: {judgement.reason}", earliest)
    if proof.days >= proof.needed:
        return Item(proof.target, ItemState.PASSED, f"{proof.needed} days below {met} are proven; {seen}", now)
    if proof.days:
        words = f"day {proof.days} of {proof.needed} proven below {met}; {seen}"
        return Item(proof.target, ItemState.BLOCKING, words, proof.earliest)
    if proof.standing is Standing.BEYOND:
        return Item(proof.target, ItemState.BLOCKING, f"{seen}: above {met}, surely", proof.earliest)
    if proof.standing is Standing.UNDECIDED:
        return Item(proof.target, ItemState.UNKNOWN, f"{seen}: on neither side of {met} for sure", proof.earliest)
    words = f"{seen}: too few to prove below {met}, even without a failure"
    if proof.earliest is None:
        words += ", and so it stays at this volume"
    return Item(proof.target, ItemState.UNKNOWN, words, proof.earliest)


def _providers(
    days: Mapping[str, Mapping[int, Counts]], volume: int, phase: Phase, today: float, bounce_classes: Collection[str]
) -> Item:
    """The large mailbox providers, each over 30 days; the last seven alone must not be beyond. Of complaints, which
    some of them never report, only what is beyond counts."""
    name = "mailbox_providers"
    sizes = {
        provider: total(c for day, c in own.items() if today - WINDOW_DAYS * DAY <= day < today).attempted
        for provider, own in days.items()
        if provider and provider not in NOT_PROVIDERS
    }
    large = sorted((p for p, n in sizes.items() if n and n >= LARGE_SHARE * volume), key=lambda p: -sizes[p])
    share = f"{LARGE_SHARE:.0%} of the mail"
    if not volume:
        return Item(name, ItemState.UNKNOWN, f"no mail in {WINDOW_DAYS} days", None)
    if not large:
        return Item(name, ItemState.PASSED, f"no mailbox provider takes {share}", today)
    worst, words, earliest = ItemState.PASSED, [], today
    dateless = False
    for provider in large:
        for target in TARGETS:
            met, breach = limits(phase, target)
            table = Table(days[provider], target, int(today), WINDOW_DAYS, bounce_classes)
            failures, trials, stretch = table.sums(1, STRETCH["bounce"])
            found = standing(failures, trials, met, breach)
            if found is not Standing.BEYOND:
                failures, trials, stretch = table.sums(1, WINDOW_DAYS)
                found = standing(failures, trials, met, breach)
            if found is Standing.WITHIN or (target == "complaint" and found is not Standing.BEYOND):
                continue
            how = {Standing.BEYOND: "above", Standing.UNDECIDED: "not surely below"}.get(
                found, "too few to prove below"
            )
            words.append(f"{provider}: {target} {failures:,} of {trials:,} in {stretch} days, {how} {_percent(met)}")
            worst = ItemState.BLOCKING if ItemState.BLOCKING in (worst, _as_state(found)) else ItemState.UNKNOWN
            ahead = table.clean_days(WINDOW_DAYS, breach if target == "complaint" else met)
            dateless = dateless or ahead is None
            earliest = max(earliest, today + (ahead or 0) * DAY)
    if not words:
        all_of = f"each that takes {share} is within the targets over {WINDOW_DAYS} days: {', '.join(large)}"
        return Item(name, ItemState.PASSED, all_of, today)
    return Item(name, worst, "; ".join(words), None if dateless else earliest)


def _as_state(found: Standing) -> ItemState:
    return ItemState.BLOCKING if found is Standing.BEYOND else ItemState.UNKNOWN


def _capacity(
    evidence: Proven | None, phase: Phase, phases: Mapping[str, Phase], judgement: Judgement | None, now: float
) -> Item:
    name = "capacity"
    least, most = phase.capacity
    if least is None:
        return Item(name, ItemState.PASSED, f"{phase.name} asks for no volume", now)
    if evidence is None:
        return _unread(name, now)
    if judgement is not None and judgement.verdict is TargetVerdict.STALE:
        return Item(name, ItemState.UNKNOWN, judgement.reason, now)
    seen = f"{evidence.volume:,} mails in {WINDOW_DAYS} days"
    if evidence.volume < least:
        if evidence.capacity_at is not None:
            seen += f", {least:,} expected on {_day(evidence.capacity_at)}"
        words = f"{seen}: below the {least:,} of {phase.name}"
        return Item(name, ItemState.BLOCKING, words, evidence.capacity_at)
    if most is not None and evidence.volume > most:
        return Item(name, ItemState.PASSED, f"{seen}: {_beyond(evidence.volume, phase, phases)}", now)
    end = "from {least:,}" if most is None else "{least:,} to {most:,}"
    return Item(name, ItemState.PASSED, f"{seen}: {phase.name} is {end.format(least=least, most=most)}", now)


def _beyond(volume: int, phase: Phase, phases: Mapping[str, Phase]) -> str:
    """Where a volume above the phase lies: 100,000 to 500,000 a month is growth outgrown, enterprise not reached."""
    words = f"{phase.name} outgrown"
    for other in phases.values():
        least, most = other.capacity
        if least is None or other.name == phase.name or (most is not None and volume > most):
            continue
        return f"{words}, {other.name} reached" if volume >= least else f"{words}, {other.name} not reached"
    return words


def _headroom(forecasts: Iterable[Forecast], next_phase: Phase | None, now: float) -> list[Item]:
    """Whether the sending plan has room: now, and for the least that the next phase asks for. Without a plan limit in
    the settings there is nothing to hold anything against."""
    found = next((f for f in forecasts if f.limit == "plan"), None)
    if found is None:
        return []
    name, plan = "headroom", f"the plan includes {found.amount:,} mails a month"
    least = next_phase.capacity[0] if next_phase else None
    if found.reached:
        return [Item(name, ItemState.BLOCKING, f"{plan}, which are used up since {_day(found.at or now)}", now)]
    if least is not None and next_phase and found.amount < least:
        return [Item(name, ItemState.BLOCKING, f"{plan}: fewer than the {least:,} of {next_phase.name}", now)]
    if found.at is not None and found.at - now < WINDOW_DAYS * DAY:
        return [Item(name, ItemState.BLOCKING, f"{plan}, which is expected to be used up on {_day(found.at)}", now)]
    return [Item(name, ItemState.PASSED, f"{plan}, enough for the next {WINDOW_DAYS} days", now)]


def _findings(name: str, what: str, checks: Sequence[Check], now: float, none: str) -> Item:
    if not checks:
        return Item(name, ItemState.UNKNOWN, none, now)
    by = {v: [c.name for c in checks if c.verdict == v] for v in ("fail", "unknown", "warn")}
    if by["fail"]:
        return Item(name, ItemState.BLOCKING, f"{_count(by['fail'], what)} failed: {_some(by['fail'])}", now)
    if by["unknown"]:
        words = f"{_count(by['unknown'], what)} without an answer: {_some(by['unknown'])}"
        return Item(name, ItemState.UNKNOWN, words, now)
    warned = f"; warnings: {_some(by['warn'])}" if by["warn"] else ""
    return Item(name, ItemState.PASSED, f"{_count(checks, what)} without a failure{warned}", now)


def _incidents(incidents: Sequence[str], now: float) -> Item:
    if incidents:
        return Item("incidents", ItemState.BLOCKING, f"{_count(incidents, 'incident')} open: {_some(incidents)}", now)
    return Item("incidents", ItemState.PASSED, "no incident is open", now)


def _duration(phase: Phase, since: float | None, now: float) -> Item:
    least, most = phase.duration_weeks
    plan = f"{least:g} to {most:g} weeks are planned for {phase.name}"
    if since is None:
        return Item("duration", ItemState.UNKNOWN, f"{plan}; when it began is not known: set `phase_since`", now)
    weeks = max(0.0, now - since) / WEEK
    seen = f"{plan}, {weeks:.1f} have passed since {_day(since)}"
    if weeks < least:
        return Item("duration", ItemState.BLOCKING, seen, since + least * WEEK)
    late = f": {weeks - most:.1f} more than planned" if weeks > most else ""
    return Item("duration", ItemState.PASSED, seen + late, now)


def _count(items: Sequence[object], what: str) -> str:
    return f"{len(items):,} {what}{'' if len(items) == 1 else 's'}"


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _midnight(now: float) -> float:
    return float(now // DAY * DAY)


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.4g} %"
