"""A way over a network that can be cut: what is sent meanwhile waits or is lost with its connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Line:
    """TCP from a port of its own to ``target`` on loopback. Lives in the event loop that made it."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._whole = asyncio.Event()
        self._whole.set()
        self._ends: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Nothing passes any more, and neither end is told: connections stay, new ones are taken and lead nowhere."""
        self._whole.clear()

    def mend(self, *, lost: bool = False) -> None:
        """What waited goes on; ``lost``: the connections of before are gone."""
        if lost:
            self.abort()
        self._whole.set()

    def abort(self) -> None:
        """End every connection at once."""
        for end in self._ends:
            end.transport.abort()

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        self._ends.add(writer)
        try:
            await self._whole.wait()
            there, onward = await asyncio.open_connection("127.0.0.1", self._target)
            ends.add(onward)
            self._ends.add(onward)
            await asyncio.gather(self._pass(reader, onward), self._pass(there, writer))
        except OSError:
            pass
        finally:
            for end in ends:
                end.transport.abort()
            self._ends -= ends

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._whole.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def line(target: int) -> AsyncIterator[Line]:
    """A line that is whole."""
    one = Line(target)
    server = await asyncio.start_server(one.connect, "127.0.0.1", 0)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        server.close()
        one.mend(lost=True)
        await asyncio.sleep(0)
