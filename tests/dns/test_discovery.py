"""Selectors that nobody named are searched for once a day, and looked at all the time."""

from __future__ import annotations

import random

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.checks import CHECKS
from agent.dns.checks.base import Finding, Subject, drive
from agent.dns.discovery import Discoveries
from agent.dns.senders import SERVICES
from tests.dns.zone import answers

DAY = 86_400.0
KEY = {"TXT": ["k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="]}
LISTED = Subject("example.com")


class Domain:
    """A domain that is looked at from time to time."""

    def __init__(self) -> None:
        self.zone: dict[str, object] = {"google._domainkey.example.com": KEY, "_domainkey.example.com": {}}
        self.discoveries = Discoveries(random.Random(1))
        self.asked: list[Question] = []

    def look(self, now: float) -> tuple[Finding, ...]:
        self.asked.clear()
        subject = self.discoveries.known(LISTED, now)

        def ask(question: Question) -> Answer:
            self.asked.append(question)
            return answers(self.zone)(question)  # type: ignore[arg-type]

        findings = drive(CHECKS["dkim"].plan(subject), ask)
        self.discoveries.note(subject, findings, now)
        return findings


def test_a_search_serves_for_a_day_and_what_it_found_is_looked_at_each_time() -> None:
    domain = Domain()
    first = domain.look(1000.0)
    assert [f.subject for f in first] == ["google"]
    assert len(domain.asked) == len(SERVICES) + 2
    for n in range(1, 10):
        assert domain.look(1000.0 + n * DAY / 12) == first
        assert len(domain.asked) == 3
    domain.zone["resend._domainkey.example.com"] = KEY
    assert [f.subject for f in domain.look(1000.0 + DAY)] == ["resend", "google"]
    del domain.zone["google._domainkey.example.com"]
    assert [f.subject for f in domain.look(2000.0 + DAY)] == ["resend"]
    assert len(domain.asked) == 4


def test_nothing_found_is_remembered_too_and_a_look_on_demand_searches_again() -> None:
    domain = Domain()
    domain.zone = {"odd._domainkey.example.com": KEY, "_domainkey.example.com": {}}
    assert [f.reason for f in domain.look(1000.0)] == ["no_selectors"]
    assert [f.reason for f in domain.look(1300.0)] == ["no_selectors"]
    assert len(domain.asked) == 2
    domain.discoveries.forget("example.com")
    domain.look(1301.0)
    assert len(domain.asked) > len(SERVICES)


def test_a_search_in_which_something_was_lost_is_not_over() -> None:
    domain = Domain()
    domain.zone = {"_domainkey.example.com": Outcome.TIMEOUT}
    assert [f.reason for f in domain.look(1000.0)] == ["indeterminate"]
    domain.zone = {"google._domainkey.example.com": KEY, "_domainkey.example.com": {}}
    assert [f.subject for f in domain.look(1015.0)] == ["google"]
