"""What the watch has published: kept by domain, told when it changes, and saved only where it did."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain

import msgspec

from agent.dns.checks.base import Finding, Problem, Verdict, Watched
from agent.events import mask_addresses

Key = tuple[str, str, str]  # domain, check, subject

_RENEWED = 900.0  # seconds after which a finding is saved again although nothing but its times has changed


class Published:
    """The findings of ``domains``, without the addresses that records name (those of reports, in DMARC): they are kept
    nowhere. ``restored`` are those of an earlier run, ``stored`` the keys of what lies in the store. ``on_change`` is
    told of every finding whose verdict or reason has changed."""

    def __init__(
        self,
        domains: Iterable[str],
        restored: Iterable[Watched] = (),
        *,
        on_change: Callable[[Watched], None] | None = None,
    ) -> None:
        # In the order in which they are shown, so that nothing is ever sorted as a whole.
        self._of: dict[str, dict[tuple[str, str], Watched]] = {domain: {} for domain in sorted(domains)}
        self._unsorted: set[str] = set()
        self._subjects: dict[tuple[str, str], frozenset[str]] = {}
        self._failing: set[tuple[str, str]] = set()
        self._saved_at: dict[Key, float] = {}
        self._unsaved: dict[Key, Watched | None] = {}
        self._on_change = on_change
        for w in sorted(restored, key=lambda w: (w.domain, w.finding.check, w.finding.subject)):
            self._of[w.domain][w.finding.check, w.finding.subject] = w
            self._saved_at[w.domain, w.finding.check, w.finding.subject] = w.checked_at
            self._subjects[w.domain, w.finding.check] = self.subjects(w.domain, w.finding.check) | {w.finding.subject}
            if w.finding.verdict is Verdict.FAIL:
                self._failing.add((w.domain, w.finding.check))

    def all(self) -> tuple[Watched, ...]:
        """Everything, by domain, check and subject."""
        for domain in self._unsorted:
            self._of[domain] = dict(sorted(self._of[domain].items()))
        self._unsorted.clear()
        return tuple(chain.from_iterable([held.values() for held in self._of.values()]))

    def of(self, domain: str) -> tuple[Watched, ...]:
        """What is known of one domain."""
        return tuple([w for _, w in sorted(self._of[domain].items())])

    def get(self, domain: str, check: str, subject: str) -> Watched | None:
        return self._of[domain].get((check, subject))

    def subjects(self, domain: str, check: str) -> frozenset[str]:
        """What a check of a domain speaks of."""
        return self._subjects.get((domain, check), frozenset())

    def failing(self) -> frozenset[tuple[str, str]]:
        """The domains and checks of which a finding is ``fail``."""
        return frozenset(self._failing)

    def publish(self, domain: str, check: str, findings: tuple[Finding, ...], now: float) -> frozenset[str]:
        """These are the findings of a check at the time ``now``, Unix seconds. Returns the subjects that are gone."""
        held, known = self._of[domain], self.subjects(domain, check)
        current = frozenset([f.subject for f in findings])
        for subject in known - current:
            del held[check, subject]
            self._saved_at.pop((domain, check, subject), None)
            self._unsaved[domain, check, subject] = None
        for finding in findings:
            key = check, finding.subject
            old = held.get(key)
            known_already = old is not None and old.finding == finding
            shown = finding if known_already else _without(finding)
            held[key] = new = _published(domain, old, shown, now)
            self._note((domain, *key), old, new)
        if known != current:
            self._subjects[domain, check] = current
            self._unsorted.add(domain)
        if any(f.verdict is Verdict.FAIL for f in findings):
            self._failing.add((domain, check))
        else:
            self._failing.discard((domain, check))
        return known - current

    def _note(self, key: Key, old: Watched | None, new: Watched) -> None:
        changed = old is None or (old.finding.verdict, old.finding.reason) != (new.finding.verdict, new.finding.reason)
        worded = old is not None and old.finding is not new.finding and _said(old.finding) != _said(new.finding)
        aged = new.checked_at - self._saved_at.get(key, 0.0) >= _RENEWED
        if changed or worded or aged or key in self._unsaved:
            self._unsaved[key] = new
        if changed and self._on_change:
            self._on_change(new)

    def unsaved(self) -> dict[Key, Watched | None]:
        """What is to be stored, ``None`` where it is to be removed: to be stored, then given to ``saved``. The times of
        what lies in the store may be a quarter of an hour behind; nothing else is."""
        return dict(self._unsaved)

    def saved(self, documents: Mapping[Key, Watched | None]) -> None:
        """These are stored now."""
        for key, watched in documents.items():
            if self._unsaved.get(key) is watched:
                self._unsaved.pop(key, None)
            if watched is not None:
                self._saved_at[key] = watched.checked_at


def _published(domain: str, old: Watched | None, finding: Finding, now: float) -> Watched:
    same = old is not None and old.finding.verdict is finding.verdict
    definite = finding.verdict is not Verdict.UNKNOWN
    if old is not None and old.finding == finding:
        finding = old.finding  # thousands of them are the same for months
    return Watched(
        domain=domain,
        finding=finding,
        checked_at=now,
        since=old.since if old is not None and same else now,
        definitive_at=now if definite else (old.definitive_at if old else 0.0),
        last_definitive=finding if definite else (old.last_definitive if old else None),
    )


def _said(finding: Finding) -> tuple[object, ...]:
    """All but the TTL, which counts down in every cache."""
    return (finding.detail, finding.advice, finding.rfc, finding.records, finding.problems)


def masked(watched: Watched) -> Watched:
    """The same without mail addresses."""
    finding, last = _without(watched.finding), watched.last_definitive
    return msgspec.structs.replace(watched, finding=finding, last_definitive=_without(last) if last else None)


def _without(finding: Finding) -> Finding:
    texts = (finding.subject, finding.detail, finding.advice, *finding.records)
    if not finding.problems and mask_addresses(joined := "\n".join(texts)) == joined:
        return finding
    found = tuple([mask_addresses(text) for text in texts])
    problems = tuple([_masked(problem) for problem in finding.problems])
    if found == texts and problems == finding.problems:
        return finding
    subject, detail, advice, *records = found
    return msgspec.structs.replace(
        finding, subject=subject, detail=detail, advice=advice, records=tuple(records), problems=problems
    )  # fmt: skip


def _masked(problem: Problem) -> Problem:
    return msgspec.structs.replace(
        problem, detail=mask_addresses(problem.detail), advice=mask_addresses(problem.advice)
    )  # fmt: skip
