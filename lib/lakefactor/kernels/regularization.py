"""The regularization convention; the only place that knows it. Kernels receive its result."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def effective_reg(n_entries: ArrayLike, reg: float, exponent: float, offset: float = 0.0) -> NDArray[np.float32]:
    """Return each row's own lambda: reg (n + offset)^exponent.

    Parameters
    ----------
    n_entries : int array, shape (n,)
        Entries of each row, >= 0.
    reg : float
        Regularization, dimensionless, >= 0.
    exponent : float
        nu. 1 scales with the row's entries (ALS-WR, Spark MLlib), 0 does not (the `implicit` package).
    offset : float
        0, or a0 times the number of source rows (iALS of Rendle et al.), >= 0.

    Returns
    -------
    float32 array, shape (n,)
        Effective lambda. A row without entries and without offset gets 0 if ``exponent`` > 0; it has no equation.

    References
    ----------
    Zhou et al., "Large-scale parallel collaborative filtering for the Netflix Prize", AAIM 2008 (nu = 1).
    Rendle et al., "Revisiting the performance of iALS on item recommendation benchmarks", RecSys 2022.

    Examples
    --------
    >>> effective_reg([0, 1, 10], reg=0.5, exponent=1.0)
    array([0. , 0.5, 5. ], dtype=float32)
    >>> effective_reg([0, 1, 10], reg=0.5, exponent=0.0)
    array([0.5, 0.5, 0.5], dtype=float32)
    """
    total = np.asarray(n_entries, np.float64) + offset
    return (reg * total**exponent).astype(np.float32)
