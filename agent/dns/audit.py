"""Good news held against the zones' own servers now and then: a resolver may go on serving what is long gone.

RFC 8767 lets resolvers answer from what has expired while they cannot reach a zone, with a TTL of 30 s; some keep
answers longer than they may. A record that was removed would then never be missed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import msgspec

from agent.dns.answer import Asks
from agent.dns.checks.base import SEVERITY, Check, Finding, Subject, Verdict
from agent.dns.opinion import Weight, own_server, second_opinion
from agent.dns.resolver import Resolver

CHECKED = frozenset(("spf", "dkim", "dmarc", "mx"))  # the others ask the zone's servers themselves, or of no records
_PERIOD = 3600.0  # seconds between two audits of one check, at least, and
_LOOKS = 12  # looks
_STALE_TTL = 30  # seconds: what RFC 8767 section 5 recommends for an answer that has expired

Key = tuple[str, str]


class Audits:
    """When each check of a domain is due. ``clock`` gives Unix seconds, ``interval`` is that of looks; ``limit`` and
    ``port`` are those of second opinions, and ``on_opinion`` is told how each ended."""

    def __init__(
        self,
        resolver: Resolver,
        *,
        clock: Callable[[], float],
        rng: random.Random,
        interval: float,
        limit: float,
        port: int,
        on_opinion: Callable[[Weight], None] | None,
    ) -> None:
        self._resolver, self._limit, self._port = resolver, limit, port
        self._clock, self._rng, self._on_opinion = clock, rng, on_opinion
        self._period = max(_PERIOD, _LOOKS * interval)
        self._due: dict[Key, float] = {}
        self._longest: dict[Key, int] = {}
        self._stale: set[Key] = set()

    def is_due(self, key: Key, findings: Sequence[Finding]) -> bool:
        """Whether these findings of a resolver are to be audited: in their turn, while it was last found behind, and
        when their TTL is one of an answer that has expired."""
        if key[1] not in CHECKED:
            return False
        now = self._clock()
        if (due := self._due.get(key)) is None:
            due = self._due[key] = now + self._rng.uniform(0.0, self._period)
        ttl = min((f.ttl for f in findings if f.ttl), default=0)
        longest = self._longest[key] = max(ttl, self._longest.get(key, 0))
        return now >= due or key in self._stale or 0 < ttl <= _STALE_TTL < longest / 4

    async def audited(
        self, elsewhere: Asks, check: Check, subject: Subject, key: Key, found: tuple[Finding, ...]
    ) -> tuple[Finding, ...]:
        """The findings, or what the zones' own servers all say where that is worse. Where it was so before and they
        cannot be asked now, nobody can tell. ``elsewhere`` answers for names that are not the domain's."""
        self._due[key] = self._clock() + self._period * self._rng.uniform(0.9, 1.0)
        looked = await own_server(
            self._resolver, check, subject, elsewhere, limit=self._limit, port=self._port
        )  # fmt: skip
        theirs = {f.subject: f for f in looked}
        worse = [theirs[f.subject] for f in found if f.subject in theirs and _worse(theirs[f.subject], f)]
        stale: dict[str, Finding] = {}
        if worse:
            weighed = await second_opinion(
                self._resolver, check, subject, worse, limit=self._limit, port=self._port
            )  # fmt: skip
            for weight, _ in weighed:
                if self._on_opinion:
                    self._on_opinion(weight)
            stale = {f.subject: _behind(f) for weight, f in weighed if weight is Weight.CONFIRMED}
        elif key in self._stale:
            lost = [f for f in found if theirs.get(f.subject, f).verdict is Verdict.UNKNOWN]
            stale = {f.subject: theirs[f.subject] for f in lost}
        if stale:
            self._stale.add(key)
        else:
            self._stale.discard(key)
        return tuple(stale.get(f.subject, f) for f in found)


def _worse(theirs: Finding, ours: Finding) -> bool:
    if Verdict.UNKNOWN in (theirs.verdict, ours.verdict):
        return False
    return SEVERITY.index(theirs.verdict) < SEVERITY.index(ours.verdict)


def _behind(finding: Finding) -> Finding:
    detail = f"{finding.detail} The resolver still gives an older answer."[:2000]
    return msgspec.structs.replace(finding, detail=detail)
