"""Transactions on PostgreSQL: a pool of connections, what is tried again, and what "the store is away" means.

Nothing outlives a transaction, so a pooler that hands out another connection for each (PgBouncer's transaction mode)
may stand between: no prepared statement, no session setting, no session lock, no LISTEN. Time-outs are set within each
transaction: a holder of locks that is frozen or gone lets go of them by the server's own clock.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

import asyncpg

from agent.ledger.base import LedgerError, Server, StoreUnavailable

T = TypeVar("T")

CONNECT_LIMIT = 10.0  # seconds
ANSWER_LIMIT = 30.0  # seconds a statement may take before the server is taken for dead
_ATTEMPTS = 12

_LIMITS = "SET LOCAL lock_timeout = '10s'; SET LOCAL idle_in_transaction_session_timeout = '15s'; SET LOCAL jit = off; "
# What was acknowledged must be on the disk, whatever the database's default says.
_DURABLE = (
    "SELECT set_config('synchronous_commit', CASE s WHEN 'off' THEN 'on' ELSE s END, true) "
    "FROM current_setting('synchronous_commit') s"
)
_WRITE = f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL statement_timeout = '20s'; {_LIMITS}{_DURABLE}"
_LONG_WRITE = f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL statement_timeout = 0; {_LIMITS}{_DURABLE}"
_READ = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = '25s'; {_LIMITS}"

_TLS_FILE = re.compile(r"\bssl(rootcert|cert|key|crl)=")
_WRONG_SETTINGS = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
)
# Tells, with a traceback, of connections it could not make while nobody asked: ``store.unavailable`` says it better.
logging.getLogger("asyncpg.pool").disabled = True
_AWAY = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)


class Connection(Protocol):
    """What is used of a connection of asyncpg."""

    async def execute(self, query: str, *arguments: object) -> str: ...
    async def fetch(self, query: str, *arguments: object) -> list[Any]: ...
    async def fetchrow(self, query: str, *arguments: object) -> Any: ...
    async def fetchval(self, query: str, *arguments: object) -> Any: ...


class Again(Exception):
    """The transaction has seen something that makes it begin anew. What it did is undone."""


# A unique violation means that somebody was faster with the same row; a missing partition, that it was dropped.
_AGAIN = (
    Again,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.UniqueViolationError,
    asyncpg.DuplicateTableError,
    asyncpg.DuplicateSchemaError,
)


class Session:
    """Connections to one database. Safe to use from many tasks of one event loop."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._pool: Any = None
        self._opening = asyncio.Lock()
        self._closed = False

    async def open(self) -> None:
        """Connect. Raises ``StoreUnavailable``, or ``LedgerError`` where trying again would not help."""
        async with self._opening:
            if self._closed:
                raise StoreUnavailable("the ledger is closed")
            if self._pool is not None:
                return
            try:
                self._pool = await asyncpg.create_pool(
                    self._server.url,
                    password=self._server.password or None,
                    min_size=self._server.min_connections,
                    max_size=self._server.max_connections,
                    timeout=CONNECT_LIMIT,
                    command_timeout=ANSWER_LIMIT,
                    statement_cache_size=0,
                    reset=_nothing,
                    server_settings={"application_name": "mailvitals"},
                )
            except _WRONG_SETTINGS as e:
                raise LedgerError(f"{self._server.place}: {e}") from None
            except (asyncpg.exceptions.ClientConfigurationError, ValueError) as e:
                raise LedgerError(f"{self._server.place}: {e}") from None
            except _AWAY as e:
                if isinstance(e, FileNotFoundError) and _TLS_FILE.search(self._server.url):
                    raise LedgerError(f"{self._server.place}: a file that the URL names for TLS is not there") from None
                raise StoreUnavailable(f"{self._server.place}: {_why(e)}") from None

    async def write(self, work: Callable[[Connection], Awaitable[T]], *, long: bool = False) -> T:
        """Do the work in a transaction. It may run several times: after a deadlock, a serialization failure, or
        ``Again``. ``long`` takes as long as it takes. Raises ``StoreUnavailable``."""
        return await self._run(_LONG_WRITE if long else _WRITE, work)

    async def read(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Several reads of one state. Raises ``StoreUnavailable``."""
        return await self._run(_READ, work)

    async def _run(self, begin: str, work: Callable[[Connection], Awaitable[T]]) -> T:
        error: BaseException | None = None
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(min(0.5, 0.005 * 2**attempt) * (0.5 + secrets.randbelow(100) / 100))
            try:
                async with self._transaction(begin) as db:
                    return await work(db)
            except _AGAIN as e:
                error = e
            except asyncpg.CheckViolationError as e:
                if "no partition" not in str(e):
                    raise
                error = e
            except _AWAY as e:
                if isinstance(e, asyncpg.ReadOnlySQLTransactionError) and self._pool is not None:
                    await self._pool.expire_connections()  # This one was a primary once.
                raise StoreUnavailable(_why(e)) from e
        raise StoreUnavailable(f"no chance among other writers: {_why(error)}") from error

    @asynccontextmanager
    async def _transaction(self, begin: str) -> AsyncIterator[Connection]:
        if self._closed or self._pool is None:
            await self.open()
        pool = self._pool
        db = await pool.acquire(timeout=CONNECT_LIMIT)
        try:
            try:
                await db.execute(begin)
            except (asyncpg.InterfaceError, asyncpg.PostgresConnectionError, OSError) as e:
                if _closed(db):
                    raise Again(_why(e)) from e  # Lost while it was idle: the next one is new.
                raise
            try:
                yield db
            except (TimeoutError, OSError, asyncpg.InterfaceError):
                raise
            except Exception:
                if not _closed(db):
                    await db.execute("ROLLBACK")
                raise
            if await db.execute("COMMIT") != "COMMIT":
                raise StoreUnavailable("the transaction was rolled back")
        except BaseException:
            if not _closed(db) and db.is_in_transaction():
                db.terminate()  # What becomes of it is not known, or nobody waits for it: the server rolls it back.
            raise
        finally:
            await pool.release(db)

    async def close(self) -> None:
        """Let go of the connections. Safe to call twice."""
        self._closed = True
        async with self._opening:
            pool, self._pool = self._pool, None
            if pool is not None:
                try:
                    async with asyncio.timeout(5.0):
                        await pool.close()
                except TimeoutError:
                    pool.terminate()


def _closed(db: Any) -> bool:
    try:
        return bool(db.is_closed())
    except asyncpg.InterfaceError:
        return True  # The pool has taken back what was lost.


async def _nothing(_: Connection) -> None:
    """Between two uses of a connection there is nothing to reset."""


def _why(error: BaseException | None) -> str:
    text = str(error) or "no answer in time"
    return text if isinstance(error, Again) else f"{type(error).__name__}: {text}"
