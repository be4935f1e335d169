"""MX: mail to the domain has somewhere to go."""

from __future__ import annotations

import pytest

from agent.dns.answer import Outcome
from tests.dns.zone import Zone, only

HOSTS: Zone = {
    "mx.host.com": {"A": ["192.0.2.1"], "AAAA": ["2001:db8::1"]},
    "six.host.com": {"AAAA": ["2001:db8::1"]},
    "alias.host.com": {"CNAME": ["mx.host.com"]},
    "private.host.com": {"A": ["192.168.1.1"]},
    "loop.host.com": {"A": ["192.0.2.1"], "AAAA": ["::1"]},
    "lost.host.com": Outcome.SERVFAIL,
}


@pytest.mark.parametrize(
    ("records", "verdict", "reason"),
    [
        (["10 mx.host.com."], "ok", "ok"),
        (["10 mx.host.com.", "20 six.host.com."], "ok", "ok"),
        (["0 ."], "fail", "mx_null"),
        (["0 .", "10 mx.host.com."], "fail", "mx_null"),
        (["10 gone.host.com."], "fail", "mx_dangling"),
        (["10 gone.host.com.", "20 mx.host.com."], "warn", "mx_dangling"),
        (["10 mx.example.com.example.com."], "fail", "mx_dangling"),
        (["10 localhost."], "fail", "mx_dangling"),
        (["10 192.0.2.1."], "fail", "mx_ip"),
        (["10 alias.host.com."], "warn", "mx_cname"),
        (["10 private.host.com."], "fail", "mx_private"),
        (["10 loop.host.com."], "fail", "mx_private"),
        (["10 lost.host.com."], "unknown", "indeterminate"),
        (["10 lost.host.com.", "20 mx.host.com."], "unknown", "indeterminate"),
        (["10 lost.host.com.", "20 192.0.2.1."], "fail", "mx_ip"),
    ],
)
def test_records(records: list[str], verdict: str, reason: str) -> None:
    finding = only("mx", {**HOSTS, "example.com": {"MX": records}})
    assert (finding.verdict, finding.reason) == (verdict, reason), finding.detail
    assert finding.records == tuple(records)


@pytest.mark.parametrize(
    ("domain", "verdict", "reason"),
    [
        ({"A": ["192.0.2.1"]}, "warn", "mx_none"),
        ({"AAAA": ["2001:db8::1"]}, "warn", "mx_none"),
        ({"TXT": ["x"]}, "fail", "mx_none"),
        (Outcome.NXDOMAIN, "fail", "missing_name"),
        (Outcome.TIMEOUT, "unknown", "indeterminate"),
    ],
)
def test_without_mx(domain: dict[str, list[str]] | Outcome, verdict: str, reason: str) -> None:
    finding = only("mx", {"example.com": domain})
    assert (finding.verdict, finding.reason) == (verdict, reason)
    if verdict != "unknown":
        assert "example.com MX" in finding.advice
