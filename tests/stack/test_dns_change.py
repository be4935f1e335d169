"""A record that becomes weaker, from a real name server to a real Alertmanager; what it was is kept over a restart."""

from __future__ import annotations

from pathlib import Path

from tests.servers.agent import agent
from tests.servers.alertmanager import alertmanager
from tests.servers.base import wait_until
from tests.servers.dns import dns_server

DOMAIN = "shop.example"


def _zone(policy: str) -> str:
    record = f"v=DMARC1; p={policy}; rua=mailto:jane.q.public@{DOMAIN}"
    return f'@ TXT "v=spf1 ip4:192.0.2.1 -all"\n@ MX 10 mx\nmx A 192.0.2.25\n_dmarc TXT "{record}"\n'


def test_a_policy_turned_down_alerts_and_is_kept(tmp_path: Path) -> None:
    with dns_server(tmp_path, {DOMAIN: _zone("reject")}) as dns, alertmanager(tmp_path / "alertmanager") as alerts:
        settings = {
            "domains": [{"name": DOMAIN}],
            "dns": {"resolvers": [dns.address], "interval": "1s", "min_interval": "1s"},
            "alertmanagers": [alerts.url],
            "alerts": {"quiet_period": "1s", "resend": "1s"},
            "vitals": {"interval": "1s"},
        }
        wanted = {"alertname": "MailDnsCheckFailing", "check": "change"}
        with agent(tmp_path / "agent", settings) as one:
            wait_until(lambda: any(f["finding"]["check"] == "dmarc" for f in one.status()["findings"]), 20)
            assert one.status()["dns_changes"] == []
        # Changed while the agent was away: it remembers what stood there.
        dns.set_zone(DOMAIN, _zone("none"))
        with agent(tmp_path / "agent", settings) as one:
            wait_until(lambda: alerts.alerts(**wanted), 30)
            (alert,) = alerts.alerts(**wanted)
            assert alert["labels"]["subject"] == f"dmarc _dmarc.{DOMAIN}"
            assert "now none, before reject" in alert["annotations"]["description"]
            (change,) = one.status()["dns_changes"]
            assert change["direction"] == "weaker"
            assert "jane" not in one.get("/api/v1/status").decode()
            dns.set_zone(DOMAIN, _zone("reject"))
            wait_until(lambda: not alerts.alerts(**wanted), 30)
            assert [c["direction"] for c in one.status()["dns_changes"]] == ["stronger", "weaker"]
        assert b"jane" not in (tmp_path / "agent" / "ledger.db").read_bytes()
