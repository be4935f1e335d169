"""The status as a table: whole at any width, and nothing in it controls the terminal."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from agent.views.status import document
from agent.views.terminal import WIDE, render_status
from tests.unit.views.states import state


def shown(plain: dict[str, Any], width: int, *, color: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=color, color_system="truecolor" if color else None)
    console.print(render_status(plain))
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
    for source in plain["sources"]:
        assert source["name"] in text
    assert f"Overall: {plain['overall']['state']}" in text


hostile = st.text(st.sampled_from("ab\x1b[31m]0;\x07\x9b\r\n\u202e[/]bold \x00é\ud800"), max_size=30)


@settings(max_examples=50, deadline=None)
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
