"""Classes of bounces by codes and words."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.bounce_rules import Category
from agent.classify import READ, Diagnosis, classify, explain, is_enhanced_code, mailbox_full, parse_reply, strip_prefix
from agent.events import BounceClass, Kind, reason_text

HARD, SOFT, BLOCK, UNDETERMINED = BounceClass.HARD, BounceClass.SOFT, BounceClass.BLOCK, BounceClass.UNDETERMINED


@pytest.mark.parametrize(
    ("text", "code", "enhanced"),
    [
        ("550 5.1.1 User unknown", 550, "5.1.1"),
        ("550-5.1.1 The email account that you tried to reach does not exist", 550, "5.1.1"),
        ("550 #5.1.0 Address rejected", 550, "5.1.0"),
        ("smtp;550 5.1.1 gone", 550, "5.1.1"),
        ("smtp; 554 5.7.1 no", 554, "5.7.1"),
        ("X-Postfix; unknown user", None, ""),
        (" RecipientError: 550 5.1.1 no such user", 550, "5.1.1"),
        ("550 RecipientError: 550 5.1.1 no such user", 550, "5.1.1"),
        ("sent (250 2.0.0 OK 1700000000 x1si2 - gsmtp)", 250, "2.0.0"),
        ("bounced (550 5.1.1 unknown)", 550, "5.1.1"),
        ("soft bounce (452 4.2.2 full)", 452, "4.2.2"),
        ("host mx.example[192.0.2.5] said: 450 4.7.1 greylisted", 450, "4.7.1"),
        ("host mx.example[5.1.1.5] said: 550 no", 550, ""),
        ("421 try again", 421, ""),
        ("421", 421, ""),
        ("5.4.14 hop count exceeded", None, "5.4.14"),
        ("rejected (5.7.606). Sorry", None, "5.7.606"),
        ("error code: 554 refused", 554, ""),
        ("Bounced Address", None, ""),
        ("after 450 seconds and 550 tries", None, ""),
        ("version 5.1.1.2 of 1555.1.1", None, ""),
        ("", None, ""),
        ("999 9.9.9 strange", None, ""),
        ("550 5.1.1234 strange", 550, ""),
    ],
)
def test_codes_of_a_reply(text: str, code: int | None, enhanced: str) -> None:
    assert parse_reply(text) == (code, enhanced)


def test_prefixes_are_stripped_and_the_rest_kept() -> None:
    assert strip_prefix("smtp; X-Postfix; smtp;550 no") == "smtp;550 no"
    assert strip_prefix("smtp speaks") == "smtp speaks"


@pytest.mark.parametrize("code", ["5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1", "5.4.4"])
def test_hard_codes(code: str) -> None:
    assert classify(f"550 {code} blocked as spam") is HARD


@pytest.mark.parametrize("code", ["5.2.2", "4.2.2", "5.2.3", "4.4.1", "5.3.4", "4.0.0", "4.1.1"])
def test_soft_codes(code: str) -> None:
    assert classify(f"550 {code} user unknown") is SOFT


@pytest.mark.parametrize("code", ["5.7.1", "4.7.0", "5.7.26", "5.7.606"])
def test_policy_codes(code: str) -> None:
    assert classify(f"550 {code} user unknown") is BLOCK


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *[
            (f"550 {words}", HARD)
            for words in (
                "User Unknown", "unknown user", "No such user here", "account does not exist", "mailbox unavailable",
                "unrouteable address", "Unroutable address", "Domain not found",
            )
        ],
        *[
            (f"550 {words}", SOFT)
            for words in (
                "mailbox full", "Mailbox is full", "over quota", "quota exceeded", "timed out", "Connection refused",
                "greylist", "Greylisted, try later", "graylisting in effect",
            )
        ],
        *[
            (f"550 {words}", BLOCK)
            for words in (
                "looks like spam", "blocked", "on our blacklist", "Blacklisted", "blocklist", "blocklisted",
                "bad reputation", "local policy", "DMARC failed", "SPF failed", "dkim failed", "rate limit exceeded",
                "rate limited", "banned content", "see zen.spamhaus.org/q", "listed at bl.spamcop.net",
            )
        ],
        ("450 whatever", SOFT),
        ("421 blocked", SOFT),
        ("450 user unknown", HARD),
        ("550 5.4.1 Recipient address rejected: Access denied", HARD),
        ("550 Access denied", UNDETERMINED),
        ("550 5.0.0 antispamming policyholder spfx", UNDETERMINED),
        ("554 no", UNDETERMINED),
        ("", UNDETERMINED),
        ("551 5.5.1 mailbox full and user unknown", HARD),
    ],
)  # fmt: skip
def test_words_decide_where_codes_do_not(text: str, expected: BounceClass) -> None:
    assert classify(text) is expected


def test_given_codes_beat_those_of_the_text() -> None:
    assert classify("550 5.1.1 no", enhanced_code="5.7.1") is BLOCK
    assert classify("no", smtp_code=450) is SOFT
    assert classify("no", 550, "5.1.1") is HARD


def test_full_mailbox() -> None:
    assert mailbox_full("552 quota exceeded")
    assert mailbox_full("", "5.2.2")
    assert not mailbox_full("no", "5.1.2")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5.1.1", True),
        ("4.7.26", True),
        ("550", False),
        ("3.1.1", False),
        ("5.1.1 x", False),
        ("5.1", False),
        ("٥.1.1", False),
    ],
)
def test_enhanced_code_alone(text: str, expected: bool) -> None:
    assert is_enhanced_code(text) is expected


@given(st.text() | st.text("245.01- ;:()#smtpsent", max_size=200))
def test_any_text_has_a_class(text: str) -> None:
    assert classify(text) in BounceClass
    assert explain(text) == explain(text[:READ])
    code, enhanced = parse_reply(text)
    assert code is None or 200 <= code <= 599
    assert enhanced == "" or is_enhanced_code(enhanced)


@pytest.mark.parametrize("unit", ["smtp;", "5", "5.", "550 ", "550-", " ", "sent (", "(", "code ", "rate ", "user "])
def test_hostile_text_is_read_in_bounded_time(unit: str) -> None:
    text = unit * (2_000_000 // len(unit))
    start = time.perf_counter()
    classify(text)
    assert time.perf_counter() - start < 0.5
    assert classify("x" * READ + " user unknown") is UNDETERMINED


def test_an_answer_is_explained_by_its_rule() -> None:
    found = explain("550-5.7.26 This mail has been blocked because the sender is unauthenticated. gsmtp")
    assert (found.bounce_class, found.rule, found.points_to) == (BLOCK, "gmail-unauthenticated", ("spf", "dkim"))
    assert (found.category, found.meaning) == (Category.BOUNCE, (Kind.BOUNCED, BLOCK))
    assert explain("554 no") == Diagnosis(UNDETERMINED)


@pytest.mark.parametrize(
    ("text", "category", "kind"),
    [
        ("554 5.7.1 recipient address suppressed due to customer policy", Category.SUPPRESSION, Kind.DROPPED),
        ("Out of office until Monday", Category.AUTO_REPLY, Kind.OTHER),
        ("Action: delayed", Category.DELAY_NOTICE, Kind.OTHER),
        ("Spam Arrest: please confirm", Category.CHALLENGE_RESPONSE, Kind.OTHER),
        ("550 5.1.1 user unknown, out of office", Category.BOUNCE, Kind.BOUNCED),
        ("550 spamarrest: will be retried", Category.BOUNCE, Kind.BOUNCED),
    ],
)
def test_what_is_no_bounce_is_not_called_one(text: str, category: Category, kind: Kind) -> None:
    found = explain(text)
    assert (found.category, found.meaning[0]) == (category, kind)
    assert (found.meaning[1] is None) == (category is not Category.BOUNCE)
    assert (category is Category.BOUNCE) or found.bounce_class is UNDETERMINED


@pytest.mark.parametrize("name", ["spam", "blocked", "user.unknown", "dmarc-reports", "out-of-office"])
def test_the_words_of_an_address_decide_nothing(name: str) -> None:
    assert explain(f"554 <{name}@example.com>: no") == Diagnosis(UNDETERMINED)
    assert explain(f"550 {name}@policy.example: mailbox full").rule == "words-mailbox-full"


def test_a_masked_text_means_what_it_meant() -> None:
    text = "550 5.4.1 <x@example.com>: Recipient address rejected: Access denied"
    assert explain(reason_text(text)) == explain(text)
