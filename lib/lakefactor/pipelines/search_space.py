"""The space that `tune` searches: by default from the papers, else as configured; coarse at first, then near the best.

Rendle, Krichene, Zhang, Koren ("Revisiting the Performance of iALS on Item Recommendation Benchmarks", RecSys 2022)
advise to search regularization and unobserved weight on a log scale at a small rank, where a trial is cheap, to keep
what is found while the rank grows, and to measure after every iteration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from lakefactor.config import Config
from lakefactor.config.tune_section import Dimension, Range, Scalar, dimension, keys_of

RANK = "model.rank"
NEAR = 1 / 3
"""Share of each range that is left around the best coarse trial."""

Space = Mapping[str, BaseDistribution]
"""Distribution of each dimension, by its name in the configuration."""
Changes = Mapping[str, Scalar]
"""New values by key, as ``{"model.alpha": 2.5}``."""

_REG = "model.user_reg, model.item_reg"
_STRENGTH: Dimension = ("value", "binary")
_RANKS: Dimension = (16, 32, 64, 128, 256)
DEFAULTS: Mapping[str, Mapping[str, Dimension]] = {
    "implicit_als": {
        "model.alpha": Range(low=0.1, high=60.0, log=True),
        _REG: Range(low=0.01, high=100.0, log=True),
        "model.reg_exponent": Range(low=0.0, high=1.0),
        "model.strength": _STRENGTH,
    },
    "ials": {
        "model.unobserved_weight": Range(low=0.003, high=1.0, log=True),
        _REG: Range(low=0.0003, high=10.0, log=True),
        "model.reg_exponent": Range(low=0.5, high=1.0),
        "model.strength": _STRENGTH,
    },
    "explicit_als": {
        _REG: Range(low=0.01, high=10.0, log=True),
        "model.bias_reg": Range(low=0.01, high=100.0, log=True),
        "model.reg_exponent": Range(low=0.0, high=1.0),
    },
    "nmf": {
        "model.unobserved_weight": Range(low=0.003, high=1.0, log=True),
        _REG: Range(low=0.001, high=10.0, log=True),
        "model.reg_exponent": Range(low=0.0, high=1.0),
        "model.strength": _STRENGTH,
    },
    "svd": {RANK: _RANKS, "model.strength": _STRENGTH},
    "lsa": {RANK: _RANKS, "model.strength": _STRENGTH},
    "sgd": {
        "sgd.learning_rate": Range(low=0.005, high=0.5, log=True),
        _REG: Range(low=0.0001, high=10.0, log=True),
        "sgd.negatives": (1, 2, 4, 8),
    },
}
"""By algorithm. Ranges of `ials` hold the grid of its paper for nu = 1, and its equivalents down to nu = 0.5."""


@dataclass(frozen=True)
class Phase:
    """A part of a study.

    Attributes
    ----------
    name : {"coarse", "fine"}
    numbers : range
        Its trials.
    space : Space
    fixed : Changes
        What all its trials have in common.
    first : dict
        Values of the dimensions, to begin with; empty: the sampler's own.
    """

    name: str
    numbers: range
    space: Space
    fixed: Changes
    first: dict[str, Any]


def space_of(config: Config) -> Space:
    """Return the configured space, or the default one of the algorithm."""
    found: Mapping[str, Dimension] = {name: dimension(given) for name, given in config.tune.space.items()}
    if not found:
        found = DEFAULTS[config.model.algorithm]
        if config.model.algorithm == "sgd" and config.feedback == "explicit":
            found = {name: wanted for name, wanted in found.items() if name != "sgd.negatives"}
    return {name: _distribution(config, name, wanted) for name, wanted in found.items()}


def coarse_phase(config: Config, space: Space) -> Phase | None:
    """Return the trials at a small rank; None where there are none: the rank itself is all, or is small already."""
    tune, rank = config.tune, config.model.rank
    small = {name: distribution for name, distribution in space.items() if name != RANK}
    if not tune.coarse_trials or not small or config.model.algorithm in ("svd", "lsa"):
        return None
    if RANK not in space and rank <= tune.coarse_rank:
        return None
    numbers = range(1, 1 + tune.coarse_trials)
    return Phase("coarse", numbers, small, {RANK: tune.coarse_rank}, _nearest(config, small))


def fine_phase(config: Config, space: Space, coarse: Phase | None, best: Mapping[str, Any] | None) -> Phase:
    """Return the trials at the model's own rank.

    Parameters
    ----------
    config : Config
    space : Space
        All of it.
    coarse : Phase or None
    best : mapping or None
        Values of the dimensions in the best coarse trial; None: none was measured, all of the space is left.
    """
    numbers = range(1 + len(coarse.numbers) if coarse else 1, config.tune.trials)
    if best is None:
        return Phase("fine", numbers, space, {}, {})
    left = {name: near(found, best[name]) if name in best else found for name, found in space.items()}
    first = {name: best[name] if name in best else _nearest(config, {name: space[name]})[name] for name in space}
    return Phase("fine", numbers, left, {}, first)


def near(distribution: BaseDistribution, value: Any) -> BaseDistribution:
    """Return the part of a distribution around a value; of choices that value alone.

    >>> left = near(FloatDistribution(1.0, 1000.0, log=True), 10.0)
    >>> round(left.low, 3), round(left.high, 3), left.log
    (3.162, 31.623, True)
    """
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        return CategoricalDistribution([value])
    to, back = (math.log, math.exp) if distribution.log else (float, float)
    half = NEAR * (to(distribution.high) - to(distribution.low)) / 2
    low = max(distribution.low, back(to(value) - half))
    high = min(distribution.high, back(to(value) + half))
    if isinstance(distribution, IntDistribution):
        return IntDistribution(min(round(low), value), max(round(high), value), log=distribution.log)
    return FloatDistribution(min(low, value), max(high, value), log=distribution.log)


def changes_of(values: Mapping[str, Any]) -> dict[str, Scalar]:
    """Return the new value of each key from the values of dimensions.

    >>> changes_of({"model.user_reg, model.item_reg": 0.5})
    {'model.user_reg': 0.5, 'model.item_reg': 0.5}
    """
    return {key: value for name, value in values.items() for key in keys_of(name)}


def values_of(changes: Changes, space: Space) -> dict[str, Any]:
    """Return the values of dimensions from the changes that they made: the reverse of `changes_of`."""
    return {name: changes[keys_of(name)[0]] for name in space}


def _distribution(config: Config, name: str, wanted: Dimension) -> BaseDistribution:
    if not isinstance(wanted, Range):
        return CategoricalDistribution(wanted)
    if all(isinstance(_value(config, key), int) for key in keys_of(name)):
        return IntDistribution(int(wanted.low), int(wanted.high), log=wanted.log)
    return FloatDistribution(float(wanted.low), float(wanted.high), log=wanted.log)


def _nearest(config: Config, space: Space) -> dict[str, Any]:
    """Return the values in the space that are nearest to what is configured."""
    found: dict[str, Any] = {}
    for name, distribution in space.items():
        value = _value(config, keys_of(name)[0])
        if isinstance(distribution, FloatDistribution | IntDistribution):
            found[name] = min(max(value, distribution.low), distribution.high)
        elif isinstance(distribution, CategoricalDistribution):
            found[name] = value if value in distribution.choices else distribution.choices[0]
    return found


def _value(config: Config, key: str) -> Any:
    section, _, last = key.partition(".")
    return getattr(getattr(config, section), last)
