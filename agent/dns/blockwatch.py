"""The watch over blocklists: every list about every address and domain, believed only when proved and confirmed.

A listing, or the end of one, is published when a second look some minutes later says the same and the list's own test
entries hold both times. Whatever else is heard is ``unknown`` beside the last definite finding.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import structlog

from agent.dns.answer import Outcome
from agent.dns.blocklists import BLOCKLISTS, Blocklist, Health, Kind, Reading, State, kind_of, prove, question, read
from agent.dns.checks.base import Finding, Verdict, Watched
from agent.dns.follow import follow
from agent.dns.resolver import Resolver

CHECK = "blocklist"
_PACE = 0.02  # seconds between two questions: 50 a second, so that no list takes a round for an attack
_CONFIRM = 120.0
_SHARE_OF_ROUND = 0.5  # of the interval that a round may be stretched over
_RECORD = 300  # characters of a list's own text

log = structlog.get_logger(__name__)


class Asked(msgspec.Struct, frozen=True):
    """A list to ask, by its id in ``BLOCKLISTS``, and the key it needs (``""`` without)."""

    id: str
    key: str = ""


class Suspect(msgspec.Struct, frozen=True):
    """An address or domain that may be listed, and the configured domain whose mail depends on it.

    ``share`` of that domain's mail that is sent from it, 0..1, ``None`` where settings do not say: then an equal one of
    ``addresses``. ``shared`` with strangers, as an ESP's pool is.
    """

    domain: str
    subject: str
    share: float | None = None
    addresses: int = 1
    shared: bool = False

    @property
    def weight(self) -> float:
        """The share, 0..1, known or supposed."""
        return 1 / max(1, self.addresses) if self.share is None else self.share


class Listing(msgspec.Struct, frozen=True):
    """What a list last said for certain of a subject, as metrics show it; ``listed`` is ``None`` when it never did."""

    subject: str
    list: str
    listed: bool | None


class BlocklistWatch:
    """Watches ``suspects`` on the lists ``asked``.

    ``interval`` and ``confirm_after`` are seconds: between two rounds, and between a look that brings news and the one
    that confirms it (two minutes, or a tenth of the interval if that is less). ``restored`` are findings of an earlier
    run.
    """

    def __init__(
        self,
        resolver: Resolver,
        asked: Sequence[Asked],
        suspects: Sequence[Suspect],
        *,
        interval: float = 1800.0,
        confirm_after: float | None = None,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        on_change: Callable[[Watched], None] | None = None,
        restored: Iterable[Watched] = (),
        lists: Mapping[str, Blocklist] = BLOCKLISTS,
    ) -> None:
        self._resolver = resolver
        self._interval = interval
        self._confirm_after = min(_CONFIRM, interval / 10) if confirm_after is None else confirm_after
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._on_change = on_change
        self._lists = {one.id: (lists[one.id], one.key) for one in asked}
        self._pairs = [
            (suspect, name)
            for suspect in suspects
            for name, (blocklist, _) in self._lists.items()
            if kind_of(suspect.subject) in blocklist.kinds
        ]
        keys = {_key(suspect, name) for suspect, name in self._pairs}
        self._watched = {k: w for w in restored if (k := (w.domain, w.finding.subject)) in keys}
        self._health: dict[tuple[str, Kind], Health] = {}
        self._round = asyncio.Lock()

    def findings(self) -> tuple[Watched, ...]:
        """What is known now, by domain and subject (``<address or domain> <list>``)."""
        return tuple(self._watched[key] for key in sorted(self._watched))

    def health(self) -> dict[str, Health]:
        """What each list's test entries last said of it, the worst of its kinds; absent before the first look."""
        found: dict[str, Health] = {}
        for (name, _), health in self._health.items():
            if found.get(name, Health.USABLE) is Health.USABLE:
                found[name] = health
        return found

    def listings(self) -> tuple[Listing, ...]:
        """Every subject on every list, once each however many domains depend on it."""
        said: dict[tuple[str, str], bool | None] = {}
        for suspect, name in self._pairs:
            watched = self._watched.get(_key(suspect, name))
            sure = watched.last_definitive if watched else None
            said[suspect.subject, name] = None if sure is None else sure.reason == "listed"
        return tuple(Listing(subject, name, listed) for (subject, name), listed in said.items())

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            began = time.monotonic()
            await self.look()
            await asyncio.sleep(max(1.0, self._interval * self._rng.uniform(0.9, 1.0) - (time.monotonic() - began)))

    async def look(self) -> tuple[Watched, ...]:
        """One round, confirmed where it brings news. Returns what is then known."""
        async with self._round:
            first = await self._ask(self._pairs)
            news = [pair for pair in self._pairs if self._is_news(pair, first[pair])]
            if news:
                await asyncio.sleep(self._confirm_after)
                second = await self._ask(news)
                first |= {pair: _agreed(first[pair], second[pair]) for pair in news}
            for pair, reading in first.items():
                await self._publish(pair, reading)
        return self.findings()

    async def _ask(self, pairs: Sequence[tuple[Suspect, str]]) -> dict[tuple[Suspect, str], Reading]:
        """What the lists say, the lists themselves being tried first. A subject is asked about once a list."""
        kinds = {(name, kind_of(suspect.subject)) for suspect, name in pairs}
        for name, kind in sorted(kinds):
            blocklist, key = self._lists[name]
            health = await follow(self._resolver, prove(blocklist, kind, key))
            if self._health.get((name, kind)) is not health:
                log.log(20 if health is Health.USABLE else 30, "blocklist.health", list=name, kind=kind, health=health)
            self._health[name, kind] = health
        pause = min(_PACE, self._interval * _SHARE_OF_ROUND / max(1, len(pairs)))
        said: dict[tuple[str, str], asyncio.Task[Reading]] = {}
        async with asyncio.TaskGroup() as group:
            for suspect, name in pairs:
                if (suspect.subject, name) not in said:
                    said[suspect.subject, name] = group.create_task(self._one(name, suspect.subject))
                    await asyncio.sleep(pause)
        return {(suspect, name): said[suspect.subject, name].result() for suspect, name in pairs}

    async def _one(self, name: str, subject: str) -> Reading:
        health = self._health[name, kind_of(subject)]
        if health is not Health.USABLE:
            return Reading(State.UNKNOWN, Verdict.UNKNOWN, why=health)
        blocklist, key = self._lists[name]
        return read(blocklist, await self._resolver.ask(question(blocklist, subject, key)))

    def _is_news(self, pair: tuple[Suspect, str], reading: Reading) -> bool:
        if reading.state is State.UNKNOWN:
            return False
        watched = self._watched.get(_key(*pair))
        before = watched.last_definitive if watched else None
        listed = before is not None and before.reason == "listed"
        return listed != (reading.state is State.LISTED)

    async def _publish(self, pair: tuple[Suspect, str], reading: Reading) -> None:
        suspect, name = pair
        blocklist, key = self._lists[name]
        if reading.state is State.LISTED:
            text = await self._resolver.ask(question(blocklist, suspect.subject, key, "TXT"))
            said = _texts(text.records, key) if text.outcome is Outcome.ANSWER else ()
            reading = msgspec.structs.replace(reading, records=(*reading.records, *said))
        finding = finding_of(suspect, name, blocklist, reading)
        now, at = self._clock(), _key(*pair)
        old = self._watched.get(at)
        definite = finding.verdict is not Verdict.UNKNOWN
        same = old is not None and (old.finding.verdict, old.finding.reason) == (finding.verdict, finding.reason)
        new = Watched(
            suspect.domain, finding, now, old.since if same and old else now,
            now if definite else old.definitive_at if old else 0.0,
            finding if definite else old.last_definitive if old else None,
        )  # fmt: skip
        self._watched[at] = new
        if self._on_change and not same:
            self._on_change(new)


