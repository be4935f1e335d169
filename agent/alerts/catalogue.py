"""Every alert the agent pushes: what it is called, when it holds, what it says."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from agent.alerts.bounce_hints import Hints, sentence
from agent.alerts.causes import Clue, Symptom, first_seen, rank
from agent.alerts.clues import BLOCKLIST, dns_key
from agent.alerts.types import Condition, Holds, Onset
from agent.dns.checks.base import Finding, Verdict, Watched
from agent.vitals.sequence import MOUNTING
from agent.vitals.types import WINDOWS, DomainVitals, Judgement, Rate, Snapshot, TargetVerdict


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
            "MailBudgetRunningOut",
            "More of a domain's mail fails than its target allows for the month, though it is not breached now.",
            "mailbudgetrunningout",
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
_RATE_TARGETS = frozenset(("bounce", "deliverability", "complaint"))
_DECIDED = {
    TargetVerdict.BREACHED: Holds.YES,
    TargetVerdict.MET: Holds.NO,
}
_TELLING = 20  # failures in a window that its parts are worth comparing for
_FOUND = {Verdict.FAIL: Holds.YES, Verdict.OK: Holds.NO, Verdict.WARN: Holds.NO, Verdict.UNKNOWN: Holds.UNKNOWN}
_ACCEPTANCE = "Deliverability is acceptance by the recipient's server; it says nothing of inbox or spam folder."


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What else is known of the domains, to explain a breach by.

    ``clues`` by domain; ``onsets``, ``hints`` and ``explained`` by domain and target, the last a sentence on which part
    of the mail makes the breach; ``words`` names the hints for people. The rates of the ``unheard`` domains lack the
    mail of a source that is silent or refused.
    """

    clues: Mapping[str, Iterable[Clue]] = {}
    onsets: Mapping[tuple[str, str], Onset] = {}
    hints: Mapping[tuple[str, str], Hints] = {}
    explained: Mapping[tuple[str, str], str] = {}
    words: Mapping[str, str] = {}
    unheard: Collection[str] = ()


_NOTHING_KNOWN = Known()


def conditions(
    snapshot: Snapshot | None,
    watched: Iterable[Watched],
    domain_phases: Mapping[str, str],
    runbook_base: str,
    *,
    known: Known = _NOTHING_KNOWN,
    concerned: Collection[str | None] | None = None,
) -> list[Condition]:
    """What would be worth an alert now. ``domain_phases`` names the phase of each configured domain; findings of
    other domains are left out. ``runbook_base`` is a URL or path; ``#`` and the alert's anchor are appended. Of targets
    of domains that are not ``concerned`` by any incident (``None``: all are) only those that are breached are told."""
    found = []
    if snapshot:
        found = [
            _target(vitals, judgement, snapshot.evaluated_at, known, runbook_base)
            for vitals in snapshot.domains.values()
            for judgement in vitals.judgements
            if judgement.target in _RATE_TARGETS
            and (judgement.verdict is TargetVerdict.BREACHED or concerned is None or vitals.domain in concerned)
        ]
    found += [_dns(item, domain_phases[item.domain], runbook_base) for item in watched if item.domain in domain_phases]
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


def _target(vitals: DomainVitals, judgement: Judgement, now: float, known: Known, runbook_base: str) -> Condition:
    holds = target_holds(judgement)
    if holds is Holds.NO and vitals.domain in known.unheard:
        # What is better may be what is missing.
        holds = Holds.UNKNOWN
    description = [f"{judgement.target.capitalize()} of {vitals.domain}: {judgement.reason}."]
    if judgement.rate:
        description.append(f"{_in_words(judgement.rate)} over {judgement.window}.")
    if judgement.target == "deliverability":
        description.append(_ACCEPTANCE)
    if where := known.explained.get((vitals.domain, judgement.target), ""):
        description.append(where)
    hints = known.hints.get((vitals.domain, judgement.target))
    if hints and (told := sentence(hints, known.words)):
        description.append(told)
    breach = condition(
        "MailTargetBreached",
        holds,
        {"severity": "critical", "domain": vitals.domain, "phase": vitals.phase, "target": judgement.target},
        summary=f"{vitals.domain} breaches its {judgement.target} target",
        description=" ".join(description),
        runbook_base=runbook_base,
    )
    if holds is not Holds.YES:
        return breach
    symptom = _symptom(vitals, judgement, now, known)
    causes = rank(symptom, known.clues.get(vitals.domain, ()), known.words)
    return msgspec.structs.replace(breach, causes=causes, onset=symptom.onset)


