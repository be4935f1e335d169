"""Two agents on one store: both take webhooks, one leads; whichever ends, however it ends, the other goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from agent.simulate import SIMULATORS, Scenario
from agent.simulate.send import simulate
from tests.servers.agent import Agent
from tests.servers.alertmanager import alertmanager
from tests.servers.base import wait_until

DAY = 86400
DOMAIN = "two.example"
STATED = 15.0  # seconds until another agent leads


def _leads(one: Agent) -> bool:
    return bool(one.status()["leader"])


def _breach(state: dict[str, Any]) -> list[dict[str, Any]]:
    return [i for i in state["incidents"] if i["labels"].get("target") == "bounce" and i["state"] == "open"]


def _verdicts(one: Agent) -> int:
    return one.get("/metrics").decode().count("mailvitals_target_verdict{")


@pytest.mark.alone
async def test_one_of_two_agents_leads_and_the_other_takes_over(tmp_path: Path) -> None:
    keys = SIMULATORS["sendgrid"].new_credentials()
    with alertmanager(tmp_path / "alertmanager") as server:
        settings = {
            "sources": [{"name": "main", "provider": "sendgrid", "domain": DOMAIN, **keys.settings}],
            "domains": [{"name": DOMAIN}],
            "dns": {"resolvers": ["127.0.0.1:9"]},
            "vitals": {"interval": "1s"},
            "alertmanagers": [server.url],
            "alerts": {"resend": "1s"},
            "store": {"url": f"sqlite:///{tmp_path}/shared.db"},
        }
        one, two = Agent(tmp_path / "one", settings), Agent(tmp_path / "two", settings)
        try:
            one.start()
            await asyncio.to_thread(wait_until, lambda: _leads(one), STATED)
            two.start()
            now = time.time()
            bad = Scenario(start=now - 5 * 3600, duration=4 * 3600, until=now, messages=2_000, hard=0.2, seed=3,
                           domains={DOMAIN: 1.0}, soft=0.0, block=0.0, undetermined=0.0)  # fmt: skip
            # Half the mail comes through the one that does not lead.
            await simulate("sendgrid", bad, two.webhook("main"), keys.signing, batch=50)
            await asyncio.to_thread(wait_until, lambda: _breach(one.status()), 20)
            await asyncio.to_thread(wait_until, lambda: server.alerts(alertname="MailTargetBreached"), 20)
            told = server.alerts(alertname="MailTargetBreached", target="bounce")
            assert len(told) == 1

            # Who does not lead shows the same, says that it does not lead, and exports nothing of the whole.
            await asyncio.to_thread(wait_until, lambda: _breach(two.status()), 30)
            assert not _leads(two)
            assert _verdicts(one) > 0
            assert _verdicts(two) == 0
            status, said = await asyncio.to_thread(_check_now, two)
            assert status == 409
            assert "only the leading agent checks" in said

            began = [i["starts_at"] for i in _breach(one.status())]
            # Killed: the other leads in time, and the alert is the same one.
            one.kill()
            died = time.monotonic()
            await asyncio.to_thread(wait_until, lambda: _leads(two), STATED)
            took_over = time.monotonic() - died
            await asyncio.to_thread(wait_until, lambda: _verdicts(two) > 0, 10)
            assert [i["starts_at"] for i in _breach(two.status())] == began
            again = server.alerts(alertname="MailTargetBreached", target="bounce")
            assert [a["startsAt"] for a in again] == [a["startsAt"] for a in told]

            # Stopped in good order: passed on at once. One that was only paused leads again and tells nothing old.
            one.start()
            assert not _leads(one)
            assert two.stop() == 0
            stopped = time.monotonic()
            await asyncio.to_thread(wait_until, lambda: _leads(one), STATED)
            passed_on = time.monotonic() - stopped
            assert [a["startsAt"] for a in server.alerts(alertname="MailTargetBreached", target="bounce")] == [
                a["startsAt"] for a in told
            ]
            assert one.process is not None
            os.kill(one.process.pid, signal.SIGSTOP)
            await asyncio.sleep(7)
            os.kill(one.process.pid, signal.SIGCONT)
            await asyncio.to_thread(wait_until, lambda: _leads(one), STATED)
            print(f"\nkilled: another leads after {took_over:.1f} s; stopped: after {passed_on:.1f} s")
        finally:
            assert one.stop() == 0
            assert two.stop() == 0


def _check_now(one: Agent) -> tuple[int, str]:
    request = urllib.request.Request(
        f"{one.url}/api/v1/domains/{DOMAIN}/check", method="POST", headers={"X-Mailvitals": "1"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()
