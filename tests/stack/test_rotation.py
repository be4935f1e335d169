"""A secret changed under load: on one side only, it is noticed in time and loses nothing; on both, nothing happens."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import yaml

from agent.clock import DAY, HOUR
from agent.simulate import SIMULATORS, Scenario, Truth
from agent.simulate.send import simulate
from tests.servers.agent import Agent
from tests.servers.alertmanager import alertmanager
from tests.servers.base import wait_until
from tests.stack.replay import counted, part, wanted

STATED = 30.0  # seconds from the first refusal to the alert, as docs/alerts.md says


def _day(seed: int, messages: int = 6_000) -> Scenario:
    now = time.time()
    return Scenario(start=now - DAY, duration=DAY - 2 * HOUR, until=now, messages=messages, seed=seed)


def _use(agent: Agent, *keys: str) -> None:
    """Write these keys into the settings and start the agent anew, as a rollout does."""
    written = yaml.safe_load(agent.config.read_text())
    written["sources"][0]["verification_key"] = list(keys)
    agent.config.write_text(yaml.safe_dump(written))
    assert agent.stop() == 0
    agent.start()


async def test_a_secret_rotated_under_load_loses_nothing_and_a_wrong_one_is_told(tmp_path: Path) -> None:
    old, new, next_ = (SIMULATORS["sendgrid"].new_credentials() for _ in range(3))
    keys = [str(pair.settings["verification_key"]) for pair in (old, new, next_)]
    truths: list[Truth] = []
    with alertmanager(tmp_path / "alertmanager") as server:
        agent = Agent(
            tmp_path / "agent",
            {
                "sources": [{"name": "main", "provider": "sendgrid", "streams": ["transactional", "newsletter"],
                             "domain": "example.com", "verification_key": [keys[0]]}],
                "domains": [{"name": "example.com"}],
                "dns": {"resolvers": ["127.0.0.1:9"]},
                "alertmanagers": [server.url],
                "alerts": {"quiet_period": "1s"},
            },
        )  # fmt: skip
        agent.start()
        try:
            url = agent.webhook("main")
            truths.append((await simulate("sendgrid", _day(1), url, old.signing, batch=20)).truth)

            # The ESP's side is changed first, and nobody told the agent.
            sending = asyncio.create_task(simulate("sendgrid", _day(2), url, new.signing, batch=20, attempts=100))
            await asyncio.to_thread(
                wait_until, lambda: agent.counters("webhook_requests_total", "outcome")["unauthorized"], 20
            )
            refused_at = time.monotonic()
            await asyncio.to_thread(
                wait_until, lambda: server.alerts(alertname="MailSourceRefused", source="main"), STATED
            )
            told_after = time.monotonic() - refused_at
            assert told_after <= STATED
            assert not sending.done(), "the ESP still keeps what was refused"
            # The new secret beside the old one: what waited at the ESP comes, and the alert ends.
            await asyncio.to_thread(_use, agent, keys[0], keys[1])
            sent = await sending
            assert sent.failed == 0
            assert sent.retries > 0
            truths.append(sent.truth)
            await asyncio.to_thread(wait_until, lambda: not server.alerts(alertname="MailSourceRefused"), 60)

            # A rotation as it should be: both live at the agent before the ESP changes over.
            await asyncio.to_thread(_use, agent, keys[1], keys[2])
            before = agent.counters("webhook_requests_total", "outcome")
            both = await asyncio.gather(
                simulate("sendgrid", _day(3), url, new.signing, batch=20),
                simulate("sendgrid", _day(4), url, next_.signing, batch=20),
            )
            truths += [one.truth for one in both]
            outcomes = agent.counters("webhook_requests_total", "outcome") - before
            assert set(outcomes) == {"accepted"}, outcomes
            assert [one.retries for one in both] == [0, 0]
            assert not server.alerts(alertname="MailSourceRefused")
        finally:
            assert agent.stop() == 0
    want: Counter[str] = Counter()
    for truth in truths:
        want += part(wanted({"sendgrid": truth}))
    got = (await counted(agent.database))[DAY]
    assert part(got) == want
