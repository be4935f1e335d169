"""What is worth an alert, and what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.alerts.bounce_hints import Hints
from agent.alerts.catalogue import ALERTS, Known, conditions, target_holds
from agent.alerts.sources import SourceHealth, source_conditions, unheard
from agent.alerts.types import Condition, Holds
from agent.bounce_rules import shipped
from agent.dns.checks.base import Finding, Problem, Verdict, Watched
from agent.ledger.base import Cell, Row
from agent.vitals.evaluate import evaluate
from agent.vitals.phases import PHASES
from agent.vitals.rhythm import Silence
from agent.vitals.types import Judgement, Rate, Snapshot, TargetVerdict

NOW = 1_750_000_123.0
HOUR = 3600
PHASE_OF = {"example.com": "growth"}
BASE = "https://docs.example/alerts"


def snapshot(domain: str = "example.com", **counts: int) -> Snapshot:
    cell = Cell(domain, "ses", "", "gmail")
    tables = [
        [Row(int((NOW - 120) // width) * width, cell, measure, n) for measure, n in counts.items()]
        for width in (60, HOUR, 86400)
    ]
    return evaluate(NOW, {"example.com": PHASES["growth"]}, *tables)


def by_target(snap: Snapshot) -> dict[str, Condition]:
    return {c.labels["target"]: c for c in conditions(snap, (), PHASE_OF, BASE)}


def watched(verdict: Verdict, check: str = "dkim", subject: str = "s1", **more: object) -> Watched:
    finding = Finding(check, subject, verdict, "key_missing", "No key is published.", **more)  # type: ignore[arg-type]
    return Watched("example.com", finding, NOW, NOW)


def test_a_breach_says_what_its_bounces_point_to() -> None:
    hints = {("example.com", "bounce"): Hints(12, {"list": 9}), ("example.org", "bounce"): Hints(12, {"spf": 12})}
    known = Known(hints=hints, words=shipped().hints)
    found = conditions(snapshot(delivered=850, hard=150), (), PHASE_OF, BASE, known=known)
    told = {c.labels["target"]: c.annotations["description"] for c in found}
    assert told["bounce"].endswith(" Of the 12 newest bounces at hand, 9 point to the recipient list.")
    assert "point to" not in told["deliverability"] + told["complaint"]
    assert not any("SPF" in text for text in told.values())


def test_a_breached_target_becomes_an_alert_with_its_evidence() -> None:
    found = by_target(snapshot(delivered=850, hard=150))
    assert set(found) == {"bounce", "deliverability", "complaint"}
    bounce = found["bounce"]
    assert bounce.labels == {
        "alertname": "MailTargetBreached",
        "severity": "critical",
        "domain": "example.com",
        "phase": "growth",
        "target": "bounce",
    }
    assert bounce.holds is Holds.YES
    assert set(bounce.annotations) == {"summary", "description", "runbook_url"}
    description = bounce.annotations["description"]
    for evidence in ("150 of 1,000", "24h", "Measured 15 %", "95 % bounds 12.84 % to 17.37 %", "above 1 %"):
        assert evidence in description
    assert bounce.annotations["runbook_url"] == f"{BASE}#mailtargetbreached"
    assert not re.search(r"\d", bounce.annotations["summary"])
    assert found["deliverability"].holds is Holds.YES
    assert "it says nothing of inbox or spam folder" in found["deliverability"].annotations["description"]
    assert found["complaint"].holds is Holds.NO


def test_one_bounce_of_thirteen_holds_nothing() -> None:
    assert Holds.YES not in {c.holds for c in by_target(snapshot(delivered=12, hard=1)).values()}


def test_met_clears_and_capacity_and_unwatched_mail_never_alert() -> None:
    found = by_target(snapshot(delivered=10_000, hard=1))
    assert found["bounce"].holds is Holds.NO
    assert "capacity" not in found
    others = conditions(snapshot("other", hard=500), (), PHASE_OF, BASE)
    assert {c.labels["domain"] for c in others} == {"example.com"}


def judgement(target: str, verdict: TargetVerdict, failures: int, trials: int, limit: float) -> Judgement:
    good = trials - failures if target == "deliverability" else failures
    return Judgement(target, verdict, limit, "7d", Rate(good / trials, 0.0, 1.0, good, trials), "")


@pytest.mark.parametrize(
    ("target", "verdict", "failures", "trials", "limit", "holds"),
    [
        ("bounce", TargetVerdict.BREACHED, 150, 1000, 0.01, Holds.YES),
        ("bounce", TargetVerdict.MET, 1, 10_000, 0.01, Holds.NO),
        ("bounce", TargetVerdict.UNDECIDED, 11, 1000, 0.01, Holds.UNKNOWN),
        ("bounce", TargetVerdict.UNDECIDED, 10, 1000, 0.01, Holds.NO),
        ("deliverability", TargetVerdict.UNDECIDED, 51, 1000, 0.95, Holds.UNKNOWN),
        ("deliverability", TargetVerdict.UNDECIDED, 50, 1000, 0.95, Holds.NO),
        ("complaint", TargetVerdict.UNDECIDED, 2, 1000, 0.001, Holds.UNKNOWN),
        ("complaint", TargetVerdict.UNDECIDED, 1, 1000, 0.001, Holds.NO),
        ("bounce", TargetVerdict.INSUFFICIENT_DATA, 1, 13, 0.01, Holds.UNKNOWN),
        ("bounce", TargetVerdict.INSUFFICIENT_DATA, 0, 13, 0.01, Holds.NO),
        ("deliverability", TargetVerdict.INSUFFICIENT_DATA, 1, 13, 0.95, Holds.UNKNOWN),
        ("deliverability", TargetVerdict.INSUFFICIENT_DATA, 0, 13, 0.95, Holds.NO),
        ("complaint", TargetVerdict.INSUFFICIENT_DATA, 50, 10, 0.001, Holds.UNKNOWN),
        ("bounce", TargetVerdict.STALE, 0, 10_000, 0.01, Holds.UNKNOWN),
        ("bounce", TargetVerdict.STALE, 150, 1000, 0.01, Holds.UNKNOWN),
    ],
)
def test_when_a_breach_holds(
    target: str, verdict: TargetVerdict, failures: int, trials: int, limit: float, holds: Holds
) -> None:
    assert target_holds(judgement(target, verdict, failures, trials, limit)) is holds


@pytest.mark.parametrize("verdict", [TargetVerdict.INSUFFICIENT_DATA, TargetVerdict.STALE])
def test_no_mail_at_all_decides_nothing(verdict: TargetVerdict) -> None:
    assert target_holds(Judgement("bounce", verdict, 0.01, "7d", None, "")) is Holds.UNKNOWN


@pytest.mark.parametrize(
    ("verdict", "holds"),
    [
        (Verdict.FAIL, Holds.YES),
        (Verdict.WARN, Holds.NO),
        (Verdict.OK, Holds.NO),
        (Verdict.UNKNOWN, Holds.UNKNOWN),
    ],
)
def test_dns_findings(verdict: Verdict, holds: Holds) -> None:
    (found,) = conditions(None, [watched(verdict)], PHASE_OF, BASE)
    assert found.holds is holds
    assert found.labels == {
        "alertname": "MailDnsCheckFailing",
        "severity": "critical",
        "domain": "example.com",
        "phase": "growth",
        "check": "dkim",
        "subject": "s1",
    }
    assert found.annotations["runbook_url"] == f"{BASE}#maildnscheckfailing"
    assert found.annotations["summary"] == "DNS check failing: dkim of example.com (s1)"


def test_a_dns_alert_carries_record_and_advice() -> None:
    item = watched(Verdict.FAIL, advice="Publish v=DKIM1; p=...", rfc="RFC 6376 3.6.1", records=("v=DKIM1; p=",))
    description = conditions(None, [item], PHASE_OF, BASE)[0].annotations["description"]
    for part in ("No key is published (key_missing).", "v=DKIM1; p=", "Publish v=DKIM1; p=...", "RFC 6376 3.6.1"):
        assert part in description


def test_a_dns_alert_lists_every_fix() -> None:
    problems = tuple(Problem(Verdict.FAIL, "r", f"d{n}", fix) for n, fix in enumerate(("Publish A.", "", "Remove B.")))
    item = watched(Verdict.FAIL, advice="Publish A.", problems=problems)
    description = conditions(None, [item], PHASE_OF, BASE)[0].annotations["description"]
    assert "What to do:\n1. Publish A.\n2. Remove B." in description


def test_a_hostile_zone_makes_no_endless_message() -> None:
    item = watched(Verdict.FAIL, records=("x" * 60_000,) * 1000)
    description = conditions(None, [item], PHASE_OF, BASE)[0].annotations["description"]
    assert len(description) < 4000
    assert "and 995 more" in description


def test_a_check_without_subject_has_no_such_label() -> None:
    (found,) = conditions(None, [watched(Verdict.FAIL, check="mta_sts", subject="")], PHASE_OF, BASE)
    assert "subject" not in found.labels
    assert found.labels["severity"] == "warning"


@pytest.mark.parametrize(
    ("verdict", "holds", "severity"),
    [
        (Verdict.FAIL, Holds.YES, "critical"),
        (Verdict.WARN, Holds.YES, "warning"),
        (Verdict.OK, Holds.NO, "warning"),
        (Verdict.UNKNOWN, Holds.UNKNOWN, "warning"),
    ],
)
def test_a_listing(verdict: Verdict, holds: Holds, severity: str) -> None:
    (found,) = conditions(None, [watched(verdict, "blocklist", "192.0.2.1 psbl")], PHASE_OF, BASE)
    assert (found.labels["alertname"], found.holds, found.labels["severity"]) == ("MailBlocklisted", holds, severity)
    assert found.labels["subject"] == "192.0.2.1 psbl"
    assert found.states == "listing example.com 192.0.2.1"


def test_findings_of_a_domain_no_longer_configured_are_left_out() -> None:
    assert conditions(None, [watched(Verdict.FAIL)], {}, BASE) == []


@pytest.mark.parametrize(
    ("received", "refused", "silent", "refusing"),
    [
        (NOW - 60, 0, Holds.NO, Holds.NO),
        (NOW - 25 * HOUR, 0, Holds.YES, Holds.NO),
        (0, 0, Holds.NO, Holds.NO),
        (NOW - 60, NOW - 120, Holds.NO, Holds.NO),
        (NOW - 120, NOW - 60, Holds.NO, Holds.YES),
        (0, NOW - 60, Holds.NO, Holds.YES),
        (NOW - 48 * HOUR, NOW - 25 * HOUR, Holds.YES, Holds.NO),
    ],
)
def test_sources(received: float, refused: float, silent: Holds, refusing: Holds) -> None:
    health = SourceHealth("main", "example.com", "growth", received, refused)
    found = {c.labels["alertname"]: c for c in source_conditions([health], NOW, 24 * HOUR, BASE)}
    assert found["MailSourceSilent"].holds is silent
    assert found["MailSourceRefused"].holds is refusing
    for c in found.values():
        assert c.labels["source"] == "main"
        assert (c.labels["severity"], c.labels["domain"], c.labels["phase"]) == ("warning", "example.com", "growth")


@pytest.mark.parametrize("is_missing", [True, False])
def test_a_source_is_silent_sooner_when_its_rhythm_says_so(is_missing: bool) -> None:
    quiet = Silence(NOW - 3 * HOUR, 1234.5, 34.2, 20.0, is_missing)
    health = SourceHealth("main", "example.com", "growth", NOW - 3 * HOUR, 0, quiet)
    (found, _) = source_conditions([health], NOW, 24 * HOUR, BASE)
    assert found.holds is (Holds.YES if is_missing else Holds.NO)
    text = found.annotations["description"]
    assert "3.0 h ago" in text
    assert "1,234 events, in 34 intervals" in text
    assert "2025-06-15 12:08 UTC" in text
    assert "Up to 20 such" in text


@pytest.mark.parametrize(
    ("own", "received", "concerned"),
    [
        ("example.com", NOW - 60, []),
        ("example.com", NOW - 25 * HOUR, ["example.com"]),
        ("", NOW - 25 * HOUR, ["example.com"]),
        ("example.org", NOW - 25 * HOUR, []),
    ],
)
def test_whose_rates_a_silent_source_is_missing_in(own: str, received: float, concerned: list[str]) -> None:
    sources = [SourceHealth("main", own, "growth", received, 0, None, "ses")]
    found = unheard(source_conditions(sources, NOW, 24 * HOUR, BASE), sources, snapshot(delivered=9_990, hard=10))
    assert list(found) == concerned
    other = [SourceHealth("main", own, "growth", received, 0, None, "mailgun")]
    assert unheard(source_conditions(other, NOW, 24 * HOUR, BASE), other, snapshot(delivered=9_990)) == {}


def test_what_is_better_while_a_source_is_not_heard_decides_nothing() -> None:
    good = snapshot(delivered=10_000, hard=1)
    found = conditions(good, (), PHASE_OF, BASE, known=Known(unheard={"example.com"}))
    assert {c.holds for c in found} == {Holds.UNKNOWN}
    bad = conditions(snapshot(delivered=850, hard=150), (), PHASE_OF, BASE, known=Known(unheard={"example.com"}))
    assert next(c for c in bad if c.labels["target"] == "bounce").holds is Holds.YES


def test_labels_never_carry_a_value_or_a_time() -> None:
    """A label that changes with the evidence would make each look a new alert."""
    worse = by_target(snapshot(delivered=500, hard=500))
    for target, c in by_target(snapshot(delivered=850, hard=150)).items():
        assert worse[target].labels == c.labels
        assert worse[target].annotations["description"] != c.annotations["description"]


def test_every_alert_has_its_runbook() -> None:
    text = (Path(__file__).parents[3] / "docs" / "alerts.md").read_text()
    anchors = {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in re.findall(r"(?m)^#+ (.+)$", text)}
    for name, alert in ALERTS.items():
        assert alert.name == name
        assert alert.anchor in anchors
        assert name in text
