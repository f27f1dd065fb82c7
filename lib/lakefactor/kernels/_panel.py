# mypy: allow-untyped-defs, allow-incomplete-defs
"""Compiled steps from a row's entries to its normal equations, and to their solution.

Names, here and in the solvers: Y source factors, G = a0 Y'Y (`base`, padded), P the row's *panel* (its entries' source
rows, gathered into contiguous memory), W its weights, M = G + P'WP + diag(reg), b the right-hand side, r = b - Mx.
``width`` is the padded rank, ``stride`` the row length of scratch matrices (see `_vector`). The columns of the source
are padded; where the model is biased its last column is 1, and targets are t - w b (`remove_bias`).

Scratch arrays are float32 unless said otherwise. numba infers types, so the signatures carry none. numba's cache looks
at the file of the outermost function only: after an edit here or in `_vector.py`, touch the solvers' files too.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from lakefactor.kernels._vector import (
    GROUP,
    LANES,
    STRIP,
    add_combinations,
    add_gathered_dots,
    add_outer,
    axpys,
    dots,
    factorize_block,
    gather_scaled,
    solve_strip,
)

TILE_ROWS = 128
"""Entries per float32 partial sum; with 64 columns a tile is 32 KiB (L1). Sums of tiles, not of entries, keep rounding
small in long rows."""

SEGMENT_ROWS = 64 * TILE_ROWS
"""Entries summed in one partial matrix before it joins the total: again for rounding."""

SUMS = {"contract", "reassoc", "nsz"}
"""Fast-math flags that let sums be vectorized; NaN and inf keep their meaning."""


@njit(nogil=True, cache=True)
def aligned(rows, columns):
    """Return an empty matrix that begins with a cache line: a vector across two lines loads at half the speed."""
    memory = np.empty(rows * columns + LANES, np.float32)
    first = -memory.ctypes.data // 4 % LANES
    return memory[first : first + rows * columns].reshape(rows, columns)


@njit(nogil=True, cache=True, error_model="numpy")
def remove_bias(rows, bias, indptr, indices, weights, targets, shifted, constants):
    """Set ``shifted`` to t - w b and ``constants`` to the rows' sum w b^2 - 2 t b, b the source rows' biases."""
    for row in rows:
        constant = 0.0
        for e in range(indptr[row], indptr[row + 1]):
            b, w, t = bias[indices[e]], weights[e], targets[e]
            shifted[e] = t - w * b
            constant += np.float64(b) * (np.float64(w) * np.float64(b) - 2.0 * np.float64(t))
        constants[row] = constant


@njit(nogil=True, cache=True, error_model="numpy")
def last_group(indices, weights, targets, whole, last, cols, w, t):
    """Copy the entries from ``whole`` to before ``last`` to arrays of eight; the rest weigh 0, with targets 0."""
    for i in range(GROUP):
        there = whole + i < last
        cols[i] = indices[whole + i if there else last - 1]
        w[i] = weights[whole + i] if there else np.float32(0.0)
        t[i] = targets[whole + i] if there else np.float32(0.0)


@njit(nogil=True, cache=True, error_model="numpy")
def any_weight(weights):
    """Return whether a weight is not 0."""
    for e in range(weights.shape[0]):  # noqa: SIM110
        if weights[e] != 0.0:
            return True
    return False


@njit(nogil=True, cache=True, error_model="numpy")
def add_scores(source, column, indices, p, scores):
    """Add the products of the entries' source rows, from ``column`` on, with ``p`` to ``scores``."""
    n, m, width = indices.shape[0], source.shape[1], p.shape[0]
    whole = n // GROUP * GROUP
    for e in range(0, whole, GROUP):
        add_gathered_dots(source, m, column, width, indices, e, p, scores, e)
    if whole < n:
        cols, rest = np.empty(GROUP, np.int32), np.zeros(GROUP, np.float32)
        for i in range(GROUP):
            cols[i] = indices[min(whole + i, n - 1)]
        add_gathered_dots(source, m, column, width, cols, 0, p, rest, 0)
        for e in range(whole, n):
            scores[e] += rest[e - whole]


