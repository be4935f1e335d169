"""The metrics are exact, complete, well named and bounded, whatever the labels say."""

from __future__ import annotations

import gzip
import itertools
import re
import subprocess
import time
from pathlib import Path

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from agent.alerts.types import Incident
from agent.dns.checks.base import Verdict
from agent.events import BounceClass, Kind
from agent.ledger.base import Applied, Cell, Counted
from agent.views.catalogue import CATALOGUE, PREFIX, REQUEST_OUTCOMES, WHOLE
from agent.views.metrics import Metrics
from agent.views.state import State
from agent.vitals.scopes import PartVerdict
from agent.vitals.types import DomainVitals, Snapshot, TargetVerdict
from tests.servers.base import program
from tests.unit.views import states

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def metrics(state: State | None = None, **options: int) -> Metrics:
    shown = state or states.state()
    made = Metrics(lambda: shown, version="1.2.3", revision="abc", **options)
    made.declare_source("main", "sendgrid")
    return made


def samples(made: Metrics, state: State | None = None) -> Samples:
    """All samples by name and labels; a repeated one is an error, as it is to Prometheus."""
    body, _ = made.render(state or states.state())
    found: Samples = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"twice: {key}"
            found[key] = sample.value
    return found


def value(found: Samples, name: str, **labels: str) -> float:
    return found[PREFIX + name, tuple(sorted(labels.items()))]


def total(found: Samples, name: str) -> float:
    return sum(v for (n, _), v in found.items() if n == PREFIX + name)


def counted(domain: str = "example.com", stream: str = "", mailbox: str = "gmail") -> Counted:
    return Counted(Cell(domain, "sendgrid", stream, mailbox), Kind.BOUNCED, BounceClass.HARD)


def test_what_a_request_and_a_batch_do_to_the_counters() -> None:
    m = metrics()
    m.request("main", "accepted", 0.004)
    m.request("main", "accepted", 0.4)
    m.applied("main", Applied({counted(): 3}, {"same_event": 2}, {"too_old": 1}, 4))
    m.applied("main", Applied({counted(): 1}, {}, {}, 0))
    m.refused("main", "in_future", 5)
    m.quarantined("main", "unreadable")
    m.notification("http://am:9093", "failed")
    m.dns_query("timeout", 3.0)
    m.commit(0.02, 700)
    m.loop_lag(0.003)
    m.queue_depth(17)
    found = samples(m)
    assert value(found, "webhook_requests_total", source="main", outcome="accepted") == 2
    assert value(found, "webhook_request_duration_seconds_count", source="main") == 2
    assert value(found, "webhook_request_duration_seconds_bucket", source="main", le="0.005") == 1
    event = {"domain": "example.com", "provider": "sendgrid", "stream": "", "mailbox_provider": "gmail"}
    assert value(found, "events_total", source="main", kind="bounced", bounce_class="hard", **event) == 4
    assert value(found, "duplicate_events_total", source="main", reason="same_event") == 2
    assert value(found, "refused_events_total", source="main", reason="too_old") == 1
    assert value(found, "refused_events_total", source="main", reason="in_future") == 5
    assert value(found, "unmatched_async_bounces_total", source="main") == 4
    assert value(found, "quarantined_requests_total", source="main", reason="unreadable") == 1
    assert value(found, "alertmanager_notifications_total", alertmanager="http://am:9093", outcome="failed") == 1
    assert value(found, "dns_queries_total", outcome="timeout") == 1
    assert value(found, "ledger_commit_events_sum") == 700
    assert value(found, "event_loop_lag_seconds_count") == 1
    assert value(found, "intake_queue_events") == 17


def test_a_declared_source_shows_zeros_from_the_start() -> None:
    found = samples(metrics())
    for outcome in REQUEST_OUTCOMES:
        assert value(found, "webhook_requests_total", source="main", outcome=outcome) == 0
    assert value(found, "duplicate_events_total", source="main", reason="same_outcome") == 0
    assert value(found, "unmatched_async_bounces_total", source="main") == 0
    assert value(found, "dns_queries_total", outcome="servfail") == 0
    assert not any(name.endswith("_created") for name, _ in found)


def test_beyond_the_budget_labels_become_other_and_totals_stay_exact() -> None:
    m = metrics(budget=200)
    for n in range(3_000):
        m.applied("main", Applied({counted(stream=f"s{n}", mailbox=f"m{n}"): 2}))
        m.request(f"nobody-{n}", "accepted", 0.01)
    found = samples(m)
    assert total(found, "events_total") == 6_000
    assert total(found, "webhook_requests_total") == 3_000
    assert total(found, "webhook_request_duration_seconds_count") == 3_000
    other = {"domain": "other", "provider": "sendgrid", "stream": "other", "mailbox_provider": "other"}
    assert value(found, "events_total", source="main", kind="bounced", bounce_class="hard", **other) > 5_000
    local = [key for key in found if key[0].startswith(PREFIX) and key[0].removeprefix(PREFIX) not in _WHOLE]
    assert len(local) < 350
    assert value(found, "series_folded_total") > 2_900


