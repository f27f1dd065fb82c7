"""The section on A/B tests: what `experiment start` records."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from lakefactor.config.section import EventType, NonNegative, Positive, Section, refuse

Name = Annotated[str, Field(min_length=1)]


class Experiment(Section):
    """An A/B test, as `lakefactor experiment start NAME` records it; later actions read what was recorded."""

    variants: dict[str, Name] = Field({}, description="Model version of each variant, two or more, by its name.")
    shares: dict[str, Positive] = Field(
        {}, description="Share of users of each variant, adding up to 1; empty: the same for all."
    )
    control: str = Field("control", description="Variant that the others are compared with.")
    outcomes: dict[EventType, NonNegative] = Field(
        {"view": 1.0}, description="What an event is worth, by its type; other events are no outcomes."
    )
    window_days: Positive = Field(7.0, description="Events count for so long after a user's first exposure (days).")
    planned_users: int = Field(
        10_000,
        ge=1,
        description="Users of two variants together at which the interval that may be looked at any time is narrowest.",
    )

    @model_validator(mode="after")
    def _agree(self) -> Experiment:
        problems = []
        if self.variants:
            if len(self.variants) < 2:
                problems.append(f"experiment.variants has {len(self.variants)} variant: give two or more")
            if self.control not in self.variants:
                problems.append(
                    f"experiment.control {self.control!r} is none of the variants: {_listed(self.variants)}"
                )
            if self.shares and set(self.shares) != set(self.variants):
                problems.append(f"experiment.shares must name the same variants: {_listed(self.variants)}")
        if self.shares and abs(sum(self.shares.values()) - 1) > 1e-9:
            problems.append(f"experiment.shares add up to {sum(self.shares.values()):g}, not 1")
        if not any(self.outcomes.values()):
            problems.append("experiment.outcomes has no event type that is worth anything")
        return refuse(self, problems)


def _listed(names: dict[str, str]) -> str:
    return ", ".join(sorted(names))
