"""Which DKIM selectors were found below a domain that names none: all the usual ones are looked for once a day."""

from __future__ import annotations

import random

import msgspec

from agent.dns.checks.base import Finding, Subject, Verdict

_PERIOD = 86_400.0  # seconds


class Discoveries:
    """What the last search of each domain found. Between two searches only that is looked at: a search is some eighty
    questions."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._found: dict[str, tuple[float, tuple[str, ...]]] = {}  # the end of its time, Unix seconds; selectors

    def known(self, subject: Subject, now: float) -> Subject:
        """The subject, with what was found while that is not too old."""
        until, found = self._found.get(subject.domain, (0.0, ()))
        return msgspec.structs.replace(subject, found_selectors=found) if now < until else subject

    def note(self, subject: Subject, findings: tuple[Finding, ...], now: float) -> None:
        """These are the findings of the check ``dkim`` about a subject given by ``known``. A search in which anything
        was lost is not over."""
        if subject.parked or (subject.dkim_selectors and not subject.probe_selectors):
            return
        lost = any(f.verdict is Verdict.UNKNOWN and f.reason != "no_selectors" for f in findings)
        if subject.found_selectors is None and not lost:
            found = tuple(f.subject for f in findings if f.subject and f.subject not in subject.dkim_selectors)
            self._found[subject.domain] = now + _PERIOD * self._rng.uniform(0.9, 1.0), found

    def forget(self, domain: str) -> None:
        """Search anew at the next look."""
        self._found.pop(domain, None)
