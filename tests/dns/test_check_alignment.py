"""Whether a stream's SPF and DKIM count for its From domain."""

from __future__ import annotations

import pytest

from agent.dns.answer import Outcome
from agent.dns.checks.base import Finding, MailStream, Subject
from tests.dns.test_check_dkim import SPKI, key
from tests.dns.zone import Zone, findings, txt

BASE: Zone = {
    "example.com": {"A": ["192.0.2.1"]},
    "_dmarc.example.com": txt("v=DMARC1; p=quarantine"),
    "bounce.example.com": {"CNAME": ["u1.wl1.esp.com"]},
    "u1.wl1.esp.com": txt("v=spf1 ip4:192.0.2.0/28 -all"),
    "mail.esp.com": txt("v=spf1 ip4:192.0.2.0/28 -all"),
    "s1._domainkey.example.com": txt(f"p={SPKI}"),
    "s1._domainkey.news.example.com": txt(f"p={SPKI}"),
    "s1._domainkey.esp.com": txt(f"p={SPKI}"),
    "weak._domainkey.example.com": txt(f"p={key(512)}"),
    "test._domainkey.example.com": txt(f"t=y; p={SPKI}"),
    "revoked._domainkey.example.com": txt("p="),
    "lost._domainkey.example.com": Outcome.SERVFAIL,
    "lost.example.com": Outcome.TIMEOUT,
    "closed.example.com": txt("v=spf1 -all"),
    "broken.example.com": txt("v=spf1 oops -all"),
    "two.example.com": txt("v=spf1 -all", "v=spf1 a -all"),
    "amazonses.com": txt("v=spf1 ip4:199.255.192.0/22 -all"),
    "sendgrid.net": txt("v=spf1 include:ab.sendgrid.net ~all"),
    "ab.sendgrid.net": txt("v=spf1 ip4:10.0.0.0/8 ip4:167.89.0.0/17 ~all"),
    "ses.example.com": txt("v=spf1 include:amazonses.com ~all"),
    "sg.example.com": txt("v=spf1 include:sendgrid.net ~all"),
}  # fmt: skip
OWN = "bounce.example.com"
IP = ("192.0.2.1",)


def only(stream: MailStream, zone: Zone | None = None, **more: object) -> Finding:
    subject = Subject("example.com", mail_streams=(stream,), **more)  # type: ignore[arg-type]
    (finding,) = findings("alignment", subject, {**BASE, **(zone or {})})
    assert finding.subject == stream.name
    return finding


def policy(record: str) -> Zone:
    return {"_dmarc.example.com": txt(f"v=DMARC1; {record}")}


@pytest.mark.parametrize(
    ("return_path", "dkim", "selectors", "record", "verdict", "reason"),
    [
        (OWN, "", ("s1",), "p=none", "ok", "ok"),
        (OWN, "news.example.com", ("s1",), "p=reject", "ok", "ok"),
        ("example.com", "example.com", ("s1",), "p=reject; aspf=s; adkim=s", "warn", "dkim_only"),
        (OWN, "", ("s1",), "p=reject; aspf=s", "warn", "dkim_only"),
        (OWN, "news.example.com", ("s1",), "p=quarantine; adkim=s", "warn", "spf_only"),
        (OWN, "news.example.com", ("s1",), "p=reject; adkim=s", "fail", "spf_only"),
        (OWN, "news.example.com", ("s1",), "p=reject; adkim=s; aspf=s", "fail", "not_aligned"),
        ("mail.esp.com", "", ("s1",), "p=reject", "warn", "dkim_only"),
        ("", "", ("s1",), "p=reject", "warn", "dkim_only"),
        ("mail.esp.com", "esp.com", ("s1",), "p=none", "fail", "not_aligned"),
        (OWN, "esp.com", ("s1",), "p=none", "warn", "spf_only"),
        (OWN, "", ("gone",), "p=none", "warn", "spf_only"),
        (OWN, "", ("weak",), "p=none", "warn", "spf_only"),
        (OWN, "", ("test",), "p=none", "warn", "spf_only"),
        (OWN, "", ("revoked",), "p=reject", "fail", "spf_only"),
        (OWN, "", ("gone", "s1"), "p=reject", "ok", "ok"),
        (OWN, "", (), "p=none", "warn", "spf_only"),
        (OWN, "", ("lost",), "p=reject", "unknown", "indeterminate"),
        ("mail.esp.com", "", ("lost",), "p=none", "unknown", "indeterminate"),
        ("lost.example.com", "", ("s1",), "p=none", "unknown", "indeterminate"),
        ("closed.example.com", "", ("s1",), "p=none", "warn", "dkim_only"),
        ("broken.example.com", "", ("s1",), "p=none", "warn", "dkim_only"),
        ("nothing.example.com", "", ("gone",), "p=none", "fail", "not_aligned"),
    ],
)  # fmt: skip
def test_4_4_alignment(
    return_path: str, dkim: str, selectors: tuple[str, ...], record: str, verdict: str, reason: str
) -> None:
    finding = only(MailStream("bulk", "", return_path, dkim, selectors, IP), policy(record))
    assert (finding.verdict, finding.reason) == (verdict, reason), finding.detail
    assert verdict == "ok" or finding.advice
    assert finding.records == (f"v=DMARC1; {record}",)


