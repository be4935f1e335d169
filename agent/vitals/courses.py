"""What is kept from one evaluation to the next, so that only what changed is worked out again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from agent.clock import DAY, HOUR
from agent.vitals.late import Days
from agent.vitals.rates import Counts, Windows, total
from agent.vitals.sequence import Course
from agent.vitals.types import SCOPES
from agent.vitals.verdicts import Standing, Target, standing, standing_of_days

Cell = tuple[str, str, str, str]
"""(domain, provider, stream, mailbox provider)"""
Values = Mapping[int, Sequence[int]]
"""What was counted in each hour, by its beginning, in the order of ``FIELDS``."""

# Where in a cell each scope's part is named.
_PLACE = {"provider": 1, "stream": 2, "mailbox_provider": 3}
# A course is kept at hours that divide by the second number, as far back as the first (both in hours).
_MARKS = ((2, 1), (36, 12), (31 * 24, 120))


class Memory:
    """The memory of ``evaluate``: about ten kilobytes for each series, one for each window of each part. What it
    answers is what ``decide`` and ``rates`` answer from the same counts, but that a course remembers what is older
    than the hours at hand."""

    def __init__(self) -> None:
        self._shares: dict[str, Shares] = {}
        self._fresh: dict[str, Shares] = {}
        self._seen: dict[str, dict[int, list[int]]] = {}
        self._courses: dict[str, Courses] = {}

    def hours(
        self, fresh: Mapping[str, dict[int, list[int]]], since: float, oldest: float, domains: Iterable[str]
    ) -> Mapping[str, dict[int, list[int]]]:
        """The hours of these domains that began after ``oldest``: those before ``since`` as they were seen last, the
        others as they are in ``fresh``."""
        if not since:
            return fresh
        return {
            domain: {hour: values for hour, values in self._seen.get(domain, {}).items() if oldest < hour < since}
            | fresh.get(domain, {})
            for domain in domains
        }

    def standings(self, domain: str, values: Values, targets: Sequence[Target], now: float) -> list[Standing]:
        """Where each target of a domain stands at ``now``. A round in which nothing changed costs some 50 microseconds
        a domain, a changed hour about 5 microseconds for each hour since the last mark before it."""
        seen = self._seen.get(domain)
        since, newest = 0, max(values, default=0)
        if seen is not None:
            first = min(values, default=0)
            changed = (
                hour for hour in values.keys() | seen.keys() if hour >= first and values.get(hour) != seen.get(hour)
            )
            since = 0 if seen == values else min(changed, default=0)
            since = since or newest + 1
        if seen is None or seen != values:
            self._seen[domain] = {hour: list(each) for hour, each in values.items()}
        return self._courses.setdefault(domain, Courses()).standings(values, since, targets, now)

    def shares(self, domain: str) -> Shares:
        """What is known of the rates of a domain and its parts."""
        found = self._fresh.get(domain)
        if found is None:
            found = self._fresh[domain] = self._shares.get(domain) or Shares()
        return found

    def begin(self, domains: Mapping[str, object]) -> None:
        """Begin a round of everything. Only courses of these domains and rates of what was there since the last such
        round are kept, or what strangers send would be remembered for ever."""
        self._shares, self._fresh = self._fresh, {}
        for domain in self._seen.keys() - domains.keys():
            del self._seen[domain]
        self._courses = {domain: courses for domain, courses in self._courses.items() if domain in domains}


class Courses:
    """How far the evidence of each target of one domain has come."""

    def __init__(self) -> None:
        self._series: dict[Target, _Series] = {}

    def standings(self, values: Values, since: int, targets: Sequence[Target], now: float) -> list[Standing]:
        """Where each target stands at ``now`` by the hours in ``values``, of which those from ``since`` on have changed
        since the last time (0 for all)."""
        newest, found = max(values, default=0), []
        for target in targets:
            if target.name == "capacity":
                found.append(Standing())
                continue
            key, since_here = _lasting(target), since
            series = self._series.get(key)
            if series is None:
                series, since_here = self._series.setdefault(key, _Series(target)), 0
            if since_here <= newest:
                series.come(values, since_here, target)
            found.append(series.standing(target, now))
        return found


class Shares:
    """The rates of one domain: in each window, and by scope, part and window."""

    def __init__(self) -> None:
        self.totals: dict[str, Counts] = {}
        self.rates = Windows({})
        self.parts = Parts({}, ())
        self._cells: dict[str, list[tuple[Cell, Counts]]] = {}

    def take(self, cells: dict[str, list[tuple[Cell, Counts]]], bounce_classes: tuple[str, ...]) -> None:
        """Take what each window holds of each cell now. Rates are worked out anew where their counts are others."""
        if cells == self._cells:
            return
        self._cells = cells
        self.totals = {window: total([counts for _, counts in here]) for window, here in cells.items()}
        self.rates = _kept(self.rates, self.totals, bounce_classes)
        self.parts = Parts(cells, bounce_classes, self.parts)


class Parts(Mapping[str, dict[str, Windows]]):
    """The rates of a domain's parts by scope and name, worked out for who asks, and once."""

    def __init__(
        self, cells: dict[str, list[tuple[Cell, Counts]]], bounce_classes: tuple[str, ...], before: Parts | None = None
    ) -> None:
        self._cells, self._classes = cells, bounce_classes
        self._before = before._found if before else {}
        self._found: dict[str, dict[str, Windows]] = {}

    def __getitem__(self, scope: str) -> dict[str, Windows]:
        if scope not in self._found:
            self._found[scope] = self._of(scope)
        return self._found[scope]

    def __iter__(self) -> Iterator[str]:
        return iter(SCOPES)

    def __len__(self) -> int:
        return len(SCOPES)

    def _of(self, scope: str) -> dict[str, Windows]:
        place, held = _PLACE[scope], self._before.get(scope, {})
        by_part: dict[str, dict[str, list[Counts]]] = {}
        for window, here in self._cells.items():
            for cell, counts in here:
                if part := cell[place]:
                    by_part.setdefault(part, {}).setdefault(window, []).append(counts)
        found = {}
        for part, windows in sorted(by_part.items()):
            sums = {window: total(several) for window, several in windows.items()}
            sums = {window: counts for window, counts in sums.items() if counts.attempted > 0}
            if sums:
                found[part] = _kept(held.get(part), sums, self._classes)
        return found


