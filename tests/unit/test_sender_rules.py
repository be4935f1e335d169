"""The rules of the large mailbox providers."""

from __future__ import annotations

import msgspec
import pytest

from agent.dns.checks.base import Finding, Verdict
from agent.sender_rules import PROVIDERS, Assessment, Item, assess
from agent.vitals.types import DomainVitals, Rate


def finding(check: str, verdict: str, reason: str = "ok", subject: str = "") -> Finding:
    return Finding(check, subject, Verdict(verdict), reason, f"{check} is {verdict}.")


GOOD = (
    finding("spf", "ok"), finding("dkim", "ok", subject="s1"), finding("dmarc", "warn", "policy_none"),
    finding("alignment", "ok", subject="bulk"), finding("ptr", "ok", subject="192.0.2.1"), finding("mx", "ok"),
)  # fmt: skip


def vitals(complaints: int, delivered: int, provider: str = "yahoo") -> DomainVitals:
    value = complaints / delivered
    half = 2 * (value / delivered) ** 0.5 + 3 / delivered
    rate = Rate(value, max(0.0, value - half), value + half, complaints, delivered)
    day = Rate(1.0, 0.9, 1.0, 7000, 7000)
    parts = {"mailbox_provider": {provider: {"30d": {"complaint": rate}, "24h": {"deliverability": day}}}}
    return DomainVitals("example.com", "growth", {}, parts, {}, (), 0, None, 0.0)


def of(provider: str, assessments: tuple[Assessment, ...]) -> Assessment:
    return next(a for a in assessments if a.provider == provider)


def item(assessment: Assessment, topic: str) -> Item:
    return next(i for i in assessment.items if i.topic == topic)


def replaced(*changed: Finding) -> tuple[Finding, ...]:
    names = {f.check for f in changed}
    return (*(f for f in GOOD if f.check not in names), *changed)


def test_a_sound_domain_keeps_every_rule_that_the_dns_can_prove() -> None:
    for assessment in assess(GOOD):
        for i in assessment.items:
            proved = i.topic in ("spf", "dkim", "dmarc", "alignment", "ptr", "replies")
            assert i.verdict == ("ok" if proved else "unknown"), (assessment.provider, i)
            assert i.asks
            assert i.proof
        # Outlook.com requires nothing but what the DNS can prove.
        assert assessment.verdict == ("ok" if assessment.provider == "microsoft" else "unknown")
        assert assessment.source.startswith("https://")


@pytest.mark.parametrize(
    ("changed", "topic", "verdict"),
    [
        ((finding("spf", "fail", "missing_record"),), "spf", "fail"),
        ((finding("spf", "ok"), finding("spf", "fail", "ip_not_authorised", "192.0.2.1")), "spf", "fail"),
        ((finding("spf", "warn", "lookup_limit"),), "spf", "ok"),
        ((finding("spf", "unknown", "indeterminate"),), "spf", "unknown"),
        ((finding("dkim", "fail", "key_missing", "s1"),), "dkim", "fail"),
        ((finding("dkim", "fail", "key_missing", "s1"), finding("dkim", "ok", "ok", "s2")), "dkim", "ok"),
        ((finding("dkim", "warn", "key_weak", "s1"),), "dkim", "warn"),
        ((finding("dkim", "warn", "key_testing", "s1"), finding("dkim", "fail", "key_missing", "s2")), "dkim", "fail"),
        ((finding("dkim", "unknown", "no_selectors"),), "dkim", "unknown"),
        ((finding("dmarc", "fail", "missing_record"),), "dmarc", "fail"),
        ((finding("dmarc", "ok"),), "dmarc", "ok"),
        ((finding("dmarc", "unknown", "indeterminate"),), "dmarc", "unknown"),
        (
            (finding("alignment", "fail", "not_aligned", "a"), finding("alignment", "ok", "ok", "b")),
            "alignment",
            "fail",
        ),
        ((finding("alignment", "warn", "dkim_only", "a"),), "alignment", "warn"),
        ((finding("alignment", "fail", "spf_only", "a"),), "alignment", "warn"),
        ((finding("alignment", "unknown", "indeterminate", "a"),), "alignment", "unknown"),
        ((finding("ptr", "fail", "ptr_missing", "192.0.2.1"),), "ptr", "fail"),
        ((finding("ptr", "warn", "ptr_generic", "192.0.2.1"),), "ptr", "ok"),
    ],
)
def test_what_findings_prove(changed: tuple[Finding, ...], topic: str, verdict: str) -> None:
    found = of("gmail", assess(replaced(*changed)))
    assert item(found, topic).verdict == verdict
    assert found.verdict == ("fail" if verdict == "fail" else "warn" if verdict == "warn" else "unknown")


