"""A process that counts simulated traffic into a ledger, and can be told to die in the middle of it.

    python -m tests.ledger.writer FILE SEED storm
    python -m tests.ledger.writer FILE SEED dying
    python -m tests.ledger.writer FILE SEED storm|dying relabelled

FILE is an SQLite database, or the URL of one on PostgreSQL.

``storm`` prints an empty line when it is ready and waits for one; then it applies every commit three times, in an order
of its own, and prints how many events it was the first to count. ``dying`` is killed before its nth statement, then
again after its restart, and so on until all is counted; it prints how often. ``relabelled``: nobody knows the mailbox
providers when the events come, and they become known in between, again and again.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import msgspec

from agent.ledger.base import Batch, Ledger, Server
from agent.ledger.postgres import PostgresLedger
from agent.ledger.sqlite import SqliteLedger
from tests.ledger.conftest import KEY
from tests.ledger.model import expected
from tests.ledger.traffic import NOW, read, reports, rough, split
from tests.servers.postgres import PASSWORD

MESSAGES = 250
ROOT = Path(__file__).resolve().parents[2]


def commits() -> list[list[Batch]]:
    """The same for every process: traffic of both providers."""
    rng = random.Random(1)
    batches = [batch for provider in ("postmark", "sendgrid") for batch in read(provider, rough(MESSAGES), rng, 20)[0]]
    return split(rng, batches, True)


Work = list[Batch] | dict[str, str]


def pending(work: list[list[Batch]]) -> list[Work]:
    """The same traffic to domains that wait for their MX, and what is found out about them in between and at last."""
    rng, found = random.Random(2), {}
    out: list[Work] = []
    for commit in work:
        batches = []
        for batch in commit:
            cells = [c._replace(mailbox_provider=f"?{c.mailbox_provider}.example") for c in batch.cells]
            found |= {f"{c.mailbox_provider}.example": c.mailbox_provider for c in batch.cells}
            batches.append(msgspec.structs.replace(batch, cells=cells))
        out.append(batches)
        out.append(dict(rng.sample(sorted(found.items()), rng.randint(1, len(found)))))
    return [*out, found]


def opened(store: str, before_statement: Callable[..., None] | None = None) -> Ledger:
    """The ledger; ``before_statement`` is called before each of its statements."""
    if not store.startswith("postgresql:"):
        embedded = SqliteLedger(Path(store), KEY)
        if before_statement:
            embedded._writer.set_trace_callback(before_statement)
        return embedded
    if before_statement:
        watch(before_statement)
    return PostgresLedger(Server(store, PASSWORD), KEY)


def watch(before_statement: Callable[[], None], patch: Callable[[object, str, object], None] = setattr) -> None:
    """Call it before each statement that any connection to PostgreSQL of this process makes."""

    def watched(original: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
        async def method(*arguments: object, **more: object) -> object:
            before_statement()
            return await original(*arguments, **more)

        return method

    for name in ("execute", "fetch", "fetchrow", "fetchval"):
        patch(asyncpg.Connection, name, watched(getattr(asyncpg.Connection, name)))


async def do(ledger: Ledger, work: Work) -> int:
    """Events counted for the first time."""
    if isinstance(work, dict):
        await ledger.relabel(work, NOW)
        return 0
    return sum(sum(result.counted.values()) for result in await ledger.apply(work, NOW))


async def storm(path: str, rng: random.Random, everything: list[Work]) -> int:
    """Events that this process was the first to count."""
    work = everything * 3
    rng.shuffle(work)
    work.append(everything[-1])
    ledger = opened(path)
    print(flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    first = 0
    for one in work:
        await asyncio.sleep(rng.random() * 0.01)  # SQLite's lock is not fair: this lets the other one in.
        first += await do(ledger, one)
    await ledger.close()
    return first


async def _until_killed(path: str, work: list[Work], acknowledge: int, statements: int) -> None:
    left = statements

    def before_statement(_: str = "") -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    ledger = opened(path, before_statement)
    for one in work:
        await do(ledger, one)
        os.write(acknowledge, b".")
    # No close: the end of the work is one more moment to die in.
    os._exit(0)


def dying(path: str, rng: random.Random, work: list[Work]) -> int:
    """How often it was killed until everything was acknowledged."""
    done = kills = 0
    while done < len(work):
        acknowledged, acknowledge = os.pipe()
        # Each of the first statements in turn, then any that a commit may have.
        statements = kills if kills < 45 else rng.randrange(400)
        child = os.fork()
        if child == 0:
            os.close(acknowledged)
            asyncio.run(_until_killed(path, work[done:], acknowledge, statements))
        os.close(acknowledge)
        with os.fdopen(acknowledged, "rb") as pipe:
            done += len(pipe.read())
        _, status = os.waitpid(child, 0)
        if status:
            assert os.WIFSIGNALED(status), status
            kills += 1
    return kills


# For the tests that start it.


def start(store: str, seed: str, *what: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.ledger.writer", store, seed, *what], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def start_at_once(processes: list[subprocess.Popen[str]]) -> None:
    """Each says that it is ready by an empty line and waits for one."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def end(process: subprocess.Popen[str]) -> int:
    """What it printed last."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return int(out)


def truth() -> dict[object, int]:
    """What the slow model says of ``commits``."""
    return dict(expected(reports([batch for commit in commits() for batch in commit])))


def main() -> None:
    path, rng = sys.argv[1], random.Random(sys.argv[2])
    work: list[Work] = pending(commits()) if sys.argv[4:] else list(commits())
    print(asyncio.run(storm(path, rng, work)) if sys.argv[3] == "storm" else dying(path, rng, work))


if __name__ == "__main__":
    main()
