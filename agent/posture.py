"""The watching of the DNS, put together: the looks at every check, the changes, the blocklists, and what is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import structlog

from agent.alerts.causes import Clue
from agent.alerts.clues import BLOCKLIST, dns_clues
from agent.dns.blockwatch import Asked, BlocklistWatch, Suspect
from agent.dns.changes import Change
from agent.dns.checks.base import MailStream, Subject, Watched
from agent.dns.dependents import Sender
from agent.dns.history import History, Known
from agent.dns.published import Published, masked
from agent.dns.resolver import Resolver
from agent.dns.watch import Watch
from agent.ledger.base import Ledger
from agent.ledger.documents import Documents
from agent.settings import Dns, Domain, Settings
from agent.suffix import registered_domain
from agent.views.metrics import Metrics
from agent.views.state import ListView

SHOWN_CHANGES = 50
_AT_ONCE = 1000  # findings written in one transaction

log = structlog.get_logger()
_encode, _watched = msgspec.json.encode, msgspec.json.Decoder(Watched)
_known, _change = msgspec.json.Decoder(Known), msgspec.json.Decoder(Change)


class Posture:
    """What is known of the DNS of the configured domains. ``share`` gives the part of the last day's mail that a
    domain, or some of its senders, sent, 0..1, or ``None``; ``clock`` gives Unix seconds."""

    def __init__(
        self,
        settings: Settings,
        resolver: Resolver,
        ledger: Ledger,
        metrics: Metrics,
        *,
        clock: Callable[[], float],
        share: Callable[[str, Sequence[Sender]], float | None],
    ) -> None:
        self._settings, self._resolver, self._ledger, self._metrics = settings, resolver, ledger, metrics
        self._clock, self._share, self._began = clock, share, clock()
        self._changes = Documents(ledger, "dns_change")
        self._stored_lists: dict[str, Watched] = {}
        self._gone: list[str] = []
        self._streams: dict[str, tuple[MailStream, ...]] = {}
        self._watch: Watch | None = None
        self._history: History | None = None
        self._blocklists: BlocklistWatch | None = None
        self._seen: tuple[Watched, ...] = ()
        self._seen_changes: tuple[Change, ...] = ()

    async def look(self) -> None:
        """Read what the process that watches has kept. Raises ``StoreUnavailable``."""
        found, changes = await self._ledger.load("finding"), await self._changes.load()
        self._seen = await asyncio.to_thread(lambda: tuple(_watched.decode(body) for body in found.values()))
        decoded = sorted((_change.decode(body) for body in changes.values()), key=lambda c: -c.at)
        self._seen_changes = tuple(decoded[:SHOWN_CHANGES])

    def leave(self) -> None:
        """Watch no longer; what was last known still shows."""
        self._seen, self._seen_changes = self.findings(), self.changes()
        self._watch = self._history = self._blocklists = None

    async def restore(self) -> None:
        """Take up what an earlier run knew. Raises ``StoreUnavailable``."""
        stored = await self._ledger.load("finding")
        # Off the loop: there may be hundreds of thousands.
        found = await asyncio.to_thread(lambda: {key: _watched.decode(body) for key, body in stored.items()})
        restored = list(found.values())
        known = {domain: _known.decode(body) for domain, body in (await self._ledger.load("dns_known")).items()}
        changes = [_change.decode(body) for body in (await self._changes.load()).values()]
        dns = self._settings.dns
        subjects = [subject_of(d, dns) for d in self._settings.domains]
        if not subjects:
            return
        self._streams = {subject.domain: subject.mail_streams for subject in subjects}
        # The public suffix list takes tens of milliseconds to read: not on the loop, in the middle of a check.
        await asyncio.to_thread(registered_domain, subjects[0].domain)
        self._watch = Watch(
            self._resolver, subjects, interval=dns.interval, min_interval=dns.min_interval, clock=self._clock,
            rate=dns.queries_per_second, on_change=_log_finding, on_opinion=self._metrics.dns_opinion,
            on_health=self._metrics.dns_health, restored=restored,
        )  # fmt: skip
        self._history = History(
            self._resolver, subjects, interval=dns.interval, clock=self._clock, share=self._share, known=known,
            changes=changes,
        )  # fmt: skip
        self._stored_lists = {key: w for key, w in found.items() if w.finding.check == BLOCKLIST}
        kept = {_key(w) for w in self._watch.findings()} | self._stored_lists.keys()
        self._gone = [key for key in stored if key not in kept]
        if self._settings.blocklists:
            self._blocklists = BlocklistWatch(
                self._resolver,
                [Asked(b.name, b.key.get_secret_value() if b.key else "") for b in self._settings.blocklists],
                suspects(self._settings),
                interval=dns.blocklist_interval,
                clock=self._clock,
                on_change=_log_finding,
                restored=[w for w in restored if w.finding.check == BLOCKLIST],
            )

    def loops(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """What has to run for it, by name."""
        parts = (("dns", self._watch), ("dns history", self._history), ("blocklists", self._blocklists))
        return [(name, part.run()) for name, part in parts if part]

    @property
    def watching(self) -> bool:
        """Whether any domain is watched."""
        return self._watch is not None

    async def check_now(self, domain: str) -> None:
        """Look at one domain at once. Raises ``KeyError`` for one that is not watched."""
        if not self._watch:
            raise KeyError(domain)
        await self._watch.check_now(domain)

    def late(self) -> float:
        """Seconds by which the next look is overdue."""
        return self._watch.late() if self._watch else 0.0

    def findings(self) -> tuple[Watched, ...]:
        """What is known, without the report addresses that DMARC records name: those are stored nowhere."""
        if not self._watch:
            return self._seen
        found = self._watch.findings()  # masked as they are published
        others = self._blocklists.findings() if self._blocklists else ()
        if self._history:
            others += self._history.findings(self._watch.published.failing())
        return found + tuple(map(masked, others))

    def changes(self) -> tuple[Change, ...]:
        """The latest changes of records, newest first."""
        return self._history.changes()[:SHOWN_CHANGES] if self._history else self._seen_changes

    def clues(self, findings: Iterable[Watched], now: float) -> dict[str, list[Clue]]:
        """What the findings and the changes may explain a breach with, by domain, at ``now`` (Unix seconds)."""
        changes = self._history.changes() if self._history else ()
        return dns_clues(findings, changes, self._streams, now, self._began)

    def lists(self) -> tuple[ListView, ...]:
        """Each blocklist: whether it can be believed, and what it lists."""
        if not self._blocklists:
            return ()
        health, listed = self._blocklists.health(), dict[str, dict[str, bool | None]]()
        for listing in self._blocklists.listings():
            listed.setdefault(listing.list, {})[listing.subject] = listing.listed
        names = [b.name for b in self._settings.blocklists]
        return tuple(ListView(name, health.get(name, ""), listed.get(name, {})) for name in names)

    async def save(self, epoch: int) -> None:
        """Keep what changed, as the leader of ``epoch``. Raises ``StoreUnavailable`` and ``Deposed``."""
        if self._watch:
            await self._save_findings(self._watch.published, epoch)
        if not self._history:
            return
        # Only what is new is encoded: there may be records of thousands of domains.
        if unsaved := self._history.unsaved():
            known = {domain: _encode(one) for domain, one in unsaved.items()}
            await self._ledger.save("dns_known", known, epoch=epoch)
            self._history.saved(unsaved)
        stored = self._changes.stored
        changes = {f"{c.at:.3f} {c.domain} {c.after.key}": c for c in self._history.changes()}
        await self._changes.save({key: stored.get(key) or _encode(c) for key, c in changes.items()}, epoch=epoch)

    async def _save_findings(self, published: Published, epoch: int) -> None:
        """Those that changed, in parts and encoded off the loop: there may be hundreds of thousands."""
        lists = {_key(w): w for w in self._blocklists.findings()} if self._blocklists else {}
        of_lists: dict[str, Watched | None] = {k: w for k, w in lists.items() if self._stored_lists.get(k) != w}
        of_lists |= dict.fromkeys([*(self._stored_lists.keys() - lists.keys()), *self._gone])
        if of_lists:
            await self._ledger.save("finding", await asyncio.to_thread(_encoded, of_lists), epoch=epoch)
            self._stored_lists, self._gone = lists, []
        unsaved = list(published.unsaved().items())
        for n in range(0, len(unsaved), _AT_ONCE):
            part = dict(unsaved[n : n + _AT_ONCE])
            documents = await asyncio.to_thread(_encoded, {" ".join(key): w for key, w in part.items()})
            await self._ledger.save("finding", documents, epoch=epoch)
            published.saved(part)


def _key(watched: Watched) -> str:
    return f"{watched.domain} {watched.finding.check} {watched.finding.subject}"


def _encoded(found: Mapping[str, Watched | None]) -> dict[str, bytes | None]:
    return {key: _encode(masked(w)) if w else None for key, w in found.items()}


def suspects(settings: Settings) -> list[Suspect]:
    """What blocklists are asked about: each domain, and the addresses it is configured to send from."""
    found = []
    for domain in settings.domains:
        own = [(ip, False) for ip in domain.sending_ips if ip not in domain.shared_ips]
        addresses = [*own, *((ip, True) for ip in domain.shared_ips)]
        found.append(Suspect(domain.name, domain.name))
        found += [
            Suspect(domain.name, ip, domain.ip_shares.get(ip), len(addresses), shared) for ip, shared in addresses
        ]
    return found


def subject_of(domain: Domain, dns: Dns) -> Subject:
    """What the DNS checks are told of a configured domain."""
    return Subject(
        domain.name,
        domain.dkim_selectors,
        domain.sending_ips,
        parked=domain.parked,
        helo=domain.helo_names,
        return_path_domains=domain.return_path_domains,
        link_domains=domain.link_domains,
        mail_streams=tuple(
            MailStream(s.name, s.provider, s.return_path or "", s.dkim_domain or "", s.selectors, s.ips)
            for s in domain.mail_streams
        ),
        rdap=dns.rdap,
        smtp_probe=dns.smtp_probe,
    )


def _log_finding(watched: Watched) -> None:
    finding = watched.finding
    log.info(
        "dns.finding",
        domain=watched.domain,
        check=finding.check,
        subject=finding.subject,
        verdict=finding.verdict,
        reason=finding.reason,
    )
