"""What a clue is worth: each rule of the scoring, and its words."""

from __future__ import annotations

import pytest

from agent.alerts.bounce_hints import Hints
from agent.alerts.causes import LIKELY, MOST_CAUSES, Clue, Kind, Symptom, first_seen, in_words, rank
from agent.alerts.types import Cause, Onset
from agent.bounce_rules import shipped

T = 1_790_000_000.0
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
WORDS = shipped().hints
ONSET = Onset(T, T - 1800, T + 1800)
# 1,000 mails each, of which 1 % may fail: all of the excess is of mailgun's mail.
PARTS = {"provider": {"mailgun": (110, 1000), "ses": (10, 1000)}}


def symptom(**more: object) -> Symptom:
    return Symptom("example.com", "bounce", 0.01, **{"parts": {}, "onset": ONSET, **more})  # type: ignore[arg-type]


def clue(at: float | None = None, **more: object) -> Clue:
    return Clue(**{"kind": Kind.DNS, "key": "it", "says": "It changed", "weight": 1, "at": at, **more})  # type: ignore[arg-type]


def weighed(one: Clue, **more: object) -> Cause | None:
    return next((c for c in rank(symptom(**more), [one], WORDS) if c.key == "it"), None)


@pytest.mark.parametrize(
    ("before", "points", "words"),
    [
        (12 * MINUTE, 3, "seen 12 min before the rate moved"),
        (89 * MINUTE, 3, "seen 89 min before the rate moved"),
        (91 * MINUTE, 2, "seen 91 min before the rate moved"),
        (6.5 * HOUR, 2, "seen 6 h before the rate moved"),
        (6.6 * HOUR, 1, "seen 7 h before the rate moved"),
        (24.5 * HOUR, 1, "seen 24 h before the rate moved"),
        (-20 * MINUTE, 3, "seen within the 60 min in which the rate moved"),
    ],
)
def test_the_nearer_before_the_rate_moved_the_better(before: float, points: int, words: str) -> None:
    found = weighed(clue(T - before))
    assert found is not None
    assert (found.score, found.supports, found.contradicts) == (1 + points, (words,), ())


@pytest.mark.parametrize(
    ("before", "score", "words"),
    [
        (25 * HOUR, 3, "it began 25 h before the rate moved"),
        (-31 * MINUTE, -2, "it began 31 min after the rate had moved"),
    ],
)
def test_long_before_or_afterwards_speaks_against_it(before: float, score: int, words: str) -> None:
    assert weighed(clue(T - before)) is None, "nothing at all speaks for it"
    found = weighed(clue(T - before, points_to=frozenset(("spf",))), hints=Hints(10, {"spf": 9}))
    assert found is not None
    assert (found.score, found.contradicts) == (score, (words,))


def test_what_takes_its_time_to_be_seen_may_have_begun_before() -> None:
    assert weighed(clue(T + HOUR)) is None
    found = weighed(clue(T + HOUR, late=40 * MINUTE))
    assert found is not None
    assert found.score == 4


@pytest.mark.parametrize(("width", "score"), [(12 * HOUR, 4), (13 * HOUR, 3), (25 * HOUR, 2)])
def test_a_moment_that_is_hardly_known_proves_little(width: float, score: int) -> None:
    found = weighed(clue(T), onset=Onset(T, T - width / 2, T + width / 2))
    assert found is not None
    assert found.score == score


def test_without_times_there_is_no_evidence_of_time_and_nothing_is_likely() -> None:
    for one, onset in ((clue(None), ONSET), (clue(T), None)):
        grave = Clue(**{**{f: getattr(one, f) for f in one.__struct_fields__}, "weight": LIKELY})
        found = weighed(grave, onset=onset)
        assert found is not None
        assert (found.score, found.likely, found.supports) == (LIKELY, False, ())


@pytest.mark.parametrize(
    ("counts", "points"),
    [({"spf": 25}, 3), ({"spf": 24}, 1), ({"spf": 10}, 1), ({"spf": 9}, 0), ({"spf": 9, "list": 25}, -3), ({}, 0)],
)
def test_what_bounces_say(counts: dict[str, int], points: int) -> None:
    found = weighed(clue(T, points_to=frozenset(("spf", "dmarc"))), hints=Hints(50, counts))
    assert found is not None
    assert found.score == 4 + points
    assert found.likely == (points > 0)


def test_few_bounces_say_nothing() -> None:
    found = weighed(clue(T, points_to=frozenset(("spf",))), hints=Hints(9, {"spf": 9}))
    assert found is not None
    assert found.score == 4


@pytest.mark.parametrize(
    ("mailgun", "ses", "points", "words"),
    [
        (110, 10, 2, "100% of the failures beyond the target are of mail sent through mailgun, which it touches"),
        (60, 22, 2, "81% of the failures beyond the target are of mail sent through mailgun, which it touches"),
        (60, 40, -1, "mail sent through ses, which it does not touch, fails as well"),
        (20, 60, -3, "mail sent through ses, which it does not touch, fails as well"),
        (5, 5, 0, ""),
    ],
)
def test_whose_mail_it_touches(mailgun: int, ses: int, points: int, words: str) -> None:
    parts = {"provider": {"mailgun": (mailgun, 1000), "ses": (ses, 1000)}}
    found = weighed(clue(T, covers={"provider": frozenset(("mailgun", "postmark"))}), parts=parts)
    assert found is not None
    assert found.score == 4 + points
    assert not words or words in found.supports + found.contradicts


