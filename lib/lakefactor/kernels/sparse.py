"""A sparse matrix times a thin dense one: the only step of a singular value decomposition that touches the entries."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lakefactor.errors import ShapeError
from lakefactor.kernels.system import require

_CHUNKS_PER_THREAD = 16
"""Row ranges of about equal work, taken by the threads as they get free."""

_WORTH_A_THREAD = 1 << 22
"""Multiplications (some milliseconds) below which starting threads costs more than they save."""


@dataclass(frozen=True)
class SparseMatrix:
    """A sparse matrix R as CSR rows, checked once.

    Attributes
    ----------
    indptr : int64 ndarray, shape (n + 1,)
    indices : int32 ndarray, shape (nnz,)
        In [0, columns).
    values : float32 ndarray, shape (nnz,)
    columns : int

    Raises
    ------
    ShapeError
        Shapes, dtypes or indices disagree.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    values: NDArray[np.float32]
    columns: int

    def __post_init__(self) -> None:
        nnz = len(self.indices)
        require("indptr", self.indptr, np.int64, (max(1, len(self.indptr)),))
        require("indices", self.indices, np.int32, (nnz,))
        require("values", self.values, np.float32, (nnz,))
        if self.indptr[0] != 0 or self.indptr[-1] != nnz or np.any(np.diff(self.indptr) < 0):
            raise ShapeError(f"indptr must rise from 0 to {nnz}; it goes from {self.indptr[0]} to {self.indptr[-1]}.")
        if nnz and (self.indices.min() < 0 or self.indices.max() >= self.columns):
            raise ShapeError(
                f"indices lie in [{self.indices.min()}, {self.indices.max()}]; they must lie in [0, {self.columns})."
            )


def sparse_product(matrix: SparseMatrix, source: NDArray[np.float64], threads: int = 1) -> NDArray[np.float64]:
    """Return R X.

    Parameters
    ----------
    matrix : SparseMatrix
        R, with m columns.
    source : float64 array, shape (m, b), C order
        X. Not modified.
    threads : int
        CPU threads, >= 1. The result is the same bit for bit for any number.

    Returns
    -------
    float64 array, shape (n, b)
        A row without entries is 0.

    Raises
    ------
    ShapeError
        ``source`` is of another shape, dtype or order.

    Notes
    -----
    Time O(nnz b), bound by fetching the rows of X from the caches: with 16 columns of float64, two cache lines, an
    entry takes 2 to 3 times as long as with one column.

    Examples
    --------
    >>> rows = SparseMatrix(np.array([0, 2, 2]), np.array([0, 1], np.int32), np.array([3, 4], np.float32), columns=2)
    >>> sparse_product(rows, np.array([[1.0, 0.0], [0.0, 0.5]]))
    array([[3., 2.],
           [0., 0.]])
    """
    require("source", source, np.float64, (matrix.columns, source.shape[-1]))
    out = np.empty((len(matrix.indptr) - 1, source.shape[1]))
    # Read-only arrays are another type to numba, which would compile everything once more for them.
    csr = (matrix.indptr, matrix.indices, matrix.values, source)
    arrays = [array if array.flags.writeable else array.copy() for array in csr]
    multiply: Callable[..., None] = _multiply
    if threads == 1 or len(matrix.indices) * out.shape[1] < _WORTH_A_THREAD:
        multiply(0, len(out), *arrays, out)
        return out
    bounds = _bounds(matrix.indptr, threads * _CHUNKS_PER_THREAD)
    # Plain threads, as the kernel holds no GIL: no OpenMP or other pool that would not survive a fork.
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda i: multiply(bounds[i], bounds[i + 1], *arrays, out), range(len(bounds) - 1)):
            pass
    return out


def _bounds(indptr: NDArray[np.int64], parts: int) -> NDArray[np.int64]:
    """Return where ranges of rows with about as many entries each begin and end."""
    work = indptr + np.arange(len(indptr))  # a row without entries has to be written, too
    inner = np.searchsorted(work, work[-1] / parts * np.arange(1, parts))
    return np.concatenate([[0], inner, [len(indptr) - 1]])


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def _multiply(first: int, last: int, indptr: Any, indices: Any, values: Any, source: Any, out: Any) -> None:
    """Set rows ``first`` to ``last`` of ``out``, eight entries for each pass over a row: fewer loads and stores."""
    columns = source.shape[1]
    for row in range(first, last):
        total = out[row]
        total[:] = 0.0
        start, stop = indptr[row], indptr[row + 1]
        whole = start + (stop - start) // 8 * 8
        for e in range(start, whole, 8):
            y0, y1, y2, y3 = source[indices[e]], source[indices[e + 1]], source[indices[e + 2]], source[indices[e + 3]]
            y4, y5, y6 = source[indices[e + 4]], source[indices[e + 5]], source[indices[e + 6]]
            y7 = source[indices[e + 7]]
            v0, v1, v2, v3 = values[e], values[e + 1], values[e + 2], values[e + 3]
            v4, v5, v6, v7 = values[e + 4], values[e + 5], values[e + 6], values[e + 7]
            for j in range(columns):
                total[j] += (
                    v0 * y0[j] + v1 * y1[j] + v2 * y2[j] + v3 * y3[j]
                    + v4 * y4[j] + v5 * y5[j] + v6 * y6[j] + v7 * y7[j]
                )  # fmt: skip
        for e in range(whole, stop):
            y0, v0 = source[indices[e]], values[e]
            for j in range(columns):
                total[j] += v0 * y0[j]
