"""Solve the factors of rows that were not part of a training, holding the other side fixed.

The same equation, weights and kernel as a batch half-step: a row folded in with its full history gets the factors that
an exact half-step would give it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lakefactor.factorization.equation import Equation
from lakefactor.kernels import Method, half_step
from lakefactor.kernels.system import Solver
from lakefactor.types import FACTOR_DTYPE, Side

FOLD_IN_SWEEPS = 50
"""Sweeps from zero for non-negative factors, which have no exact solver."""


def fold_in(
    equation: Equation,
    side: Side,
    source: NDArray[np.float32],
    gramian: NDArray[np.float32],
    n_source: int,
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    strengths: NDArray[np.float32],
    threads: int = 1,
) -> NDArray[np.float32]:
    """Return the exact factors of some rows of ``side``.

    Parameters
    ----------
    equation : Equation
        The trained model's equation, with its mean.
    side : {"user", "item"}
        Side of the rows to solve.
    source : float32 ndarray, shape (m, columns)
        Factors of the other side, the bias in the last column where the equation is biased.
    gramian : float32 ndarray, shape (columns, columns)
        a0 * Y'Y over *all* rows of the other side.
    n_source : int
        How many rows the other side has in all.
    indptr, indices, strengths : int64, int32, float32 ndarray
        CSR rows; ``indices`` are rows of ``source``, unique within a row.
    threads : int

    Returns
    -------
    float32 ndarray, shape (n, columns)
        A row with no entries is all zeros.

    Raises
    ------
    SolveError
        A row's system is singular.
    """
    x = np.zeros((len(indptr) - 1, source.shape[1]), dtype=FACTOR_DTYPE)
    system = equation.system(side, indptr, indices, strengths, n_source)
    solver: Solver = "nonnegative" if equation.nonnegative else "cholesky"
    half_step(system, source, gramian, x, Method(solver, FOLD_IN_SWEEPS, threads=threads))
    return x
