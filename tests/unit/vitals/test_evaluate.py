"""One snapshot out of three roll-ups."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.ledger.base import MEASURES, Cell, Row
from agent.vitals.anytime import interval
from agent.vitals.evaluate import evaluate
from agent.vitals.phases import PHASES
from agent.vitals.types import SCOPES, WINDOWS, Snapshot, TargetVerdict
from agent.vitals.volume import month_start

NOW = 1_750_000_123.0
MINUTE, HOUR, DAY = 60, 3600, 86400
CELL = Cell("example.com", "sendgrid", "news", "gmail")
DOMAINS = {"example.com": PHASES["growth"]}


def rollups(events: list[tuple[float, Cell, str, int]]) -> tuple[list[Row], list[Row], list[Row]]:
    """The three roll-ups of (time, cell, measure, count), as a store keeps them."""
    tables = []
    for width in (MINUTE, HOUR, DAY):
        sums: dict[tuple[int, Cell, str], int] = {}
        for at, cell, measure, count in events:
            key = (int(at // width) * width, cell, measure)
            sums[key] = sums.get(key, 0) + count
        tables.append([Row(*key, count) for key, count in sums.items()])
    return tables[0], tables[1], tables[2]


def evaluated(*events: tuple[float, Cell, str, int], **more: object) -> Snapshot:
    return evaluate(NOW, DOMAINS, *rollups(list(events)), **more)  # type: ignore[arg-type]


def test_each_window_holds_what_lies_in_it() -> None:
    ages = {"1h": 59 * MINUTE, "6h": 2 * HOUR, "24h": 23 * HOUR, "7d": 6 * DAY, "30d": 29 * DAY}
    vitals = evaluated(*[(NOW - age, CELL, "delivered", 1) for age in ages.values()]).domains["example.com"]
    assert vitals.attempted == {"1h": 1, "6h": 2, "24h": 3, "7d": 4, "30d": 5}
    assert vitals.rates["30d"]["deliverability"].denominator == 5


def test_a_bucket_that_overlaps_the_window_counts() -> None:
    inside = evaluated((NOW - HOUR - 3, CELL, "delivered", 1)).domains["example.com"]  # its minute ends in the window
    assert (inside.attempted["1h"], inside.attempted["6h"]) == (1, 1)
    outside = evaluated((NOW - HOUR - 61, CELL, "delivered", 1)).domains["example.com"]
    assert (outside.attempted["1h"], outside.attempted["6h"]) == (0, 1)
    ahead = evaluated((NOW + 300, CELL, "delivered", 1)).domains["example.com"]
    assert ahead.attempted["1h"] == 0


def test_a_configured_domain_without_mail_has_no_rates_but_verdicts() -> None:
    vitals = evaluated().domains["example.com"]
    assert vitals.rates == {window: {} for window in WINDOWS}
    assert vitals.attempted == dict.fromkeys(WINDOWS, 0)
    assert vitals.parts == {scope: {} for scope in SCOPES}
    assert {j.verdict for j in vitals.judgements} == {TargetVerdict.INSUFFICIENT_DATA}
    assert [j.target for j in vitals.judgements] == ["bounce", "deliverability", "complaint", "capacity"]
    assert (vitals.monthly_volume, vitals.monthly_projection, vitals.last_event_at) == (0, None, 0.0)


def test_intervals_of_every_look_are_those_of_the_judged_windows_and_of_the_calendar_month() -> None:
    before = month_start(NOW) - HOUR
    events = [
        (NOW - 2 * HOUR, CELL, "delivered", 990), (NOW - 2 * HOUR, CELL, "hard", 4), (NOW - 2 * HOUR, CELL, "soft", 6),
        (NOW - 5 * DAY, CELL, "delivered", 2000), (NOW - 5 * DAY, CELL, "complained", 3),
        (before, CELL, "delivered", 5000), (before, CELL, "hard", 500),
    ]  # fmt: skip
    vitals = evaluated(*events).domains["example.com"]
    judged = {judgement.target: judgement for judgement in vitals.judgements}
    assert {period: set(rates) for period, rates in vitals.anytime.items()} == {
        "24h": {"bounce", "deliverability"}, "7d": {"bounce", "deliverability", "complaint"}, "30d": {"complaint"},
        "month": {"bounce", "deliverability", "complaint"},
    }  # fmt: skip
    month = vitals.anytime["month"]
    assert [(month[t].numerator, month[t].denominator) for t in ("bounce", "deliverability", "complaint")] == [
        (4, 3000), (2990, 3000), (3, 2990),
    ]  # fmt: skip
    assert (month["bounce"].lower, month["bounce"].upper) == interval(4, 3000)
    for window in ("24h", "7d"):
        narrow, wide = vitals.rates[window]["bounce"], vitals.anytime[window]["bounce"]
        assert (wide.value, wide.numerator, wide.denominator) == (narrow.value, narrow.numerator, narrow.denominator)
        assert wide.lower is not None
        assert wide.upper is not None
        assert narrow.lower is not None
        assert narrow.upper is not None
        assert wide.lower < narrow.lower < narrow.upper < wide.upper
    assert judged["bounce"].rate in (vitals.rates["24h"]["bounce"], vitals.rates["7d"]["bounce"])
    # A delivery that bounces later moves in its own hours, a late event comes into its own: only the counts matter.
    moved = [
        (NOW - 2 * HOUR, CELL, "delivered", -1),
        (NOW - 2 * HOUR, CELL, "hard", 1),
        (NOW - 9 * DAY, CELL, "delivered", 9),
    ]
    later = evaluated(*events, *moved).domains["example.com"].anytime["month"]["bounce"]
    assert (later.lower, later.upper) == interval(5, 3009)


def test_lumps_widen_the_intervals_of_every_look() -> None:
    def mail(at: tuple[int, ...], failed: int) -> list[tuple[float, Cell, str, int]]:
        return [
            event
            for h in range(24 * 9)
            for event in (
                (NOW - h * HOUR, CELL, "delivered", 1000), (NOW - h * HOUR, CELL, "hard", failed * (h % 6 in at)),
            )
        ]  # fmt: skip

    single = evaluated(*mail((0, 1, 2, 3, 4, 5), 2)).domains["example.com"].anytime
    lumpy = evaluated(*mail((0,), 12)).domains["example.com"].anytime
    for period in ("24h", "7d", "month"):
        one, several = single[period]["bounce"], lumpy[period]["bounce"]
        assert several.value == pytest.approx(one.value, rel=0.25)
        assert one.lower is not None
        assert one.upper is not None
        assert several.lower is not None
        assert several.upper is not None
        assert several.upper - several.lower > 1.3 * (one.upper - one.lower)


def test_mail_of_no_configured_domain_is_shown_and_not_judged() -> None:
    snapshot = evaluated((NOW - 60, Cell("other", "ses", "", "yahoo"), "hard", 500))
    assert set(snapshot.domains) == {"example.com", "other"}
    other = snapshot.domains["other"]
    assert (other.phase, other.judgements, other.anytime) == ("", (), {})
    assert other.rates["1h"]["bounce"].value == 1.0
    assert other.parts["stream"] == {}
    assert "other" not in evaluated().domains


def test_parts_split_the_whole() -> None:
    gmail, yahoo = CELL, Cell("example.com", "ses", "news", "yahoo")
    vitals = evaluated(
        (NOW - 60, gmail, "delivered", 90),
        (NOW - 60, gmail, "block", 10),
        (NOW - 60, yahoo, "delivered", 40),
        (NOW - 60, yahoo, "hard", 10),
    ).domains["example.com"]
    assert set(vitals.parts["provider"]) == {"sendgrid", "ses"}
    assert vitals.parts["provider"]["ses"]["1h"]["bounce"].value == 0.2
    assert vitals.parts["mailbox_provider"]["gmail"]["24h"]["block"].value == 0.1
    assert vitals.parts["stream"]["news"]["30d"]["deliverability"].numerator == 130
    assert vitals.rates["1h"]["bounce"].denominator == 150


def test_the_verdict_over_24h_shows_the_very_rate_of_the_24h_window() -> None:
    # Bounces 24 h and 5 min ago lie in the hour that the window cuts, but not in the window.
    cut = NOW - DAY - 5 * MINUTE
    assert int(cut // HOUR) == int((NOW - DAY) // HOUR)
    vitals = evaluated(
        (cut, CELL, "hard", 300), (NOW - DAY + 300, CELL, "delivered", 100), (NOW - 60, CELL, "delivered", 100)
    ).domains["example.com"]
    assert vitals.rates["24h"]["bounce"].numerator == 0
    bounce = vitals.judgements[0]
    assert (bounce.target, bounce.verdict, bounce.window) == ("bounce", TargetVerdict.BREACHED, "7d")
    assert bounce.rate == vitals.rates["7d"]["bounce"]
    met = evaluated((cut, CELL, "delivered", 9000), (NOW - 60, CELL, "delivered", 1000)).domains["example.com"]
    assert met.judgements[0].window == "24h"
    assert met.judgements[0].rate == met.rates["24h"]["bounce"]


def test_the_newest_event_of_any_kind_is_the_last_sign_of_life() -> None:
    events = [(NOW - 3 * DAY, CELL, "delivered", 1000)]
    silent = evaluated(*events).domains["example.com"]
    assert NOW - 3 * DAY - HOUR <= silent.last_event_at <= NOW - 3 * DAY
    assert {j.verdict for j in silent.judgements} == {TargetVerdict.STALE}
    opened = evaluated(*events, (NOW - HOUR, CELL, "opened", 1)).domains["example.com"]
    assert NOW - HOUR - MINUTE <= opened.last_event_at <= NOW - HOUR
    assert opened.judgements[0].verdict is TargetVerdict.MET
    told = evaluated(*events, last_event={"example.com": NOW - 60}).domains["example.com"]
    assert told.last_event_at == NOW - 60
    assert evaluated(*events, stale_after=4 * DAY).domains["example.com"].judgements[0].verdict is TargetVerdict.MET


def test_settings_reach_rates_and_verdicts() -> None:
    events = [(NOW - 60, CELL, "delivered", 900), (NOW - 60, CELL, "soft", 100)]
    assert evaluated(*events).domains["example.com"].judgements[0].verdict is TargetVerdict.MET
    vitals = evaluated(*events, bounce_classes=("hard", "soft")).domains["example.com"]
    assert vitals.judgements[0].verdict is TargetVerdict.BREACHED
    assert vitals.rates["1h"]["bounce"].value == 0.1


def test_the_month_counts_attempted_mail() -> None:
    start = month_start(NOW)
    vitals = evaluated(
        (start, CELL, "delivered", 10), (NOW - 60, CELL, "soft", 5), (NOW - 60, CELL, "dropped", 50),
        (start - 1, CELL, "delivered", 1000),
    ).domains["example.com"]  # fmt: skip
    assert vitals.monthly_volume == 15
    assert vitals.monthly_projection is not None
    assert vitals.monthly_projection > 15


events = st.lists(
    st.tuples(
        st.integers(int(NOW) - 31 * DAY, int(NOW)),
        st.builds(
            Cell,
            st.sampled_from(["example.com", "other"]),
            st.sampled_from(["ses", "mailgun"]),
            st.sampled_from(["", "news"]),
            st.sampled_from(["gmail", "other"]),
        ),
        st.sampled_from(MEASURES),
        st.integers(1, 500),
    ),
    max_size=30,
)


@settings(max_examples=100)
@given(events, st.randoms(use_true_random=False))
def test_windows_nest_parts_add_up_and_row_order_plays_no_part(
    several: list[tuple[int, Cell, str, int]], random: object
) -> None:
    tables = rollups(list(several))
    snapshot = evaluate(NOW, DOMAINS, *tables)
    for table in tables:
        random.shuffle(table)  # type: ignore[attr-defined]
    assert evaluate(NOW, DOMAINS, *tables) == snapshot
    for vitals in snapshot.domains.values():
        sizes = [vitals.attempted[window] for window in WINDOWS]
        assert sizes == sorted(sizes)
        for window in WINDOWS:
            whole = vitals.rates[window].get("bounce")
            for scope in ("provider", "mailbox_provider"):
                parts = [part[window]["bounce"] for part in vitals.parts[scope].values() if window in part]
                assert sum(p.denominator for p in parts) == vitals.attempted[window]
                assert sum(p.numerator for p in parts) == (whole.numerator if whole else 0)
        for judgement in vitals.judgements:
            if judgement.rate is not None and judgement.window == "24h":
                assert judgement.rate == vitals.rates["24h"][judgement.target]


def test_a_month_of_ten_busy_domains_is_quick() -> None:
    cells = [Cell(f"d{d}.example", f"p{c % 3}", f"s{c % 4}", f"m{c}") for d in range(10) for c in range(20)]
    measures = ("delivered", "hard", "soft", "block", "complained", "deferred_pairs")
    first = int(NOW // HOUR) * HOUR
    rows = [Row(first - h * HOUR, cell, m, 7) for h in range(720) for cell in cells for m in measures]
    domains = {cell.domain: PHASES["growth"] for cell in cells}
    began = time.process_time()
    snapshot = evaluate(NOW, domains, (), rows, ())
    # Well below a second on an idle core; the margin is for loaded build machines.
    assert time.process_time() - began < 3
    assert snapshot.domains["d3.example"].attempted["30d"] == 720 * 20 * 4 * 7
