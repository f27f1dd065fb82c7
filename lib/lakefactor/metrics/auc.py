"""Area under the ROC curve per user: over the whole catalogue, or as far as a top-k list shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lakefactor.errors import ShapeError
from lakefactor.metrics.ranking import Floats, RankMetrics, check_rows, find_hits


def auc(
    scores: NDArray[np.float32],
    seen_indptr: NDArray[Any],
    seen_indices: NDArray[Any],
    relevant_indptr: NDArray[Any],
    relevant_indices: NDArray[Any],
) -> Floats:
    """Probability that a relevant item scores above an item that is neither relevant nor seen.

    Parameters
    ----------
    scores : float32 array, shape (b, m)
        Score of every catalogue item for each user. NaN is taken as minus infinity.
    seen_indptr, seen_indices : integer arrays, shapes (b + 1,) and (nnz_seen,)
        CSR rows of item columns that take no part, ascending in each row.
    relevant_indptr, relevant_indices : integer arrays, shapes (b + 1,) and (nnz,)
        CSR rows of relevant item columns, ascending in each row; -1 is an item outside the catalogue.

    Returns
    -------
    float64 array, shape (b,), range [0, 1]
        NaN for a user with nothing relevant or nothing to compare with.

    Raises
    ------
    ShapeError
        The arrays disagree on b, columns are not ascending or reach beyond m.

    Notes
    -----
    ``AUC = (1 / (P N)) sum_{relevant i} sum_{other j} [s_i > s_j] + [s_i = s_j] / 2`` with P relevant items and N
    others; exact, ties count half. A relevant item that cannot be recommended (outside the catalogue, or seen) counts
    in P and loses every comparison, as in the rank metrics. Time O(m P) per user in one vectorised
    comparison loop: faster than sorting the catalogue up to thousands of relevant items.

    References
    ----------
    Hanley, McNeil, "The meaning and use of the area under a ROC curve", Radiology 143, 1982 (Wilcoxon statistic).

    Examples
    --------
    Items 0 to 4; item 4 was seen. Relevant item 1 (0.7) beats items 2 and 3, and loses to item 0: 2/3.

    >>> scores = np.array([[0.9, 0.7, 0.5, 0.1, 1.0]], dtype=np.float32)
    >>> auc(scores, np.array([0, 1]), np.array([4]), np.array([0, 1]), np.array([1])).round(4)
    array([0.6667])
    """
    for name, indptr, indices in (("seen", seen_indptr, seen_indices), ("relevant", relevant_indptr, relevant_indices)):
        check_rows(name, indptr, indices, len(scores))
        if len(indices) and indices.max() >= scores.shape[1]:
            raise ShapeError(f"{name} rows: column {indices.max()}, but there are scores of {scores.shape[1]} items")
    result = np.empty(len(scores), dtype=np.float64)
    _auc(scores, seen_indptr, seen_indices, relevant_indptr, relevant_indices, result)
    return result


def auc_at_k(
    ranked: NDArray[Any],
    relevant_indptr: NDArray[Any],
    relevant_indices: NDArray[Any],
    n_candidates: NDArray[Any],
    ks: Sequence[int],
) -> RankMetrics:
    """AUC as a top-k list shows it: items beyond the list count as tied below it.

    Parameters
    ----------
    ranked, relevant_indptr, relevant_indices
        As `lakefactor.metrics.ranking.find_hits` takes them.
    n_candidates : integer array, shape (b,)
        Items that could have been in each user's list, relevant ones included: the catalogue without the seen items.
    ks : sequence of int
        Cut-offs, each in [1, n].

    Returns
    -------
    dict of ("auc", k) to float64 array, shape (b,), range [0, 1]
        NaN for a user with nothing relevant or nothing to compare with.

    Raises
    ------
    ShapeError
        As `find_hits`, or a cut-off is outside [1, n].

    Notes
    -----
    With P relevant items, N = candidates that are not relevant, h hits and f other items within k::

        AUC@k = (sum over the f others of the hits above them + (N - f) (h + P) / 2) / (P N)

    that is: hits beat every item after the list, relevant items that the list misses tie with the rest. It is the
    exact AUC when k covers all candidates and no scores tie.

    References
    ----------
    ``implicit.evaluation.ranking_metrics_at_k`` (limited AUC; it counts seen items among the N, we leave them out).

    Examples
    --------
    Of 5 candidates, the list shows items 3 and 1, the relevant ones are 1 and 2: P = 2, N = 3, h = 1, f = 1. The miss
    on top has no hit above it; of the 2 others after the list, the hit beats both and item 2 ties: (0 + 2 * 3/2) / 6.

    >>> auc_at_k(np.array([[3, 1]]), np.array([0, 2]), np.array([1, 2]), np.array([5]), ks=[2])
    {('auc', 2): array([0.5])}
    """
    if len(n_candidates) != len(ranked):
        raise ShapeError(f"n_candidates has {len(n_candidates)} entries for {len(ranked)} users")
    hits = find_hits(ranked, relevant_indptr, relevant_indices)
    n_others = np.asarray(n_candidates, dtype=np.int64) - hits.n_reachable
    pairs = (hits.n_relevant * n_others).astype(np.float64)
    pairs[pairs <= 0] = np.nan
    result = {}
    for k in ks:
        if not 1 <= k <= ranked.shape[1]:
            raise ShapeError(f"cut-off k = {k}, lists hold {ranked.shape[1]} positions; pad the lists with -1 up to k")
        at, other = hits.at[:, :k], (hits.filled & ~hits.at)[:, :k]
        found = at.cumsum(axis=1)
        beaten_within = (found * other).sum(axis=1)
        beyond = n_others - other.sum(axis=1)
        result["auc", k] = (beaten_within + beyond * (found[:, -1] + hits.n_relevant) / 2) / pairs
    return result


@njit(cache=True, nogil=True)
def _auc(scores, seen_indptr, seen_indices, relevant_indptr, relevant_indices, result):  # type: ignore[no-untyped-def]
    for user in range(scores.shape[0]):
        seen = seen_indices[seen_indptr[user] : seen_indptr[user + 1]]
        relevant = relevant_indices[relevant_indptr[user] : relevant_indptr[user + 1]]
        result[user] = _auc_of_user(scores[user], seen, relevant)


@njit(cache=True, nogil=True)
def _auc_of_user(scores, seen, relevant):  # type: ignore[no-untyped-def]
    others = np.where(np.isnan(scores), np.float32(-np.inf), scores)
    at = others[relevant[np.searchsorted(relevant, 0) :]]
    # NaN compares false with everything: it takes an item out of the counts below.
    for column in seen:
        others[column] = np.nan
    wanted = 0
    for column in relevant:
        if column >= 0 and not np.isnan(others[column]):
            at[wanted] = others[column]
            others[column] = np.nan
            wanted += 1
    doubled_wins = 0
    for score in at[:wanted]:
        below, not_above = 0, 0  # two plain sums: this form is the one that the compiler vectorises
        for column in range(len(others)):
            below += others[column] < score
            not_above += others[column] <= score
        doubled_wins += below + not_above
    n_others = 0
    for column in range(len(others)):
        n_others += not np.isnan(others[column])
    pairs = len(relevant) * n_others
    return doubled_wins / (2.0 * pairs) if pairs > 0 else np.nan
