"""Score a micro-batch before it is learned: from ids and the live model to the figures of the ledger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lakefactor.config import Stream
from lakefactor.factorization.coding import coded
from lakefactor.metrics.prequential import (
    FactorModel,
    batch_means,
    popular_items,
    rank_scores,
    rating_errors,
    sample_users,
)
from lakefactor.types import Side


class Scored(Protocol):
    """What scoring asks of the live model."""

    def size(self, side: Side) -> int:
        """Return how many rows a side has."""

    def numbers(self, side: Side, ids: list[Any]) -> NDArray[np.int64]:
        """Return the row number of each id, -1 where it is unknown."""

    def stored(self, side: Side, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return factors, shape (n, rank), and biases, shape (n,), of some rows as readers use them."""

    def n_entries(self, side: Side, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the interactions of some rows."""


def score_ranks(
    live: Scored,
    settings: Stream,
    batch_id: int,
    events: pa.Table,
    history: Callable[[pa.Array], pa.Table] | None = None,
) -> dict[str, float]:
    """Measure how well the model's lists foretold the events of a micro-batch.

    Parameters
    ----------
    live : Scored
        The live model before it learned any of them.
    settings : lakefactor.config.Stream
        ``watch_users`` and ``watch_k``.
    batch_id : int
        Micro-batch; draws the users.
    events : pyarrow.Table
        ``user_id, item_id`` of new events that speak for an item, without nulls.
    history : callable or None
        Gives ``user_id, item_id`` of what some users (ids) had before the micro-batch; more users and repeated pairs
        are welcome. It is left out of the lists, and not scored when it comes again.

    Returns
    -------
    dict of str to float
        For ``stream_ledger.metrics``; see `lakefactor.metrics.prequential.rank_scores`. Empty without users to score.
    """
    users, user_rows, of_event, events = _sampled(live, settings, batch_id, events)
    if not len(users):
        return {}
    model, popular, user_rows = _model(live, user_rows)
    seen = None if history is None else _seen(live, users, history(users))
    items = _item_rows(live, events["item_id"])
    return batch_means(rank_scores(model, user_rows, of_event, items, settings.watch_k, seen, popular))


def score_ratings(
    live: Scored,
    settings: Stream,
    batch_id: int,
    events: pa.Table,
    mean: float,
    rating_range: tuple[float, float] | None = None,
) -> dict[str, float]:
    """Measure how far the model was from the ratings of a micro-batch.

    Parameters
    ----------
    live, settings, batch_id
        As in `score_ranks`.
    events : pyarrow.Table
        ``user_id, item_id, strength`` of new ratings, without nulls.
    mean : float
        Mean strength of the training.
    rating_range : (float, float) or None
        Smallest and largest strength of the training.

    Returns
    -------
    dict of str to float
        ``rmse`` by segment; see `lakefactor.metrics.prequential.rating_errors`. Empty without users to score.
    """
    users, user_rows, of_event, events = _sampled(live, settings, batch_id, events)
    if not len(users):
        return {}
    model, popular, user_rows = _model(live, user_rows, mean)
    items, ratings = _item_rows(live, events["item_id"]), events["strength"].to_numpy()
    return batch_means(rating_errors(model, user_rows[of_event], items, ratings, popular, rating_range))


def _sampled(
    live: Scored, settings: Stream, batch_id: int, events: pa.Table
) -> tuple[pa.Array, NDArray[np.int64], NDArray[np.int64], pa.Table]:
    """Return the drawn users, their rows in the live model, of each of their events the user's place, and these."""
    distinct, of_event = coded(events["user_id"])
    chosen = sample_users(distinct, batch_id, settings.watch_users)
    place = np.full(len(distinct), -1)
    place[chosen] = np.arange(len(chosen))
    place = place[of_event]
    users = distinct.take(pa.array(chosen))
    return users, live.numbers("user", users.to_pylist()), place[place >= 0], events.filter(pa.array(place >= 0))


def _model(
    live: Scored, user_rows: NDArray[np.int64], mean: float = 0.0
) -> tuple[FactorModel, NDArray[np.bool_], NDArray[np.int64]]:
    """Return the factors of known users and of all items, the popular items, and the users' rows in these factors."""
    known = user_rows >= 0
    every_item = np.arange(live.size("item"))
    (x, user_bias), (y, item_bias) = live.stored("user", user_rows[known]), live.stored("item", every_item)
    popular = popular_items(live.n_entries("item", every_item))
    return FactorModel(x, y, user_bias, item_bias, mean), popular, np.where(known, np.cumsum(known) - 1, -1)


def _item_rows(live: Scored, ids: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return each item's row, and for unknown items a negative number of their own."""
    distinct, place = coded(ids)
    rows = live.numbers("item", distinct.to_pylist())
    return np.where(rows < 0, -1 - np.arange(len(rows)), rows)[place]


def _seen(live: Scored, users: pa.Array, history: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return CSR rows of the known items that each user had."""
    distinct, place = coded(history["user_id"])
    number = pc.fill_null(pc.index_in(distinct, users.cast(distinct.type)), -1).to_numpy()[place].astype(np.int64)
    items = _item_rows(live, history["item_id"])
    width = live.size("item")
    pairs = np.unique((number * width + items)[(number >= 0) & (items >= 0)])
    return np.searchsorted(pairs, np.arange(len(users) + 1) * width), (pairs % max(width, 1)).astype(np.int32)
