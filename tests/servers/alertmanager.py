"""A real Alertmanager (Debian ``prometheus-alertmanager``) that can be stopped and started on the same port."""

from __future__ import annotations

import contextlib
import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.servers.base import free_port, http_ok, program, running

_CONFIG = """
global:
  resolve_timeout: 5m
route:
  receiver: nobody
  group_by: {group_by}
  group_wait: 100ms
  group_interval: 1s
  repeat_interval: 1h
receivers:
  - name: nobody
{webhook}"""
_WEBHOOK = """    webhook_configs:
      - url: {url}
        send_resolved: true
"""


class Alertmanager:
    """``url`` stays the same over stops and starts; what it knew of alerts does not survive them."""

    def __init__(self, path: Path, prefix: str = "", webhook: str = "", snapshots: str = "15m") -> None:
        self.path = path
        self.port = free_port()
        self.prefix = prefix
        self.url = f"http://127.0.0.1:{self.port}{prefix}"
        self._life = contextlib.ExitStack()
        self._starts = 0
        path.mkdir(parents=True, exist_ok=True)
        self.snapshots = snapshots
        # With a receiver that counts, every alert is a group of its own.
        group_by = "['...']" if webhook else "[alertname, domain]"
        told = _WEBHOOK.format(url=webhook) if webhook else ""
        (path / "alertmanager.yml").write_text(_CONFIG.format(group_by=group_by, webhook=told))

    def start(self) -> None:
        self._starts += 1
        command = [
            program("prometheus-alertmanager", "prometheus-alertmanager"),
            f"--config.file={self.path / 'alertmanager.yml'}",
            f"--storage.path={self.path / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            f"--web.route-prefix={self.prefix or '/'}",
            "--cluster.listen-address=",
            f"--data.maintenance-interval={self.snapshots}",
        ]
        log = self.path / f"log.{self._starts}"
        self.process = self._life.enter_context(running(command, log, lambda: http_ok(f"{self.url}/-/ready")))

    def stop(self) -> None:
        self._life.close()

    def kill(self) -> None:
        """End it as a power cut does."""
        self.process.kill()
        self.process.wait()
        self._life.close()

    def alerts(self, active: bool = True, **labels: str) -> list[dict[str, Any]]:
        """The alerts it holds that have not ended, as its API tells; only those with the given labels."""
        filters = [("filter", f'{name}="{value}"') for name, value in labels.items()]
        query = urllib.parse.urlencode([("active", str(active).lower()), *filters])
        with urllib.request.urlopen(f"{self.url}/api/v2/alerts?{query}", timeout=5) as response:
            found: list[dict[str, Any]] = json.load(response)
            return found


@contextlib.contextmanager
def alertmanager(path: Path, prefix: str = "", webhook: str = "", snapshots: str = "15m") -> Iterator[Alertmanager]:
    """A running Alertmanager that keeps its files under ``path``, tells ``webhook`` (a URL), and every ``snapshots``
    writes down what it told."""
    server = Alertmanager(path, prefix, webhook, snapshots)
    try:
        server.start()
        yield server
    finally:
        server.stop()
