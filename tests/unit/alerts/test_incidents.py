"""Incidents open once, keep their start and end after a quiet period."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.alerts.incidents import QUIET_PERIOD, RESOLVED_KEPT, identity, step
from agent.alerts.types import Cause, Condition, Holds, Incident

T = 1_750_000_000.0
LABELS = {"alertname": "MailTargetBreached", "domain": "example.com", "phase": "growth", "target": "bounce"}
KEY = identity(LABELS)
NOTHING = "Nothing that is known lines up with it."


def condition(holds: Holds, description: str = "", **labels: str) -> Condition:
    return Condition(labels=LABELS | labels, holds=holds, annotations={"description": description})


YES, NO, UNKNOWN = (condition(h) for h in (Holds.YES, Holds.NO, Holds.UNKNOWN))


def play(*looks: tuple[float, Condition | None], quiet_period: float = QUIET_PERIOD) -> dict[str, Incident]:
    incidents: dict[str, Incident] = {}
    for after, look in looks:
        incidents = step(incidents, [look] if look else [], T + after, quiet_period)
    return incidents


def test_an_incident_opens_once_and_keeps_its_start() -> None:
    incidents = play((0, YES), (60, YES), (600, condition(Holds.YES, "worse")))
    assert list(incidents) == [KEY]
    incident = incidents[KEY]
    assert (incident.starts_at, incident.state, incident.labels) == (T, "open", LABELS)
    assert incident.annotations == {"description": f"worse\n{NOTHING}"}


@pytest.mark.parametrize("look", [NO, UNKNOWN])
def test_nothing_but_yes_opens(look: Condition) -> None:
    assert play((0, look), (60, look)) == {}


def test_it_ends_when_the_quiet_period_is_over() -> None:
    closing = play((0, YES), (60, NO), (60 + QUIET_PERIOD - 1, NO))[KEY]
    assert (closing.state, closing.cleared_at, closing.resolved_at) == ("closing", T + 60, 0)
    resolved = play((0, YES), (60, NO), (60 + QUIET_PERIOD, NO))[KEY]
    assert (resolved.state, resolved.resolved_at, resolved.starts_at) == ("resolved", T + 60 + QUIET_PERIOD, T)


def test_what_returns_within_the_quiet_period_is_the_same_incident() -> None:
    incident = play((0, YES), (60, NO), (QUIET_PERIOD, YES))[KEY]
    assert (incident.state, incident.starts_at) == ("open", T)
    again = play((0, YES), (60, NO), (QUIET_PERIOD, YES), (QUIET_PERIOD + 1, NO), (2 * QUIET_PERIOD, NO))[KEY]
    assert again.state == "closing"


def test_what_returns_after_it_is_a_new_one() -> None:
    end = 60 + QUIET_PERIOD
    incident = play((0, YES), (60, NO), (end, NO), (end + 30, YES))[KEY]
    assert (incident.state, incident.starts_at) == ("open", T + end + 30)


def test_unknown_holds_an_open_incident() -> None:
    assert play((0, YES), (60, UNKNOWN), (10 * QUIET_PERIOD, UNKNOWN))[KEY].state == "open"


def test_unknown_pauses_a_quiet_period() -> None:
    looks = [(0, YES), (100, NO), (400, UNKNOWN), (500, UNKNOWN), (5000, NO)]
    paused = play(*looks[:-1])[KEY]
    assert (paused.state, paused.cleared_at) == ("closing", T + 100)
    resumed = play(*looks)[KEY]
    assert resumed.state == "closing"
    # 300 s were quiet before the pause.
    assert resumed.cleared_at == T + 5000 - 300
    assert play(*looks, (5000 + QUIET_PERIOD - 301, NO))[KEY].state == "closing"
    assert play(*looks, (5000 + QUIET_PERIOD - 300, NO))[KEY].state == "resolved"


def test_yes_after_a_pause_forgets_it() -> None:
    incident = play((0, YES), (100, NO), (400, UNKNOWN), (500, YES))[KEY]
    assert incident == Incident(labels=LABELS, annotations={"description": NOTHING}, starts_at=T)


def test_a_resolved_incident_stays_to_be_told_and_then_goes() -> None:
    looks = [(0, YES), (60, NO), (120, NO)]
    assert play(*looks, (119 + RESOLVED_KEPT, NO), quiet_period=60)[KEY].resolved_at == T + 120
    assert play(*looks, (120 + RESOLVED_KEPT, NO), quiet_period=60) == {}
    assert play(*looks, (500, UNKNOWN), quiet_period=60)[KEY].resolved_at == T + 120


def test_a_condition_that_disappeared_ends_after_the_quiet_period() -> None:
    assert play((0, YES), (60, None))[KEY].state == "closing"
    assert play((0, YES), (60, None), (60 + QUIET_PERIOD, None))[KEY].state == "resolved"


def test_a_short_time_of_knowing_nothing_ends_nothing() -> None:
    assert play((0, YES), (60, None), (120, YES))[KEY].state == "open"


@pytest.mark.parametrize("holds", list(Holds))
def test_a_changed_phase_ends_the_incident_of_the_old_one_at_once(holds: Holds) -> None:
    incidents = step(play((0, YES)), [condition(holds, phase="enterprise")], T + 60)
    assert incidents[KEY].resolved_at == T + 60
    new = incidents.get(identity(LABELS | {"phase": "enterprise"}))
    assert (new is not None and new.starts_at == T + 60) == (holds is Holds.YES)


def test_another_target_of_the_domain_ends_nothing() -> None:
    incidents = step(play((0, YES)), [condition(Holds.YES, target="complaint"), YES], T + 60)
    assert {incident.state for incident in incidents.values()} == {"open"}
    assert len(incidents) == 2


def test_no_quiet_period_resolves_at_once() -> None:
    assert play((0, YES), (60, NO), quiet_period=0)[KEY].resolved_at == T + 60


def test_labels_are_one_identity_in_any_order_and_without_empty_ones() -> None:
    assert identity({"b": "2", "a": "1", "c": ""}) == identity({"a": "1", "b": "2"}) == '[["a","1"],["b","2"]]'
    assert identity({"a": '1"],["b","2'}) != identity({"a": "1", "b": "2"})
    opened = step({}, [condition(Holds.YES, subject="")], T)
    assert opened[KEY].labels == LABELS


def test_of_one_identity_twice_the_graver_counts() -> None:
    for several in ([NO, YES, UNKNOWN], [YES, NO], [UNKNOWN, YES]):
        assert step({}, several, T)[KEY].state == "open"
    for several in ([NO, UNKNOWN], [UNKNOWN, NO, NO]):
        assert step(play((0, YES)), several, T + 60)[KEY].state == "open"


conditions = st.lists(
    st.builds(
        condition,
        st.sampled_from(list(Holds)),
        st.sampled_from(["", "a", "b"]),
        target=st.sampled_from(["bounce", "complaint"]),
        phase=st.sampled_from(["growth", "enterprise", ""]),
    ),
    max_size=6,
)
histories = st.lists(st.tuples(st.floats(0, 2000), conditions), max_size=12)


@settings(max_examples=100)
@given(histories, st.randoms(use_true_random=False))
def test_order_and_duplicates_play_no_part(history: list[tuple[float, list[Condition]]], random: object) -> None:
    straight: dict[str, Incident] = {}
    shuffled: dict[str, Incident] = {}
    now = T
    for pause, looks in history:
        now += pause
        straight = step(straight, looks, now)
        mixed = looks + looks
        random.shuffle(mixed)  # type: ignore[attr-defined]
        shuffled = step(dict(reversed(shuffled.items())), mixed, now)
        assert shuffled == straight


@settings(max_examples=100)
@given(histories)
def test_whatever_happens_incidents_stay_sound(history: list[tuple[float, list[Condition]]]) -> None:
    incidents: dict[str, Incident] = {}
    now = T
    for pause, looks in history:
        now += pause
        after = step(incidents, looks, now)
        firing = {identity(c.labels) for c in looks if c.holds is Holds.YES}
        opened = {k for k, i in after.items() if not i.resolved_at}
        was_open = {k for k, i in incidents.items() if not i.resolved_at}
        assert firing <= opened <= was_open | firing
        assert all(key == identity(incident.labels) for key, incident in after.items())
        for key in was_open:
            assert after[key].starts_at == incidents[key].starts_at
        for incident in after.values():
            assert incident.starts_at <= now
            assert not incident.resolved_at or incident.starts_at <= incident.resolved_at <= now
            assert not incident.cleared_at or incident.starts_at <= incident.cleared_at <= now
        unknown = [msg for msg in looks if msg.holds is Holds.UNKNOWN]
        held = step(after, [condition(Holds.UNKNOWN, **c.labels) for c in unknown], now + 10 * QUIET_PERIOD)
        for key in {identity(c.labels) for c in unknown} & {k for k, i in after.items() if not i.resolved_at}:
            assert not held[key].resolved_at
        incidents = after


def breach(target: str, holds: Holds = Holds.YES, causes: tuple[Cause, ...] = (), **labels: str) -> Condition:
    own = {"alertname": "MailTargetBreached", "severity": "critical", "domain": "example.com", "phase": "growth"}
    return Condition(own | {"target": target} | labels, holds, {"summary": f"{target} breached"}, causes)


def dns(check: str, holds: Holds = Holds.YES, severity: str = "critical", domain: str = "example.com") -> Condition:
    labels = {"alertname": "MailDnsCheckFailing", "severity": severity, "domain": domain, "phase": "growth"}
    return Condition(labels | {"check": check}, holds, {"summary": f"{check} fails"}, states=f"dns {domain} {check}")


def cause(key: str, likely: bool = True) -> Cause:
    return Cause("dns", key, f"It is {key}", 6, likely)


SPF = (cause("dns example.com spf"),)
STREAM = (cause("part example.com stream news"),)


def looks(*several: list[Condition], every: float = 60) -> dict[str, Incident]:
    incidents: dict[str, Incident] = {}
    for n, conditions in enumerate(several):
        incidents = step(incidents, conditions, T + n * every)
    return incidents


def heads(incidents: dict[str, Incident]) -> dict[str, list[str]]:
    """What each open incident is of, and what is told with it."""

    def subject(labels: dict[str, str]) -> str:
        return labels.get("target") or labels.get("check") or f"{labels['alertname']} {labels['source']}"

    return {subject(i.labels): [subject(labels) for labels in i.also] for i in incidents.values() if not i.resolved_at}


@pytest.mark.parametrize(
    ("several", "told"),
    [
        ([[breach("deliverability"), breach("bounce")]], {"bounce": ["deliverability"]}),
        ([[breach("deliverability")], [breach("deliverability"), breach("bounce")]], {"deliverability": ["bounce"]}),
        ([[breach("bounce"), breach("complaint")]], {"bounce": [], "complaint": []}),
        ([[breach("bounce", causes=STREAM), breach("complaint", causes=STREAM)]], {"bounce": ["complaint"]}),
        ([[breach("bounce", causes=STREAM), breach("deliverability", causes=SPF)]],
            {"bounce": [], "deliverability": []}),
        ([[breach("bounce"), breach("deliverability", domain="example.org")]], {"bounce": [], "deliverability": []}),
        ([[breach("bounce", causes=SPF), dns("spf")]], {"spf": ["bounce"]}),
        ([[breach("bounce", causes=SPF), dns("dkim")]], {"bounce": [], "dkim": []}),
        ([[breach("bounce", causes=(cause("dns example.com spf", likely=False),)), dns("spf")]],
            {"bounce": [], "spf": []}),
        ([[breach("bounce", causes=SPF)], [breach("bounce", causes=SPF), dns("spf")]], {"bounce": ["spf"]}),
        # What is told apart stays apart, and what is together stays together, whatever is found out later.
        ([[breach("bounce"), dns("spf")], [breach("bounce", causes=SPF), dns("spf")]], {"bounce": [], "spf": []}),
        ([[breach("bounce", causes=SPF), dns("spf")], [breach("bounce"), dns("spf")]], {"spf": ["bounce"]}),
        ([[dns("spf"), dns("spf", domain="example.org")]], {"spf": []}),
    ],
)  # fmt: skip
def test_what_is_told_together(several: list[list[Condition]], told: dict[str, list[str]]) -> None:
    assert heads(looks(*several)) == told


def source(name: str, holds: Holds = Holds.YES) -> Condition:
    labels = {"alertname": name, "severity": "warning", "source": "mg"}
    return Condition(labels, holds, {"summary": name}, states="source mg")


def test_a_silence_is_told_with_the_refusal_before_it_but_not_the_other_way_round() -> None:
    silent, refused = source("MailSourceSilent"), source("MailSourceRefused")
    assert heads(looks([refused], [refused, silent])) == {"MailSourceRefused mg": ["MailSourceSilent mg"]}
    assert heads(looks([silent], [refused, silent])) == {"MailSourceSilent mg": [], "MailSourceRefused mg": []}


def test_it_goes_on_while_anything_of_it_holds() -> None:
    together = [breach("bounce", causes=SPF), dns("spf")]
    (left,) = looks(together, [breach("bounce"), dns("spf", Holds.NO)], every=10 * QUIET_PERIOD).values()
    assert (left.state, left.starts_at) == ("open", T)
    assert left.annotations["summary"] == "bounce breached", "what is over is not what it says"
    assert left.causes == SPF, "what caused it is kept"
    over = [breach("bounce", Holds.NO), dns("spf", Holds.NO)]
    assert looks(together, over, every=QUIET_PERIOD).popitem()[1].state == "closing"
    assert looks(together, over, over, every=QUIET_PERIOD).popitem()[1].state == "resolved"
    # Nobody knows of one of the two: it is held.
    held = looks(together, [breach("bounce", Holds.UNKNOWN), dns("spf", Holds.NO)], every=10 * QUIET_PERIOD)
    assert held.popitem()[1].state == "open"


def test_what_turns_graver_goes_on_under_its_new_severity() -> None:
    incidents = looks([dns("ptr", severity="warning")], [dns("ptr")])
    old, new = sorted(incidents.values(), key=lambda i: i.labels["severity"], reverse=True)
    assert (old.labels["severity"], old.resolved_at) == ("warning", T + 60)
    assert (new.labels["severity"], new.starts_at, new.state) == ("critical", T, "open")
    assert all(key == identity(incident.labels) for key, incident in incidents.items())
    # It never turns milder: that would be one more message, about good news that is none yet.
    again = looks([dns("ptr", severity="warning")], [dns("ptr")], [dns("ptr", severity="warning")])
    assert {i.labels["severity"]: i.state for i in again.values()} == {"warning": "resolved", "critical": "open"}
    later = looks(*[[dns("ptr", severity=s)] for s in ("warning", "critical", "warning")], every=RESOLVED_KEPT)
    assert [i.labels["severity"] for i in later.values()] == ["critical"]


def test_a_breach_makes_a_mild_cause_grave() -> None:
    mild = dns("spf", severity="warning")
    incidents = looks([mild], [mild, breach("bounce", causes=SPF)])
    (graver,) = (i for i in incidents.values() if not i.resolved_at)
    assert (graver.labels["check"], graver.labels["severity"], graver.starts_at) == ("spf", "critical", T)
    assert "Also: bounce breached." in graver.annotations["description"]


def test_incidents_stored_before_there_were_causes_are_read_and_go_on() -> None:
    stored = (
        b'{"labels":{"alertname":"MailTargetBreached","severity":"critical","domain":"example.com","phase":"growth",'
        b'"target":"%s"},"annotations":{"summary":"s","description":"d","runbook_url":"r"},"starts_at":%d,'
        b'"cleared_at":0.0,"resolved_at":0.0,"paused_at":0.0}'
    )
    two = [msgspec.json.decode(stored % (t, T - 9), type=Incident) for t in (b"bounce", b"deliverability")]
    incidents = {identity(i.labels): i for i in two}
    after = step(incidents, [breach("bounce"), breach("deliverability")], T)
    assert after.keys() == incidents.keys()
    assert {(i.starts_at, i.state, i.also) for i in after.values()} == {(T - 9, "open", ())}


def test_a_listing_once_stored_under_both_severities_is_one() -> None:
    labels = {
        "alertname": "MailBlocklisted",
        "domain": "example.com",
        "check": "blocklist",
        "subject": "192.0.2.1 psbl",
    }
    two = [Incident(labels | {"severity": s}, {"summary": "s"}, T) for s in ("warning", "critical")]
    now = Condition(labels | {"severity": "warning"}, Holds.YES, {"summary": "s"}, states="listing x")
    after = step({identity(i.labels): i for i in two}, [now], T + 60)
    assert {i.labels["severity"]: i.state for i in after.values()} == {"critical": "open", "warning": "resolved"}


def test_a_message_has_an_end_however_much_goes_with_it() -> None:
    listed = [
        Condition(
            {"alertname": "MailBlocklisted", "severity": "critical", "subject": f"x list{n:02}"},
            Holds.YES, {"summary": "s" * 100, "description": "d" * 3000}, states="listing example.com x",
        )
        for n in range(40)
    ]  # fmt: skip
    (incident,) = looks(listed).values()
    assert len(incident.also) == 39
    assert len(incident.annotations["description"]) < 7000
    assert incident.annotations["description"].endswith("And 34 more.")
