"""Edges and cores on one broker, and what their ledger must say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.simulate import SIMULATORS, Scenario
from tests.servers.agent import Agent
from tests.servers.mosquitto import Mosquitto

BUS_KEY, IDENTITY_KEY = "b" * 40, "i" * 40
PAIR = SIMULATORS["sendgrid"].new_credentials()
POSTMARK = SIMULATORS["postmark"].new_credentials()
DOMAIN = "example.com"


def bus(broker: Mosquitto, mode: str, name: str, **more: object) -> dict[str, Any]:
    return {"mode": mode, "url": broker.url, "name": name, "key": BUS_KEY, **more}


def edge(folder: Path, broker: Mosquitto, name: str = "edge-1", **more: object) -> Agent:
    """An edge with a source of SendGrid and one of Postmark, not started."""
    return Agent(folder / name, {
        "store": {"url": f"sqlite:///{folder / name}/spool.db", "identity_key": IDENTITY_KEY},
        "bus": bus(broker, "edge", name, **more),
        "sources": [
            {"name": "sg", "provider": "sendgrid", "domain": DOMAIN, "streams": ["newsletter"], **PAIR.settings},
            {"name": "pm", "provider": "postmark", "domain": DOMAIN, **POSTMARK.settings},
        ],
    })  # fmt: skip


def core(
    folder: Path, broker: Mosquitto, name: str = "core-1", *, database: Path | None = None, **more: object
) -> Agent:
    """A core that knows both sources, not started; with the ledger of another if ``database`` says so."""
    return Agent(folder / name, {
        "store": {"url": f"sqlite:///{database or folder / name / 'ledger.db'}", "identity_key": IDENTITY_KEY},
        "bus": bus(broker, "core", name, **more),
        "sources": [
            {"name": "sg", "provider": "sendgrid", "domain": DOMAIN, "relayed": True},
            {"name": "pm", "provider": "postmark", "domain": DOMAIN, "relayed": True},
        ],
        "domains": [{"name": DOMAIN}],
        "dns": {"resolvers": ["127.0.0.1:9"], "mailbox_lookup": False},
        "vitals": {"interval": "1s"},
    })  # fmt: skip


def scenario(messages: int, now: float) -> Scenario:
    """Everything at once: copies with changed ids, soft then hard, deferrals, late bounces, over thirty hours."""
    return Scenario(
        start=now - 30 * 3600, duration=30 * 3600, until=now, messages=messages, seed=7, hard=0.05, soft=0.04,
        block=0.03, undetermined=0.01, dropped=0.02, deferred=0.2, asynchronous=0.05, soft_then_hard=0.5, opened=0.2,
        complained=0.01, unsubscribed=0.01, duplicates=0.2, changed_ids=0.5, late=0.3, lateness=5 * 3600,
        domains={DOMAIN: 1.0},
    )  # fmt: skip
