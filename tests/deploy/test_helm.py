"""The chart says what the kustomizations say: rendered by Helm itself, compared by object, and strictly valid."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from helm_python.chart import Chart, lint
from helm_python.errors import HelmError

import agent
from agent.settings import load
from tests.deploy.manifests import ROOT, SECRETS, kustomized, one, secret_files, verification_key

CHART = ROOT / "deploy/helm/mailvitals"
OLDEST = "1.30"
OPERATOR_KINDS = ("ServiceMonitor", "PrometheusRule")
MANAGED_BY, CHECKSUM = "app.kubernetes.io/managed-by", "checksum/settings"
FORMS = ("embedded", "scaled", "edge")


@functools.cache
def chart() -> Chart:
    return Chart.load(CHART)


def rendered(name: str = "mailvitals", **values: Any) -> list[dict[str, Any]]:
    files = chart().render(values, name=name, namespace="mail")
    texts = [text for path, text in files.items() if path.endswith(".yaml")]
    return [one for text in texts for one in yaml.safe_load_all(text) if one]


def of_form(form: str) -> dict[str, Any]:
    """The values of a form: with the settings of its overlay, where the chart's own are not meant for it."""
    if form == "embedded":
        return {}
    own = yaml.safe_load((ROOT / f"deploy/overlays/{form}/mailvitals.yaml").read_text())
    # Helm merges maps: what the defaults have too much goes by being null.
    extra: dict[str, None] = dict.fromkeys(chart().values["settings"].keys() - own.keys())
    return {"form": form, "settings": {**extra, **own}}


def told_apart(objects: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """By kind and name, without what Helm and kustomize do each in their own way: the name of who manages it, and how
    changed settings roll the pods."""
    text = json.dumps(objects)
    for thing in objects:
        if thing["kind"] == "ConfigMap":
            text = text.replace(thing["metadata"]["name"] + '"', 'mailvitals"')
    found = {}
    for thing in json.loads(text):
        template = thing.get("spec", {}).get("template")
        for meta in (thing["metadata"], *([template["metadata"]] if template else ())):
            assert meta["labels"].pop(MANAGED_BY)
        if template:
            template["metadata"]["annotations"].pop(CHECKSUM, None)
        if thing["kind"] == "ConfigMap":
            thing["data"] = {name: yaml.safe_load(content) for name, content in thing["data"].items()}
        key = (thing["kind"], thing["metadata"]["name"])
        assert key not in found
        found[key] = thing
    return found


@pytest.mark.parametrize("form", FORMS)
def test_the_chart_renders_what_the_kustomization_does(form: str) -> None:
    ours, theirs = told_apart(rendered(**of_form(form))), told_apart(kustomized(f"deploy/overlays/{form}"))
    assert ours.keys() == theirs.keys()
    for key, thing in theirs.items():
        assert ours[key] == thing, key


def test_the_default_values_are_the_base() -> None:
    assert told_apart(rendered()) == told_apart(kustomized("deploy/base"))


def test_monitoring_is_that_of_the_kustomization() -> None:
    ours = [o for o in rendered(monitoring={"enabled": True}) if o["kind"] in OPERATOR_KINDS]
    theirs = [o for o in kustomized("deploy/monitoring") if o["kind"] in OPERATOR_KINDS]
    assert {(o["kind"], o["metadata"]["name"]): o["spec"] for o in ours} == {
        (o["kind"], o["metadata"]["name"]): o["spec"] for o in theirs
    }
    assert all(o["metadata"]["labels"]["release"] == "kube-prometheus-stack" for o in ours)


VARIANTS: dict[str, dict[str, Any]] = {
    "of a registry": {"image": {"repository": "registry.example.com/mailvitals", "tag": "1@sha256:" + "0" * 64}},
    "with pull secrets": {"imagePullSecrets": [{"name": "registry"}]},
    "on a storage class": {"persistence": {"storageClassName": "fast", "size": "1Ti", "accessMode": "ReadWriteOnce"}},
    "without policy": {"networkPolicy": {"enabled": False}},
    "by CPU alone": {"form": "scaled", "autoscaling": {"queueEvents": 0, "maxReplicas": 2_000_000}},
    "of large queues": {"form": "scaled", "autoscaling": {"queueEvents": 5_000_000}},
    "five edges": {"form": "edge", "replicas": 5, "persistence": {"storageClassName": "fast"}},
    "placed": {
        "nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "mail", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "a", "operator": "Exists"}]},
        ]}}},
    },
    "monitored": {"monitoring": {"enabled": True, "labels": {"release": "mine"}}},
}  # fmt: skip


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("variant", VARIANTS)
def test_whatever_the_values_every_object_is_valid(variant: str, version: str) -> None:
    objects = rendered("eu", **VARIANTS[variant])
    assert len({(o["kind"], o["metadata"]["name"]) for o in objects}) == len(objects)
    for thing in objects:
        if thing["kind"] in OPERATOR_KINDS:
            assert thing["apiVersion"] == "monitoring.coreos.com/v1"
            continue
        kubernetes_validate.validate(thing, version, strict=True)


