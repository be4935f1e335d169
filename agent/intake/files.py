"""Stored webhook bodies, one a line or one a file, through the same path as live ones."""

from __future__ import annotations

import asyncio
import gzip
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from agent.intake.gate import Gate
from agent.intake.source import Source
from agent.ledger.base import Applied, Ledger
from agent.providers import ParseError, WebhookRequest

_GZIP = b"\x1f\x8b"
_CONCURRENT = 32


class ImportFailed(Exception):
    """A file cannot be read any further. ``args[0]`` says which, where and why."""


class Imported(msgspec.Struct):
    """What an import came to. ``events`` by kind (bounces by class) counted for the first time."""

    bodies: int = 0
    events: dict[str, int] = msgspec.field(default_factory=dict)
    duplicates: int = 0
    refused: dict[str, int] = msgspec.field(default_factory=dict)
    malformed_items: int = 0
    unreadable: list[str] = msgspec.field(default_factory=list)

    def add(self, result: Applied, malformed: int) -> None:
        """Add what became of one body."""
        self.bodies += 1
        self.malformed_items += malformed
        self.duplicates += sum(result.duplicates.values())
        for reason, n in result.refused.items():
            self.refused[reason] = self.refused.get(reason, 0) + n
        for counted, n in result.counted.items():
            name = f"{counted.kind}/{counted.bounce_class}" if counted.bounce_class else str(counted.kind)
            self.events[name] = self.events.get(name, 0) + n


def bodies(file: BinaryIO, max_bytes: int) -> Iterator[tuple[int, bytes]]:
    """The bodies of a file with the number of their first line: one a line when the first line is whole JSON by
    itself, else the file is one body. Gzip is recognised by its first bytes. Raises ``ImportFailed``."""
    if file.peek(2)[:2] == _GZIP:  # type: ignore[attr-defined]
        file = cast(BinaryIO, gzip.GzipFile(fileobj=file))
    try:
        first = file.readline(max_bytes + 1)
        if len(first) > max_bytes:
            raise ImportFailed(f"line 1: longer than {max_bytes} bytes")
        if not _is_json(first):
            rest = file.read(max_bytes + 1 - len(first))
            if len(first) + len(rest) > max_bytes:
                raise ImportFailed(f"longer than {max_bytes} bytes and not one body a line")
            if first.strip() or rest.strip():
                yield 1, first + rest
            return
        number = 1
        while first:
            if len(first) > max_bytes:
                raise ImportFailed(f"line {number}: longer than {max_bytes} bytes")
            if first.strip():
                # The line's end belongs to the file, not to the body.
                yield number, first.rstrip(b"\r\n")
            first = file.readline(max_bytes + 1)
            number += 1
    except (OSError, EOFError, zlib.error) as e:
        raise ImportFailed(f"cannot be read: {e}") from None


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except (ValueError, RecursionError):
        return False
    return True


async def import_file(
    path: Path,
    source: Source,
    gate: Gate,
    ledger: Ledger,
    done: Imported,
    *,
    max_bytes: int,
    progress: Callable[[int], None] = lambda _: None,
    clock: Callable[[], float] = time.time,
) -> None:
    """Count every body of a file, adding to ``done``. ``progress`` is told the bytes read of the file so far.
    Unreadable bodies are sealed in quarantine and named in ``done.unreadable``. Raises ``ImportFailed`` and
    ``StoreUnavailable``; running it again counts nothing twice."""
    slots = asyncio.Semaphore(_CONCURRENT)

    async def one(number: int, body: bytes) -> None:
        try:
            request = WebhookRequest("POST", f"/webhooks/{source.name}", "", _headers(body), body, clock())
            try:
                prepared = source.read(request)
            except ParseError as e:
                await ledger.quarantine(source.name, str(e), body, {}, clock())
                done.unreadable.append(f"{path}:{number}: {e}")
                return
            done.add(await gate.submit(prepared.batch), prepared.malformed)
            if prepared.malformed:
                await ledger.quarantine(source.name, f"{prepared.malformed} items cannot be read", body, {}, clock())
        finally:
            slots.release()

    try:
        with path.open("rb") as file:
            async with asyncio.TaskGroup() as group:
                for number, body in bodies(file, max_bytes):
                    await slots.acquire()
                    group.create_task(one(number, body))
                    progress(file.tell())
    except OSError as e:
        raise ImportFailed(f"{path}: {e.strerror or e}") from None
    except ExceptionGroup as e:
        raise e.exceptions[0] from None
    except ImportFailed as e:
        raise ImportFailed(f"{path}: {e}") from None


def _headers(body: bytes) -> dict[str, str]:
    json = body.lstrip()[:1] in (b"{", b"[")
    return {"content-type": "application/json" if json else "application/x-www-form-urlencoded"}
