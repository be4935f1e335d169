"""A little fuzzing, from a seed that is always the same; ``make fuzz`` takes its time."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.simulate import SIMULATORS
from tests.fuzz.bodies import FORM_READERS, seeds
from tests.fuzz.run import fuzz


@pytest.mark.parametrize("form", [False, True], ids=["json", "form"])
async def test_nothing_escapes_and_nothing_is_half_counted(form: bool, tmp_path: Path) -> None:
    tally = await fuzz(form, lambda tally: tally.bodies < 2_500, 1, tmp_path)
    assert tally.events > 500
    assert tally.malformed > 50
    assert tally.unreadable > 5


def test_every_provider_is_among_them() -> None:
    json_bodies, forms = ({provider for provider, _ in seeds(form)} for form in (False, True))
    assert json_bodies | forms == set(SIMULATORS)
    assert forms >= FORM_READERS & set(SIMULATORS)
