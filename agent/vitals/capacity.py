"""Volume against the capacity of a phase: a notice, never a breach."""

from __future__ import annotations

from collections.abc import Sequence

from agent.vitals.types import Judgement, TargetVerdict

Span = tuple[int | None, int | None]
"""(least, most) attempted messages in 30 days, ``None`` where there is no such end."""


def judge_capacity(
    volume: int, phase: str, capacity: Span, ladder: Sequence[tuple[str, Span]], silent_hours: float
) -> Judgement:
    """Hold the messages of the trailing 30 days against the capacity of ``phase``. Sending less or more than planned is
    no breach of anything. ``ladder`` names the capacities of all phases, smallest first; ``silent_hours`` is how long
    the domain has been stale, 0 if it is not."""
    least, most = capacity
    limit = float(most if most is not None and (least is None or volume > most) else least or 0)
    seen = f"{volume:,} attempted in the trailing 30 days"

    def judgement(verdict: TargetVerdict, reason: str) -> Judgement:
        return Judgement("capacity", verdict, limit, "30d", None, f"{seen}: {reason}")

    if silent_hours:
        return judgement(TargetVerdict.STALE, f"no event for {silent_hours:.0f} h")
    if volume == 0:
        return judgement(TargetVerdict.INSUFFICIENT_DATA, "nothing to judge")
    if (least is None or volume >= least) and (most is None or volume <= most):
        return judgement(TargetVerdict.MET, f"within the capacity of {phase} ({_span(capacity)})")
    return judgement(TargetVerdict.UNDECIDED, _between_phases(volume, phase, capacity, ladder or ((phase, capacity),)))


def _span(capacity: Span) -> str:
    least, most = capacity
    if most is None:
        return f"from {least:,}"
    return f"up to {most:,}" if least is None else f"{least:,} to {most:,}"


def _between_phases(volume: int, phase: str, capacity: Span, ladder: Sequence[tuple[str, Span]]) -> str:
    """Where a volume outside the phase's capacity lies, such as: growth outgrown, enterprise not reached."""
    outgrown = [name for name, (_, most) in ladder if most is not None and volume > most]
    not_reached = [name for name, (least, _) in ladder if least is not None and volume < least]
    within = [
        name
        for name, (least, most) in ladder
        if (least is None or volume >= least) and (most is None or volume <= most)
    ]
    parts = [f"{outgrown[-1]} outgrown"] if outgrown else []
    if within:
        parts.append(f"within the capacity of {within[0]}")
    # What lies beyond the next phase is of no interest yet, unless it is the domain's own.
    if phase in not_reached:
        parts.append(f"{phase} not reached")
    elif not_reached and not within:
        parts.append(f"{not_reached[0]} not reached")
    return f"{', '.join(parts)} ({phase} is {_span(capacity)})"
