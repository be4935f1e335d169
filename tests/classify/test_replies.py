"""Answers labelled by what they mean: how far the rules agree."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from agent.classify import explain
from agent.events import BounceClass

LABELS = {c.value for c in BounceClass} | {"suppression", "auto_reply", "delay_notice", "challenge_response"}


def _replies() -> list[tuple[str, str, str]]:
    lines = Path(__file__).with_name("replies.txt").read_text("utf-8").splitlines()
    rows = [line.split(" | ", 2) for line in lines if line and not line.startswith("#")]
    return [(label, hint, text) for label, hint, text in rows]


def _label(text: str) -> str:
    found = explain(text)
    return found.bounce_class.value if found.category == "bounce" else found.category.value


def test_the_set_is_large_varied_and_well_formed() -> None:
    replies = _replies()
    assert len({text for _, _, text in replies}) == len(replies) >= 300
    assert {label.rstrip("?") for label, _, _ in replies} == LABELS
    assert sum(not text.isascii() for _, _, text in replies) >= 40


def test_the_rules_agree_with_the_labels(capsys: pytest.CaptureFixture[str]) -> None:
    replies = _replies()
    total, agreed, confused = Counter[str](), Counter[str](), []
    misses = []
    for label, hint, text in replies:
        expected, found = label.rstrip("?"), _label(text)
        total[expected] += 1
        agreed[expected] += found == expected
        if found != expected:
            misses.append(f"{label} taken for {found}: {text[:100]}")
            if label == expected and {found, expected} == {"hard", "block"}:
                confused.append(text)
        elif hint != "-" and hint not in explain(text).points_to:
            misses.append(f"{label} without {hint}: {text[:100]}")
    with capsys.disabled():
        # To where it is shown from a process of pytest-xdist too.
        table = [f"{label:20} {agreed[label]:4} of {total[label]:4}" for label in sorted(total)]
        print("", *table, *misses, sep="\n", file=sys.stderr)
    assert not confused
    assert agreed.total() >= 0.97 * total.total()
    assert len(misses) <= 0.03 * total.total()
