"""Jumps of the time of day are doubted, until they are taken back or have stood; slow corrections are followed."""

from __future__ import annotations

import pytest

from agent.clock import DAY, HELD, TOLERATED, ClockWatch

YEAR = 365 * DAY


class Machine:
    """Two clocks: one that anybody may set, one that runs on."""

    def __init__(self) -> None:
        self.ran = 5000.0
        self.offset = 1_764_000_000.0
        self.watch = ClockWatch(lambda: self.ran + self.offset, lambda: self.ran)


@pytest.mark.parametrize("jump", [YEAR, -YEAR, TOLERATED + 1, -TOLERATED - 1, 1e12, -1e12])
def test_a_jump_is_doubted_and_believed_once_it_has_stood(jump: float) -> None:
    machine = Machine()
    machine.ran += 100
    assert machine.watch.doubt() == ""
    before = machine.watch.now()
    machine.offset += jump
    assert machine.watch.doubt() == f"the clock jumped by {jump:+.0f} s"
    machine.ran += HELD - 1
    assert machine.watch.doubt()
    assert machine.watch.now() == before + HELD - 1, "time goes on"
    machine.ran += 1
    assert machine.watch.now() == machine.ran + machine.offset
    assert machine.watch.doubt() == ""
    assert machine.watch.doubt() == ""


def test_a_jump_that_is_taken_back_is_forgotten_at_once() -> None:
    machine = Machine()
    machine.offset += YEAR
    assert machine.watch.doubt()
    machine.offset -= YEAR
    assert machine.watch.doubt() == ""


def test_a_clock_that_does_not_stand_is_not_believed() -> None:
    machine = Machine()
    for _ in range(20):
        machine.offset += YEAR
        assert machine.watch.doubt()
        machine.ran += HELD / 2
        assert machine.watch.doubt()


def test_small_corrections_are_followed_however_many() -> None:
    machine = Machine()
    for _ in range(100):
        machine.offset += TOLERATED - 1
        machine.ran += 3600
        assert machine.watch.doubt() == ""
        assert machine.watch.settled()


def test_nothing_is_thrown_away_within_a_day_of_a_jump() -> None:
    machine = Machine()
    assert machine.watch.settled(), "no jump was ever seen"
    machine.offset += YEAR
    assert not machine.watch.settled()
    machine.ran += HELD
    assert machine.watch.doubt() == ""
    assert not machine.watch.settled()
    machine.ran += DAY - 1
    assert not machine.watch.settled()
    machine.ran += 1
    assert machine.watch.settled()
