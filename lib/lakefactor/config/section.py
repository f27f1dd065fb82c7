"""What every section is: frozen, strict, and of values within a range."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
SECRET: dict[str, JsonValue] = {"secret": True}
"""Mark of a field that holds a table whose values may be passwords."""

EventType = Annotated[str, Field(min_length=1)]

SectionT = TypeVar("SectionT", bound="Section")


class Section(BaseModel):
    """A frozen section: unknown keys are errors, values are not coerced across types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def refuse(section: SectionT, problems: list[str]) -> SectionT:
    """Return `section` if there are no problems, else raise ValueError with one line for each."""
    if problems:
        raise ValueError("\n".join(problems))
    return section
