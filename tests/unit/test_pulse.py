"""What sources say is written down by the hour, outlives a restart, and does not grow."""

from __future__ import annotations

from agent.clock import HOUR, WEEK
from agent.intake.pulse import Pulse
from agent.vitals.rhythm import INTERVAL

NOW = 1_750_032_000.0


def live(pulse: Pulse, start: float, end: float, *, talk: bool = True) -> None:
    """Mark every minute, and let the source speak twice in every interval."""
    at = start
    while at < end:
        pulse.listening(at, True)
        if talk and (at - start) % INTERVAL < 120:
            pulse.heard("main", at, 5)
        at += 60.0


def judged(pulse: Pulse, now: float) -> Pulse:
    for _ in pulse.judge(now):
        pass
    return pulse


def test_a_rhythm_forms_is_kept_and_broken() -> None:
    pulse = Pulse(["main", "other"], NOW)
    live(pulse, NOW, NOW + 2.2 * WEEK)
    end = NOW + 2.2 * WEEK
    assert judged(pulse, end).silence("main") is None, "it speaks"
    documents = dict(pulse.changes(end))
    assert set(documents) == {"", "main"}
    assert not dict(pulse.changes(end)), "nothing changed since"

    again = Pulse(["main", "other"], end)
    again.restore({**documents, "gone": b"{}"})
    live(again, end, end + 3 * HOUR, talk=False)
    now = end + 3 * HOUR
    found = judged(again, now).silence("main")
    assert found is not None
    assert found.missing
    assert 34 < found.intervals < 37
    assert found.events > 200
    assert again.silence("other") is None

    again.heard("main", now + 1, 1)
    assert again.silence("main") is None, "at once, not when it is judged next"


def test_deaf_times_do_not_count() -> None:
    pulse = Pulse(["main"], NOW)
    live(pulse, NOW, NOW + 2.2 * WEEK)
    end = NOW + 2.2 * WEEK
    minute = end
    while minute < end + 5 * HOUR:
        pulse.listening(minute, False)
        minute += 60.0
    found = judged(pulse, end + 5 * HOUR).silence("main")
    assert found is not None
    assert not found.missing
    assert found.intervals < 2
    pulse.listening(end + 9 * HOUR, True)
    pulse.listening(end + 12 * HOUR, True)  # nobody knows what was in between
    later = judged(pulse, end + 12 * HOUR).silence("main")
    assert later is not None
    assert later.intervals == found.intervals


def test_what_is_old_goes_and_what_is_unreadable_is_forgotten() -> None:
    pulse = Pulse(["main"], NOW)
    pulse.restore({"main": b"not json", "": b'{"hours": 7}'})
    for week in range(9):
        pulse.heard("main", NOW + week * WEEK, 1)
    pulse.heard("main", NOW - 90 * WEEK, 1)
    (document,) = dict(pulse.changes(NOW + 8 * WEEK)).values()
    assert document.count(b"[1,1]") == 6  # five weeks and the present
