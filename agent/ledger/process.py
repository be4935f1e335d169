"""A store in a process of its own.

Python runs one thread at a time in a process. A store in a thread would take that turn from the event loop, and wait
for it, some forty times a commit; in a process of its own it commits on the second core while the first one reads the
next requests. The child ends with its parent: when the socket between them closes it finishes the commit at hand and
goes. No recipient crosses the socket, only the identities made of them.

One frame: its length (4 bytes, big-endian), then MessagePack of (number, method or status, payload).
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog
import uvloop

from agent.events import Event
from agent.ledger.base import (
    Applied,
    Batch,
    Counted,
    Deposed,
    Lease,
    Ledger,
    LedgerError,
    Quarantined,
    RecentBounce,
    Row,
    Server,
    SourceState,
    StoreUnavailable,
)
from agent.ledger.columns import Columns, to_columns
from agent.ledger.identity import Identifier, derive
from agent.ledger.sqlite import SqliteLedger

_START_LIMIT = 30.0  # seconds a store may take to open
_START_PAUSE = 1.0  # seconds after a start that failed before the next is tried
_BIG = 64 * 1024  # bytes whose decoding would hold up the event loop

log = structlog.get_logger()


class _Opening(msgspec.Struct, array_like=True):
    store: str | Server  # a path, or a database elsewhere
    key: bytes
    quarantine_max_bytes: int


class _Result(msgspec.Struct, array_like=True):
    counted: list[tuple[Counted, int]]
    duplicates: dict[str, int]
    refused: dict[str, int]
    unmatched_async_bounces: int
    forged: bool


# What each method takes and gives; the payloads of the frames.
_METHODS: dict[str, tuple[Any, Any]] = {
    "apply": (tuple[list[Columns], float], list[_Result]),
    "quarantine": (tuple[str, str, bytes, dict[str, str], float], int),
    "quarantined": (tuple[()], list[Quarantined]),
    "unseal": (tuple[int], tuple[dict[str, str], bytes] | None),
    "discard": (tuple[list[int]], None),
    "relabel": (tuple[dict[str, str], float], None),
    "pending": (tuple[()], list[str]),
    "rows": (tuple[int, float, float, int, list[float], bool, list[str]], list[Row]),
    "amended": (tuple[()], dict[str, tuple[float, int]]),
    "sources": (tuple[()], dict[str, SourceState]),
    "recent_bounces": (tuple[int], list[RecentBounce]),
    "load": (tuple[str], dict[str, bytes]),
    "save": (tuple[str, dict[str, bytes | None], int], None),
    "lead": (tuple[str, float], Lease),
    "prune": (tuple[float], None),
    "writable": (tuple[()], bool),
}
_encode = msgspec.msgpack.Encoder().encode
_frame = msgspec.msgpack.Decoder(tuple[int, str, msgspec.Raw]).decode
_TAKES = {name: msgspec.msgpack.Decoder(takes).decode for name, (takes, _) in _METHODS.items()}
_GIVES = {name: msgspec.msgpack.Decoder(gives).decode for name, (_, gives) in _METHODS.items()}
_text = msgspec.msgpack.Decoder(str).decode


async def _send(writer: asyncio.StreamWriter, number: int, word: str, payload: bytes) -> None:
    frame = _encode((number, word, msgspec.Raw(payload)))
    writer.write(len(frame).to_bytes(4, "big") + frame)
    await writer.drain()


async def _receive(reader: asyncio.StreamReader) -> tuple[int, str, msgspec.Raw]:
    """Raises ``IncompleteReadError`` or ``OSError`` when the other end is gone."""
    size = int.from_bytes(await reader.readexactly(4), "big")
    return _frame(await reader.readexactly(size))


class ProcessLedger:
    """See ``base.Ledger``: a ``SqliteLedger`` or a ``PostgresLedger`` in a child process. ``start`` first.

    A child that dies is replaced at the next call; what waited for it raises ``StoreUnavailable``.
    """

    def __init__(self, store: Path | Server, key: bytes, *, quarantine_max_bytes: int = 64 * 1024 * 1024) -> None:
        self._opening = _Opening(store if isinstance(store, Server) else str(store), key, quarantine_max_bytes)
        self._identifier = Identifier(derive(key)[0])
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[tuple[str, msgspec.Raw]]] = {}
        self._starting = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listener: asyncio.Task[None] | None = None
        self._closed = False
        self._not_before = 0.0

    async def start(self) -> None:
        """Open the store. Raises ``LedgerError`` or ``StoreUnavailable``."""
        async with self._starting:
            if self._closed:
                raise StoreUnavailable("the ledger is closed")
            if self._writer is not None:
                return
            now = asyncio.get_running_loop().time()
            if now < self._not_before:
                raise StoreUnavailable("the store's process did not start")
            self._not_before = now + _START_PAUSE
            writer = None
            try:
                ours, theirs = socket.socketpair()
                with theirs:
                    self._process = await asyncio.create_subprocess_exec(
                        sys.executable, "-m", "agent.ledger.process", str(theirs.fileno()),
                        pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL,
                        start_new_session=True,  # Ctrl-C is the parent's business.
                    )  # fmt: skip
                reader, writer = await asyncio.open_connection(sock=ours)
                async with asyncio.timeout(_START_LIMIT):
                    await _send(writer, 0, "open", _encode(self._opening))
                    _, status, payload = await _receive(reader)
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                if writer is not None:
                    writer.close()
                raise StoreUnavailable("the store's process did not start") from None
            if status != "ok":
                writer.close()
                raise (LedgerError if status == "ledger" else StoreUnavailable)(_text(payload))
            self._not_before = 0.0
            self._writer = writer
            self._listener = asyncio.create_task(self._listen(reader, writer), name="ledger")

    @property
    def process_id(self) -> int:
        """Of the child, once it was started."""
        return self._process.pid if self._process else 0

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                number, status, payload = await _receive(reader)
                future = self._waiting.pop(number, None)
                if future is not None and not future.done():
                    future.set_result((status, payload))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writer = None
            writer.close()
            if not self._closed:
                log.error("store.process_ended")
            waiting, self._waiting = self._waiting, {}
            for future in waiting.values():
                if not future.done():
                    future.set_exception(StoreUnavailable("the store's process ended"))

    async def _call(self, method: str, *arguments: object) -> Any:
        if self._writer is None:
            try:
                await self.start()
            except LedgerError as e:
                raise StoreUnavailable(str(e)) from e
        writer = self._writer
        if writer is None:
            raise StoreUnavailable("the store's process ended")
        number = next(self._numbers)
        future: asyncio.Future[tuple[str, msgspec.Raw]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            await _send(writer, number, method, _encode(arguments))
            status, payload = await future
        except OSError as e:
            raise StoreUnavailable("the store's process ended") from e
        finally:
            self._waiting.pop(number, None)
        if status != "ok":
            raise (Deposed if status == "deposed" else StoreUnavailable)(_text(payload))
        if len(payload) > _BIG:
            return await asyncio.to_thread(_GIVES[method], payload)
        return _GIVES[method](payload)

    def identify(self, scope: str, events: Sequence[Event]) -> list[bytes]:
        return self._identifier.of(scope, events)

    async def apply(self, batches: Sequence[Batch | Columns], now: float) -> list[Applied]:
        columns = [to_columns(batch, self._identifier) for batch in batches]
        results: list[_Result] = await self._call("apply", columns, now)
        return [Applied(dict(r.counted), r.duplicates, r.refused, r.unmatched_async_bounces, r.forged) for r in results]

    async def quarantine(self, source: str, reason: str, body: bytes, headers: Mapping[str, str], now: float) -> int:
        gone: int = await self._call("quarantine", source, reason, body, dict(headers), now)
        return gone

    async def quarantined(self) -> list[Quarantined]:
        found: list[Quarantined] = await self._call("quarantined")
        return found

    async def unseal(self, quarantine_id: int) -> tuple[dict[str, str], bytes]:
        found: tuple[dict[str, str], bytes] | None = await self._call("unseal", quarantine_id)
        if found is None:
            raise KeyError(quarantine_id)
        return found

    async def discard(self, quarantine_ids: Sequence[int]) -> None:
        await self._call("discard", list(quarantine_ids))

    async def relabel(self, mailbox_providers: Mapping[str, str], now: float) -> None:
        await self._call("relabel", dict(mailbox_providers), now)

    async def pending(self) -> list[str]:
        found: list[str] = await self._call("pending")
        return found

    async def rows(
        self,
        width: int,
        since: float,
        until: float,
        *,
        merge: int = 0,
        edges: Sequence[float] = (),
        by_domain: bool = False,
        domains: Sequence[str] = (),
    ) -> list[Row]:
        found: list[Row] = await self._call("rows", width, since, until, merge, list(edges), by_domain, list(domains))
        return found

    async def amended(self) -> dict[str, tuple[float, int]]:
        found: dict[str, tuple[float, int]] = await self._call("amended")
        return found

    async def sources(self) -> dict[str, SourceState]:
        found: dict[str, SourceState] = await self._call("sources")
        return found

    async def recent_bounces(self, limit: int) -> list[RecentBounce]:
        found: list[RecentBounce] = await self._call("recent_bounces", limit)
        return found

    async def load(self, kind: str) -> dict[str, bytes]:
        found: dict[str, bytes] = await self._call("load", kind)
        return found

    async def save(self, kind: str, documents: Mapping[str, bytes | None], *, epoch: int = 0) -> None:
        await self._call("save", kind, dict(documents), epoch)

    async def lead(self, holder: str, seconds: float) -> Lease:
        lease: Lease = await self._call("lead", holder, seconds)
        return lease

    async def prune(self, now: float) -> None:
        await self._call("prune", now)

    async def writable(self) -> bool:
        try:
            async with asyncio.timeout(6.0):
                return bool(await self._call("writable"))
        except (StoreUnavailable, TimeoutError):
            return False

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        async with self._starting:
            if self._writer is not None:
                self._writer.close()
            if self._listener is not None:
                self._listener.cancel()
                await asyncio.gather(self._listener, return_exceptions=True)
            if self._process is not None:
                await self._process.wait()


# The child.


async def _serve(connection: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=connection)
    try:
        _, _, payload = await _receive(reader)
        opening = msgspec.msgpack.decode(payload, type=_Opening)
        try:
            ledger = await _open(opening)
        except (LedgerError, StoreUnavailable) as e:
            await _send(writer, 0, "ledger" if isinstance(e, LedgerError) else "unavailable", _encode(str(e)))
            return
        await _send(writer, 0, "ok", _encode(None))
    except (OSError, asyncio.IncompleteReadError):
        return
    under_way: set[asyncio.Task[None]] = set()
    try:
        while True:
            number, method, arguments = await _receive(reader)
            task = asyncio.create_task(_answer(ledger, writer, number, method, arguments))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
    except (OSError, asyncio.IncompleteReadError):
        await asyncio.gather(*under_way, return_exceptions=True)
    finally:
        await ledger.close()


async def _open(opening: _Opening) -> Ledger:
    if isinstance(opening.store, str):
        return SqliteLedger(Path(opening.store), opening.key, quarantine_max_bytes=opening.quarantine_max_bytes)
    from agent.ledger.postgres import PostgresLedger

    elsewhere = PostgresLedger(opening.store, opening.key, quarantine_max_bytes=opening.quarantine_max_bytes)
    try:
        await elsewhere.start()
    except BaseException:
        await elsewhere.close()
        raise
    return elsewhere


async def _answer(ledger: Ledger, writer: asyncio.StreamWriter, number: int, method: str, payload: msgspec.Raw) -> None:
    try:
        result = await _perform(ledger, method, _TAKES[method](payload))
    except StoreUnavailable as e:
        await _send(writer, number, "unavailable", _encode(str(e)))
    except Deposed as e:
        await _send(writer, number, "deposed", _encode(str(e)))
    except Exception as e:
        await _send(writer, number, "failed", _encode(f"{type(e).__name__} in {method}"))
        raise
    else:
        await _send(writer, number, "ok", _encode(result))


async def _perform(ledger: Ledger, method: str, arguments: Any) -> Any:
    if method == "apply":
        results = await ledger.apply(*arguments)
        return [
            _Result(list(r.counted.items()), r.duplicates, r.refused, r.unmatched_async_bounces, r.forged)
            for r in results
        ]
    if method == "rows":
        width, since, until, merge, edges, by_domain, domains = arguments
        return await ledger.rows(width, since, until, merge=merge, edges=edges, by_domain=by_domain, domains=domains)
    if method == "save":
        kind, documents, epoch = arguments
        return await ledger.save(kind, documents, epoch=epoch)
    if method == "unseal":
        try:
            return await ledger.unseal(*arguments)
        except KeyError:
            return None
    return await getattr(ledger, method)(*arguments)


def settle_garbage() -> None:
    """Once everything is imported: a search for garbage need not look at it again. Batches are lists and tuples by the
    thousand, none of them garbage that only a search finds; a tenth of the time went into looking."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


def main() -> None:
    """The child's whole life. Signals are for the parent: it says when to go by closing the socket."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    settle_garbage()
    uvloop.run(_serve(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    main()
