"""What ``make chaos`` is made of."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from agent.alerts.types import Incident
from tests.chaos.plan import BUS_SIDE, STORE_SIDE, plan
from tests.chaos.run import chaos, not_told_once
from tests.servers.line import line
from tests.servers.receiver import Receiver


async def test_a_line_that_is_cut_holds_what_is_sent_or_loses_it() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with line(server.sockets[0].getsockname()[1]) as way:
        reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
        writer.write(b"one")
        assert await reader.read(100) == b"one"
        for lost in (False, True):
            way.cut()
            writer.write(b"two")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(100), 0.05)
            way.mend(lost=lost)
            assert await reader.read(100) == (b"" if lost else b"two")
        writer.close()
    server.close()


async def test_whatever_dies_all_is_counted_once_and_told_once(tmp_path: Path) -> None:
    """``make chaos`` in short: who leads is killed, and the next one cut off, among all else that dies meanwhile."""
    await chaos(tmp_path, seconds=20, seed=10, rate=80)


def test_what_is_not_told_once_is_found() -> None:
    def incident(name: str, resolved_at: float = 0.0) -> Incident:
        return Incident({"alertname": name}, {}, 1_790_000_000.1239, resolved_at=resolved_at)

    def tell(who: Receiver, name: str, status: str, at: str = ".123") -> None:
        alert = {"status": status, "labels": {"alertname": name}, "startsAt": f"2026-09-21T14:13:20{at}Z"}
        who.take({"alerts": [alert]})

    incidents = [incident("open"), incident("over", 1_790_000_100.0)]
    for more in ([], [("open", "firing")], [("over", "resolved")], [("open", "resolved")], [("new", "firing")]):
        one = Receiver()
        for name, status in (("open", "firing"), ("over", "firing"), ("over", "resolved"), *more):
            tell(one, name, status)
        assert bool(not_told_once(one, incidents)) == bool(more), more
    # One that began once more: the first has ended, and the second has its own start.
    one = Receiver()
    for at, status in ((".000", "firing"), (".000", "resolved"), (".123", "firing")):
        tell(one, "open", status, at)
    assert not_told_once(one, [incident("open")]) == []
    assert "0 times told" in not_told_once(one, [incident("open"), incident("silent")])[0]


def test_a_plan_leaves_out_nothing() -> None:
    for kinds in (STORE_SIDE, BUS_SIDE):
        blows = plan(kinds, random.Random(1))
        assert {(blow.what, blow.whom) for blow, _ in zip(blows, kinds, strict=False)} == {*kinds}
