"""What is known that may be the cause of a breach, as clues: DNS, blocklists, volume, sources."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from agent.alerts.causes import SCOPES, Clue, Kind
from agent.alerts.types import Incident, Onset
from agent.dns.changes import Change, Direction
from agent.dns.checks.base import MailStream, Verdict, Watched
from agent.vitals.shifts import Shift

BLOCKLIST, CHANGE = "blocklist", "change"  # checks whose findings are more than their name and subject
DNS_LATE = 900.0  # seconds from a change to its being seen: the longest interval, the second look, the TTL before
LISTING_LATE = 2100.0  # a round of questions and the look that confirms it
_AGE = 7 * 86400.0  # seconds after which a change is no news
_ALL = frozenset(("sender", "spf", "dkim", "dmarc"))  # whoever cannot ask for the domain misses everything in it
_POINTS_TO = {
    "spf": frozenset(("spf", "dmarc")), "dkim": frozenset(("dkim", "dmarc")),
    "dmarc": frozenset(("dmarc", "spf", "dkim")), "alignment": frozenset(("dmarc", "spf", "dkim")),
    "ptr": frozenset(("ptr",)), "mx": frozenset(("sender",)), "ns": _ALL, "delegation": _ALL, "expiry": _ALL,
}  # fmt: skip
_LISTED = frozenset(("blocklist", "reputation"))
_VOLUME = frozenset(("rate", "reputation", "list", "content"))


def dns_key(domain: str, check: str, subject: str) -> str:
    """The key of what a finding speaks of. A record's change and its own check speak of the same thing, and so do all
    lists that have one address."""
    if check == BLOCKLIST:
        return f"listing {domain} {subject.partition(' ')[0]}"
    if check == CHANGE:
        check, _, name = subject.partition(" ")
        return _record_key(domain, check, name)
    return f"dns {domain} {check} {'' if check in _ONE_RECORD else subject}".rstrip()


_ONE_RECORD = frozenset(("spf", "dmarc", "mx", "ns", "mta_sts", "tls_rpt"))  # whatever subject a finding of it has


def _record_key(domain: str, role: str, name: str) -> str:
    subject = name.partition("._domainkey.")[0] if role == "dkim" else ""
    return f"dns {domain} {'spf' if role == 'include' else role} {subject}".rstrip()


def dns_clues(
    watched: Iterable[Watched],
    changes: Iterable[Change],
    streams: Mapping[str, Iterable[MailStream]],
    now: float,
    seen_from: float,
) -> dict[str, list[Clue]]:
    """By domain, what DNS and blocklists tell: records that changed within seven days, checks that fail, listings.

    ``streams`` says how each domain's mail is sent, as far as settings do. A finding that is as old as the agent's
    first looks, ``seen_from`` (Unix seconds), may be older than it seems: its beginning counts as unknown.
    """
    found: dict[str, dict[str, Clue]] = defaultdict(dict)
    for change in sorted(changes, key=lambda one: one.at):
        if change.at >= now - _AGE:
            clue = _changed(change)
            found[change.domain][clue.key] = clue
    for item in watched:
        finding = item.finding
        listed = finding.check == BLOCKLIST and finding.verdict in (Verdict.FAIL, Verdict.WARN)
        if finding.check == CHANGE or not (listed or finding.verdict is Verdict.FAIL):
            continue
        known = found[item.domain]
        clue = _finding(item, tuple(streams.get(item.domain, ())), seen_from, listed)
        other = known.get(clue.key)
        # What a change says has the better time; of several lists with one address the gravest, then the first.
        if other is None or (listed and (-clue.weight, clue.at or 0.0) < (-other.weight, other.at or 0.0)):
            known[clue.key] = clue
    return {domain: list(clues.values()) for domain, clues in found.items()}


def _changed(change: Change) -> Clue:
    role = "spf" if change.after.role == "include" else change.after.role
    covers = {"provider": {s.provider for s in change.of} - {""}, "stream": {s.stream for s in change.of} - {""}}
    return Clue(
        kind=Kind.DNS,
        key=_record_key(change.domain, change.after.role, change.after.name),
        says="; ".join(change.words[:2]),
        weight=1 if change.direction is Direction.WEAKER else 0,
        at=change.at,
        late=DNS_LATE,
        points_to=_POINTS_TO.get(role, frozenset()),
        covers={scope: frozenset(parts) for scope, parts in covers.items() if parts},
    )


def _finding(item: Watched, streams: tuple[MailStream, ...], seen_from: float, listed: bool) -> Clue:
    finding = item.finding
    subject = finding.subject.partition(" ")[0]
    providers = frozenset(s.provider for s in streams if s.provider and (subject == s.name or subject in s.ips))
    return Clue(
        kind=Kind.LISTING if listed else Kind.DNS,
        key=dns_key(item.domain, finding.check, finding.subject),
        says=finding.detail.rstrip(".")[:300]
        if listed
        else f"{finding.check} fails: {finding.detail.rstrip('.')[:300]}",
        weight=2 if listed and finding.verdict is Verdict.FAIL else 1,
        at=item.since if item.since > seen_from + DNS_LATE else None,
        late=LISTING_LATE if listed else DNS_LATE,
        points_to=_LISTED if listed else _POINTS_TO.get(finding.check, frozenset()),
        covers={"provider": providers} if providers else {},
    )


def source_key(name: str) -> str:
    """The key of a source that is not heard."""
    return f"source {name}"


def volume_clues(domain: str, shifts: Iterable[Shift], now: float) -> list[Clue]:
    """The jumps of a domain's volume, and of its parts', within seven days before ``now`` (Unix seconds)."""
    found = {}
    for shift in shifts:
        if shift.rate != "volume" or shift.direction != "rising" or shift.at < now - _AGE:
            continue
        scope, part = shift.scope, shift.part
        who = f"mail {SCOPES[scope]} {part}" if scope else f"mail of {domain}"
        before = shift.before.value
        grew = f"grew to {shift.after.value / before:,.1f} times its usual volume" if before else "began to be sent"
        key = f"volume {domain} {scope} {part}".rstrip()
        found[key] = Clue(
            kind=Kind.VOLUME,
            key=key,
            says=f"{who} {grew}",
            weight=1,
            at=shift.at,
            late=shift.at - shift.earliest,
            points_to=_VOLUME,
            covers={scope: frozenset((part,))} if scope else {},
        )
    return list(found.values())


def onsets(
    shifts: Mapping[str, Iterable[Shift]], incidents: Iterable[Incident], now: float
) -> dict[tuple[str, str], Onset]:
    """When rates moved, by domain and target, at ``now`` (Unix seconds): of rates that an incident is open for, as was
    known when it opened rather than as is left to be seen of it; a shift that tells it more narrowly comes first."""
    found: dict[tuple[str, str], Onset] = {}
    for domain, several in shifts.items():
        for shift in several:
            if not shift.scope and shift.direction == "worsening" and shift.at >= now - _AGE:
                found[domain, shift.rate] = Onset(shift.at, shift.earliest, shift.latest)
    for incident in incidents:
        onset = incident.onset
        for labels in (incident.labels, *incident.also):
            if onset is None or incident.resolved_at or "target" not in labels:
                continue
            known = found.get((labels["domain"], labels["target"]))
            if known is None or known.latest - known.earliest > onset.latest - onset.earliest:
                found[labels["domain"], labels["target"]] = onset
    return found
