"""The status document: what ``/api/v1/status`` and ``/api/v1/stream`` say, the page draws and the command prints.

Fields are only ever added under ``api`` 1. Times are Unix seconds (0 = never), ratios are in 0..1.

- ``api``, ``version``, ``now``, ``started_at``, ``demo``, ``leader``
- ``overall``: ``state`` (``ok``, ``attention``, ``failing``, ``unknown``) and ``reasons``, sentences that say why
- ``readiness``: list of ``name``, ``ok``, ``reason``
- ``evaluated_at``, and ``domains`` by name: ``phase``, ``rates[window][rate]`` (``value``, ``lower``, ``upper``,
  ``numerator``, ``denominator``), ``parts[scope][part][window][rate]``, ``attempted[window]``, ``judgements``
  (``target``, ``verdict``, ``limit``, ``window``, ``rate``, ``reason``), ``monthly_volume``, ``monthly_projection``,
  ``last_event_at``
- ``phases`` by name, ``domain_phases``
- ``findings``: ``domain``, ``finding`` (``check``, ``subject``, ``verdict``, ``reason``, ``detail``, ``advice``,
  ``rfc``, ``records``, ``ttl``, and ``problems``, each with ``verdict``, ``reason``, ``detail``, ``advice``, ``rfc``;
  empty where the finding says it all), ``checked_at``, ``since``, ``definitive_at``, ``last_definitive``
- ``incidents``: ``state`` (``open``, ``closing``, ``resolved``), ``labels``, ``annotations``, ``starts_at``,
  ``cleared_at``, ``resolved_at``, ``muted_until``, ``also`` (labels of what else is of the same cause), ``onset``
  (null, or ``at``, ``earliest``, ``latest``), and ``causes``, likeliest first: ``kind``, ``key``, ``says``, ``score``,
  ``likely``, ``at`` (null if not known), ``supports``, ``contradicts``
- ``mutes``: ``id``, ``matchers``, ``since``, ``until``, ``why``
- ``sources``: ``name``, ``provider``, ``domain``, ``last_received_at``, ``last_event_at``, ``requests`` by outcome,
  ``quarantined``, ``last_error``, ``last_error_at``, ``test_events`` by reason, ``silence`` (null, or
  ``since``, and ``events`` and ``intervals`` usual since then, ``needed``, ``missing``)
- ``recent_bounces``: ``at``, ``source``, ``domain``, ``provider``, ``stream``, ``mailbox_provider``, ``bounce_class``,
  ``smtp_code``, ``enhanced_code``, ``reason``, and what the answer means by itself, whatever its vendor called it:
  ``rule`` (an id, ``""`` if nothing is known), ``says`` (the same in words), ``points_to`` (hints in words)
- ``alertmanagers``: ``url``, ``last_success_at``, ``last_error``
- ``blocklists``: ``name``, ``health``, ``listed`` by subject
- ``dns_changes``, newest first: ``at``, ``domain``, ``before``, ``after``, ``words``, ``direction``, ``share``,
  and ``of`` (``stream``, ``provider``), whose mail alone that is; empty where all of the domain's depends on it
- ``trends`` by domain: ``at``; ``shifts`` (``scope``, ``part``, ``rate``, ``at``, ``earliest``, ``latest``, ``before``,
  ``after``, ``direction``, ``confidence``), oldest first; ``directions`` (``scope``, ``part``, ``rate``, ``direction``,
  ``confidence``, ``factor`` and its bounds, ``recent``, ``previous``); ``forecasts`` (``limit``, ``amount``,
  ``reached``, ``at``, ``earliest``, ``latest``, ``horizon``, ``growth`` and its bounds); ``verdicts`` of the parts
  (``scope``, ``part``, ``target``, ``verdict``, ``failures``, ``trials``, ``since``); ``explained``, for each breach
  (``target``, ``where``, ``failures`` of ``trials`` there, ``other_failures`` of ``other_trials`` elsewhere)
- ``gates`` by domain: ``phase``, ``next_phase``, ``state`` (``ready``, ``not_yet``, ``cannot_tell``), ``earliest``,
  ``weeks``, ``items`` (``name``, ``state``: ``passed``, ``blocking``, ``unknown``; ``evidence``, ``earliest``)
"""

from __future__ import annotations

from typing import Any

import msgspec

from agent.alerts.mutes import muted_until
from agent.bounce_rules import shipped
from agent.classify import explain_again
from agent.dns.checks.base import Verdict
from agent.sender_rules import Assessment, assess
from agent.views.state import State
from agent.vitals.types import TargetVerdict


