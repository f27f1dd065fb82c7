"""The rows that float32 cannot solve, solved in float64; `half_step` is the only caller.

A row gets here when a pivot of its matrix is float32 rounding noise, or when its numbers overflow or vanish. Such rows
are rare; numpy is fast enough for them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lakefactor.errors import SolveError
from lakefactor.kernels.system import System

_BLOCK_ENTRIES = 1 << 14
_NAMED_ROWS = 10
Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]


def solve_rows(
    rows: NDArray[np.intp],
    system: System,
    source: Float32s,
    gramian: Float32s,
    x: Float32s,
    values: Float64s,
    nonnegative: bool,
) -> None:
    """Set ``x`` and ``values`` of ``rows`` (arguments as in `half_step`), or raise SolveError for the singular ones."""
    indptr, indices, weights, targets = system.indptr, system.indices, system.weights, system.targets
    reg, reg_last = system.reg, system.reg_last
    singular = []
    with np.errstate(all="ignore"):  # what is not finite is found in the solution
        for r in rows.tolist():
            row = slice(indptr[r], indptr[r + 1])
            matrix, rhs, constant = _system(source, gramian, indices[row], weights[row], targets[row], system.biased)
            matrix[np.diag_indices_from(matrix)] += np.append(np.full(len(matrix) - 1, reg[r], np.float64), reg_last[r])
            solution = _solve_positive_definite(matrix, rhs, nonnegative)
            if solution is None:
                singular.append(r)
                continue
            x[r] = solution
            values[r] = solution @ matrix @ solution - 2.0 * solution @ rhs + constant
    if singular:
        named = ", ".join(map(str, singular[:_NAMED_ROWS])) + (", ..." if len(singular) > _NAMED_ROWS else "")
        raise SolveError(
            singular,
            f"{len(singular)} of {len(x)} rows have no unique finite solution (local rows {named}): their equations "
            "are singular, or their weights, targets or source factors are not finite, or a weight is negative. "
            f"The smallest regularization among these rows is {float(np.min(reg[singular])):g}; raise reg (0 needs "
            "more entries than factors in every row), or correct the strengths.",
        )


def _system(
    source: Float32s,
    gramian: Float32s,
    indices: NDArray[np.int32],
    weights: Float32s,
    targets: Float32s,
    biased: bool,
) -> tuple[Float64s, Float64s, float]:
    """Return M without regularization, b, and the constant of the source biases, in blocks of entries."""
    matrix, rhs, constant = gramian.astype(np.float64), np.zeros(len(gramian)), 0.0
    for start in range(0, len(indices), _BLOCK_ENTRIES):
        block = slice(start, start + _BLOCK_ENTRIES)
        y = source[indices[block]].astype(np.float64)
        w, t = weights[block].astype(np.float64), targets[block].astype(np.float64)
        if biased:
            bias = y[:, -1].copy()
            y[:, -1] = 1.0
            constant += float(bias @ (w * bias - 2.0 * t))
            t = t - w * bias
        matrix += y.T @ (w[:, None] * y)
        rhs += t @ y
    return matrix, rhs, constant


def _solve_positive_definite(matrix: Float64s, rhs: Float64s, nonnegative: bool) -> Float64s | None:
    """Return the solution, the best one >= 0 if ``nonnegative``.

    None where the system is not finite, a pivot is rounding noise, or the result does not fit float32.
    """
    if not (np.isfinite(matrix).all() and np.isfinite(rhs).all()):
        return None
    try:
        lower = np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return None
    if not np.all(np.square(np.diag(lower)) > len(rhs) * np.finfo(np.float64).eps * np.diag(matrix)):
        return None
    if nonnegative:
        from scipy.optimize import nnls

        # |L'x - L^-1 b|^2 is x'Mx - 2x'b and a constant
        solution = np.asarray(nnls(lower.T, np.linalg.solve(lower, rhs))[0], np.float64)
    else:
        solution = np.linalg.solve(matrix, rhs).astype(np.float64)
    return solution if np.all(np.isfinite(solution.astype(np.float32))) else None
