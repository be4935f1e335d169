"""What people are told, counted where it arrives: nothing twice, nothing missed, whatever is restarted or killed.

The measure is the receiver's count of each (labels, start, status). Alertmanager forgets its alerts at every restart
and is told again; that it does not tell people again rests on its notification log, which it writes at a gentle end and
every ``--data.maintenance-interval``. What was told after the last time is told once more after a ``kill -9``.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from agent.alerts.alertmanager import Endpoint, Notifier
from agent.alerts.incidents import identity, step
from agent.alerts.types import Condition, Holds, Incident
from agent.simulate import SIMULATORS, Scenario
from agent.simulate.send import simulate
from tests.servers.agent import agent
from tests.servers.alertmanager import Alertmanager, alertmanager
from tests.servers.base import free_port, wait_until
from tests.servers.prometheus import prometheus
from tests.unit.alerts.scenarios import SCENARIOS, look, moments

RESEND = 0.5
VERDICTS = Path(__file__).parents[2] / "deploy" / "rules" / "mailvitals-verdicts.yaml"
Told = Counter[tuple[str, float, str]]


class Receiver:
    """Where Alertmanager's messages arrive. ``told`` counts each alert in them by labels, start and status."""

    def __init__(self) -> None:
        self.told: Told = Counter()
        self.url = f"http://127.0.0.1:{free_port()}/"

    async def _take(self, request: web.Request) -> web.Response:
        for alert in (await request.json())["alerts"]:
            self.told[identity(alert["labels"]), unix(alert["startsAt"]), alert["status"]] += 1
        return web.Response()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Receiver]:
        app = web.Application()
        app.router.add_post("/", self._take)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", int(self.url.rsplit(":")[-1].strip("/"))).start()
        try:
            yield self
        finally:
            await runner.cleanup()


def unix(text: str) -> float:
    return round(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp(), 2)


class Teller:
    """The part of the agent that keeps incidents and tells of them; what it stores outlives it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.stored: dict[str, bytes] = {}
        self.ever: set[tuple[str, float]] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._notifier = Notifier([Endpoint(self.url)], resend=RESEND)
        self._notifier.update(self.incidents().values())
        self._task = asyncio.create_task(self._notifier.run())

    def incidents(self) -> dict[str, Incident]:
        return {key: msgspec.json.decode(body, type=Incident) for key, body in self.stored.items()}

    async def kill(self) -> None:
        """At once, whatever was under way."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait((self._task,))

    def look(self, several: Iterable[list[Condition]], told: bool = True) -> None:
        """One look at the conditions of independent senders; ``told`` is whether it lives to tell."""
        now, before = round(time.time(), 2), self.incidents()
        after: dict[str, Incident] = {}
        for n, conditions in enumerate(several):
            own = {key: incident for key, incident in before.items() if incident.labels["domain"].startswith(f"n{n}.")}
            after |= step(own, conditions, now, quiet_period=0)
        self.stored = {key: msgspec.json.encode(incident) for key, incident in after.items()}
        self.ever |= {(key, incident.starts_at) for key, incident in after.items()}
        if told:
            self._notifier.update(after.values())


def courses() -> list[list[list[Condition]]]:
    """The conditions of every scenario, look by look, each of a sender of its own; at last all is well."""
    found = []
    for n, scenario in enumerate(SCENARIOS):
        incidents: dict[str, Incident] = {}
        looks: list[list[Condition]] = []
        for now in moments(scenario):
            conditions = look(scenario, now, incidents.values())
            incidents = step(incidents, conditions, now)
            looks.append([_renamed(c, f"n{n}.{c.labels['domain']}") for c in conditions])
        # The last look lasts.
        looks += [looks[-1]] * (4 - len(looks))
        looks.append([msgspec.structs.replace(c, holds=Holds.NO) for c in looks[-1]])
        found.append(looks)
    return found


def _renamed(condition: Condition, domain: str) -> Condition:
    return msgspec.structs.replace(condition, labels=condition.labels | {"domain": domain})


async def told(receiver: Receiver, expected: Told) -> None:
    """Exactly this, and nothing more in the time in which more would come."""
    end = time.monotonic() + 20
    while not expected <= receiver.told and time.monotonic() < end:
        await asyncio.sleep(0.05)
    await asyncio.sleep(2.5)  # several repeats of the agent and turns of Alertmanager
    assert receiver.told == expected


def of(ever: Iterable[tuple[str, float]], *statuses: str) -> Told:
    return Counter((key, at, status) for key, at in ever for status in statuses)


