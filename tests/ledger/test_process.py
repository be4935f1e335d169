"""The store in a process of its own: it may die, and its parent may."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from agent.clock import HOUR
from agent.events import Event, Kind
from agent.ledger.base import Batch, Cell, LedgerError, StoreUnavailable
from agent.ledger.process import ProcessLedger
from agent.ledger.sqlite import SqliteLedger
from tests.servers.agent import ROOT

KEY = b"k" * 32
NOW = 1_764_000_000.0
CELL = Cell("example.com", "sendgrid", "", "gmail")


def batch(number: int, size: int = 20) -> Batch:
    events = [Event(Kind.DELIVERED, NOW - n, "a@example.net", f"{number}-{n}") for n in range(size)]
    return Batch("main", "sendgrid", "sendgrid", NOW, events, [CELL] * size)


async def total(ledger: ProcessLedger | SqliteLedger) -> int:
    return sum(row.count for row in await ledger.rows(HOUR, 0, NOW + HOUR))


def _child(ledger: ProcessLedger) -> int:
    assert ledger._process is not None
    return ledger._process.pid


async def test_a_killed_child_is_replaced_and_counts_stay_exact(tmp_path: Path) -> None:
    ledger = ProcessLedger(tmp_path / "ledger.db", KEY)
    await ledger.start()
    kills = 0

    async def killer() -> None:
        nonlocal kills
        while True:
            await asyncio.sleep(0.03)
            os.kill(_child(ledger), signal.SIGKILL)
            kills += 1
            await asyncio.sleep(0.6)  # the next one starts in the meantime

    killing = asyncio.create_task(killer())
    troubles: Counter[str] = Counter()

    async def send(number: int) -> None:
        while True:
            try:
                await ledger.apply([batch(number)], NOW)
                return
            except StoreUnavailable as e:
                troubles[str(e)] += 1
                await asyncio.sleep(0.05)

    numbers = iter(range(400))

    async def sender() -> None:
        for number in numbers:
            await send(number)
            await asyncio.sleep(0.02)

    await asyncio.gather(*(sender() for _ in range(4)))
    killing.cancel()
    await asyncio.gather(killing, return_exceptions=True)
    assert kills > 1
    assert set(troubles) <= {"the store's process ended", "the store's process did not start"}
    for _ in range(100):
        try:
            assert await total(ledger) == 400 * 20
            break
        except StoreUnavailable:
            await asyncio.sleep(0.05)
    else:
        pytest.fail("the store did not come back")
    await ledger.close()


async def test_signals_for_the_parent_do_not_end_the_child(tmp_path: Path) -> None:
    ledger = ProcessLedger(tmp_path / "ledger.db", KEY)
    await ledger.start()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(_child(ledger), number)
    await ledger.apply([batch(1)], NOW)
    assert await total(ledger) == 20
    await ledger.close()


async def test_what_cannot_be_opened_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("this is no database, and long enough to be seen as none " * 20)
    ledger = ProcessLedger(tmp_path / "ledger.db", KEY)
    with pytest.raises(LedgerError, match="not a SQLite database"):
        await ledger.start()
    with pytest.raises(StoreUnavailable):
        await ledger.apply([batch(1)], NOW)
    await ledger.close()
    missing = ProcessLedger(tmp_path / "nowhere" / "ledger.db", KEY)
    with pytest.raises(StoreUnavailable, match="unable to open"):
        await missing.start()
    await missing.close()


_PARENT = """
import asyncio, sys, pathlib
from agent.ledger.process import ProcessLedger
async def main():
    ledger = ProcessLedger(pathlib.Path(sys.argv[1]), b"k" * 32)
    await ledger.start()
    print(ledger._process.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_the_child_ends_with_a_killed_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(tmp_path / "ledger.db")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        # Nobody reaps it here: a zombie has ended too.
        if "State:\tZ" in Path(f"/proc/{child}/status").read_text():
            return
        time.sleep(0.05)
    pytest.fail("the child outlived its parent")


async def test_no_recipient_crosses_to_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.ledger import process

    sent: list[bytes] = []
    send = process._send

    async def spy(writer: asyncio.StreamWriter, number: int, word: str, payload: bytes) -> None:
        sent.append(payload)
        await send(writer, number, word, payload)

    monkeypatch.setattr(process, "_send", spy)
    ledger = ProcessLedger(tmp_path / "ledger.db", KEY)
    await ledger.start()
    events = [
        Event(kind, NOW, "someone@example.net", "m1", discriminator="https://example.com/?for=someone@example.net")
        for kind in Kind
    ]
    await ledger.apply([Batch("main", "sendgrid", "sendgrid", NOW, events, [CELL] * len(events))], NOW)
    await ledger.close()
    assert len(sent) == 2
    assert not any(b"someone" in payload or b"m1" in payload for payload in sent)
