"""The real chain: signed webhooks and a real name server → the agent → real Prometheus, real Alertmanager."""

from __future__ import annotations

import time
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.simulate import SIMULATORS, Scenario
from agent.simulate.send import Sent, simulate
from tests.servers.agent import Agent, agent
from tests.servers.alertmanager import Alertmanager, alertmanager
from tests.servers.base import wait_until
from tests.servers.dns import DnsServer, dns_server
from tests.servers.prometheus import Prometheus, prometheus

DOMAIN, REVERSE = "chain.example", "2.0.192.in-addr.arpa"
TTL, INTERVAL = 1, 2.0  # seconds
PROVIDERS = ("sendgrid", "postmark")


def _zone(dkim: bool = True) -> str:
    der = _KEY.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    text = f"v=DKIM1; k=rsa; p={b64encode(der).decode()}"
    strings = " ".join(f'"{text[i : i + 250]}"' for i in range(0, len(text), 250))
    return (
        '@ TXT "v=spf1 ip4:192.0.2.1 ~all"\n@ MX 10 mx\nmx A 192.0.2.25\n@ A 192.0.2.80\nout A 192.0.2.1\n'
        f'_dmarc TXT "v=DMARC1; p=reject; rua=mailto:reports@{DOMAIN}"\n'
        + (f"s1._domainkey TXT {strings}\n" if dkim else "")
    )


_KEY = generate_private_key(65537, 2048).public_key()


class Chain:
    """Everything running, and how to send."""

    def __init__(self, agent: Agent, dns: DnsServer, alerts: Alertmanager, prometheus: Prometheus) -> None:
        self.agent, self.dns, self.alerts, self.prometheus = agent, dns, alerts, prometheus
        self.truth: Counter[str] = Counter()

    async def send(self, provider: str, **mix: Any) -> Sent:
        now = time.time()
        scenario = Scenario(
            **{
                "start": now - 3600, "duration": 3500, "until": now, "domains": {DOMAIN: 1.0}, "asynchronous": 0,
                "soft_then_hard": 0, "complained": 0, "soft": 0, "block": 0, "undetermined": 0, **mix,
            }
        )  # fmt: skip
        sent = await simulate(provider, scenario, self.agent.webhook(provider), KEYS[provider].signing)
        assert sent.failed == 0
        for (_, measure), n in sent.truth.counts.items():
            if measure != "deferred_pairs":
                self.truth["bounced" if measure in ("hard", "soft", "block", "undetermined") else str(measure)] += n
        return sent

    def firing(self, name: str, **labels: str) -> list[dict[str, Any]]:
        return self.alerts.alerts(alertname=name, **labels)


KEYS = {provider: SIMULATORS[provider].new_credentials() for provider in PROVIDERS}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("chain")
    settings: Mapping[str, Any] = {
        "sources": [
            {"name": p, "provider": p, "domain": DOMAIN, "streams": ["transactional"], **KEYS[p].settings}
            for p in PROVIDERS
        ],
        "domains": [{"name": DOMAIN, "phase": "growth", "dkim_selectors": ["s1"], "sending_ips": ["192.0.2.1"]}],
        "vitals": {"interval": "1s"},
        "alerts": {"quiet_period": "4s", "resend": "2s"},
    }
    with (
        dns_server(folder, {DOMAIN: _zone(), REVERSE: f"1 PTR out.{DOMAIN}."}, ttl=TTL) as dns,
        alertmanager(folder / "am") as alerts,
        agent(
            folder / "agent",
            {
                **settings,
                "alertmanagers": [alerts.url],
                "dns": {
                    "resolvers": [dns.address],
                    "interval": f"{INTERVAL:g}s",
                    "min_interval": "1s",
                    "timeout": "1s",
                },
            },
        ) as one,
        prometheus(folder, [f"127.0.0.1:{one.private}"]) as prom,
    ):
        yield Chain(one, dns, alerts, prom)


async def test_prometheus_shows_the_counts_that_were_sent(chain: Chain) -> None:
    await chain.send("sendgrid", messages=3000, hard=0.002, duplicates=0.2)
    await chain.send("postmark", messages=400, hard=0.002, duplicates=0.2, seed=2)

    def scraped() -> Counter[str]:
        found = chain.prometheus.query("sum by (kind) (mailvitals_events_total)")
        return +Counter({row["metric"]["kind"]: round(float(row["value"][1])) for row in found})

    wait_until(lambda: scraped() == chain.truth, 15, f"Prometheus to show {chain.truth}")
    assert chain.prometheus.value("sum(mailvitals_duplicate_events_total)") > 100
    attempted = chain.truth["delivered"] + chain.truth["bounced"]
    wait_until(lambda: chain.prometheus.value(f'mailvitals_attempted{{domain="{DOMAIN}",window="24h"}}') == attempted)
    # Now that no two moments are mixed: the published rate is the counts' own.
    rate = chain.prometheus.value(f'mailvitals_bounce_ratio{{domain="{DOMAIN}",window="24h"}}')
    assert rate == pytest.approx(chain.truth["bounced"] / attempted)
    assert not chain.firing("MailTargetBreached")


