"""A policy to try on stored history."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from agent import settings_file
from agent.settings.alerts import Alerts
from agent.settings.judging import Phases, Vitals
from agent.settings.kinds import DomainName, File, PhaseName
from agent.settings_file import SettingsError, did_you_mean
from agent.vitals.phases import PHASES

if TYPE_CHECKING:
    from agent.settings import Settings


class Trial(File):
    """A policy to try on stored history: the settings that decide which rates become alerts, as far as they are to be
    different."""

    phases: Phases = Phases()
    vitals: Vitals = Vitals()
    alerts: Alerts = Alerts()
    domain_phases: dict[DomainName, PhaseName] = Field({})

    @model_validator(mode="after")
    def _has_effect(self) -> Trial:
        for section, idle in (("vitals", {"interval"}), ("alerts", {"resend", "runbook_base"})):
            given: set[str] = getattr(self, section).model_fields_set & idle
            if given:
                raise PydanticCustomError(
                    "idle", "`{key}` decides nothing that is replayed", {"key": f"{section}.{min(given)}"}
                )
        return self


def load_policy(path: Path, settings: Settings) -> Settings:
    """The settings with the policy in a file in place of their own. Raises ``SettingsError`` with every problem."""
    trial = settings_file.load(Trial, path, {})
    names = [d.name for d in settings.domains]
    problems = [
        f"{path}: domain_phases: no domain `{name}` is configured{did_you_mean(name, names)}"
        for name in trial.domain_phases
        if name not in names
    ]
    phases = {
        name: getattr(settings.phases, name).model_dump(exclude_unset=True)
        | getattr(trial.phases, name).model_dump(exclude_unset=True)
        for name in PHASES
    }
    try:
        merged = Phases.model_validate(phases)
    except ValidationError as e:
        problems += [f"{path}: phases, with those in force: {error['msg']}" for error in e.errors()]
    if problems:
        raise SettingsError(problems)
    return settings.model_copy(
        update={
            "phases": merged,
            "vitals": settings.vitals.model_copy(update=trial.vitals.model_dump(exclude_unset=True)),
            "alerts": settings.alerts.model_copy(update=trial.alerts.model_dump(exclude_unset=True)),
            "domains": tuple(
                d.model_copy(update={"phase": trial.domain_phases.get(d.name, d.phase)}) for d in settings.domains
            ),
        }
    )
