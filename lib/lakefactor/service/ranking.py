"""All items of a catalogue ranked for whoever asks: exactly, or among what an index proposes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lakefactor.client.loaded import Columns
from lakefactor.factorization.catalogue import Catalogue
from lakefactor.kernels import Ranker
from lakefactor.service.item_index import ItemIndex

TOGETHER = 8
"""Vectors from which one product of matrices is faster than as many of a matrix and a vector: BLAS packs the items."""


class Wanted(NamedTuple):
    """What is to be ranked for: factors, a bias, columns to leave out (ascending, each once), and how many to find."""

    vector: NDArray[np.float32]
    bias: float
    excluded: Columns
    n: int


class Found(NamedTuple):
    """Columns, best first, and their scores; as many as there are."""

    columns: Columns
    scores: NDArray[np.float32]


class Ranking:
    """Ranks the items of one catalogue.

    Parameters
    ----------
    catalogue : Catalogue
    mean : float
        Part of every predicted rating.
    index : ItemIndex or None
        Proposes items for recommendations; None: all items are looked at. Scores are the same numbers either way.
    """

    def __init__(self, catalogue: Catalogue, mean: float, index: ItemIndex | None = None) -> None:
        self._mean, self.index = mean, index
        self._scores = Ranker(catalogue.factors, catalogue.bias)
        self._cosines = Ranker(catalogue.factors, cosine=True)

    def best(self, wanted: Sequence[Wanted]) -> list[Found]:
        """Return the best items of each."""
        if self.index is None:
            return self.best_of_all(wanted)
        return [self._among(one, self.index) for one in wanted]

    def best_of_all(self, wanted: Sequence[Wanted]) -> list[Found]:
        """Return the best items of each, whatever an index proposes."""
        return self._top(self._scores, wanted, np.array([one.bias + self._mean for one in wanted]))

    def similar(self, wanted: Sequence[Wanted]) -> list[Found]:
        """Return the items of which the cosine with each vector is largest."""
        return self._top(self._cosines, wanted, None)

    def best_among(self, one: Wanted, columns: Columns) -> Found:
        """Return the best of some columns, each given once."""
        columns = columns[~np.isin(columns, one.excluded)]
        scores = self.scores(one.vector, one.bias, columns)
        order = np.lexsort((columns, -scores))[: one.n]
        return Found(columns[order], scores[order])

    def scores(self, vector: NDArray[np.float32], bias: float, columns: Columns) -> NDArray[np.float32]:
        """Return the scores of some columns."""
        return self._scores.scores(vector[None], columns[None], np.array([bias + self._mean]))[0]

    def _among(self, one: Wanted, index: ItemIndex) -> Found:
        found = self.best_among(one, index.propose(one.vector, one.n, len(one.excluded)))
        return found if len(found.columns) == one.n else self.best_of_all([one])[0]

    def _top(self, ranker: Ranker, wanted: Sequence[Wanted], bias: NDArray[np.float64] | None) -> list[Found]:
        indptr = np.cumsum([0, *(len(one.excluded) for one in wanted)])
        seen = indptr, np.concatenate([one.excluded for one in wanted])
        vectors = np.stack([one.vector for one in wanted])
        scores, columns = ranker.top(vectors, max(one.n for one in wanted), seen, bias=bias)
        return [_filled(columns[row, : one.n], scores[row, : one.n]) for row, one in enumerate(wanted)]


def _filled(columns: Columns, scores: NDArray[np.float32]) -> Found:
    n = int((columns >= 0).sum())
    return Found(columns[:n], scores[:n])
