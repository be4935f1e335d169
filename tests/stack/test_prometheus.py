"""Rules and dashboard against a real Prometheus that scrapes the real metrics."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
from aiohttp.test_utils import TestServer

from agent.dns.health import Health
from agent.dns.opinion import Weight
from agent.events import BounceClass, Kind
from agent.ledger.base import Applied, Cell, Counted
from agent.views.http import create_app
from agent.views.metrics import Metrics
from agent.views.state import State
from agent.vitals.types import Snapshot
from tests.deploy.test_dashboard import concrete, expressions
from tests.deploy.test_rules import RULES
from tests.servers.base import wait_until
from tests.servers.prometheus import Prometheus, prometheus
from tests.unit.views import states


def living() -> State:
    """The well and the ill domain, as of now."""
    made = states.state()
    assert made.snapshot is not None
    late = time.time() - states.NOW
    sources = tuple(
        msgspec.structs.replace(s, last_event_at=s.last_event_at + late, last_received_at=s.last_received_at + late)
        for s in made.sources
    )
    return msgspec.structs.replace(
        made,
        snapshot=Snapshot(time.time(), made.snapshot.domains),
        sources=sources,
        alertmanagers=made.alertmanagers[:1],
    )


def traffic(metrics: Metrics) -> None:
    """A little of everything a process counts."""
    kinds = {Kind.DELIVERED: None, Kind.BOUNCED: BounceClass.HARD, Kind.COMPLAINED: None, Kind.OPENED: None}
    cell = Cell("example.com", "sendgrid", "receipts", "gmail")
    metrics.applied(
        "sendgrid-main",
        Applied({Counted(cell, k, c): 3 for k, c in kinds.items()}, {"same_event": 1}, {"too_old": 1}, 1),
    )
    metrics.request("sendgrid-main", "accepted", 0.007)
    metrics.request("sendgrid-main", "unauthorized", 0.001)
    metrics.quarantined("sendgrid-main", "unreadable")
    metrics.notification("http://alertmanager-0:9093", "sent")
    metrics.dns_query("answer", 0.02)
    metrics.dns_opinion(Weight.CONFIRMED)
    metrics.dns_health({"192.0.2.53": Health.HEALTHY})
    metrics.dns_restart()
    metrics.dns_late(0.0)
    metrics.tested("sendgrid-main", "seed", 1)
    metrics.mailbox_lookup("listed")
    metrics.mailboxes_waiting(2)
    metrics.commit(0.004, 12)
    metrics.loop_lag(0.0004)
    metrics.queue_depth(3)
    metrics.declare_bus("broker.example:8883")
    metrics.bus("in", "counted", 5)
    metrics.spool(4096, 3)


async def scraped(tmp_path: Path, state: State, check: object, rules: tuple[Path, ...] = ()) -> None:
    metrics = Metrics(lambda: state, version="1.2.3", revision="abc")
    for source in state.sources:
        metrics.declare_source(source.name, source.provider)
    for alertmanager in state.alertmanagers:
        metrics.declare_alertmanager(alertmanager.url)
    app = create_app(metrics, lambda: state, private_token=None, healthy=lambda: (True, ""))
    async with TestServer(app) as server:
        working = asyncio.create_task(keep_busy(metrics))
        try:
            await asyncio.to_thread(watch, tmp_path, f"127.0.0.1:{server.port}", check, rules)
        finally:
            working.cancel()


async def keep_busy(metrics: Metrics) -> None:
    while True:
        traffic(metrics)
        await asyncio.sleep(0.1)


def watch(tmp_path: Path, target: str, check: object, rules: tuple[Path, ...]) -> None:
    assert callable(check)
    with prometheus(tmp_path, [target], rules) as server:
        wait_until(lambda: server.value("count_over_time(up[1m])") >= 4, what="four scrapes")
        check(server)


async def test_every_query_of_the_dashboard_has_data(tmp_path: Path) -> None:
    def check(server: Prometheus) -> None:
        for window in ("24h", "7d"):
            for title, expression in expressions():
                assert server.query(concrete(expression, window)), f"{title}: no data for {expression}"
        assert server.query("max without (instance, pod) (mailvitals_bounce_ratio_lower)")
        assert server.value("sum(mailvitals_target_verdict)") == 7
        assert server.value('count(mailvitals_ready{job="mailvitals"})') == 1
        health = server.get("targets")["activeTargets"][0]
        assert (health["health"], health["lastError"]) == ("up", "")

    await scraped(tmp_path, living(), check)


async def test_the_dashboards_numbers_are_the_agents(tmp_path: Path) -> None:
    def check(server: Prometheus) -> None:
        queries = {title: concrete(expression) for title, expression in expressions()}
        assert server.value(queries["Targets breached"]) == 2
        assert server.value(queries["DNS checks failing"]) == 1
        assert server.value(queries["Open incidents"]) == 2
        timeline = {s["metric"]["domain"] + " " + s["metric"]["target"]: float(s["value"][1])
                    for s in server.query(queries["Verdicts of the targets"])}  # fmt: skip
        assert timeline["example.com bounce"] == 0  # met
        assert timeline["news.example.org bounce"] == 1  # breached
        assert timeline["news.example.org complaint"] == 3  # insufficient data

    await scraped(tmp_path, living(), check)


async def test_the_rules_load_and_evaluate_on_real_series(tmp_path: Path) -> None:
    def check(server: Prometheus) -> None:
        def healthy() -> bool:
            groups = server.get("rules")["groups"]
            found = [rule for group in groups for rule in group["rules"]]
            return len(found) >= 25 and all(rule["health"] == "ok" for rule in found)

        wait_until(healthy, what="every rule to be evaluated")
        names = {alert["metric"]["alertname"] for alert in server.query("ALERTS")}
        # The agent pushes to an Alertmanager, so no verdict rule speaks; the share of 401 is real here.
        assert "MailvitalsWatchdog" in names
        assert not {name for name in names if name.startswith("MailvitalsVerdict")}
        assert "MailvitalsIntakeRefusing" in names
        assert server.value("job:mailvitals_webhook_errors_per_request:ratio_rate5m") == 0

    await scraped(tmp_path, living(), check, tuple(RULES))


async def test_without_push_the_verdict_rules_speak(tmp_path: Path) -> None:
    def check(server: Prometheus) -> None:
        def pending() -> bool:
            names = {alert["metric"]["alertname"] for alert in server.query("ALERTS")}
            return {"MailvitalsVerdictTargetBreached", "MailvitalsVerdictDnsCheckFailing"} <= names

        wait_until(pending, what="verdict alerts to be pending")

    await scraped(tmp_path, msgspec.structs.replace(living(), alertmanagers=()), check, tuple(RULES))


async def test_a_follower_has_no_say_on_the_whole(tmp_path: Path) -> None:
    def check(server: Prometheus) -> None:
        assert server.query("mailvitals_target_verdict") == []
        assert server.value("mailvitals_ready") == 1

    await scraped(tmp_path, msgspec.structs.replace(living(), leader=False), check)
