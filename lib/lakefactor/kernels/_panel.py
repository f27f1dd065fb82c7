# mypy: allow-untyped-defs, allow-incomplete-defs
"""Compiled steps from a row's entries to its normal equations; `_rows` solves them.

Names, here and in `_rows`: Y source factors, G = a0 Y'Y, P the row's *panel* (its entries' source rows, each scaled by
sqrt(w), gathered into contiguous memory), M = G + P'P + diag(reg), b the right-hand side, r = b - Mx.

Types are those of `half_step`; scratch arrays are float32 unless said otherwise. numba infers them, so the signatures
carry none. Inner loops are spelled out where an array expression would allocate or not be vectorized. numba's cache
looks at the file of the outermost function only: after an edit here, touch `_rows.py` too.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from lakefactor.kernels._lapack import PLAIN, TRANSPOSED, ref, sgemm

TILE_ROWS = 128
"""Entries per matrix product, and per float32 partial sum. With 64 columns a tile is 32 KiB (L1), and OpenBLAS takes
its small-matrix kernel (M*N*K <= 10^6), measured 1.6 times as fast per entry as SYRK although it computes both halves
of a diagonal block. Sums of tiles, not of entries, keep rounding small in long rows."""

TILE_COLUMNS = 64
"""Column block of a matrix product; blocks above the diagonal are not computed."""

SEGMENT_ROWS = 64 * TILE_ROWS
"""Entries summed in one partial matrix before it joins the total: again for rounding."""

SUMS = {"contract", "reassoc", "nsz"}
"""Fast-math flags that let sums be vectorized; NaN and inf keep their meaning."""


@njit(nogil=True, cache=True, error_model="numpy")
def gather(source, indices, weights, targets, biased, panel, rhs, part):
    """Fill ``panel`` with sqrt(w) y and add sum t y to ``rhs``; return the constant that source biases add.

    ``part`` is scratch for the sum of a tile.
    """
    n = panel.shape[0]
    constant = 0.0
    for start in range(0, n, TILE_ROWS):
        stop = min(start + TILE_ROWS, n)
        cols, w, t = indices[start:stop], weights[start:stop], targets[start:stop]
        part[:] = 0.0
        if biased:
            constant += _gather_biased_tile(source, cols, w, t, panel[start:stop], part)
        else:
            _gather_tile(source, cols, w, t, panel[start:stop], part)
        rhs += part
    return constant


@njit(nogil=True, cache=True, fastmath=SUMS, error_model="numpy")
def _gather_tile(source, indices, weights, targets, panel, rhs):
    n, k = panel.shape
    whole = n // 4 * 4
    for entry in range(0, whole, 4):  # four entries for each pass over rhs: fewer loads and stores
        y0, y1 = source[indices[entry]], source[indices[entry + 1]]
        y2, y3 = source[indices[entry + 2]], source[indices[entry + 3]]
        t0, t1, t2, t3 = targets[entry], targets[entry + 1], targets[entry + 2], targets[entry + 3]
        for j in range(k):
            rhs[j] += t0 * y0[j] + t1 * y1[j] + t2 * y2[j] + t3 * y3[j]
        for other in range(entry, entry + 4):
            _scale(np.sqrt(weights[other]), source[indices[other]], panel[other])
    for entry in range(whole, n):
        y, target = source[indices[entry]], targets[entry]
        for j in range(k):
            rhs[j] += target * y[j]
        _scale(np.sqrt(weights[entry]), y, panel[entry])


@njit(nogil=True, cache=True, error_model="numpy")
def _scale(factor, y, out):
    for j in range(y.shape[0]):
        out[j] = factor * y[j]


@njit(nogil=True, cache=True, error_model="numpy")
def _gather_biased_tile(source, indices, weights, targets, panel, rhs):
    """Do `_gather_tile` for design rows [y_0 .. y_{k-2}, 1] and targets t - w b_y, b_y the last column of y.

    Returns sum w b_y^2 - 2 t b_y: what the source biases add to the value of the row.
    """
    n, k = panel.shape
    last = k - 1
    constant = 0.0
    for entry in range(n):
        y, weight = source[indices[entry]], weights[entry]
        scale = np.sqrt(weight)
        target = targets[entry] - weight * y[last]
        constant += np.float64(y[last]) * (np.float64(weight) * y[last] - 2.0 * np.float64(targets[entry]))
        for j in range(last):
            panel[entry, j] = scale * y[j]
            rhs[j] += target * y[j]
        panel[entry, last] = scale
        rhs[last] += target
    return constant


@njit(nogil=True, cache=True, error_model="numpy")
def _products(panel, keep, out):
    """Set ``out`` to keep * out + P'P in the blocks on and above its diagonal (BLAS sees them on and below).

    ``keep`` is 1, or 0 to ignore what ``out`` holds.
    """
    k = panel.shape[1]
    one, kept = ref(np.float32(1.0)), ref(np.float32(keep))
    stride, count = ref(np.int32(k)), ref(np.int32(panel.shape[0]))
    for first in range(0, k, TILE_COLUMNS):
        for second in range(first, k, TILE_COLUMNS):
            sgemm(
                ref(PLAIN), ref(TRANSPOSED),
                ref(np.int32(min(TILE_COLUMNS, k - second))), ref(np.int32(min(TILE_COLUMNS, k - first))), count,
                one, panel[:, second:].ctypes, stride, panel[:, first:].ctypes, stride,
                kept, out[first:, second:].ctypes, stride,
            )  # fmt: skip


@njit(nogil=True, cache=True, error_model="numpy")
def _add(a, b, out):
    """Set ``out`` to a + b; loops, as an array expression would allocate."""
    k = out.shape[0]
    for i in range(k):
        for j in range(k):
            out[i, j] = a[i, j] + b[i, j]


@njit(nogil=True, cache=True, error_model="numpy")
def assemble(source, gramian, indices, weights, targets, biased, panel, segment, matrix, rhs, part):
    """Set the upper triangle of ``matrix`` to that of G + P'P, and ``rhs`` to b.

    Returns the constant that source biases add.
    """
    rhs[:] = 0.0
    constant = 0.0
    n = indices.shape[0]
    for first in range(0, n, SEGMENT_ROWS):
        for start in range(first, min(first + SEGMENT_ROWS, n), TILE_ROWS):
            stop = min(start + TILE_ROWS, n)
            tile = panel[: stop - start]
            constant += gather(
                source, indices[start:stop], weights[start:stop], targets[start:stop], biased, tile, rhs, part
            )
            _products(tile, 1.0 if start > first else 0.0, segment)
        _add(gramian if first == 0 else matrix, segment, matrix)
    return constant


@njit(nogil=True, cache=True, fastmath=SUMS, error_model="numpy")
def mirror(matrix):
    """Copy the upper triangle to the lower one."""
    for i in range(1, matrix.shape[0]):
        for j in range(i):
            matrix[i, j] = matrix[j, i]


@njit(nogil=True, cache=True, fastmath=SUMS, error_model="numpy")
def add_normal_product(panel, p, out):
    """Add P'(P p) to ``out``."""
    n, k = panel.shape
    zero = np.float32(0.0)
    whole = n // 4 * 4
    for i in range(0, whole, 4):  # four rows for each pass over out: fewer loads and stores
        d0, d1, d2, d3 = zero, zero, zero, zero
        for j in range(k):
            d0 += panel[i, j] * p[j]
            d1 += panel[i + 1, j] * p[j]
            d2 += panel[i + 2, j] * p[j]
            d3 += panel[i + 3, j] * p[j]
        for j in range(k):
            out[j] += d0 * panel[i, j] + d1 * panel[i + 1, j] + d2 * panel[i + 2, j] + d3 * panel[i + 3, j]
    for i in range(whole, n):
        d0 = zero
        for j in range(k):
            d0 += panel[i, j] * p[j]
        for j in range(k):
            out[j] += d0 * panel[i, j]
