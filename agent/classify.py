"""What a remote server's answer says: its codes, and what it means by the rules of ``bounce_rules.toml``.

Pure, and linear in the text: only the first ``READ`` characters are looked at.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import NamedTuple

from agent.bounce_rules import Category, Rule, shipped
from agent.events import MASK, BounceClass, Kind, mask_addresses

READ = 2048


class Reply(NamedTuple):
    """The codes of one answer: basic (RFC 5321 section 4.2), 200..599, and enhanced (RFC 3463), ``"5.1.1"``."""

    smtp_code: int | None
    enhanced_code: str


# What ESPs put before the remote text.
_PREFIX = re.compile(
    r"\s{0,8}(?:smtp;|x-postfix;|recipienterror:|(?:sent|bounced|soft bounce|hard bounce)\s?\()\s{0,8}", re.IGNORECASE
)
_ENHANCED = r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?!\.?[0-9])"
_PAIR = re.compile(r"(?<![\w.])([2-5][0-9]{2})[ -]{1,2}#?" + _ENHANCED)
_BASIC_ALONE = re.compile(
    r"(?:\A|[:;(>\"']\s{0,2}|\b(?:code|error|status|reply|said|smtp)[ :=]{1,2})([2-5][0-9]{2})(?![\w.])", re.IGNORECASE
)
_ENHANCED_ALONE = re.compile(r"(?<![0-9])(?<![0-9]\.)" + _ENHANCED)
_WHOLE_ENHANCED = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}", re.ASCII)


def is_enhanced_code(text: str) -> bool:
    """Whether the text as a whole is an enhanced status code of class 2, 4 or 5 (RFC 3463 section 2)."""
    return len(text) <= 9 and _WHOLE_ENHANCED.fullmatch(text) is not None


def strip_prefix(text: str) -> str:
    """The remote text without what ESPs put before it (``smtp;``, ``X-Postfix;``, ``bounced (``, ...)."""
    text = text[:READ]
    # Two are as many as occur together; a text made of nothing but prefixes must not cost more than that.
    for _ in range(2):
        match = _PREFIX.match(text)
        if not match:
            break
        text = text[match.end() :]
    return text


def parse_reply(text: str) -> Reply:
    """The basic and enhanced code of a remote text, wherever in it they stand; ``(None, "")`` if it has none.

    A basic code followed by an enhanced one decides; else each is looked for alone. Addresses, version numbers and
    plain counts are not taken for codes.
    """
    text = strip_prefix(text)
    if pair := _PAIR.search(text):
        return Reply(int(pair[1]), pair[2])
    basic = _BASIC_ALONE.search(text)
    enhanced = _ENHANCED_ALONE.search(text)
    return Reply(int(basic[1]) if basic else None, enhanced[1] if enhanced else "")


class Diagnosis(NamedTuple):
    """What an answer means.

    ``bounce_class`` is ``undetermined`` where no rule decides and in every ``category`` but ``bounce``. ``rule`` is the
    id of the rule that decided, ``""`` if none did; ``says`` the same in words. ``points_to`` names what to look at,
    the likeliest first: keys of the hints in ``bounce_rules.toml``.
    """

    bounce_class: BounceClass
    rule: str = ""
    points_to: tuple[str, ...] = ()
    category: Category = Category.BOUNCE
    says: str = ""

    @property
    def meaning(self) -> tuple[Kind, BounceClass | None]:
        """What a report of a failure is whose vendor names no class: a bounce and its class; ``dropped`` when it was
        never tried; ``other`` when a person, a program or a waiting queue has answered."""
        if self.category is Category.BOUNCE:
            return Kind.BOUNCED, self.bounce_class
        return Kind.DROPPED if self.category is Category.SUPPRESSION else Kind.OTHER, None


_UNKNOWN = Diagnosis(BounceClass.UNDETERMINED)


def explain(text: str, smtp_code: int | None = None, enhanced_code: str = "") -> Diagnosis:
    """What a remote text means, by the first of the rules in ``bounce_rules.toml`` that holds.

    Codes not given are taken from the text. Mail addresses, masked or not, are passed over: nobody's name decides.
    """
    if not smtp_code or not enhanced_code:
        found = parse_reply(text)
        smtp_code = smtp_code or found.smtp_code
        enhanced_code = enhanced_code or found.enhanced_code
    rule = _first(text, smtp_code, enhanced_code)
    return _diagnosis(rule.id) if rule else _UNKNOWN


def _first(text: str, smtp_code: int | None, enhanced_code: str) -> Rule | None:
    text = strip_prefix(text)
    if "@" in text:
        text = mask_addresses(text)
    return shipped().first(text.replace(MASK, " "), smtp_code, enhanced_code)


@cache
def _diagnosis(rule_id: str) -> Diagnosis:
    rule = shipped().rules[rule_id]
    bounce_class = rule.bounce_class or BounceClass.UNDETERMINED
    return Diagnosis(bounce_class, rule_id, tuple(rule.points_to), rule.category, rule.says)


# For answers that are shown or weighed again and again.
explain_again = lru_cache(maxsize=1024)(explain)


def mailbox_full(text: str, enhanced_code: str = "") -> bool:
    """Whether an answer says that the mailbox is full: by ``x.2.2`` (RFC 3463 section 3.3) or, whatever its codes, by
    its words."""
    if enhanced_code.endswith(".2.2"):
        return True
    rule = _first(text, None, "")
    return rule is not None and rule.id == "words-mailbox-full"


def is_policy(enhanced_code: str) -> bool:
    """Whether an enhanced code speaks of security or policy, ``x.7.*`` (RFC 3463 section 3.8): the sender, not the
    recipient, was refused."""
    return enhanced_code[1:4] == ".7."


def classify(text: str, smtp_code: int | None = None, enhanced_code: str = "") -> BounceClass:
    """The class of a final failure by its codes, then by its words; ``undetermined`` when neither says.

    Codes not given are taken from the text. Codes come before words, since servers put anything into words; the bare
    word "denied" means nothing, since Microsoft answers an unknown recipient with it.
    """
    return explain(text, smtp_code, enhanced_code).bounce_class
