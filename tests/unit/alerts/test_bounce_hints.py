"""What the newest bounces of a domain have in common."""

from __future__ import annotations

from agent.alerts.bounce_hints import FEWEST, count_hints, sentence
from agent.bounce_rules import shipped
from agent.classify import Diagnosis, explain

WORDS = shipped().hints
PTR = explain("550 5.7.25 Reverse DNS validation failed")
GMAIL = explain("550-5.7.26 This mail is unauthenticated. gsmtp")
VAGUE = explain("554 no")


def sentences(*diagnoses: Diagnosis) -> dict[str, str]:
    found = count_hints(("example.com", d) for d in diagnoses)
    return {domain: text for domain, hints in found.items() if (text := sentence(hints, WORDS))}


def test_the_commonest_hint_is_named_with_its_count() -> None:
    found = sentences(*[PTR] * 9, *[VAGUE] * 3)
    assert found == {"example.com": "Of the 12 newest bounces at hand, 9 point to reverse DNS (PTR)."}


def test_a_bounce_can_give_two_hints() -> None:
    found = sentences(*[GMAIL] * FEWEST)
    assert found == {"example.com": "Of the 10 newest bounces at hand, 10 point to SPF and 10 point to DKIM."}


def test_few_bounces_say_nothing() -> None:
    assert sentences(*[PTR] * (FEWEST - 1)) == {}
    assert sentences(*[PTR] * (FEWEST - 1), VAGUE)


def test_a_hint_of_the_few_is_not_the_reason() -> None:
    assert sentences(*[PTR] * 5, *[VAGUE] * 6) == {}
    assert sentences(*[VAGUE] * 50) == {}
    assert sentences() == {}


def test_domains_are_not_mixed() -> None:
    pairs = [("example.com", PTR)] * 10 + [("example.org", GMAIL)] * 4 + [("example.net", VAGUE)] * 20
    found = count_hints(pairs)
    assert {domain: hints.total for domain, hints in found.items()} == {
        "example.com": 10, "example.org": 4, "example.net": 20,
    }  # fmt: skip
    assert [domain for domain, hints in found.items() if sentence(hints, WORDS)] == ["example.com"]
