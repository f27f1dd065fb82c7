"""Test, then train: how well the model foretold the events of a micro-batch, before it learns them.

Ranks are measured per user as `lakefactor.metrics.ranking` defines them, with the new items of the micro-batch as the
relevant ones; ratings by the squared error of each event. Both are told apart by segments, as a model can lose its new
users or its tail while the mean over all stays.

References
----------
Gama, Sebastiao, Rodrigues, "On evaluating stream learning algorithms", Machine Learning 90(3), 2013.
Vinagre, Jorge, Gama, "Evaluation of recommender systems in streaming environments", RecSys workshop REDD, 2014.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakefactor.errors import ShapeError
from lakefactor.kernels import Ranker, hash_ids, splitmix64
from lakefactor.metrics.ranking import RANK_METRICS, Floats, check_rows, find_hits

SEGMENTS = ("all", "new_users", "known_users", "popular_items", "tail_items")
"""`new_users` are those that the model does not know; `tail_items` all but the popular ones, unknown items included."""

Scores = dict[str, dict[str, Floats]]
"""Segment, then metric, to one value per user or event; a segment without any is left out."""


@dataclass(frozen=True)
class FactorModel:
    """What a prediction needs of a model: ``mean + b_u + b_i + x_u'y_i``.

    Attributes
    ----------
    user_factors, item_factors : float32 arrays, shapes (n, k) and (m, k)
    user_bias, item_bias : float32 arrays, shapes (n,) and (m,), or None
        None: zeros.
    mean : float
        Global mean of a rating; 0 for implicit feedback.
    """

    user_factors: NDArray[np.float32]
    item_factors: NDArray[np.float32]
    user_bias: NDArray[np.float32] | None = None
    item_bias: NDArray[np.float32] | None = None
    mean: float = 0.0


def sample_users(user_ids: pa.Array[Any], batch_id: int, limit: int) -> NDArray[np.int64]:
    """Choose the users of a micro-batch whose events are scored.

    Parameters
    ----------
    user_ids : pyarrow StringArray, LargeStringArray or Int64Array, shape (n,)
        Distinct ids without nulls.
    batch_id : int
        Micro-batch, >= 0.
    limit : int
        At most this many users, >= 0.

    Returns
    -------
    int64 array, shape (min(n, limit),)
        Places in ``user_ids``, ascending: those with the smallest hashes of (id, batch_id). The choice hangs on neither
        the order of the ids nor the process, so a repeated micro-batch scores the same users; another micro-batch
        draws anew.

    Examples
    --------
    >>> users = pa.array(["ann", "bob", "cy", "dee"])
    >>> chosen = sample_users(users, 7, 2)
    >>> sorted(users.take(pa.array(chosen)).to_pylist()) == sorted(
    ...     users[::-1].take(pa.array(sample_users(users[::-1], 7, 2))).to_pylist()
    ... )
    True
    """
    salt = splitmix64(np.array([batch_id], np.uint64))
    order = np.argsort(splitmix64(hash_ids(user_ids) ^ salt), kind="stable")
    return np.sort(order[:limit]).astype(np.int64)


def popular_items(n_entries: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark the fewest items that together hold at least half of all interactions.

    Parameters
    ----------
    n_entries : integer array, shape (m,)
        Interactions of each item, >= 0. Of equally popular ones the lower number goes first.

    Examples
    --------
    >>> popular_items(np.array([10, 60, 25, 25]))  # 60 of 120
    array([False,  True, False, False])
    """
    counts = np.asarray(n_entries, dtype=np.int64)
    order = np.argsort(-counts, kind="stable")
    held = np.cumsum(counts[order])
    popular = np.zeros(len(counts), dtype=np.bool_)
    if len(counts) and held[-1] > 0:
        popular[order[: np.searchsorted(held, held[-1] / 2) + 1]] = True
    return popular


