"""Whether a source that has gone quiet should have spoken by now, judged by its own weekly rhythm.

Time is cut into intervals of five minutes, and an interval has been spoken in or not: how many events came in it plays
no part, since events come in batches. For each hour of the week (UTC) the share of intervals spoken in is taken from
each of the last four weeks, and of these shares the lower median: one campaign, or one week's holiday, moves it little.
A share needs two weeks, so that nothing is expected before 14 days of history. The evidence of a silence is the sum of
the shares over its intervals, those left out in which the agent itself could not listen.

If intervals were independent, a silence with evidence E had the probability prod(1 - p) <= exp(-E): at ``EVIDENCE`` =
20, 2e-9. A year has 105,120 intervals after which a silence can begin, so that is 2e-4 false alarms a year and source;
and if intervals spoke in clumps of two (exp(-10)), at most five. For sources that do worse than that, their own past
counts too: a silence must exceed by half the second longest of the last 28 days, measured in the same way. The longest
is left out, since it may have been an outage, and one outage must not make the next go unnoticed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from agent.clock import HOUR, WEEK

INTERVAL = 300
WEEKS = 4
EVIDENCE = 20.0
SHORTEST = 3600.0  # seconds: nothing is missing sooner, nor sooner after the agent's own start
_BEYOND_USUAL = 1.5
_HEARD = HOUR / 2  # seconds of an hour that the agent must have listened for the hour to tell anything


class Spoken(msgspec.Struct, frozen=True, array_like=True):
    """What a source said in one hour: events, and intervals with any."""

    events: int
    intervals: int


class Silence(msgspec.Struct, frozen=True):
    """A source's present silence. ``since`` is Unix seconds; ``events`` and ``intervals`` are the least that were
    usual for the time since then; ``needed`` is the number of intervals from which on it is ``missing``."""

    since: float
    events: float
    intervals: float
    needed: float
    missing: bool


def silence(
    spoken: Mapping[int, Spoken], listened: Mapping[int, float], since: float, started_at: float, now: float
) -> Silence | None:
    """What to think of a source that was last heard at ``since``; ``None`` where its history lets nothing be expected.

    ``spoken`` and ``listened`` (seconds the agent could hear it) are by the hour's beginning, 28 days of them; hours
    that are not there were silent, and not listened in. ``started_at`` is the agent's own start. All times are Unix
    seconds.
    """
    last = _hour(since)
    usual = _usual(spoken, listened, last)
    if since <= 0 or not usual:
        return None
    events = intervals = 0.0
    # Beyond the length of the history the fixed limit has spoken long ago.
    for hour in range(last, min(_hour(now), last + WEEKS * WEEK) + 1, HOUR):
        seconds = min(now, hour + HOUR) - max(since, hour)
        # Of the hour it was last heard in, what was listened before that counts as long as it can have been.
        seconds = max(0.0, min(seconds, listened.get(hour, 0.0) - max(0.0, since - hour)))
        per_second, share = usual.get(hour % WEEK, (0.0, 0.0))
        events += per_second * seconds
        intervals += share * seconds / INTERVAL
    longest = sorted(_past(spoken, listened, usual, last))
    needed = max(EVIDENCE, _BEYOND_USUAL * longest[-2] if len(longest) > 1 else 0.0)
    missing = intervals >= needed and now - since >= SHORTEST and now - started_at >= SHORTEST
    return Silence(since, events, intervals, needed, missing)


def _hour(at: float) -> int:
    return int(at // HOUR) * HOUR


def _usual(spoken: Mapping[int, Spoken], listened: Mapping[int, float], until: int) -> dict[int, tuple[float, float]]:
    """By hour of the week, where anything is usual: events a second, and the share of intervals spoken in."""
    by_slot: dict[int, list[tuple[float, float]]] = {}
    for hour in range(until - WEEKS * WEEK, until, HOUR):
        seconds = listened.get(hour, 0.0)
        if seconds >= _HEARD:
            said = spoken.get(hour, _NOTHING)
            share = min(1.0, said.intervals * INTERVAL / seconds)
            by_slot.setdefault(hour % WEEK, []).append((said.events / seconds, share))
    usual = {}
    for slot, weeks in by_slot.items():
        middle = (len(weeks) - 1) // 2
        lower = sorted(each for each, _ in weeks)[middle], sorted(share for _, share in weeks)[middle]
        if len(weeks) > 1 and lower[1] > 0:
            usual[slot] = lower
    return usual


_NOTHING = Spoken(0, 0)


def _past(
    spoken: Mapping[int, Spoken], listened: Mapping[int, float], usual: Mapping[int, tuple[float, float]], until: int
) -> Iterator[float]:
    """The evidence of each past silence of an hour or more, the silent part of the hours around it included."""
    run = before = 0.0
    silent = False
    for hour in range(until - WEEKS * WEEK, until, HOUR):
        share = usual.get(hour % WEEK, (0.0, 0.0))[1]
        seconds = listened.get(hour, 0.0)
        said = spoken.get(hour, _NOTHING)
        quiet = share * max(0.0, seconds / INTERVAL - said.intervals)
        if not said.intervals:
            run, silent = (run if silent else before) + quiet, True
        elif silent:
            yield run + quiet
            silent = False
        before = quiet
