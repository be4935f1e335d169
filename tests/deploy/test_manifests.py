"""What kustomize makes of deploy/ is valid for the oldest and the newest Kubernetes we name, runs under the restricted
pod security profile, fits together, and carries settings that the agent accepts."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

import agent
from agent.settings import Settings, SettingsError, load
from tests.deploy.manifests import ROOT, SECRETS, kustomized, one, secret_files, verification_key

BASE, MONITORING, EXAMPLE = "deploy/base", "deploy/monitoring", "examples/kubernetes"
OLDEST = "1.30"
# Kinds of the Prometheus operator, which the schemas of Kubernetes do not know; their fields are asserted below.
OPERATOR_KINDS = {"ServiceMonitor", "PrometheusRule"}
NAME, INSTANCE = "app.kubernetes.io/name", "app.kubernetes.io/instance"


def deployment() -> dict[str, Any]:
    return one(kustomized(BASE), "Deployment")


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = deployment()["spec"]["template"]["spec"]
    return spec


def container() -> dict[str, Any]:
    (only,) = pod()["containers"]
    result: dict[str, Any] = only
    return result


def environment() -> dict[str, str]:
    """The container's MAILVITALS_ variables as the kubelet would set them."""
    given = {e["name"]: e.get("value", "10.1.2.3") for e in container()["env"]}
    return {k: v.replace("$(POD_IP)", given["POD_IP"]) for k, v in given.items() if k.startswith("MAILVITALS_")}


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("folder", [BASE, MONITORING, EXAMPLE])
def test_every_object_is_valid_in_the_strict_schema(folder: str, version: str) -> None:
    for thing in kustomized(folder):
        if thing["kind"] in OPERATOR_KINDS:
            assert thing["apiVersion"] == "monitoring.coreos.com/v1"
            continue
        kubernetes_validate.validate(thing, version, strict=True)


def test_the_secret_example_is_valid_and_has_every_key_that_is_read() -> None:
    secret = yaml.safe_load((ROOT / BASE / "secret.example.yaml").read_text())
    kubernetes_validate.validate(secret, OLDEST, strict=True)
    settings = one(kustomized(BASE), "ConfigMap")["data"]["mailvitals.yaml"]
    read = set(re.findall(rf"{SECRETS}/(\w+)", settings + " ".join(environment().values())))
    assert read == set(secret["stringData"])
    (volume,) = [v for v in pod()["volumes"] if "secret" in v]
    assert volume["secret"]["secretName"] == secret["metadata"]["name"]
    (mount,) = [m for m in container()["volumeMounts"] if m["name"] == volume["name"]]
    assert mount["mountPath"] == SECRETS
    assert mount["readOnly"] is True


def test_the_restricted_profile_and_beyond() -> None:
    spec = pod()
    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] == security["fsGroup"] == 65532
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"} & set(spec)
    assert {next(iter(set(v) - {"name"})) for v in spec["volumes"]} <= {
        "configMap", "secret", "emptyDir", "persistentVolumeClaim",
    }  # fmt: skip
    own = container()["securityContext"]
    assert own == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert not [p for p in container()["ports"] if "hostPort" in p]
    assert spec["automountServiceAccountToken"] is False
    assert one(kustomized(BASE), "ServiceAccount")["automountServiceAccountToken"] is False
    assert {m["mountPath"] for m in container()["volumeMounts"] if not m.get("readOnly")} == {
        "/var/lib/mailvitals", "/tmp",
    }  # fmt: skip


