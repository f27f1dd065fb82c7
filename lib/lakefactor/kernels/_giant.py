"""Rows of huge degree: their entries are cut into segments that all threads share; `half_step` is the only caller.

Segments have one size and are added in their order, in float64, so bits do not depend on the number of threads; a few
of them are in work at a time, so memory does not depend on the degree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lakefactor.kernels import _panel, _rows

GIANT_ENTRIES = 1 << 16
"""A row with more entries is shared by the threads."""

SEGMENT_ENTRIES = 1 << 14
"""Entries of a segment: some milliseconds of work."""

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]


def summed(part: Callable[..., Any], entries: tuple[NDArray[Any], ...], threads: int) -> list[Any]:
    """Return the sums over segments of what ``part(*segment)`` returns."""
    starts = range(0, len(entries[0]), SEGMENT_ENTRIES)

    def results(pool: ThreadPoolExecutor) -> Iterator[Any]:
        for first in range(0, len(starts), 2 * threads):
            segments = [slice(s, s + SEGMENT_ENTRIES) for s in starts[first : first + 2 * threads]]
            yield from pool.map(lambda s: part(*(array[s] for array in entries)), segments)

    with ThreadPoolExecutor(threads) as pool:
        found = results(pool)
        totals = [np.asarray(value, np.float64) for value in next(found)]
        for values in found:
            totals = [total + value for total, value in zip(totals, values, strict=True)]
    return totals


def equations(
    source: Float32s, base: Float32s, entries: tuple[NDArray[Any], ...], threads: int
) -> tuple[Float32s, Float32s]:
    """Return the matrix without regularization, padded and whole, and the right-hand side of a row."""
    width, stride = base.shape
    matrix, rhs = summed(
        lambda *segment: _panel.partial_equations(source, width, stride, *segment), entries, threads
    )  # fmt: skip
    upper = np.triu(matrix[:, :width])
    result = np.zeros_like(base)
    result[:, :width] = base[:, :width] + upper + np.triu(upper, 1).T
    return result, rhs.astype(np.float32)


def conjugate_gradients(
    source: Float32s,
    base: Float32s,
    regs: Float32s,
    entries: tuple[NDArray[Any], ...],
    x: Float32s,
    steps: int,
    threads: int,
) -> float:
    """Improve padded ``x`` in place, as `_rows.solve_cg` does; return x'Mx - 2x'b."""  # fmt: skip
    cols, weights, targets = entries
    none = np.zeros(SEGMENT_ENTRIES, np.float32)
    partial_rest: Callable[..., Any] = _rows.partial_rest

    def rest(p: Float64s, *used: Float32s) -> tuple[Float64s, Float64s]:
        narrow = p.astype(np.float32)

        def part(cols: NDArray[np.int32], weights: Float32s, targets: Float32s = none) -> Any:
            return partial_rest(source, base.shape[1], cols, weights, targets[: len(cols)], narrow)

        found, linear = summed(part, (cols, weights, *used), threads)
        return found - base[:, : len(p)].astype(np.float64) @ p - regs * p, linear

    start = x.astype(np.float64)
    residual, linear = rest(start, targets)
    slope, solution, direction = residual.copy(), start.copy(), residual.copy()
    square = residual @ residual
    solved = 1e-14 * (square + (linear - start @ residual) ** 2 / max(float(start @ start), 1e-300))
    for _ in range(steps):
        if square <= solved:
            break
        fall = rest(direction)[0]
        curvature = -(direction @ fall)
        if not curvature > 0.0:
            return np.nan
        solution += square / curvature * direction
        residual += square / curvature * fall
        before, square = square, residual @ residual
        direction = residual + square / before * direction
    x[:] = solution
    return float(-start @ slope - linear - (solution - start) @ (residual + slope))
