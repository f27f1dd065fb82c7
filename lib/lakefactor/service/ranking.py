"""All items of a catalogue ranked for whoever asks: exactly, or among what an index proposes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lakefactor.client.loaded import Columns, LoadedModel
from lakefactor.config import Recommend
from lakefactor.kernels import Ranker
from lakefactor.kernels.topk import Ranked, Seen
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
    """Ranks the items of one catalogue, under the rules of a configuration.

    Parameters
    ----------
    model : LoadedModel
    rules : Recommend
    index : ItemIndex or None
        Proposes items for recommendations; None: all items are looked at. Scores are the same numbers either way.
    """

    def __init__(self, model: LoadedModel, rules: Recommend, index: ItemIndex | None = None) -> None:
        self.index = index
        self._mean, self._top = model.mean, model.top.under(rules)
        self._cosines = Ranker(model.catalogue.factors, cosine=True)

    @property
    def allowed(self) -> NDArray[np.bool_] | None:
        """Which items the rules allow; None: all."""
        return self._top.allowed

    @property
    def is_nested(self) -> bool:
        """Whether a list is the beginning of every longer one, so that lists of any lengths are made together."""
        return self._top.is_nested

    def best(self, wanted: Sequence[Wanted]) -> list[Found]:
        """Return the best items of each."""
        if self.index is None:
            return self.best_of_all(wanted)
        return [self._proposed(one, self.index) for one in wanted]

    def best_of_all(self, wanted: Sequence[Wanted]) -> list[Found]:
        """Return the best items of each, whatever an index proposes."""
        bias = np.array([one.bias + self._mean for one in wanted])
        vectors, seen, n = _together(wanted)
        return _apart(wanted, self._top.best(vectors, bias, seen, n))

    def similar(self, wanted: Sequence[Wanted]) -> list[Found]:
        """Return the items of which the cosine with each vector is largest."""
        vectors, seen, n = _together(wanted)
        return _apart(wanted, self._cosines.top(vectors, n, seen))

    def best_among(self, one: Wanted, columns: Columns) -> Found:
        """Return the best of some columns, each given once."""
        bias = one.bias + self._mean
        return _apart([one], self._top.best_among(one.vector, bias, columns, one.excluded, one.n))[0]

    def scores(self, vector: NDArray[np.float32], bias: float, columns: Columns) -> NDArray[np.float32]:
        """Return the scores of some columns."""
        return self._top.scores(vector, bias, columns)

    def _proposed(self, one: Wanted, index: ItemIndex) -> Found:
        found = self.best_among(one, index.propose(one.vector, self._top.candidates(one.n), len(one.excluded)))
        return found if len(found.columns) == one.n else self.best_of_all([one])[0]


def _together(wanted: Sequence[Wanted]) -> tuple[NDArray[np.float32], Seen, int]:
    """Return the vectors, CSR rows of columns to leave out, and the longest list that is wanted."""
    indptr = np.cumsum([0, *(len(one.excluded) for one in wanted)])
    vectors = np.stack([one.vector for one in wanted])
    return vectors, (indptr, np.concatenate([one.excluded for one in wanted])), max(one.n for one in wanted)


def _apart(wanted: Sequence[Wanted], ranked: Ranked) -> list[Found]:
    """Return to each what is its."""
    found = []
    for one, scores, columns in zip(wanted, *ranked, strict=True):
        n = min(one.n, int((columns >= 0).sum()))
        found.append(Found(columns[:n], scores[:n]))
    return found