def rank_scores(
    model: FactorModel,
    user_rows: NDArray[Any],
    event_users: NDArray[Any],
    event_items: NDArray[Any],
    k: int,
    seen: tuple[NDArray[np.int64], NDArray[np.int32]] | None = None,
    popular: NDArray[np.bool_] | None = None,
) -> Scores:
    """Measure whether each user's list of k items, as the model has it now, holds the items of the user's new events.

    Parameters
    ----------
    model : FactorModel
    user_rows : integer array, shape (b,)
        Row in ``model.user_factors`` of each user; negative: the model does not know the user.
    event_users : integer array, shape (n,)
        User of each event, a place in ``user_rows``.
    event_items : integer array, shape (n,)
        Item of each event, a row of ``model.item_factors``; negative: unknown to the model, and then the number tells
        unknown items apart. Several events of one user and item count once.
    k : int
        Cut-off, >= 1.
    seen : (int64 array, shape (b + 1,), int32 array) or None
        CSR rows of the items that each user had before the micro-batch, ascending: neither listed nor relevant, so
        events of them are not scored. None: nothing is left out.
    popular : bool array, shape (m,), or None
        From `popular_items`; None leaves the two segments of items out.

    Returns
    -------
    dict of segment to dict of metric to float64 array, range [0, 1]
        ``recall_at_<k>`` and ``ndcg_at_<k>``, one value for each user that has a relevant item in the segment, in the
        order of ``user_rows``.

    Raises
    ------
    ShapeError
        The arrays disagree, or a number is out of range.

    Notes
    -----
    R_u are the distinct items of u's events that u had not seen, L_u the k best items by ``x_u'y_i + b_i`` without the
    seen ones::

        recall@k(u) = |L_u and R_u| / |R_u|
        NDCG@k(u)   = sum_{p <= k, L_u[p] in R_u} 1 / log2(p + 1)  /  sum_{p <= min(k, |R_u|)} 1 / log2(p + 1)

    An event is a miss where the model does not know its item (it is in R_u, and no list has it) or its user (L_u is
    empty): such users are the segment ``new_users``. In the segments of items R_u holds those of the segment alone;
    the list is the same. Time O(b m rank), memory as `lakefactor.kernels.Ranker` plus the events.

    Examples
    --------
    User 0 has seen item 0, so the list is [1, 2] for the new items 1 and one that is unknown; user 1 is new.

    >>> model = FactorModel(np.ones((1, 1), np.float32), np.array([[4], [3], [2], [1]], np.float32))
    >>> scores = rank_scores(model, np.array([0, -1]), np.array([0, 0, 1]), np.array([1, -1, 2]), 2,
    ...                      seen=(np.array([0, 1, 1]), np.array([0], np.int32)))
    >>> scores["all"]["recall_at_2"], scores["known_users"]["recall_at_2"], scores["new_users"]["recall_at_2"]
    (array([0.5, 0. ]), array([0.5]), array([0.]))
    """
    b, m = len(user_rows), len(model.item_factors)
    if seen is None:
        seen = np.zeros(b + 1, np.int64), np.empty(0, np.int32)
    check_rows("seen", *seen, b)
    _check_events(model, user_rows, event_users, event_items, popular)
    known = np.asarray(user_rows) >= 0
    factors = np.zeros((b, model.item_factors.shape[1]), np.float32)
    factors[known] = model.user_factors[user_rows[known]]
    ranked = Ranker(model.item_factors, model.item_bias).top(factors, k, seen)[1]
    ranked[~known] = -1
    users, items = _unseen_pairs(np.asarray(event_users, np.int64), np.asarray(event_items, np.int64), seen, m)
    result: Scores = {}
    for segment, chosen in _segments(known[users], items, popular).items():
        counts = np.bincount(users[chosen], minlength=b)
        relevant = np.maximum(items[chosen], -1).astype(np.int32)
        hits = find_hits(ranked, np.concatenate([[0], np.cumsum(counts)]), relevant)
        if len(relevant):
            result[segment] = {f"{name}_at_{k}": RANK_METRICS[name](hits, k)[counts > 0] for name in ("recall", "ndcg")}
    return result


