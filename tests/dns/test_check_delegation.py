"""Delegation and expiry: names that others hold for us are still ours."""

from __future__ import annotations

import json

import pytest

from agent.dns.answer import Outcome, Question
from agent.dns.checks import CHECKS
from agent.dns.checks.base import Finding, Subject, drive
from agent.dns.page import Fetch
from tests.dns.zone import Zone, findings, web

ZONE: Zone = {
    "example.com": {"A": ["192.0.2.1"]},
    "sendgrid.net": {"A": ["192.0.2.2"], "NS": ["ns.sendgrid.net"]},
    "amazonaws.com": {"NS": ["ns.amazonaws.com"]},
    "s3.amazonaws.com": {"NS": ["ns.amazonaws.com"]},
    "host.net": {"NS": ["ns.host.net"]},
    "bare.host.net": {"TXT": ["x"]},
    "pm.mtasv.net": {"MX": ["10 inbound.postmarkapp.com."], "TXT": ["v=spf1 a:x.com ~all"]},
}


def link(records: dict[str, list[str]] | Outcome, more: Zone = {}) -> Finding:  # noqa: B006
    zone = {**ZONE, **more, "click.example.com": records}
    (finding,) = findings("delegation", Subject("example.com", link_domains=("click.example.com",)), zone)
    assert finding.subject == "click.example.com"
    return finding


@pytest.mark.parametrize(
    ("records", "verdict", "reason"),
    [
        ({"CNAME": ["sendgrid.net"]}, "ok", "ok"),
        ({"A": ["192.0.2.9"]}, "ok", "ok"),
        ({"TXT": ["x"]}, "fail", "delegation_missing"),
        (Outcome.NXDOMAIN, "fail", "delegation_missing"),
        ({"CNAME": ["gone.sendgrid.net"]}, "fail", "cname_dangling"),
        ({"CNAME": ["bare.host.net"]}, "fail", "cname_dangling"),
        ({"CNAME": ["bucket.s3.amazonaws.com"]}, "fail", "takeover"),
        ({"CNAME": ["mail.lapsed.net"]}, "fail", "takeover"),
        ({"CNAME": ["lost.host.net"]}, "unknown", "indeterminate"),
        (Outcome.SERVFAIL, "unknown", "indeterminate"),
        ({"CNAME": ["click.example.com"]}, "fail", "delegation_missing"),
    ],
)
def test_links(records: dict[str, list[str]] | Outcome, verdict: str, reason: str) -> None:
    finding = link(records, {"lost.host.net": Outcome.TIMEOUT, "sendgrid.net": ZONE["sendgrid.net"]})
    assert (finding.verdict, finding.reason) == (verdict, reason), finding.detail


def test_the_service_and_the_whole_chain_are_named() -> None:
    finding = link({"CNAME": ["a.host.net"]}, {"a.host.net": {"CNAME": ["gone.sendgrid.net"]}})
    assert "gone.sendgrid.net (SendGrid)" in finding.detail
    assert finding.records == ("click.example.com CNAME a.host.net", "a.host.net CNAME gone.sendgrid.net")
    assert finding.advice.startswith("Remove the record click.example.com CNAME a.host.net")


@pytest.mark.parametrize(
    ("records", "verdict", "reason"),
    [
        ({"CNAME": ["pm.mtasv.net"]}, "ok", "ok"),
        ({"MX": ["10 mx.host.net."]}, "ok", "ok"),
        ({"A": ["192.0.2.9"]}, "fail", "delegation_missing"),
        ({"CNAME": ["gone.mtasv.net"]}, "fail", "cname_dangling"),
    ],
)
def test_return_paths(records: dict[str, list[str]], verdict: str, reason: str) -> None:
    subject = Subject("example.com", return_path_domains=("bounce.example.com",))
    zone = {**ZONE, "bounce.example.com": records, "mtasv.net": {"NS": ["ns.mtasv.net"]}}
    (finding,) = findings("delegation", subject, zone)
    assert (finding.subject, finding.verdict, finding.reason) == ("bounce.example.com", verdict, reason)


def test_a_selector_is_spoken_of_only_when_others_could_take_it() -> None:
    subject = Subject("example.com", ("s1", "s2", "s3"))
    zone: Zone = {
        **ZONE,
        "s1._domainkey.example.com": {"CNAME": ["key.lapsed.net"]},
        "s2._domainkey.example.com": {"CNAME": ["gone.sendgrid.net"]},
        "s3._domainkey.example.com": {"TXT": ["p=x"]},
    }
    (finding,) = findings("delegation", subject, zone)
    assert (finding.subject, finding.reason) == ("s1._domainkey.example.com", "takeover")
    assert findings("delegation", Subject("example.com"), ZONE) == ()


NOW = 1_800_000_000.0  # 2027-01-15 08:00 UTC


def rdap(body: object, subject: Subject = Subject("mail.example.com", rdap=True)) -> Finding:  # noqa: B008
    page = body if isinstance(body, (int, str, bytes)) else json.dumps(body).encode()
    pages = {"https://rdap.org/domain/example.com": page}
    (finding,) = drive(CHECKS["expiry"].plan(subject), web({}, pages, at=NOW))
    return finding


def until(date: str, *status: str) -> dict[str, object]:
    events = [{"eventAction": "registration", "eventDate": "2001-01-01T00:00:00Z"},
              {"eventAction": "expiration", "eventDate": date}]  # fmt: skip
    return {"events": events, "status": list(status), "ldhName": "EXAMPLE.COM"}


@pytest.mark.parametrize(
    ("body", "verdict", "reason"),
    [
        (until("2028-01-01T00:00:00Z"), "ok", "ok"),
        (until("2027-02-14T09:00:00Z"), "ok", "ok"),
        (until("2027-02-14T07:00:00Z"), "warn", "expiry"),
        (until("2027-01-22T09:00:00+00:00"), "warn", "expiry"),
        (until("2027-01-22T07:00:00Z"), "fail", "expiry"),
        (until("2026-12-01T00:00:00Z"), "fail", "expiry"),
        (until("2028-01-01T00:00:00Z", "active", "client hold"), "fail", "domain_held"),
        (until("2028-01-01T00:00:00Z", "redemption period"), "fail", "domain_held"),
        (until("some day"), "ok", "expiry_unpublished"),
        ({"events": []}, "ok", "expiry_unpublished"),
        (404, "ok", "expiry_unpublished"),
        (429, "unknown", "indeterminate"),
        (500, "unknown", "indeterminate"),
        ("timeout", "unknown", "indeterminate"),
        (b"<html>", "unknown", "indeterminate"),
        (b'{"events": 5}', "unknown", "indeterminate"),
        (b"[" * 100_000, "unknown", "indeterminate"),
    ],
)
def test_the_registration(body: object, verdict: str, reason: str) -> None:
    finding = rdap(body)
    assert (finding.verdict, finding.reason) == (verdict, reason), finding.detail


def test_registries_are_asked_only_where_allowed_and_once_a_day() -> None:
    assert findings("expiry", Subject("example.com"), {}) == ()
    (question,) = next(CHECKS["expiry"].plan(Subject("a.b.example.co.uk", rdap=True)))
    assert isinstance(question, Fetch)
    assert (question.url, question.max_age) == ("https://rdap.org/domain/example.co.uk", 86400)
    assert question != Question("rdap.org", "GET")
