"""Rank metrics of a block of users, one value per user and cut-off k.

One worked example runs through the docstrings. Two users, lists of four items, best first::

    user 0: list [7, 2, 9, 4], relevant {2, 4}         hits at positions 2 and 4
    user 1: list [1, 3, 5, -1] (only three items left), relevant {1, 8, outside the catalogue}    a hit at position 1

>>> ranked = np.array([[7, 2, 9, 4], [1, 3, 5, -1]], dtype=np.int32)
>>> relevant_indptr, relevant_indices = np.array([0, 2, 5]), np.array([2, 4, -1, 1, 8], dtype=np.int32)
>>> hits = find_hits(ranked, relevant_indptr, relevant_indices)
>>> hits.at.astype(int)
array([[0, 1, 0, 1],
       [1, 0, 0, 0]])
>>> hits.n_relevant
array([2, 3])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lakefactor.errors import ShapeError

Floats = NDArray[np.float64]
RankMetrics = dict[tuple[str, int], Floats]


@dataclass(frozen=True)
class Hits:
    """Where relevant items stand in the lists of b users.

    Attributes
    ----------
    at : bool array, shape (b, n)
        True where the item at that position (best first) is relevant.
    filled : bool array, shape (b, n)
        True where the list has an item; False is padding.
    n_relevant : int64 array, shape (b,)
        Relevant items of each user, with those that no list can hold.
    n_reachable : int64 array, shape (b,)
        Relevant items inside the catalogue.
    """

    at: NDArray[np.bool_]
    filled: NDArray[np.bool_]
    n_relevant: NDArray[np.int64]
    n_reachable: NDArray[np.int64]


def find_hits(ranked: NDArray[Any], relevant_indptr: NDArray[Any], relevant_indices: NDArray[Any]) -> Hits:
    """Mark the relevant items in ranked lists.

    Parameters
    ----------
    ranked : integer array, shape (b, n)
        Item columns of each user, best first, no column twice in a row; -1 is padding and never a hit.
    relevant_indptr, relevant_indices : integer arrays, shapes (b + 1,) and (nnz,)
        CSR rows of relevant item columns, ascending in each row, no column twice. -1 stands for a relevant item
        outside the catalogue (it may repeat): it counts as relevant and can never be hit.

    Returns
    -------
    Hits

    Raises
    ------
    ShapeError
        The arrays disagree on b, or a row of ``relevant_indices`` is not ascending.
    """
    check_rows("relevant", relevant_indptr, relevant_indices, len(ranked))
    at = np.zeros(ranked.shape, dtype=np.bool_)
    _mark_hits(ranked, relevant_indptr, relevant_indices, at)
    n_relevant = np.diff(relevant_indptr).astype(np.int64)
    outside = np.concatenate([[0], np.cumsum(relevant_indices < 0, dtype=np.int64)])
    n_outside = outside[relevant_indptr[1:]] - outside[relevant_indptr[:-1]]
    return Hits(at, ranked >= 0, n_relevant, n_relevant - n_outside)


def check_rows(name: str, indptr: NDArray[Any], indices: NDArray[Any], n_rows: int) -> None:
    """Raise ShapeError unless ``(indptr, indices)`` are ``n_rows`` CSR rows of ascending columns (-1 may repeat)."""
    if len(indptr) != n_rows + 1 or indptr[0] != 0 or indptr[-1] != len(indices):
        raise ShapeError(
            f"{name} rows: indptr has length {len(indptr)} from {indptr[0]} to {indptr[-1]}; "
            f"{n_rows} users with {len(indices)} indices need length {n_rows + 1} from 0 to {len(indices)}"
        )
    row = _first_unsorted_row(indptr, indices)
    if row >= 0:
        raise ShapeError(f"{name} rows: the columns of row {row} are not ascending and distinct; sort them first")


def precision(hits: Hits, k: int) -> Floats:
    """Share of the k positions that hold a relevant item: ``|hits within k| / k``.

    Empty positions count as misses, so the denominator is k also where a list is shorter.

    >>> precision(example_hits(), 4)
    array([0.5 , 0.25])
    """
    n_hits = hits.at[:, :k].sum(axis=1)
    return n_hits / k


def recall(hits: Hits, k: int) -> Floats:
    """Share of the relevant items that are within k: ``|hits within k| / n_relevant``.

    >>> recall(example_hits(), 3).round(4)
    array([0.5   , 0.3333])
    """
    return hits.at[:, :k].sum(axis=1) / np.maximum(hits.n_relevant, 1)


def hit_rate(hits: Hits, k: int) -> Floats:
    """1 where at least one relevant item is within k, else 0.

    >>> hit_rate(example_hits(), 1)
    array([0., 1.])
    """
    return np.asarray(hits.at[:, :k].any(axis=1), dtype=np.float64)


def reciprocal_rank(hits: Hits, k: int) -> Floats:
    """1 / position of the first relevant item within k, 0 without one; its mean over users is MRR.

    >>> reciprocal_rank(example_hits(), 4)
    array([0.5, 1. ])

    References
    ----------
    Voorhees, "The TREC-8 Question Answering Track Report", TREC 1999.
    """
    at = hits.at[:, :k]
    return np.where(at.any(axis=1), 1.0 / (at.argmax(axis=1) + 1), 0.0)


def average_precision(hits: Hits, k: int) -> Floats:
    """Precision at each hit within k, summed and divided by ``min(k, n_relevant)``; its mean over users is MAP.

    ``AP@k = sum_{p <= k} hit_p * precision@p / min(k, n_relevant)``: 1 exactly when the best possible list is shown.

    >>> average_precision(example_hits(), 4).round(4)  # user 0: (1/2 + 2/4) / 2; user 1: (1/1) / 3
    array([0.5   , 0.3333])

    References
    ----------
    Manning, Raghavan, Schuetze, "Introduction to Information Retrieval", 2008, section 8.4; the normaliser
    ``min(k, n_relevant)`` is the usual one for a cut-off (as in ``implicit.evaluation``).
    """
    at = hits.at[:, :k]
    precision_at = at.cumsum(axis=1) / np.arange(1, at.shape[1] + 1)
    return (at * precision_at).sum(axis=1) / np.clip(hits.n_relevant, 1, k)


def ndcg(hits: Hits, k: int) -> Floats:
    """Discounted cumulative gain within k, divided by that of the best possible list.

    ``DCG@k = sum_{p <= k} hit_p / log2(p + 1)``; ``NDCG@k = DCG@k / sum_{p <= min(k, n_relevant)} 1 / log2(p + 1)``.
    Relevance is binary.

    >>> ndcg(example_hits(), 4).round(4)  # user 0: (1/log2(3) + 1/log2(5)) / (1/log2(2) + 1/log2(3))
    array([0.6509, 0.4693])

    References
    ----------
    Jaervelin, Kekaelaeinen, "Cumulated gain-based evaluation of IR techniques", ACM TOIS 20(4), 2002.
    """
    at = hits.at[:, :k]
    discount = 1.0 / np.log2(np.arange(2, at.shape[1] + 2))
    ideal = np.cumsum(discount)
    # Not `at @ discount`: BLAS may round a user's sum differently by its place in the block.
    return (at * discount).sum(axis=1) / ideal[np.clip(hits.n_relevant, 1, k) - 1]


RANK_METRICS: dict[str, Callable[[Hits, int], Floats]] = {
    "precision": precision,
    "recall": recall,
    "ndcg": ndcg,
    "map": average_precision,
    "mrr": reciprocal_rank,
    "hit_rate": hit_rate,
}
"""Name of a metric (as the ``evaluations`` table has it) and the function of it."""


def rank_metrics(
    ranked: NDArray[Any], relevant_indptr: NDArray[Any], relevant_indices: NDArray[Any], ks: Sequence[int]
) -> RankMetrics:
    """Measure ranked lists of a block of users by every metric of `RANK_METRICS` at every cut-off.

    Parameters
    ----------
    ranked, relevant_indptr, relevant_indices
        As `find_hits` takes them.
    ks : sequence of int
        Cut-offs, each in [1, n].

    Returns
    -------
    dict of (metric name, k) to float64 array, shape (b,), range [0, 1]
        NaN for a user with nothing relevant: the metrics say nothing about that user, so leave it out of means.

    Raises
    ------
    ShapeError
        As `find_hits`, or a cut-off is outside [1, n].

    Examples
    --------
    >>> ranked = np.array([[3, 1], [0, 2]], dtype=np.int32)
    >>> metrics = rank_metrics(ranked, np.array([0, 1, 1]), np.array([1]), ks=[1, 2])  # user 1: nothing relevant
    >>> metrics["mrr", 2], metrics["recall", 1]
    (array([0.5, nan]), array([ 0., nan]))
    """
    for k in ks:
        if not 1 <= k <= ranked.shape[1]:
            raise ShapeError(f"cut-off k = {k}, lists hold {ranked.shape[1]} positions; pad the lists with -1 up to k")
    hits = find_hits(ranked, relevant_indptr, relevant_indices)
    undefined = hits.n_relevant == 0
    return {
        (name, k): np.where(undefined, np.nan, metric(hits, k)) for name, metric in RANK_METRICS.items() for k in ks
    }


def example_hits() -> Hits:
    """Return the hits of the two users in the module's example."""
    ranked = np.array([[7, 2, 9, 4], [1, 3, 5, -1]], dtype=np.int32)
    return find_hits(ranked, np.array([0, 2, 5]), np.array([2, 4, -1, 1, 8], dtype=np.int32))


@njit(cache=True, nogil=True)
def _mark_hits(ranked, indptr, indices, at):  # type: ignore[no-untyped-def]
    for user in range(ranked.shape[0]):
        row = indices[indptr[user] : indptr[user + 1]]
        for position in range(ranked.shape[1]):
            item = ranked[user, position]
            if item >= 0:
                place = np.searchsorted(row, item)
                at[user, position] = place < len(row) and row[place] == item


@njit(cache=True, nogil=True)
def _first_unsorted_row(indptr, indices):  # type: ignore[no-untyped-def]
    for row in range(len(indptr) - 1):
        if indptr[row + 1] < indptr[row]:
            return row
        for e in range(indptr[row] + 1, indptr[row + 1]):
            if indices[e] < indices[e - 1] or (indices[e] == indices[e - 1] and indices[e] >= 0):
                return row
    return -1