def test_one_part_with_the_failures_is_named() -> None:
    (found,) = rank(symptom(parts=PARTS), [], WORDS)
    assert (found.key, found.score, found.likely) == ("part example.com provider mailgun", 4, False)
    assert found.says == (
        "mail sent through mailgun fails and other mail does not: 110 of 1,000, 100% of the failures beyond the target "
        "in 50% of the mail"
    )


@pytest.mark.parametrize(
    "parts",
    [
        {"provider": {"mailgun": (110, 1000)}},  # all mail is of no part
        {"provider": {"mailgun": (110, 1000), "ses": (50, 1000)}},
        {"provider": {"mailgun": (1100, 10_000), "ses": (10, 1000)}},  # nearly all mail fails for nearly all mail
        {"provider": {"mailgun": (5, 1000), "ses": (5, 1000)}},
        {"provider": {}},
    ],
)
def test_no_part_is_named_that_is_not_one(parts: dict[str, dict[str, tuple[int, int]]]) -> None:
    assert rank(symptom(parts=parts), [], WORDS) == ()


def test_of_parts_that_explain_as_much_the_smaller_is_named_and_the_same_mail_once() -> None:
    parts = {
        "provider": {"mailgun": (110, 1500), "ses": (10, 1000)},
        "stream": {"news": (110, 1000), "tips": (10, 1500)},
        "mailbox_provider": {"gmail": (110, 1000), "yahoo": (10, 1500)},
    }
    (found,) = rank(symptom(parts=parts), [], WORDS)
    assert "mail of the stream news and to gmail fails" in found.says


def test_what_the_bounces_say_is_a_cause_only_where_nothing_better_explains_it() -> None:
    hints = Hints(50, {"spf": 45})
    assert [c.key for c in rank(symptom(hints=hints), [], WORDS)] == ["bounces example.com spf"]
    explained = rank(symptom(hints=hints), [clue(T, points_to=frozenset(("spf",)))], WORDS)
    assert [c.key for c in explained] == ["it"]


def test_no_more_are_told_than_can_be_read() -> None:
    found = rank(symptom(), [clue(T, key=f"k{n}") for n in range(20)], WORDS)
    assert len(found) == MOST_CAUSES
    assert [c.key for c in found] == ["k0", "k1", "k10", "k11", "k12"], "in the same order at every look"


def test_in_words() -> None:
    assert in_words(()) == "Nothing that is known lines up with it."
    first = Cause(
        "dns", "a", "SPF changed", 6, True, T, ("seen 12 min before the rate moved",), ("mail fails as well",)
    )
    other = Cause("part", "b", "mail to gmail fails", 3, False)
    assert in_words((first, other, Cause("source", "c", "never told", -1, False))) == (
        "Likely cause: SPF changed; seen 12 min before the rate moved; but mail fails as well. "
        "Less likely: mail to gmail fails."
    )
    assert in_words((other,)) == "Possible cause: mail to gmail fails."


@pytest.mark.parametrize(
    ("failures", "earliest", "latest"),
    [
        # In the last hour, six hours, day; before it 10 of 1,000 failed.
        ((100, 110, 120), 1, 0),
        ((20, 110, 120), 6, 1),
        ((10, 40, 120), 24, 6),
        ((10, 90, 400), 24, 6),
    ],
)
def test_windows_tell_when_a_rate_moved(failures: tuple[int, int, int], earliest: float, latest: float) -> None:
    counts = {HOUR: (failures[0], 50), 6 * HOUR: (failures[1], 300), DAY: (failures[2], 1200)}
    counts[7 * DAY] = failures[2] + 70, 1200 + 7000
    found = first_seen(counts, DAY, T)
    assert found is not None
    assert (found.earliest, found.latest) == (T - earliest * HOUR, T - latest * HOUR)
    assert found.earliest <= found.at <= found.latest


def test_what_is_not_more_than_before_never_moved() -> None:
    assert first_seen({DAY: (12, 1200), 7 * DAY: (82, 8200)}, DAY, T) is None
    assert first_seen({DAY: (0, 0)}, DAY, T) is None


@pytest.mark.parametrize(
    ("since", "earliest", "at", "latest"),
    [(-10, -13, -10, -7), (-23, -24, -23, -20), (-7, -10, -7, -6), (-5, -24, -15, -6), (-30, -24, -15, -6)],
)
def test_the_verdict_dates_it_where_the_windows_agree(since: float, earliest: float, at: float, latest: float) -> None:
    counts = {HOUR: (10, 50), 6 * HOUR: (40, 300), DAY: (120, 1200), 7 * DAY: (190, 8200)}
    found = first_seen(counts, DAY, T, T + since * HOUR)
    assert found == Onset(T + at * HOUR, T + earliest * HOUR, T + latest * HOUR)