def _key(suspect: Suspect, name: str) -> tuple[str, str]:
    return suspect.domain, f"{suspect.subject} {name}"


def _agreed(first: Reading, second: Reading) -> Reading:
    """What two looks amount to: news only if they say the same."""
    if second.state is State.UNKNOWN or second.state is first.state:
        return second
    return Reading(State.UNKNOWN, Verdict.UNKNOWN, why="unconfirmed")


def _texts(records: Sequence[str], key: str) -> tuple[str, ...]:
    """The list's own text, in which it may repeat the question, and with it the key."""
    return tuple((record.replace(key, "…") if key else record)[:_RECORD] for record in records[:3])


_WHY = {
    Health.EMPTY: "its own test entry is not listed, so that nothing it says can be believed",
    Health.LISTS_ALL: "it lists everything, its own counter-test included",
    Health.REFUSED: "it refuses to answer this resolver: a public resolver, no key, or too many questions",
    Health.UNREACHABLE: "it does not answer",
    Health.REWRITTEN: "the answer is an address that no list uses: names that do not exist are rewritten on the way",
    "unconfirmed": "a second look did not confirm the first",
}
_RFC = "RFC 5782 section 2.1"
# A listing hurts as much as the mail behind it: an address that carries less than this is no emergency.
_LARGE_SHARE = 0.1


def finding_of(suspect: Suspect, name: str, blocklist: Blocklist, reading: Reading) -> Finding:
    """A reading in words. What is listed is a ``fail`` only where the list is one that refuses mail, the address is the
    sender's own, and a good part of its mail depends on it; else a ``warn``."""
    subject = f"{suspect.subject} {name}"
    if reading.state is State.UNKNOWN:
        detail = (
            f"Whether {blocklist.title} lists {suspect.subject} is not known: {_WHY.get(reading.why, reading.why)}."
        )
        advice = "Ask through a resolver of your own, with a key where the list wants one."
        return Finding(CHECK, subject, Verdict.UNKNOWN, str(reading.why), detail, advice, "RFC 5782 section 5",
                       reading.records)  # fmt: skip
    said = f" ({'; '.join(reading.words)})" if reading.words else ""
    if reading.state is State.CLEAR:
        detail = f"{blocklist.title} does not list {suspect.subject}{said and ', but knows it' + said}."
        return Finding(CHECK, subject, Verdict.OK, "ok", detail, "", _RFC, reading.records, reading.ttl)
    severe = reading.verdict is Verdict.FAIL and not suspect.shared and suspect.weight >= _LARGE_SHARE
    detail = f"{blocklist.title} lists {suspect.subject}{said}."
    if kind_of(suspect.subject) is not Kind.DOMAIN:
        if suspect.share is not None:
            detail += f" {suspect.share:.0%} of the mail of {suspect.domain} is sent from it, as configured."
        elif suspect.addresses > 1:
            detail += f" It is one of {suspect.addresses} addresses that {suspect.domain} is configured to send from."
    if suspect.shared:
        advice = "The address is shared with others: ask the ESP to have it removed, or to send through another."
    else:
        advice = "Find and stop what it was listed for first, or it comes back"
        advice += f"; then ask for its removal at {blocklist.removal}" if blocklist.removal else ""
        advice += "."
    verdict = Verdict.FAIL if severe else Verdict.WARN
    return Finding(CHECK, subject, verdict, "listed", detail, advice, _RFC, reading.records, reading.ttl)