def _kept(before: Windows | None, counts: Mapping[str, Counts], bounce_classes: tuple[str, ...]) -> Windows:
    """The rates of these counts: those that were there, if they are of the same."""
    return before if before is not None and before.counts == counts else Windows(counts, bounce_classes)


def _lasting(target: Target) -> Target:
    """A target without what changes from look to look."""
    return Target(
        name=target.name, windows=target.windows, met=target.met, breach=target.breach,
        bounce_classes=target.bounce_classes,
    )  # fmt: skip


class _Series:
    def __init__(self, target: Target) -> None:
        self.course = Course(target.share(target.breach))
        self.marks: dict[int, Course] = {}  # by hour: as it was before that hour
        self.days = Days()
        self.stood: tuple[float, Standing] | None = None  # what the days say, on which day

    def come(self, values: Values, since: int, target: Target) -> None:
        """Take the hours from ``since`` on as they are now; all of them for 0."""
        if target.name == "complaint":
            self._days(values, since, target)
            return
        if since > self.course.hour and self.course.hour:
            begin, course = since, self.course
        else:
            begin = max((hour for hour in self.marks if hour <= since), default=0)
            course = self.marks[begin].copy() if begin else Course(target.share(target.breach))
        self.marks = {hour: mark for hour, mark in self.marks.items() if hour <= begin}
        hours = sorted(hour for hour in values if hour >= begin)
        newest = hours[-1] if hours else 0
        for hour in hours:
            if any(newest - hour < HOUR * back and hour % (HOUR * step) == 0 for back, step in _MARKS):
                self.marks[hour] = course.copy()
            course.take(hour, *target.of(Counts(*values[hour])), target.memory)
        self.course = course
        self._thin(newest)

    def _thin(self, newest: int) -> None:
        if len(self.marks) > 16:
            self.marks = {
                hour: mark
                for hour, mark in self.marks.items()
                if any(newest - hour < HOUR * back and hour % (HOUR * step) == 0 for back, step in _MARKS)
            }

    def _days(self, values: Values, since: int, target: Target) -> None:
        self.stood = None
        begin = since - since % DAY
        self.days.keep(min(values, default=0) - 2 * DAY, begin)
        for hour, each in values.items():
            if hour >= begin:
                self.days.take(hour, *target.of(Counts(*each)))

    def standing(self, target: Target, now: float) -> Standing:
        if target.name != "complaint":
            return standing(self.course, target, now)
        today = now // DAY
        if self.stood is None or self.stood[0] != today:
            self.stood = today, standing_of_days(self.days, target, now)
        return self.stood[1]
