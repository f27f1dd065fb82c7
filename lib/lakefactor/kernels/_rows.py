# mypy: allow-untyped-defs, allow-incomplete-defs
"""Compiled solvers of one chunk of rows; `half_step` is their only caller. For names and types see `_panel`.

Each row is solved by one thread in one fixed order of operations, so results do not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from lakefactor.kernels._lapack import LOWER, ref, spotrf, spotrs
from lakefactor.kernels._panel import SUMS, TILE_ROWS, add_normal_product, assemble, gather, mirror

PANEL_BYTES = 4 << 20
"""Bound of a thread's panel for conjugate gradients; a longer row is turned into its k x k matrix instead."""


@njit(nogil=True, cache=True, error_model="numpy")
def _factorize(matrix, diagonal):
    """Overwrite the upper triangle with its Cholesky factor; return whether float32 is precise enough for it.

    A pivot of about k rounding errors of its diagonal element carries no information, though it may be positive.
    """
    k = matrix.shape[0]
    info = np.zeros(1, np.int32)
    spotrf(ref(LOWER), ref(np.int32(k)), matrix.ctypes, ref(np.int32(k)), info.ctypes)
    if info[0] != 0:
        return False
    noise = np.float32(k * 6e-8)
    precise = True
    for j in range(k):
        precise &= matrix[j, j] * matrix[j, j] > noise * diagonal[j]
    return precise


@njit(nogil=True, cache=True, fastmath=SUMS, error_model="numpy")
def _value(matrix, diagonal, rhs, x, product):
    """Return x'Mx - 2x'b with M in the strict lower triangle of ``matrix`` and in ``diagonal``."""
    k = x.shape[0]
    for i in range(k):
        xi = np.float64(x[i])
        product[i] = np.float64(diagonal[i]) * xi
        total = 0.0
        for j in range(i):
            total += np.float64(matrix[i, j]) * np.float64(x[j])
            product[j] += np.float64(matrix[i, j]) * xi
        product[i] += total
    value = 0.0
    for i in range(k):
        value += np.float64(x[i]) * (product[i] - 2.0 * np.float64(rhs[i]))
    return value


@njit(nogil=True, cache=True, error_model="numpy")
def solve_cholesky(
    rows, source, gramian, indptr, indices, weights, targets, reg, reg_last, biased, x, values
):  # fmt: skip
    """Solve the rows numbered in ``rows``; a row that float32 cannot solve gets the value NaN."""
    k = source.shape[1]
    panel = np.empty((TILE_ROWS, k), np.float32)
    matrix = np.empty((k, k), np.float32)
    segment = np.zeros((k, k), np.float32)
    rhs = np.empty(k, np.float32)
    part = np.empty(k, np.float32)
    diagonal = np.empty(k, np.float32)
    product = np.empty(k, np.float64)
    info = np.zeros(1, np.int32)
    for row in rows:
        start, stop = indptr[row], indptr[row + 1]
        if start == stop:
            x[row] = 0.0
            values[row] = 0.0
            continue
        constant = assemble(
            source, gramian, indices[start:stop], weights[start:stop], targets[start:stop], biased,
            panel, segment, matrix, rhs, part,
        )  # fmt: skip
        for j in range(k):
            matrix[j, j] += reg[row] if j < k - 1 else reg_last[row]
            diagonal[j] = matrix[j, j]
        mirror(matrix)
        if not _factorize(matrix, diagonal):
            values[row] = np.nan
            continue
        x[row] = rhs
        spotrs(
            ref(LOWER), ref(np.int32(k)), ref(np.int32(1)), matrix.ctypes, ref(np.int32(k)),
            x[row].ctypes, ref(np.int32(k)), info.ctypes,
        )  # fmt: skip
        values[row] = _value(matrix, diagonal, rhs, x[row], product) + constant


