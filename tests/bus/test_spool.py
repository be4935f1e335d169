"""The spool: on the disk before anyone is answered, in order, bounded, sealed, and nobody else's."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from agent.bus.spool import Spool, SpoolBroken, SpoolError, SpoolFull
from agent.bus.wire import Header, Seal
from agent.ledger.base import LedgerError
from agent.ledger.sqlite import SqliteLedger

SEAL = Seal(b"i" * 40)
HEADER = Header("events", "0" * 32, "sg", "sendgrid", "sendgrid", "edge-1", 1000.5)


def message(n: int, source: str = "sg", payload: bytes = b"payload") -> tuple[Header, bytes]:
    return msgspec.structs.replace(HEADER, id=f"{n:032x}", source=source), payload


async def opened(path: Path, max_bytes: int = 1024 * 1024, seal: Seal = SEAL) -> Spool:
    spool = Spool(path, seal, max_bytes)
    try:
        await spool.open()
    except SpoolError:
        await spool.close()
        raise
    return spool


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    one = await opened(tmp_path / "spool.db")
    yield one
    await one.close()


def numbers(messages: list[tuple[Header, bytes]]) -> list[int]:
    return [int(header.id, 16) for header, _ in messages]


async def test_what_was_added_is_there_in_order_after_a_restart(spool: Spool, tmp_path: Path) -> None:
    await spool.add([message(3, payload=b"three")])
    await spool.add([message(1), message(2)])
    await spool.close()
    again = await opened(tmp_path / "spool.db")
    assert again.messages == 3
    assert again.size == spool.size > 0
    found = await again.oldest(10)
    assert numbers(found) == [3, 1, 2]
    assert found[0] == message(3, payload=b"three")
    await again.close()


async def test_removed_is_gone_and_gives_its_room_back(spool: Spool) -> None:
    await spool.add([message(n) for n in range(4)])
    assert await spool.remove([message(n)[0].id for n in (0, 1, 9)]) == 2
    assert numbers(await spool.oldest(1)) == [2]
    assert await spool.remove([message(n)[0].id for n in (2, 3)]) == 2
    assert (spool.messages, spool.size) == (0, 0)
    assert await spool.oldest(1) == []


async def test_sources_can_be_passed_over(spool: Spool) -> None:
    await spool.add([message(1, "pm"), message(2, "sg"), message(3, "pm")])
    assert numbers(await spool.oldest(5, {"pm"})) == [2]


async def test_full_is_full_and_keeps_nothing_of_what_has_no_room(spool: Spool) -> None:
    await spool.add([message(1, payload=b"x" * 600_000)])
    with pytest.raises(SpoolFull):
        await spool.add([message(2), message(3, payload=b"x" * 600_000)])
    assert numbers(await spool.oldest(9)) == [1]
    assert await spool.problem() == ""
    spool._max = 10
    assert await spool.problem() == "the spool is full"


async def test_the_file_tells_nothing_and_is_the_owners(spool: Spool, tmp_path: Path) -> None:
    await spool.add([message(1, payload=b"recipient.example")])
    await spool.close()
    files = list(tmp_path.glob("spool.db*"))
    assert all(b"recipient.example" not in path.read_bytes() for path in files)
    assert (tmp_path / "spool.db").stat().st_mode & 0o077 == 0


async def test_a_disk_that_takes_nothing_is_said(spool: Spool) -> None:
    assert spool._db is not None
    spool._db.execute("PRAGMA query_only = ON")
    with pytest.raises(SpoolBroken, match="readonly"):
        await spool.add([message(1)])
    assert "readonly" in await spool.problem()
    spool._db.execute("PRAGMA query_only = OFF")
    await spool.add([message(1)])


async def test_a_spool_is_one_edges_with_one_key_and_no_ledger(spool: Spool, tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="locked"):
        await opened(tmp_path / "spool.db")
    await spool.add([message(1)])
    await spool.close()
    with pytest.raises(SpoolError, match="another identity key"):
        await opened(tmp_path / "spool.db", seal=Seal(b"j" * 40))
    with pytest.raises(LedgerError):
        SqliteLedger(tmp_path / "spool.db", b"k" * 40)
    ledger = SqliteLedger(tmp_path / "ledger.db", b"k" * 40)
    await ledger.close()
    with pytest.raises(SpoolError, match="no spool"):
        await opened(tmp_path / "ledger.db")
    (tmp_path / "text").write_text("not a database at all, but rather long" * 100)
    with pytest.raises(SpoolError, match="not a database"):
        await opened(tmp_path / "text")


async def test_a_message_that_was_altered_does_not_hold_up_the_others(spool: Spool) -> None:
    await spool.add([message(1), message(2)])
    assert spool._db is not None
    spool._db.execute("UPDATE message SET sealed = x'00112233445566778899aabbccddeeff' WHERE n = 1")
    assert numbers(await spool.oldest(2)) == [2]
    assert spool.messages == 1
    await spool.close()
    with pytest.raises(SpoolBroken, match="closed"):
        await spool.add([message(2)])
    assert sqlite3.sqlite_version_info >= (3, 35)  # RETURNING
