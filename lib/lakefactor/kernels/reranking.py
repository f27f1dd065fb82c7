"""Choose from the best candidates of each row: few of one category, and not all alike."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def rerank(
    scores: NDArray[np.float32],
    columns: NDArray[np.int32],
    n: int,
    categories: NDArray[np.int32],
    most: int,
    factors: NDArray[np.float32],
    diversity: float,
) -> NDArray[np.int32]:
    """Return the places of n candidates of each row, in the order in which they are chosen.

    Each next one is the candidate with the largest (1 - d) r - d c among those whose category has a place left: r is
    its score, scaled to [0, 1] over the row's candidates, and c its largest cosine to one that was chosen before, 0 for
    the first (maximal marginal relevance). With d = 0 it is the best one.

    Parameters
    ----------
    scores, columns : float32 and int32 array, shape (b, p)
        Candidates of each row, best first; column -1 where there are fewer.
    n : int
        Places to fill, >= 1.
    categories : int32 array, shape (m,)
        Of each column; -1: none, and never full.
    most : int
        Places for each category; 0: as many as there are.
    factors : float32 array, shape (m, k)
        Of each column.
    diversity : float
        d, in [0, 1).

    Returns
    -------
    int32 array, shape (b, n)
        Places in [0, p); -1 where no candidate is left.

    References
    ----------
    Carbonell, Goldstein, "The use of MMR, diversity-based reranking for reordering documents and producing summaries",
    SIGIR 1998.

    Examples
    --------
    Items 0 and 1 are alike, and 0 and 2 are of one category:

    >>> scores, columns = np.array([[3, 2.9, 1]], np.float32), np.array([[0, 1, 2]], np.int32)
    >>> factors, of = np.array([[1, 0], [1, 0], [0, 1]], np.float32), np.array([7, 8, 7], np.int32)
    >>> rerank(scores, columns, 2, of, 0, factors, 0.0), rerank(scores, columns, 2, of, 0, factors, 0.6)
    (array([[0, 1]], dtype=int32), array([[0, 2]], dtype=int32))
    >>> rerank(scores, columns, 3, of, 1, factors, 0.0)
    array([[ 0,  1, -1]], dtype=int32)
    """
    places = np.full((len(scores), n), -1, np.int32)
    _rerank(scores, columns, categories, most, np.ascontiguousarray(factors), diversity, places)
    return places


@njit(nogil=True, cache=True)
def _rerank(
    scores: NDArray[np.float32],
    columns: NDArray[np.int32],
    categories: NDArray[np.int32],
    most: int,
    factors: NDArray[np.float32],
    diversity: float,
    places: NDArray[np.int32],
) -> None:
    used = np.zeros(categories.max() + 2 if len(categories) else 1, np.int32)
    for row in range(scores.shape[0]):
        p = 0
        while p < columns.shape[1] and columns[row, p] >= 0:
            p += 1
        if p == 0:
            continue
        best, spread = scores[row, 0], scores[row, 0] - scores[row, p - 1]
        nearest, free = np.zeros(p), np.ones(p, np.bool_)
        scale = _inverse_lengths(factors, columns[row, :p]) if diversity > 0 else nearest
        used[:] = 0
        for place in range(places.shape[1]):
            chosen, value = -1, -np.inf
            for i in range(p):
                category = categories[columns[row, i]]
                if not free[i] or (most > 0 and category >= 0 and used[category] >= most):
                    continue
                relevance = 1.0 - (best - scores[row, i]) / spread if spread > 0 else 1.0
                worth = (1.0 - diversity) * relevance - diversity * nearest[i]
                if worth > value:
                    chosen, value = i, worth
                    if diversity == 0:
                        break
            if chosen < 0:
                break
            places[row, place], free[chosen] = chosen, False
            if categories[columns[row, chosen]] >= 0:
                used[categories[columns[row, chosen]]] += 1
            if diversity > 0:
                own = columns[row, chosen]
                for i in range(p):
                    if free[i]:
                        other = columns[row, i]
                        cosine = np.dot(factors[own], factors[other]) * scale[chosen] * scale[i]
                        nearest[i] = cosine if place == 0 else max(nearest[i], cosine)


@njit(nogil=True, cache=True)
def _inverse_lengths(factors: NDArray[np.float32], columns: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return 1 / length of some columns, and 0 of a zero."""
    result = np.zeros(len(columns))
    for i in range(len(columns)):
        total = 0.0
        for value in factors[columns[i]]:
            total += np.float64(value) ** 2
        if total > 0:
            result[i] = 1.0 / np.sqrt(total)
    return result
