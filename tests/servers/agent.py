"""The agent itself, started as a user starts it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.servers.base import free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]


def command(
    *arguments: str, timeout: float = 60, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``mailvitals`` with arguments to its end."""
    return subprocess.run(
        [sys.executable, "-m", "agent", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout,
        env={**environment(), **(env or {})}, check=False,
    )  # fmt: skip


def environment() -> dict[str, str]:
    """The test's environment without settings that someone has set for an agent of their own."""
    return {k: v for k, v in os.environ.items() if not k.upper().startswith("MAILVITALS_")}


class Agent:
    """``settings`` are written to a file in ``folder``; listeners and store are added. Can be started again."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.public, self.private = free_port(), free_port()
        self.config = folder / "mailvitals.yaml"
        self.database = folder / "ledger.db"
        self.log = folder / "agent.log"
        self.config.write_text(
            yaml.safe_dump(
                {
                    "listen": {
                        "public": f"127.0.0.1:{self.public}",
                        "private": f"127.0.0.1:{self.private}",
                        "drain": "100ms",  # No load balancer has to notice.
                    },
                    "store": {"url": f"sqlite:///{self.database}"},
                    "log": {"level": "debug", "format": "json"},
                    **settings,
                }
            )
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.within: list[str] = []  # a command that runs the agent's, which is appended

    def start(self, wait: bool = True) -> None:
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [*self.within, sys.executable, "-m", "agent", "run", "--config", str(self.config)],
                cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, env=environment(),
            )  # fmt: skip
        if wait:
            wait_until(self.ready, 30, "the agent to be ready")

    def ready(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            raise RuntimeError(f"the agent ended:\n{self.log.read_text()[-3000:]}")
        with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as response:
            return bool(response.status == 200)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, at_once: bool = False) -> int:
        """End it as Kubernetes does, or ``at_once`` as one does at a terminal; the exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT if at_once else signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.private}"

    def webhook(self, source: str) -> str:
        return f"http://127.0.0.1:{self.public}/webhooks/{source}"

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=10) as response:
            return bytes(response.read())

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.get("/api/v1/status"))
        return document

    def counters(self, name: str, by: str) -> Counter[str]:
        """Sums of one metric of ``/metrics`` by one label."""
        sums: Counter[str] = Counter()
        for line in self.get("/metrics").decode().splitlines():
            if line.startswith(f"mailvitals_{name}{{"):
                labels, _, value = line[len(f"mailvitals_{name}{{") :].rpartition("} ")
                pairs = dict(part.split("=", 1) for part in labels.split(","))
                sums[pairs[by].strip('"')] += round(float(value))
        return +sums


@contextlib.contextmanager
def agent(folder: Path, settings: Mapping[str, Any]) -> Iterator[Agent]:
    """A running agent, ready."""
    one = Agent(folder, settings)
    try:
        one.start()
        yield one
    finally:
        one.stop()
