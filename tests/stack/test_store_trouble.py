"""When the store cannot commit, the senders keep their events, and each counts once when it can again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agent.clock import DAY
from agent.intake.source import Source
from agent.ledger.base import Applied, Batch
from agent.ledger.sqlite import SqliteLedger, load_or_create_key
from agent.providers import PROVIDERS, WebhookRequest
from tests.ledger.conftest import KEY
from tests.servers.base import program, wait_until
from tests.servers.raw import Answer, exchange, request
from tests.stack.live import SENDGRID, Live, intake_alone, live_agent, taken


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live_agent(tmp_path_factory.mktemp("trouble")) as one:
        assert taken(one.post("sg", one.batch(10)))
        wait_until(lambda: _attempted(one) == 10, 10, "the first events to be evaluated")
        yield one


@contextlib.contextmanager
def locked(live: Live) -> Iterator[None]:
    """Someone else writes to the file and does not come to an end."""
    other = sqlite3.connect(live.agent.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@contextlib.contextmanager
def full(live: Live) -> Iterator[None]:
    """The agent's files cannot grow any more."""
    pid = _store_of(live)
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    wal = live.agent.database.with_name("ledger.db-wal").stat().st_size
    assert live.agent.log.stat().st_size < wal // 2, "there is still room for the log"
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (wal, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def read_only(live: Live) -> Iterator[None]:
    """The kernel lets nothing be written any more, as it does with a disk that fails under a running system."""
    pid = _store_of(live)
    calls = "pwrite64,ftruncate,fallocate,fsync,fdatasync"
    fail = ["-e", f"trace={calls}", "-e", f"inject={calls}:error=EROFS"]
    other = subprocess.Popen([program("strace", "strace"), "-f", "-qq", "-o", "/dev/null", *fail, "-p", str(pid)])
    try:
        wait_until(lambda: all(_traced(pid)), 10, "every thread of the store to be held")
        yield
    finally:
        other.terminate()
        other.wait(10)
    assert not any(_traced(pid))


def _traced(pid: int) -> list[bool]:
    statuses = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return ["TracerPid:\t0\n" not in status for status in statuses]


def _store_of(live: Live) -> int:
    """The process that holds the store: the agent's only child."""
    assert live.agent.process is not None
    tasks = Path(f"/proc/{live.agent.process.pid}/task").iterdir()
    (child,) = [child for task in tasks for child in (task / "children").read_text().split()]
    return int(child)


def _attempted(live: Live) -> int:
    domain: dict[str, Any] = live.agent.status()["domains"]["example.com"]
    return int(domain["attempted"]["24h"])


def _unready(live: Live) -> str:
    """Why the agent is not ready, ``""`` when it is."""
    answer = exchange(live.agent.private, request("GET", "/readyz", {}))
    assert answer.status in (200, 503)
    return " ".join(c["reason"] for c in json.loads(answer.body)["conditions"]) if answer.status == 503 else ""


@pytest.mark.parametrize("trouble", [locked, full, read_only])
def test_nothing_is_acknowledged_and_everything_counts_once_afterwards(
    live: Live, trouble: Callable[[Live], contextlib.AbstractContextManager[None]]
) -> None:
    before, attempted = live.events(), _attempted(live)
    bodies = [live.batch(50) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        with trouble(live):
            start = time.monotonic()
            answers = list(pool.map(lambda body: live.post("sg", body), bodies))
            # What cannot be read has to be sealed, so it must be kept by its sender as well.
            answers.append(live.post("pm", b"not JSON"))
            assert {(a.status, a.headers.get("retry-after")) for a in answers} == {(503, "10")}
            wait_until(lambda: "store" in _unready(live), 15, "readiness to notice")
            assert live.agent.get("/healthz")
            assert live.events() == before
            assert _attempted(live) == attempted, "the last evaluation is still shown"
            assert time.monotonic() - start < 30
        answers = list(pool.map(lambda body: live.post("sg", body), bodies))
        assert all(map(taken, answers))
        answers = list(pool.map(lambda body: live.post("sg", body), bodies))
        assert all(map(taken, answers))
    assert live.events() == before + 400
    wait_until(lambda: not _unready(live), 15, "readiness to come back")
    wait_until(lambda: _attempted(live) == attempted + 400, 5, "the evaluation to catch up")


def test_the_log_says_so_once_each_way(live: Live) -> None:
    events = [json.loads(line)["event"] for line in live.agent.log.read_text().splitlines()]
    both = [event for event in events if event in ("store.unavailable", "store.available")]
    assert both == ["store.unavailable", "store.available"] * 3
    counted = live.agent.counters("webhook_requests_total", "outcome")
    assert counted["unavailable"] == 27
    assert "Traceback" not in live.agent.log.read_text()


class Slow:
    """A ledger whose commits wait to be let through."""

    def __init__(self, ledger: SqliteLedger) -> None:
        self._ledger = ledger
        self.commits: list[list[str]] = []  # whose batches were in each
        self.let = asyncio.Event()
        self.entered = asyncio.Event()

    async def apply(self, batches: Sequence[Batch], now: float) -> list[Applied]:
        self.entered.set()
        await self.let.wait()
        self.commits.append([batch.source for batch in batches])
        return await self._ledger.apply(batches, now)


def _record(n: int) -> bytes:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60))
    return json.dumps(
        {"RecordType": "Delivery", "MessageID": f"m{n}", "Recipient": "a@b.test", "DeliveredAt": at}
    ).encode()