_WHOLE = {metric.name for metric in WHOLE}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(max_size=300), min_size=1, max_size=5))
def test_no_label_value_breaks_the_exposition(hostile: list[str]) -> None:
    m = metrics()
    surrogate = [*hostile, "\ud800", 'a"b\\c\nd', "x" * 5_000]
    for text in surrogate:
        m.request(text, text, 0.1)
        m.applied(text, Applied({counted(text, text, text): 1}, {text: 1}, {text: 1}, 1))
        m.notification(text, text)
    found = samples(m)
    assert total(found, "events_total") == len(surrogate)
    assert max(len(v) for _, labels in found for _, v in labels) <= 200


def test_hostile_names_in_the_whole_do_not_break_it() -> None:
    name = 'evil"\\\n\ud800'
    vitals = msgspec.structs.replace(states.domain_well(), domain=name)
    shown = states.state(snapshot=Snapshot(states.NOW, {name: vitals}))
    assert value(samples(metrics(shown), shown), "monthly_volume", domain='evil"\\\n?') == vitals.monthly_volume


def test_rates_have_their_bounds_and_absent_ones_are_absent() -> None:
    quiet = msgspec.structs.replace(
        states.domain_well(),
        domain="quiet.example",
        rates={},
        parts={},
        attempted={"24h": 0},
        judgements=(),
        anytime={},
    )
    shown = states.state(snapshot=Snapshot(states.NOW, {"example.com": states.domain_well(), "quiet.example": quiet}))
    found = samples(metrics(shown), shown)
    bounce = states.domain_well().rates["7d"]["bounce"]
    assert value(found, "bounce_ratio", domain="example.com", window="7d") == bounce.value
    assert value(found, "bounce_ratio_lower", domain="example.com", window="7d") == bounce.lower
    assert value(found, "bounce_ratio_upper", domain="example.com", window="7d") == bounce.upper
    assert value(found, "deferral_ratio", domain="example.com", window="7d") > 0
    assert not any("deferral_ratio_" in name for name, _ in found)
    always = states.domain_well().anytime["month"]["complaint"]
    assert value(found, "complaint_ratio_anytime_lower", domain="example.com", window="month") == always.lower
    assert value(found, "complaint_ratio_anytime_upper", domain="example.com", window="month") == always.upper
    assert {dict(key)["window"] for name, key in found if name == PREFIX + "bounce_ratio_anytime_lower"} == {
        "24h", "7d", "month",
    }  # fmt: skip
    part = states.domain_well().parts["mailbox_provider"]["microsoft"]["24h"]["block"]
    labels = {"domain": "example.com", "mailbox_provider": "microsoft", "window": "24h"}
    assert value(found, "mailbox_provider_block_ratio", **labels) == part.value
    assert not any("_ratio" in name for name, key in found if ("domain", "quiet.example") in key)
    assert value(found, "attempted", domain="quiet.example", window="24h") == 0
    assert all(0 <= v <= 1 for (n, _), v in found.items() if "_ratio" in n)


def test_verdicts_of_parts_are_bounded_and_breached_ones_go_first() -> None:
    trends = states.trends()["news.example.org"]
    many = tuple(
        PartVerdict(
            "stream", f"s{n}", "bounce", TargetVerdict.BREACHED if n == 77 else TargetVerdict.MET, 0, 10_000 - n
        )
        for n in range(100)
    )
    domain = msgspec.structs.replace(states.domain_ill(), parts={"stream": {f"s{n}": {} for n in range(100)}})
    shown = states.state(
        snapshot=Snapshot(states.NOW, {"news.example.org": domain}),
        trends={"news.example.org": msgspec.structs.replace(trends, verdicts=many)},
    )
    found = samples(Metrics(lambda: shown, version="1", whole_budget=4 * 5 * 10), shown)
    told = {dict(labels)["stream"] for name, labels in found if name == PREFIX + "stream_target_verdict"}
    assert told == {"s77", *(f"s{n}" for n in range(9))}
    # Trends are older than the snapshot: a part that has another name by now is no part.
    renamed = msgspec.structs.replace(domain, parts={"stream": {"s1": {}}})
    shown = msgspec.structs.replace(shown, snapshot=Snapshot(states.NOW, {"news.example.org": renamed}))
    found = samples(Metrics(lambda: shown, version="1"), shown)
    told = {dict(labels)["stream"] for name, labels in found if name == PREFIX + "stream_target_verdict"}
    assert told == {"s1"}


