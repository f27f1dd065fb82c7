"""Rows of a model solved anew by the float64 oracle, for tests of what solves them faster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import Row

from lakefactor.config import Model
from lakefactor.factorization.equation import Equation
from lakefactor.kernels import build_csr, gramian, reference
from lakefactor.types import Side, other


def solved_rows(
    model: Model, side: Side, names: Sequence[str], pairs: Sequence[Row], source: Mapping[str, Sequence[float]]
) -> dict[str, NDArray[np.float64]]:
    """Return the exact factors of some rows of a model without biases.

    Parameters
    ----------
    model : Model
    side : {"user", "item"}
        Side of the rows.
    names : sequence of str
        Their ids.
    pairs : sequence of Row
        ``user_id, item_id, strength``: all their interactions with rows of ``source``.
    source : mapping of str to sequence of float
        Factors of all rows of the other side.
    """
    ids, across = sorted(source), f"{other(side)}_id"
    factors = np.array([source[name] for name in ids], np.float32)
    indptr, indices, strengths = build_csr(
        np.array([names.index(row[f"{side}_id"]) for row in pairs]),
        np.array([ids.index(row[across]) for row in pairs], np.int32),
        np.array([row["strength"] for row in pairs], np.float32),
        len(names),
    )
    equation = Equation(model)
    reg = equation.reg(side, np.diff(indptr), len(ids)).astype(np.float64)
    x = reference.half_step(
        factors, equation.a0 * gramian(factors), indptr, indices, equation.weights(strengths),
        equation.targets(strengths), reg, reg, False,
    )[0]  # fmt: skip
    return dict(zip(names, x, strict=True))
