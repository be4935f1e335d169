"""Every file in examples/ is accepted by the program it is for, and the complete settings leave nothing out."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from agent.settings import Listen, Settings, load
from tests.deploy.manifests import ROOT, SECRETS, secret_files, verification_key
from tests.servers.base import program

EXAMPLES = ROOT / "examples"


def loaded(name: str, tmp_path: Path) -> Settings:
    text = (EXAMPLES / name).read_text()
    path = tmp_path / name
    path.write_text(text.replace(SECRETS, str(tmp_path)))
    secret_files(tmp_path, {
        "sendgrid_verification_key": verification_key(), "sendgrid_verification_key_new": verification_key(),
        "private_token": "t" * 64, "identity_key": "k" * 64, "store_password": "d" * 40, "postmark_password": "p" * 40,
        "alertmanager_token": "a" * 40, "alertmanager_password": "b" * 40,
        "spamhaus_dqs": "d" * 26, "bus_password": "q" * 40, "bus_key": "n" * 64, "bus_key_old": "o" * 64,
    })  # fmt: skip
    return load(path, {})


def test_every_example_is_tested_here() -> None:
    assert {p.name for p in EXAMPLES.iterdir()} == {
        "minimal.yaml", "complete.yaml", "first-alert.yaml", "alertmanager.yaml", "prometheus.yaml", "kubernetes",
    }  # fmt: skip


def test_the_walk_through_is_accepted_and_needs_no_secret_file(tmp_path: Path) -> None:
    assert loaded("first-alert.yaml", tmp_path).listen.public.startswith("127.0.0.1:")


def test_minimal_settings_are_accepted(tmp_path: Path) -> None:
    settings = loaded("minimal.yaml", tmp_path)
    assert [s.provider for s in settings.sources] == ["sendgrid"]
    assert [d.phase for d in settings.domains] == ["foundation"]


def test_complete_settings_are_accepted(tmp_path: Path) -> None:
    settings = loaded("complete.yaml", tmp_path)
    assert len(settings.sources[0].credentials["verification_key"]) == 2
    assert settings.alertmanagers[1].token is not None


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models within an annotation such as ``tuple[Source, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models(part)


def missing(model: type[BaseModel], values: list[dict[str, Any]], at: str) -> Iterator[str]:
    """Fields of ``model`` that none of ``values`` gives."""
    for name, field in model.model_fields.items():
        given = [v[key] for v in values for key in (name, f"{name}_file") if key in v]
        if not given:
            yield f"{at}{name}"
        inner = [x for g in given for x in (g if isinstance(g, list) else [g]) if isinstance(x, dict)]
        for nested in models(field.annotation):
            yield from missing(nested, inner, f"{at}{name}.")


def test_the_complete_settings_name_every_setting() -> None:
    given = yaml.safe_load((EXAMPLES / "complete.yaml").read_text())
    # Each phase shows what its own numbers are about; together they show every number there is.
    given["phases"] = {name: {k: v for p in given["phases"].values() for k, v in p.items()} for name in given["phases"]}
    assert list(missing(Settings, [given], "")) == []


def test_a_setting_left_out_would_be_noticed() -> None:
    given = yaml.safe_load((EXAMPLES / "complete.yaml").read_text())
    del given["dns"]["timeout"], given["sources"][0]["stream"]
    found = set(missing(Settings, [given], ""))
    assert {"dns.timeout", "sources.stream"} <= found


def test_the_defaults_shown_are_the_defaults(tmp_path: Path) -> None:
    shown = loaded("complete.yaml", tmp_path)
    for section in ("alerts", "vitals", "log"):
        assert getattr(shown, section) == type(getattr(shown, section))()
    for field in ("interval", "min_interval", "timeout"):
        assert getattr(shown.dns, field) == type(shown.dns).model_fields[field].default
    for field in ("public", "private", "max_body_bytes"):
        assert getattr(shown.listen, field) == type(shown.listen).model_fields[field].default
    assert shown.store.quarantine_max_bytes == type(shown.store).model_fields["quarantine_max_bytes"].default
    assert shown.phases.in_force() == Settings.model_fields["phases"].default.in_force()


def tool(name: str, package: str, *args: str) -> str:
    done = subprocess.run([program(name, package), *args], capture_output=True, text=True, check=False, cwd=EXAMPLES)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_its_configuration_and_the_rules() -> None:
    said = tool("promtool", "prometheus", "check", "config", "prometheus.yaml")
    assert "2 rule files found" in said
    (scrape,) = yaml.safe_load((EXAMPLES / "prometheus.yaml").read_text())["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": [Listen().private]}]


def test_alertmanager_takes_its_configuration() -> None:
    tool("amtool", "prometheus-alertmanager", "check-config", "alertmanager.yaml")


@pytest.mark.parametrize(("labels", "receiver"), [
    (["alertname=MailvitalsWatchdog"], "dead-mans-switch"),
    (["alertname=MailTargetBreached", "severity=critical", "domain=example.com"], "pager"),
    (["alertname=MailDnsCheckFailing", "severity=warning", "domain=example.com"], "tickets"),
    (["alertname=MailvitalsAgentDown", "severity=critical"], "pager"),
    (["alertname=MailvitalsStoreSlow", "severity=warning"], "tickets"),
    (["alertname=MailTargetBreached", "severity=info"], "nobody"),
    (["alertname=SomethingElse"], "tickets"),
])  # fmt: skip
def test_alerts_go_where_the_routes_say(labels: list[str], receiver: str) -> None:
    said = tool(
        "amtool", "prometheus-alertmanager", "config", "routes", "test", "--config.file=alertmanager.yaml", *labels
    )
    assert said.split() == [receiver]
