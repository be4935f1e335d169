"""The Prometheus rules: well formed, tried with series, and never a second voice beside the agent's own alerts."""

from __future__ import annotations

import re
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.alerts.catalogue import ALERTS
from agent.views.catalogue import CATALOGUE, REQUEST_OUTCOMES
from agent.vitals.types import TargetVerdict
from tests.servers.base import program

ROOT = Path(__file__).parents[2]
RULES = sorted((ROOT / "deploy" / "rules").glob("*.yaml"))
UNIT_TESTS = sorted((ROOT / "deploy" / "rules" / "tests").glob("*.yaml"))
PUSHED = set(ALERTS)
VERDICTS = ROOT / "deploy" / "rules" / "mailvitals-verdicts.yaml"


def rules(path: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for path in RULES for rule in rules(path) if "alert" in rule]


def promtool(*arguments: str) -> None:
    done = subprocess.run([program("promtool", "prometheus"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_rules_and_each_file_has_its_tests() -> None:
    assert [p.name for p in RULES] == ["mailvitals-agent.yaml", "mailvitals-verdicts.yaml"]
    tried = {(path.parent / name).resolve() for path in UNIT_TESTS
             for name in yaml.safe_load(path.read_text(encoding="utf-8"))["rule_files"]}  # fmt: skip
    assert tried == {path.resolve() for path in RULES}


@pytest.mark.parametrize("path", RULES, ids=lambda p: p.name)
def test_promtool_accepts_the_rules(path: Path) -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(path))


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda p: p.name)
def test_the_rules_fire_when_they_should_and_only_then(path: Path) -> None:
    promtool("test", "rules", str(path))


def test_every_alert_is_seen_firing_in_a_unit_test() -> None:
    seen = {
        case["alertname"]
        for path in UNIT_TESTS
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]
        for case in test.get("alert_rule_test", ())
        if case["exp_alerts"]
    }
    assert seen == {alert["alert"] for alert in alerts()}


def test_alerts_carry_what_a_responder_needs() -> None:
    for alert in alerts():
        name = alert["alert"]
        if "mailvitals_incident_open" in alert["expr"]:
            assert "labels" not in alert, "the severity is the incident's own"
        else:
            assert alert["labels"]["severity"] in {"critical", "warning", "info"}, name
            assert not any("$" in str(value) for value in alert["labels"].values()), f"{name}: a value in a label"
        notes = alert["annotations"]
        assert "{{" not in notes["summary"], name
        assert notes["description"], name
        assert notes["runbook_url"].endswith(f"/docs/operations.md#{name.lower()}"), name


def test_every_runbook_exists() -> None:
    headings = re.findall(r"^#+ +(.+?) *$", (ROOT / "docs" / "operations.md").read_text(encoding="utf-8"), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert {alert["alert"].lower() for alert in alerts()} <= anchors


def test_no_alert_has_two_owners() -> None:
    assert not {alert["alert"] for alert in alerts()} & PUSHED


def test_each_alert_of_the_agent_has_a_rule_and_the_file_is_what_is_made_of_them() -> None:
    made = runpy.run_path(str(ROOT / "deploy" / "rules" / "render.py"))["render"]()
    assert VERDICTS.read_text(encoding="utf-8") == made, "make rules"
    named = [re.search(r'alert="(\w+)"', rule["expr"]) for rule in rules(VERDICTS)]
    assert [found[1] for found in named if found] == list(ALERTS)


def test_verdict_rules_are_silent_where_the_agent_pushes() -> None:
    for rule in rules(VERDICTS):
        assert rule["expr"].strip().endswith("unless on () (max(mailvitals_alertmanagers) > 0)"), rule["alert"]


def test_rules_name_metrics_labels_and_values_that_exist() -> None:
    recorded = {rule["record"] for path in RULES for rule in rules(path) if "record" in rule}
    for path in RULES:
        for rule in rules(path):
            expression = rule["expr"]
            for name in re.findall(r"job:mailvitals_\w+:\w+", expression):
                assert name in recorded
            for name, matchers in re.findall(r"(?<!:)\bmailvitals_(\w+)(?:\{([^}]*)\})?", expression):
                metric = CATALOGUE.get(name) or CATALOGUE[name.removesuffix("_bucket")]
                labels = dict(re.findall(r'(\w+)[!=~]+"([^"]*)"', matchers))
                assert set(labels) - {"job"} <= set(metric.labels), (rule, name)
                if name == "webhook_requests_total":
                    assert set(labels.get("outcome", "accepted").split("|")) <= set(REQUEST_OUTCOMES)
                if name == "target_verdict":
                    assert labels["verdict"] in set(TargetVerdict)
