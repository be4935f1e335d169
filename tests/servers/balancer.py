"""A load balancer as a Kubernetes Service is one: it knows no HTTP, and sends new connections to who is ready."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

from tests.servers.agent import Agent

LOOK_EVERY = 0.5  # seconds between two probes of readiness


class Balancer:
    """Connections that are open stay where they are until one end closes them."""

    def __init__(self, agents: list[Agent]) -> None:
        self.port = 0
        self.sent_to = {agent.public: 0 for agent in agents}
        self._agents = agents
        self._ready: list[int] = []
        self._turn = 0

    async def serve(self, started: threading.Event, stop: asyncio.Event) -> None:
        self._ready = [agent.public for agent in self._agents if _ready(agent)]
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        async with server:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), LOOK_EVERY)
                ready = await asyncio.gather(*(asyncio.to_thread(_ready, agent) for agent in self._agents))
                self._ready = [agent.public for agent, yes in zip(self._agents, ready, strict=True) if yes]

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._turn += 1
        try:
            port = self._ready[self._turn % len(self._ready)]
            self.sent_to[port] += 1
            there, onward = await asyncio.open_connection("127.0.0.1", port)
        except (OSError, ZeroDivisionError):
            writer.transport.abort()
            return
        await asyncio.gather(_pipe(reader, onward), _pipe(there, writer))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def _ready(agent: Agent) -> bool:
    try:
        with urllib.request.urlopen(f"{agent.url}/readyz", timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


@contextlib.contextmanager
def balancer(agents: list[Agent]) -> Iterator[Balancer]:
    """A load balancer at work before running agents."""
    one, started = Balancer(agents), threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def run() -> None:
        loop.run_until_complete(one.serve(started, stop))
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert started.wait(10)
        yield one
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
