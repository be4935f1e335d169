"""One domain over time, out of its rows; what has not changed is not worked out again."""

from __future__ import annotations

import pytest

from agent.ledger.base import Cell, Row
from agent.vitals import trends
from agent.vitals.phases import PHASES
from agent.vitals.rates import FIELDS, Counts
from agent.vitals.trends import MOST_PARTS, Memory, Plan, by_part, domain_trends
from tests.unit.vitals.series import DAY, HOUR, MONDAY, mail, office

PLAN = Plan(PHASES["growth"], None, 120_000)
NOW = MONDAY + 720 * HOUR + 1.0


def rows(cell: Cell, hours: list[tuple[int, Counts]], width: int = HOUR) -> list[Row]:
    return [
        Row(start // width * width, cell, measure, count)
        for start, counts in hours
        for measure in FIELDS
        if (count := getattr(counts, measure))
    ]


def cell(provider: str = "sendgrid", stream: str = "", mailbox: str = "gmail") -> Cell:
    return Cell("example.com", provider, stream, mailbox)


GOOD = mail(1, 40_000, 0.005, volume=office)
BAD = mail(2, 40_000, 0.005, volume=office, failing=lambda h: 5.0 if h >= 600 else 1.0)


def test_the_parts_add_up_to_the_whole() -> None:
    some = rows(cell(), GOOD) + rows(cell("mailgun", "news", "yahoo"), BAD)
    found = by_part(some)
    assert set(found) == {
        ("", ""), ("provider", "sendgrid"), ("provider", "mailgun"), ("stream", "news"), ("mailbox_provider", "gmail"),
        ("mailbox_provider", "yahoo"),
    }  # fmt: skip
    whole = found["", ""]
    for scope in ("provider", "mailbox_provider"):
        parts = [part for (s, _), part in found.items() if s == scope]
        assert {at: sum(p[at].attempted for p in parts if at in p) for at in whole} == {
            at: counts.attempted for at, counts in whole.items()
        }
    assert found["stream", "news"] == found["provider", "mailgun"]
    assert by_part([Row(MONDAY, cell(), "opened", 3)]) == {}


def test_the_part_that_moved_is_named() -> None:
    hours = rows(cell(), GOOD) + rows(cell("mailgun", "", "yahoo"), BAD)
    found, evidence = domain_trends(hours, [Row(r.bucket // DAY * DAY, *r[1:]) for r in hours], PLAN, NOW, {})
    moved = {(s.scope, s.part) for s in found.shifts if s.rate == "bounce"}
    assert moved == {("", ""), ("provider", "mailgun"), ("mailbox_provider", "yahoo")}
    assert [s.at for s in found.shifts] == sorted(s.at for s in found.shifts)
    # All series of the whole, and of parts what is heading somewhere.
    assert [d.rate for d in found.directions if not d.scope] == list(trends.SERIES)
    parts = [d for d in found.directions if d.scope]
    assert {(d.part, d.direction) for d in parts if d.rate == "bounce"} == {
        ("mailgun", "worsening"),
        ("yahoo", "worsening"),
    }
    assert not {d.direction for d in parts} & {"steady", "cannot_tell"}
    assert [f.limit for f in found.forecasts] == ["phase", "plan"]
    assert evidence.volume == sum(r.count for r in hours)
    assert evidence.mailbox_providers.state == "blocking"
    assert "yahoo" in evidence.mailbox_providers.evidence


def test_only_what_changed_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[tuple[str, str]] = []
    real = trends._look

    def look(part, hours, now, signature, classes):  # type: ignore[no-untyped-def]
        looked.append(part)
        return real(part, hours, now, signature, classes)

    monkeypatch.setattr(trends, "_look", look)
    memory: Memory = {}
    mine, other = rows(cell(), GOOD), rows(cell("mailgun", "", "yahoo"), BAD)
    first, _ = domain_trends(mine + other, [], PLAN, NOW, memory)
    assert len(looked) == 5
    again, _ = domain_trends(mine + other, [], PLAN, NOW + 60, memory)
    assert len(looked) == 5
    assert (again.shifts, again.directions) == (first.shifts, first.directions)
    domain_trends([*mine, *other, Row(MONDAY + 719 * HOUR, cell(), "hard", 1)], [], PLAN, NOW + 60, memory)
    assert sorted(looked[5:]) == [("", ""), ("mailbox_provider", "gmail"), ("provider", "sendgrid")]
    # In the next hour all of it is of another time, and a part that is gone is forgotten.
    domain_trends(mine, [], PLAN, NOW + HOUR, memory)
    assert len(looked) == 11
    assert set(memory) == {("", ""), ("provider", "sendgrid"), ("mailbox_provider", "gmail")}


def test_many_parts_cost_no_more_than_the_busiest_of_them() -> None:
    few = GOOD[:2]
    hours = [row for n in range(50) for row in rows(cell(stream=f"s{n}", mailbox=""), few[: 1 + n % 2])]
    memory: Memory = {}
    domain_trends(hours, [], PLAN, NOW, memory)
    assert len(memory) == 1 + MOST_PARTS
    assert ("", "") in memory
