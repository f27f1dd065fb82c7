"""Ranked lists over a catalogue: a user's best items, an item's most similar ones.

The one way to make them, for a job over all users, a stream that refreshes some, and a client that asks for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from functools import cached_property, partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakefactor.config import Recommend
from lakefactor.factorization.catalogue import Catalogue, csr_columns, known_only, matrix
from lakefactor.kernels import Ranker, rerank
from lakefactor.kernels.topk import Ranked, Seen

BLOCK_ROWS = 1024
"""Items whose similar items are found together."""

POOL = 5
"""Candidates for each place of a list that categories or diversity have a say in."""


class TopItems:
    """The best items of users, by predicted preference or rating.

    Parameters
    ----------
    catalogue : Catalogue
    mean : float
        Global mean that is part of a predicted rating (0 for implicit models).
    config : Recommend
        ``n``, the rules, backend and block sizes.
    device : str
        Torch's name of the device for products: ``cpu``, or ``cuda:<n>``.

    Attributes
    ----------
    allowed : bool ndarray, shape (m,), or None
        Which items the rules allow; None: all.
    """

    def __init__(self, catalogue: Catalogue, mean: float, config: Recommend, device: str = "cpu") -> None:
        self._catalogue, self._mean = catalogue, mean
        self._ranker_by: Callable[[NDArray[np.float32]], Ranker] = partial(
            Ranker, catalogue.factors, block_rows=config.item_block_rows, backend=config.backend, device=device
        )
        self._plain = self._ranker_by(catalogue.bias)
        self._follow(config)

    def under(self, config: Recommend) -> TopItems:
        """Return the same under other rules; blocks, backend and what was prepared of the catalogue stay."""
        other = copy(self)
        other._follow(config)
        return other

    def _follow(self, config: Recommend) -> None:
        catalogue = self._catalogue
        self._config, self.allowed, self._ranker = config, allowed_items(catalogue, config), self._plain
        if config.popularity_discount:
            discount = config.popularity_discount * np.log1p(catalogue.n_entries)
            bias = (catalogue.bias - discount).astype(np.float32)
            self._ranker = self._ranker_by(bias)

    def scores(self, user: NDArray[np.float32], bias: float, columns: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return a user's scores of some columns of the catalogue, float32, whatever the rules."""
        return self._plain.scores(user[None], columns[None], np.array([bias + self._mean]))[0]

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
        found = self.best(matrix(users["factors"]), bias, (indptr, indices))
        return _rows(users["user_id"], self._catalogue.ids, found, ["user_id", "position", "item_id", "score"])

    def best(self, factors: NDArray[np.float32], bias: NDArray[np.float64], seen: Seen, n: int | None = None) -> Ranked:
        """Return the scores and the columns of the best items of some users, as `Ranker.top`.

        Parameters
        ----------
        factors : float32 ndarray, shape (b, rank)
        bias : float64 ndarray, shape (b,)
            The users' own, and the mean.
        seen : (indptr, indices)
            CSR rows of columns to leave out.
        n : int, optional
            At most this many; None: ``config.n``.
        """

        def first(count: int) -> Ranked:
            return self._ranker.top(factors, count, seen, bias=bias, allowed=self.allowed)

        return self._listed(first, len(self._catalogue.ids), n or self._config.n, factors, bias)

    def best_among(
        self,
        factors: NDArray[np.float32],
        bias: float,
        columns: NDArray[np.int32],
        excluded: NDArray[np.int32],
        n: int,
    ) -> Ranked:
        """Return what `best` would of one user, shape (1, n or fewer), if there were only some columns.

        Parameters
        ----------
        factors : float32 ndarray, shape (rank,)
        bias : float
            The user's own, and the mean.
        columns, excluded : int32 ndarray
            Those that there are, each once, and those to leave out.
        n : int
        """
        columns = columns[~np.isin(columns, excluded)]
        if self.allowed is not None:
            columns = columns[self.allowed[columns]]
        if not len(columns):
            return np.empty((1, 0), np.float32), np.empty((1, 0), np.int32)
        user, biases = factors[None], np.array([bias])
        scores = self._ranker.scores(user, columns[None], biases)[0]
        order = np.lexsort((columns, -scores))

        def first(count: int) -> Ranked:
            return scores[None, order[:count]], columns[None, order[:count]]

        return self._listed(first, len(columns), n, user, biases)

    @property
    def is_nested(self) -> bool:
        """Whether a list is the beginning of every longer one; diversity looks at more candidates for a longer one."""
        return self._config.diversity == 0

    def candidates(self, n: int) -> int:
        """Return how many of the best items the rules look at, at first, for a list of n."""
        return POOL * n if self._config.max_per_category or self._config.diversity else n

    def _listed(
        self,
        first: Callable[[int], Ranked],
        most: int,
        n: int,
        factors: NDArray[np.float32],
        bias: NDArray[np.float64],
    ) -> Ranked:
        """Return the lists that the rules make of the first candidates, of which there are at most so many."""
        if self.candidates(n) > n:
            columns = self._chosen(first, most, n)
        else:
            scores, columns = first(n)
            if self._ranker is self._plain:
                return scores, columns
        scores = self._plain.scores(factors, np.maximum(columns, 0), bias)
        return np.where(columns >= 0, scores, np.float32(-np.inf)), columns

    def _chosen(self, first: Callable[[int], Ranked], most: int, n: int) -> NDArray[np.int32]:
        """Return the columns that categories and diversity leave of the best ones.

        A row that is not full is tried again with more candidates, until there are no more.
        """
        config = self._config
        pool = min(self.candidates(n), most)
        while True:
            scores, columns = first(pool)
            places = rerank(
                scores, columns, n, self._categories, config.max_per_category, self._catalogue.factors,
                config.diversity,
            )  # fmt: skip
            if pool == most or not ((places[:, -1] < 0) & (columns[:, -1] >= 0)).any():
                chosen = np.take_along_axis(columns, np.maximum(places, 0).astype(np.int64), axis=1)
                return np.where(places >= 0, chosen, -1).astype(np.int32)
            pool = min(2 * pool, most)

    @cached_property
    def _categories(self) -> NDArray[np.int32]:
        return self._catalogue.category_codes()


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
    allowed = np.ones(len(catalogue.ids), bool)
    if config.allow_items:
        allowed &= catalogue.mask(config.allow_items)
    if config.allow_categories:
        allowed &= catalogue.in_categories(config.allow_categories)
    if config.deny_items:
        allowed &= ~catalogue.mask(config.deny_items)
    if config.deny_categories:
        allowed &= ~catalogue.in_categories(config.deny_categories)
    return None if allowed.all() else allowed


def _rows(of: pa.Array, ids: pa.Array, found: Ranked, names: list[str]) -> pa.RecordBatch:
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
