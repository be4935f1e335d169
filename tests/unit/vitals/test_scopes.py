"""Verdicts of parts, and which part explains a breach."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest

from agent.clock import HOUR
from agent.vitals.phases import PHASES
from agent.vitals.rates import Counts
from agent.vitals.scopes import Cell, explain, judge_parts
from agent.vitals.types import TargetVerdict
from agent.vitals.verdicts import targets
from bench.senders import independent

NOW = 1_750_000_123.0
TARGETS = targets(PHASES["growth"], last_event_at=NOW - 60)
BOUNCE = TARGETS[0]
PROVIDERS, STREAMS, MAILBOXES = ("mailgun", "ses"), ("", "news"), ("gmail", "microsoft", "yahoo")


def mail(random: Random, mails: int, bad: float, **where: str) -> dict[Cell, Counts]:
    """Every combination with ``mails`` mails, of which 0.3 % fail, or ``bad`` where all of ``where`` holds."""
    cells = {}
    for provider, stream, mailbox in product(PROVIDERS, STREAMS, MAILBOXES):
        place = {"provider": provider, "stream": stream, "mailbox_provider": mailbox}
        rate = bad if all(place[scope] == name for scope, name in where.items()) else 0.003
        failed = len(independent(random, rate, mails))
        cells["example.com", provider, stream, mailbox] = Counts(delivered=mails - failed, hard=failed)
    return cells


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("where", "words"),
    [
        ({"mailbox_provider": "microsoft"}, "microsoft only"),
        ({"provider": "mailgun"}, "through mailgun only"),
        ({"stream": "news"}, "in stream news only"),
        ({"mailbox_provider": "microsoft", "provider": "mailgun"}, "microsoft only, through mailgun only"),
        ({"stream": "news", "mailbox_provider": "yahoo"}, "yahoo only, in stream news only"),
        ({}, "everywhere"),
    ],
)
def test_the_part_that_makes_a_breach_is_named(where: dict[str, str], words: str, seed: int) -> None:
    found = explain(mail(Random(seed), 1500, 0.08, **where), BOUNCE)
    assert found.where == words
    assert words in found.sentence
    if where:
        assert found.failures > 50
        assert found.other_failures / found.other_trials < 0.01
        assert f"{found.failures:,} of {found.trials:,} failed there" in found.sentence


def test_what_cannot_be_told_is_not_told() -> None:
    few = explain(mail(Random(1), 20, 0.1, mailbox_provider="microsoft"), BOUNCE)
    alone = explain({("example.com", "ses", "", "gmail"): Counts(delivered=900, hard=100)}, BOUNCE)
    # Microsoft stands out, but all the others are beyond the limit too.
    both = mail(Random(1), 1500, 0.03)
    worse = mail(Random(2), 1500, 0.2, mailbox_provider="microsoft")
    mixed = explain({cell: worse[cell] if cell[3] == "microsoft" else both[cell] for cell in both}, BOUNCE)
    late = explain({("example.com", "ses", "", "gmail"): Counts(delivered=9, complained=30)}, TARGETS[2])
    for found in (few, alone, mixed, late, explain({}, BOUNCE)):
        assert (found.where, found.sentence) == ("cannot tell", "")


def test_chance_names_no_part() -> None:
    named = [explain(mail(Random(seed), 300, 0.03), BOUNCE).where for seed in range(100)]
    assert sum(where not in ("everywhere", "cannot tell") for where in named) <= 5


def test_lumps_make_a_part_stand_out_less() -> None:
    cells = mail(Random(1), 1500, 0.012, provider="mailgun")
    assert explain(cells, BOUNCE).where == "through mailgun only"
    assert explain(cells, BOUNCE, dispersion=5.0).where != "through mailgun only"


def test_each_part_has_its_verdict_and_many_parts_need_more_evidence() -> None:
    begin = int(NOW // HOUR) * HOUR
    good = {begin - h * HOUR: Counts(delivered=40) for h in range(300)}
    bad = good | {begin - h * HOUR: Counts(delivered=36, hard=4) for h in range(5)}
    found = judge_parts({("", ""): bad, ("provider", "ses"): bad, ("provider", "mailgun"): good}, TARGETS, NOW)
    verdicts = {(v.scope, v.part, v.target): v for v in found}
    assert len(verdicts) == 2 * 3  # the whole is none of its parts, and capacity is not theirs
    ses = verdicts["provider", "ses", "bounce"]
    assert (ses.verdict, ses.failures, ses.since) == (TargetVerdict.BREACHED, 20, begin - 4 * HOUR)
    assert verdicts["provider", "mailgun", "bounce"].verdict is TargetVerdict.MET
    assert verdicts["provider", "mailgun", "complaint"].verdict is TargetVerdict.MET
    little = good | {begin: Counts(delivered=35, hard=5)}
    alone = judge_parts({("provider", "ses"): little}, TARGETS, NOW)
    among = judge_parts({("stream", f"s{i}"): little for i in range(40)}, TARGETS[:1], NOW)
    assert alone[0].verdict is TargetVerdict.BREACHED
    assert {v.verdict for v in among} == {TargetVerdict.UNDECIDED}