@njit(nogil=True, cache=True, error_model="numpy")
def add_products(panel, n, width, out):
    """Add P'P of the panel's first ``n`` rows to the 16 x 16 blocks of ``out`` on and above its diagonal."""
    for first in range(0, width, LANES):
        for second in range(first, width, LANES):
            add_outer(panel, n, panel.shape[1], first, second, np.float32(1.0), out, out.shape[1])


@njit(nogil=True, cache=True, error_model="numpy")
def gather(source, column, indices, weights, targets, panel, rhs):
    """Fill the panel with columns of sqrt(w) y, zeros up to a whole group, and add sum t y to ``rhs``."""
    n, m, width, stride = indices.shape[0], source.shape[1], rhs.shape[0], panel.shape[1]
    whole = n // GROUP * GROUP
    for e in range(0, whole, GROUP):
        ahead = e + GROUP if e + GROUP < whole else e
        gather_scaled(source, m, column, width, indices, weights, targets, e, ahead, panel, e, stride, rhs)
    if whole < n:
        cols, w, t = np.empty(GROUP, np.int32), np.empty(GROUP, np.float32), np.empty(GROUP, np.float32)
        last_group(indices, weights, targets, whole, n, cols, w, t)
        gather_scaled(source, m, column, width, cols, w, t, 0, 0, panel, whole, stride, rhs)


@njit(nogil=True, cache=True, error_model="numpy")
def assemble(source, column, indices, weights, targets, panel, segment, matrix, rhs, part):
    """Add P'WP to ``matrix`` (its blocks on and above the diagonal) and the entries' b to ``rhs``.

    Of the source, the columns from ``column`` on are used, as many as ``rhs`` is long. Where all weights are 0 the
    matrix costs nothing.
    """
    n, width = indices.shape[0], rhs.shape[0]
    for first in range(0, n, SEGMENT_ROWS):
        last = min(first + SEGMENT_ROWS, n)
        goal = matrix
        if n > SEGMENT_ROWS:
            goal = segment
            segment[:] = 0.0
        for start in range(first, last, TILE_ROWS):
            stop = min(start + TILE_ROWS, last)
            part[:] = 0.0
            gather(source, column, indices[start:stop], weights[start:stop], targets[start:stop], panel, part)
            rhs += part
            if any_weight(weights[start:stop]):
                add_products(panel, stop - start, width, goal)
        if n > SEGMENT_ROWS:
            matrix += segment


@njit(nogil=True, cache=True, error_model="numpy")
def regularize(matrix, regs, diagonal):
    """Add ``regs`` to the diagonal and keep a copy of that."""
    for j in range(diagonal.shape[0]):
        matrix[j, j] += regs[j]
        diagonal[j] = matrix[j, j]


@njit(nogil=True, cache=True, error_model="numpy")
def factorize(matrix, width, diagonal, pivots, inverses):
    """Overwrite the upper triangle with U, U'U = matrix; return whether float32 is precise enough for it.

    A pivot of about k rounding errors of its diagonal element carries no information, though it may be positive.
    """
    stride = matrix.shape[1]
    for first in range(0, width, LANES):
        for column in range(first, width, LANES):
            add_outer(matrix, first, stride, first, column, np.float32(-1.0), matrix, stride)
        factorize_block(matrix, first, stride, pivots, inverses)
        for column in range(first + LANES, width, LANES):
            solve_strip(matrix, first, column, stride, inverses)
    noise = np.float32(width * 6e-8)
    precise = True
    for j in range(width):
        precise &= pivots[j] > noise * diagonal[j]
    return precise


