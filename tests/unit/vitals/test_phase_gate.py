"""The gate between two phases: ready, not yet or cannot tell, with the evidence and the earliest day."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from agent.clock import DAY
from agent.vitals.forecast import Forecast, forecasts
from agent.vitals.gate import Check, GateState, Item, ItemState, PhaseGate, gate, proven
from agent.vitals.phases import PHASES, Phase
from agent.vitals.proof import Proof, Standing, prove, standing
from agent.vitals.rates import Counts
from agent.vitals.types import Judgement, TargetVerdict

NOW = datetime(2026, 6, 15, 9, tzinfo=UTC).timestamp()
TODAY = int(NOW // DAY) * DAY
GROWTH = PHASES["growth"]
# Of 2,500 mails a day: within every target, as the week's bounds (and the month's, of complaints) show.
GOOD = Counts(delivered=2470, hard=10, soft=12, block=8, complained=1)
BAD = Counts(delivered=2400, hard=92, soft=8)
Days = dict[int, Counts]
MET, BREACHED, UNDECIDED, STALE = (TargetVerdict(v) for v in ("met", "breached", "undecided", "stale"))


def day(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def history(counts: Counts = GOOD, first: int = 60, last: int = 1) -> Days:
    """The same every day, from ``first`` days ago to ``last``."""
    return {TODAY - back * DAY: counts for back in range(last, first + 1)}


def share(counts: Counts, part: float) -> Counts:
    return Counts(*(round(n * part) for n in msgspec.structs.astuple(counts)))


def split(days: Days, **parts: float) -> dict[str, Days]:
    return {name: {d: share(counts, part) for d, counts in days.items()} for name, part in parts.items()}


def judged(target: str, verdict: TargetVerdict) -> Judgement:
    return Judgement(target, verdict, 0.01, "24h", None, f"{verdict} for a reason")


def plan(amount: int, at: float | None, reached: bool = False) -> Forecast:
    return Forecast("plan", amount, reached, at, at, at, NOW + 180 * DAY, 0.0, 0.0, 0.0)


def asked(
    *, phase: Phase = GROWTH, days: Days | None = None, providers: dict[str, Days] | None = None,
    capacity_at: float | None = None, **more: Any,
) -> PhaseGate:  # fmt: skip
    """The gate of a domain that is ready, but for what is given."""
    days = history() if days is None else days
    if providers is None:
        providers = split(days, gmail=0.5, microsoft=0.2, other=0.3)
    known: dict[str, Any] = {
        "judgements": [judged(t, MET) for t in ("bounce", "deliverability", "complaint", "capacity")],
        "checks": [Check("spf", "ok"), Check("dkim s1", "ok"), Check("dmarc", "ok")],
        "blocklists": [Check("psbl 192.0.2.1", "ok")],
        "phase_since": day("2026-05-04"),
    }
    evidence = proven(days, providers, phase, NOW, capacity_at=capacity_at)
    return gate("example.com", phase, PHASES, NOW, evidence, **(known | more))


def item(found: PhaseGate, name: str) -> Item:
    (one,) = [i for i in found.items if i.name == name]
    return one


def test_the_base_is_ready() -> None:
    found = asked()
    assert (found.state, found.earliest, found.phase, found.next_phase) == ("ready", TODAY, "growth", "enterprise")
    assert {i.state for i in found.items} == {ItemState.PASSED}
    assert [i.name for i in found.items] == [
        "bounce", "deliverability", "complaint", "mailbox_providers", "capacity", "dns", "blocklists", "incidents",
        "duration",
    ]  # fmt: skip
    assert found.weeks == 6.0
    assert item(found, "bounce").evidence == "14 days below 1 % are proven; 70 of 17,500 failed in 7 days"


BROKEN_YESTERDAY = history() | {TODAY - DAY: BAD}
# The bad day is part of seven stretches of seven days.
DAY_NINE = history() | {TODAY - 16 * DAY: BAD}
DAY_THIRTEEN = history() | {TODAY - 20 * DAY: BAD}
COMPLAINTS = msgspec.structs.replace(GOOD, complained=12)
A_FEW_COMPLAINTS = msgspec.structs.replace(GOOD, complained=4)
SOFT = msgspec.structs.replace(GOOD, delivered=2250, soft=232)
QUIET = share(GOOD, 0.4)
SMALL = history(Counts(delivered=3))
YOUNG = history(first=10)
GMAIL_ILL = split(history(), microsoft=0.2, other=0.3) | {"gmail": history(share(BAD, 0.5))}
GMAIL_ILL_NOW = split(history(), microsoft=0.2, other=0.3) | {
    "gmail": history(share(GOOD, 0.5)) | history(share(BAD, 0.5), first=3)
}
YAHOO_SMALL_AND_ILL = split(history(), gmail=0.5, other=0.4) | {"yahoo": history(share(BAD, 0.05))}
UNSURE = split(history(), microsoft=0.5) | {"gmail": history(Counts(delivered=296, hard=3))}
FEW = split(history(SMALL[TODAY - DAY]), gmail=1.0)
GMAIL_COMPLAINS = split(history(), microsoft=0.5) | {"gmail": history(Counts(delivered=1250, complained=6))}
GMAIL_COMPLAINS_A_BIT = split(history(), microsoft=0.5) | {"gmail": history(Counts(delivered=1250, complained=2))}

# What is moved away from the base; the gate's state; the condition that it moves, its state and its earliest day.
SCENARIOS: list[tuple[str, dict[str, Any], str, str, str, str | None]] = [
    ("breached on yesterday alone", {"days": BROKEN_YESTERDAY}, "not_yet", "bounce", "blocking", "2026-06-29"),
    ("day 9 of 14", {"days": DAY_NINE}, "not_yet", "bounce", "blocking", "2026-06-20"),
    ("day 13 of 14", {"days": DAY_THIRTEEN}, "not_yet", "bounce", "blocking", "2026-06-16"),
    ("long ago", {"days": history() | {TODAY - 40 * DAY: BAD}}, "ready", "bounce", "passed", "now"),
    ("always bad", {"days": history(BAD)}, "not_yet", "bounce", "blocking", "2026-07-04"),
    ("soft bounces", {"days": history(SOFT)}, "not_yet", "deliverability", "blocking", "2026-07-02"),
    ("soft bounces are no bounces", {"days": history(SOFT)}, "not_yet", "bounce", "passed", "now"),
    ("complaints", {"days": history(COMPLAINTS)}, "not_yet", "complaint", "blocking", "2026-07-24"),
    ("complaints between the limits", {"days": history(A_FEW_COMPLAINTS)}, "cannot_tell", "complaint", "unknown",
     "2026-07-14"),
    ("a breach this morning", {"judgements": [judged("bounce", BREACHED)]}, "not_yet", "bounce", "blocking",
     "2026-06-30"),
    ("a source that is silent", {"judgements": [judged("bounce", STALE)]}, "cannot_tell", "bounce", "unknown",
     "2026-06-15"),
    ("undecided this morning", {"judgements": [judged("bounce", UNDECIDED)]}, "ready", "bounce", "passed", "now"),
    ("no mail at all", {"days": {}}, "not_yet", "bounce", "unknown", None),
    ("no mail, no provider", {"days": {}}, "not_yet", "mailbox_providers", "unknown", None),
    ("few mails: bounces", {"days": SMALL}, "not_yet", "bounce", "unknown", None),
    ("few mails: deliverability", {"days": history(share(GOOD, 0.03))}, "not_yet", "deliverability", "passed", "now"),
    ("few mails: complaints", {"days": history(Counts(delivered=110))}, "not_yet", "complaint", "unknown", None),
    ("ten days of history", {"days": YOUNG}, "not_yet", "bounce", "blocking", "2026-06-19"),
    ("the last weekend was quiet", {"days": history(last=3)}, "ready", "bounce", "passed", "now"),
    ("gmail bounces", {"providers": GMAIL_ILL}, "not_yet", "mailbox_providers", "blocking", "2026-07-08"),
    ("gmail bounces since three days", {"providers": GMAIL_ILL_NOW}, "not_yet", "mailbox_providers", "blocking",
     "2026-06-16"),
    ("a small one bounces", {"providers": YAHOO_SMALL_AND_ILL}, "ready", "mailbox_providers", "passed", "now"),
    ("gmail on neither side", {"providers": UNSURE}, "cannot_tell", "mailbox_providers", "unknown", "2026-06-22"),
    ("gmail complains", {"providers": GMAIL_COMPLAINS}, "not_yet", "mailbox_providers", "blocking", "2026-06-30"),
    ("gmail complains a bit", {"providers": GMAIL_COMPLAINS_A_BIT}, "ready", "mailbox_providers", "passed", "now"),
    ("nobody is large", {"providers": split(history(), other=1.0)}, "ready", "mailbox_providers", "passed", "now"),
    ("volume not reached", {"days": history(QUIET)}, "not_yet", "capacity", "blocking", None),
    ("volume reached soon", {"days": history(QUIET), "capacity_at": day("2026-07-20")}, "not_yet", "capacity",
     "blocking", "2026-07-20"),
    ("foundation asks for no volume", {"days": history(QUIET), "phase": PHASES["foundation"]}, "ready", "capacity",
     "passed", "now"),
    ("outgrown", {"days": history(share(GOOD, 2))}, "ready", "capacity", "passed", "now"),
    ("silent: volume", {"judgements": [judged("capacity", STALE)]}, "cannot_tell", "capacity", "unknown",
     "now"),
    ("a plan with room", {"forecasts": [plan(1_000_000, None)]}, "ready", "headroom", "passed", "now"),
    ("a plan that ends in July", {"forecasts": [plan(600_000, day("2026-07-02"))]}, "not_yet", "headroom", "blocking",
     "now"),
    ("a plan that ends in August", {"forecasts": [plan(600_000, day("2026-08-02"))]}, "ready", "headroom", "passed",
     "now"),
    ("a plan that is used up", {"forecasts": [plan(600_000, day("2026-06-02"), True)]}, "not_yet", "headroom",
     "blocking", "now"),
    ("a plan below the next phase", {"forecasts": [plan(100_000, None)]}, "not_yet", "headroom", "blocking", "now"),
    ("a check fails", {"checks": [Check("spf", "ok"), Check("dkim s1", "fail")]}, "not_yet", "dns", "blocking", "now"),
    ("a check is unknown", {"checks": [Check("spf", "unknown"), Check("dmarc", "ok")]}, "cannot_tell", "dns", "unknown",
     "now"),
    ("one fails, one is unknown", {"checks": [Check("spf", "unknown"), Check("dmarc", "fail")]}, "not_yet", "dns",
     "blocking", "now"),
    ("a check warns", {"checks": [Check("spf", "warn")]}, "ready", "dns", "passed", "now"),
    ("no check yet", {"checks": []}, "cannot_tell", "dns", "unknown", "now"),
    ("listed", {"blocklists": [Check("psbl 192.0.2.1", "fail")]}, "not_yet", "blocklists", "blocking", "now"),
    ("the list does not answer", {"blocklists": [Check("psbl 192.0.2.1", "unknown")]}, "cannot_tell", "blocklists",
     "unknown", "now"),
    ("a shared address is listed", {"blocklists": [Check("psbl 192.0.2.9", "warn")]}, "ready", "blocklists", "passed",
     "now"),
    ("no list is asked", {"blocklists": []}, "cannot_tell", "blocklists", "unknown", "now"),
    ("an incident", {"incidents": ["DKIM key missing"]}, "not_yet", "incidents", "blocking", "now"),
    ("since three weeks", {"phase_since": day("2026-05-25")}, "not_yet", "duration", "blocking", "2026-06-22"),
    ("since ten weeks", {"phase_since": day("2026-04-06")}, "ready", "duration", "passed", "now"),
    ("since nobody knows", {"phase_since": None}, "cannot_tell", "duration", "unknown", "now"),
    ("blocking is heavier than unknown", {"phase_since": None, "incidents": ["one"]}, "not_yet", "duration", "unknown",
     "now"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("what", "change", "state", "name", "one", "earliest"), SCENARIOS, ids=[s[0] for s in SCENARIOS]
)
def test_one_fact_moved(
    what: str, change: dict[str, Any], state: str, name: str, one: str, earliest: str | None
) -> None:
    found = asked(**change)
    moved = item(found, name)
    when = TODAY if earliest == "now" else day(earliest) if earliest else None
    assert (found.state, moved.state, moved.earliest) == (state, one, when), moved.evidence
    # The whole can pass when its last condition can.
    dates = [i.earliest for i in found.items]
    assert found.earliest == (None if None in dates else max(d for d in dates if d is not None))
    assert (found.state is GateState.READY) == all(i.state is ItemState.PASSED for i in found.items)


def test_the_evidence_is_in_words_with_numbers() -> None:
    found = asked(days=history() | {TODAY - 10 * DAY: BAD}, phase_since=day("2026-04-06"), incidents=["a", "b"])
    assert item(found, "bounce").evidence == "day 3 of 14 proven below 1 %; 70 of 17,500 failed in 7 days"
    assert item(found, "duration").evidence == (
        "4 to 8 weeks are planned for growth, 10.0 have passed since 2026-04-06: 2.0 more than planned"
    )
    assert item(found, "incidents").evidence == "2 incidents open: a, b"
    ill = asked(providers=GMAIL_ILL)
    assert item(ill, "mailbox_providers").evidence == "gmail: bounce 322 of 8,750 in 7 days, above 1 %"
    many = asked(checks=[Check(f"dkim s{n}", "fail") for n in range(7)])
    assert item(many, "dns").evidence == "7 DNS checks failed: dkim s0, dkim s1, dkim s2, dkim s3, dkim s4 and 2 more"


@pytest.mark.parametrize(
    ("phase", "daily", "words"),
    [
        ("growth", 2_500, "75,000 mails in 30 days: growth is 50,000 to 100,000"),
        ("growth", 6_000, "180,000 mails in 30 days: growth outgrown, enterprise not reached"),
        ("growth", 20_000, "600,000 mails in 30 days: growth outgrown, enterprise reached"),
        ("enterprise", 6_000, "180,000 mails in 30 days: below the 500,000 of enterprise"),
        ("enterprise", 20_000, "600,000 mails in 30 days: enterprise is from 500,000"),
        ("foundation", 20_000, "foundation asks for no volume"),
    ],
)
def test_what_a_volume_is(phase: str, daily: int, words: str) -> None:
    found = asked(phase=PHASES[phase], days=history(share(GOOD, daily / 2500)))
    assert item(found, "capacity").evidence == words


def test_the_last_phase_is_held_or_not() -> None:
    found = asked(phase=PHASES["enterprise"], days=history(share(GOOD, 8)), phase_since=day("2026-03-01"))
    assert (found.state, found.next_phase) == ("ready", "")


def test_before_the_counts_are_read_nothing_is_told() -> None:
    found = gate("example.com", GROWTH, PHASES, NOW, None, checks=[Check("spf", "ok")])
    assert found.state is GateState.CANNOT_TELL
    assert [i.state for i in found.items[:5]] == [ItemState.UNKNOWN] * 5


def test_a_real_forecast_tells_when_the_volume_is_there() -> None:
    growing = {TODAY - back * DAY: share(GOOD, (60 - back) / 60) for back in range(1, 61)}
    volumes = {d: counts.attempted for d, counts in growing.items()}
    (reached,) = forecasts(volumes, NOW, msgspec.structs.replace(GROWTH, capacity=(None, 50_000)), None)
    assert reached.at == asked(days=growing, capacity_at=reached.at).earliest or reached.reached


@pytest.mark.parametrize(
    ("failures", "trials", "found"),
    [
        (0, 0, "too_little"), (0, 367, "too_little"), (0, 368, "within"), (1, 13, "too_little"), (3, 13, "beyond"),
        (2, 2, "too_little"), (70, 10_000, "within"), (100, 10_000, "undecided"), (150, 10_000, "beyond"),
        (20, 10, "too_little"),
    ],
)  # fmt: skip
def test_what_failures_prove(failures: int, trials: int, found: str) -> None:
    assert standing(failures, trials, 0.01, 0.01) == found


def test_a_proof_tells_what_it_rests_on() -> None:
    assert prove(history(), GROWTH, "bounce", NOW) == Proof(
        "bounce", 14, 14, Standing.WITHIN, 70, 17_500, 7, 0.01, float(TODAY)
    )
    bad = prove(history() | {TODAY - DAY: BAD}, GROWTH, "bounce", NOW)
    assert (bad.days, bad.standing, bad.failures, bad.trials, bad.stretch) == (0, "beyond", 92, 2_500, 1)


def test_how_many_days_are_asked_is_a_choice() -> None:
    short = msgspec.structs.replace(GROWTH, sustained_days=7)
    assert asked(days=history() | {TODAY - 14 * DAY: BAD}, phase=short).state == "ready"
    long = msgspec.structs.replace(GROWTH, sustained_days=90)
    found = prove(history(first=60), long, "bounce", NOW)
    assert (found.days, found.earliest) == (60, TODAY + 30 * DAY)


def test_today_is_not_over_and_does_not_count() -> None:
    assert asked(days=history() | {TODAY: BAD}) == asked()
