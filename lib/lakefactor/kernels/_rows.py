# mypy: allow-untyped-defs, allow-incomplete-defs
"""Compiled solvers of one chunk of rows: exact, and conjugate gradients. For names and types see `_panel`.

Every solver of this package has the arguments of `solve_cholesky`. ``base`` (padded) and ``start`` (a right-hand side,
length ``width``) are what every row's equations begin with: G and 0; or, with ``dense``, the summed matrix of a giant
row and its b, and no entries. Each row is solved by one thread in one fixed order of operations, so results do not
depend on the number of threads. A row that float32 cannot solve gets a value that is not finite.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from lakefactor.kernels._panel import (
    TILE_ROWS,
    assemble,
    dot,
    factorize,
    last_group,
    multiply,
    multiply_upper,
    regularize,
    solve_factorized,
)
from lakefactor.kernels._vector import GROUP, gather_residuals, subtract_products

PANEL_BYTES = 1 << 20
"""Bound of a thread's panel for conjugate gradients, about half an L2 cache; a longer row is gathered in every pass."""


@njit(nogil=True, cache=True, error_model="numpy")
def solve_cholesky(
    rows, source, base, start, dense, indptr, indices, weights, targets, reg, reg_last, steps, size, x, values
):
    """Solve the rows numbered in ``rows`` exactly; ``steps`` and ``size`` are not used."""
    k, width = x.shape[1], start.shape[0]
    panel = np.empty((TILE_ROWS, base.shape[1]), np.float32)
    matrix, factor, segment = np.empty_like(base), np.empty_like(base), np.empty_like(base)
    rhs, part, solution = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    regs, diagonal = np.zeros(width, np.float32), np.empty(width, np.float32)
    pivots, inverses = np.empty(width, np.float32), np.empty(width, np.float32)
    for row in rows:
        first, last = indptr[row], indptr[row + 1]
        if first == last and not dense:
            x[row] = 0.0
            values[row] = 0.0
            continue
        matrix[:] = base
        rhs[:] = start
        assemble(
            source, 0, indices[first:last], weights[first:last], targets[first:last], panel, segment, matrix, rhs, part
        )
        regs[:k] = reg[row]
        regs[k - 1] = reg_last[row]
        regularize(matrix, regs, diagonal)
        factor[:] = matrix
        if not factorize(factor, width, diagonal, pivots, inverses):
            values[row] = np.nan
            continue
        solution[:] = rhs
        solve_factorized(factor, width, inverses, solution, part)
        multiply_upper(matrix, width, solution, part)
        x[row] = solution[:k]
        values[row] = dot(solution, part) - 2.0 * dot(solution, rhs)


@njit(nogil=True, cache=True, error_model="numpy")
def gather_rest(source, cols, weights, targets, p, panel, tail, part, rest):
    """Gather the row's panel, as far as it fits, and add P'(t - W P p) to ``rest``; return p'P't.

    ``tail`` are the last group's numbers, weights and targets.
    """
    n, width, stride = cols.shape[0], p.shape[0], panel.shape[1]
    whole, held = n // GROUP * GROUP, panel.shape[0]
    scores = np.empty(GROUP, np.float32)
    linear = 0.0
    for first in range(0, n, TILE_ROWS):
        part[:] = 0.0
        for e in range(first, min(first + TILE_ROWS, n), GROUP):
            to = e if n <= held else 0
            if e < whole:
                ahead = e + GROUP if e + GROUP < whole else e
                gather_residuals(
                    source, width, cols, weights, targets, e, ahead, p, panel, to, stride, scores, part
                )  # fmt: skip
                for i in range(GROUP):
                    linear += np.float64(scores[i]) * np.float64(targets[e + i])
            else:
                gather_residuals(
                    source, width, tail[0], tail[1], tail[2], 0, 0, p, panel, to, stride, scores, part
                )  # fmt: skip
                for i in range(GROUP):
                    linear += np.float64(scores[i]) * np.float64(tail[2][i])
        rest += part
    return linear


@njit(nogil=True, cache=True, error_model="numpy")
def subtract_entries(panel, n, weights, tail_weights, p, part, out):
    """Subtract P'WP p of the gathered row from ``out``."""
    width, stride, whole = p.shape[0], panel.shape[1], n // GROUP * GROUP
    for first in range(0, n, TILE_ROWS):
        part[:] = 0.0
        for e in range(first, min(first + TILE_ROWS, whole), GROUP):
            subtract_products(panel, e, stride, p, width, weights, e, part)
        if whole < n <= first + TILE_ROWS:
            subtract_products(panel, whole, stride, p, width, tail_weights, 0, part)
        out += part


