"""Padding of matrices to whole vectors, which leaves the compiled kernels no remainders to treat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LANES = 16
"""Floats of a vector; ranks are padded to a multiple of it."""

LINE_BYTES = 64
"""Bytes of a cache line, and of a vector."""

Float32s = NDArray[np.float32]


def padded_width(k: int) -> int:
    """Return the number of columns that rank ``k`` is padded to.

    >>> padded_width(1), padded_width(64), padded_width(65)
    (16, 64, 80)
    """
    return -(-k // LANES) * LANES


def layout(k: int, size: int) -> NDArray[np.int64]:
    """Return the padded position of each of ``k`` columns when blocks of ``size`` columns are padded one by one.

    >>> layout(4, 64), layout(4, 3)
    (array([0, 1, 2, 3]), array([ 0,  1,  2, 16]))
    """
    columns = np.arange(k)
    return columns // size * padded_width(size) + columns % size


def aligned_zeros(rows: int, columns: int) -> Float32s:
    """Return zeros that begin with a cache line: a vector that lies across two lines loads at half the speed."""
    memory = np.zeros(rows * columns + LANES, np.float32)
    first = -memory.ctypes.data // memory.itemsize % LANES
    return memory[first : first + rows * columns].reshape(rows, columns)


def pad_matrix(matrix: Float32s, columns: NDArray[np.int64], width: int) -> Float32s:
    """Return a copy with rows and columns at their padded positions, and ones on the diagonal of the padding."""
    # Rows a multiple of 4096 bytes apart would compete for the same few cache lines.
    stride = width + LANES if width % 1024 == 0 else width
    result = aligned_zeros(width, stride)
    np.fill_diagonal(result, 1.0)
    result[np.ix_(columns, columns)] = matrix
    return result


def pad_columns(array: Float32s, columns: NDArray[np.int64], width: int) -> Float32s:
    """Return the array, aligned, with columns at their padded positions and zeros between; itself if it is so."""
    if array.shape[1] == width and array.ctypes.data % LINE_BYTES == 0:
        return array
    result = aligned_zeros(len(array), width)
    result[:, columns] = array
    return result
