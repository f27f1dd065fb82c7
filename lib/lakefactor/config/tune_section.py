"""The section on tuning: how many trials, what for, and over which space."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, WithJsonSchema, model_validator

from lakefactor.config.section import Section, refuse

SEARCHED = ("model", "train", "sgd")
"""Sections whose keys a space may hold."""

Scalar = str | int | float | bool


class Range(Section):
    """Numbers from low to high, both included; on a log scale each doubling is as likely."""

    low: int | float
    high: int | float
    log: bool = False


Dimension = Range | tuple[Scalar, ...]
"""A range, or the choices there are."""

_WORDS = {"type": "{ low = number, high = number, log = true | false } | list of choices"}


class Tune(Section):
    """The search for better hyperparameters (`lakefactor tune`)."""

    trials: int = Field(30, ge=1, le=100_000, description="Trials of a study; the first is the configuration itself.")
    metric: str = Field(
        "",
        pattern=r"^[a-z0-9_]*$",
        description="Metric on held-out interactions to search the best of (rmse and mae: the lowest); empty: "
        "`publish.metric`.",
    )
    coarse_trials: int = Field(
        12,
        ge=0,
        le=100_000,
        description="Trials at `coarse_rank` over the whole space, before those at the model's own rank near the best "
        "of them; 0: all are over the whole space. Truncated SVD has none.",
    )
    coarse_rank: int = Field(16, ge=1, le=2048, description="Rank of coarse trials.")
    prune_after: int = Field(
        3,
        ge=0,
        le=10_000,
        description="Iterations after which a trial is ended whose held-out metric is below the median of the trials "
        "before it; 0: never. Needs a rank metric.",
    )
    parallel: int = Field(
        1, ge=1, le=1000, description="Trials at a time; together they take `parallel` * `train.ranks` task slots."
    )
    timeout_seconds: int = Field(
        0, ge=0, le=10_000_000, description="No trial begins after this time (seconds); 0: no limit."
    )
    seed: int = Field(1, ge=0, le=2**32 - 1, description="Seed of the sampler.")
    space: dict[str, Annotated[Any, WithJsonSchema(_WORDS)]] = Field(
        {},
        description="What is searched: a key of the sections model, train or sgd, as `model.alpha`, or several that "
        "take the same value, as `model.user_reg, model.item_reg`. Empty: the space of docs/tuning.md.",
    )

    @model_validator(mode="after")
    def _agree(self) -> Tune:
        problems = []
        if self.coarse_trials >= self.trials:
            problems.append(
                f"tune.coarse_trials {self.coarse_trials} leaves nothing of tune.trials {self.trials}: lower it, or "
                "set it to 0"
            )
        for name, found in self.space.items():
            try:
                dimension(found)
            except ValueError as error:
                problems.append(f"tune.space {name!r}: {error}")
        return refuse(self, problems)

    def problems(self, sections: Mapping[str, type[Section]]) -> list[str]:
        """Say which keys of the space there are not, and which values they do not take; empty: all is well."""
        found = []
        for name, given in self.space.items():
            wanted = dimension(given)
            values = (wanted.low, wanted.high) if isinstance(wanted, Range) else wanted
            for key in keys_of(name):
                section, _, last = key.partition(".")
                if section not in sections or last not in sections[section].model_fields:
                    found.append(f"tune.space {name!r}: there is no key {key!r} in the sections {', '.join(sections)}")
                    continue
                found += [f"tune.space {name!r}: {text}" for text in _refused(sections[section], last, values)]
        twice = [key for name in self.space for key in keys_of(name)]
        found += [f"tune.space names {key} twice" for key in sorted(set(twice)) if twice.count(key) > 1]
        return found


def keys_of(name: str) -> list[str]:
    """Return the keys that a dimension sets.

    >>> keys_of("model.user_reg, model.item_reg")
    ['model.user_reg', 'model.item_reg']
    """
    return re.split(r"\s*,\s*", name.strip())


def dimension(found: Any) -> Dimension:
    """Return a dimension as it is written in the configuration.

    Raises
    ------
    ValueError
        It is neither a range nor a list of choices; the text says why.

    Examples
    --------
    >>> dimension({"low": 1, "high": 8, "log": True}), dimension([16, 32])
    (Range(low=1, high=8, log=True), (16, 32))
    """
    if isinstance(found, list | tuple):
        if not found or not all(isinstance(choice, Scalar) for choice in found) or len(set(found)) < len(found):
            raise ValueError(f"found {list(found)}; give different texts, numbers or truth values, at least one")
        return tuple(found)
    try:
        wanted = Range.model_validate(found)
    except ValidationError:
        raise ValueError(f"found {found!r}; give {{ low = 1, high = 8, log = true }} or a list of choices") from None
    if not (math.isfinite(wanted.low) and math.isfinite(wanted.high) and wanted.low < wanted.high):
        raise ValueError(f"low {wanted.low} is not below high {wanted.high}")
    if wanted.log and wanted.low <= 0:
        raise ValueError(f"low {wanted.low} has no place on a log scale; raise it above 0, or set log = false")
    return wanted


def _refused(section: type[Section], key: str, values: tuple[Scalar, ...]) -> list[str]:
    """Return why a key does not take some of the values."""
    texts = []
    for value in values:
        try:
            section.model_validate({key: value})
        except ValidationError as error:
            first = error.errors()[0]
            reason = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
            texts.append(f"{value!r}: {reason[0].lower()}{reason[1:]}")
    return texts
