"""An agent that is started again whenever it ends, as Kubernetes does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from tests.servers.agent import Agent
from tests.servers.base import wait_until

BACK_OFF = 0.5  # seconds before it is started again


class Supervised:
    """``ended`` are the exit codes with which it ended by itself."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.ended: list[int] = []
        self._freezes = 0
        self._killed = False
        self._processes: set[int] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        assert self.agent.process is not None
        return self.agent.process.pid

    @property
    def running(self) -> bool:
        return self.agent.process is not None and self.agent.process.poll() is None

    @property
    def frozen(self) -> bool:
        return self._freezes > 0

    async def ready(self) -> None:
        await asyncio.to_thread(wait_until, lambda: self.running and self.agent.ready(), 60, "the agent to be ready")

    def kill(self) -> None:
        """With its store's process left to end by itself."""
        self._children()
        self._killed = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def kill_store(self) -> None:
        """Only the process that speaks with the store."""
        for pid in self._children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def freeze(self, seconds: float) -> None:
        """Of several freezes at a time the last to end thaws it."""
        frozen = [self.pid, *self._children()]
        self._freezes += 1
        try:
            for pid in frozen:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(seconds)
        finally:
            self._freezes -= 1
            for pid in [] if self._freezes else frozen:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    async def stop(self) -> int:
        """Its exit code."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._children()
        return await asyncio.to_thread(self.agent.stop)

    def left(self) -> list[int]:
        """What it has started and what has not ended."""
        return [pid for pid in self._processes if _is_ours(pid)]

    def _children(self) -> list[int]:
        try:
            text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        except OSError:
            return []
        found = [int(pid) for pid in text.split()]
        self._processes.update(found)
        return found

    async def _supervise(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            if self.running:
                continue
            assert self.agent.process is not None
            if not self._killed:
                self.ended.append(self.agent.process.returncode)
            self._killed = False
            await asyncio.sleep(BACK_OFF)
            self.agent.start(wait=False)

    async def __aenter__(self) -> Supervised:
        self.agent.start(wait=False)
        self._task = asyncio.create_task(self._supervise())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def _is_ours(pid: int) -> bool:
    try:
        return b"agent.ledger.process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
