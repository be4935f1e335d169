"""The slow look at the domains: when it reads, what it keeps, and what the gates are told."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from agent.alerts.catalogue import Known, conditions
from agent.clock import DAY, HOUR
from agent.ledger.base import Cell, Row, StoreUnavailable
from agent.trends import TrendWatch
from agent.vitals.phases import PHASES
from agent.vitals.trends import Plan
from agent.vitals.types import Judgement, Snapshot, TargetVerdict
from tests.unit.views import states

NOW = states.NOW
PLAN = Plan(PHASES["growth"], NOW - 50 * DAY, 500_000)


class Store:
    """A ledger that has 2,400 good mails on each of the last 60 days."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str]] = []
        self.broken = False

    async def rows(self, width: int, since: float, until: float, *, domains: Sequence[str] = ()) -> list[Row]:
        if self.broken:
            raise StoreUnavailable("gone")
        (domain,) = domains
        self.asked.append((width, domain))
        first = max(int(since // width + 1) * width, int((NOW - 60 * DAY) // width) * width)
        place = Cell(domain, "sendgrid", "", "gmail")
        return [Row(at, place, "delivered", width // 36) for at in range(first, int(until), width)]


@pytest.fixture
def store() -> Store:
    return Store()


def watch(store: Store, snapshot: Snapshot | None = None, **plans: Plan) -> TrendWatch:
    known = snapshot or states.state().snapshot
    plans = plans or {"example.com": PLAN}
    return TrendWatch(
        store, plans, PHASES, ("hard",), clock=lambda: NOW, doubt=lambda: "", snapshot=lambda: known,  # type: ignore[arg-type]
    )  # fmt: skip


async def test_one_domain_is_read_and_judged(store: Store) -> None:
    one = watch(store)
    one.judge(states.findings(), ())
    assert one.gates["example.com"].state == "cannot_tell"
    await one.look("example.com")
    assert set(store.asked) == {(HOUR, "example.com"), (DAY, "example.com")}
    directions = {d.rate: d.direction for d in one.trends["example.com"].directions if not d.scope}
    assert directions["volume"] == "steady"
    one.judge(states.findings(), states.incidents())
    items = {item.name: item for item in one.gates["example.com"].items}
    assert items["bounce"].evidence == "14 days below 1 % are proven; 0 of 16,800 failed in 7 days"
    assert items["capacity"].state == items["duration"].state == "passed"
    # Another domain's failures and incidents are not its own.
    assert items["dns"].evidence == "1 DNS check without an answer: ptr 192.0.2.10"
    assert items["incidents"].state == "passed"


async def test_what_has_not_changed_is_not_read_again(store: Store) -> None:
    snapshot = states.state().snapshot
    assert snapshot is not None
    one = watch(store, snapshot)
    await one.look("example.com")
    asked = len(store.asked)
    await one.look("example.com")
    assert len(store.asked) == asked
    more = msgspec.structs.replace(snapshot.domains["example.com"], last_event_at=NOW)
    snapshot.domains["example.com"] = more
    await one.look("example.com")
    assert len(store.asked) == 2 * asked


async def test_a_store_that_is_gone_leaves_what_was_known(store: Store) -> None:
    one = watch(store)
    await one.look("example.com")
    known = one.trends["example.com"]
    store.broken = True
    one._seen.clear()
    with pytest.raises(StoreUnavailable):
        await one.look("example.com")
    assert one.trends == {"example.com": known}


async def test_incidents_of_the_domain_and_listings_block(store: Store) -> None:
    one = watch(store, None, **{"news.example.org": PLAN})
    await one.look("news.example.org")
    listed = states.watched("news.example.org", states.Finding("blocklist", "192.0.2.1", states.Verdict.FAIL, "r", "d"))
    one.judge((*states.findings(), listed), states.incidents())
    items = {item.name: item for item in one.gates["news.example.org"].items}
    assert items["incidents"].evidence == "2 incidents open: Bounce target breached, DKIM key missing"
    assert items["blocklists"].evidence == "1 blocklist failed: 192.0.2.1"
    assert items["dns"].evidence == "1 DNS check failed: dkim mg"
    assert items["bounce"].evidence.startswith("breached now: 136 of 3,248")


async def test_a_breach_is_explained_and_the_alert_says_where(store: Store) -> None:
    base = states.state().snapshot
    assert base is not None
    began = float((NOW - 10 * HOUR) // HOUR * HOUR)
    vitals = base.domains["example.com"]
    bounce = Judgement("bounce", TargetVerdict.BREACHED, 0.01, "24h", None, "", since=began)
    snapshot = Snapshot(NOW, {"example.com": msgspec.structs.replace(vitals, judgements=(bounce,))})
    rows = store.rows

    async def bad(width: int, since: float, until: float, *, domains: Sequence[str] = ()) -> list[Row]:
        good = await rows(width, since, until, domains=domains)
        place = Cell(domains[0], "ses", "", "microsoft")
        return good + [Row(r.bucket, place, "hard", 9) for r in good if width == HOUR and r.bucket >= began]

    store.rows = bad  # type: ignore[method-assign]
    one = watch(store, snapshot)
    assert one.explained() == {}
    assert one._unexplained() == {"example.com"}
    await one.look("example.com")
    (sentence,) = one.explained().values()
    assert sentence.startswith("Where: through ses only (99 of 99 failed there")
    assert one._unexplained() == set()
    verdicts = {(v.part, v.target): v.verdict for v in one.trends["example.com"].verdicts}
    assert verdicts["ses", "bounce"] is TargetVerdict.BREACHED
    assert verdicts["sendgrid", "bounce"] is TargetVerdict.MET
    found = conditions(snapshot, (), {"example.com": "growth"}, "", known=Known(explained=one.explained()))
    assert sentence in found[0].annotations["description"]