def test_state_sets_show_every_state_and_exactly_one_holds() -> None:
    found = samples(metrics())
    sets: dict[tuple[str, tuple[tuple[str, str], ...]], dict[str, float]] = {}
    for (name, labels), v in found.items():
        if name.endswith("_verdict"):
            rest = tuple(kv for kv in labels if kv[0] != "verdict")
            sets.setdefault((name, rest), {})[dict(labels)["verdict"]] = v
    parts = {"provider_target_verdict", "mailbox_provider_target_verdict"}
    assert {name for name, _ in sets} == {PREFIX + name for name in ("target_verdict", "dns_check_verdict", *parts)}
    for (name, _), verdicts in sets.items():
        assert set(verdicts) == set(TargetVerdict if name.endswith("target_verdict") else Verdict)
        assert sorted(verdicts.values())[-2:] == [0, 1]
        assert sum(verdicts.values()) == 1
    growth = {"domain": "example.com", "phase": "growth", "target": "complaint"}
    assert value(found, "target_verdict", **growth, verdict="undecided") == 1


def test_times_incidents_and_volumes() -> None:
    found = samples(metrics())
    assert value(found, "incidents", domain="news.example.org", state="open") == 1
    assert value(found, "incidents", domain="news.example.org", state="closing") == 1
    assert value(found, "incidents", domain="example.com", state="open") == 0
    assert value(found, "monthly_volume_projected", domain="example.com") == 71_400
    assert (PREFIX + "monthly_volume_projected", (("domain", "news.example.org"),)) not in found
    last = value(found, "dns_last_success_timestamp_seconds", domain="example.com", check="ptr")
    assert last == states.NOW - 5 * states.HOUR
    assert value(found, "alertmanagers") == 2
    assert value(found, "ready") == 1
    assert value(found, "last_evaluation_timestamp_seconds") == states.NOW - 4
    assert value(found, "source_last_event_timestamp_seconds", source="mailgun-news") == states.NOW - 900


def test_a_resolved_incident_counts_no_more() -> None:
    gone = Incident({"domain": "example.com", "alertname": "MailTargetBreached"}, {}, 1.0, 2.0, 3.0)
    shown = states.state(incidents=(gone,))
    assert total(samples(metrics(shown), shown), "incidents") == 0


def test_only_the_leader_describes_the_whole() -> None:
    follower = states.state(leader=False)
    found = samples(metrics(follower), follower)
    names = {name.removeprefix(PREFIX) for name, _ in found}
    assert not names & _WHOLE
    assert {"ready", "alertmanagers", "build_info", "webhook_requests_total"} <= names


def test_before_the_first_evaluation_nothing_is_claimed() -> None:
    first = states.first_minute()
    found = samples(metrics(first), first)
    assert value(found, "ready") == 0
    assert value(found, "incidents", domain="example.com", state="open") == 0
    names = {name.removeprefix(PREFIX) for name, _ in found}
    assert not {n for n in names if "_ratio" in n or "timestamp" in n or "verdict" in n}


def busy(parts: int) -> State:
    vitals: DomainVitals = msgspec.structs.replace(
        states.domain_well(),
        parts={"stream": {f"s{n:04}": {"24h": states.rates(100 + n)} for n in range(parts)}},
    )
    return states.state(snapshot=Snapshot(states.NOW, {"example.com": vitals}))


def test_the_smallest_parts_are_folded_into_other_and_add_up() -> None:
    shown = busy(400)
    found = samples(metrics(shown, whole_budget=2_000), shown)
    assert len([name for name, _ in found if name.removeprefix(PREFIX) in _WHOLE]) <= 2_000
    folded = int(value(found, "parts_folded"))
    assert 250 < folded < 400
    streams = {dict(labels)["stream"] for name, labels in found if name == PREFIX + "stream_bounce_ratio"}
    assert streams == {"other", *(f"s{n:04}" for n in range(folded, 400))}
    hard = sum(states.rates(100 + n)["bounce"].numerator for n in range(folded))
    mails = sum(100 + n for n in range(folded))
    labels = {"domain": "example.com", "stream": "other", "window": "24h"}
    assert value(found, "stream_bounce_ratio", **labels) == hard / mails
    assert value(found, "stream_bounce_ratio_lower", **labels) < hard / mails
    assert value(found, "stream_bounce_ratio_upper", **labels) > hard / mails


def test_a_part_named_other_takes_the_folded_ones_in() -> None:
    shown = busy(400)
    assert shown.snapshot is not None
    streams = shown.snapshot.domains["example.com"].parts["stream"]
    streams["other"] = {"24h": states.rates(100_000)}
    found = samples(metrics(shown, whole_budget=2_000), shown)
    folded = int(value(found, "parts_folded"))
    hard = states.rates(100_000)["bounce"].numerator
    hard += sum(states.rates(100 + n)["bounce"].numerator for n in range(folded))
    mails = 100_000 + sum(100 + n for n in range(folded))
    assert value(found, "stream_bounce_ratio", domain="example.com", stream="other", window="24h") == hard / mails


