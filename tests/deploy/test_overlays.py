"""The three forms of deploy/overlays: valid, restricted, spread over the cluster, and updated without a gap."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from agent.intake.gate import QUEUE_EVENTS
from agent.listeners import SHUTDOWN_REQUESTS
from agent.settings import Listen, Store, load
from agent.views.catalogue import CATALOGUE, PREFIX
from tests.deploy.manifests import ROOT, SECRETS, kustomized, one, secret_files, verification_key

OVERLAYS = {"embedded": "Deployment", "scaled": "Deployment", "edge": "StatefulSet"}
NAME, INSTANCE, COMPONENT, VERSION = (f"app.kubernetes.io/{x}" for x in ("name", "instance", "component", "version"))
OLDEST = "1.30"
COMMIT = 20.0  # seconds that the last commit may take


def objects(form: str) -> list[dict[str, Any]]:
    return kustomized(f"deploy/overlays/{form}")


def workload(form: str) -> dict[str, Any]:
    spec: dict[str, Any] = one(objects(form), OVERLAYS[form])["spec"]
    return spec


def pod(form: str) -> dict[str, Any]:
    spec: dict[str, Any] = workload(form)["template"]["spec"]
    return spec


def container(form: str) -> dict[str, Any]:
    (only,) = pod(form)["containers"]
    found: dict[str, Any] = only
    return found


def egress(form: str) -> set[int]:
    rules = one(objects(form), "NetworkPolicy")["spec"]["egress"]
    return {port["port"] for rule in rules for port in rule["ports"]}


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("form", OVERLAYS)
def test_every_object_is_valid_in_the_strict_schema(form: str, version: str) -> None:
    for thing in objects(form):
        kubernetes_validate.validate(thing, version, strict=True)


def test_the_embedded_form_is_the_base() -> None:
    assert objects("embedded") == kustomized("deploy/base")


@pytest.mark.parametrize("form", OVERLAYS)
def test_the_pod_is_restricted_in_every_form(form: str) -> None:
    base = one(kustomized("deploy/base"), "Deployment")["spec"]["template"]["spec"]
    for field in (
        "securityContext",
        "automountServiceAccountToken",
        "serviceAccountName",
        "enableServiceLinks",
        "dnsConfig",
    ):
        assert pod(form)[field] == base[field], "what test_manifests asserts of the base"
    (of_base,) = base["containers"]
    for field in ("securityContext", "livenessProbe", "readinessProbe", "startupProbe", "resources", "ports", "image"):
        assert container(form)[field] == of_base[field]
    mounted = {m["name"] for m in container(form)["volumeMounts"]}
    claimed = {c["metadata"]["name"] for c in workload(form).get("volumeClaimTemplates", ())}
    assert mounted == {v["name"] for v in pod(form)["volumes"]} | claimed, "every volume is mounted, and there"


@pytest.mark.parametrize("form", OVERLAYS)
def test_there_is_time_for_an_orderly_end(form: str) -> None:
    pause = container(form)["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = Listen.model_fields["drain"].default
    assert pod(form)["terminationGracePeriodSeconds"] >= pause + drain + SHUTDOWN_REQUESTS + COMMIT


@pytest.mark.parametrize("form", OVERLAYS)
def test_labels_are_on_everything_and_selectors_are_stable(form: str) -> None:
    labels = workload(form)["template"]["metadata"]["labels"]
    assert labels[COMPONENT] == ("edge" if form == "edge" else "agent")
    for thing in objects(form):
        assert thing["metadata"]["labels"].items() >= labels.items(), thing["kind"]
        selector = thing["spec"].get("selector", thing["spec"].get("podSelector")) if "spec" in thing else None
        if selector is not None:
            wanted = selector.get("matchLabels", selector)
            assert wanted == {NAME: "mailvitals", INSTANCE: "mailvitals"}, "and so cannot change with a version"


@pytest.mark.parametrize("form", ["scaled", "edge"])
def test_replicas_are_spread_and_evicted_one_at_a_time(form: str) -> None:
    spread = pod(form)["topologySpreadConstraints"]
    assert [c["topologyKey"] for c in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    for constraint in spread:
        assert (
            constraint["labelSelector"]["matchLabels"].items()
            <= workload(form)["template"]["metadata"]["labels"].items()
        )
        assert constraint["whenUnsatisfiable"] == "ScheduleAnyway", "better together than not at all"
    budget = one(objects(form), "PodDisruptionBudget")["spec"]
    assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
    assert budget["selector"] == workload(form)["selector"]


@pytest.mark.parametrize("form", OVERLAYS)
def test_every_secret_that_is_read_is_in_the_example(form: str) -> None:
    folder = "base" if form == "embedded" else f"overlays/{form}"
    secret = yaml.safe_load((ROOT / "deploy" / folder / "secret.example.yaml").read_text())
    kubernetes_validate.validate(secret, OLDEST, strict=True)
    settings = one(objects(form), "ConfigMap")["data"]["mailvitals.yaml"]
    read = set(re.findall(rf"{SECRETS}/(\w+)", settings + str(container(form)["env"])))
    assert read == set(secret["stringData"])


@pytest.mark.parametrize("form", OVERLAYS)
def test_the_agent_accepts_the_settings(form: str, tmp_path: Path) -> None:
    folder = "base" if form == "embedded" else f"overlays/{form}"
    keys = yaml.safe_load((ROOT / "deploy" / folder / "secret.example.yaml").read_text())["stringData"]
    secret_files(tmp_path, {**dict.fromkeys(keys, "k" * 64), "sendgrid_verification_key": verification_key()})
    path = tmp_path / "mailvitals.yaml"
    path.write_text(one(objects(form), "ConfigMap")["data"]["mailvitals.yaml"].replace(SECRETS, str(tmp_path)))
    given = {e["name"]: e.get("value", "10.1.2.3").replace(SECRETS, str(tmp_path)) for e in container(form)["env"]}
    environment = {k: v.replace("$(POD_IP)", "10.1.2.3") for k, v in given.items() if k.startswith("MAILVITALS_")}
    settings = load(path, environment)
    assert settings.listen.private == "10.1.2.3:8081"
    assert settings.bus.mode == ("edge" if form == "edge" else "none")
    assert (settings.store.server is not None) == (form == "scaled")


# The scaled form.


def test_the_scaled_form_updates_without_a_gap_and_has_no_disk() -> None:
    assert workload("scaled")["strategy"] == {
        "type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
    }  # fmt: skip
    assert workload("scaled")["minReadySeconds"] > 0
    assert not [o for o in objects("scaled") if o["kind"] == "PersistentVolumeClaim"]
    assert {m["mountPath"] for m in container("scaled")["volumeMounts"] if not m.get("readOnly")} == {"/tmp"}
    assert 5432 in egress("scaled")


def test_the_autoscaler_alone_says_how_many_and_by_a_metric_that_exists() -> None:
    assert "replicas" not in workload("scaled"), "or each apply would undo it"
    spec = one(objects("scaled"), "HorizontalPodAutoscaler")["spec"]
    target = one(objects("scaled"), "Deployment")
    assert spec["scaleTargetRef"] == {
        "apiVersion": target["apiVersion"],
        "kind": target["kind"],
        "name": target["metadata"]["name"],
    }
    assert 2 <= spec["minReplicas"] < spec["maxReplicas"]
    (pods,) = [m["pods"] for m in spec["metrics"] if m["type"] == "Pods"]
    metric = CATALOGUE[pods["metric"]["name"].removeprefix(PREFIX)]
    assert (metric.type, metric.labels) == ("gauge", ())
    assert int(pods["target"]["averageValue"]) * 2 < QUEUE_EVENTS // 2, "long before one source is turned away"
    assert spec["maxReplicas"] * Store.model_fields["max_connections"].default < 90, "PostgreSQL's own limit is 100"
    (cpu,) = [m["resource"] for m in spec["metrics"] if m["type"] == "Resource"]
    resources = container("scaled")["resources"]
    assert resources["requests"]["cpu"] == "100m"
    assert cpu["target"]["averageUtilization"] / 1000 < float(resources["limits"]["cpu"]), "before it is throttled"
    assert spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 300


# The edge.


def test_an_edge_keeps_its_spool() -> None:
    spec = workload("edge")
    assert not [
        o for o in objects("edge") if o["kind"] in ("Deployment", "PersistentVolumeClaim", "HorizontalPodAutoscaler")
    ]
    assert set(spec["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
    (claim,) = spec["volumeClaimTemplates"]
    assert "labels" not in claim["metadata"], "they could never change, and one of ours is the version"
    assert claim["metadata"]["name"] in {m["name"] for m in container("edge")["volumeMounts"]}
    assert spec["serviceName"] in {o["metadata"]["name"] for o in objects("edge") if o["kind"] == "Service"}
    settings = yaml.safe_load(one(objects("edge"), "ConfigMap")["data"]["mailvitals.yaml"])
    (mount,) = [m for m in container("edge")["volumeMounts"] if m["name"] == claim["metadata"]["name"]]
    assert settings["store"]["url"].startswith(f"sqlite:///{mount['mountPath']}/")


def test_an_edge_reaches_the_broker_and_no_alertmanager() -> None:
    assert egress("edge") == {53, 443, 8883}
    settings = yaml.safe_load(one(objects("edge"), "ConfigMap")["data"]["mailvitals.yaml"])
    assert settings["bus"]["url"].endswith(":8883")
    assert "alertmanagers" not in settings
