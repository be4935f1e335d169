"""When a budget is worth a ticket, and what the ticket says."""

from __future__ import annotations

import msgspec
import pytest

from agent.alerts.budgets import budget_conditions
from agent.alerts.types import Holds
from agent.vitals.types import Budget, BudgetState, Judgement, Snapshot, TargetVerdict
from tests.unit.views.states import domain_well


@pytest.mark.parametrize(
    ("state", "verdict", "holds"),
    [
        (BudgetState.RUNNING_OUT, TargetVerdict.UNDECIDED, Holds.YES),
        (BudgetState.SPENT, TargetVerdict.MET, Holds.YES),
        (BudgetState.SPENT, TargetVerdict.BREACHED, Holds.NO),
        (BudgetState.RUNNING_OUT, TargetVerdict.BREACHED, Holds.NO),
        (BudgetState.SPENT, TargetVerdict.STALE, Holds.UNKNOWN),
        (BudgetState.TOO_LITTLE, TargetVerdict.INSUFFICIENT_DATA, Holds.UNKNOWN),
        (BudgetState.SPENDING, TargetVerdict.UNDECIDED, Holds.NO),
        (BudgetState.LASTING, TargetVerdict.MET, Holds.NO),
    ],
)
def test_a_budget_is_a_ticket_unless_its_target_is_breached(
    state: BudgetState, verdict: TargetVerdict, holds: Holds
) -> None:
    """One cause is never two alerts."""
    vitals = msgspec.structs.replace(
        domain_well(),
        judgements=(Judgement("bounce", verdict, 0.01, "7d", None, ""),),
        budgets=(Budget("bounce", state, 0, 60_000, True, 600, 455, 145, 0.9, 0.93, 86400, None, None),),
    )
    (ticket,) = budget_conditions(Snapshot(0.0, {"example.com": vitals}), "https://docs.example/alerts")
    assert ticket.holds is holds
    assert ticket.labels == {"alertname": "MailBudgetRunningOut", "severity": "warning", "domain": "example.com",
                             "phase": "growth", "target": "bounce"}  # fmt: skip
    assert "145 bounces left of 600" in ticket.annotations["description"]
    assert ("ends on 1970-01-02" in ticket.annotations["description"]) == (state is BudgetState.RUNNING_OUT)
