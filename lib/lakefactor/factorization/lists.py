"""Ranked lists over a catalogue: a user's best items, an item's most similar ones.

The one way to make them, for a job over all users, a stream that refreshes some, and a client that asks for one.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakefactor.config import Recommend
from lakefactor.factorization.catalogue import Catalogue, csr_columns, known_only, matrix
from lakefactor.kernels import Ranker

BLOCK_ROWS = 1024
"""Items whose similar items are found together."""


class TopItems:
    """The best items of users, by predicted preference or rating.

    Parameters
    ----------
    catalogue : Catalogue
    mean : float
        Global mean that is part of a predicted rating (0 for implicit models).
    config : Recommend
        ``n``, allow and deny lists, block sizes.
    """

    def __init__(self, catalogue: Catalogue, mean: float, config: Recommend) -> None:
        self._catalogue, self._mean, self._config = catalogue, mean, config
        self._ranker = Ranker(catalogue.factors, catalogue.bias, block_rows=config.item_block_rows)
        self._allowed = allowed_items(catalogue, config)

    def under(self, config: Recommend) -> TopItems:
        """Return the same under other rules; its block of items stays."""
        other = copy(self)
        other._config, other._allowed = config, allowed_items(self._catalogue, config)
        return other

    def scores(self, user: NDArray[np.float32], bias: float, columns: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return a user's scores of some columns of the catalogue, float32, whatever the rules."""
        return self._ranker.scores(user[None], columns[None], np.array([bias + self._mean]))[0]

    def of(self, users: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """Yield the lists of some users, block by block.

        Parameters
        ----------
        users : pyarrow RecordBatch
            ``user_id, factors, bias, seen``; ``seen`` holds lists of item ids to leave out, null or empty where nothing
            is.

        Yields
        ------
        pyarrow RecordBatch
            ``user_id, position`` (1 is best)``, item_id, score``; ties are in order of item id.
        """
        for start in range(0, users.num_rows, self._config.user_block_rows):
            yield self._of_block(users.slice(start, self._config.user_block_rows))

    def _of_block(self, users: pa.RecordBatch) -> pa.RecordBatch:
        indptr, indices, _ = known_only(*csr_columns(users["seen"], self._catalogue)[:2])
        bias = users["bias"].to_numpy(zero_copy_only=False).astype(np.float64) + self._mean
        found = self._ranker.top(
            matrix(users["factors"]), self._config.n, (indptr, indices), bias=bias, allowed=self._allowed
        )
        return _rows(users["user_id"], self._catalogue.ids, found, ["user_id", "position", "item_id", "score"])


class SimilarItems:
    """The most similar items of items, by the cosine of their factors; an item is not similar to itself."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._ranker = Ranker(catalogue.factors, cosine=True)

    def of(self, columns: NDArray[np.int64], n: int) -> Iterator[pa.RecordBatch]:
        """Yield the n items most similar to each of some columns of the catalogue, block by block.

        Yields
        ------
        pyarrow RecordBatch
            ``item_id, position, similar_item_id, similarity`` in [-1, 1]; ties are in order of item id.
        """
        for start in range(0, len(columns), BLOCK_ROWS):
            some = columns[start : start + BLOCK_ROWS]
            itself = np.arange(len(some) + 1), some.astype(np.int32)
            found = self._ranker.top(self._catalogue.factors[some], n, itself)
            ids = self._catalogue.ids
            yield _rows(ids.take(pa.array(some)), ids, found, ["item_id", "position", "similar_item_id", "similarity"])


def allowed_items(catalogue: Catalogue, config: Recommend) -> NDArray[np.bool_] | None:
    """Return which items may be recommended, bool, shape (m,); None: all."""
    if not config.allow_items and not config.deny_items:
        return None
    allowed = catalogue.mask(config.allow_items) if config.allow_items else np.ones(len(catalogue.ids), dtype=bool)
    return allowed & ~catalogue.mask(config.deny_items)


def _rows(
    of: pa.Array, ids: pa.Array, found: tuple[NDArray[np.float32], NDArray[np.int32]], names: list[str]
) -> pa.RecordBatch:
    """Return one row per filled position of ranked lists."""
    scores, columns = found
    rows, positions = np.nonzero(columns >= 0)
    arrays = [
        of.take(pa.array(rows)),
        pa.array(positions.astype(np.int32) + 1),
        ids.take(pa.array(columns[rows, positions])),
        pa.array(scores[rows, positions]),
    ]
    return pa.record_batch(arrays, names=names)