def test_within_the_budget_nothing_is_folded() -> None:
    assert value(samples(metrics()), "parts_folded") == 0


def test_the_catalogue_is_what_is_exposed() -> None:
    m = metrics()
    m.applied("main", Applied({counted(): 1}))
    m.notification("http://am", "sent")
    body, _ = m.render(states.state())
    families = {f.name: f for f in text_string_to_metric_families(body.decode()) if f.name.startswith(PREFIX)}
    exposed = {f.name.removeprefix(PREFIX) + ("_total" if f.type == "counter" else ""): f for f in families.values()}
    assert set(exposed) == set(CATALOGUE)
    for name, family in exposed.items():
        metric = CATALOGUE[name]
        assert re.fullmatch("[a-z][a-z0-9_]*", name)
        assert (family.type, family.documentation) == (metric.type, metric.help)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)


def test_promtool_finds_nothing_to_complain_of() -> None:
    m = metrics()
    m.applied("main", Applied({counted(): 1}))
    body, _ = m.render(states.state())
    tool = program("promtool", "prometheus")
    done = subprocess.run([tool, "check", "metrics"], input=body, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_openmetrics_gzip_and_a_choice_of_names() -> None:
    m = metrics()
    body, content_type = m.render(states.state(), "application/openmetrics-text;version=1.0.0", compress=True)
    assert content_type.startswith("application/openmetrics-text")
    assert gzip.decompress(body).endswith(b"# EOF\n")
    body, _ = m.render(states.state(), names=[PREFIX + "ready"])
    assert [line for line in body.decode().splitlines() if not line.startswith("#")] == [PREFIX + "ready 1.0"]


def test_counting_is_cheap_enough_for_the_hot_path() -> None:
    m = metrics()
    results = [Applied({counted(mailbox=f"m{n}"): 1, counted(stream=f"s{n}"): 1}) for n in range(50)]
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(20):
            for result in results:
                m.request("main", "accepted", 0.01)
                m.applied("main", result)
        best = min(best, (time.perf_counter() - start) / 1_000)
    # 10,000 requests a second leave 100 µs each; counting may take a fifth of that, on a busy machine.
    assert best < 20e-6


def test_the_document_names_exactly_the_metrics() -> None:
    text = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `mailvitals_([^`]+)` \| (\w+) \| ([^|]*) \|", text, re.MULTILINE)
    documented: dict[str, tuple[str, tuple[str, ...]]] = {}
    for pattern, kind, labels in rows:
        # Braces as in a shell: every combination of the words in them.
        pieces = [piece.split(",") for piece in re.split(r"[{}]", pattern)]
        for name in map("".join, itertools.product(*pieces)):
            documented[name] = (kind, tuple(re.findall(r"`(\w+)`", labels)))
    assert documented == {name: (metric.type, metric.labels) for name, metric in CATALOGUE.items()}


def test_trends_and_gates_as_state_sets_and_times() -> None:
    found = samples(metrics())
    day = states.NOW // states.DAY * states.DAY
    for direction in ("improving", "worsening", "steady", "cannot_tell"):
        of = value(found, "rate_direction", domain="example.com", rate="bounce", direction=direction)
        assert of == (direction == "steady")
    assert value(found, "rate_direction", domain="example.com", rate="volume", direction="rising") == 1
    # One part's direction is not the domain's.
    assert total(found, "rate_direction") == 4
    shifted = value(found, "rate_shift_timestamp_seconds", domain="news.example.org", rate="bounce")
    assert shifted == states.NOW - 30 * states.HOUR
    reached = "capacity_reached{}_timestamp_seconds"
    assert value(found, reached.format(""), domain="example.com", limit="phase") == day + 20 * states.DAY
    assert value(found, reached.format("_earliest"), domain="example.com", limit="phase") == day + 14 * states.DAY
    # It may never be reached: no series is better than a false date.
    assert (PREFIX + reached.format("_latest"), (("domain", "example.com"), ("limit", "phase"))) not in found
    for state_ in ("ready", "not_yet", "cannot_tell"):
        of = value(found, "phase_gate", domain="example.com", phase="growth", state=state_)
        assert of == (state_ == "not_yet")
    earliest = "phase_gate_earliest_timestamp_seconds"
    assert value(found, earliest, domain="example.com", phase="growth") == day + 5 * states.DAY
    assert (PREFIX + earliest, (("domain", "news.example.org"), ("phase", "foundation"))) not in found
