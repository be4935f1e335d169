"""The command as its users and their scripts meet it: real processes, exit codes, streams, a real agent."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent import __version__
from agent.cli import main
from tests.servers.agent import ROOT, Agent, command, environment
from tests.servers.base import free_port, wait_until
from tests.servers.terminal import terminal

DOMAIN = "cli.example"
POSTMARK = {"name": "pm", "provider": "postmark", "domain": DOMAIN, "username": "u", "password": "p" * 30}
TOKEN = "t" * 40


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A key file that ``simulate --new-key`` made, and what it printed for the settings."""
    path = tmp_path_factory.mktemp("key") / "key.pem"
    done = command("simulate", "--provider", "sendgrid", "--new-key", str(path))
    assert done.returncode == 0
    assert path.stat().st_mode & 0o777 == 0o600
    settings = yaml.safe_load(done.stdout)
    assert list(settings) == ["verification_key"]
    return path, settings["verification_key"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, key: tuple[Path, str]) -> Iterator[Agent]:
    sendgrid = {"name": "sg", "provider": "sendgrid", "domain": DOMAIN, "verification_key": key[1]}
    port = free_port(socket.SOCK_DGRAM)
    settings = {
        "sources": [sendgrid, POSTMARK], "domains": [{"name": DOMAIN}], "vitals": {"interval": "1s"},
        "dns": {"resolvers": [f"127.0.0.1:{port}"]},
    }  # fmt: skip
    one = Agent(tmp_path_factory.mktemp("agent"), settings)
    written = yaml.safe_load(one.config.read_text())
    written["listen"]["private_token"] = TOKEN
    one.config.write_text(yaml.safe_dump(written))
    one.start()
    yield one
    assert one.stop() == 0


