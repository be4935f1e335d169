"""The overall word never calls well what nobody judged, and the document keeps its shape."""

from __future__ import annotations

import json

import msgspec

from agent.dns.checks.base import Finding, Verdict
from agent.events import BounceClass
from agent.ledger.base import Cell, RecentBounce
from agent.views.state import Readiness, State
from agent.views.status import document, encode, overall
from agent.vitals.types import Snapshot, TargetVerdict
from tests.unit.views import states


def well(**changes: object) -> State:
    good = msgspec.structs.replace(
        states.domain_well(), judgements=tuple(j for j in states.domain_well().judgements if j.verdict == "met")
    )
    findings = tuple(f for f in states.findings() if f.finding.verdict == Verdict.OK)
    base = states.state(snapshot=Snapshot(states.NOW, {"example.com": good}), findings=findings, incidents=())
    return msgspec.structs.replace(base, **changes)


def judged(verdict: TargetVerdict, target: str = "bounce") -> State:
    vitals = msgspec.structs.replace(
        states.domain_well(), judgements=(states.judgement(target, verdict, 0.01, "7d", None, ""),)
    )
    return well(snapshot=Snapshot(states.NOW, {"example.com": vitals}), findings=())


def found(verdict: Verdict) -> State:
    return well(findings=(states.watched("example.com", Finding("spf", "", verdict, "r", "d")),))


def test_well() -> None:
    assert overall(well()) == ("ok", [])


def test_a_breached_target_is_failing() -> None:
    assert overall(judged(TargetVerdict.BREACHED)) == ("failing", ["example.com: bounce target breached"])


def test_capacity_never_counts_as_a_breach() -> None:
    assert overall(judged(TargetVerdict.BREACHED, "capacity"))[0] == "attention"


def test_a_stale_target_asks_for_attention() -> None:
    assert overall(judged(TargetVerdict.STALE))[0] == "attention"


def test_too_little_data_is_unknown_not_well() -> None:
    for verdict in (TargetVerdict.INSUFFICIENT_DATA, TargetVerdict.UNDECIDED):
        assert overall(judged(verdict)) == ("unknown", [f"example.com: bounce {verdict.replace('_', ' ')}"])


def test_dns_findings() -> None:
    assert overall(found(Verdict.FAIL)) == ("failing", ["example.com: DNS check spf fails"])
    assert overall(found(Verdict.WARN))[0] == "attention"
    # The targets are met; of the DNS nobody could tell, and that is said.
    assert overall(found(Verdict.UNKNOWN)) == ("ok", ["example.com: DNS check spf could not be done"])


def test_not_ready_asks_for_attention_once_it_was_evaluated() -> None:
    broken = (Readiness("store", False, "disk full"),)
    assert overall(well(readiness=broken)) == ("attention", ["not ready: store: disk full"])


def test_the_first_minute_is_unknown() -> None:
    assert overall(states.first_minute())[0] == "unknown"
    assert overall(well(snapshot=Snapshot(states.NOW, {}), findings=())) == ("unknown", ["nothing is there to judge"])
    early = well(snapshot=None)
    assert overall(early) == ("unknown", ["nothing was evaluated yet"])


def test_the_shape_of_the_document() -> None:
    seen = json.loads(encode(states.state()))
    assert set(seen) == {
        "api", "overall", "version", "now", "started_at", "demo", "leader", "readiness", "evaluated_at", "domains",
        "phases", "domain_phases", "findings", "incidents", "mutes", "sources", "recent_bounces", "alertmanagers",
            "blocklists", "dns_changes", "trends", "gates",
    }  # fmt: skip
    assert seen["api"] == 1
    assert seen["overall"]["state"] == "failing"
    assert seen["domains"]["example.com"]["rates"]["7d"]["bounce"]["lower"] < 0.006
    assert seen["domains"]["example.com"]["judgements"][0]["verdict"] == "met"
    assert [i["state"] for i in seen["incidents"]] == ["open", "closing"]
    assert set(seen["recent_bounces"][0]) == {
        "at", "source", "domain", "provider", "stream", "mailbox_provider", "bounce_class", "smtp_code",
        "enhanced_code", "reason", "rule", "says", "points_to",
    }  # fmt: skip
    listed, unexplained = seen["recent_bounces"][1], seen["recent_bounces"][3]
    assert (listed["rule"], listed["points_to"]) == ("microsoft-blocklist", ["a blocklist", "the sender's reputation"])
    assert listed["says"] == "Outlook.com: the sending address or its network is on Microsoft's own list"
    assert (unexplained["rule"], unexplained["points_to"]) == ("words-temporary", [])
    assert seen["findings"][0]["finding"]["check"] == "spf"


def test_before_the_first_evaluation_the_shape_is_the_same() -> None:
    seen = document(states.first_minute())
    assert (seen["evaluated_at"], seen["domains"]) == (0, {})


def test_text_that_is_not_unicode_does_not_break_the_document() -> None:
    odd = RecentBounce(1.0, "s", Cell("\ud800", "p", "", "gmail"), BounceClass.HARD, None, "", "half \udfff")
    seen = json.loads(encode(states.state(recent_bounces=(odd,))))
    assert (seen["recent_bounces"][0]["domain"], seen["recent_bounces"][0]["reason"]) == ("?", "half ?")
