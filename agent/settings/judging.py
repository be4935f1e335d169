"""By what the rates are judged: how often, and the phases' own numbers."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from agent.settings.kinds import Duration, Interval, Mails, Model, Range, Ratio, ascending
from agent.vitals.phases import PHASES, Phase


class Vitals(Model):
    """How often and by what the rates are judged."""

    interval: Interval = Field(5.0, description="Time between two evaluations, at most 10s.")
    stale_after: Duration = Field(
        86400.0, description="A domain without any event for so long is `stale`: no verdict rather than an old one."
    )
    bounce_classes: tuple[Literal["hard", "soft", "block", "undetermined"], ...] = Field(
        ("hard", "undetermined"), min_length=1, description="Which classes the bounce rate counts."
    )


class PhaseOverride(Model):
    """Numbers of a built-in phase that are different here; see `docs/rates.md` for the built-in ones."""

    duration_weeks: Range | None = Field(None, description="Least and most weeks the phase takes.")
    budget_usd: Range | None = Field(None, description="Least and most USD a month.")
    expected_roi_percent: Range | None = Field(None, description="Least and most return on investment, percent.")
    deliverability_min: Ratio | None = Field(None, description="Least share of attempted mail that is delivered.")
    bounce_max: Ratio | None = Field(None, description="Share of attempted mail that bounces must stay below.")
    complaint_max: Ratio | None = Field(None, description="Share of delivered mail below which complaints are fine.")
    complaint_breach: Ratio | None = Field(None, description="Share of delivered mail above which they are a breach.")
    capacity: Annotated[tuple[Mails | None, Mails | None], AfterValidator(ascending)] | None = Field(
        None, description="Mails in 30 days, from and to; `null` is no such end."
    )
    sustained_days: Annotated[int, Field(ge=1, le=180)] | None = Field(
        None, description="Days in a row on which the targets must be proven before the next phase."
    )


class Phases(Model):
    """The three phases."""

    foundation: PhaseOverride = Field(PhaseOverride(), description="The first.")
    growth: PhaseOverride = Field(PhaseOverride(), description="The second.")
    enterprise: PhaseOverride = Field(PhaseOverride(), description="The third.")

    @model_validator(mode="after")
    def _sensible(self) -> Phases:
        for name, phase in self.in_force().items():
            if phase.complaint_max > phase.complaint_breach:
                raise PydanticCustomError(
                    "phase", "{name}: complaint_max must not be above complaint_breach", {"name": name}
                )
        return self

    def in_force(self) -> dict[str, Phase]:
        """The built-in phases with the overrides applied, by name."""
        return {
            name: msgspec.structs.replace(phase, **getattr(self, name).model_dump(exclude_none=True))
            for name, phase in PHASES.items()
        }
