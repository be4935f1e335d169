"""Whose mail depends on a record, and how much of it there is."""

from __future__ import annotations

import msgspec
import pytest

from agent.dns.changes import Change
from agent.dns.checks.base import MailStream, Subject
from agent.dns.dependents import Sender, senders, share
from agent.dns.inventory import RecordSet
from agent.vitals.types import DomainVitals, Rate, Snapshot

DOMAIN = "shop.example"
SUBJECT = Subject(
    DOMAIN, ("s1",),
    mail_streams=(
        MailStream("bulk", "sendgrid", "bounce.shop.example", selectors=("b1",)),
        MailStream("receipts", "postmark", "pm-bounces.shop.example", selectors=("20260101pm",)),
        MailStream("own", "", "", "other.example", ("s1",)),
    ),
)  # fmt: skip


def of(role: str, before: str, after: str, name: str = DOMAIN) -> tuple[Sender, ...]:
    sets = [RecordSet(name, "TXT", role, (text,) if text else ()) for text in (before, after)]
    return senders(SUBJECT, *sets)


@pytest.mark.parametrize(
    ("role", "name", "providers"),
    [
        ("include", "sendgrid.net", ["sendgrid"]), ("include", "_spf2.sendgrid.net", ["sendgrid"]),
        ("include", "amazonses.com", ["ses", "resend"]), ("include", "_spf.google.com", []),
        ("dkim", "mte1._domainkey.shop.example", ["mandrill"]), ("dkim", "google._domainkey.shop.example", []),
        ("dkim", "s1._domainkey.shop.example", ["sendgrid"]), ("dkim", "x9._domainkey.shop.example", []),
        ("dmarc", "_dmarc.shop.example", []), ("mx", DOMAIN, []),
    ],
)  # fmt: skip
def test_services_by_their_names(role: str, name: str, providers: list[str]) -> None:
    assert of(role, "a", "b", name) == tuple(Sender(provider=p) for p in providers)


def test_streams_by_what_is_declared_of_them() -> None:
    assert of("dkim", "a", "b", "b1._domainkey.shop.example") == (Sender("bulk", "sendgrid"),)
    assert of("spf", "a", "b", "pm-bounces.shop.example") == (Sender("receipts", "postmark"),)
    assert of("spf", "a", "b", "elsewhere.shop.example") == ()


@pytest.mark.parametrize(
    ("before", "after", "providers"),
    [
        ("v=spf1 include:sendgrid.net mx ~all", "v=spf1 mx ~all", ["sendgrid"]),
        ("v=spf1 mx ~all", "v=spf1 mx ?include:spf.mtasv.net include:mailgun.org ~all", ["mailgun", "postmark"]),
        ("v=spf1 include:sendgrid.net ~all", "v=spf1 -all", []),  # what ends it concerns everybody
        ("v=spf1 include:sendgrid.net ip4:192.0.2.1 ~all", "v=spf1 ~all", []),
        ("v=spf1 include:sendgrid.net ~all", "", []),
        ("v=spf1 include:sendgrid.net ~all", "v=spf1 ip4:x ~all", []),
    ],
)
def test_a_record_from_which_a_service_is_struck_concerns_its_mail(
    before: str, after: str, providers: list[str]
) -> None:
    assert of("spf", before, after) == tuple(Sender(provider=p) for p in providers)


def vitals(domain: str, attempted: int, **parts: dict[str, int]) -> DomainVitals:
    def rate(n: int) -> Rate:
        return Rate(1.0, None, None, n, n)

    made = {
        scope: {name: {"24h": {"deliverability": rate(n)}} for name, n in held.items()} for scope, held in parts.items()
    }
    return DomainVitals(domain, "growth", {}, made, {"24h": attempted}, (), 0, None, 0)


def test_the_share_counts_nothing_twice_and_what_is_not_counted_is_not_zero() -> None:
    held = vitals(DOMAIN, 600, provider={"sendgrid": 400, "postmark": 200}, stream={"bulk": 150})
    now = Snapshot(1.0, {DOMAIN: held, "b.example": vitals("b.example", 400)})
    assert share(now, DOMAIN) == 0.6
    assert share(now, DOMAIN, (Sender(provider="sendgrid"),)) == 0.4
    assert share(now, DOMAIN, (Sender("bulk", "sendgrid"),)) == 0.15
    assert share(now, DOMAIN, (Sender("receipts", "postmark"), Sender(provider="postmark"))) == 0.2
    assert share(now, DOMAIN, (Sender(provider="ses"), Sender(provider="resend"))) is None
    assert share(now, "c.example") == 0.0
    assert share(None, DOMAIN) is None
    assert share(Snapshot(1.0, {DOMAIN: vitals(DOMAIN, 0)}), DOMAIN) is None


def test_changes_stored_before_are_read() -> None:
    old = Change(1.0, DOMAIN, RecordSet(DOMAIN, "TXT", "spf"), RecordSet(DOMAIN, "TXT", "spf"), ("x",), "other", 0.5)  # type: ignore[arg-type]
    stored = msgspec.json.encode({k: v for k, v in msgspec.to_builtins(old).items() if k != "of"})
    assert msgspec.json.decode(stored, type=Change).of == ()
