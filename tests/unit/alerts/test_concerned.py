"""What is left out of what nearly all of thousands of domains have to say changes no incident."""

from __future__ import annotations

from random import Random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.alerts.budgets import budget_conditions
from agent.alerts.catalogue import conditions
from agent.alerts.incidents import step
from agent.alerts.types import Incident
from agent.vitals.types import BudgetState, DomainVitals, Snapshot, TargetVerdict
from tests.unit.views import states

PHASES = dict.fromkeys(("a.example", "b.example", "c.example"), "growth")


def vitals(random: Random, name: str) -> DomainVitals:
    well = states.domain_well()
    verdicts = random.choices([*TargetVerdict], weights=(4, 2, 2, 1, 1), k=len(well.judgements))
    judgements = tuple(
        msgspec.structs.replace(j, verdict=verdict) for j, verdict in zip(well.judgements, verdicts, strict=True)
    )
    budgets = tuple(msgspec.structs.replace(b, state=random.choice([*BudgetState])) for b in well.budgets)
    return msgspec.structs.replace(well, domain=name, judgements=judgements, budgets=budgets)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_incidents_are_those_of_everything_that_could_be_said(seed: int) -> None:
    random, now = Random(seed), states.NOW
    incidents: dict[str, Incident] = {}
    opened = False
    for _ in range(12):
        now += random.choice((5.0, 700.0, 2000.0))
        snapshot = Snapshot(now, {name: vitals(random, name) for name in PHASES if random.random() < 0.8})
        everything = conditions(snapshot, (), PHASES, "") + budget_conditions(snapshot, "")
        concerned = {labels.get("domain") for i in incidents.values() for labels in (i.labels, *i.also)}
        some = conditions(snapshot, (), PHASES, "", concerned=concerned) + budget_conditions(snapshot, "", concerned)
        after = step(incidents, everything, now)
        assert step(incidents, some, now) == after
        incidents = after
        opened = opened or bool(after)
    assert opened
