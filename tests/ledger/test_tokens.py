"""What a vendor gives each request once: the same body with it is a retry, another a forgery."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

import msgspec

from agent.clock import DAY, MINUTE
from agent.events import Event, Kind
from agent.ledger.base import TOKEN_AGE, Batch, Cell, Ledger

NOW = 1_764_000_000.0
CELL = Cell("example.com", "mailgun", "", "gmail")


def batch(token: str, body: bytes, *messages: str, scope: str = "mailgun") -> Batch:
    events = [Event(Kind.DELIVERED, NOW - 60, recipient="a@example.net", message_id=m) for m in messages]
    digest = blake2b(body, digest_size=16).digest()
    return Batch("main", "mailgun", scope, NOW, events, [CELL] * len(events), (), token, digest)


async def delivered(ledger: Ledger) -> int:
    return sum(row.count for row in await ledger.rows(MINUTE, 0, NOW + DAY))


async def test_a_retry_is_taken_and_a_forgery_is_not(ledger: Ledger) -> None:
    (first,) = await ledger.apply([batch("t", b"one", "m1")], NOW)
    (retry,) = await ledger.apply([batch("t", b"one", "m1")], NOW + 600)
    (forged,) = await ledger.apply([batch("t", b"two", "m2", "m3")], NOW + 700)
    assert [r.forged for r in (first, retry, forged)] == [False, False, True]
    assert retry.duplicates == {"same_outcome": 1}
    assert not (forged.counted)
    assert not (forged.duplicates)
    assert not (forged.refused)
    assert await delivered(ledger) == 1


async def test_a_forgery_does_not_hurt_its_neighbours_and_the_first_of_a_group_wins(ledger: Ledger) -> None:
    group = [
        batch("t", b"one", "m1"), batch("t", b"two", "m2"), batch("u", b"three", "m3"), batch("", b"four", "m4"),
        batch("", b"five", "m5"), batch("t", b"one", "m1"), batch("v", b"empty"), batch("v", b"not empty", "m6"),
    ]  # fmt: skip
    results = await ledger.apply(group, NOW)
    assert [r.forged for r in results] == [False, True, False, False, False, False, False, True]
    assert await delivered(ledger) == 4


async def test_a_forgery_alone_is_no_sign_of_life(ledger: Ledger) -> None:
    await ledger.apply([batch("t", b"one", "m1")], NOW)
    later = msgspec.structs.replace(batch("t", b"two", "m2"), received_at=NOW + 5000)
    await ledger.apply([later], NOW + 5000)
    assert (await ledger.sources())["main"].last_received_at == NOW


async def test_tokens_are_known_after_a_restart_and_by_a_second_agent(open_ledger: Callable[[], Ledger]) -> None:
    first, second = open_ledger(), open_ledger()
    await first.apply([batch("t", b"one", "m1")], NOW)
    assert (await second.apply([batch("t", b"two", "m2")], NOW))[0].forged
    await first.close()
    await second.close()
    third = open_ledger()
    assert (await third.apply([batch("t", b"two", "m2")], NOW))[0].forged
    assert not (await third.apply([batch("t", b"two", "m2", scope="other")], NOW))[0].forged
    await third.close()


async def test_tokens_are_forgotten_when_nobody_would_accept_their_time(ledger: Ledger) -> None:
    await ledger.apply([batch("t", b"one", "m1")], NOW)
    await ledger.prune(NOW + TOKEN_AGE - 60)
    assert (await ledger.apply([batch("t", b"two", "m2")], NOW))[0].forged
    await ledger.prune(NOW + TOKEN_AGE + 60)
    assert not (await ledger.apply([batch("t", b"two", "m2")], NOW))[0].forged
