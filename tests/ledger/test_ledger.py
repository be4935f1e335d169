"""One suite for every store: exactly once, whatever arrives, in whatever order."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.clock import DAY, HOUR, MINUTE
from agent.events import BounceClass, Event, Kind
from agent.ledger.base import Applied, Batch, Cell, Counted, Ledger, settled_before
from agent.vitals.evaluate import edges, evaluate
from agent.vitals.phases import PHASES
from tests.ledger.conftest import QUICK, STORES
from tests.ledger.model import Reported, expected

NOW = 1_764_000_000.0  # an arbitrary Monday
GMAIL = Cell("example.com", "sendgrid", "", "gmail")
# Many short-lived stores: not about the disk.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
YAHOO = Cell("example.com", "sendgrid", "news", "yahoo")


def event(kind: Kind = Kind.DELIVERED, at: float = NOW - 7200, **more: object) -> Event:
    fields: dict[str, object] = {"recipient": "a@example.net", "message_id": "m1", "event_id": "e1"}
    return Event(kind=kind, at=at, **{**fields, **more})  # type: ignore[arg-type]


def bounce(bounce_class: BounceClass = BounceClass.HARD, at: float = NOW - 7200, **more: object) -> Event:
    return event(Kind.BOUNCED, at, bounce_class=bounce_class, **more)


def batch(events: Sequence[Event], cell: Cell = GMAIL, source: str = "main", scope: str = "sendgrid") -> Batch:
    return Batch(source, "sendgrid", scope, NOW, events, [cell] * len(events))


async def totals(ledger: Ledger, width: int = MINUTE) -> Counter[str]:
    counts: Counter[str] = Counter()
    for row in await ledger.rows(width, 0, NOW + DAY):
        counts[row.measure] += row.count
    return counts


async def apply(ledger: Ledger, *events: Event, cell: Cell = GMAIL) -> Applied:
    return (await ledger.apply([batch(events, cell)], NOW))[0]


async def test_counts_every_kind_once(ledger: Ledger) -> None:
    every = [
        bounce(message_id="b") if kind is Kind.BOUNCED else event(kind, message_id=f"m{i}")
        for i, kind in enumerate(Kind)
    ]
    first = await apply(ledger, *every)
    again = await apply(ledger, *every)
    assert sum(first.counted.values()) == len(every)
    assert first.counted[Counted(GMAIL, Kind.BOUNCED, BounceClass.HARD)] == 1
    assert not again.counted
    assert again.duplicates == {"same_outcome": 6, "same_event": 4}
    assert await totals(ledger) == Counter(
        accepted=1, delivered=1, deferred=1, deferred_pairs=1, hard=1, dropped=1, complained=1, unsubscribed=1,
        opened=1, clicked=1, other=1,
    )  # fmt: skip


async def test_duplicates_within_one_batch_and_one_commit(ledger: Ledger) -> None:
    results = await ledger.apply([batch([event(), event()]), batch([event()], source="second")], NOW)
    assert [sum(r.counted.values()) for r in results] == [1, 0]
    assert [sum(r.duplicates.values()) for r in results] == [1, 1]
    assert await totals(ledger) == Counter(delivered=1)


async def test_changed_event_id_is_the_same_event(ledger: Ledger) -> None:
    await apply(ledger, event(event_id="e1"), bounce(message_id="m2", event_id="e2"))
    again = await apply(ledger, event(event_id="other"), bounce(message_id="m2", event_id="another"))
    assert again.duplicates == {"same_outcome": 2}


async def test_two_sources_of_one_provider_count_an_event_once(ledger: Ledger) -> None:
    await ledger.apply([batch([event()], source="one")], NOW)
    (again,) = await ledger.apply([batch([event()], source="two")], NOW)
    assert again.duplicates == {"same_outcome": 1}
    assert set(await ledger.sources()) == {"one", "two"}


async def test_scopes_do_not_share_identities(ledger: Ledger) -> None:
    results = await ledger.apply([batch([event()], scope="sendgrid"), batch([event()], scope="generic:mta")], NOW)
    assert [sum(r.counted.values()) for r in results] == [1, 1]


async def test_true_deferrals_are_never_merged_and_pairs_count_once_an_hour(ledger: Ledger) -> None:
    at = NOW // 3600 * 3600 - 7200.0
    deferrals = [event(Kind.DEFERRED, at + i * 600) for i in range(9)]  # 90 minutes: two UTC hours
    same_second = [event(Kind.DEFERRED, at, message_id="m2", discriminator=str(i)) for i in (1, 2)]
    await apply(ledger, *deferrals, *same_second)
    await apply(ledger, *deferrals)
    assert await totals(ledger) == Counter(deferred=11, deferred_pairs=3)


async def test_delivered_then_bounced_is_one_bounce_and_moves_the_count(ledger: Ledger) -> None:
    delivered_at, bounced_at = NOW - 30 * 3600, NOW - 3600
    await apply(ledger, event(at=delivered_at), cell=GMAIL)
    await apply(ledger, bounce(at=bounced_at), cell=YAHOO)
    (row,) = await ledger.rows(MINUTE, 0, NOW + DAY)
    assert row == (bounced_at // 60 * 60, YAHOO, "hard", 1)
    assert await totals(ledger, HOUR) == await totals(ledger, DAY) == Counter(hard=1)


async def test_a_delivery_that_arrives_after_its_bounce_does_not_count(ledger: Ledger) -> None:
    await apply(ledger, bounce(at=NOW - 3600))
    late = await apply(ledger, event(at=NOW - 30 * 3600))
    again = await apply(ledger, event(at=NOW - 30 * 3600))
    assert sum(late.counted.values()) == 1, "it is an event like any other, only not an outcome any more"
    assert again.duplicates == {"same_outcome": 1}
    assert await totals(ledger) == Counter(hard=1)


@pytest.mark.parametrize("days", [4.9, 5.9])
async def test_a_bounce_looks_back_five_days(ledger: Ledger, days: float) -> None:
    await apply(ledger, event(at=NOW - 3600 - days * DAY))
    await apply(ledger, bounce(at=NOW - 3600))
    assert await totals(ledger, HOUR) == (Counter(hard=1) if days < 5 else Counter(hard=1, delivered=1))


@pytest.mark.parametrize("order", [1, -1])
async def test_the_latest_bounce_wins_and_the_hardest_of_equals(ledger: Ledger, order: int) -> None:
    soft_then_hard = [bounce(BounceClass.SOFT, NOW - 7200), bounce(BounceClass.HARD, NOW - 3600)]
    hard_then_soft = [
        bounce(BounceClass.HARD, NOW - 7200, message_id="m2"),
        bounce(BounceClass.SOFT, NOW - 3600, message_id="m2"),
    ]
    ties = [bounce(c, NOW - 3600, message_id="m3") for c in BounceClass]
    for one in (soft_then_hard + hard_then_soft + ties)[::order]:
        await apply(ledger, one)
    assert await totals(ledger) == Counter(hard=2, soft=1)


async def test_asynchronous_bounces_without_an_id_are_counted_and_told_apart(ledger: Ledger) -> None:
    lost = bounce(message_id="", event_id="b1", asynchronous=True)
    known = bounce(message_id="m9", event_id="b2", asynchronous=True)
    first = await apply(ledger, lost, known)
    again = await apply(ledger, lost, known)
    assert first.unmatched_async_bounces == 1
    assert again.unmatched_async_bounces == 0
    assert again.duplicates == {"same_outcome": 2}
    assert await totals(ledger) == Counter(hard=2)


async def test_without_any_id_recipient_kind_and_time_identify(ledger: Ledger) -> None:
    bare = [event(message_id="", event_id=""), event(message_id="", event_id="", at=NOW - 7201)]
    await apply(ledger, *bare)
    again = await apply(ledger, *bare)
    assert again.duplicates == {"same_outcome": 2}
    assert await totals(ledger) == Counter(delivered=2)


async def test_refuses_the_too_old_the_future_and_the_absurd(ledger: Ledger) -> None:
    inside = [event(at=NOW - 35 * DAY + 1, message_id="a"), event(at=NOW + 599, message_id="b")]
    outside = [event(at=at) for at in (NOW - 35 * DAY - 1, NOW + 601, float("nan"), float("inf"), float("-inf"), -1.0)]
    result = await apply(ledger, *inside, *outside)
    assert sum(result.counted.values()) == 2
    assert result.refused == {"too_old": 4, "in_future": 2}
    assert await totals(ledger, DAY) == Counter(delivered=2)
    assert await totals(ledger, MINUTE) == Counter(delivered=1), "minutes are kept for two days"


async def test_one_report_a_few_seconds_apart_across_the_hour_is_one_delivery(ledger: Ledger) -> None:
    turn = NOW // 3600 * 3600 - 3600
    await apply(ledger, event(at=turn + 1))
    again = await apply(ledger, event(at=turn - 1))
    assert again.duplicates == {"same_outcome": 1}
    (row,) = await ledger.rows(MINUTE, 0, NOW + DAY)
    assert row.bucket == turn - 60, "the earlier report is the delivery"


async def test_survives_a_reopen(open_ledger: Callable[[], Ledger]) -> None:
    first = open_ledger()
    await apply(first, event(), bounce(message_id="m2", reason="no such user <address>"))
    await first.save("incident", {"a": b"1", "b": b"2"})
    await first.save("incident", {"b": None})
    await first.close()
    second = open_ledger()
    again = await apply(second, event(), bounce(message_id="m2"))
    assert again.duplicates == {"same_outcome": 2}
    assert await second.load("incident") == {"a": b"1"}
    assert [b.reason for b in await second.recent_bounces(10)] == ["no such user <address>"]
    await second.close()
    await second.close()


async def test_two_processes_on_one_store_count_once(open_ledger: Callable[[], Ledger]) -> None:
    one, two = open_ledger(), open_ledger()
    for i in range(10):
        other = Cell("example.com", "sendgrid", f"s{i}", "gmail")
        await apply(one, event(message_id=f"x{i}", at=NOW - i * 5000), cell=other)
        again = await apply(two, event(message_id=f"x{i}", at=NOW - i * 5000), event(message_id=f"y{i}"), cell=other)
        assert again.duplicates == {"same_outcome": 1}
    assert sum(r.count for r in await one.rows(HOUR, 0, NOW + DAY)) == 20
    await one.close()
    await two.close()


async def test_prune_keeps_what_is_young_and_drops_the_rest(ledger: Ledger) -> None:
    await apply(ledger, event(), bounce(message_id="m2"))
    await ledger.quarantine("main", "not JSON", b"{", {}, NOW)
    await ledger.prune(NOW + 3 * DAY)
    assert await totals(ledger, MINUTE) == Counter()
    assert await totals(ledger, HOUR) == Counter(delivered=1, hard=1)
    assert len(await ledger.quarantined()) == 1
    await ledger.prune(NOW + 8 * DAY)
    assert not await ledger.quarantined()
    (again,) = await ledger.apply([batch([event()])], NOW + 8 * DAY)
    assert again.duplicates, "identities live longer than events are accepted"
    await ledger.prune(NOW + 50 * DAY)
    assert await totals(ledger, HOUR) == Counter()
    assert await totals(ledger, DAY) == Counter(delivered=1, hard=1)
    await ledger.prune(NOW + 500 * DAY)
    assert await totals(ledger, DAY) == Counter()


async def test_a_count_moved_out_of_a_pruned_bucket_leaves_no_negative(ledger: Ledger) -> None:
    await apply(ledger, event(at=NOW - 1.9 * DAY))
    later = NOW + DAY
    await ledger.prune(later)
    await ledger.apply([batch([bounce(at=later - 60)])], later)
    assert await totals(ledger, MINUTE) == Counter(hard=1)
    assert await totals(ledger, HOUR) == Counter(hard=1)


async def test_quarantine_is_sealed_capped_and_can_be_read_back(ledger: Ledger, tmp_path: Path) -> None:
    body = b'{"Email": "someone@example.net"' + b" " * 30_000
    for i in range(5):
        gone = await ledger.quarantine("main", f"reason {i}", body, {"content-type": "application/json"}, NOW + i)
    held = await ledger.quarantined()
    assert [q.reason for q in held] == ["reason 2", "reason 3", "reason 4"]
    assert gone == 1
    assert await ledger.unseal(held[0].id) == ({"content-type": "application/json"}, body)
    with pytest.raises(KeyError):
        await ledger.unseal(1)
    await ledger.discard([held[0].id, 1])
    assert [q.id for q in await ledger.quarantined()] == [q.id for q in held[1:]]
    for file in tmp_path.iterdir():
        assert b"someone@example.net" not in file.read_bytes()


async def test_empty_batches_and_a_writable_store(ledger: Ledger) -> None:
    assert await ledger.writable()
    (result,) = await ledger.apply([batch([])], NOW)
    assert not result.counted
    assert (await ledger.sources())["main"].last_received_at == NOW
    await ledger.close()
    assert not await ledger.writable()


_kinds = st.sampled_from([k for k in Kind if k is not Kind.BOUNCED])


@st.composite
def reports(draw: st.DrawFn) -> list[Reported]:
    """Up to 40 reports about few messages over 30 hours, so that everything collides; deliveries of one message are
    reported within the hour, as the same delivery is."""
    span = 30 * 3600
    delivered_at = {m: NOW - draw(st.integers(3600, span)) for m in ("m1", "m2", "m3")}
    out: list[Reported] = []
    for _ in range(draw(st.integers(1, 40))):
        message = draw(st.sampled_from(["m1", "m2", "m3"]))
        at = NOW - draw(st.integers(0, span))
        cell = draw(st.sampled_from([GMAIL, YAHOO]))
        ids = {"message_id": message, "recipient": draw(st.sampled_from(["a@example.net", "b@example.net"]))}
        if draw(st.booleans()):
            one = bounce(draw(st.sampled_from(list(BounceClass))), at, **ids)
        else:
            kind = draw(_kinds)
            if kind == Kind.DELIVERED:
                at = delivered_at[message] + draw(st.integers(-1800, 1800))
            if kind in (Kind.ACCEPTED, Kind.DROPPED, Kind.COMPLAINED, Kind.UNSUBSCRIBED):
                at = delivered_at[message]
            one = event(kind, at, event_id=draw(st.text(max_size=3)), **ids)
        out.append((draw(st.sampled_from(["sendgrid", "postmark"])), one, cell))
    return out


PROPERTY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("store", QUICK)
@settings(PROPERTY, max_examples=100)
@given(data=st.data(), given_reports=reports())
async def test_any_order_any_split_any_repeat_gives_the_same_counts(
    store: str, data: st.DataObject, given_reports: list[Reported]
) -> None:
    await _any_order_any_split_any_repeat(store, data, given_reports)


@settings(PROPERTY, max_examples=12)
@given(data=st.data(), given_reports=reports())
async def test_any_order_gives_the_same_counts_on_postgresql(
    data: st.DataObject, given_reports: list[Reported]
) -> None:
    await _any_order_any_split_any_repeat("postgres", data, given_reports)


async def _any_order_any_split_any_repeat(store: str, data: st.DataObject, given_reports: list[Reported]) -> None:
    repeated = given_reports + data.draw(st.lists(st.sampled_from(given_reports), max_size=10))
    shuffled = data.draw(st.permutations(repeated))
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        ledger = STORES[store](Path(directory))
        try:
            seen = 0
            while seen < len(shuffled):
                size = data.draw(st.integers(1, 12))
                commit = [Batch("s", "p", scope, NOW, [e], [c]) for scope, e, c in shuffled[seen : seen + size]]
                for result in await ledger.apply(commit, NOW):
                    parts = (*result.counted.values(), *result.duplicates.values(), *result.refused.values())
                    assert sum(parts) == 1
                seen += size
            want = expected(given_reports)
            minutes = {(r.bucket, r.cell, r.measure): r.count for r in await ledger.rows(MINUTE, 0, NOW + DAY)}
            assert minutes == dict(want)
            for width in (HOUR, DAY):
                sums: Counter[tuple[int, Cell, str]] = Counter()
                for (bucket, cell, measure), count in want.items():
                    sums[bucket // width * width, cell, measure] += count
                assert {(r.bucket, r.cell, r.measure): r.count for r in await ledger.rows(width, 0, NOW + DAY)} == dict(
                    sums
                )
        finally:
            await ledger.close()


async def test_a_large_shuffled_history_is_exact(ledger: Ledger) -> None:
    rng = random.Random(7)
    history: list[Reported] = []
    for i in range(12_000):
        ids = {"message_id": f"m{i}", "recipient": f"u{i}@example.net", "event_id": f"e{i}"}
        at = NOW - 31 * 3600 + rng.random() * 3600 * 30
        cell = rng.choice([GMAIL, YAHOO])
        fate = rng.random()
        if fate < 0.1:
            history.append(("sendgrid", bounce(BounceClass.SOFT, at, **ids), cell))
            history.append(("sendgrid", bounce(BounceClass.HARD, min(at + 5000, NOW), **ids), cell))
        elif fate < 0.2:
            history.append(("sendgrid", event(at=at, **ids), cell))
            history.append(("sendgrid", bounce(BounceClass.BLOCK, min(at + 40_000, NOW), **ids), cell))
        else:
            history.append(("sendgrid", event(at=at, **ids), cell))
    history += rng.sample(history, 3000)
    rng.shuffle(history)
    for start in range(0, len(history), 9500):  # more than one statement's worth
        part = history[start : start + 9500]
        await ledger.apply([Batch("s", "p", "sendgrid", NOW, [r[1] for r in part], [r[2] for r in part])], NOW)
    got = {(r.bucket, r.cell, r.measure): r.count for r in await ledger.rows(MINUTE, 0, NOW + DAY)}
    assert got == dict(expected(history))


async def test_rows_come_summed_as_far_as_asked(ledger: Ledger) -> None:
    hour = NOW // 3600 * 3600 - 4 * 3600
    other = Cell("other.example", "sendgrid", "", "gmail")
    for cell in (GMAIL, YAHOO, other):
        events = [event(at=hour + minute * 60, message_id=f"{cell}{minute}") for minute in range(0, 180, 10)]
        await apply(ledger, *events, cell=cell)
    by_hour = await ledger.rows(MINUTE, 0, NOW, merge=HOUR)
    assert sorted((r.bucket - hour, r.count) for r in by_hour if r.cell == GMAIL) == [(3000, 6), (6600, 6), (10200, 6)]
    parted = await ledger.rows(MINUTE, 0, NOW, merge=HOUR, edges=[hour + 1200, hour + 3600])
    assert sorted((r.bucket - hour, r.count) for r in parted if r.cell == GMAIL) == [
        (1200, 3), (3000, 3), (3600, 1), (6600, 5), (10200, 6),
    ]  # fmt: skip
    whole = await ledger.rows(HOUR, 0, NOW, merge=100 * DAY, by_domain=True)
    assert {(r.cell, r.bucket - hour, r.count) for r in whole} == {
        (Cell("example.com", "", "", ""), 7200, 36), (Cell("other.example", "", "", ""), 7200, 18),
    }  # fmt: skip


async def test_rows_of_one_domain_alone(ledger: Ledger) -> None:
    other = Cell("other.example", "sendgrid", "", "gmail")
    for cell in (GMAIL, YAHOO, other):
        await apply(ledger, *(event(at=NOW - n * HOUR, message_id=f"{cell}{n}") for n in range(5)), cell=cell)
    for more in ({}, {"by_domain": True}, {"merge": 100 * DAY}):
        everything = await ledger.rows(HOUR, NOW - 3 * HOUR, NOW + 1, **more)
        alone = await ledger.rows(HOUR, NOW - 3 * HOUR, NOW + 1, domains=["example.com"], **more)
        assert sorted(alone) == sorted(row for row in everything if row.cell.domain == "example.com") != []
        assert await ledger.rows(HOUR, 0, NOW + DAY, domains=["nobody.example"], **more) == []


async def test_an_evaluation_of_summed_rows_is_that_of_all_rows(ledger: Ledger) -> None:
    rng = random.Random(3)
    cells = [Cell(d, p, "", m) for d in ("a.example", "b.example") for p in ("sendgrid", "ses") for m in ("gmail", "x")]
    domains = {"a.example": PHASES["growth"], "b.example": PHASES["foundation"]}
    for now in (NOW, NOW + 1234.5):
        for _ in range(3):
            events = [
                bounce(rng.choice(list(BounceClass)), at, message_id=str(rng.random()))
                if rng.random() < 0.03
                else event(rng.choice([Kind.DELIVERED, Kind.DELIVERED, Kind.COMPLAINED, Kind.DEFERRED]), at,
                           message_id=str(rng.random()))
                for at in (now - rng.random() ** 3 * 34 * DAY for _ in range(1500))
            ]  # fmt: skip
            await ledger.apply([Batch("s", "p", "p", now, events, rng.choices(cells, k=1500))], now)
        since = {MINUTE: now - DAY - MINUTE, HOUR: now - 30 * DAY - HOUR, DAY: now - 62 * DAY}
        raw = [await ledger.rows(width, since[width], now + HOUR) for width in (MINUTE, HOUR, DAY)]
        summed = [
            await ledger.rows(MINUTE, since[MINUTE], now + HOUR, merge=100 * DAY, edges=edges(now, MINUTE)),
            await ledger.rows(HOUR, since[HOUR], now + HOUR, merge=100 * DAY, edges=edges(now, HOUR)),
            await ledger.rows(DAY, since[DAY], now + HOUR, by_domain=True),
        ]
        by_domain = await ledger.rows(HOUR, since[HOUR], now + HOUR, by_domain=True)
        assert len(summed[0]) < len(raw[0]) / 2
        assert evaluate(now, domains, *summed, domain_hour_rows=by_domain) == evaluate(now, domains, *raw)


async def test_what_changes_long_after_the_fact_is_told(ledger: Ledger) -> None:
    assert await ledger.amended() == {}
    await apply(ledger, event(at=NOW - 60), event(at=settled_before(NOW) + 1, message_id="b"))
    assert await ledger.amended() == {}
    await apply(ledger, event(at=settled_before(NOW) - 1, message_id="c"))
    first = await ledger.amended()
    assert list(first) == ["example.com"]
    await apply(ledger, event(at=NOW - 60, message_id="d"))
    assert await ledger.amended() == first
    # A bounce that takes a delivery back, whenever that was.
    await apply(ledger, bounce(at=NOW - 60, message_id="c"))
    assert (await ledger.amended())["example.com"] != first["example.com"]
    await ledger.prune(NOW + 2 * HOUR)
    assert await ledger.amended() == {}
    # Counts that move from cell to cell.
    await apply(ledger, event(at=NOW - 60, message_id="e"), cell=GMAIL._replace(mailbox_provider="?example.net"))
    await ledger.relabel({"example.net": "gmail"}, NOW + 5)
    assert list(await ledger.amended()) == ["example.com"]