def rating_errors(
    model: FactorModel,
    user_rows: NDArray[Any],
    item_rows: NDArray[Any],
    ratings: NDArray[Any],
    popular: NDArray[np.bool_] | None = None,
    rating_range: tuple[float, float] | None = None,
) -> Scores:
    """Measure how far the model's predictions are from the ratings of new events.

    Parameters
    ----------
    model : FactorModel
    user_rows, item_rows : integer arrays, shape (n,)
        Rows of each event's user and item; negative: the model does not know it.
    ratings : float array, shape (n,)
        Finite ratings.
    popular : bool array, shape (m,), or None
        From `popular_items`; None leaves the two segments of items out.
    rating_range : (float, float) or None
        Smallest and largest rating of the training: predictions are clipped to it, as in evaluations.

    Returns
    -------
    dict of segment to dict of ``squared_error`` to float64 array
        ``(mean + b_u + b_i + x_u'y_i - rating)^2`` of each event, in squared rating units; the terms of an unknown user
        or item are 0.

    Raises
    ------
    ShapeError
        The arrays disagree, or a number is out of range.

    Examples
    --------
    >>> model = FactorModel(np.ones((1, 1), np.float32), np.array([[1], [2]], np.float32), mean=3.0)
    >>> rating_errors(model, np.array([0, -1]), np.array([1, 1]), np.array([4.0, 4.0]))["all"]["squared_error"]
    array([1., 1.])
    """
    if len(ratings) != len(user_rows):
        raise ShapeError(f"rating_errors: {len(ratings)} ratings of {len(user_rows)} events")
    _check_events(model, user_rows, np.arange(len(user_rows)), item_rows, popular)
    known_user, known_item = np.asarray(user_rows) >= 0, np.asarray(item_rows) >= 0
    predicted = np.full(len(user_rows), model.mean, dtype=np.float64)
    if model.user_bias is not None:
        predicted[known_user] += model.user_bias[user_rows[known_user]]
    if model.item_bias is not None:
        predicted[known_item] += model.item_bias[item_rows[known_item]]
    both = known_user & known_item
    x, y = model.user_factors[user_rows[both]], model.item_factors[item_rows[both]]
    predicted[both] += np.einsum("ij,ij->i", x, y, dtype=np.float64)
    if rating_range is not None:
        predicted = np.clip(predicted, *rating_range)
    squared = np.square(predicted - np.asarray(ratings, dtype=np.float64))
    segments = _segments(known_user, np.asarray(item_rows), popular)
    return {name: {"squared_error": squared[chosen]} for name, chosen in segments.items() if chosen.any()}


def batch_means(scores: Scores) -> dict[str, float]:
    """Return one figure per metric and segment, as ``stream_ledger.metrics`` keeps them.

    The names are the metric's for the segment `all`, else ``metric.segment``; squared errors become the RMSE.

    >>> batch_means({"all": {"recall_at_10": np.array([0.5, 0.0])}, "new_users": {"squared_error": np.array([4.0])}})
    {'recall_at_10': 0.25, 'rmse.new_users': 2.0}
    """
    result = {}
    for segment, metrics in scores.items():
        for metric, values in metrics.items():
            mean = float(np.mean(values, dtype=np.float64))
            if metric == "squared_error":
                metric, mean = "rmse", sqrt(mean)
            result[metric if segment == "all" else f"{metric}.{segment}"] = mean
    return result


def _unseen_pairs(
    users: NDArray[np.int64], items: NDArray[np.int64], seen: tuple[NDArray[np.int64], NDArray[np.int32]], m: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct (user, item) pairs that are not seen, in ascending order."""
    lowest = min(int(items.min(initial=0)), 0)
    width = m - lowest
    indptr, indices = seen
    had = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)) * width + indices - lowest
    pairs = np.setdiff1d(users * width + items - lowest, had)
    return pairs // width, pairs % width + lowest


def _segments(
    known_user: NDArray[np.bool_], items: NDArray[Any], popular: NDArray[np.bool_] | None
) -> dict[str, NDArray[np.bool_]]:
    """Return which events belong to each segment."""
    result = {"all": np.ones(len(items), np.bool_), "new_users": ~known_user, "known_users": known_user}
    if popular is not None:
        is_popular = np.zeros(len(items), np.bool_)
        is_popular[items >= 0] = popular[items[items >= 0]]
        result |= {"popular_items": is_popular, "tail_items": ~is_popular}
    return result


def _check_events(
    model: FactorModel,
    user_rows: NDArray[Any],
    event_users: NDArray[Any],
    event_items: NDArray[Any],
    popular: NDArray[np.bool_] | None,
) -> None:
    n, m, b = len(model.user_factors), len(model.item_factors), len(user_rows)
    if len(event_users) != len(event_items):
        raise ShapeError(f"events: {len(event_users)} users and {len(event_items)} items")
    if popular is not None and len(popular) != m:
        raise ShapeError(f"popular has {len(popular)} elements for {m} items")
    for name, numbers, low, stop in (
        ("user_rows", user_rows, None, n),
        ("event_users", event_users, 0, b),
        ("event_items", event_items, None, m),
    ):
        if len(numbers) and (numbers.max() >= stop or (low is not None and numbers.min() < low)):
            raise ShapeError(f"events: {name} lie in [{numbers.min()}, {numbers.max()}], the rows end at {stop}")