def overall(state: State) -> tuple[str, list[str]]:
    """How the mail is doing in one word (``ok``, ``attention``, ``failing``, ``unknown``), and why.

    A breached target or a failed DNS check is ``failing``. What keeps a judgement from being trusted, and warnings, ask
    for ``attention``. ``unknown`` is a state of its own: before the first evaluation nothing is called well, and what
    nobody could decide is named even when all the rest is ``ok``.
    """
    failing: list[str] = []
    undecided: list[str] = []
    waiting = [f"not ready: {r.name}{': ' + r.reason if r.reason else ''}" for r in state.readiness if not r.ok]
    attention: list[str] = waiting if state.snapshot is not None else []
    decided = False
    for vitals in state.snapshot.domains.values() if state.snapshot else ():
        for judgement in vitals.judgements:
            if judgement.verdict == TargetVerdict.BREACHED:
                (attention if judgement.target == "capacity" else failing).append(
                    f"{vitals.domain}: {judgement.target} target breached"
                )
            elif judgement.verdict == TargetVerdict.STALE:
                attention.append(f"{vitals.domain}: {judgement.target} cannot be judged, no fresh events")
            elif judgement.verdict == TargetVerdict.MET:
                decided = True
            else:
                undecided.append(f"{vitals.domain}: {judgement.target} {judgement.verdict.replace('_', ' ')}")
    for watched in state.findings:
        finding = watched.finding
        name = f"{finding.check} ({finding.subject})" if finding.subject else finding.check
        if finding.verdict == Verdict.FAIL:
            failing.append(f"{watched.domain}: DNS check {name} fails")
        elif finding.verdict == Verdict.WARN:
            attention.append(f"{watched.domain}: DNS check {name} warns")
        elif finding.verdict == Verdict.OK:
            decided = True
        else:
            undecided.append(f"{watched.domain}: DNS check {name} could not be done")
    if failing:
        return "failing", failing + attention
    if attention:
        return "attention", attention
    if decided and state.snapshot is not None:
        return "ok", undecided
    if state.snapshot is None:
        return "unknown", waiting or ["nothing was evaluated yet"]
    return "unknown", undecided or ["nothing is there to judge"]


def document(state: State) -> dict[str, Any]:
    """The status document as plain values, ready to be encoded."""
    word, reasons = overall(state)
    plain: dict[str, Any] = msgspec.to_builtins(state, enc_hook=dict)
    snapshot = plain.pop("snapshot") or {"evaluated_at": 0, "domains": {}}
    incidents = [
        {"state": incident.state, "muted_until": muted_until(incident.labels, state.mutes, state.now), **values}
        for incident, values in zip(state.incidents, plain["incidents"], strict=True)
    ]
    bounces = []
    for bounce in plain["recent_bounces"]:
        domain, provider, stream, mailbox_provider = bounce.pop("cell")
        cell = {"domain": domain, "provider": provider, "stream": stream, "mailbox_provider": mailbox_provider}
        bounces.append({**bounce, **cell, **_diagnosis(bounce)})
    return {
        "api": 1,
        "overall": {"state": word, "reasons": reasons},
        **plain,
        **snapshot,
        "incidents": incidents,
        "recent_bounces": bounces,
    }


def _diagnosis(bounce: dict[str, Any]) -> dict[str, Any]:
    found = explain_again(bounce["reason"], bounce["smtp_code"], bounce["enhanced_code"])
    hints = shipped().hints
    return {"rule": found.rule, "says": found.says, "points_to": [hints[hint] for hint in found.points_to]}


def phase(state: State, domain: str | None = None) -> dict[str, Any]:
    """The gates of all configured domains, or of one, with the numbers of the phases, as plain values. Raises
    ``KeyError``."""
    if domain is not None and domain not in state.domain_phases:
        raise KeyError(domain)
    names = state.domain_phases if domain is None else [domain]
    gates = {name: msgspec.to_builtins(state.gates[name]) for name in names if name in state.gates}
    return {"api": 1, "now": state.now, "phases": msgspec.to_builtins(state.phases), "domains": gates}


def sender_rules(state: State, domain: str) -> tuple[Assessment, ...]:
    """What the large mailbox providers ask, held against all that is known of a configured domain. Raises
    ``KeyError``."""
    if domain not in state.domain_phases:
        raise KeyError(domain)
    return assess(
        [watched.finding for watched in state.findings if watched.domain == domain],
        state.snapshot.domains.get(domain) if state.snapshot else None,
        [(bounce.cell[3], bounce.enhanced_code) for bounce in state.recent_bounces if bounce.cell[0] == domain],
    )


def encode(state: State) -> bytes:
    """The status document as JSON (RFC 8259, UTF-8). Text that is not valid Unicode is shown with ``?``."""
    return _encoded(document(state))


def encode_phase(state: State, domain: str | None = None) -> bytes:
    """``phase`` as JSON, like ``encode``."""
    return _encoded(phase(state, domain))


def _encoded(plain: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(plain)
    except UnicodeEncodeError:
        return msgspec.json.encode(_printable(plain))


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {_printable(k): _printable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(v) for v in value]
    return value