def test_one_writer_and_never_two_at_once() -> None:
    spec = deployment()["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}
    claim = one(kustomized(BASE), "PersistentVolumeClaim")
    (volume,) = [v for v in pod()["volumes"] if "persistentVolumeClaim" in v]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_probes_ask_the_private_port_and_liveness_is_patient() -> None:
    spec = container()
    assert spec["startupProbe"]["httpGet"] == {"path": "/healthz", "port": "private"}
    assert spec["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "private"}
    assert spec["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "private"}
    assert spec["startupProbe"]["periodSeconds"] * spec["startupProbe"]["failureThreshold"] >= 300
    assert spec["livenessProbe"]["periodSeconds"] * spec["livenessProbe"]["failureThreshold"] >= 60


def test_the_grace_period_covers_the_pause_the_requests_and_the_drain() -> None:
    pause = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pause > 0
    assert pod()["terminationGracePeriodSeconds"] >= pause + 30


def test_resources_have_requests_and_limits() -> None:
    resources = container()["resources"]
    assert set(resources["requests"]) == set(resources["limits"]) == {"cpu", "memory"}


@pytest.mark.parametrize("folder", [BASE, MONITORING])
def test_recommended_labels_are_on_everything(folder: str) -> None:
    wanted = {NAME, INSTANCE, "app.kubernetes.io/part-of", "app.kubernetes.io/managed-by"}
    if folder == BASE:
        wanted |= {"app.kubernetes.io/version", "app.kubernetes.io/component"}
        assert wanted <= set(deployment()["spec"]["template"]["metadata"]["labels"])
    for thing in kustomized(folder):
        assert wanted <= set(thing["metadata"]["labels"]), thing["metadata"]["name"]


def test_selectors_are_stable_and_match_the_pod() -> None:
    labels = deployment()["spec"]["template"]["metadata"]["labels"]
    objects = kustomized(BASE)
    selectors = [
        deployment()["spec"]["selector"]["matchLabels"],
        one(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(o["spec"]["selector"] for o in objects if o["kind"] == "Service"),
    ]
    assert len(selectors) == 4
    for selector in selectors:
        assert set(selector) == {NAME, INSTANCE}
        assert selector.items() <= labels.items()


def test_each_service_reaches_one_listener() -> None:
    ports = {p["name"]: p["containerPort"] for p in container()["ports"]}
    assert ports == {"webhooks": 8080, "private": 8081}
    targets = {
        o["metadata"]["name"]: [(p["port"], ports[p["targetPort"]]) for p in o["spec"]["ports"]]
        for o in kustomized(BASE)
        if o["kind"] == "Service"
    }
    assert targets == {"mailvitals-webhooks": [(8080, 8080)], "mailvitals-private": [(8081, 8081)]}


def test_the_network_policy_names_ports_that_exist_and_keeps_the_listeners_apart() -> None:
    spec = one(kustomized(BASE), "NetworkPolicy")["spec"]
    assert sorted(spec["policyTypes"]) == ["Egress", "Ingress"]
    came_in = [[p["port"] for p in rule["ports"]] for rule in spec["ingress"]]
    assert came_in == [["webhooks"], ["private"]]
    assert all(rule["from"] for rule in spec["ingress"])
    out = {(p["protocol"], p["port"]) for rule in spec["egress"] for p in rule["ports"]}
    assert {("UDP", 53), ("TCP", 53), ("TCP", 443), ("TCP", 9093)} == out


def test_the_ingress_leads_to_the_public_service_only() -> None:
    ingress = one(kustomized(EXAMPLE), "Ingress")
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["path"] == "/webhooks/"
    backend = path["backend"]["service"]
    service = one(kustomized(EXAMPLE), "Service", backend["name"])
    assert backend["port"]["name"] in {p["name"] for p in service["spec"]["ports"]}
    assert backend["name"] == "mailvitals-webhooks"


def test_one_version_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert agent.__version__ == version
    assert container()["image"] == f"mailvitals:{version}"
    for thing in kustomized(BASE):
        assert thing["metadata"]["labels"]["app.kubernetes.io/version"] == version
    assert f"ARG VERSION={version}\n" in (ROOT / "Dockerfile").read_text()
    image = one(kustomized(EXAMPLE), "Deployment")["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == f"registry.example.com/mailvitals:{version}"


def settings_of(folder: str, tmp_path: Path, key: str) -> Settings:
    secret_files(tmp_path, {"private_token": "t" * 64, "sendgrid_verification_key": key})
    text = one(kustomized(folder), "ConfigMap")["data"]["mailvitals.yaml"]
    path = tmp_path / "mailvitals.yaml"
    path.write_text(text.replace(SECRETS, str(tmp_path)))
    return load(path, {k: v.replace(SECRETS, str(tmp_path)) for k, v in environment().items()})


@pytest.mark.parametrize("folder", [BASE, EXAMPLE])
def test_the_agent_accepts_the_settings(folder: str, tmp_path: Path) -> None:
    settings = settings_of(folder, tmp_path, verification_key())
    assert settings.listen.public.endswith(":8080")
    assert settings.listen.private == "10.1.2.3:8081"
    assert settings.listen.private_token is not None
    assert settings.listen.private_token.get_secret_value() == "t" * 64
    assert settings.store.url.startswith("sqlite:////var/lib/mailvitals/")
    assert {s.domain for s in settings.sources} <= {d.name for d in settings.domains}


def test_the_agent_refuses_the_placeholder_of_the_secret_example(tmp_path: Path) -> None:
    secret = yaml.safe_load((ROOT / BASE / "secret.example.yaml").read_text())["stringData"]
    with pytest.raises(SettingsError, match="verification_key"):
        settings_of(BASE, tmp_path, secret["sendgrid_verification_key"])


def test_the_service_monitor_finds_the_private_service_and_its_token() -> None:
    spec = one(kustomized(MONITORING), "ServiceMonitor")["spec"]
    service = one(kustomized(BASE), "Service", "mailvitals-private")
    assert spec["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    job = service["metadata"]["labels"][spec["jobLabel"]]
    assert f'job="{job}"' in (ROOT / "deploy/rules/mailvitals-agent.yaml").read_text()
    (endpoint,) = spec["endpoints"]
    assert endpoint["port"] in {p["name"] for p in service["spec"]["ports"]}
    assert endpoint["path"] == "/metrics"
    credentials = endpoint["authorization"]["credentials"]
    secret = yaml.safe_load((ROOT / BASE / "secret.example.yaml").read_text())
    assert credentials["name"] == secret["metadata"]["name"]
    assert credentials["key"] in secret["stringData"]


def test_the_prometheus_rules_are_the_rule_files() -> None:
    spec = importlib.util.spec_from_file_location("render", ROOT / MONITORING / "render.py")
    assert spec
    assert spec.loader
    render = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(render)
    expected = render.rendered()
    assert expected
    for path, text in expected.items():
        assert path.read_text() == text, f"{path.name} is out of date: make rules"
    rules = {o["metadata"]["name"]: o["spec"] for o in kustomized(MONITORING) if o["kind"] == "PrometheusRule"}
    assert rules == {p.stem: yaml.safe_load(p.read_text()) for p in (ROOT / "deploy/rules").glob("*.yaml")}


def test_every_dashboard_is_in_a_config_map_that_the_sidecar_loads() -> None:
    shipped = {p.name: p.read_text() for p in (ROOT / "grafana/dashboards").glob("*.json")}
    maps = [o for o in kustomized(MONITORING) if o["kind"] == "ConfigMap"]
    assert all(m["metadata"]["labels"]["grafana_dashboard"] == "1" for m in maps)
    assert all(len(m["data"]) == 1 and len(next(iter(m["data"].values())).encode()) < 2**20 for m in maps)
    assert {name: text for m in maps for name, text in m["data"].items()} == shipped