@pytest.fixture(scope="module", autouse=True)
def refused(running: Agent, tmp_path_factory: pytest.TempPathFactory) -> subprocess.Popen[str]:
    """A simulation with another key than the agent's; it tries for long, as an ESP does, so it starts first."""
    other = tmp_path_factory.mktemp("other") / "key.pem"
    assert command("simulate", "--provider", "sendgrid", "--new-key", str(other)).returncode == 0
    return subprocess.Popen(
        [sys.executable, "-m", "agent", "simulate", "--provider", "sendgrid", "--private-key", str(other),
         "--url", running.webhook("sg"), "--messages", "5", "--domain", "forged.example"],
        cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


# Usage and settings.

Called = Callable[..., tuple[object, str, str]]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Called:
    """The command within this process: exit code, standard output and error. For what ends before it does anything, an
    interpreter of its own shows nothing more, and takes a hundred times as long."""
    for name in os.environ.keys() - environment().keys():
        monkeypatch.delenv(name)

    def call(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["mailvitals", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return call


@pytest.mark.parametrize("arguments", [
    "", "bogus", "run", "run --demo --config x", "run --bogus", "check", "check nodots", "check a.example --ip x",
    "check a.example --nameserver x:y:z", "import", "import --config x file", "import --config x --source y /nowhere",
    "simulate", "simulate --provider x", "simulate --provider sendgrid",
    "simulate --provider sendgrid --url http://x --output y", "simulate --provider sendgrid --url ftp://x",
    "simulate --provider sendgrid --url http://x", "simulate --provider sendgrid --output /dev/null --hard 2",
    "simulate --provider sendgrid --output /dev/null --mailbox a=b", "simulate --provider postmark --new-key x",
    "simulate --provider sendgrid --output /dev/null --until tomorrow",
    "simulate --provider sendgrid --output /dev/null --hard 0.9 --soft 0.9",
    "status x", "status --url x", "config", "config x", "config check", "config schema x",
])  # fmt: skip
def test_wrong_usage_exits_64(called: Called, arguments: str) -> None:
    code, out, err = called(*arguments.split())
    assert code == 64, out + err
    assert "Usage: mailvitals" in err
    assert "Traceback" not in err
    assert out == ""


def test_a_script_sees_wrong_usage() -> None:
    done = command("bogus")
    assert (done.returncode, done.stdout) == (64, "")
    assert "Usage: mailvitals" in done.stderr
    assert "Traceback" not in done.stderr


def test_version_and_help(called: Called) -> None:
    assert command("--version").stdout == f"mailvitals {__version__}\n"
    for name in ("run", "check", "config check", "config schema", "import", "simulate", "status", "phase"):
        code, out, _ = called(*name.split(), "--help")
        assert code == 0
        assert re.search(rf"^  mailvitals {name}( |$)", out, re.MULTILINE), f"{name} has no example"
    top = called("-h")[1]
    for name in ("run", "check", "config", "import", "simulate", "status", "phase"):
        assert re.search(rf"^  {name}  +\S+", top, re.MULTILINE)


def test_wrong_settings_exit_78_with_path_and_suggestion(called: Called, tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(
        "listen: {}\nstore: {url: 'sqlite:////x/y'}\nsources:\n- name: pm\n  provider: postmark\n  username: u\n"
        "  pasword: very-secret\n"
    )
    done = command("config", "check", str(path))
    assert (done.returncode, done.stdout) == (78, "")
    for arguments in (
        ["config", "check", str(path)], ["run", "--config", str(path)],
        ["import", "--config", str(path), "--source", "pm", str(path)],
        ["simulate", "--provider", "postmark", "--config", str(path), "--source", "pm", "--url", "http://127.0.0.1:1"],
    ):  # fmt: skip
        code, out, err = called(*arguments)
        assert code == 78
        assert f"{path}:7: sources[0].pasword: unknown key; did you mean `password`?" in err
        assert "very-secret" not in out + err
    code, out, err = called("config", "check", str(tmp_path / "none"))
    assert (code, out) == (78, "")
    assert "No such file or directory" in err


def test_right_settings(called: Called, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("listen: {}\nstore: {url: 'sqlite:////x/y'}\ndomains: [{name: a.example}]\n")
    good = f"{path}: good. Sources: 0, domains: 1, Alertmanagers: 0.\n"
    assert called("config", "check", str(path)) == (0, good, "")
    monkeypatch.setenv("MAILVITALS_LOG__LEVEL", "loud")
    code, _, err = called("config", "check", str(path))
    assert code == 78
    assert "environment: MAILVITALS_LOG__LEVEL: log.level: " in err


def test_the_schema_is_json(called: Called) -> None:
    code, out, _ = called("config", "schema")
    assert code == 0
    assert {"listen", "store", "sources"} <= set(json.loads(out)["properties"])


# simulate


def test_simulate_writes_the_same_bytes_for_the_same_seed(tmp_path: Path) -> None:
    def written(provider: str, seed: int, name: str) -> tuple[bytes, str]:
        path = tmp_path / name
        done = command(
            "simulate", "--provider", provider, "--output", str(path), "--messages", "300", "--seed", str(seed),
            "--until", "2026-01-02T03:04:05Z", "--hours", "48",
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        return path.read_bytes(), done.stdout

    for provider in ("sendgrid", "postmark"):
        first, again, other = written(provider, 5, "a"), written(provider, 5, "b"), written(provider, 6, "c")
        assert first == again
        assert first[0] != other[0]
        for line in first[0].splitlines():
            json.loads(line)
        reports = int(re.search(r"^([\d,]+) reports", first[1], re.MULTILINE)[1].replace(",", ""))  # type: ignore[index]
        items = [json.loads(line) for line in first[0].splitlines()]
        assert reports == sum(len(item) if isinstance(item, list) else 1 for item in items)


def test_what_simulate_says_it_sent_is_what_the_agent_counts(running: Agent, key: tuple[Path, str]) -> None:
    total: dict[str, int] = {}
    for arguments in (
        ["--provider", "sendgrid", "--private-key", str(key[0]), "--url", running.webhook("sg"), "--messages", "3000"],
        ["--provider", "postmark", "--config", str(running.config), "--source", "pm", "--url", running.webhook("pm"),
         "--messages", "400"],
    ):  # fmt: skip
        done = command(
            "simulate", *arguments, "--domain", DOMAIN, "--json", "--hard", "0.05", "--duplicates", "0.2",
            "--changed-ids", "0.5", "--soft", "0.02", "--complained", "0.01",
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        told = json.loads(done.stdout)
        assert told["failed_requests"] == 0
        assert told["copies"] > 0
        for measure, n in told["counts"].items():
            total[measure] = total.get(measure, 0) + n

    def counted() -> bool:
        rates = json.loads(command("status", "--url", running.url, "--token", TOKEN, "--json").stdout)
        month = rates["domains"][DOMAIN]["rates"]["30d"]
        bounces = sum(total[c] for c in ("hard", "soft", "block", "undetermined"))
        assert month["deliverability"]["numerator"] == total["delivered"]
        assert month["deliverability"]["denominator"] == total["delivered"] + bounces
        assert month["bounce"]["numerator"] == total["hard"] + total["undetermined"]
        assert month["soft_bounce"]["numerator"] == total["soft"]
        assert month["block"]["numerator"] == total["block"]
        assert month["complaint"]["numerator"] == total["complained"]
        assert month["suppression"]["numerator"] == total["dropped"]
        assert month["deferral"]["numerator"] == total["deferred_pairs"]
        return True

    wait_until(counted, 15, "the counts of both to be evaluated")


def test_keys_are_not_overwritten_and_what_is_no_key_is_said(running: Agent, key: tuple[Path, str]) -> None:
    before = key[0].read_bytes()
    done = command("simulate", "--provider", "sendgrid", "--new-key", str(key[0]))
    assert (done.returncode, "exists" in done.stderr) == (1, True)
    assert key[0].read_bytes() == before
    done = command(
        "simulate", "--provider", "sendgrid", "--private-key", str(running.config), "--url", running.webhook("sg")
    )
    assert done.returncode == 64


# status


def test_status_as_a_table_and_as_json(running: Agent) -> None:
    wait_until(lambda: json.loads(_status(running, "--json").stdout)["evaluated_at"] > 0, 10)
    done = _status(running)
    assert done.returncode in (0, 1)
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    header = next(line for line in done.stdout.splitlines() if line.startswith("Domain"))
    assert header.split()[:4] == ["Domain", "Phase", "Target", "Verdict"]
    assert max(map(len, done.stdout.splitlines())) > 100
    for target in ("bounce", "deliverability", "complaint"):
        assert re.search(rf"^{DOMAIN} +foundation +{target} ", done.stdout, re.MULTILINE)
    assert re.search(r"^sg +sendgrid +", done.stdout, re.MULTILINE)
    document = json.loads(_status(running, "--json").stdout)
    assert (document["api"], document["version"]) == (1, __version__)


def _status(running: Agent, *arguments: str) -> subprocess.CompletedProcess[str]:
    return command("status", "--url", running.url, *arguments, env={"MAILVITALS_LISTEN__PRIVATE_TOKEN": TOKEN})


def test_status_on_a_narrow_terminal(running: Agent) -> None:
    arguments = ("status", "--url", running.url, "--token", TOKEN)
    _, coloured = terminal(*arguments)
    assert "\x1b[" in coloured
    _, plain = terminal(*arguments, env={"NO_COLOR": "1"})
    assert "\x1b" not in plain
    lines = plain.split("\r\n")
    assert max(map(len, lines)) <= 80
    assert f"{DOMAIN} (foundation)" in lines
    # Words stay whole.
    for target in ("bounce", "deliverability", "complaint"):
        assert any(re.match(rf"  {target} +(met|breached|undecided|insufficient data)", line) for line in lines)


def test_phase_of_a_running_agent(running: Agent) -> None:
    arguments = ("phase", "--url", running.url, "--token", TOKEN)

    def gate() -> tuple[int, dict[str, Any]]:
        done = command(*arguments, "--json")
        return done.returncode, json.loads(done.stdout)["domains"][DOMAIN]

    wait_until(lambda: "have not been read" not in str(gate()), 20, "the days to be read")
    code, found = gate()
    assert (found["phase"], found["next_phase"]) == ("foundation", "growth")
    assert code == {"not_yet": 1, "cannot_tell": 3}[found["state"]]
    items = {item["name"]: item for item in found["items"]}
    assert items["duration"]["state"] == items["blocklists"]["state"] == "unknown"
    assert items["capacity"]["state"] == "passed"
    text = command(*arguments, "--domain", DOMAIN).stdout
    assert re.search(r"duration +unknown +now +2 to 4 weeks are planned for foundation", text)
    assert command("phase", "--url", running.url).returncode == 3
    assert command(*arguments, "--domain", "nobody.example").returncode == 64


def test_status_needs_the_token(running: Agent) -> None:
    for token in ([], ["--token", "wrong"]):
        done = command("status", "--url", running.url, *token)
        assert done.returncode == 1
        assert done.stderr == f"Error: {running.url} answered 401; give --token\n"


def test_status_of_nobody_and_of_somebody_else() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = command("status", "--url", url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: no agent at {url}: ")
    assert "refused" in done.stderr

    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>" if "html" in self.path else b"[1]")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            for path in ("/html", ""):
                done = command("status", "--url", f"http://127.0.0.1:{server.server_port}{path}")
                assert done.returncode == 1
                assert "is not this version's private listener" in done.stderr
                assert "Traceback" not in done.stderr
        finally:
            server.shutdown()
            thread.join()


# run


def _run(config: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return command("run", "--config", str(config), env=env)


def test_an_address_in_use_is_said(running: Agent, tmp_path: Path) -> None:
    settings = yaml.safe_load(running.config.read_text())
    settings["store"]["url"] = f"sqlite:///{tmp_path}/other.db"
    path = tmp_path / "m.yaml"
    for name in ("private", "public"):
        trial = {**settings, "listen": dict.fromkeys(("private", "public"), "127.0.0.1:0")}
        trial["listen"][name] = settings["listen"][name]
        path.write_text(yaml.safe_dump(trial))
        done = _run(path)
        assert done.returncode == 1
        assert f"Error: listen.{name}: cannot listen on {settings['listen'][name]}: " in done.stderr
        assert "in use" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_database_of_another_key_is_refused(running: Agent, tmp_path: Path) -> None:
    settings: dict[str, Any] = yaml.safe_load(running.config.read_text())
    settings["listen"] = {"public": "127.0.0.1:0", "private": "127.0.0.1:0"}
    for suffix in ("", "-wal", "-shm"):
        source = running.database.with_name(running.database.name + suffix)
        if source.exists():
            shutil.copy(source, tmp_path / f"ledger.db{suffix}")
    settings["store"] = {"url": f"sqlite:///{tmp_path}/ledger.db"}
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump(settings))
    done = _run(path, MAILVITALS_STORE__IDENTITY_KEY="k" * 40)
    assert done.returncode == 78, done.stderr
    assert "key" in done.stderr
    assert str(tmp_path / "ledger.db") in done.stderr
    assert "Traceback" not in done.stderr
    assert "k" * 40 not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_well_and_the_log_is_json(tmp_path: Path, number: signal.Signals) -> None:
    one = Agent(tmp_path / "agent", {"sources": [POSTMARK], "log": {"level": "info"}})
    for _ in range(2):
        one.start()
        assert one.process is not None
        start = time.monotonic()
        one.process.send_signal(number)
        assert one.process.wait(15) == 0
        assert time.monotonic() - start < 5
    events = [json.loads(line)["event"] for line in one.log.read_text().splitlines()]
    assert events.count("agent.started") == events.count("agent.stopped") == 2


def test_a_second_agent_beside_the_first_is_harmless(running: Agent, tmp_path: Path) -> None:
    # The same database, another address: the operator's slip that must not corrupt anything.
    settings = yaml.safe_load(running.config.read_text())
    before = json.loads(_status(running, "--json").stdout)["domains"][DOMAIN]["attempted"]
    second = Agent(tmp_path / "second", {k: v for k, v in settings.items() if k != "listen"})
    second.start()
    assert json.loads(_status(running, "--json").stdout)["leader"]
    assert second.stop() == 0
    assert b"Traceback" not in second.log.read_bytes()
    assert json.loads(_status(running, "--json").stdout)["domains"][DOMAIN]["attempted"] == before


@pytest.mark.parametrize(("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_gets_readable_log_lines(tmp_path: Path, env: dict[str, str], coloured: bool) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump({
        "listen": {"public": "127.0.0.1:0", "private": "127.0.0.1:0"},
        "store": {"url": f"sqlite:///{tmp_path}/ledger.db"}, "sources": [POSTMARK],
    }))  # fmt: skip
    code, shown = terminal("run", "--config", str(path), columns=200, env=env, interrupt_at="agent.started")
    assert code == 0
    assert ("\x1b[" in shown) is coloured
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert re.search(r"^\S+Z \[info +\] agent\.started +private=127\.0\.0\.1:\d+", plain, re.MULTILINE)
    assert re.search(r"^\S+Z \[info +\] agent\.stopped", plain, re.MULTILINE)


def test_simulate_says_what_was_refused(refused: subprocess.Popen[str], running: Agent) -> None:
    out, err = refused.communicate(timeout=60)
    assert (refused.returncode, err) == (1, "")
    assert re.search(r"^0 requests taken, 0 retries, 1 given up \(last answer: HTTP 401\)$", out, re.MULTILINE)
    assert "HTTP 401: the credentials do not fit" in out
    (source,) = (s for s in json.loads(_status(running, "--json").stdout)["sources"] if s["name"] == "sg")
    assert source["requests"]["unauthorized"] == 1


def test_a_private_key_signs_for_the_topic_that_the_source_names(tmp_path: Path) -> None:
    """SNS signs for a topic, so a key alone is not enough."""
    made = command("simulate", "--provider", "ses", "--new-key", str(tmp_path / "key"))
    pinned = yaml.safe_load(made.stdout)
    one = Agent(tmp_path, {"sources": [{"name": "ses", "provider": "ses", "domain": DOMAIN, **pinned}]})
    sign = ["--provider", "ses", "--private-key", str(tmp_path / "key"), "--messages", "40"]
    try:
        one.start()
        to = ["--url", one.webhook("ses")]
        alone = command("simulate", *sign, *to)
        assert alone.returncode == 64
        assert "topic_arns" in alone.stderr
        done = command("simulate", *sign, *to, "--config", str(one.config), "--source", "ses", "--json")
        assert done.returncode == 0, done.stderr
        sent = json.loads(done.stdout)
        assert sent["failed_requests"] == 0
        counted = one.counters("events_total", "kind")
        assert sum(counted.values()) + sent["copies"] >= sent["reports"] > 40
    finally:
        assert one.stop() == 0
