"""Why a target is breached: everything known that began about then is held against the breach, and ranked.

Each thing that might be the cause is a ``Clue``. Its score is a sum of points, each of them a sentence of evidence:

- what it is: a check that fails or a record that became weaker 1, other changes of records 0, a listing 1 (2 where mail
  is refused for it), a jump in volume 1, a source that is not heard -2; one part that has four fifths of the failures
  2, and 1 more each if it has nearly all and if it has half as much of the mail; what half of the bounces say 2, four
  fifths 3
- when it began: up to an hour before the rate moved, or while it did, 3; up to six hours 2; up to a day 1; earlier -1;
  after it -6; no more than 2 (1) where the rate's own moment is known to half a day (a day) only, and nothing where
  either is not known
- what the bounces say: half of them point to it 3, a fifth 1; half of them point elsewhere -3
- whose mail it touches, where that is known: four fifths of the failures are there 2, fewer -1, fewer than half -3

From ``LIKELY`` on, with a beginning that is known, it is likely enough for breach and cause to be one incident.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

import msgspec

from agent.alerts.bounce_hints import FEWEST, SHARE, Hints
from agent.alerts.types import Cause, Onset
from agent.clock import DAY, HOUR, MINUTE

LIKELY = 5
MOST_CAUSES = 5
_DATED = 3 * HOUR  # to which a verdict dates the beginning of a breach
_MOST_OF = 0.8  # of the failures that are too many
_ALL_OF = 0.95
_MORE = 0.05  # of them that a part must have more, to be worth a word beside a smaller one
_LIFT = 1.25  # of which a part must have more than of the mail
_SOME = 0.2  # of the bounces


class Kind(StrEnum):
    """What a clue is. Of two with the same score the one that is likely comes first, then the one further up."""

    DNS = "dns"
    LISTING = "listing"
    VOLUME = "volume"
    PART = "part"
    BOUNCES = "bounces"
    SOURCE = "source"


class Clue(msgspec.Struct, frozen=True, kw_only=True):
    """Something known that may be the cause of a breach.

    ``at`` is when it was first seen (Unix seconds), ``None`` if nobody knows; it may have begun up to ``late`` seconds
    before that. ``points_to`` are the hints (ids of ``bounce_rules.toml``) that bounces would give if it were the
    cause. ``covers`` are the parts by scope whose mail it touches, empty where that is all mail, or not known.
    ``weight`` are its points to begin with.
    """

    kind: Kind
    key: str
    says: str
    weight: int
    at: float | None = None
    late: float = 0.0
    points_to: frozenset[str] = frozenset()
    covers: dict[str, frozenset[str]] = {}


class Symptom(msgspec.Struct, frozen=True):
    """A breached target. ``allowed`` is the share of failures that it tolerates; ``parts`` are failures and mails by
    scope and part, within the window that was judged."""

    domain: str
    target: str
    allowed: float
    parts: Mapping[str, Mapping[str, tuple[int, int]]]
    onset: Onset | None = None
    hints: Hints | None = None


def first_seen(
    counts: Mapping[float, tuple[int, int]], judged: float, now: float, since: float | None = None
) -> Onset | None:
    """When a rate moved, as far as windows can tell. ``counts`` are failures and mails in the last so many seconds,
    ``judged`` the window that shows the breach. What is more than there used to be before it began in the shortest
    window that has most of it, and before the next shorter one; where the verdict dates it ``since`` a moment between
    the two, within some hours of that. ``None`` where nothing is more. Times are Unix seconds, windows seconds."""
    longest = max(counts, default=judged)
    failures, mails = (a - b for a, b in zip(counts[longest], counts[judged], strict=True))
    usual = failures / mails if mails > 0 else 0.0
    more = {window: failures - usual * mails for window, (failures, mails) in counts.items() if window <= judged}
    if more[judged] <= 0:
        return None
    earliest, latest = now - judged, now
    for window in sorted(more, reverse=True):
        if more[window] < _MOST_OF * more[judged]:
            latest = now - window
            break
        earliest = now - window
    if since is not None and earliest <= since <= latest:
        return Onset(since, max(earliest, since - _DATED), min(latest, since + _DATED))
    return Onset((earliest + latest) / 2, earliest, latest)


_Evidence = list[tuple[int, str]]
SCOPES = {"provider": "sent through", "stream": "of the stream", "mailbox_provider": "to"}


def rank(symptom: Symptom, clues: Iterable[Clue], words: Mapping[str, str]) -> tuple[Cause, ...]:
    """What may have caused the breach, the likeliest first, at most ``MOST_CAUSES``. ``words`` names the hints for
    people. Clues of other domains are not to be among ``clues``."""
    weighed = {clue.key: (clue, _weigh(clue, symptom, words)) for clue in (*clues, *_parts(symptom))}
    # What the bounces say is a cause of its own where nothing better explains why they say it.
    for hint, clue in _bounces(symptom, words):
        cause = _weigh(clue, symptom, words)
        if not any(hint in other.points_to and known.score >= cause.score for other, known in weighed.values()):
            weighed[clue.key] = clue, cause
    order = list(Kind)
    causes = [cause for _, cause in weighed.values() if cause.score > 0 or cause.supports]
    causes.sort(key=lambda cause: (-cause.score, not cause.likely, order.index(Kind(cause.kind)), cause.key))
    return tuple(causes[:MOST_CAUSES])


def _weigh(clue: Clue, symptom: Symptom, words: Mapping[str, str]) -> Cause:
    when = _when(clue, symptom.onset)
    evidence = when + _said(clue, symptom.hints, words) + _touched(clue, symptom)
    score = clue.weight + sum(points for points, _ in evidence)
    return Cause(
        kind=clue.kind.value,
        key=clue.key,
        says=clue.says,
        score=score,
        likely=score >= LIKELY and any(points > 0 for points, _ in when),
        at=clue.at,
        supports=tuple(text for points, text in evidence if points > 0),
        contradicts=tuple(text for points, text in evidence if points < 0),
    )


def _when(clue: Clue, onset: Onset | None) -> _Evidence:
    if clue.at is None or onset is None:
        return []
    if clue.at - clue.late > onset.latest:
        return [(-6, f"it began {_span(clue.at - onset.at)} after the rate had moved")]
    before, lead = onset.at - clue.at, onset.earliest - clue.at
    if lead > DAY:
        return [(-1, f"it began {_span(before)} before the rate moved")]
    width = onset.latest - onset.earliest
    if lead > 0 or (width <= 2 * HOUR and before > 0):
        text = f"seen {_span(before)} before the rate moved"
    else:
        text = f"seen within the {_span(width)} in which the rate moved"
    if lead > 6 * HOUR:
        return [(1, text)]
    # When the rate can have moved at any time of a day, much else happened as it did.
    return [(1 if width > DAY else 2 if width > DAY / 2 or lead > HOUR else 3, text)]


def _said(clue: Clue, hints: Hints | None, words: Mapping[str, str]) -> _Evidence:
    if not clue.points_to or hints is None or hints.total < FEWEST:
        return []
    hint, n = max(((h, hints.counts.get(h, 0)) for h in sorted(clue.points_to)), key=lambda pair: pair[1])
    said = f"{n} of the {hints.total} newest bounces point to {words[hint]}"
    if n >= SHARE * hints.total:
        return [(3, said)]
    if n >= _SOME * hints.total:
        return [(1, said)]
    other, most = max(hints.counts.items(), key=lambda pair: (pair[1], pair[0]), default=("", 0))
    if most >= SHARE * hints.total:
        return [(-3, f"{most} of the {hints.total} newest bounces point to {words[other]}")]
    return []


def _touched(clue: Clue, symptom: Symptom) -> _Evidence:
    if clue.kind is Kind.PART:
        return []
    for scope, covered in clue.covers.items():
        parts = symptom.parts.get(scope, {})
        if not covered & parts.keys():
            continue
        excess = _excess(parts, symptom.allowed)
        total = sum(excess.values())
        if not total:
            return []
        share = sum(excess[part] for part in covered if part in excess) / total
        if share >= _MOST_OF:
            whose = f"mail {SCOPES[scope]} {', '.join(sorted(covered & parts.keys())[:3])}"
            return [(2, f"{share:.0%} of the failures beyond the target are of {whose}, which it touches")]
        others = {part: n for part, n in excess.items() if part not in covered and n > 0}
        worst = max(others, key=lambda part: (others[part], part))
        points = -3 if share < SHARE else -1
        return [(points, f"mail {SCOPES[scope]} {worst}, which it does not touch, fails as well")]
    return []


def _excess(parts: Mapping[str, tuple[int, int]], allowed: float) -> dict[str, float]:
    """Failures beyond what the target tolerates, by part."""
    return {part: max(0.0, failures - allowed * mails) for part, (failures, mails) in parts.items()}


def _parts(symptom: Symptom) -> Iterable[Clue]:
    """The part of a scope that has the failures while the others do not. Of several scopes' the one with the least mail
    says most, and those that are the same mail are one."""
    candidates = []
    for scope, parts in symptom.parts.items():
        excess = _excess(parts, symptom.allowed)
        total, mails = sum(excess.values()), sum(n for _, n in parts.values())
        if not total or not mails or len(parts) < 2:
            continue
        part = max(excess, key=lambda name: (excess[name], name))
        share, of_mail = excess[part] / total, parts[part][1] / mails
        if share >= _MOST_OF and share >= _LIFT * of_mail:
            candidates.append((of_mail, scope, part, share))
    seen = 0.0
    for of_mail, scope, part, share in sorted(candidates):
        if share <= seen + _MORE:
            continue
        seen, own = share, symptom.parts[scope][part]
        same = [
            f"{SCOPES[s]} {p}" for s, named in symptom.parts.items() for p, counts in named.items() if counts == own
        ]
        yield Clue(
            kind=Kind.PART,
            key=f"part {symptom.domain} {scope} {part}",
            says=f"mail {' and '.join(same)} fails and other mail does not: {own[0]:,} of {own[1]:,}, {share:.0%} of "
            f"the failures beyond the target in {of_mail:.0%} of the mail",
            weight=2 + (share >= _ALL_OF) + (share >= 2 * of_mail),
        )


def _bounces(symptom: Symptom, words: Mapping[str, str]) -> Iterable[tuple[str, Clue]]:
    """What most bounces point to, whatever brought it about."""
    hints = symptom.hints
    if hints is None or hints.total < FEWEST:
        return
    for hint, n in hints.counts.items():
        if n >= SHARE * hints.total:
            says = f"{n} of the {hints.total} newest bounces point to {words[hint]}"
            weight = 2 + (n >= _MOST_OF * hints.total)
            yield hint, Clue(kind=Kind.BOUNCES, key=f"bounces {symptom.domain} {hint}", says=says, weight=weight)


def _span(seconds: float) -> str:
    for size, unit in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= 2 * size or (unit == "min" and seconds >= size):
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def in_words(causes: Sequence[Cause]) -> str:
    """Causes as sentences for a message: the first with its evidence, the others by name."""
    if not causes:
        return "Nothing that is known lines up with it."
    first, *others = causes
    if first.score <= 0:
        return f"Unlikely to be the cause: {first.says}; but {'; but '.join(first.contradicts)}."
    others = [cause for cause in others if cause.score > 0]
    text = f"{'Likely' if first.likely else 'Possible'} cause: {first.says}"
    if first.supports:
        text += f"; {'; '.join(first.supports)}"
    if first.contradicts:
        text += f"; but {'; but '.join(first.contradicts)}"
    text += "."
    if others:
        text += " Less likely: " + "; ".join(cause.says for cause in others) + "."
    return text
