"""What a DNS check is: a plan that yields tuples of questions, is sent tuples of answers, and returns findings.

It never waits, never opens a socket and knows no clock: a dict drives it in tests, the resolver in life.
"""

from __future__ import annotations

from collections.abc import Generator
from enum import StrEnum
from typing import Protocol

import msgspec

from agent.dns.answer import Answer, Question


class Verdict(StrEnum):
    """``unknown`` is never ``fail``: it says that nobody could tell."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


class Subject(msgspec.Struct, frozen=True):
    """What is checked: a domain and what settings say of it."""

    domain: str
    dkim_selectors: tuple[str, ...] = ()
    sending_ips: tuple[str, ...] = ()


class Finding(msgspec.Struct, frozen=True):
    """What one check says. ``subject`` is the selector, address or list concerned, else ``""``. ``reason`` is a
    stable code (``key_missing``, ``policy_none``, ...), ``detail`` a sentence for people, ``advice`` what to do,
    with the exact record to publish where there is one, ``rfc`` the section it rests on. ``records`` are the
    offending or confirming records as found, ``ttl`` the lowest TTL behind the finding, in seconds."""

    check: str
    subject: str
    verdict: Verdict
    reason: str
    detail: str
    advice: str = ""
    rfc: str = ""
    records: tuple[str, ...] = ()
    ttl: int = 0


class Watched(msgspec.Struct, frozen=True):
    """A finding as the watch publishes it: with its times (Unix seconds, 0 = never) and the last good answer.

    ``finding`` is the current one (``unknown`` while lookups fail); ``last_definitive`` the newest one that was not
    ``unknown``, from ``definitive_at``. ``since`` is when the current verdict began; ``checked_at`` the last try.
    """

    domain: str
    finding: Finding
    checked_at: float
    since: float
    definitive_at: float = 0.0
    last_definitive: Finding | None = None


Plan = Generator[tuple[Question, ...], tuple[Answer, ...], tuple[Finding, ...]]


class Check(Protocol):
    """What ``CHECKS`` maps a check's name to (modules satisfy it)."""

    def plan(self, subject: Subject) -> Plan:
        """The check of one subject. Ends for every sequence of answers, however absurd."""
