"""What could not be read is kept, and counts once it can be."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from agent.simulate import SIMULATORS
from tests.servers.agent import Agent, command

KEYS = SIMULATORS["sendgrid"].new_credentials()
RIGHT = {"name": "main", "provider": "sendgrid", "domain": "q.example", **KEYS.settings}
WRONG = {"name": "main", "provider": "postmark", "domain": "q.example", "username": "u", "password": "p" * 30}


def held(one: Agent) -> list[dict[str, object]]:
    done = command("quarantine", "list", "--config", str(one.config), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def test_a_body_taken_for_another_vendors_is_counted_after_the_settings_are_mended(tmp_path: Path) -> None:
    one = Agent(tmp_path / "agent", {"sources": [WRONG], "domains": [{"name": "q.example"}]})
    assert held(one) == []
    assert "Nothing" in command("quarantine", "list", "--config", str(one.config)).stdout
    bodies = tmp_path / "bodies"
    done = command("simulate", "--provider", "sendgrid", "--output", str(bodies), "--messages", "300", "--json")
    truth = json.loads(done.stdout)["counts"]

    done = command("import", "--config", str(one.config), "--source", "main", str(bodies))
    assert done.returncode == 1
    assert "events counted: 0" in done.stdout
    lying = held(one)
    assert len(lying) == len(bodies.read_bytes().splitlines())
    assert {entry["source"] for entry in lying} == {"main"}
    text = command("quarantine", "list", "--config", str(one.config)).stdout
    assert "main" in text
    assert "@" not in text

    # Read again under the same settings nothing changes.
    done = command("quarantine", "replay", "--config", str(one.config))
    assert done.returncode == 1
    assert held(one) == lying

    settings = yaml.safe_load(one.config.read_text())
    one.config.write_text(yaml.safe_dump({**settings, "sources": [RIGHT]}))
    first = str(lying[0]["id"])
    done = command("quarantine", "replay", "--config", str(one.config), first)
    assert done.returncode == 0, done.stderr
    assert len(held(one)) == len(lying) - 1
    done = command("quarantine", "replay", "--config", str(one.config), "--source", "main")
    assert done.returncode == 0, done.stderr
    assert held(one) == []
    done = command("import", "--config", str(one.config), "--source", "main", str(bodies))
    assert "events counted: 0" in done.stdout, "all of it is known by now"
    one.start()
    try:
        delivered = one.counters("attempted", "window")["30d"]
    finally:
        assert one.stop() == 0
    assert delivered == sum(truth[m] for m in ("delivered", "hard", "soft", "block", "undetermined") if m in truth)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    one = Agent(tmp_path / "agent", {"sources": [RIGHT]})
    done = command("quarantine", "replay", "--config", str(one.config), "7")
    assert done.returncode == 64
    assert "not in quarantine: 7" in done.stderr
