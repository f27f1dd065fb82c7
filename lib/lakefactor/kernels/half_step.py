"""One half of an iteration: solve all rows of one side while the other side stays fixed.

Place in the data flow: `factorization` hands over one rank's CSR rows and the source rows they need, batch and
streaming alike. This module checks and schedules; `_rows` computes, `_float64` what that cannot. None of them knows
the convention of weights or regularization.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lakefactor.kernels import _float64
from lakefactor.kernels._layout import layout, pad_columns, pad_matrix, padded_width
from lakefactor.kernels.system import Method, System, check_factors

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]

_FIELDS = ("indptr", "indices", "weights", "targets", "reg", "reg_last")
_CHUNKS_PER_THREAD = 32
"""Chunks of about equal work, taken by the threads as they get free."""


def half_step(system: System, source: Float32s, gramian: Float32s, x: Float32s, method: Method) -> Float64s:
    """Solve (a0 Y'Y + sum_e w y y' + diag(reg)) x = sum_e t y for every row, in place.

    Parameters
    ----------
    system : System
        The rows' equations.
    source : float32 array, shape (m, k), C order
        Factors Y of the fixed side. Not modified.
    gramian : float32 array, shape (k, k), C order
        a0 Y'Y over *all* rows of the fixed side, without regularization; zeros where a0 = 0.
    x : float32 array, shape (n, k), C order
        Set to the solutions. Iterative solvers start from what it holds. Undefined after an error.
    method : Method

    Returns
    -------
    float64 array, shape (n,)
        x'Mx - 2x'b of each row, plus sum_e w b_y^2 - 2 t b_y if biased; so the objective is its sum, plus
        sum_e t^2/w, plus the penalty of the fixed side. 0 for a row without entries, whose x is 0.

    Raises
    ------
    ShapeError
        Shapes, dtypes or index ranges disagree.
    SolveError
        Rows have no unique finite solution even in float64; ``rows`` lists them.

    Notes
    -----
    Operations, and float32 numbers of work arrays for each thread; nnz entries, n rows, b = ``block_size``, k rounded
    up to a multiple of 16, d entries of the thread's longest row below `_giant.GIANT_ENTRIES`:

    - ``cholesky``: nnz k^2 + n (k^3 / 3 + 5 k^2); 3 k^2 + 128 k.
    - ``cg``: (steps + 1) (4 nnz k + 2 n k^2); a panel of 1 MiB (128 rows, if that is more) that spares a row with no
      more entries than it holds the gathering in every step, else d zeros.
    - ``subspace``: steps (nnz k (b + 4) + n (k b^2 / 3 + 2 k^2)); 2 b^2 + 128 b + 2 d. ``cholesky`` where b >= k.
    - ``nonnegative``: nnz k^2 + 4 n k^2 steps; 2 k^2 + 128 k. Without the first term where a row's weights are all 0.

    A row of more than `_giant.GIANT_ENTRIES` entries is shared by the threads; it takes 2 threads (k^2 + k) numbers,
    whatever its length. For all threads together: a copy of ``source`` where k is no multiple of 16 or there is a bias,
    4 bytes an entry for the targets without the biases, and copies of read-only arguments.

    A row that float32 cannot solve (a pivot that is rounding noise, an overflow) is solved exactly in float64.

    References
    ----------
    Hu, Koren, Volinsky, "Collaborative filtering for implicit feedback datasets", ICDM 2008 (the row equation).
    Takacs, Pilaszy, Tikk, "Applications of the conjugate gradient method for implicit feedback collaborative
    filtering", RecSys 2011 (few warm-started steps).

    Examples
    --------
    One row with one entry: (1 + 2) x = 1.

    >>> one, x = np.ones(1, np.float32), np.zeros((1, 1), np.float32)
    >>> system = System(np.array([0, 1]), np.zeros(1, np.int32), one, one, 2 * one, 2 * one)
    >>> half_step(system, np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32), x, Method("cholesky")).round(6)
    array([-0.333333])
    >>> x.round(6)
    array([[0.333333]], dtype=float32)
    """
    from lakefactor.kernels import _giant, _panel  # numba, a second to import: not before it is needed

    check_factors(system, source, gramian, x)
    k, biased = source.shape[1], bool(system.biased)
    kernel, size, columns, width = _plan(method, k)
    base, padded = pad_matrix(gramian, columns, width), pad_columns(source, columns, width)
    reach = int(columns[-1]) + 1
    own = x if reach == k else np.ascontiguousarray(pad_columns(x, columns, width)[:, :reach])
    degrees = np.diff(system.indptr)
    values, offsets = np.empty(len(x), np.float64), np.zeros(len(x), np.float64)
    indptr, indices, weights, targets, reg, reg_last = (_writeable(getattr(system, name)) for name in _FIELDS)
    if biased:
        bias, shifted = source[:, -1].copy(), np.empty_like(targets)
        padded = padded.copy() if padded is source else padded
        padded[:, columns[-1]] = 1.0
        _for_each(
            lambda rows: _panel.remove_bias(rows, bias, indptr, indices, weights, targets, shifted, offsets),
            list(_chunks(np.arange(len(x)), degrees, k, method.threads)), method.threads,
        )  # fmt: skip
        targets = shifted
    start, padded, steps = np.zeros(width, np.float32), _writeable(padded), int(method.steps)
    giants = np.flatnonzero(degrees > _giant.GIANT_ENTRIES)
    for r in giants.tolist():
        entries = tuple(array[indptr[r] : indptr[r + 1]] for array in (indices, weights, targets))
        if method.solver == "cg":
            regs, one = np.zeros(width, np.float32), np.zeros(width, np.float32)
            regs[:k], regs[k - 1], one[:k] = reg[r], reg_last[r], own[r]
            values[r] = _giant.conjugate_gradients(padded, base, regs, entries, one, steps, method.threads)
            own[r] = one[:k]
            continue
        matrix, rhs = _giant.equations(padded, base, entries, method.threads)
        none = tuple(array[:0] for array in entries)
        kernel(
            np.zeros(1, np.int64), padded, matrix, rhs, True, np.zeros(2, np.int64), *none,
            reg[r : r + 1], reg_last[r : r + 1], steps, size, own[r : r + 1], values[r : r + 1],
        )  # fmt: skip
    equations = (indptr, indices, weights, targets, reg, reg_last)
    others = np.flatnonzero(degrees <= _giant.GIANT_ENTRIES)
    _for_each(
        lambda rows: kernel(rows, padded, base, start, False, *equations, steps, size, own, values),
        list(_chunks(others, degrees[others], k, method.threads)), method.threads,
    )  # fmt: skip
    values += offsets
    if own is not x:
        x[:] = own[:, columns]
    failed = np.flatnonzero(~np.isfinite(values))
    if len(failed):
        _float64.solve_rows(failed, system, source, gramian, x, values, method.solver == "nonnegative")
    return values


def _plan(method: Method, k: int) -> tuple[Callable[..., None], int, NDArray[np.int64], int]:
    """Return a method's kernel, the kernel's ``size``, the padded position of each column, and the padded width."""
    from lakefactor.kernels import _nonnegative, _rows, _subspace

    plain, width = layout(k, padded_width(k)), padded_width(k)
    if method.solver == "nonnegative":
        return _nonnegative.solve_nonnegative, 0, plain, width
    if method.solver == "cg":
        return _rows.solve_cg, max(_rows.TILE_ROWS, _rows.PANEL_BYTES // (4 * width) // 8 * 8), plain, width
    if method.solver == "cholesky" or method.block_size >= k:
        return _rows.solve_cholesky, 0, plain, width
    size = padded_width(method.block_size)
    return _subspace.solve_subspace, size, layout(k, method.block_size), size * -(-k // method.block_size)


def _writeable(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array or a copy: read-only ones are another type to numba, which would compile once more for them."""
    return array if array.flags.writeable else array.copy()


def _for_each(work: Callable[[Any], Any], tasks: list[Any], threads: int) -> None:
    """Do the work on plain threads; the kernels hold no GIL, and no OpenMP or other pool would survive a fork."""
    if threads == 1 or len(tasks) <= 1:
        for task in tasks:
            work(task)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, tasks):
            pass


def _chunks(rows: NDArray[np.int64], degrees: NDArray[np.int64], k: int, threads: int) -> Iterator[NDArray[np.int64]]:
    """Yield the row numbers, longest rows first, in chunks of about equal work."""
    if len(rows) == 0:
        return
    order = np.argsort(-degrees, kind="stable")
    work = np.cumsum(degrees[order] + k)
    count = 1 if threads == 1 else min(len(order), threads * _CHUNKS_PER_THREAD)
    bounds = np.searchsorted(work, work[-1] / count * np.arange(1, count))
    yield from (part for part in np.split(rows[order], bounds) if len(part))
