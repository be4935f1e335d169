"""The stored history of a bad day, replayed by the command under today's policy and under another."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from agent.simulate import Scenario
from agent.simulate.send import write
from tests.servers.agent import Agent, command

DAY = 86400
DOMAIN = "replay.example"
SOURCE = {"name": "pm", "provider": "postmark", "domain": DOMAIN, "username": "u", "password": "p" * 30}


@pytest.fixture(scope="module")
def bad_day(tmp_path_factory: pytest.TempPathFactory) -> Agent:
    """Ten days of good mail, the seventh of which bounces at 6 %. No agent runs."""
    folder = tmp_path_factory.mktemp("replay")
    idle = Agent(folder / "agent", {"sources": [SOURCE], "domains": [{"name": DOMAIN}]})
    start = time.time() - 10 * DAY
    common = {"soft": 0.0, "block": 0.0, "undetermined": 0.0, "late": 0.0, "duplicates": 0.0, "asynchronous": 0.0}
    spans = [(0, 6, 4000, 0.003), (6, 1, 2000, 0.06), (7, 2.9, 4000, 0.003)]  # from day, days, messages, hard bounces
    parts = [
        Scenario(start=start + day * DAY, duration=days * DAY, messages=messages, hard=hard, seed=n,
                 domains={DOMAIN: 1.0}, **common)
        for n, (day, days, messages, hard) in enumerate(spans)
    ]  # fmt: skip
    files = []
    for n, part in enumerate(parts):
        file = folder / f"{n}.ndjson"
        with file.open("wb") as out:
            write("postmark", part, out)
        files.append(str(file))
    done = command("import", "--config", str(idle.config), "--source", "pm", *files)
    assert done.returncode == 0, done.stderr
    return idle


def test_policies_stand_beside_each_other(bad_day: Agent, tmp_path: Path) -> None:
    policy = tmp_path / "loose.yaml"
    policy.write_text("phases: {foundation: {bounce_max: 0.2}}\n")
    done = command("backtest", "--config", str(bad_day.config), "--policy", str(policy), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    today, new = found["today"], found["new"]
    assert [a["target"] for a in today["alerts"]].count("bounce") == 1
    (alert,) = (a for a in today["alerts"] if a["target"] == "bounce")
    assert 0 < alert["delay"] <= DAY // 2
    assert alert["mails"] > 0
    assert abs(alert["episode"]["begins"] - (time.time() - 4 * DAY)) < 6 * 3600
    assert today["summary"]["noise"] == 0
    assert [a for a in new["alerts"] if a["target"] == "bounce"] == []

    shown = command("backtest", "--config", str(bad_day.config), "--policy", str(policy), "--days", "9").stdout
    assert "Today" in shown
    assert "Breaches told of" in shown
    assert "mails after it began" in shown
    alone = command("backtest", "--config", str(bad_day.config), "--domain", DOMAIN)
    assert "mails after it began" in alone.stdout


def test_what_is_wrong_is_said(bad_day: Agent, tmp_path: Path) -> None:
    policy = tmp_path / "typo.yaml"
    policy.write_text("phases: {foundation: {bounce_mx: 0.2}}\n")
    done = command("backtest", "--config", str(bad_day.config), "--policy", str(policy))
    assert done.returncode == 78
    assert "did you mean `bounce_max`?" in done.stderr
    done = command("backtest", "--config", str(bad_day.config), "--domain", "nobody.example")
    assert (done.returncode, "no domain `nobody.example`" in done.stderr) == (64, True)


def test_without_history_it_says_so(tmp_path: Path) -> None:
    idle = Agent(tmp_path, {"sources": [SOURCE], "domains": [{"name": DOMAIN}]})
    done = command("backtest", "--config", str(idle.config))
    assert (done.returncode, done.stdout) == (0, "There is no whole hour of history yet.\n")
