"""One half of an iteration: solve all rows of one side while the other side stays fixed.

Place in the data flow: `factorization` hands over one rank's CSR rows and the source rows they need, batch and
streaming alike. This module checks and schedules; `_rows` computes, `_float64` what that cannot. None of them knows
the convention of weights or regularization.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from lakefactor.kernels import _float64
from lakefactor.kernels.system import Method, System, check_factors

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]

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
    Time O(nnz k^2 + n k^3) for ``cholesky``, O((nnz k + n k^2) steps) for ``cg``. Memory beside the arguments:
    4 MiB of panel (cg) and 3 k^2 numbers for each thread. A row that float32 cannot solve (a pivot that is rounding
    noise, an overflow) is solved exactly in float64.

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
    from lakefactor.kernels import _rows  # numba and SciPy, a second to import: not before they are needed

    check_factors(system, source, gramian, x)
    # Read-only arrays are another type to numba, which would compile everything once more for them.
    arrays: tuple[Any, ...] = tuple(
        array if array.flags.writeable else array.copy()
        for array in (
            source, gramian, system.indptr, system.indices, system.weights, system.targets, system.reg, system.reg_last
        )
    )  # fmt: skip
    values = np.empty(len(x), np.float64)
    biased = bool(system.biased)
    if method.solver == "cholesky":
        kernel: Callable[..., None] = _rows.solve_cholesky
        tail: tuple[Any, ...] = (biased, x, values)
    elif method.solver == "cg":
        panel_rows = max(_rows.TILE_ROWS, _rows.PANEL_BYTES // (4 * source.shape[1]))
        kernel, tail = _rows.solve_cg, (biased, int(method.steps), panel_rows, x, values)
    else:
        raise NotImplementedError(method.solver)
    _solve_in_chunks(kernel, arrays, tail, method.threads)
    failed = np.flatnonzero(~np.isfinite(values))
    if len(failed):
        _float64.solve_rows(failed, arrays, x, values, biased)
    return values


def _solve_in_chunks(kernel: Callable[..., None], arrays: tuple[Any, ...], tail: tuple[Any, ...], threads: int) -> None:
    """Run the kernel over chunks of rows, BLAS on one thread: the rows are the parallelism."""
    source, indptr = arrays[0], arrays[2]
    chunks = list(_chunks(np.diff(indptr), source.shape[1], threads))
    with _blas().limit(limits=1, user_api="blas"):
        if threads == 1 or len(chunks) == 1:
            for rows in chunks:
                kernel(rows, *arrays, *tail)
            return
        # Plain threads, as the kernels hold no GIL: no OpenMP or other pool that would not survive a fork.
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(lambda rows: kernel(rows, *arrays, *tail), chunks):
                pass


def _chunks(degrees: NDArray[np.int64], k: int, threads: int) -> Iterator[NDArray[np.int64]]:
    """Yield row numbers, longest rows first, in chunks of about equal work."""
    if len(degrees) == 0:
        return
    order = np.argsort(-degrees, kind="stable")
    work = np.cumsum(degrees[order] + k)
    count = 1 if threads == 1 else min(len(order), threads * _CHUNKS_PER_THREAD)
    bounds = np.searchsorted(work, work[-1] / count * np.arange(1, count))
    yield from (rows for rows in np.split(order, bounds) if len(rows))


@lru_cache(maxsize=1)
def _blas() -> ThreadpoolController:
    """Return the controller of the loaded BLAS libraries; looking for them takes milliseconds, so do it once."""
    return ThreadpoolController()
