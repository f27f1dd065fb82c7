"""An index of the items for inner products: it proposes the items that may score best, and misses a few of them."""

from __future__ import annotations

from copy import copy
from math import isqrt
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lakefactor.client.loaded import Columns
from lakefactor.config import Serve
from lakefactor.factorization.catalogue import Catalogue

SAMPLE = 64
"""Items per cell that the cells are made from."""

FEWEST = 39
"""Items per cell below which faiss finds its cells not worth having."""


class ItemIndex:
    """Cells of similar items, one byte per factor (faiss's ``IVF,SQ8``).

    A bias is a factor more, of which every user has 1.

    Parameters
    ----------
    catalogue : Catalogue
    config : Serve
        How many items are proposed, and how many cells are looked into.

    Attributes
    ----------
    recall : float or None
        Share of the true 100 best items among the 100 that are answered, as measured; None: not measured.
    """

    def __init__(self, catalogue: Catalogue, config: Serve) -> None:
        import faiss

        vectors, m = catalogue.factors, len(catalogue.ids)
        self._biased = bool(catalogue.bias.any())
        if self._biased:
            vectors = np.column_stack([vectors, catalogue.bias])
        cells = max(1, min(isqrt(m), m // FEWEST))
        made = faiss.index_factory(vectors.shape[1], f"IVF{cells},SQ8", faiss.METRIC_INNER_PRODUCT)
        self._faiss = cast(Any, made)  # its stubs know nothing of cells
        sample = np.random.default_rng(0).permutation(m)[: SAMPLE * cells]
        self._faiss.train(np.ascontiguousarray(vectors[sample], np.float32))
        self._faiss.add(np.ascontiguousarray(vectors, np.float32))
        self._faiss.nprobe = max(1, round(config.approximate_share * cells))
        self._oversampling = config.approximate_candidates
        self._place: Columns = np.arange(m, dtype=np.int32)
        self._fresh: Columns = np.empty(0, np.int32)
        self.recall: float | None = None

    @property
    def staleness(self) -> float:
        """Share of the items that have changed since."""
        return len(self._fresh) / max(len(self._place), 1)

    def propose(self, vector: NDArray[np.float32], n: int, excluded: int) -> Columns:
        """Return columns, each once, that may be the n best when so many are left out."""
        query = np.append(vector, np.float32(1)) if self._biased else vector
        count = min(self._oversampling * n + excluded, len(self._place))
        found = self._faiss.search(np.ascontiguousarray(query[None], np.float32), count)[1][0]
        known = self._place[found[found >= 0]]
        return known if not len(self._fresh) else np.union1d(known, self._fresh).astype(np.int32)

    def updated(self, place: Columns | None, fresh: Columns) -> ItemIndex:
        """Return the same index where column c has become ``place[c]`` and some columns have other factors.

        These are proposed always.
        """
        other = copy(self)
        if place is not None:
            other._place, other._fresh = place[self._place], place[self._fresh]
        other._fresh = np.union1d(other._fresh, fresh).astype(np.int32)
        return other
