"""A real disk that is full, and one that may not be written: a clear state, nothing lost, nothing counted twice."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.agent import Agent
from tests.servers.base import wait_until
from tests.servers.raw import exchange, request
from tests.stack.live import SETTINGS, Live, signed, taken

# Another mount namespace, where whoever runs the tests may mount. Its commands end in the agent itself.
MOUNTED = ["unshare", "--map-root-user", "--mount", "sh", "-euc"]


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Agent]:
    disk = tmp_path / "disk"
    disk.mkdir()
    agent = Agent(tmp_path, {**SETTINGS, "store": {"url": f"sqlite:///{disk}/ledger.db"}})
    yield agent
    agent.stop()


def _mount(agent: Agent, *commands: str) -> None:
    agent.within = [*MOUNTED, "; ".join((*commands, 'exec "$0" "$@"'))]


def test_a_full_disk_keeps_mail_with_its_senders_until_there_is_room(stopped: Agent) -> None:
    disk = stopped.folder / "disk"
    _mount(stopped, f"mount -t tmpfs -o size=4m none {disk}")
    stopped.start()
    assert stopped.process
    live = Live(stopped)
    filler = Path(f"/proc/{stopped.process.pid}/root{disk}/filler")
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        file.writelines(itertools.repeat(bytes(65536)))

    sent: list[bytes] = []
    refused = []
    while len(refused) < 3:
        assert len(sent) < 200, "what is full takes no more"
        sent.append(live.batch(100))
        answer = live.post("sg", sent[-1])
        assert taken(answer) or (answer.status, answer.headers["retry-after"]) == (503, "10")
        refused += [] if taken(answer) else [sent[-1]]
    unreadable = request("POST", "/webhooks/pmh", signed("pmh", b""), b"not JSON" * 1000)
    assert exchange(live.port, unreadable).status == 503, "what cannot be sealed stays with its sender too"
    wait_until(lambda: _conditions(stopped)["store"] != "", 15, "readiness to say so")
    assert stopped.get("/healthz"), "a restart mends no disk"
    assert live.events() == 100 * (len(sent) - len(refused))

    filler.unlink()
    wait_until(lambda: taken(live.post("sg", refused[0])), 10, "room to be used")
    for body in sent:
        assert taken(live.post("sg", body))
    assert live.events() == 100 * len(sent)
    wait_until(lambda: stopped.get("/readyz"), 10, "readiness to come back")
    assert stopped.stop() == 0
    log = [json.loads(line) for line in stopped.log.read_text().splitlines()]
    assert "database or disk is full" in str([line for line in log if line["event"] == "store.unavailable"])


def test_a_disk_that_may_not_be_written_is_said_at_the_start(stopped: Agent) -> None:
    disk = stopped.folder / "disk"
    _mount(stopped, f"mount -t tmpfs -o size=4m,ro none {disk}")
    stopped.start(wait=False)
    assert stopped.process
    assert stopped.process.wait(30) == 1
    text = stopped.log.read_text()
    assert str(disk) in text
    assert "Read-only file system" in text
    assert "Traceback" not in text


def _conditions(agent: Agent) -> dict[str, str]:
    answer = exchange(agent.private, request("GET", "/readyz", {}))
    return {one["name"]: one["reason"] for one in json.loads(answer.body)["conditions"]}
