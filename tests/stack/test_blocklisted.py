"""A listing, from a real name server to a real Alertmanager and back."""

from __future__ import annotations

from pathlib import Path

from tests.servers.agent import agent
from tests.servers.alertmanager import alertmanager
from tests.servers.base import wait_until
from tests.servers.dns import dns_server

CLEAR = "2.0.0.127 A 127.0.0.2\n"
LISTED = CLEAR + '99.2.0.192 A 127.0.0.2\n99.2.0.192 TXT "has sent to a trap"\n'


def test_a_listing_alerts_and_its_end_resolves(tmp_path: Path) -> None:
    zones = {"psbl.surriel.com": CLEAR, "bl.spamcop.net": "* A 127.0.0.2\n"}
    with dns_server(tmp_path, zones) as dns, alertmanager(tmp_path / "alertmanager") as alerts:
        settings = {
            "domains": [{"name": "shop.example", "sending_ips": ["192.0.2.99"]}],
            "dns": {"resolvers": [dns.address], "blocklist_interval": "1s"},
            "blocklists": ["psbl", "spamcop"],
            "alertmanagers": [alerts.url],
            "alerts": {"quiet_period": "1s", "resend": "1s"},
            "vitals": {"interval": "1s"},
        }
        with agent(tmp_path / "agent", settings) as one:

            def metrics() -> str:
                return one.get("/metrics").decode()

            series = 'mailvitals_blocklist_listed{address="192.0.2.99",list="psbl"}'
            wait_until(lambda: f"{series} 0.0" in metrics(), 20)
            assert 'mailvitals_blocklist_health{health="usable",list="psbl"} 1.0' in metrics()
            assert 'mailvitals_blocklist_health{health="lists_all",list="spamcop"} 1.0' in metrics()
            # A list that lists everything lists nobody.
            assert 'mailvitals_blocklist_listed{address="192.0.2.99",list="spamcop"}' not in metrics()

            dns.set_zone("psbl.surriel.com", LISTED)
            wait_until(lambda: alerts.alerts(alertname="MailBlocklisted"), 30)
            (alert,) = alerts.alerts(alertname="MailBlocklisted")
            assert alert["labels"] == {
                "alertname": "MailBlocklisted", "severity": "warning", "domain": "shop.example", "phase": "foundation",
                "check": "blocklist", "subject": "192.0.2.99 psbl",
            }  # fmt: skip
            assert "has sent to a trap" in alert["annotations"]["description"]
            assert f"{series} 1.0" in metrics()
            dns.set_zone("psbl.surriel.com", CLEAR)
            wait_until(lambda: not alerts.alerts(alertname="MailBlocklisted"), 30)
            assert f"{series} 0.0" in metrics()