def test_the_evidence_names_both_ways() -> None:
    detail = only(MailStream("bulk", "", OWN, "", ("s1",), IP)).detail
    assert "bounce.example.com passes for 192.0.2.1 by 'ip4:192.0.2.0/28'" in detail
    assert "s1._domainkey.example.com holds a usable rsa key of 2048 bits" in detail
    assert "belong to example.com" in detail


def test_every_address_of_the_stream_must_pass() -> None:
    finding = only(MailStream("bulk", "", OWN, "", ("s1",), ("192.0.2.1", "192.0.2.99")))
    assert finding.reason == "dkim_only"
    assert "gets fail for 192.0.2.99" in finding.detail
    assert 'bounce.example.com TXT "v=spf1 ip4:192.0.2.1 ip4:192.0.2.99 ~all"' in finding.advice


@pytest.mark.parametrize(
    ("provider", "path", "reason"),
    [("ses", "ses.example.com", "ok"), ("resend", "ses.example.com", "ok"), ("sendgrid", "sg.example.com", "ok"),
     ("sendgrid", "ses.example.com", "dkim_only"), ("ses", "closed.example.com", "dkim_only"),
     ("smtp2go", "ses.example.com", "ok"), ("", "ses.example.com", "ok"), ("", "closed.example.com", "dkim_only"),
     ("", "two.example.com", "dkim_only"), ("", "broken.example.com", "dkim_only"),
     ("", "gone.example.com", "dkim_only"),
     ("", "lost.example.com", "indeterminate")],
)  # fmt: skip
def test_without_addresses_the_services_own_are_tried(provider: str, path: str, reason: str) -> None:
    finding = only(MailStream("bulk", provider, path, "", ("s1",)))
    assert finding.reason == reason, finding.detail
    if provider == "sendgrid":
        assert "167.89.0.1" in finding.detail
    if provider == "sendgrid" and reason != "ok":
        assert 'ses.example.com TXT "v=spf1 include:sendgrid.net ~all"' in finding.advice


def test_strict_alignment_is_explained_with_the_record_that_relaxes_it() -> None:
    finding = only(MailStream("bulk", "", OWN, "", ("s1",), IP), policy("p=reject; aspf=s"))
    assert '_dmarc.example.com TXT "v=DMARC1; p=reject; aspf=r"' in finding.advice


def test_the_domains_selectors_are_used_where_the_stream_has_none() -> None:
    assert only(MailStream("bulk", "", OWN, "", (), IP), dkim_selectors=("s1",)).verdict == "ok"


def test_without_a_dmarc_record_the_registered_domain_decides() -> None:
    zone: Zone = {"_dmarc.example.com": Outcome.NXDOMAIN}
    assert only(MailStream("bulk", "", OWN, "", ("s1",), IP), zone).verdict == "ok"
    assert only(MailStream("bulk", "", "mail.esp.com", "esp.com", ("s1",), IP), zone).reason == "not_aligned"


def test_a_lost_policy_decides_nothing_but_identical_names_need_none() -> None:
    zone: Zone = {"_dmarc.example.com": Outcome.SERVFAIL}
    assert only(MailStream("bulk", "", OWN, "", ("s1",), IP), zone).reason == "indeterminate"
    same: Zone = {**zone, "example.com": txt("v=spf1 ip4:192.0.2.1 -all")}
    assert only(MailStream("bulk", "", "example.com", "example.com", ("s1",), IP), same).verdict == "ok"


def test_the_organization_is_the_tree_walks() -> None:
    zone = {**policy("p=none"), "_dmarc.news.example.com": txt("v=DMARC1; p=none; psd=n")}
    finding = only(MailStream("bulk", "", OWN, "news.example.com", ("s1",), IP), zone)
    assert finding.reason == "spf_only"
    assert "news.example.com belongs to news.example.com, not to example.com" in finding.detail


def test_no_streams_no_findings() -> None:
    assert findings("alignment", Subject("example.com"), BASE) == ()