@njit(nogil=True, cache=True, fastmath=SUMS, error_model="numpy")
def _multiply(base, panel, reg, reg_last, p, out, part):
    """Set ``out`` to (base + P'P + diag(reg, .., reg, reg_last)) p in one pass over P; base is symmetric."""
    k = p.shape[0]
    for i in range(k):
        total = (reg if i < k - 1 else reg_last) * p[i]
        for j in range(k):
            total += base[i, j] * p[j]
        out[i] = total
    n = panel.shape[0]
    for start in range(0, n, TILE_ROWS):
        part[:] = 0.0
        add_normal_product(panel[start : min(start + TILE_ROWS, n)], p, part)
        out += part


@njit(nogil=True, cache=True, fastmath=SUMS, error_model="numpy")
def _dot(a, b):
    """Return a'b summed in float64: products of tiny float32 numbers do not vanish, huge ones do not overflow."""
    total = 0.0
    for j in range(a.shape[0]):
        total += np.float64(a[j]) * np.float64(b[j])
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _descend(base, panel, reg, reg_last, steps, rhs, x, residual, direction, product, part):
    """Improve ``x`` by conjugate gradients (Hestenes and Stiefel 1952) and return x'Mx - 2x'b = -(x'b + x'r)."""
    k = x.shape[0]
    _multiply(base, panel, reg, reg_last, x, product, part)
    for j in range(k):
        residual[j] = rhs[j] - product[j]
        direction[j] = residual[j]
    square = _dot(residual, residual)
    solved = 1e-14 * (_dot(rhs, rhs) + square)  # a relative residual of 1e-7: float32 cannot do better
    steepest = 0.0
    for _ in range(steps):
        if square <= solved:
            break
        _multiply(base, panel, reg, reg_last, direction, product, part)
        curvature = _dot(direction, product)
        length = _dot(direction, direction)
        if not curvature > 1e-7 * steepest * length:  # rounding noise: the system is singular in this direction
            if steepest == 0.0:
                return np.nan  # in every direction: products vanished or overflowed
            break
        steepest = max(steepest, curvature / length)
        step = np.float32(square / curvature)
        for j in range(k):
            x[j] += step * direction[j]
            residual[j] -= step * product[j]
        before, square = square, _dot(residual, residual)
        turn = np.float32(square / before)
        for j in range(k):
            direction[j] = residual[j] + turn * direction[j]
    return -(_dot(x, rhs) + _dot(x, residual))


@njit(nogil=True, cache=True, error_model="numpy")
def solve_cg(
    rows, source, gramian, indptr, indices, weights, targets, reg, reg_last, biased, steps, panel_rows, x, values
):
    """Improve the rows numbered in ``rows``; a row that float32 cannot hold gets a value that is not finite.

    ``panel_rows`` (at least `TILE_ROWS`) bounds the panel: a longer row is summed into its matrix, whose products
    then take the place of G's.
    """
    k = source.shape[1]
    panel = np.empty((panel_rows, k), np.float32)
    matrix = np.empty((k, k), np.float32)
    segment = np.zeros((k, k), np.float32)
    rhs = np.empty(k, np.float32)
    # Separate arrays: rows of one array cost 7 times as long, as the compiler cannot tell them apart.
    residual, direction = np.empty(k, np.float32), np.empty(k, np.float32)
    product, part = np.empty(k, np.float32), np.empty(k, np.float32)
    for row in rows:
        start, stop = indptr[row], indptr[row + 1]
        n = stop - start
        if n == 0:
            x[row] = 0.0
            values[row] = 0.0
            continue
        cols, w, t = indices[start:stop], weights[start:stop], targets[start:stop]
        if n <= panel_rows:
            rhs[:] = 0.0
            constant = gather(source, cols, w, t, biased, panel[:n], rhs, part)
            base, used = gramian, panel[:n]
        else:
            constant = assemble(source, gramian, cols, w, t, biased, panel, segment, matrix, rhs, part)
            mirror(matrix)
            base, used = matrix, panel[:0]
        value = _descend(base, used, reg[row], reg_last[row], steps, rhs, x[row], residual, direction, product, part)
        values[row] = value + constant
