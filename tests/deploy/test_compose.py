"""The compose file mounts what is there, pins what it pulls, and its parts find each other."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from agent.settings import load
from tests.deploy.manifests import ROOT
from tests.servers.base import program

COMPOSE = ROOT / "deploy/compose"


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
    return found


def test_mounted_files_exist_and_are_read_only() -> None:
    mounts = [v.split(":") for s in services().values() for v in s["volumes"] if v.startswith(".")]
    assert len(mounts) == 6
    for source, _, mode in mounts:
        assert (COMPOSE / source).exists(), source
        assert mode == "ro"


def test_images_are_pinned_and_inner_ports_stay_on_loopback() -> None:
    for name, service in services().items():
        tag = service["image"].rpartition(":")[2]
        assert tag[:1] in "v0123456789", service["image"]
        for port in service.get("ports", []):
            assert port == "8080:8080" or port.startswith("127.0.0.1:"), (name, port)
    agent = services()["mailvitals"]
    assert agent["read_only"] is True
    assert agent["cap_drop"] == ["ALL"]


def test_the_agent_accepts_its_settings_and_pushes_to_the_service_beside_it() -> None:
    settings = load(COMPOSE / "mailvitals.yaml", services()["mailvitals"]["environment"])
    assert settings.listen.private == "0.0.0.0:8081"
    assert [a.url for a in settings.alertmanagers] == ["http://alertmanager:9093"]


def test_prometheus_takes_its_configuration_with_the_rules(tmp_path: Path) -> None:
    shutil.copy(COMPOSE / "prometheus.yaml", tmp_path / "prometheus.yml")
    shutil.copytree(ROOT / "deploy/rules", tmp_path / "rules")
    done = subprocess.run(
        [program("promtool", "prometheus"), "check", "config", "prometheus.yml"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 rule files found" in done.stdout
    (scrape,) = yaml.safe_load((COMPOSE / "prometheus.yaml").read_text())["scrape_configs"]
    assert scrape["job_name"] == "mailvitals"
    assert scrape["static_configs"] == [{"targets": ["mailvitals:8081"]}]
