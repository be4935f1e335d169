"""Stored bodies are imported as exactly, and as safely, as live ones are taken."""

from __future__ import annotations

import gzip
import json
import re
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agent.simulate import SIMULATORS
from tests.servers.agent import Agent, agent, command
from tests.servers.base import wait_until
from tests.servers.terminal import terminal

DOMAIN = "import.example"
KEYS = SIMULATORS["sendgrid"].new_credentials()
SOURCES = [
    {"name": "sg", "provider": "sendgrid", "domain": DOMAIN, **KEYS.settings},
    {"name": "pm", "provider": "postmark", "domain": DOMAIN, "username": "u", "password": "p" * 30},
]
SETTINGS = {"sources": SOURCES, "domains": [{"name": DOMAIN}], "vitals": {"interval": "1s"}}


@pytest.fixture
def idle(tmp_path: Path) -> Agent:
    """Settings and a store, no agent running."""
    return Agent(tmp_path / "agent", SETTINGS)


def simulated(path: Path, provider: str, messages: int, *arguments: str) -> Counter[str]:
    """Write bodies; what they must count to."""
    done = command(
        "simulate", "--provider", provider, "--output", str(path), "--messages", str(messages), "--domain", DOMAIN,
        "--json", "--hard", "0.05", "--soft", "0.03", "--duplicates", "0.1", "--changed-ids", "0.5", *arguments,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return Counter(json.loads(done.stdout)["counts"])


def imported(to: Agent, source: str, *files: Path) -> subprocess.CompletedProcess[str]:
    done = command("import", "--config", str(to.config), "--source", source, *map(str, files))
    assert "Traceback" not in done.stderr
    return done


def head(done: subprocess.CompletedProcess[str]) -> tuple[int, int, int]:
    """Bodies, events counted, known before."""
    found = re.match(r"Bodies: ([\d,]+); events counted: ([\d,]+), known before: ([\d,]+)\.\n", done.stdout)
    assert found, done.stdout + done.stderr
    bodies, counted, known = (int(n.replace(",", "")) for n in found.groups())
    return bodies, counted, known


def counted(of: Agent) -> Counter[str]:
    """What the store holds, by measure, from its daily roll-ups."""
    month = of.status()["domains"][DOMAIN]["rates"]["30d"]
    return Counter(
        delivered=month["deliverability"]["numerator"], attempted=month["deliverability"]["denominator"],
        bounce=month["bounce"]["numerator"], soft=month["soft_bounce"]["numerator"],
        complained=month["complaint"]["numerator"], dropped=month["suppression"]["numerator"],
    )  # fmt: skip


def expected(*truths: Counter[str]) -> Counter[str]:
    sent = sum(truths, Counter())
    return Counter(
        delivered=sent["delivered"], soft=sent["soft"], bounce=sent["hard"] + sent["undetermined"],
        attempted=sum(sent[m] for m in ("delivered", "hard", "soft", "block", "undetermined")),
        complained=sent["complained"], dropped=sent["dropped"],
    )  # fmt: skip


def event(number: int, **more: Any) -> dict[str, Any]:
    return {
        "email": f"someone{number}@mail.example", "timestamp": int(time.time()) - 60, "event": "delivered",
        "sg_message_id": f"m{number}.x", "sg_event_id": f"e{number}", **more,
    }  # fmt: skip


def line(*numbers: int) -> bytes:
    return json.dumps([event(n) for n in numbers]).encode()


def quarantined(of: Agent) -> int:
    with sqlite3.connect(of.database) as database:
        return int(database.execute("SELECT count(*) FROM quarantine").fetchone()[0])


def test_an_import_counts_the_truth_and_twice_counts_nothing_twice(idle: Agent, tmp_path: Path) -> None:
    sg, pm, packed = tmp_path / "sg.ndjson", tmp_path / "pm.ndjson", tmp_path / "sg.ndjson.gz"
    truth = simulated(sg, "sendgrid", 3000), simulated(pm, "postmark", 300)
    packed.write_bytes(gzip.compress(sg.read_bytes()))
    first = imported(idle, "sg", packed), imported(idle, "pm", pm)
    assert [done.returncode for done in first] == [0, 0]
    assert [done.stderr for done in first] == ["", ""]
    again = imported(idle, "sg", sg, packed), imported(idle, "pm", pm)
    # Where one report of two of a message wins depends on nothing but the two.
    assert [head(done)[1] for done in again] == [0, 0]
    assert head(again[0])[0] == 2 * head(first[0])[0]
    idle.start()
    try:
        wait_until(lambda: counted(idle) == expected(*truth), 10, "the imported counts")
    finally:
        assert idle.stop() == 0


def test_an_import_runs_beside_a_running_agent_and_knows_what_came_live(tmp_path: Path) -> None:
    bodies, key = tmp_path / "sg.ndjson", tmp_path / "key.pem"
    key.write_text(str(KEYS.signing["private_key"]))
    options = ("--seed", "9", "--until", _an_hour_ago())
    truth = simulated(bodies, "sendgrid", 2000, *options)
    with agent(tmp_path / "agent", SETTINGS) as running:
        done = command(
            "simulate", "--provider", "sendgrid", "--url", running.webhook("sg"), "--private-key", str(key),
            "--messages", "2000", "--domain", DOMAIN, "--hard", "0.05", "--soft", "0.03", "--duplicates", "0.1",
            "--changed-ids", "0.5", *options,
        )  # fmt: skip
        assert done.returncode == 0
        more = tmp_path / "more.ndjson"
        extra = simulated(more, "sendgrid", 2000, "--seed", "10")
        done = imported(running, "sg", bodies, more)
        assert (done.returncode, done.stderr) == (0, "")
        assert head(done)[1] >= expected(extra)["attempted"]
        wait_until(lambda: counted(running) == expected(truth, extra), 10, "the counts of both")
        assert running.stop() == 0


def _an_hour_ago() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600))


