"""What recommendations do to the catalogue: how much of it they show, and how popular that is.

The sufficient statistic is how often each item is recommended (`item_counts`); counts of blocks of users add up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lakefactor.errors import ShapeError


def item_counts(ranked: NDArray[Any], k: int, n_items: int) -> NDArray[np.int64]:
    """Count how often each item stands within the first k positions.

    Parameters
    ----------
    ranked : integer array, shape (b, n)
        Item columns of each user, best first; -1 is padding.
    k : int
        Cut-off, in [1, n].
    n_items : int
        Size m of the catalogue.

    Returns
    -------
    int64 array, shape (n_items,)

    Raises
    ------
    ShapeError
        A column is not below ``n_items``, or k is outside [1, n].

    Examples
    --------
    >>> item_counts(np.array([[0, 2, 1], [0, -1, -1]]), k=2, n_items=4)
    array([2, 0, 1, 0])
    """
    if not 1 <= k <= ranked.shape[1]:
        raise ShapeError(f"cut-off k = {k}, lists hold {ranked.shape[1]} positions; pad the lists with -1 up to k")
    shown = ranked[:, :k]
    counts = np.bincount(shown[shown >= 0], minlength=n_items)
    if len(counts) > n_items:
        raise ShapeError(f"item column {len(counts) - 1} in a catalogue of {n_items} items")
    return counts.astype(np.int64)


def coverage(counts: NDArray[np.int64]) -> float:
    """Share of the catalogue that is in at least one list; range [0, 1], NaN for an empty catalogue.

    >>> coverage(np.array([2, 0, 1, 0]))
    0.5
    """
    return float(np.mean(counts > 0)) if len(counts) else float("nan")


def exposure_gini(counts: NDArray[np.int64]) -> float:
    """How unevenly the lists' positions go to the items: 0, all alike, to 1, all to one item; NaN without any.

    ``sum_i (2 i - m - 1) counts_(i) / (m sum_i counts_(i))`` with counts in ascending order, i from 1 to m.

    Parameters
    ----------
    counts : int64 array, shape (m,)
        From `item_counts`; items that are never shown count too.

    References
    ----------
    Ekstrand, Carterette, Diaz, "Distributionally-informed recommender system evaluation", ACM TORS 2(1), 2024.

    Examples
    --------
    >>> exposure_gini(np.array([1, 1, 1, 1])), exposure_gini(np.array([0, 0, 0, 8]))
    (0.0, 0.75)
    """
    total, m = counts.sum(), len(counts)
    if not total:
        return float("nan")
    weights = 2.0 * np.arange(1, m + 1) - m - 1
    return float(weights @ np.sort(counts) / (m * total))


def mean_popularity(counts: NDArray[np.int64], popularity: NDArray[Any]) -> float:
    """Mean popularity over all recommended positions, in the unit of ``popularity``; NaN without any.

    ``sum_i counts_i popularity_i / sum_i counts_i``.

    Parameters
    ----------
    counts : int64 array, shape (n_items,)
        From `item_counts`.
    popularity : array, shape (n_items,)
        Training entries of each item (``n_entries``), or its `popularity_rank`.

    Raises
    ------
    ShapeError
        The lengths differ.

    Examples
    --------
    >>> mean_popularity(np.array([2, 0, 1, 0]), np.array([90, 50, 30, 10]))  # (90 + 90 + 30) / 3
    70.0
    """
    if len(counts) != len(popularity):
        raise ShapeError(f"counts of {len(counts)} items, popularity of {len(popularity)}")
    total = counts.sum()
    return float(counts @ np.asarray(popularity, dtype=np.float64) / total) if total else float("nan")


def popularity_rank(n_entries: NDArray[Any]) -> NDArray[np.float64]:
    """Rank items by training entries: 1 is the most popular, tied items share the mean of their ranks.

    >>> popularity_rank(np.array([5, 9, 5, 1]))
    array([2.5, 1. , 2.5, 4. ])
    """
    _, inverse, tied = np.unique(-np.asarray(n_entries), return_inverse=True, return_counts=True)
    last = np.cumsum(tied)
    return ((last - tied + 1 + last) / 2.0)[inverse]
