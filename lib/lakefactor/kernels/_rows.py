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
    aligned,
    assemble,
    dot,
    factorize,
    last_group,
    multiply_rows,
    multiply_upper,
    regularize,
    row_dot,
    solve_factorized,
)
from lakefactor.kernels._vector import GROUP, TOGETHER, gather_residuals, subtract_products

PANEL_BYTES = 1 << 20
"""Bound of a thread's panel for conjugate gradients, about half an L2 cache; a longer row is gathered in every pass."""

LARGE = 128
"""Padded rank from which on G is no longer in a core's first cache beside the rest."""


@njit(nogil=True, cache=True, error_model="numpy")
def solve_cholesky(
    rows, source, base, start, dense, indptr, indices, weights, targets, reg, reg_last, steps, size, x, values
):
    """Solve the rows numbered in ``rows`` exactly; ``steps`` and ``size`` are not used."""
    k, width = x.shape[1], start.shape[0]
    panel, shape = aligned(TILE_ROWS, base.shape[1]), base.shape
    matrix, factor, segment = aligned(*shape), aligned(*shape), aligned(*shape)
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
def gather_rest(source, indices, weights, targets, first, last, p, panel, place, tail, part, rest):
    """Gather the entries first .. last - 1 into the panel from ``place`` on and add P'(t - W P p) to ``rest``.

    Entries that do not fit in the panel are not kept. ``tail`` is room for the last group's numbers, weights and
    targets. Returns p'P't.
    """
    n, width, stride = last - first, p.shape[0], panel.shape[1]
    whole, kept = first + n // GROUP * GROUP, n <= panel.shape[0]
    if whole < last:
        last_group(indices, weights, targets, whole, last, *tail)
    scores = np.empty(GROUP, np.float32)
    linear = 0.0
    for start in range(first, last, TILE_ROWS):
        part[:] = 0.0
        for e in range(start, min(start + TILE_ROWS, last), GROUP):
            to = place + e - first if kept else 0
            if e < whole:
                ahead = e + GROUP if e + GROUP < whole else e
                gather_residuals(
                    source, width, indices, weights, targets, e, ahead, p, panel, to, stride, scores, part
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
def subtract_entries(panel, place, indices, weights, first, last, p, tail, part, out):
    """Subtract P'WP p of the entries first .. last - 1, which were gathered from ``place`` on, from ``out``."""
    width, stride = p.shape[0], panel.shape[1]
    whole = first + (last - first) // GROUP * GROUP
    if whole < last:
        last_group(indices, weights, weights, whole, last, *tail)
    for start in range(first, last, TILE_ROWS):
        part[:] = 0.0
        for e in range(start, min(start + TILE_ROWS, whole), GROUP):
            subtract_products(panel, place + e - first, stride, p, width, weights, e, part)
        if whole < last <= start + TILE_ROWS:
            subtract_products(panel, place + whole - first, stride, p, width, tail[1], 0, part)
        out += part


@njit(nogil=True, cache=True, error_model="numpy")
def subtract_base(products, p, i, k, reg, reg_last, out):
    """Subtract (G + diag(reg)) p[i] from ``out``, given G p."""
    for j in range(k):
        out[j] -= products[i, j] + (reg if j < k - 1 else reg_last) * p[i, j]


@njit(nogil=True, cache=True, error_model="numpy")
def places(rows, done, indptr, size, offsets):
    """Set where in a panel of ``size`` rows the entries of the next rows begin; return how many rows fit together.

    A row that is longer than the panel has it for itself.
    """
    count, taken = 0, 0
    while count < min(len(rows) - done, len(offsets)):
        row = rows[done + count]
        n = indptr[row + 1] - indptr[row]
        if count > 0 and taken + n > size:
            break
        offsets[count] = taken
        taken += (n + GROUP - 1) // GROUP * GROUP
        count += 1
    return count


@njit(nogil=True, cache=True, error_model="numpy")
def any_above(values, bounds, count):
    """Return whether one of the first ``count`` values is above its bound."""
    for i in range(count):  # noqa: SIM110
        if values[i] > bounds[i]:
            return True
    return False


@njit(nogil=True, cache=True, error_model="numpy")
def solve_cg(
    rows, source, base, start, dense, indptr, indices, weights, targets, reg, reg_last, steps, size, x, values
):
    """Improve the rows numbered in ``rows`` by conjugate gradients (Hestenes and Stiefel 1952).

    The panel holds ``size`` rows; the entries of a longer row are gathered anew in every pass. The first pass gathers
    them and leaves r = b - Mx; b itself is not needed, as x'Mx - 2x'b changes by -(x - x_0)'(r + r_0).

    Where G is large, `TOGETHER` rows advance at once, as far as their entries share the panel: G is read once for all.
    """
    k, width, stride = x.shape[1], start.shape[0], base.shape[1]
    together = TOGETHER if width >= LARGE else 1
    panel, shape = aligned(size, stride), (together, stride)
    tail = (np.empty(GROUP, np.int32), np.empty(GROUP, np.float32), np.empty(GROUP, np.float32))
    # Separate arrays: rows of one array cost 7 times as long, as the compiler cannot tell them apart. And few views,
    # as each costs the counting of its references.
    begin, solution, slope = np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    residual, direction = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    product, fall, part = np.zeros(shape, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    square, solved, steepest = np.empty(together), np.empty(together), np.empty(together)
    linear, value = np.empty(together), np.empty(together)
    offsets, no_targets = np.empty(together, np.int64), np.zeros(1, np.float32)
    done = 0
    while done < len(rows):
        count = places(rows, done, indptr, size, offsets)
        for i in range(count):
            row = rows[done + i]
            first, last = indptr[row], indptr[row + 1]
            empty = first == last and not dense
            for j in range(width):
                begin[i, j] = x[row, j] if j < k and not empty else np.float32(0.0)
                solution[i, j] = begin[i, j]
                residual[i, j] = start[j]
            linear[i] = dot(solution[i, :width], start) + gather_rest(
                source, indices, weights, targets, first, last, solution[i, :width], panel, offsets[i], tail, part,
                residual[i, :width],
            )  # fmt: skip
        multiply_rows(base, width, solution, product)
        for i in range(count):
            row = rows[done + i]
            subtract_base(product, solution, i, k, reg[row], reg_last[row], residual[i])
            for j in range(width):
                slope[i, j] = residual[i, j]
                direction[i, j] = residual[i, j]
            square[i], length = row_dot(residual, residual, i, width), row_dot(solution, solution, i, width)
            rest = row_dot(solution, residual, i, width)
            value[i] = -rest - linear[i]
            # |Mx| >= x'Mx / |x|, and where r is small b is about Mx. Below a relative residual of 1e-7 float32 adds
            # nothing.
            size_of_b = (linear[i] - rest) ** 2 / length if length > 0.0 else 0.0
            solved[i] = 1e-14 * (square[i] + size_of_b)
            steepest[i] = 0.0
        for _ in range(steps):
            if not any_above(square, solved, count):
                break
            multiply_rows(base, width, direction, product)
            for i in range(count):
                if square[i] <= solved[i]:
                    continue
                row = rows[done + i]
                first, last = indptr[row], indptr[row + 1]
                n, towards = last - first, direction[i, :width]
                fall[:] = 0.0  # -M direction
                if n <= size:
                    subtract_entries(panel, offsets[i], indices, weights, first, last, towards, tail, part, fall)
                else:
                    if no_targets.shape[0] < n:
                        no_targets = np.zeros(n, np.float32)
                    gather_rest(
                        source, indices[first:last], weights[first:last], no_targets, 0, n, towards, panel, 0, tail,
                        part, fall,
                    )  # fmt: skip
                subtract_base(product, direction, i, k, reg[row], reg_last[row], fall)
                curvature, length = -dot(towards, fall), row_dot(direction, direction, i, width)
                if not curvature > 1e-7 * steepest[i] * length:  # rounding noise: the system is singular this way
                    if steepest[i] == 0.0:
                        value[i] = np.nan  # in every direction: products vanished or overflowed
                    solved[i] = np.inf
                    continue
                steepest[i] = max(steepest[i], curvature / length)
                step = np.float32(square[i] / curvature)
                for j in range(width):
                    solution[i, j] += step * direction[i, j]
                    residual[i, j] += step * fall[j]
                before, square[i] = square[i], row_dot(residual, residual, i, width)
                turn = np.float32(square[i] / before)
                for j in range(width):
                    direction[i, j] = residual[i, j] + turn * direction[i, j]
        for i in range(count):
            row = rows[done + i]
            for j in range(k):
                x[row, j] = solution[i, j]
            for j in range(width):
                moved = np.float64(solution[i, j]) - np.float64(begin[i, j])
                value[i] -= moved * (np.float64(residual[i, j]) + np.float64(slope[i, j]))
            values[row] = value[i]
        done += count


@njit(nogil=True, cache=True, error_model="numpy")
def partial_rest(source, stride, indices, weights, targets, p):
    """Return P'(t - W P p) and p'P't of some of a row's entries."""
    panel = aligned(GROUP, stride)
    tail = (np.empty(GROUP, np.int32), np.empty(GROUP, np.float32), np.empty(GROUP, np.float32))
    rest, part = np.zeros(p.shape[0], np.float32), np.empty(p.shape[0], np.float32)
    return rest, gather_rest(source, indices, weights, targets, 0, len(indices), p, panel, 0, tail, part, rest)