@pytest.mark.parametrize("text", [
    line(1, 2, 3), line(1, 2, 3) + b"\r\n", json.dumps([event(1), event(2), event(3)], indent=1).encode(),
    b"\n\n" + line(1, 2, 3), b"[\n" + b",\n".join(json.dumps(event(n)).encode() for n in (1, 2, 3)) + b"\n]\n",
], ids=["line", "crlf", "indented", "blank first", "an event a line"])  # fmt: skip
def test_a_file_that_is_one_body(idle: Agent, tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "body.json"
    path.write_bytes(text)
    done = imported(idle, "sg", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert head(done) == (1, 3, 0)


def test_bad_lines_are_named_and_kept_and_the_good_ones_counted(idle: Agent, tmp_path: Path) -> None:
    path = tmp_path / "mixed.ndjson"
    half = json.dumps([event(4), {"event": "delivered"}, 7, event(5)]).encode()
    path.write_bytes(b"\n".join([b"not json", line(1), b'[{"event": "deli', b"", b"42", line(2, 3), b"\xff\xfe", half]))
    done = imported(idle, "sg", path)
    assert done.returncode == 1
    assert head(done) == (3, 5, 0)
    assert re.findall(rf"^{re.escape(str(path))}:(\d+): ", done.stderr, re.MULTILINE) == ["1", "3", "5", "7"]
    assert "Items that could not be read: 2; their bodies are in quarantine." in done.stderr
    assert "someone" not in done.stderr + done.stdout
    assert quarantined(idle) == 5
    # Mended, it is imported again, and only what is new counts.
    path.write_bytes(b"\n".join([line(6), line(1), line(2, 3)]))
    again = imported(idle, "sg", path)
    assert again.returncode == 0
    assert head(again) == (3, 1, 3)


def test_what_is_too_old_is_refused_and_counted_as_such(idle: Agent, tmp_path: Path) -> None:
    path = tmp_path / "old.ndjson"
    then = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 60 * 86400))
    simulated(path, "sendgrid", 100, "--until", then)
    done = imported(idle, "sg", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert head(done)[1:] == (0, 0)
    assert re.search(r"^  refused, too old +\d+$", done.stdout, re.MULTILINE)


def test_nothing_but_rubbish(idle: Agent, tmp_path: Path) -> None:
    path = tmp_path / "rubbish"
    path.write_bytes(b"\x00\x01\x02 rubbish\n" * 50)
    done = imported(idle, "sg", path)
    assert done.returncode == 1
    assert f"{path}:1: body is not JSON" in done.stderr
    assert quarantined(idle) == 1
    path.write_bytes(b"")
    done = imported(idle, "sg", path)
    assert (done.returncode, head(done)) == (0, (0, 0, 0))


def test_many_bad_lines_do_not_flood_the_terminal(idle: Agent, tmp_path: Path) -> None:
    path = tmp_path / "bad.ndjson"
    path.write_bytes(b"\n".join([line(1), *[b"{}"] * 60]))
    done = imported(idle, "sg", path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 21
    assert done.stderr.splitlines()[-1] == "… and 40 more unreadable bodies."


def test_a_line_that_is_too_long_is_named_and_passed_over(tmp_path: Path) -> None:
    small = {**SETTINGS, "listen": {"public": "127.0.0.1:0", "private": "127.0.0.1:0", "max_body_bytes": 2048}}
    idle = Agent(tmp_path / "agent", small)
    path = tmp_path / "long.ndjson"
    long = json.dumps([event(9, pad="x" * 100_000)]).encode()
    path.write_bytes(b"\n".join([line(1), long, line(2), line(3)]) + b"\n")
    done = imported(idle, "sg", path)
    assert done.returncode == 1
    assert head(done) == (3, 3, 0)
    assert done.stderr == f"{path}:2: longer than 2048 bytes; not kept\n"
    # Also as the first, and packed.
    path.write_bytes(gzip.compress(long + b"\n" + line(4)))
    done = imported(idle, "sg", path)
    assert done.returncode == 1
    assert f"Error: {path}: longer than 2048 bytes and not one body a line" in done.stderr


def test_a_truncated_gzip_counts_what_could_be_read(idle: Agent, tmp_path: Path) -> None:
    path = tmp_path / "cut.ndjson.gz"
    lines = [line(n) for n in range(20_000)]
    whole = gzip.compress(b"\n".join(lines), 1)
    path.write_bytes(whole[: len(whole) // 2])
    done = imported(idle, "sg", path)
    assert done.returncode == 1
    assert f"Error: {path}: cannot be read: " in done.stderr
    assert "run it again when this is mended" in done.stderr
    path.write_bytes(whole)
    again = imported(idle, "sg", path)
    assert again.returncode == 0
    bodies, new, known = head(again)
    assert bodies == new + known == 20_000
    assert known > 1000


def test_bodies_larger_than_the_queue_wait_their_turn(idle: Agent, tmp_path: Path) -> None:
    path = tmp_path / "large.ndjson"
    path.write_bytes(b"\n".join(line(*range(n, n + 10_000)) for n in range(0, 150_000, 10_000)))
    done = imported(idle, "sg", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert head(done) == (15, 150_000, 0)


def test_wrong_source_and_wrong_files(idle: Agent, tmp_path: Path) -> None:
    path = tmp_path / "body.json"
    path.write_bytes(line(1))
    done = imported(idle, "sq", path)
    assert done.returncode == 64
    assert f"no source `sq` in {idle.config}; it has pm, sg" in done.stderr
    assert imported(idle, "sg", tmp_path / "none").returncode == 64
    assert imported(idle, "sg", tmp_path).returncode == 64
    # A body of another provider is none of this one's.
    done = imported(idle, "pm", path)
    assert (done.returncode, "body is not a JSON object" in done.stderr) == (1, True)


def test_a_pipe_can_be_imported(idle: Agent) -> None:
    piped = subprocess.run(
        ["bash", "-c", 'printf "%s" "$1" | "$2" -m agent import --config "$3" --source sg /dev/stdin', "-",
         line(1).decode(), sys.executable, str(idle.config)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (piped.returncode, piped.stderr) == (0, "")
    assert piped.stdout.startswith("Bodies: 1; events counted: 1, known before: 0.\n")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sg.ndjson"
    simulated(path, "sendgrid", 500)
    return path


def test_a_progress_bar_shows_on_a_terminal_only(idle: Agent, file: Path) -> None:
    code, shown = terminal("import", "--config", str(idle.config), "--source", "sg", str(file), columns=100)
    assert code == 0
    assert "Importing" in shown
    assert "━" in shown
    assert "Bodies: " in shown
    done = imported(idle, "sg", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Importing" not in done.stdout
    assert "\x1b" not in done.stdout