@njit(nogil=True, cache=True, error_model="numpy")
def subtract_base(base, k, reg, reg_last, p, product, out):
    """Subtract (G + diag(reg)) p from ``out``."""
    multiply(base, p.shape[0], p, product)
    for j in range(k):
        out[j] -= product[j] + (reg if j < k - 1 else reg_last) * p[j]


@njit(nogil=True, cache=True, error_model="numpy")
def solve_cg(
    rows, source, base, start, dense, indptr, indices, weights, targets, reg, reg_last, steps, size, x, values
):
    """Improve the rows numbered in ``rows`` by conjugate gradients (Hestenes and Stiefel 1952).

    The panel holds ``size`` rows; the entries of a longer row are gathered anew in every pass. The first pass gathers
    them and leaves r = b - Mx; b itself is not needed, as x'Mx - 2x'b changes by -(x - x_0)'(r + r_0).
    """
    k, width = x.shape[1], start.shape[0]
    panel = np.empty((size, base.shape[1]), np.float32)
    tail = (np.empty(GROUP, np.int32), np.empty(GROUP, np.float32), np.empty(GROUP, np.float32))
    # Separate arrays: rows of one array cost 7 times as long, as the compiler cannot tell them apart.
    begin, solution = np.zeros(width, np.float32), np.empty(width, np.float32)
    slope, residual, direction = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    fall, product, part = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    no_targets = np.zeros(1, np.float32)
    for row in rows:
        first, last = indptr[row], indptr[row + 1]
        n = last - first
        if n == 0 and not dense:
            x[row] = 0.0
            values[row] = 0.0
            continue
        cols, w, t = indices[first:last], weights[first:last], targets[first:last]
        if n % GROUP:
            last_group(cols, w, t, n // GROUP * GROUP, *tail)
        if n > size and no_targets.shape[0] < n:
            no_targets = np.zeros(n, np.float32)
        begin[:k] = x[row]
        solution[:] = begin
        residual[:] = start
        linear = gather_rest(source, cols, w, t, solution, panel, tail, part, residual) + dot(solution, start)
        tail[2][:] = 0.0
        subtract_base(base, k, reg[row], reg_last[row], solution, product, residual)
        slope[:] = residual
        direction[:] = residual
        square, length = dot(residual, residual), dot(solution, solution)
        value = -dot(solution, residual) - linear
        # |Mx| >= x'Mx / |x|, and where r is small b is about Mx. Below a relative residual of 1e-7 float32 adds
        # nothing.
        size_of_b = (linear - dot(solution, residual)) ** 2 / length if length > 0.0 else 0.0
        solved = 1e-14 * (square + size_of_b)
        steepest = 0.0
        for _ in range(steps):
            if square <= solved:
                break
            fall[:] = 0.0  # -M direction
            if n <= size:
                subtract_entries(panel, n, w, tail[1], direction, part, fall)
            else:
                gather_rest(source, cols, w, no_targets[:n], direction, panel, tail, part, fall)
            subtract_base(base, k, reg[row], reg_last[row], direction, product, fall)
            curvature, length = -dot(direction, fall), dot(direction, direction)
            if not curvature > 1e-7 * steepest * length:  # rounding noise: the system is singular in this direction
                if steepest == 0.0:
                    value = np.nan  # in every direction: products vanished or overflowed
                break
            steepest = max(steepest, curvature / length)
            stride = np.float32(square / curvature)
            for j in range(width):
                solution[j] += stride * direction[j]
                residual[j] += stride * fall[j]
            before, square = square, dot(residual, residual)
            turn = np.float32(square / before)
            for j in range(width):
                direction[j] = residual[j] + turn * direction[j]
        x[row] = solution[:k]
        for j in range(width):
            value -= (np.float64(solution[j]) - begin[j]) * (np.float64(residual[j]) + slope[j])
        values[row] = value


@njit(nogil=True, cache=True, error_model="numpy")
def partial_rest(source, stride, indices, weights, targets, p):
    """Return P'(t - W P p) and p'P't of some of a row's entries."""
    panel = np.empty((GROUP, stride), np.float32)
    tail = (np.empty(GROUP, np.int32), np.empty(GROUP, np.float32), np.empty(GROUP, np.float32))
    rest, part = np.zeros(p.shape[0], np.float32), np.empty(p.shape[0], np.float32)
    if len(indices) % GROUP:
        last_group(indices, weights, targets, len(indices) // GROUP * GROUP, *tail)
    return rest, gather_rest(source, indices, weights, targets, p, panel, tail, part, rest)
