"""Alignment over retrainings: new factors turned toward those of another version, so that who reads them may go on.

A training finds its factors up to a rotation of all of them, which changes no score. Of all rotations the one is taken
that brings the items nearest to where they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame

from lakefactor.factorization.catalogue import as_lists, matrix

_PARTIAL = "cross array<double>, cosines double, n bigint"


@dataclass(frozen=True)
class Alignment:
    """How factors are turned.

    Attributes
    ----------
    rotation : float64 ndarray, shape (k, k)
        A row x becomes ``x R``.
    items : int
        Items that both versions have.
    cosine : float
        Mean cosine between an item's rows in both versions, after the rotation; 0 without items.
    """

    rotation: NDArray[np.float64]
    items: int
    cosine: float


def align(new: DataFrame, old: DataFrame, rank: int) -> Alignment:
    """Return the rotation that takes items nearest to where they were.

    Parameters
    ----------
    new, old : DataFrame
        ``item_id, factors``; rows of ``rank`` factors.
    rank : int
        k. The executors send k x k sums, one for each of their partitions.
    """
    from lakefactor.kernels.procrustes import nearest_rotation

    both = new.select("item_id", "factors").join(old.selectExpr("item_id", "factors AS old"), "item_id").persist()
    try:
        sums = both.mapInArrow(partial(_sums, np.eye(rank)), _PARTIAL).toArrow()
        cross = sum((np.array(part).reshape(rank, rank) for part in sums["cross"].to_pylist()), np.zeros((rank, rank)))
        rotation = nearest_rotation(cross)
        sums = both.mapInArrow(partial(_sums, rotation), _PARTIAL).toArrow()
    finally:
        both.unpersist()
    items = sum(sums["n"].to_pylist())
    return Alignment(rotation, items, sum(sums["cosines"].to_pylist()) / max(items, 1))


def rotated(rows: DataFrame, rotation: NDArray[np.float64]) -> DataFrame:
    """Return the rows with their ``factors`` turned."""
    return rows.mapInArrow(partial(_turn, rotation), rows.schema)


def _sums(rotation: NDArray[np.float64], batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    cross, cosines, n = np.zeros_like(rotation), 0.0, 0
    for batch in batches:
        if not batch.num_rows:
            continue
        new, old = (matrix(batch[name]).astype(np.float64) for name in ("factors", "old"))
        cross += new.T @ old
        lengths = np.linalg.norm(new, axis=1) * np.linalg.norm(old, axis=1)
        products = np.einsum("nk,nk->n", new @ rotation, old)
        cosines += float(np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0).sum())
        n += batch.num_rows
    yield pa.RecordBatch.from_pydict({"cross": [cross.ravel()], "cosines": [cosines], "n": [n]})


def _turn(rotation: NDArray[np.float64], batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if batch.num_rows:
            place = batch.schema.get_field_index("factors")
            turned = as_lists((matrix(batch["factors"]) @ rotation).astype(np.float32))
            field = batch.schema.field(place)
            batch = batch.set_column(place, field, turned.cast(field.type))
        yield batch
