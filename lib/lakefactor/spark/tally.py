"""What executors count while they measure: sums by recommender, metric, segment and cut-off, and in every replicate.

A figure is a quotient of two sums over users, so sums of blocks and of partitions add up, and so do those of the
bootstrap's replicates. All travel as rows ``recommender, metric, segment, k, column, total, n``: the column is -1 for
the figure itself, a replicate's number for that replicate, and an item's column for how often lists show the item.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ALL = "all"
SHOWN = "shown"
FIGURE = -1

SCHEMA = "recommender string, metric string, segment string, k int, column int, total double, n bigint"
_ARROW = pa.schema(
    [
        ("recommender", pa.string()),
        ("metric", pa.string()),
        ("segment", pa.string()),
        ("k", pa.int32()),
        ("column", pa.int32()),
        ("total", pa.float64()),
        ("n", pa.int64()),
    ]
)

Key = tuple[str, str, str, int]
Masks = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Figure:
    """One figure: the mean of ``metric`` at cut-off ``k`` (0: none) over ``n`` users, positions, items or ratings.

    Attributes
    ----------
    recommender, metric, segment : str
    k : int
    value : float
    n : int
    replicates : float64 ndarray, shape (B,)
        The same in each replicate of the bootstrap. Empty without any, and where one drew nobody: of so few users no
        interval can be told.
    """

    recommender: str
    metric: str
    segment: str
    k: int
    value: float
    n: int
    replicates: NDArray[np.float64] = field(default_factory=lambda: np.empty(0), compare=False)


class Tally:
    """Running sums of one partition.

    Parameters
    ----------
    ks : sequence of int
    replicates : int
        Replicates B of the bootstrap.
    """

    def __init__(self, ks: Sequence[int], replicates: int) -> None:
        self.ks = ks
        self._sums: defaultdict[Key, NDArray[np.float64]] = defaultdict(lambda: np.zeros((2, 1 + replicates)))
        self._shown: dict[tuple[str, int], NDArray[np.int64]] = {}

    def begin(self, counts: NDArray[np.uint8], segments: Masks) -> None:
        """Begin a block of users.

        Parameters
        ----------
        counts : uint8 array, shape (b, B)
            How often each user counts in each replicate.
        segments : dict of str to bool array, shape (b,)
            Which users belong to which segment.
        """
        self._weights = np.column_stack([np.ones(len(counts)), counts])
        self._segments = {ALL: np.ones(len(counts), np.bool_), **segments}

    def add(self, recommender: str, metric: str, k: int, values: NDArray[np.float64]) -> None:
        """Add one value per user of the block; NaN says nothing about the user."""
        said = ~np.isnan(values)
        self.add_sums(recommender, metric, k, np.where(said, values, 0), said.astype(np.int64))

    def add_sums(self, recommender: str, metric: str, k: int, totals: NDArray[Any], ns: NDArray[Any]) -> None:
        """Add sums of each user of the block: of what is averaged, and over how many."""
        for segment, mask in self._segments.items():
            self._add((recommender, metric, segment, k), totals[mask], ns[mask], self._weights[mask])

    def add_segment(self, segment: str, recommender: str, metric: str, k: int, values: NDArray[np.float64]) -> None:
        """Add one value per user that speaks for a segment of items; NaN says nothing about it."""
        said = ~np.isnan(values)
        self._add((recommender, metric, segment, k), values[said], np.ones(said.sum(), np.int64), self._weights[said])

    def _add(self, key: Key, totals: NDArray[Any], ns: NDArray[Any], weights: NDArray[np.float64]) -> None:
        self._sums[key] += np.stack([totals, ns.astype(np.float64)]) @ weights

    def show(self, recommender: str, k: int, ranked: NDArray[np.int32], popularity: NDArray[np.int64]) -> None:
        """Note which items the first k positions of the block's lists hold, and how popular they are."""
        columns = ranked[:, :k]
        filled = columns >= 0
        totals = np.where(filled, popularity[columns], 0).sum(axis=1)
        self.add_sums(recommender, "mean_popularity", k, totals.astype(np.float64), filled.sum(axis=1))
        shown = self._shown.setdefault((recommender, k), np.zeros(len(popularity), np.int64))
        shown += np.bincount(columns[filled], minlength=len(popularity))

    def rows(self) -> Iterator[pa.RecordBatch]:
        """Yield all sums, as rows of SCHEMA."""
        for key, (totals, ns) in self._sums.items():
            yield _batch(key, np.arange(FIGURE, len(totals) - 1), totals, ns)
        for (recommender, k), counts in self._shown.items():
            columns = np.flatnonzero(counts)
            yield _batch((recommender, SHOWN, ALL, k), columns, counts[columns], counts[columns])


def figures(sums: pa.Table) -> Iterator[Figure]:
    """Return the figures that sums of all partitions amount to; those over nobody are left out.

    Parameters
    ----------
    sums : pyarrow Table
        SCHEMA, one row per key and column. Without the rows of SHOWN.
    """
    ordered = sums.sort_by([(name, "ascending") for name in ("recommender", "metric", "segment", "k", "column")])
    keys = list(zip(*(ordered[name].to_pylist() for name in ("recommender", "metric", "segment", "k")), strict=True))
    totals, ns = (ordered[name].to_numpy().astype(np.float64) for name in ("total", "n"))
    starts = [at for at, key in enumerate(keys) if at == 0 or key != keys[at - 1]]
    for start, end in zip(starts, [*starts[1:], len(keys)], strict=True):
        recommender, metric, segment, k = keys[start]
        if not ns[start]:
            continue
        last = end if ns[start:end].all() else start + 1
        values = totals[start:last] / ns[start:last]
        values = np.sqrt(values) if metric == "rmse" else values
        yield Figure(recommender, metric, segment, k, float(values[0]), int(ns[start]), values[1:])


def _batch(key: Key, columns: NDArray, totals: NDArray, ns: NDArray) -> pa.RecordBatch:
    names = [pa.array([part] * len(columns), kind) for part, kind in zip(key, _ARROW.types[:4], strict=True)]
    numbers = [columns.astype(np.int32), totals.astype(np.float64), np.rint(ns).astype(np.int64)]
    return pa.record_batch([*names, *map(pa.array, numbers)], schema=_ARROW)
