"""How sure a mean over users is: the Poisson bootstrap, whose replicates add up over blocks and pair up over models.

In each replicate a user counts as often as a Poisson(1) draw says. The draw hangs on the user and the replicate alone,
so two models that are measured on the same users see the same replicates, and the spread of their differences is that
of a paired comparison, without a value per user being kept.

References
----------
Hanley, MacGibbon, "Creating non-parametric bootstrap samples using Poisson frequencies", Computer Methods and Programs
in Biomedicine 83(1), 2006.
Chamandy, Muralidharan, Najmi, Naidu, "Estimating uncertainty for massive data streams", Google, 2012.
"""

from __future__ import annotations

from math import exp, factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lakefactor.errors import ShapeError
from lakefactor.kernels import splitmix64

_MOST = 20
_DISTRIBUTION = np.cumsum([exp(-1) / factorial(count) for count in range(_MOST)])
"""P(Poisson(1) <= count); what is beyond has a probability of 2e-19, less than a 64-bit hash can show."""


def poisson_counts(keys: NDArray[np.uint64], replicates: int, seed: int = 0) -> NDArray[np.uint8]:
    """Draw how often each user counts in each replicate.

    Parameters
    ----------
    keys : uint64 array, shape (n,)
        Hashes of the users' ids.
    replicates : int
        B >= 0.
    seed : int, optional
        Another one gives other draws, independent of these.

    Returns
    -------
    uint8 array, shape (n, B)
        Poisson(1) draws.

    Examples
    --------
    >>> counts = poisson_counts(np.arange(3, dtype=np.uint64), 4)
    >>> bool((counts[1:] == poisson_counts(np.arange(1, 3, dtype=np.uint64), 4)).all())
    True
    """
    salts = splitmix64(np.arange(replicates, dtype=np.uint64) + splitmix64(np.array([seed], np.uint64)))
    uniform = (splitmix64(np.asarray(keys, np.uint64)[:, None] ^ salts) >> np.uint64(11)) * 2.0**-53
    return np.searchsorted(_DISTRIBUTION, uniform, side="right").astype(np.uint8)


def replicate_sums(values: NDArray[Any], counts: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Add up values in every replicate; a mean is the quotient, and both add up over blocks of users.

    Parameters
    ----------
    values : float array, shape (n,)
        One of each user; NaN says nothing about the user, who is left out.
    counts : uint8 array, shape (n, B)
        Of `poisson_counts`.

    Returns
    -------
    float64 array, shape (B,)
        Sums of the values.
    int64 array, shape (B,)
        How many users they are of, each as often as it counts.

    Raises
    ------
    ShapeError
        The arrays are of different users.

    Examples
    --------
    >>> replicate_sums(np.array([1.0, np.nan, 3.0]), np.array([[0, 2], [1, 1], [1, 0]], np.uint8))
    (array([3., 2.]), array([1, 2]))
    """
    if len(values) != len(counts):
        raise ShapeError(f"{len(values)} values with counts of {len(counts)} users.")
    said = ~np.isnan(values)
    drawn = counts[said].astype(np.float64)
    return values[said].astype(np.float64) @ drawn, drawn.sum(axis=0).astype(np.int64)


def interval(replicates: NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """Return the interval that holds the middle share of replicates (percentile bootstrap).

    Parameters
    ----------
    replicates : float array, shape (B,)
        Of a mean, or of the difference of two; NaN where a replicate drew nobody.
    level : float, optional
        The share, in (0, 1).

    Returns
    -------
    (float, float)
        NaN without a replicate.

    References
    ----------
    Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.

    Examples
    --------
    >>> interval(np.arange(101.0), 0.5)
    (25.0, 75.0)
    """
    known = replicates[~np.isnan(replicates)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
