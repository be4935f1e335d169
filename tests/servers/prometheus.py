"""A real Prometheus for tests."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.servers.base import free_port, http_ok, program, running


class Prometheus:
    """A running server and its query API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: str) -> Any:
        """``data`` of an answer of the API v1; an error of it is an ``AssertionError``."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as e:
            raise AssertionError(f"{path} {parameters}: {e.read().decode()}") from e
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant query: ``metric`` and ``value`` each."""
        data = self.get("query", query=expression)
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        result: list[dict[str, Any]] = data["result"]
        return result

    def value(self, expression: str) -> float:
        """The value of a query that has exactly one sample."""
        samples = self.query(expression)
        assert len(samples) == 1, (expression, samples)
        return float(samples[0]["value"][1])


@contextlib.contextmanager
def prometheus(
    tmp_path: Path,
    targets: Sequence[str],
    rules: Sequence[Path] = (),
    job: str = "mailvitals",
    alertmanagers: Sequence[str] = (),
) -> Iterator[Prometheus]:
    """A server that scrapes the targets (``host:port``) every second, evaluates the rule files as often, and tells the
    Alertmanagers (``host:port``)."""
    settings = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in rules],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": list(alertmanagers)}]}]},
        "scrape_configs": [{"job_name": job, "static_configs": [{"targets": list(targets)}]}],
    }
    config = tmp_path / "prometheus.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [program("prometheus", "prometheus"), f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}",
               f"--storage.tsdb.path={tmp_path / 'tsdb'}", "--log.level=warn"]  # fmt: skip
    with running(command, tmp_path / f"prometheus-{time.monotonic_ns()}.log", lambda: http_ok(f"{url}/-/ready")):
        yield Prometheus(url)
