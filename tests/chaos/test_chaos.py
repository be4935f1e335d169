"""What ``make chaos`` is made of."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.chaos.plan import BUS_SIDE, STORE_SIDE, plan
from tests.servers.line import line


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


def test_a_plan_leaves_out_nothing() -> None:
    for kinds in (STORE_SIDE, BUS_SIDE):
        blows = plan(kinds, random.Random(1))
        assert {(blow.what, blow.whom) for blow, _ in zip(blows, kinds, strict=False)} == {*kinds}
