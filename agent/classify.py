"""What a remote server's answer says: its codes, and the class of bounce it means when the ESP names none.

Pure, and linear in the text: only the first ``READ`` characters are looked at.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from agent.events import BounceClass

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


_HARD_CODES = frozenset({"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1", "5.4.4"})
_HARD_WORDS = re.compile(
    r"\b(?:user unknown|unknown user|no such user|does not exist|mailbox unavailable|unroute?able|domain not found)\b",
    re.IGNORECASE,
)
_FULL_WORDS = re.compile(r"\b(?:mailbox (?:is )?full|over ?quota|quota exceeded)\b", re.IGNORECASE)
_SOFT_WORDS = re.compile(r"\b(?:timed out|connection refused|gr[ae]y-?list(?:ed|ing)?)\b", re.IGNORECASE)
_BLOCK_WORDS = re.compile(
    r"\b(?:spam|blocked|(?:black|block)-?list(?:ed)?|reputation|policy|dmarc|spf|dkim|rate[ -]limit(?:ed|s)?|banned"
    r"|spamhaus\.org|spamcop\.net|barracudacentral\.org|sorbs\.net|abuseat\.org|uceprotect\.net|surbl\.org|uribl\.com"
    r"|mailspike\.(?:net|org)|psbl\.surriel\.com|invaluement\.com|spfbl\.net|nszones\.com|0spam\.org|s5h\.net)\b",
    re.IGNORECASE,
)


def mailbox_full(text: str, enhanced_code: str = "") -> bool:
    """Whether an answer says that the mailbox is full (``x.2.2``, RFC 3463 section 3.3, or words)."""
    return enhanced_code.endswith(".2.2") or _FULL_WORDS.search(text[:READ]) is not None


def is_policy(enhanced_code: str) -> bool:
    """Whether an enhanced code speaks of security or policy, ``x.7.*`` (RFC 3463 section 3.8): the sender, not the
    recipient, was refused."""
    return enhanced_code[1:4] == ".7."


def classify(text: str, smtp_code: int | None = None, enhanced_code: str = "") -> BounceClass:
    """The class of a final failure by its codes, then by its words; ``undetermined`` when neither says.

    Codes not given are taken from the text. Codes come before words, since servers put anything into words; the bare
    word "denied" means nothing, since Microsoft answers an unknown recipient with it.
    """
    if not smtp_code or not enhanced_code:
        found = parse_reply(text)
        smtp_code = smtp_code or found.smtp_code
        enhanced_code = enhanced_code or found.enhanced_code
    if is_policy(enhanced_code):
        return BounceClass.BLOCK
    if enhanced_code in _HARD_CODES:
        return BounceClass.HARD
    if enhanced_code.startswith("4.") or enhanced_code.endswith((".2.2", ".2.3")) or enhanced_code == "5.3.4":
        return BounceClass.SOFT
    text = strip_prefix(text)
    if _HARD_WORDS.search(text):
        return BounceClass.HARD
    if mailbox_full(text) or _SOFT_WORDS.search(text) or (smtp_code and 400 <= smtp_code < 500):
        return BounceClass.SOFT
    if _BLOCK_WORDS.search(text):
        return BounceClass.BLOCK
    return BounceClass.UNDETERMINED
