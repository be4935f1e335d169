"""The Grafana dashboard: generated, self-contained, and about metrics that exist."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from agent.views.catalogue import CATALOGUE
from agent.vitals.phases import PHASES

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "grafana"
BOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "mailvitals.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
VARIABLES: dict[str, dict[str, Any]] = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Not ours: what every Prometheus client exposes.
STANDARD = {"process_resident_memory_bytes"}


def expressions() -> list[tuple[str, str]]:
    """Every query of the dashboard by panel title."""
    found = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
    return found + [(note["name"], note["expr"]) for note in BOARD["annotations"]["list"]]


def concrete(expression: str, window: str = "24h") -> str:
    """The query as Grafana would send it, all domains chosen."""
    return expression.replace("$__rate_interval", "1m").replace("$domain", ".+").replace("$window", window)


def test_the_committed_file_is_what_the_generator_makes() -> None:
    made = runpy.run_path(str(GRAFANA / "src" / "dashboard.py"))["render"]()
    assert made == (GRAFANA / "dashboards" / "mailvitals.json").read_text(encoding="utf-8")


def test_the_frame_suits_any_grafana() -> None:
    assert BOARD["uid"] == "mailvitals"
    assert BOARD["id"] is None
    assert "version" not in BOARD
    assert "__inputs" not in BOARD
    assert BOARD["editable"] is True
    assert BOARD["timezone"] == "browser"
    assert BOARD["schemaVersion"] == 41
    assert "mailvitals" in BOARD["tags"]
    assert BOARD["links"][0]["url"].endswith("/docs/operations.md")
    assert len(json.dumps(BOARD)) < 2**20  # the limit of a ConfigMap


def test_the_data_source_is_the_readers_choice() -> None:
    assert VARIABLES["datasource"]["type"] == "datasource"
    assert VARIABLES["datasource"]["query"] == "prometheus"
    assert VARIABLES["domain"]["datasource"] == SOURCE
    for panel in PANELS:
        assert panel["datasource"] == SOURCE, panel["title"]
        assert all(target["datasource"] == SOURCE for target in panel["targets"]), panel["title"]
    assert all(note["datasource"] == SOURCE for note in BOARD["annotations"]["list"])
    uids = set(re.findall(r'"uid": "([^"]*)"', json.dumps(BOARD)))
    assert uids == {"mailvitals", "${datasource}"}


def test_panels_explain_themselves_and_have_their_place() -> None:
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    titles = [panel["title"] for panel in PANELS]
    assert len(set(titles)) == len(titles) > 30
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        assert panel["title"], panel["id"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["targets"], panel["title"]
        if panel["type"] not in ("state-timeline", "table"):
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}  # fmt: skip
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


def test_limits_are_the_targets_own() -> None:
    phase = PHASES["foundation"]
    limits = {
        "Deliverability": phase.deliverability_min,
        "Bounce rate": phase.bounce_max,
        "Complaint rate": phase.complaint_breach,
    }
    for title, limit in limits.items():
        panel = next(panel for panel in PANELS if panel["title"] == title)
        assert [step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]] == [None, limit]


@pytest.mark.parametrize(("title", "expression"), expressions())
def test_queries_parse_and_name_what_exists(title: str, expression: str) -> None:
    promql_parser.parse(concrete(expression))
    if "rate(" in expression:
        assert "[$__rate_interval]" in expression
    names = set(re.findall(r"\b(?:mailvitals|process)_\w+", expression))
    assert names
    for name in names - STANDARD:
        metric = name.removeprefix("mailvitals_").removesuffix("_bucket")
        assert metric in CATALOGUE, name
        if CATALOGUE[metric].whole:
            assert "max without (instance, pod" in expression or re.search(rf"max\({name}\b", expression), title
    for name, matchers in re.findall(r"mailvitals_(\w+)\{([^}]+)\}", expression):
        assert set(re.findall(r"(\w+)[!=~]+\"", matchers)) <= set(CATALOGUE[name].labels), title


def test_every_metric_of_a_domain_is_on_the_dashboard() -> None:
    shown = {name for _, e in expressions() for name in re.findall(r"mailvitals_(\w+)", e)}
    shown = {name.removesuffix("_bucket") for name in shown}
    missing = {name for name in CATALOGUE if name not in shown}
    # Parts show the judged rates and blocks, without their bounds, which would drown the lines.
    assert all(re.match("(mailbox_)?provider_|stream_|(block|soft_bounce|suppression)_ratio_", m) for m in missing)


def test_provisioning_finds_the_dashboard() -> None:
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/mailvitals.yaml").read_text())["providers"][0]
    assert provider["allowUiUpdates"] is False
    assert provider["folder"]
    source = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"][0]
    assert source["type"] == VARIABLES["datasource"]["query"]
