"""Stored webhook bodies, one a line or one a file, through the same path as live ones."""

from __future__ import annotations

import asyncio
import gzip
import io
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from agent.intake.gate import Gate, Overloaded
from agent.intake.source import Prepared, Source
from agent.ledger.base import Applied, Batch, Ledger, Quarantined
from agent.providers import ParseError, WebhookRequest

_GZIP = b"\x1f\x8b"
_CONCURRENT = 32


class ImportFailed(Exception):
    """A file cannot be read any further. ``args[0]`` says which, where and why."""


class Imported(msgspec.Struct):
    """What an import came to. ``events`` by kind (bounces by class) counted for the first time, ``tests``
    by reason left out as test traffic."""

    bodies: int = 0
    events: dict[str, int] = msgspec.field(default_factory=dict)
    duplicates: int = 0
    refused: dict[str, int] = msgspec.field(default_factory=dict)
    tests: dict[str, int] = msgspec.field(default_factory=dict)
    malformed_items: int = 0
    unreadable: list[str] = msgspec.field(default_factory=list)

    def add(self, result: Applied, prepared: Prepared) -> None:
        """Add what became of one body."""
        self.bodies += 1
        self.malformed_items += prepared.malformed
        for reason, n in prepared.tests.items():
            self.tests[reason] = self.tests.get(reason, 0) + n
        self.duplicates += sum(result.duplicates.values())
        for reason, n in result.refused.items():
            self.refused[reason] = self.refused.get(reason, 0) + n
        for counted, n in result.counted.items():
            name = f"{counted.kind}/{counted.bounce_class}" if counted.bounce_class else str(counted.kind)
            self.events[name] = self.events.get(name, 0) + n


def bodies(file: BinaryIO, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """The bodies of a file with the number of their first line. The file is one body when it is JSON as a whole, or
    when none of its lines is; else each line is one. ``None`` stands for a line beyond ``max_bytes``.
    Gzip is recognised by its first bytes. Raises ``ImportFailed``."""
    if file.peek(2)[:2] == _GZIP:  # type: ignore[attr-defined]
        file = cast(BinaryIO, gzip.GzipFile(fileobj=file))
    try:
        head = file.readline(max_bytes + 1)
        if not _is_json(head):
            head += file.read(max(0, max_bytes + 1 - len(head)))
            if len(head) <= max_bytes and (_is_json(head) or not _has_lines_of_json(head)):
                if head.strip():
                    yield 1, head
                return
            if not _has_lines_of_json(head):
                raise ImportFailed(f"longer than {max_bytes} bytes and not one body a line")
        yield from _lines(head, file, max_bytes)
    except (OSError, EOFError, zlib.error) as e:
        raise ImportFailed(f"cannot be read: {e}") from None


def _lines(head: bytes, file: BinaryIO, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """The lines of ``head`` and of what follows it in the file."""
    buffered = io.BytesIO(head)
    number = 0
    while line := buffered.readline() or file.readline(max_bytes + 2):
        number += 1
        if not line.endswith(b"\n"):
            line += file.readline(max(0, max_bytes + 2 - len(line)))
        # The line's end belongs to the file, not to the body.
        body = line.rstrip(b"\r\n")
        if len(body) > max_bytes:
            while line and not line.endswith(b"\n"):
                line = file.readline(max_bytes)
            yield number, None
        elif body.strip():
            yield number, body


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _has_lines_of_json(text: bytes) -> bool:
    # An array or object that spans lines has none that begins with a bracket and is whole, but for the innermost.
    return any(line[:1] in (b"{", b"[") and _is_json(line) for line in text.splitlines())


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
    Unreadable bodies are sealed in quarantine and named in ``done.unreadable``; so are lines that are too long, which
    are not kept. Raises ``ImportFailed`` and
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
            done.add(await _submit(gate, prepared.batch), prepared)
            if prepared.malformed:
                await ledger.quarantine(source.name, f"{prepared.malformed} items cannot be read", body, {}, clock())
        finally:
            slots.release()

    failed = ""
    try:
        with path.open("rb") as file:
            async with asyncio.TaskGroup() as group:
                try:
                    for number, body in bodies(file, max_bytes):
                        if body is None:
                            done.unreadable.append(f"{path}:{number}: longer than {max_bytes} bytes; not kept")
                            continue
                        await slots.acquire()
                        group.create_task(one(number, body))
                        if file.seekable():
                            progress(file.tell())
                except ImportFailed as e:
                    failed = str(e)  # What was read before it is still counted.
    except OSError as e:
        raise ImportFailed(f"{path}: {e.strerror or e}") from None
    except ExceptionGroup as e:
        raise e.exceptions[0] from None
    if failed:
        raise ImportFailed(f"{path}: {failed}")


async def replay(
    one: Quarantined,
    source: Source,
    gate: Gate,
    ledger: Ledger,
    done: Imported,
    *,
    clock: Callable[[], float] = time.time,
) -> bool:
    """Read a quarantined body again, adding to ``done``, and let it go if all of it could be read this time; whether it
    could. What was counted from it before is known and counts no second time. Raises ``KeyError`` when it is not there
    any more, and ``StoreUnavailable``."""
    headers, body = await ledger.unseal(one.id)
    # As it arrived: what a payload leaves to the time of arrival must come out the same.
    request = WebhookRequest("POST", f"/webhooks/{source.name}", "", headers, body, one.at)
    try:
        prepared = source.read(request)
    except ParseError as e:
        done.unreadable.append(f"{one.id}: {e}")
        return False
    done.add(await _submit(gate, prepared.batch), prepared)
    if prepared.malformed:
        return False
    await ledger.discard([one.id])
    return True


async def _submit(gate: Gate, batch: Batch) -> Applied:
    while True:
        try:
            return await gate.submit(batch)
        except Overloaded:
            # There is no sender to ask to come back later: commits make room.
            await asyncio.sleep(0.01)


def _headers(body: bytes) -> dict[str, str]:
    json = body.lstrip()[:1] in (b"{", b"[")
    return {"content-type": "application/json" if json else "application/x-www-form-urlencoded"}
