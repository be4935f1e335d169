"""The status as a table: whole at any width, and nothing in it controls the terminal."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from agent.views.status import document, phase
from agent.views.terminal import WIDE, render_phase, render_status
from tests.unit.views.states import state


def shown(plain: dict[str, Any], width: int, *, color: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=color, color_system="truecolor" if color else None)
    console.print((render_status if "overall" in plain else render_phase)(plain))
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 100, WIDE - 1, WIDE, 160, 250])
def test_it_fits_and_no_target_is_lost(width: int) -> None:
    plain = document(state())
    text = shown(plain, width)
    assert max(map(len, text.splitlines())) <= width
    count = sum(len(d["judgements"]) for d in plain["domains"].values())
    assert count > 0
    verdicts = r"(met|breached|undecided|insufficient data|stale)"
    targets = r"(bounce|deliverability|complaint|capacity)"
    assert len(re.findall(rf"\b{targets} +{verdicts}\b", text)) == count
    assert "At any time" in text
    for domain in plain["domains"].values():
        for rate in domain["anytime"]["month"].values():
            assert f"{rate['lower']:.2%} to {rate['upper']:.2%}" in text
    for source in plain["sources"]:
        assert source["name"] in text
    assert f"Overall: {plain['overall']['state']}" in text


hostile = st.text(st.sampled_from("ab\x1b[31m]0;\x07\x9b\r\n\u202e[/]bold \x00é\ud800"), max_size=30)


@given(hostile, st.sampled_from([80, 160]))
def test_what_others_wrote_is_shown_not_obeyed(text: str, width: int) -> None:
    plain = document(state())
    plain["overall"]["reasons"] = [text]
    for watched in plain["findings"]:
        watched["finding"] |= {"verdict": "fail", "detail": text, "subject": text}
    for source in plain["sources"]:
        source |= {"last_error": text, "name": text}
    for incident in plain["incidents"]:
        incident["annotations"]["summary"] = text
    for domain in plain["domains"].values():
        for judgement in domain["judgements"]:
            judgement["reason"] = text
    out = shown(plain, width)
    assert all(c.isprintable() or c == "\n" for c in out)
    assert all(len(line) <= width for line in out.split("\n"))


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_gates_fit_and_no_condition_is_lost(width: int) -> None:
    plain = phase(state())
    text = shown(plain, width)
    assert max(map(len, text.splitlines())) <= width
    assert re.search(r"example\.com  growth → enterprise  not yet, earliest 2026-09-26", text)
    assert re.search(r"news\.example\.org  foundation → growth  not yet, earliest unknown", text)
    plan = "enterprise is planned for 8 to 12 weeks, USD 1,000 to 2,000 a month, expected ROI 400 to 600 %"
    assert plan in " ".join(text.split())
    for words in (r"bounce +blocking +2026-09-26 +day 9 of 14", r"dns +unknown +now +1 DNS", r"duration +passed +–"):
        assert re.search(words, text), words


@given(hostile)
def test_what_others_wrote_is_no_command_in_a_gate(text: str) -> None:
    plain = phase(state())
    for gate in plain["domains"].values():
        for item in gate["items"]:
            item["evidence"] = text
    assert all(c.isprintable() or c == "\n" for c in shown(plain, 100))
