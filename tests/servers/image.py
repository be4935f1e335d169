"""The container image, really built: buildah as root, without a container engine or a registry.

The base stands for ``python:*-slim``: a minimal Debian with its own Python, made once by debootstrap and kept in the
cache folder. The build runs chroot-isolated, which is no sandbox: it is for this repository's own Dockerfile.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.servers.base import program

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mailvitals-tests"
BASE = "localhost/mailvitals-base:bookworm"
_POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}'


class Buildah:
    """buildah with a storage of its own. Every call raises ``AssertionError`` with the output when it fails."""

    def __init__(self, storage: Path) -> None:
        if os.geteuid() != 0:
            raise RuntimeError("the image is built by buildah without a container engine, which needs root")
        self._storage = storage
        storage.mkdir(parents=True, exist_ok=True)
        self.policy = storage / "policy.json"
        self.policy.write_text(_POLICY)
        self._command = [
            program("buildah", "buildah"), "--storage-driver", "vfs",
            "--root", str(storage / "root"), "--runroot", str(storage / "run"),
        ]  # fmt: skip

    def command(self, *args: str | Path) -> list[str]:
        """A call as a command line, for a program that is to stay in the foreground."""
        return [*self._command, *(str(a) for a in args)]

    def __call__(self, *args: str | Path, timeout: float = 280) -> str:
        done = subprocess.run(
            self.command(*args), capture_output=True, text=True, timeout=timeout, check=False,
            env=os.environ | {"BUILDAH_ISOLATION": "chroot"}, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, f"buildah {args[0]}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout.strip()

    def import_base(self, root: Path) -> None:
        container = self("from", "scratch")
        self("add", container, f"{root}/", "/")
        self("commit", "--signature-policy", self.policy, "--rm", container, BASE)

    def build(self, context: Path, tag: str, *, volumes: Sequence[Path], arguments: Sequence[str] = ()) -> None:
        """Build ``context``'s Dockerfile on the local base. ``volumes`` are readable to its RUN steps alone."""
        self(
            "build", "--signature-policy", self.policy, "--pull-never", "--build-arg", f"BASE={BASE}",
            *(x for a in arguments for x in ("--build-arg", a)),
            *(x for v in volumes for x in ("--volume", f"{v}:{v}:ro")), "--tag", tag, context,
        )  # fmt: skip

    def config(self, image: str) -> dict[str, Any]:
        """The image's OCI configuration (user, entry point, labels, ...)."""
        config: dict[str, Any] = json.loads(self("inspect", "--type", "image", image))["OCIv1"]["config"]
        return config

    @contextlib.contextmanager
    def container(self, image: str) -> Iterator[str]:
        name = self("from", "--signature-policy", self.policy, "--pull-never", image)
        try:
            yield name
        finally:
            self("rm", name)

    def close(self) -> None:
        """Remove everything: the vfs driver keeps a whole copy of each layer."""
        shutil.rmtree(self._storage)


def inside(pid: int, program: str) -> int:
    """The first process below ``pid`` that runs ``program``: what is in ``buildah run``, which passes no signal on."""
    # A child belongs to the thread that started it.
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in (thread / "children").read_text().split():
            # An interpreter comes first, then its script.
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[:2]
            if not words[0].startswith(b"buildah") and any(Path(w.decode()).name == program for w in words):
                return int(child)
            if found := inside(int(child), program):
                return found
    return 0


def debian() -> Path:
    """A minimal Debian with Python, made on the first call (a minute) and kept."""
    root = CACHE / "bookworm"
    if not root.exists():
        half = CACHE / f"bookworm.{os.getpid()}"
        CACHE.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [program("debootstrap", "debootstrap"), "--variant=minbase",
             "--include=python3,python3-venv,ca-certificates", "bookworm", half],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            shutil.rmtree(half, ignore_errors=True)
            raise AssertionError(f"debootstrap:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        half.rename(root)
    return root


def host_pip() -> list[Path]:
    """What pip on this host is configured with, so that pip in the build can be too: its configuration file, the
    certificates it trusts, and the local folders that it looks for packages in."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    words = (word.removeprefix("file://") for word in listed.replace("'", " ").split())
    folders = {Path(word) for word in words if word.startswith("/")}
    wanted = {Path("/etc/pip.conf"), Path("/etc/ssl/certs"), *folders}
    return sorted(p for p in wanted if p.exists() and not (p.is_file() and p.is_relative_to("/etc/ssl/certs")))
