"""The rotation that takes one set of factors nearest to another."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def nearest_rotation(cross: NDArray[Any]) -> NDArray[np.float64]:
    """Return the orthogonal R that minimizes ``|A R - B|`` (Frobenius), reflections included.

    Inner products of rows are the same before and after, so all scores are.

    Parameters
    ----------
    cross : float array, shape (k, k)
        ``A'B`` of the rows that both have.

    Returns
    -------
    float64 array, shape (k, k)
        ``U V'`` of the singular value decomposition ``A'B = U S V'``.

    References
    ----------
    Schönemann, "A generalized solution of the orthogonal Procrustes problem", Psychometrika 31, 1966.

    Examples
    --------
    >>> turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    >>> a = np.array([[1.0, 2.0], [3.0, 5.0], [0.0, 1.0]])
    >>> nearest_rotation(a.T @ (a @ turn)).round(12) + 0.0
    array([[ 0.,  1.],
           [-1.,  0.]])
    """
    left, _, right = np.linalg.svd(np.asarray(cross, np.float64))
    return np.asarray(left @ right, np.float64)