def test_what_each_provider_asks_of_whom() -> None:
    asked = {
        p.id: {(r.topic + "!" * r.required + "*" * r.bulk) for r in p.rules} for p in PROVIDERS
    }  # fmt: skip
    both = {"spf!", "dkim!*", "dmarc!*", "alignment!*", "ptr!", "complaint!", "unsubscribe!*", "format!"}
    assert asked == {
        "gmail": {*both, "tls!", "forwarding"}, "yahoo": both,
        "microsoft": {"spf!*", "dkim!*", "dmarc!*", "alignment!*", "ptr", "unsubscribe", "replies"},
        "apple": {"spf!", "dkim!", "dmarc!", "ptr!", "unsubscribe!", "format!", "forwarding"},
    }  # fmt: skip
    assert all(
        i.bulk == (i.topic in ("dkim", "dmarc", "alignment", "unsubscribe")) for i in of("yahoo", assess(())).items
    )


def test_addresses_that_take_no_replies_are_against_outlooks_advice_alone() -> None:
    found = assess(replaced(finding("mx", "fail", "mx_none")))
    assert item(of("microsoft", found), "replies").verdict == "fail"
    assert of("microsoft", found).verdict == "ok", "advice decides nothing"
    other = assess(replaced(finding("mx", "fail", "mx_none", "bounce.example.com"), finding("mx", "ok")))
    assert item(of("microsoft", other), "replies").verdict == "ok"


def test_without_anything_known_everything_is_unknown() -> None:
    for assessment in assess(()):
        assert {i.verdict for i in assessment.items} == {Verdict.UNKNOWN}
        assert assessment.attempted is None


@pytest.mark.parametrize(
    ("complaints", "delivered", "verdict"),
    [(0, 100_000, "ok"), (50, 100_000, "ok"), (200, 100_000, "warn"), (500, 100_000, "fail"), (1, 13, "unknown"),
     (0, 100, "unknown")],
)  # fmt: skip
def test_complaints_are_judged_by_their_bounds(complaints: int, delivered: int, verdict: str) -> None:
    found = of("yahoo", assess(GOOD, vitals(complaints, delivered)))
    assert item(found, "complaint").verdict == verdict
    assert f"{complaints} complaints of {delivered}" in item(found, "complaint").proof
    assert found.attempted == 7000


def test_gmails_complaints_are_not_ours_to_count() -> None:
    found = of("gmail", assess(GOOD, vitals(500, 100_000, "gmail")))
    assert item(found, "complaint").verdict == "unknown"
    assert "Postmaster Tools" in item(found, "complaint").proof


@pytest.mark.parametrize(
    ("code", "topic"),
    [("5.7.26", "alignment"), ("4.7.27", "spf"), ("5.7.29", "tls"), ("5.7.30", "dkim"), ("5.7.40", "dmarc")],
)
def test_a_refusal_is_the_proof_of_all_proofs(code: str, topic: str) -> None:
    found = of("gmail", assess(GOOD, None, [("gmail", code), ("gmail", "5.1.1"), ("yahoo", code), ("gmail", "")]))
    assert item(found, topic).verdict == "fail"
    assert f"refused 1 of the newest bounces for it ({code})" in item(found, topic).proof
    assert [i.topic for i in found.items if i.verdict is Verdict.FAIL] == [topic]
    assert item(of("yahoo", assess(GOOD, None, [("yahoo", "5.7.26")])), "alignment").verdict == "ok"
    assert item(of("microsoft", assess(GOOD, None, [("microsoft", "5.7.515")])), "alignment").verdict == "fail"


def test_advice_alone_does_not_make_a_provider_worse() -> None:
    found = of("microsoft", assess(replaced(finding("ptr", "fail", "ptr_missing", "192.0.2.1"))))
    assert item(found, "ptr").verdict == "fail"
    assert not item(found, "ptr").required
    assert found.verdict == "ok"


def test_the_table_is_complete_and_can_be_encoded() -> None:
    assert [p.id for p in PROVIDERS] == ["gmail", "yahoo", "microsoft", "apple"]
    for provider in PROVIDERS:
        assert len({r.topic for r in provider.rules}) == len(provider.rules)
        assert set(provider.codes.values()) <= {r.topic for r in provider.rules}
    assert msgspec.json.decode(msgspec.json.encode(assess(GOOD)))[0]["provider"] == "gmail"
