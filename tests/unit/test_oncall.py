"""Incidents and mutes as several agents on one store keep them, and what of them is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import msgspec
import pytest
import structlog

from agent.alerts.incidents import QUIET_PERIOD
from agent.alerts.mutes import MOST, MuteError, TooManyMutes
from agent.alerts.types import Condition, Holds, Incident
from agent.dns.checks.base import Finding, Verdict, Watched
from agent.ledger.base import StoreUnavailable
from agent.oncall import OnCall
from agent.settings import Settings
from tests.unit.test_posture import Store

START = 1_790_000_000.0
SETTINGS = Settings.model_validate(
    {"listen": {}, "store": {"url": "sqlite:////no/x.db"}, "domains": [{"name": "example.com", "phase": "growth"}]}
)
BOUNCE, COMPLAINT = (
    Condition(
        {"alertname": "MailTargetBreached", "severity": "critical", "domain": "example.com", "target": t},
        Holds.YES, {"summary": f"{t} breached"},
    )
    for t in ("bounce", "complaint")
)  # fmt: skip


class Agent:
    """One agent, and what it last gave to its notifier."""

    def __init__(self, store: Store) -> None:
        self.now = START
        self.told: list[str] = []
        self.oncall = OnCall(
            SETTINGS, store, self, clock=lambda: self.now, clues=lambda findings, now: {}, shifts=lambda domain: (),  # type: ignore[arg-type]
        )  # fmt: skip

    def update(self, incidents: Iterable[Incident]) -> None:
        self.told = sorted(f"{i.labels['target']} {i.state}" for i in incidents)

    async def look(self, *conditions: Condition) -> list[str]:
        """As the leader does; what is told then."""
        await self.oncall.load_mutes()
        self.oncall.take(self.oncall.follow(conditions, self.now))
        await self.oncall.save(1)
        self.oncall.tell()
        return self.told


def asked(hours: float = 2, **matchers: str) -> bytes:
    return msgspec.json.encode({"matchers": matchers or {"target": "bounce"}, "hours": hours})


async def test_a_finding_that_is_well_again_closes_its_incident_and_opens_none() -> None:
    agent = Agent(Store())

    def look(verdict: Verdict, at: float) -> list[str]:
        finding = Finding("spf", "", verdict, "reason", "detail", "advice")
        seen = [Watched("example.com", finding, at, at, at, finding)]
        decision = agent.oncall.decide(at, None, findings=seen, sources=(), hints={}, explained={})
        agent.oncall.take(decision)
        return [i.state for i in agent.oncall.incidents()]

    assert look(Verdict.OK, START) == []
    assert look(Verdict.FAIL, START + 1) == ["open"]
    assert look(Verdict.OK, START + 2) == ["closing"]
    assert look(Verdict.UNKNOWN, START + 3) == ["closing"]
    assert look(Verdict.OK, START + 4) == ["closing"]
    assert look(Verdict.OK, START + QUIET_PERIOD + 10) == ["resolved"]


async def test_what_is_muted_is_kept_and_shown_and_not_told_until_that_is_over() -> None:
    store = Store()
    leader, follower = Agent(store), Agent(store)
    assert await leader.look(BOUNCE, COMPLAINT) == ["bounce open", "complaint open"]
    # Asked of another agent: the one that leads knows with its next look.
    mute = await follower.oncall.mute(asked())
    assert await leader.look(BOUNCE, COMPLAINT) == ["complaint open"]
    assert [m.id for m in leader.oncall.mutes()] == [mute.id]
    assert {i.labels["target"]: i.state for i in leader.oncall.incidents()} == {"bounce": "open", "complaint": "open"}
    # It outlives the agent, and opens nothing anew when it ends.
    next_one = Agent(store)
    await next_one.oncall.load()
    next_one.oncall.tell()
    assert next_one.told == ["complaint open"]
    next_one.now = START + 7200
    assert await next_one.look(BOUNCE, COMPLAINT) == ["bounce open", "complaint open"]
    assert next_one.oncall.mutes() == ()
    assert {i.starts_at for i in next_one.oncall.incidents()} == {START}


async def test_what_the_store_did_not_keep_is_decided_anew() -> None:
    agent = Agent(Store())
    assert await agent.look(COMPLAINT) == ["complaint open"]
    decision = agent.oncall.follow([BOUNCE, COMPLAINT], agent.now)
    agent.oncall.take(decision)
    assert len(agent.oncall.incidents()) == 2
    agent.oncall.undo(decision)
    assert [i.labels["target"] for i in agent.oncall.incidents()] == ["complaint"]
    agent.now += 60
    with structlog.testing.capture_logs() as logged:
        assert await agent.look(BOUNCE, COMPLAINT) == ["bounce open", "complaint open"]
        assert await agent.look(BOUNCE, COMPLAINT) == ["bounce open", "complaint open"]
    assert [(row["event"], row["target"]) for row in logged] == [("incident.open", "bounce")]
    agent.oncall.undo(decision)  # too late: others were taken meanwhile
    assert len(agent.oncall.incidents()) == 2


async def test_a_commit_that_is_lost_on_its_way_back_leaves_nothing_behind() -> None:
    class Lossy(Store):
        lost = False

        async def save(self, kind: str, documents: Mapping[str, bytes | None], *, epoch: int = 0) -> None:
            await super().save(kind, documents, epoch=epoch)
            if self.lost:
                raise StoreUnavailable("connection lost")

    agent = Agent(store := Lossy())
    assert await agent.look(COMPLAINT) == ["complaint open"]
    store.lost = True
    decision = agent.oncall.follow([BOUNCE, COMPLAINT], agent.now)
    agent.oncall.take(decision)
    with pytest.raises(StoreUnavailable):
        await agent.oncall.save(1)
    agent.oncall.undo(decision)
    assert len(store.documents["incident"]) == 2
    # The breach is over before anybody was told of it: whoever leads next must not find it.
    store.lost = False
    assert await agent.look(COMPLAINT) == ["complaint open"]
    assert len(store.documents["incident"]) == 1


async def test_an_answer_of_before_the_last_leader_comes_too_late() -> None:
    class Slow(Store):
        def __init__(self) -> None:
            super().__init__()
            self.held = asyncio.Event()

        async def load(self, kind: str) -> dict[str, bytes]:
            found = await super().load(kind)
            if kind == "incident" and not self.held.is_set():
                self.held.set()
                await asyncio.sleep(0.01)
            return found

    store = Slow()
    former, agent = Agent(store), Agent(store)
    looking_on = asyncio.create_task(agent.oncall.load())
    await store.held.wait()
    await former.look(BOUNCE)
    await agent.oncall.load()
    await looking_on
    agent.oncall.tell()
    assert agent.told == ["bounce open"]


async def test_what_was_decided_on_other_incidents_is_not_taken() -> None:
    store = Store()
    one, other = Agent(store), Agent(store)
    decision = one.oncall.follow([BOUNCE], START)
    await other.look(COMPLAINT)
    await one.oncall.load()  # it lost the lead, and has it again
    one.oncall.take(decision)
    assert [i.labels["target"] for i in one.oncall.incidents()] == ["complaint"]


async def test_what_opens_and_ends_while_muted_is_never_told() -> None:
    one = Agent(Store())
    await one.oncall.mute(asked(hours=720))
    well = msgspec.structs.replace(BOUNCE, holds=Holds.NO)
    for condition in (BOUNCE, BOUNCE, well, well):
        assert await one.look(condition) == []
        one.now += QUIET_PERIOD
    assert [i.state for i in one.oncall.incidents()] == ["resolved"]


async def test_a_mute_is_ended_before_its_time_by_any_agent() -> None:
    store = Store()
    leader, follower = Agent(store), Agent(store)
    mute = await leader.oncall.mute(asked())
    assert await leader.look(BOUNCE) == []
    await follower.oncall.unmute(mute.id)
    assert await leader.look(BOUNCE) == ["bounce open"]
    with pytest.raises(KeyError):
        await leader.oncall.unmute(mute.id)


async def test_mutes_are_bounded_and_those_that_are_over_make_room() -> None:
    store = Store()
    one = Agent(store)
    for n in range(MOST):
        await one.oncall.mute(asked(subject=f"s{n}"))
    with pytest.raises(TooManyMutes):
        await one.oncall.mute(asked(subject="more"))
    await one.oncall.mute(asked(hours=4, subject="s0"))  # to change one is no more
    one.now += 3 * 3600
    await one.oncall.mute(asked(subject="more"))
    assert len(one.oncall.mutes()) == len(store.documents["mute"]) == 2
    with pytest.raises(MuteError):
        await one.oncall.mute(b"{}")


async def test_a_store_that_fails_leaves_things_as_they_are() -> None:
    store = Store()
    one = Agent(store)
    mute = await one.oncall.mute(asked())
    store.fails = 2
    with pytest.raises(StoreUnavailable):
        await one.oncall.mute(asked(target="complaint"))
    with pytest.raises(StoreUnavailable):
        await one.oncall.unmute(mute.id)
    assert await one.look(BOUNCE, COMPLAINT) == ["complaint open"]
