"""The stores that the ledger suite runs on. One more store is one more entry in ``STORES``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agent.ledger.base import Ledger
from agent.ledger.postgres import PostgresLedger
from agent.ledger.process import ProcessLedger
from agent.ledger.sqlite import SqliteLedger
from tests.servers.postgres import database_of

KEY = b"k" * 32


def _sqlite(directory: Path) -> Ledger:
    return SqliteLedger(directory / "ledger.db", KEY, quarantine_max_bytes=100_000)


def _in_process_of_its_own(directory: Path) -> Ledger:
    return ProcessLedger(directory / "ledger.db", KEY, quarantine_max_bytes=100_000)


def _postgres(directory: Path) -> Ledger:
    return PostgresLedger(database_of(directory), KEY, quarantine_max_bytes=100_000)


STORES: dict[str, Callable[[Path], Ledger]] = {
    "sqlite": _sqlite,
    "sqlite-process": _in_process_of_its_own,
    "postgres": _postgres,
}
# Opened in no time: these can be opened for every example of a property.
QUICK = ("sqlite",)


@pytest.fixture(params=sorted(STORES))
def open_ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Ledger]:
    """Opens the same store again at every call."""
    return lambda: STORES[request.param](tmp_path)


@pytest.fixture
async def ledger(open_ledger: Callable[[], Ledger]) -> AsyncIterator[Ledger]:
    store = open_ledger()
    yield store
    await store.close()
