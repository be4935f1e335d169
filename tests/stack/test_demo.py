"""`mailvitals run --demo`, as someone who has just installed it meets it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.agent import ROOT, command, environment
from tests.servers.base import free_port, wait_until

DOMAINS = {"shop.example", "news.example", "club.example"}


class Demo:
    def __init__(self, folder: Path) -> None:
        self.public, self.private = free_port(), free_port()
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.out, self.err = folder / "out", folder / "err"
        self.started_at = time.time()
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agent", "run", "--demo"], cwd=ROOT, stdout=out, stderr=err,
                env={
                    **environment(), "TMPDIR": str(self.temporary),
                    "MAILVITALS_LISTEN__PUBLIC": f"127.0.0.1:{self.public}",
                    "MAILVITALS_LISTEN__PRIVATE": f"127.0.0.1:{self.private}",
                },
            )  # fmt: skip

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.private}"

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=5) as response:
            return bytes(response.read())

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.get("/api/v1/status"))
        return document


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    one = Demo(tmp_path_factory.mktemp("demo"))
    try:
        wait_until(lambda: verdicts(one)["news.example", "bounce"] == "breached", 60, "the demo's verdicts")
        yield one
    finally:
        one.process.kill()
        one.process.wait()


def verdicts(demo: Demo) -> dict[tuple[str, str], str]:
    assert demo.process.poll() is None, demo.err.read_text()
    document = demo.status()
    return {
        (name, judgement["target"]): judgement["verdict"]
        for name, domain in document["domains"].items() for judgement in domain["judgements"]
    }  # fmt: skip


def test_it_says_what_it_is_and_where_to_look(demo: Demo) -> None:
    said = demo.out.read_text()
    assert "nothing of it is real" in said
    assert f"http://127.0.0.1:{demo.private}/\n" in said
    assert f"http://127.0.0.1:{demo.private}/metrics" in said
    assert f"http://127.0.0.1:{demo.public}/webhooks/sendgrid-shop" in said
    assert "Ctrl-C stops it." in said


def test_every_domain_has_rates_and_tells_its_story(demo: Demo) -> None:
    def told() -> bool:
        found = verdicts(demo)
        assert found["shop.example", "bounce"] == "met"
        assert found["shop.example", "deliverability"] == "met"
        assert found["news.example", "bounce"] == "breached"
        assert found["club.example", "bounce"] == "insufficient_data"
        return True

    wait_until(told, 60, "the three stories")
    document = demo.status()
    assert document["demo"] is True
    assert set(document["domains"]) >= DOMAINS
    for name in DOMAINS:
        rate = document["domains"][name]["rates"]["7d"]["deliverability"]
        assert rate["lower"] <= rate["value"] <= rate["upper"]
        assert rate["denominator"] >= 100
    assert "other" not in document["domains"]
    assert {s["name"] for s in document["sources"]} == {"sendgrid-shop", "sendgrid-news", "postmark-club"}
    for source in document["sources"]:
        assert source["requests"].keys() == {"accepted"}


def test_its_dns_is_found_as_it_was_made(demo: Demo) -> None:
    def found() -> bool:
        seen = {
            (w["domain"], w["finding"]["check"]): w["finding"]["verdict"] for w in demo.status()["findings"]
        }  # fmt: skip
        assert {d for d, _ in seen} == DOMAINS
        assert {what: verdict for what, verdict in seen.items() if verdict != "ok"} == {
            ("news.example", "dkim"): "fail", ("news.example", "dmarc"): "warn",
        }  # fmt: skip
        return True

    wait_until(found, 30, "the findings")


def test_incidents_name_the_troubled_domain_alone(demo: Demo) -> None:
    wait_until(lambda: len(demo.status()["incidents"]) >= 2, 30, "the incidents")
    assert {i["labels"]["domain"] for i in demo.status()["incidents"]} == {"news.example"}


def test_the_page_is_served_and_status_says_demo(demo: Demo) -> None:
    assert b"<title>" in demo.get("/")
    assert b"mailvitals_deliverability_ratio{" in demo.get("/metrics")
    done = command("status", "--url", demo.url)
    assert done.returncode == 1
    assert done.stdout.startswith("DEMO: simulated traffic, nothing of it is real")


def test_live_traffic_goes_on(demo: Demo) -> None:
    before = demo.status()["sources"][0]["requests"]["accepted"]
    wait_until(lambda: demo.status()["sources"][0]["requests"]["accepted"] > before, 30, "another request")


def test_ctrl_c_ends_it_and_leaves_nothing_behind(demo: Demo) -> None:
    assert [p.name for p in demo.temporary.iterdir()] != []
    start = time.monotonic()
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(20) == 0
    assert time.monotonic() - start < 10
    assert list(demo.temporary.iterdir()) == []
    said = demo.err.read_text()
    assert "Traceback" not in said
    events = {json.loads(line)["event"] for line in said.splitlines()}
    # What began while half of the history was there may have ended with the other half, where that takes long.
    assert events <= {"incident.open", "incident.closing"}


def test_a_taken_address_is_said_plainly() -> None:
    private = free_port()
    done = command("run", "--demo", env={
        "MAILVITALS_LISTEN__PUBLIC": "nonsense", "MAILVITALS_LISTEN__PRIVATE": f"127.0.0.1:{private}",
    })  # fmt: skip
    assert done.returncode == 78
    assert "environment: MAILVITALS_LISTEN__PUBLIC: listen.public: an address is HOST:PORT" in done.stderr
