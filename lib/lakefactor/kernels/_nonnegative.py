# mypy: allow-untyped-defs, allow-incomplete-defs
"""Compiled coordinate descent with x >= 0 (HALS). For names, types and arguments see `_panel` and `_rows`."""

from __future__ import annotations

import numpy as np
from numba import njit

from lakefactor.kernels._panel import TILE_ROWS, aligned, any_weight, assemble, dot, mirror, multiply


@njit(nogil=True, cache=True, error_model="numpy")
def solve_nonnegative(
    rows, source, base, start, dense, indptr, indices, weights, targets, reg, reg_last, steps, size, x, values
):
    """Improve the rows numbered in ``rows`` by ``steps`` sweeps of non-negative coordinate descent.

    A row whose weights are all 0 has no matrix of its own: it costs its right-hand side and the sweeps over G.
    ``size`` is not used.
    """
    k, width = x.shape[1], start.shape[0]
    panel, shape = aligned(TILE_ROWS, base.shape[1]), base.shape
    own, segment = aligned(*shape), aligned(*shape)
    rhs, part, regs = np.empty(width, np.float32), np.empty(width, np.float32), np.zeros(width, np.float32)
    solution, rest = np.zeros(width, np.float32), np.empty(width, np.float32)
    for row in rows:
        first, last = indptr[row], indptr[row + 1]
        if first == last and not dense:
            x[row] = 0.0
            values[row] = 0.0
            continue
        rhs[:] = start
        matrix = base
        if any_weight(weights[first:last]):
            own[:] = base
            matrix = own
        assemble(
            source, 0, indices[first:last], weights[first:last], targets[first:last], panel, segment, matrix, rhs, part
        )
        if any_weight(weights[first:last]):
            mirror(own, width)
        regs[:k] = reg[row]
        regs[k - 1] = reg_last[row]
        for j in range(k):
            solution[j] = x[row, j] if x[row, j] > 0.0 else np.float32(0.0)
        for _ in range(steps):
            multiply(matrix, width, solution, part)
            for j in range(width):
                rest[j] = rhs[j] - part[j] - regs[j] * solution[j]
            _sweep(matrix, k, regs, solution, rest)
        x[row] = solution[:k]
        values[row] = -dot(solution, rhs) - dot(solution, rest)


@njit(nogil=True, cache=True, error_model="numpy")
def _sweep(matrix, k, regs, x, rest):
    """Minimise over one coordinate after the other; ``rest`` = b - Mx is kept up to date."""
    width = x.shape[0]
    for j in range(k):
        curvature = matrix[j, j] + regs[j]
        best = x[j] + rest[j] / curvature if curvature > 0.0 else np.float32(0.0)
        if not best > 0.0:
            best = np.float32(0.0)
        change = best - x[j]
        if change == 0.0:
            continue
        x[j] = best
        for i in range(width):
            rest[i] -= change * matrix[j, i]
        rest[j] -= change * regs[j]