async def test_a_breach_is_one_alert_and_its_recovery_resolves_it(chain: Chain) -> None:
    await chain.send("sendgrid", messages=2000, hard=0.08, seed=3)
    wait_until(lambda: chain.firing("MailTargetBreached"), 15, "the breach to reach Alertmanager")
    time.sleep(5)  # several evaluations and re-sends later it is still one
    (alert,) = chain.firing("MailTargetBreached")
    assert alert["labels"] == {
        "alertname": "MailTargetBreached", "severity": "critical", "domain": DOMAIN, "phase": "growth",
        "target": "bounce",
    }  # fmt: skip
    assert "%" in alert["annotations"]["description"]
    assert "bounce" in alert["annotations"]["summary"]
    assert alert["annotations"]["runbook_url"].endswith("#mailtargetbreached")
    begun = alert["startsAt"]
    wait_until(
        lambda: chain.prometheus.value(
            f'mailvitals_target_verdict{{domain="{DOMAIN}",target="bounce",verdict="breached"}}'
        ) == 1
    )  # fmt: skip

    # It survives a restart as the same alert.
    assert chain.agent.stop() == 0
    chain.agent.start()
    time.sleep(4)
    (alert,) = chain.firing("MailTargetBreached")
    assert alert["startsAt"] == begun

    await chain.send("sendgrid", messages=40_000, hard=0, seed=4, opened=0)
    wait_until(lambda: not chain.firing("MailTargetBreached"), 40, "the recovery to resolve the alert")
    incidents = {i["labels"]["alertname"]: i["state"] for i in chain.agent.status()["incidents"]}
    assert incidents.get("MailTargetBreached") == "resolved"


async def test_a_removed_record_raises_its_alert_in_time_and_its_return_resolves_it(chain: Chain) -> None:
    wait_until(lambda: all(w["finding"]["verdict"] == "ok" for w in _dkim(chain)), 10, "DKIM to be ok")
    chain.dns.set_zone(DOMAIN, _zone(dkim=False))
    removed = time.monotonic()
    wait_until(lambda: chain.firing("MailDnsCheckFailing"), 30, "the missing key to reach Alertmanager")
    took = time.monotonic() - removed
    # Interval + TTL, then the look that confirms it (2 s) and one evaluation (1 s); the rest is for a slow machine.
    assert took < INTERVAL * 1.1 + TTL + 2 + 1 + 4, f"{took:.1f} s"
    (alert,) = chain.firing("MailDnsCheckFailing")
    assert alert["labels"] == {
        "alertname": "MailDnsCheckFailing", "severity": "critical", "domain": DOMAIN, "phase": "growth",
        "check": "dkim", "subject": "s1",
    }  # fmt: skip
    chain.dns.set_zone(DOMAIN, _zone())
    wait_until(lambda: not chain.firing("MailDnsCheckFailing"), 30, "the alert to be resolved")


async def test_a_dead_name_server_raises_no_alert(chain: Chain) -> None:
    wait_until(lambda: all(w["finding"]["verdict"] == "ok" for w in chain.agent.status()["findings"]), 15)
    chain.dns.stop()
    wait_until(
        lambda: all(w["finding"]["verdict"] == "unknown" for w in chain.agent.status()["findings"]), 60,
        "every check to be unknown",
    )  # fmt: skip
    time.sleep(6)
    assert not chain.firing("MailDnsCheckFailing")
    for watched in chain.agent.status()["findings"]:
        assert watched["last_definitive"]["verdict"] == "ok", "the last good answer stays"
        assert 0 < watched["definitive_at"] < time.time()
    assert chain.prometheus.value(f'sum(mailvitals_dns_check_verdict{{domain="{DOMAIN}",verdict="unknown"}})') == len(
        chain.agent.status()["findings"]
    )


def _dkim(chain: Chain) -> list[dict[str, Any]]:
    return [w for w in chain.agent.status()["findings"] if w["finding"]["check"] == "dkim"]