def _symptom(vitals: DomainVitals, judgement: Judgement, now: float, known: Known) -> Symptom:
    target, judged = judgement.target, float(WINDOWS[judgement.window])
    counts = {
        float(WINDOWS[window]): _failures(rates[target], target)
        for window, rates in vitals.rates.items()
        if target in rates
    }
    onset = known.onsets.get((vitals.domain, target)) or first_seen(counts, judged, now, judgement.since)
    # Of the time before it began the parts would only tell how things used to be.
    begun = onset.at if onset else now - judged
    window = next(
        (w for w, size in WINDOWS.items() if now - begun <= size < judged and counts.get(size, (0, 0))[0] >= _TELLING),
        judgement.window,
    )
    parts = {
        scope: {
            part: _failures(rate, target)
            for part, windows in by_part.items()
            if (rate := windows.get(window, {}).get(target))
        }
        for scope, by_part in vitals.parts.items()
    }
    return Symptom(
        domain=vitals.domain,
        target=target,
        allowed=1 - judgement.limit if target == "deliverability" else judgement.limit,
        parts=parts,
        onset=onset,
        hints=known.hints.get((vitals.domain, target)),
    )


def _failures(rate: Rate, target: str) -> tuple[int, int]:
    failed = rate.denominator - rate.numerator if target == "deliverability" else rate.numerator
    return failed, rate.denominator


def _in_words(rate: Rate) -> str:
    value = f"Measured {100 * rate.value:.4g} %"
    if rate.lower is None or rate.upper is None:
        return value
    return f"{value}, 95 % bounds {100 * rate.lower:.4g} % to {100 * rate.upper:.4g} %,"


def _dns(watched: Watched, phase: str, runbook_base: str) -> Condition:
    finding = watched.finding
    holds, critical = _FOUND[finding.verdict], finding.check in _CRITICAL_CHECKS
    if blocklisted := finding.check == BLOCKLIST:
        # A listing that only warns is a listing all the same.
        holds = Holds.YES if finding.verdict is Verdict.WARN else holds
        critical = finding.verdict is Verdict.FAIL
        summary = f"Blocklisted: {finding.subject}, which {watched.domain} sends from"
    else:
        about = f"{finding.check} of {watched.domain}" + (f" ({finding.subject})" if finding.subject else "")
        summary = f"DNS check failing: {about}"
    return condition(
        "MailBlocklisted" if blocklisted else "MailDnsCheckFailing",
        holds,
        {
            "severity": "critical" if critical else "warning",
            "domain": watched.domain,
            "phase": phase,
            "check": finding.check,
            "subject": finding.subject,
        },
        summary=summary,
        description=_evidence(finding),
        runbook_base=runbook_base,
        states=dns_key(watched.domain, finding.check, finding.subject),
    )


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


def condition(
    name: str,
    holds: Holds,
    labels: Mapping[str, str],
    *,
    summary: str,
    description: str,
    runbook_base: str,
    states: str = "",
) -> Condition:
    """A condition of the alert ``name``; labels that are empty are left out."""
    return Condition(
        labels={"alertname": name} | {label: value for label, value in labels.items() if value},
        holds=holds,
        annotations={
            "summary": summary,
            "description": description,
            "runbook_url": f"{runbook_base}#{ALERTS[name].anchor}",
        },
        states=states,
    )
