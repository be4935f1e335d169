"""A simulated DNS: zones whose records change at known times, their servers, and two resolvers, all of which err."""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence

import msgspec

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.resolver import Resolver

HOUR, DAY = 3600.0, 86400.0
A, B = "192.0.2.53:53", "198.51.100.53:53"
SPF = "v=spf1 include:_spf.esp.net -all"
DMARC = "v=DMARC1; p=reject; rua=mailto:dmarc@{}"


class Window(msgspec.Struct, frozen=True):
    """Something goes wrong from ``begin`` to ``end``, for one name or (empty) for all."""

    begin: float
    end: float
    name: str = ""

    def holds(self, now: float, name: str) -> bool:
        return self.begin <= now < self.end and self.name in ("", name)


class Change(msgspec.Struct, frozen=True):
    """A record is gone from ``at`` until ``back``."""

    domain: str
    name: str
    at: float
    back: float


class World(Resolver):
    """``loss`` is the share of questions that get no answer. ``outages``, ``servfails`` and ``lies`` (NXDOMAIN for what
    exists) concern resolver A; ``b_down`` B; ``cut`` the zones' servers. The third server of every fifth zone learns of
    changes ``lag`` late; the second of every seventh is lame."""

    def __init__(
        self, domains: int, days: float, *, ttl: int, seed: int, loss: float = 0.05, lag: float = HOUR
    ) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        self.domains = [f"d{i}.net" for i in range(domains)]
        self.ttl, self.loss, self.lag = ttl, loss, lag
        self.asked: Counter[str] = Counter()
        self.changes: dict[str, list[Change]] = {}
        self.esp: list[float] = []
        self._cache: dict[tuple[str, str, str], tuple[float, Outcome, tuple[str, ...]]] = {}
        self._number = {domain: i for i, domain in enumerate(self.domains)}
        pick, end = self.rng.uniform, days * DAY
        self.planted = [
            Change(domain, name, at := pick(DAY / 2, end - DAY), at + pick(12 * HOUR, 20 * HOUR))
            for domain in self.rng.sample(self.domains, domains // 10)
            for name in (self.rng.choice((domain, f"_dmarc.{domain}")),)
        ]
        for change in self.planted:
            self.changes.setdefault(change.name, []).append(change)

        def windows(n: int, least: float, most: float, names: Sequence[str] = ("",)) -> list[Window]:
            begins = [pick(0, end) for _ in range(n)]
            return [Window(b, b + pick(least, most), self.rng.choice(names)) for b in begins]

        self.outages = windows(2, 60, 2 * HOUR)
        self.servfails = windows(2, 10, HOUR)
        self.lies = windows(2, 60, HOUR) + windows(
            domains, 60, 2 * HOUR, [*self.domains, *(f"_dmarc.{d}" for d in self.domains)]
        )
        self.b_down = [Window(end / 2, end)]
        # When the site's own line is down, a router may well deny everything, and nobody else can be asked.
        self.cut = windows(2, 600, HOUR)
        self.lies += self.cut[:1]

    async def servers(self) -> tuple[str, ...]:
        return A, B

    def fresh(self) -> None:
        pass

    async def ask(self, question: Question) -> Answer:
        if question.server:
            return await self._owner(question)
        answer = Answer(question, Outcome.TIMEOUT)
        for server in (A, B):
            if server not in self._avoided:
                answer = await self.ask_one(question, server)
                if answer.outcome.definitive:
                    break
        return answer

    async def ask_one(self, question: Question, server: str) -> Answer:
        self.asked[server] += 1
        now, name = asyncio.get_running_loop().time(), question.name
        if name == "_spf.esp.net" and server == A:
            self.esp.append(now)
        if self.rng.random() < self.loss or any(
            w.holds(now, "") for w in (self.outages if server == A else self.b_down)
        ):
            await asyncio.sleep(3)
            return Answer(question, Outcome.TIMEOUT)
        if server == A:
            if any(w.holds(now, name) for w in self.servfails):
                return Answer(question, Outcome.SERVFAIL)
            if any(w.holds(now, name) for w in self._lies_about(name)):
                return Answer(question, Outcome.NXDOMAIN)
        key = (server, name, question.type)
        kept = self._cache.get(key)
        if kept is None or kept[0] <= now:
            if any(w.holds(now, "") for w in self.cut):
                return Answer(question, Outcome.SERVFAIL)
            kept = self._cache[key] = (now + self.ttl, *self.truth(question, now))
        return Answer(question, kept[1], kept[2], ttl=max(1, int(kept[0] - now)) if kept[2] else 0)

    def _lies_about(self, name: str) -> list[Window]:
        if not hasattr(self, "_by_name"):
            self._by_name: dict[str, list[Window]] = {}
            for window in self.lies:
                self._by_name.setdefault(window.name, []).append(window)
        return self._by_name.get("", []) + self._by_name.get(name, [])

    async def _owner(self, question: Question) -> Answer:
        self.asked["owners"] += 1
        now = asyncio.get_running_loop().time()
        if self.rng.random() < self.loss or any(w.holds(now, "") for w in self.cut):
            await asyncio.sleep(3)
            return Answer(question, Outcome.TIMEOUT)
        labels = question.name.split(".")
        zone = next((d for n in range(len(labels)) if (d := ".".join(labels[n:])) in self._number), "")
        server, number = int(question.server.rpartition(":")[0][-1]), self._number.get(zone, 1)
        if server == 2 and number % 7 == 0:
            return Answer(question, Outcome.LAME)
        late = self.lag if server == 3 and number % 5 == 0 else 0.0
        outcome, records = self.truth(question, now - late)
        return Answer(question, outcome, records, ttl=self.ttl, authoritative=True)

    def gone(self, name: str, now: float) -> bool:
        return any(change.at <= now < change.back for change in self.changes.get(name, ()))

    def truth(self, question: Question, now: float) -> tuple[Outcome, tuple[str, ...]]:
        name, kind = question.name, question.type
        if name.endswith((".invalid", ".com")):
            return Outcome.NXDOMAIN, ()
        held: dict[str, tuple[str, ...]] = {}
        if name == "com" or name in self._number or name in ("esp.net", "net"):
            held = {"NS": ("ns1.hosts.net", "ns2.hosts.net", "ns3.hosts.net"), "SOA": ("ns1 h 1 2 3 4 5",)}
        if name in self._number:
            held["A"] = ("192.0.2.1",)
            if not self.gone(name, now):
                held["TXT"] = (SPF,)
        elif name.startswith("_dmarc.") and name[7:] in self._number:
            if self.gone(name, now):
                return Outcome.NXDOMAIN, ()
            held = {"TXT": (DMARC.format(name[7:]),)}
        elif name == "_spf.esp.net":
            held = {"TXT": ("v=spf1 ip4:192.0.2.0/24 -all",)}
        elif name.endswith(".hosts.net"):
            held = {"A": (f"203.0.113.{name[2]}",)}
        elif not held:
            return Outcome.NXDOMAIN, ()
        return (Outcome.ANSWER, held[kind]) if kind in held else (Outcome.NODATA, ())

    def troubled(self, begin: float, end: float, name: str) -> float:
        """When the last of what hinders the sight of a name between two times is over; ``begin`` if nothing does."""
        hindering = [*self.outages, *self.servfails, *self.cut, *self._lies_about(name)]
        return max([begin, *(w.end for w in hindering if w.begin < end and w.end > begin)])


def rank(sorted_values: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies."""
    return sorted_values[
        min(len(sorted_values) - 1, bisect_right(range(len(sorted_values)), share * len(sorted_values)))
    ]
