"""Every alert the agent pushes: what it is called, when it holds, what it says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import msgspec

from agent.alerts.types import Condition, Holds
from agent.dns.checks.base import Finding, Verdict, Watched
from agent.vitals.rhythm import Silence
from agent.vitals.sequence import MOUNTING
from agent.vitals.types import DomainVitals, Judgement, Rate, Snapshot, TargetVerdict


class Alert(msgspec.Struct, frozen=True):
    """``meaning`` is one sentence for people, ``anchor`` the heading of its runbook in ``docs/alerts.md``."""

    name: str
    meaning: str
    anchor: str


ALERTS: dict[str, Alert] = {
    alert.name: alert
    for alert in (
        Alert(
            "MailTargetBreached",
            "A domain's bounce, deliverability or complaint rate is beyond its phase's target, as its hours prove.",
            "mailtargetbreached",
        ),
        Alert(
            "MailDnsCheckFailing",
            "A DNS record that the domain's mail depends on is missing or wrong, confirmed by a definitive answer.",
            "maildnscheckfailing",
        ),
        Alert(
            "MailBlocklisted",
            "A blocklist that has proved itself lists an address or domain that mail is sent from, confirmed twice.",
            "mailblocklisted",
        ),
        Alert(
            "MailSourceSilent",
            "A source that used to report events reports none: what the rates say of its mail is out of date.",
            "mailsourcesilent",
        ),
        Alert(
            "MailSourceRefused",
            "A source's webhooks are refused as not authentic and none is accepted: its events are being lost.",
            "mailsourcerefused",
        ),
    )
}

# Mail is refused or marked as spam without these; what fails elsewhere costs some of it.
_CRITICAL_CHECKS = frozenset(("spf", "dkim", "dmarc", "alignment", "mx"))
BLOCKLIST = "blocklist"  # the check whose findings have an alert of their own
_RATE_TARGETS = frozenset(("bounce", "deliverability", "complaint"))
_DECIDED = {
    TargetVerdict.BREACHED: Holds.YES,
    TargetVerdict.MET: Holds.NO,
}
_FOUND = {Verdict.FAIL: Holds.YES, Verdict.OK: Holds.NO, Verdict.WARN: Holds.NO, Verdict.UNKNOWN: Holds.UNKNOWN}
_ACCEPTANCE = "Deliverability is acceptance by the recipient's server; it says nothing of inbox or spam folder."


class SourceHealth(msgspec.Struct, frozen=True):
    """A source's signs of life. Times are Unix seconds, 0 = never; ``domain`` and ``phase`` are ``""`` if it has
    none. ``last_received_at`` is the newest accepted request, ``last_refused_at`` the newest unauthorised one,
    ``silence`` the present one where the source has a rhythm to hold it against."""

    name: str
    domain: str
    phase: str
    last_received_at: float
    last_refused_at: float
    silence: Silence | None = None


def conditions(
    snapshot: Snapshot | None,
    watched: Iterable[Watched],
    domain_phases: Mapping[str, str],
    runbook_base: str,
    *,
    bounce_hints: Mapping[tuple[str, str], str] | None = None,
    explained: Mapping[tuple[str, str], str] | None = None,
) -> list[Condition]:
    """What would be worth an alert now. ``domain_phases`` names the phase of each configured domain; findings of
    other domains are left out. ``bounce_hints`` has, for some domains and targets, a sentence on what the bounces that
    count for the target have in common, and ``explained`` one on which part of the mail makes the breach.
    ``runbook_base`` is a URL or path; ``#`` and the alert's anchor are appended."""
    found = []
    for vitals in snapshot.domains.values() if snapshot else ():
        for judgement in vitals.judgements:
            if judgement.target in _RATE_TARGETS:
                hint = (bounce_hints or {}).get((vitals.domain, judgement.target), "")
                where = (explained or {}).get((vitals.domain, judgement.target), "")
                found.append(_target(vitals, judgement, where, hint, runbook_base))
    for item in watched:
        if item.domain not in domain_phases:
            continue
        if item.finding.check == BLOCKLIST:
            found += _listed(item, domain_phases[item.domain], runbook_base)
        else:
            found.append(_dns(item, domain_phases[item.domain], runbook_base))
    return found


