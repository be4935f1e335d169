"""A way to a name server that takes time: UDP alone, in a process of its own."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import uvloop

Address = tuple[str, int]


@contextmanager
def relay(server: str, delay: float) -> Iterator[str]:
    """The address under which ``server`` answers ``delay`` seconds later; its own where that is 0."""
    if not delay:
        yield server
        return
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(theirs, server, delay), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.kill()
        process.join()


def _run(pipe: Connection, server: str, delay: float) -> None:
    uvloop.run(_serve(pipe, server, delay))


async def _serve(pipe: Connection, server: str, delay: float) -> None:
    loop = asyncio.get_running_loop()
    host, _, port = server.rpartition(":")
    _, back = await loop.create_datagram_endpoint(_Back, remote_addr=(host, int(port)))
    front, _ = await loop.create_datagram_endpoint(lambda: _Front(back, delay), local_addr=("127.0.0.1", 0))
    pipe.send("{}:{}".format(*front.get_extra_info("sockname")))
    await asyncio.Event().wait()


class _Back(asyncio.DatagramProtocol):
    """To the server, each question under a number of its own."""

    def __init__(self) -> None:
        self.asked: dict[bytes, tuple[asyncio.DatagramTransport, bytes, Address]] = {}

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Address) -> None:
        if found := self.asked.pop(data[:2], None):
            front, number, peer = found
            front.sendto(number + data[2:], peer)


class _Front(asyncio.DatagramProtocol):
    def __init__(self, back: _Back, delay: float) -> None:
        self._back, self._delay = back, delay
        self._numbers = itertools.cycle(n.to_bytes(2) for n in range(65536))

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Address) -> None:
        asyncio.get_running_loop().call_later(self._delay, self._pass_on, data, addr)

    def _pass_on(self, data: bytes, addr: Address) -> None:
        number = next(self._numbers)
        self._back.asked[number] = (self._transport, data[:2], addr)
        self._back.transport.sendto(number + data[2:])
