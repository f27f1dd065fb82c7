# mypy: allow-untyped-defs, allow-incomplete-defs
"""Compiled block descent over a row's coordinates (iALS++). For names, types and arguments see `_panel` and `_rows`."""

from __future__ import annotations

import numpy as np
from numba import njit

from lakefactor.kernels._panel import (
    TILE_ROWS,
    add_scores,
    aligned,
    assemble,
    dot,
    factorize,
    multiply,
    regularize,
    solve_factorized,
)
from lakefactor.kernels._vector import GROUP, dots


@njit(nogil=True, cache=True, error_model="numpy")
def solve_subspace(
    rows, source, base, start, dense, indptr, indices, weights, targets, reg, reg_last, steps, size, x, values
):
    """Improve the rows numbered in ``rows`` by ``steps`` sweeps over blocks of ``size`` columns (a multiple of 16).

    Each block is solved exactly for its change, given the predictions P x of the row's entries, which are kept: a
    block adds its part of them just before the next one needs them. A block of change d lowers the value by d'r.
    """
    k, width = x.shape[1], start.shape[0]
    panel = aligned(TILE_ROWS, size)
    longest = 0
    for row in rows:
        longest = max(longest, indptr[row + 1] - indptr[row])
    scores, errors = np.empty(longest, np.float32), np.empty(longest, np.float32)
    solution, product, regs = np.zeros(width, np.float32), np.empty(width, np.float32), np.zeros(width, np.float32)
    matrix, segment = aligned(size, size), aligned(size, size)
    rest, change, part = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.float32)
    diagonal, pivots, inverses = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.float32)
    for row in rows:
        first, last = indptr[row], indptr[row + 1]
        n = last - first
        if n == 0 and not dense:
            x[row] = 0.0
            values[row] = 0.0
            continue
        cols, w, t = indices[first:last], weights[first:last], targets[first:last]
        solution[:k] = x[row]
        regs[:k] = reg[row]
        regs[k - 1] = reg_last[row]
        scores[:n] = 0.0
        add_scores(source, 0, cols, solution, scores)
        value = -2.0 * dot(solution, start)
        for e in range(n):
            score = np.float64(scores[e])
            value += score * (np.float64(w[e]) * score - 2.0 * np.float64(t[e]))
        multiply(base, width, solution, product)
        for j in range(width):
            value += np.float64(solution[j]) * (np.float64(product[j]) + np.float64(regs[j]) * np.float64(solution[j]))
        for block in range(steps * (width // size)):
            column = block * size % width
            for e in range(n):
                errors[e] = t[e] - w[e] * scores[e]
            for j in range(size):
                matrix[j] = base[column + j, column : column + size]
            for j in range(0, size, GROUP):
                dots(base, column + j, 0, base.shape[1], solution, width, rest, j)
            for j in range(size):
                rest[j] = start[column + j] - rest[j] - regs[column + j] * solution[column + j]
            assemble(source, column, cols, w, errors[:n], panel, segment, matrix, rest, part)
            regularize(matrix, regs[column : column + size], diagonal)
            if not factorize(matrix, size, diagonal, pivots, inverses):
                value = np.nan
                break
            change[:] = rest
            solve_factorized(matrix, size, inverses, change, part)
            value -= dot(change, rest)
            for j in range(size):
                solution[column + j] += change[j]
            add_scores(source, column, cols, change, scores)
        x[row] = solution[:k]
        values[row] = value
