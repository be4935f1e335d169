"""Whose mailboxes recipient domains are, from a real name server to rates, page and API."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.simulate import SIMULATORS
from tests.servers.agent import Agent, command
from tests.servers.base import free_port, wait_until
from tests.servers.dns import dns_server
from tests.servers.raw import exchange, request

KEYS = SIMULATORS["postmark"].new_credentials()
ZONES = {
    "hosted.example": "@ MX 1 aspmx.l.google.com.\n@ MX 9 mx.hosted.example.",
    "guarded.example": "@ MX 10 eu-smtp-inbound-1.mimecast.com.",
    "own.example": "@ MX 10 mx\nmx A 192.0.2.25",
}
DELIVERED = {"gmail.com": 1, "hosted.example": 4, "guarded.example": 3, "own.example": 2, "gone.own.example": 1}
LOOKED_UP = {"gmail": 5, "mimecast": 3, "other": 3}


def settings(resolver: str) -> dict[str, Any]:
    return {
        "sources": [{"name": "pm", "provider": "postmark", "domain": "example.com", **KEYS.settings}],
        "domains": [{"name": "example.com"}],
        "dns": {"resolvers": [resolver], "timeout": "500ms"},
        "vitals": {"interval": "1s"},
    }


def bodies() -> list[bytes]:
    at = datetime.fromtimestamp(time.time() - 60, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return [
        json.dumps(
            {"RecordType": "Delivery", "MessageID": f"{domain}-{n}", "Recipient": f"someone@{domain}",
             "DeliveredAt": at, "Details": "250 OK"}
        ).encode()
        for domain, count in DELIVERED.items()
        for n in range(count)
    ]  # fmt: skip


def attempted(agent: Agent) -> Mapping[str, int]:
    """What was counted, by mailbox provider, as the status API tells it."""
    domain = agent.status()["domains"].get("example.com", {})
    parts = domain.get("parts", {}).get("mailbox_provider", {})
    return {name: windows["24h"]["bounce"]["denominator"] for name, windows in parts.items() if windows.get("24h")}


@pytest.fixture
def box(tmp_path: Path) -> Agent:
    return Agent(tmp_path / "agent", settings(f"127.0.0.1:{free_port()}"))


def set_resolver(agent: Agent, address: str) -> None:
    written = yaml.safe_load(agent.config.read_text())
    written["dns"]["resolvers"] = [address]
    agent.config.write_text(yaml.safe_dump(written))


def test_what_could_not_be_looked_up_is_unresolved_until_a_name_server_answers(box: Agent, tmp_path: Path) -> None:
    box.start()
    try:
        for body in bodies():
            headers = SIMULATORS["postmark"].sign(body, KEYS.signing, time.time())
            assert exchange(box.public, request("POST", "/webhooks/pm", headers, body)).status == 200
        wait_until(lambda: attempted(box) == {"gmail": 1, "unresolved": 10}, 15)
        events = box.counters("events_total", "mailbox_provider")
        assert events == {"gmail": 1, "unresolved": 10}
        page = box.get("/metrics") + box.get("/") + box.get("/api/v1/status")
        assert not [domain for domain in ZONES if domain.encode() in page]
        assert box.stop() == 0
        with dns_server(tmp_path, ZONES) as server:
            set_resolver(box, server.address)
            box.start()
            wait_until(lambda: attempted(box) == LOOKED_UP, 15)
            rates = box.get("/metrics").decode()
            assert (
                'mailvitals_mailbox_provider_deliverability_ratio{domain="example.com",mailbox_provider="mimecast"'
                in (rates)
            )
            assert "unresolved" not in rates
            wait_until(lambda: box.counters("mailbox_lookups_total", "outcome") == {"listed": 2, "other": 2}, 5)
    finally:
        box.stop()
    log = box.log.read_text()
    assert not [domain for domain in DELIVERED if domain in log]


def test_what_was_imported_is_looked_up_by_the_running_agent(box: Agent, tmp_path: Path) -> None:
    stored = tmp_path / "stored.ndjson"
    stored.write_bytes(b"\n".join(bodies()))
    with dns_server(tmp_path, ZONES) as server:
        set_resolver(box, server.address)
        done = command("import", "--config", str(box.config), "--source", "pm", str(stored))
        assert done.returncode == 0, done.stderr
        box.start()
        try:
            wait_until(lambda: attempted(box) == LOOKED_UP, 15)
        finally:
            box.stop()


def test_without_lookups_only_well_known_domains_are_told_apart(box: Agent, tmp_path: Path) -> None:
    written = yaml.safe_load(box.config.read_text())
    written["dns"]["mailbox_lookup"] = False
    box.config.write_text(yaml.safe_dump(written))
    stored = tmp_path / "stored.ndjson"
    stored.write_bytes(b"\n".join(bodies()))
    assert command("import", "--config", str(box.config), "--source", "pm", str(stored)).returncode == 0
    db = sqlite3.connect(box.database)
    assert {row[0] for row in db.execute("SELECT mailbox_provider FROM cell")} == {"gmail", "other"}
    db.close()