async def test_every_trouble_is_told_once_whatever_is_restarted_or_killed(tmp_path: Path) -> None:
    everybody = await asyncio.to_thread(courses)
    async with Receiver().listening() as receiver:
        server = Alertmanager(tmp_path, webhook=receiver.url, snapshots="300ms")
        await asyncio.to_thread(server.start)
        teller = Teller(server.url)
        teller.start()
        try:
            teller.look(looks[0] for looks in everybody)
            await asyncio.sleep(1)
            # A restart of the agent, then one that is killed between storing what it saw and telling of it.
            await teller.kill()
            teller.start()
            teller.look((looks[1] for looks in everybody), told=False)
            await teller.kill()
            teller.start()
            await asyncio.sleep(1)
            # Killed in the middle of telling.
            teller.look(looks[2] for looks in everybody)
            await asyncio.sleep(0.01)
            await teller.kill()
            teller.start()
            await asyncio.sleep(2)
            await asyncio.to_thread(server.stop)
            teller.look(looks[3] for looks in everybody)
            await asyncio.to_thread(server.start)
            await asyncio.sleep(2)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            live = [(k, i.starts_at) for k, i in teller.incidents().items() if not i.resolved_at]
            over = teller.ever - set(live)
            assert len(live) > 25
            assert over, "some turned graver on the way"
            await told(receiver, of(teller.ever, "firing") + of(over, "resolved"))
            teller.look(looks[4] for looks in everybody)
            await told(receiver, of(teller.ever, "firing", "resolved"))
        finally:
            await teller.kill()
            await asyncio.to_thread(server.stop)


@pytest.mark.parametrize(("snapshots", "again", "ends"), [("300ms", 1, 1), ("15m", 2, 0)])
async def test_what_a_killed_alertmanager_tells_again(tmp_path: Path, snapshots: str, again: int, ends: int) -> None:
    """By default an Alertmanager writes down what it told every 15 minutes: killed within them it tells of what is open
    once more, and never of the end of what ended meanwhile. Told to write it down more often, it does neither."""
    stays, goes = ([Condition({"alertname": "A", "domain": f"n{n}.x"}, Holds.YES, {})] for n in range(2))
    async with Receiver().listening() as receiver:
        server = Alertmanager(tmp_path, webhook=receiver.url, snapshots=snapshots)
        await asyncio.to_thread(server.start)
        teller = Teller(server.url)
        teller.start()
        try:
            teller.look([stays, goes])
            await told(receiver, of(teller.ever, "firing"))
            await asyncio.to_thread(server.kill)
            teller.look([stays, [msgspec.structs.replace(c, holds=Holds.NO) for c in goes]])
            await asyncio.to_thread(server.start)
            (open_,) = ((k, i.starts_at) for k, i in teller.incidents().items() if not i.resolved_at)
            gone = teller.ever - {open_}
            repeated: Told = Counter({(*open_, "firing"): again - 1})
            await told(
                receiver, of(teller.ever, "firing") + repeated + +Counter({(*g, "resolved"): ends for g in gone})
            )
        finally:
            await teller.kill()
            await asyncio.to_thread(server.stop)


@pytest.mark.parametrize("pushing", [True, False])
async def test_a_breach_is_told_once_whether_the_agent_or_prometheus_tells_it(tmp_path: Path, pushing: bool) -> None:
    keys = SIMULATORS["sendgrid"].new_credentials()
    settings: dict[str, Any] = {
        "sources": [{"name": "sg", "provider": "sendgrid", "domain": "told.example", **keys.settings}],
        "domains": [{"name": "told.example", "phase": "growth"}],
        "dns": {"resolvers": ["127.0.0.1:9"]},
        "vitals": {"interval": "1s"},
        "alerts": {"quiet_period": "4s", "resend": "1s"},
    }
    rules = tmp_path / "verdicts.yaml"
    rules.write_text(VERDICTS.read_text().replace("[5m]", "[5s]"))
    async with Receiver().listening() as receiver:
        with contextlib.ExitStack() as servers:
            enter = servers.enter_context
            alerts = await asyncio.to_thread(enter, alertmanager(tmp_path / "alertmanager", webhook=receiver.url))
            if pushing:
                settings["alertmanagers"] = [alerts.url]
            one = await asyncio.to_thread(enter, agent(tmp_path / "agent", settings))
            await asyncio.to_thread(
                enter,
                prometheus(tmp_path, [f"127.0.0.1:{one.private}"], [rules], alertmanagers=[f"127.0.0.1:{alerts.port}"]),
            )
            now = time.time()
            scenario = Scenario(
                start=now - 3600, duration=3500, until=now, domains={"told.example": 1.0}, messages=2000, hard=0.09
            )
            sent = await simulate("sendgrid", scenario, one.webhook("sg"), keys.signing)
            assert sent.failed == 0

            def both() -> bool:
                found = one.status()["domains"]["told.example"]["judgements"]
                return {j["target"] for j in found if j["verdict"] == "breached"} >= {"bounce", "deliverability"}

            await asyncio.to_thread(wait_until, both, 20, "both targets to be breached")
            await asyncio.to_thread(one.kill)
            await asyncio.to_thread(one.start)
            await asyncio.to_thread(wait_until, lambda: receiver.told, 20, "the breach to be told")
            await asyncio.sleep(8)
            ((labels, _, status),) = receiver.told
            assert set(receiver.told.values()) == {1}
            assert status == "firing"
            name = "MailTargetBreached" if pushing else "MailvitalsVerdictTargetBreached"
            assert f'"alertname","{name}"' in labels
            for label in ('"domain","told.example"', '"severity","critical"', '"target","bounce"'):
                assert label in labels