@njit(nogil=True, cache=True, error_model="numpy")
def solve_factorized(factor, width, inverses, x, part):
    """Overwrite ``x`` = b with the solution of U'U x = b."""
    stride = factor.shape[1]
    for first in range(0, width, LANES):
        for i in range(first, first + LANES):
            x[i] *= inverses[i]
            for j in range(i + 1, first + LANES):
                x[j] -= x[i] * factor[i, j]
            part[i] = -x[i]
        if first + LANES < width:
            for row in range(first, first + LANES, GROUP):
                axpys(factor, row, first + LANES, stride, part, row, x, width - first - LANES)
    for first in range(width - LANES, -1, -LANES):
        if first + LANES < width:
            for row in range(first, first + LANES, GROUP):
                dots(factor, row, first + LANES, stride, x, width - first - LANES, part, row)
                for i in range(row, row + GROUP):
                    x[i] -= part[i]
        for i in range(first + LANES - 1, first - 1, -1):
            for j in range(i + 1, first + LANES):
                x[i] -= factor[i, j] * x[j]
            x[i] *= inverses[i]


@njit(nogil=True, cache=True, error_model="numpy")
def multiply(matrix, width, x, out):
    """Set ``out`` to matrix x; the matrix is symmetric, all its blocks are there."""
    for row in range(0, width, GROUP):
        dots(matrix, row, 0, matrix.shape[1], x, width, out, row)


@njit(nogil=True, cache=True, error_model="numpy")
def multiply_rows(matrix, width, p, out):
    """Set row i of ``out`` to matrix p[i]; one row, or four, with a width of at least 64, at one reading of it.

    The matrix is symmetric, all its blocks are there.
    """
    if len(p) == 1:
        multiply(matrix, width, p[0], out[0])
        return
    for strip in range(0, width, STRIP):
        column = min(strip, width - STRIP)  # the last strip may overlap the one before
        out[:, column : column + STRIP] = 0.0
        for first in range(0, width, TILE_ROWS):
            n = min(TILE_ROWS, width - first)
            add_combinations(matrix, column, matrix.shape[1], first, n, p, p.shape[1], out)


@njit(nogil=True, cache=True, error_model="numpy")
def multiply_upper(matrix, width, x, out):
    """Set ``out`` to matrix x; the matrix is symmetric, its blocks on and above the diagonal are there."""
    stride = matrix.shape[1]
    part = np.empty(GROUP, np.float32)
    out[:] = 0.0
    for first in range(0, width, LANES):
        for row in range(first, first + LANES, GROUP):
            dots(matrix, row, first, stride, x, width - first, part, 0)
            for i in range(GROUP):
                out[row + i] += part[i]
            if first + LANES < width:
                axpys(matrix, row, first + LANES, stride, x, row, out, width - first - LANES)


@njit(nogil=True, cache=True, error_model="numpy")
def mirror(matrix, width):
    """Copy the blocks above the diagonal to those below it."""
    for i in range(LANES, width):
        for j in range(i // LANES * LANES):
            matrix[i, j] = matrix[j, i]


@njit(nogil=True, cache=True, error_model="numpy")
def partial_equations(source, width, stride, indices, weights, targets):
    """Return P'WP (blocks on and above the diagonal) and b of some of a row's entries."""
    panel, segment, matrix = aligned(TILE_ROWS, stride), aligned(width, stride), aligned(width, stride)
    matrix[:] = 0.0
    rhs, part = np.zeros(width, np.float32), np.empty(width, np.float32)
    assemble(source, 0, indices, weights, targets, panel, segment, matrix, rhs, part)
    return matrix, rhs


@njit(nogil=True, cache=True, fastmath=SUMS, error_model="numpy")
def dot(a, b):
    """Return a'b summed in float64: products of tiny float32 numbers do not vanish, huge ones do not overflow."""
    total = 0.0
    for j in range(a.shape[0]):
        total += np.float64(a[j]) * np.float64(b[j])
    return total


@njit(nogil=True, cache=True, fastmath=SUMS, error_model="numpy")
def row_dot(a, b, i, width):
    """Return the product of row i of two matrices, over ``width`` columns, as `dot` does."""
    total = 0.0
    for j in range(width):
        total += np.float64(a[i, j]) * np.float64(b[i, j])
    return total