def target_holds(judgement: Judgement) -> Holds:
    """Whether a target's breach holds.

    Between ``met`` and ``breached`` the evidence decides nothing, and a rate near its limit would open and close
    incidents by chance. So ``undecided`` counts as over only if no evidence of a breach is mounting, and the last
    breach is proven to have ended or the worst undecided window's own rate is within the target.
    ``insufficient_data`` and ``stale`` are unknown, with one exception: when mail still flows and the longest window
    has not one failure, all that the breach was made of is gone. Without it a small sender, who never gathers enough
    mail for ``met``, would keep the incident for ever.
    """
    if judgement.verdict in _DECIDED:
        return _DECIDED[judgement.verdict]
    rate = judgement.rate
    if rate is None or judgement.verdict is TargetVerdict.STALE:
        return Holds.UNKNOWN
    higher_is_better = judgement.target == "deliverability"
    if judgement.verdict is TargetVerdict.UNDECIDED:
        if judgement.evidence >= MOUNTING:
            return Holds.UNKNOWN
        if judgement.ended:
            return Holds.NO
        within = rate.value >= judgement.limit if higher_is_better else rate.value <= judgement.limit
        return Holds.NO if within else Holds.UNKNOWN
    return Holds.NO if rate.value == (1.0 if higher_is_better else 0.0) else Holds.UNKNOWN


def _target(vitals: DomainVitals, judgement: Judgement, where: str, bounce_hint: str, runbook_base: str) -> Condition:
    description = [f"{judgement.target.capitalize()} of {vitals.domain}: {judgement.reason}."]
    if judgement.rate:
        description.append(f"{_in_words(judgement.rate)} over {judgement.window}.")
    if judgement.target == "deliverability":
        description.append(_ACCEPTANCE)
    if where:
        description.append(where)
    if bounce_hint:
        description.append(bounce_hint)
    return _condition(
        "MailTargetBreached",
        target_holds(judgement),
        {"severity": "critical", "domain": vitals.domain, "phase": vitals.phase, "target": judgement.target},
        summary=f"{vitals.domain} breaches its {judgement.target} target",
        description=" ".join(description),
        runbook_base=runbook_base,
    )


def _in_words(rate: Rate) -> str:
    value = f"Measured {100 * rate.value:.4g} %"
    if rate.lower is None or rate.upper is None:
        return value
    return f"{value}, 95 % bounds {100 * rate.lower:.4g} % to {100 * rate.upper:.4g} %,"


def _dns(watched: Watched, phase: str, runbook_base: str) -> Condition:
    finding = watched.finding
    about = f"{finding.check} of {watched.domain}" + (f" ({finding.subject})" if finding.subject else "")
    return _condition(
        "MailDnsCheckFailing",
        _FOUND[finding.verdict],
        {
            "severity": "critical" if finding.check in _CRITICAL_CHECKS else "warning",
            "domain": watched.domain,
            "phase": phase,
            "check": finding.check,
            "subject": finding.subject,
        },
        summary=f"DNS check failing: {about}",
        description=_evidence(finding),
        runbook_base=runbook_base,
    )


def _listed(watched: Watched, phase: str, runbook_base: str) -> list[Condition]:
    """Of each severity one, since severity is part of what an incident is: a listing that turns milder or is over ends
    the one that was opened."""
    finding = watched.finding
    found = []
    for severity, verdict in (("critical", Verdict.FAIL), ("warning", Verdict.WARN)):
        if finding.verdict is Verdict.UNKNOWN:
            holds = Holds.UNKNOWN
        else:
            holds = Holds.YES if finding.verdict is verdict else Holds.NO
        labels = {"severity": severity, "domain": watched.domain, "phase": phase, "check": finding.check,
                  "subject": finding.subject}  # fmt: skip
        found.append(
            _condition(
                "MailBlocklisted",
                holds,
                labels,
                summary=f"Blocklisted: {finding.subject}, which {watched.domain} sends from",
                description=_evidence(finding),
                runbook_base=runbook_base,
            )
        )
    return found


