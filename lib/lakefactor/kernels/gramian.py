"""Y'Y of one side's factors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK_BYTES = 16 << 20


def gramian(factors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return Y'Y, without regularization.

    Parameters
    ----------
    factors : float array, shape (n, k)
        Factors Y; n may be 0.

    Returns
    -------
    float64 array, shape (k, k)
        Symmetric bit for bit. Gramians of disjoint row sets add up to that of their union, so ranks sum theirs.

    Notes
    -----
    Products and sums are float64, in blocks of 16 MiB: float32 sums over 10^7 rows would lose half their digits, and
    at O(n k^2) this is a small part of a half-step.

    Examples
    --------
    >>> gramian(np.array([[1.0, 2.0], [0.0, 3.0]], np.float32))
    array([[ 1.,  2.],
           [ 2., 13.]])
    """
    n, k = factors.shape
    result = np.zeros((k, k))
    rows = max(1, _BLOCK_BYTES // (8 * k))
    for start in range(0, n, rows):
        block = factors[start : start + rows].astype(np.float64)
        result += block.T @ block
        del block  # before the next one is made
    return result
