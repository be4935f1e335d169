"""The Dockerfile is clean by hadolint and builds; what it builds starts as an unprivileged user."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import agent
from tests.deploy.manifests import ROOT
from tests.servers import image as images
from tests.servers.base import free_port, http_ok, wait_until

TAG = "localhost/mailvitals:test"
MINIMAL = """
listen: {{public: "127.0.0.1:{public}", private: "127.0.0.1:{private}"}}
store: {{url: "sqlite:////var/lib/mailvitals/ledger.db"}}
dns: {{resolvers: ["127.0.0.1:9"]}}
domains: [{{name: example.com}}]
"""


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[images.Buildah]:
    tool = images.Buildah(tmp_path_factory.mktemp("buildah"))
    try:
        tool.import_base(images.debian())
        tool.build(ROOT, TAG, volumes=images.host_pip(), arguments=["REVISION=0123abc"])
        yield tool
    finally:
        tool.close()


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_build_sees_nothing_but_what_is_listed() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {
        word
        for line in re.findall(r"^COPY (?!--)(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        for word in line.split()[:-1]
    }
    assert allowed == copied
    assert all((ROOT / name).exists() for name in allowed)


def test_the_image_says_what_it_is(buildah: images.Buildah) -> None:
    config = buildah.config(TAG)
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["mailvitals"]
    assert config["Cmd"] == ["run", "--config", "/etc/mailvitals/mailvitals.yaml"]
    assert config["Labels"]["org.opencontainers.image.version"] == agent.__version__
    assert config["Labels"]["org.opencontainers.image.revision"] == "0123abc"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert not [e for e in config["Env"] if re.search("PIP|TOKEN|SECRET|PASSWORD|KEY", e)]


def test_it_starts_as_an_unprivileged_user_with_every_file_it_needs(buildah: images.Buildah) -> None:
    with buildah.container(TAG) as name:
        assert buildah("run", name, "--", "mailvitals", "--version").split()[-1] == agent.__version__
        probe = "import os, agent; print(os.getuid(), os.getgid(), os.path.dirname(agent.__file__))"
        uid, gid, package = buildah("run", name, "--", "python", "-c", probe).split()
        assert (uid, gid) == ("65532", "65532")
        root = Path(buildah("mount", name))
        inside = root / package.lstrip("/")
        shipped = {p.relative_to(inside) for p in inside.rglob("*") if p.is_file() and p.suffix != ".pyc"}
        tracked = subprocess.run(
            ["git", "ls-files", "agent"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        assert {Path(p).relative_to("agent") for p in tracked.split()} <= shipped
        assert list(inside.rglob("__pycache__/daemon*.pyc")), "compiled when built, since the root is read-only later"
        assert not list((root / "opt/venv/bin").glob("pip*"))
        assert not (root / "src").exists()
        owners = {p: (root / p).stat().st_uid for p in ("etc/mailvitals", "opt/venv", "var/lib/mailvitals")}
        assert owners == {"etc/mailvitals": 0, "opt/venv": 0, "var/lib/mailvitals": 65532}


def test_it_serves_and_ends_cleanly(buildah: images.Buildah, tmp_path: Path) -> None:
    public, private = free_port(), free_port()
    settings = tmp_path / "mailvitals.yaml"
    settings.write_text(MINIMAL.format(public=public, private=private))
    with buildah.container(TAG) as name, (tmp_path / "log").open("wb") as log:
        settings_volume = f"{settings}:/etc/mailvitals/mailvitals.yaml:ro"
        process = subprocess.Popen(
            buildah.command("run", "--isolation", "chroot", "--network", "host", "--volume", settings_volume, name,
                            "--", "mailvitals", "run", "--config", "/etc/mailvitals/mailvitals.yaml"),
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            wait_until(lambda: http_ok(f"http://127.0.0.1:{private}/readyz"), 40, "the agent in its image to be ready")
            inside = images.inside(process.pid, "mailvitals")
            status = Path(f"/proc/{inside}/status").read_text()
            assert re.search(r"^Uid:\s+65532\s+65532", status, re.MULTILINE), status
            os.kill(inside, signal.SIGTERM)
            code = process.wait(30)
        finally:
            if process.poll() is None:
                os.kill(images.inside(process.pid, "mailvitals"), signal.SIGKILL)
                process.wait(30)
            print((tmp_path / "log").read_text())
    assert code == 0