# A zone can hold any number of records of any size; a message on somebody's phone cannot.
_MOST_RECORDS = 5
_MOST_CHARACTERS = 500


def _evidence(finding: Finding) -> str:
    records = [r if len(r) <= _MOST_CHARACTERS else r[:_MOST_CHARACTERS] + "…" for r in finding.records]
    more = len(records) - _MOST_RECORDS
    parts = [finding.detail.rstrip(".") + f" ({finding.reason})."]
    if records:
        parts.append("Found: " + " | ".join(records[:_MOST_RECORDS]) + (f" | and {more} more" if more > 0 else ""))
    fixes = list(dict.fromkeys(p.advice for p in finding.problems if p.advice))[:_MOST_RECORDS]
    if len(fixes) > 1:
        parts += ["What to do:", *(f"{n}. {fix}" for n, fix in enumerate(fixes, 1))]
    elif finding.advice:
        parts.append(f"What to do: {finding.advice}")
    if finding.rfc:
        parts.append(f"See {finding.rfc}.")
    return "\n".join(parts)


def source_conditions(
    sources: Iterable[SourceHealth], now: float, silent_after: float, runbook_base: str
) -> list[Condition]:
    """Conditions of the sources, at ``now`` in Unix seconds.

    A source is silent when its last accepted request is older than ``silent_after`` seconds, or sooner if by its own
    rhythm it is missing; one that never had any is merely not set up yet. It is refused when an unauthorised request
    came later than ``silent_after`` ago and after it none was accepted: one stranger's request beside good ones is no
    incident. The webhook's URL is public, so this can be provoked on a source that is idle, and the severity is a
    warning.
    """
    found = []
    for source in sources:
        labels = {"severity": "warning", "domain": source.domain, "phase": source.phase, "source": source.name}
        silence, since_refusal = now - source.last_received_at, now - source.last_refused_at
        heard = f"The last accepted webhook of {source.name} came {silence / 3600:.1f} h ago."
        missing = source.silence is not None and source.silence.missing
        if source.silence is not None:
            heard += _expected(source.silence)
        found.append(
            _condition(
                "MailSourceSilent",
                Holds.YES if missing or (source.last_received_at and silence > silent_after) else Holds.NO,
                labels,
                summary=f"Source {source.name} is silent",
                description=heard if source.last_received_at else f"No webhook of {source.name} came yet.",
                runbook_base=runbook_base,
            )
        )
        refused = source.last_refused_at > source.last_received_at and since_refusal <= silent_after
        found.append(
            _condition(
                "MailSourceRefused",
                Holds.YES if refused else Holds.NO,
                labels,
                summary=f"Webhooks of {source.name} are refused",
                description=f"The last webhook of {source.name} was refused as not authentic {since_refusal:.0f} s ago "
                "and none was accepted since. Most often the secret was changed on one side only."
                if refused
                else f"Webhooks of {source.name} are not being refused.",
                runbook_base=runbook_base,
            )
        )
    return found


def _expected(silence: Silence) -> str:
    since = datetime.fromtimestamp(silence.since, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f" By its rhythm of the last four weeks at least {silence.events:,.0f} events, in {silence.intervals:.0f} "
        f"intervals of five minutes, are usual for the time since {since}; none came. Up to {silence.needed:.0f} such "
        "intervals without a word can be chance."
    )


def _condition(
    name: str, holds: Holds, labels: Mapping[str, str], *, summary: str, description: str, runbook_base: str
) -> Condition:
    return Condition(
        labels={"alertname": name} | {label: value for label, value in labels.items() if value},
        holds=holds,
        annotations={
            "summary": summary,
            "description": description,
            "runbook_url": f"{runbook_base}#{ALERTS[name].anchor}",
        },
    )
