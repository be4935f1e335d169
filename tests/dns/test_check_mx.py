"""MX: mail to the domain has somewhere to go."""

from __future__ import annotations

import pytest

from agent.dns.answer import Outcome
from agent.dns.checks.base import Subject
from tests.dns.zone import Zone, findings, only

HOSTS: Zone = {
    "mx.host.com": {"A": ["192.0.2.1"], "AAAA": ["2001:db8::1"]},
    "six.host.com": {"AAAA": ["2001:db8::1"]},
    "alias.host.com": {"CNAME": ["mx.host.com"]},
    "private.host.com": {"A": ["192.168.1.1"]},
    "loop.host.com": {"A": ["192.0.2.1"], "AAAA": ["::1"]},
    "lost.host.com": Outcome.SERVFAIL,
    "m_x.host.com": {"A": ["192.0.2.1"]},
    "mxa.mailgun.org": {"A": ["192.0.2.1"]},
    "mxb.mailgun.org": {"A": ["192.0.2.1"]},
    "feedback-smtp.eu-west-1.amazonses.com": {"A": ["192.0.2.1"]},
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
        (["10 m_x.host.com."], "warn", "mx_name"),
        (["10 m_x.host.com.", "20 gone.host.com."], "warn", "mx_name"),
        (["10 mx.host.com.", "10 mxa.mailgun.org."], "warn", "mx_mixed"),
        (["10 mxa.mailgun.org.", "10 mxb.mailgun.org."], "ok", "ok"),
        (["10 feedback-smtp.eu-west-1.amazonses.com."], "ok", "ok"),
        (["10 feedback-smtp.eu-west-1.amazonses.com.", "20 mx.host.com."], "fail", "mx_ses"),
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


@pytest.mark.parametrize(
    ("domain", "verdict", "reason"),
    [
        ({"MX": ["0 ."]}, "ok", "ok"),
        ({"TXT": ["v=spf1 -all"]}, "ok", "mx_none"),
        ({"A": ["192.0.2.1"]}, "ok", "mx_none"),
        ({"MX": ["10 mx.host.com."]}, "ok", "ok"),
        ({"MX": ["10 gone.host.com."]}, "fail", "mx_dangling"),
        ({"MX": ["0 .", "10 mx.host.com."]}, "fail", "mx_null"),
        (Outcome.NXDOMAIN, "fail", "missing_name"),
        (Outcome.TIMEOUT, "unknown", "indeterminate"),
    ],
)
def test_a_parked_domain_takes_no_mail(domain: dict[str, list[str]] | Outcome, verdict: str, reason: str) -> None:
    (finding,) = findings("mx", Subject("example.com", parked=True), {**HOSTS, "example.com": domain})
    assert (finding.verdict, finding.reason) == (verdict, reason)


@pytest.mark.parametrize(
    ("records", "verdict", "reason"),
    [
        ({"MX": ["10 feedback-smtp.us-east-1.amazonses.com."]}, "fail", "mx_dangling"),
        ({"MX": ["10 feedback-smtp.eu-west-1.amazonses.com."]}, "ok", "ok"),
        ({"MX": ["10 feedback-smtp.eu-west-1.amazonses.com.", "20 mx.host.com."]}, "fail", "mx_ses"),
        ({"CNAME": ["u1.wl1.sendgrid.net"]}, "ok", "ok"),
        ({"MX": ["0 ."]}, "fail", "mx_null"),
        (Outcome.NXDOMAIN, "fail", "missing_name"),
    ],
)
def test_return_paths_must_take_mail(records: dict[str, list[str]] | Outcome, verdict: str, reason: str) -> None:
    zone: Zone = {**HOSTS, "example.com": {"MX": ["10 mx.host.com."]}, "bounce.example.com": records,
                  "u1.wl1.sendgrid.net": {"MX": ["10 mx.sendgrid.net."]},
                  "mx.sendgrid.net": {"A": ["192.0.2.9"]}}  # fmt: skip
    subject = Subject("example.com", return_path_domains=("bounce.example.com", "example.com", "bounce.example.com"))
    own, bounce = findings("mx", subject, zone)
    assert (own.subject, own.reason, bounce.subject) == ("", "ok", "bounce.example.com")
    assert (bounce.verdict, bounce.reason) == (verdict, reason), bounce.detail
