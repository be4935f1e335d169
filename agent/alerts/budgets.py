"""Error budgets that will not last the month: a ticket, unless a breach has told of the cause."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

from agent.alerts.catalogue import condition
from agent.alerts.types import Condition, Holds
from agent.vitals.types import Budget, BudgetState, DomainVitals, Judgement, Snapshot, TargetVerdict

_WORTH_A_TICKET = (BudgetState.RUNNING_OUT, BudgetState.SPENT)


def budget_conditions(
    snapshot: Snapshot | None, runbook_base: str, concerned: Collection[str | None] | None = None
) -> list[Condition]:
    """One condition for each budget of the snapshot. ``runbook_base`` is that of ``catalogue.conditions``; of domains
    that are not ``concerned`` by any incident (``None``: all are) only budgets that may hold are told."""
    domains = snapshot.domains.values() if snapshot else ()
    return [
        _budget(vitals, budget, runbook_base)
        for vitals in domains
        for budget in vitals.budgets
        if budget.state in _WORTH_A_TICKET or concerned is None or vitals.domain in concerned
    ]


def budget_holds(budget: Budget, judgement: Judgement | None) -> Holds:
    """Whether a budget deserves a ticket. A breach that is open has told of the cause already: one cause is never two
    alerts. Nothing is known of a silent domain."""
    if judgement is None or judgement.verdict is TargetVerdict.STALE:
        return Holds.UNKNOWN
    if judgement.verdict is TargetVerdict.BREACHED:
        return Holds.NO
    if budget.state in _WORTH_A_TICKET:
        return Holds.YES
    return Holds.UNKNOWN if budget.state is BudgetState.TOO_LITTLE else Holds.NO


def _budget(vitals: DomainVitals, budget: Budget, runbook_base: str) -> Condition:
    judgement = next((j for j in vitals.judgements if j.target == budget.target), None)
    description = [f"Error budget of {vitals.domain}: {budget.sentence}."]
    if budget.state is BudgetState.RUNNING_OUT and budget.ends_at:
        days = [datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d") for at in (budget.ends_at, budget.earliest or 0)]
        until = f"{datetime.fromtimestamp(budget.latest, UTC):%Y-%m-%d}" if budget.latest else "the end of the month"
        description.append(f"At the rate of the last seven days it ends on {days[0]} (between {days[1]} and {until}).")
    if budget.burn_7d is not None and budget.burn_24h is not None:
        description.append(f"Burn rate {budget.burn_7d:.2g} over 7d, {budget.burn_24h:.2g} over 24h (1 is the target).")
    return condition(
        "MailBudgetRunningOut",
        budget_holds(budget, judgement),
        {"severity": "warning", "domain": vitals.domain, "phase": vitals.phase, "target": budget.target},
        summary=f"{vitals.domain} uses up its {budget.target} budget of the month",
        description=" ".join(description),
        runbook_base=runbook_base,
    )