async def test_more_than_can_wait_is_sent_back_and_leaves_another_source_its_room_and_turn(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "ledger.db", KEY)
    slow = Slow(ledger)
    async with intake_alone(slow, queue_events=12) as (port, _, _):

        def post(n: int, source: str = "pmh") -> Answer:
            return exchange(port, request("POST", f"/webhooks/{source}", {"X-Secret": "s" * 20}, _record(n)))

        first = asyncio.create_task(asyncio.to_thread(post, 0))
        await asyncio.wait_for(slow.entered.wait(), 5)
        # One commit under way; of twelve more three find room (an event takes two places, and of the queue a source has
        # no more than it leaves).
        rest = [asyncio.create_task(asyncio.to_thread(post, n)) for n in range(1, 13)]
        done: set[asyncio.Task[Answer]] = set()
        async with asyncio.timeout(10):
            while len(done) < 9:
                done, _ = await asyncio.wait(rest, timeout=0.05)
        assert {(a.status, a.headers["retry-after"]) for a in (task.result() for task in done)} == {(503, "10")}
        quiet = asyncio.create_task(asyncio.to_thread(post, 13, "quiet"))
        assert not (await asyncio.wait([quiet], timeout=0.3))[0], "it waits, and is not sent back"
        slow.let.set()
        answers = await asyncio.gather(first, *rest)
        assert sum(map(taken, answers)) == 4
        assert taken(await quiet)
        assert slow.commits[1][:2] == ["pmh", "quiet"], "its turn is not behind all that came before"
        again = await asyncio.gather(*(asyncio.to_thread(post, n) for n in range(3)))
        assert all(map(taken, again))
    counted = sum(row.count for row in await ledger.rows(DAY, 0, time.time() + DAY))
    assert 5 <= counted <= 7
    await ledger.close()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_all_that_was_acknowledged_before_the_end_is_in_the_ledger(tmp_path: Path, seed: int) -> None:
    taken_bodies: list[bytes] = []
    refused: list[int] = []
    stop = threading.Event()
    with live_agent(tmp_path) as live:

        def send() -> None:
            while not stop.is_set():
                body = live.batch(7)
                with contextlib.suppress(OSError):
                    answer = live.post("sg", body)
                    if answer.status == 200:
                        taken_bodies.append(body)
                    elif answer.status:
                        refused.append(answer.status)

        senders = [threading.Thread(target=send) for _ in range(6)]
        for sender in senders:
            sender.start()
        time.sleep(0.3 + seed * 0.2)
        assert live.agent.stop() == 0
        stop.set()
        for sender in senders:
            sender.join()
        log = live.agent.log.read_text()
    assert len(taken_bodies) > 20
    assert set(refused) <= {503}
    assert "Traceback" not in log
    assert json.loads(log.splitlines()[-1])["event"] == "agent.stopped"
    asyncio.run(_all_known(live.agent.database, taken_bodies))


async def _all_known(database: Path, bodies: list[bytes]) -> None:
    ledger = SqliteLedger(database, load_or_create_key(database.with_name("ledger.db.key")))
    counted = sum(row.count for row in await ledger.rows(DAY, 0, time.time() + DAY))
    assert counted >= 7 * len(bodies)
    source = Source("sg", "sendgrid", PROVIDERS["sendgrid"], SENDGRID.settings, domain="example.com")
    for body in bodies:
        prepared = source.read(WebhookRequest("POST", "/", "", {}, body, time.time()))
        (result,) = await ledger.apply([prepared.batch], time.time())
        assert result.duplicates == {"same_outcome": 7}
    assert sum(row.count for row in await ledger.rows(DAY, 0, time.time() + DAY)) == counted
    await ledger.close()