def test_two_releases_do_not_touch_each_other() -> None:
    one_release, other = rendered("mailvitals"), rendered("eu")
    assert not {(o["kind"], o["metadata"]["name"]) for o in one_release} & {
        (o["kind"], o["metadata"]["name"]) for o in other
    }
    labels = one(other, "Deployment")["spec"]["template"]["metadata"]["labels"]
    for thing in one_release:
        selector = thing["spec"].get("selector", {}) if "spec" in thing else {}
        wanted = selector.get("matchLabels", selector)
        assert not wanted or not wanted.items() <= labels.items()


def test_changed_settings_roll_the_pods() -> None:
    def checksum(**values: Any) -> str:
        deployment = one(rendered(**values), "Deployment")
        return str(deployment["spec"]["template"]["metadata"]["annotations"][CHECKSUM])

    assert checksum() == checksum()
    assert checksum() != checksum(settings={"log": {"level": "debug"}})


def test_the_agent_accepts_the_settings_large_numbers_too(tmp_path: Path) -> None:
    secret_files(tmp_path, {"private_token": "t" * 64, "sendgrid_verification_key": verification_key()})
    path = tmp_path / "mailvitals.yaml"
    large = {"listen": {"max_body_bytes": 123_456_789}}  # Helm knows numbers as floats alone.
    path.write_text(
        one(rendered(settings=large), "ConfigMap")["data"]["mailvitals.yaml"].replace(SECRETS, str(tmp_path))
    )
    settings = load(path, {"MAILVITALS_LISTEN__PRIVATE": "10.1.2.3:8081"})
    assert settings.sources[0].domain == settings.domains[0].name
    assert settings.listen.max_body_bytes == 123_456_789


@pytest.mark.parametrize(
    "values",
    [
        {"form": "clustered"}, {"replica": 3}, {"replicas": 0}, {"image": {"repo": "x"}},
        {"image": {"pullPolicy": "Sometimes"}}, {"autoscaling": {"minReplicas": "two"}},
        {"settings": "text"}, {"settings": {"listen": {"private_token": "in a ConfigMap"}}},
        {"persistence": {"accessMode": "ReadWriteMany"}}, {"persistence": {"size": "much"}},
        {"networkPolicy": {"ingressNamespace": "A B"}}, {"monitoring": {"enable": True}},
    ],
    ids=str,
)  # fmt: skip
def test_values_that_mean_nothing_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(HelmError, match=r"(?i)schema|validation"):
        rendered(**values)


def test_the_schema_knows_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    values = chart().values

    def compare(value: dict[str, Any], part: dict[str, Any], where: str) -> None:
        properties = part.get("properties", {})
        assert set(value) <= set(properties), where
        assert set(properties) - set(value) <= {"global"}, where
        for name, inner in value.items():
            if isinstance(inner, dict) and properties[name].get("additionalProperties") is False:
                compare(inner, properties[name], f"{where}.{name}")

    compare(values, schema, "values")


def test_the_chart_is_sound_and_of_this_version() -> None:
    found = lint(CHART, {}, strict=True, kube_version=OLDEST)
    assert [m for m in found["messages"] if "icon" not in m["error"]] == []
    assert found["errors"] == []
    assert chart().metadata["version"] == chart().metadata["appVersion"] == agent.__version__


def test_the_rules_in_the_chart_are_the_rule_files() -> None:
    def texts(folder: str) -> dict[str, str]:
        return {path.name: path.read_text() for path in (ROOT / folder).glob("*.yaml")}

    assert texts("deploy/helm/mailvitals/rules") == texts("deploy/rules"), "make rules"
