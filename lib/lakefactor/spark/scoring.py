"""Score users against a broadcast catalogue by blocked matrix products, in executors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Recommend
from lakefactor.factorization.catalogue import Catalogue, csr_columns, known_only, matrix

SIMILAR_BLOCK_ROWS = 1024


def top_items(
    users: DataFrame, seen: DataFrame | None, catalogue: Catalogue, mean: float, config: Recommend
) -> DataFrame:
    """Return each user's best items.

    Parameters
    ----------
    users : DataFrame
        ``user_id, factors, bias``.
    seen : DataFrame or None
        ``user_id, item_id`` pairs to leave out.
    catalogue : Catalogue
    mean : float
        Global mean that is part of a predicted rating (0 for implicit models).
    config : Recommend
        ``n``, allow and deny lists, block sizes.

    Returns
    -------
    DataFrame
        ``user_id, position`` (1 is best)``, item_id, score``; ties are in order of item id. Lazy.
    """
    user_type = dict(users.dtypes)["user_id"]
    items_of = f"array<{_spark_type(catalogue.ids.type)}>"
    if seen is None:
        with_seen = users.withColumn("seen", F.lit(None).cast(items_of))
    else:
        lists = seen.groupBy("user_id").agg(F.collect_list("item_id").alias("seen"))
        with_seen = users.join(lists, "user_id", "left")
    allowed = allowed_items(catalogue, config)
    shared = users.sparkSession.sparkContext.broadcast((catalogue, allowed))

    def on_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        catalogue, allowed = shared.value
        for batch in batches:
            yield from top_of_users(batch, catalogue, allowed, mean, config)

    schema = f"user_id {user_type}, position int, item_id {_spark_type(catalogue.ids.type)}, score float"
    return with_seen.select("user_id", "factors", "bias", "seen").mapInArrow(on_partition, schema)


def similar_items(spark: SparkSession, catalogue: Catalogue, n: int, item_type: str) -> DataFrame:
    """Return each item's most similar items by the cosine of their factors.

    Parameters
    ----------
    spark : SparkSession
    catalogue : Catalogue
    n : int
        Similar items per item; the item itself is left out.
    item_type : str
        Spark type of item ids.

    Returns
    -------
    DataFrame
        ``item_id, position, similar_item_id, similarity`` in [-1, 1]. Lazy.
    """
    shared = spark.sparkContext.broadcast((catalogue.ids, directions(catalogue)))
    blocks = -(-len(catalogue.ids) // SIMILAR_BLOCK_ROWS)

    def on_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        ids, toward = shared.value
        for batch in batches:
            for block in batch["id"].to_pylist():
                rows = np.arange(block * SIMILAR_BLOCK_ROWS, min((block + 1) * SIMILAR_BLOCK_ROWS, len(ids)))
                yield similar_of_items(rows, ids, toward, n)

    schema = f"item_id {item_type}, position int, similar_item_id {item_type}, similarity float"
    partitions = min(blocks, spark.sparkContext.defaultParallelism)
    return spark.range(0, blocks, 1, partitions).mapInArrow(on_partition, schema)


def top_of_users(
    users: pa.RecordBatch, catalogue: Catalogue, allowed: NDArray[np.bool_] | None, mean: float, config: Recommend
) -> Iterator[pa.RecordBatch]:
    """Yield the best items of some users, block by block, in this process.

    Parameters
    ----------
    users : pyarrow RecordBatch
        ``user_id, factors, bias, seen``; ``seen`` holds lists of item ids, null or empty where nothing is left out.
    catalogue, mean, config
        As for `top_items`.
    allowed : bool ndarray, shape (m,), or None
        As `allowed_items` returns it.
    """
    for start in range(0, users.num_rows, config.user_block_rows):
        yield _top_of_block(users.slice(start, config.user_block_rows), catalogue, allowed, mean, config)


def similar_of_items(rows: NDArray[np.int64], ids: pa.Array, toward: NDArray[np.float32], n: int) -> pa.RecordBatch:
    """Return the items most similar to some rows of the catalogue, in this process.

    Parameters
    ----------
    rows : int64 ndarray
        Row numbers in the catalogue, ascending.
    ids : pyarrow Array, length m
        Ids of the catalogue.
    toward : float32 ndarray, shape (m, k)
        Its `directions`.
    n : int
        Similar items per item.
    """
    from lakefactor.kernels import top_n

    itself = (np.arange(len(rows) + 1), rows.astype(np.int32))
    scores, columns = top_n(toward[rows], toward, None, n, *itself)
    names = ["item_id", "position", "similar_item_id", "similarity"]
    return _ranked(ids.take(pa.array(rows)), ids, np.clip(scores, -1, 1), columns, names)


def directions(catalogue: Catalogue) -> NDArray[np.float32]:
    """Return item factors divided by their length, float32, shape (m, k); zeros stay zeros."""
    norms = np.linalg.norm(catalogue.factors, axis=1, keepdims=True)
    return (catalogue.factors / np.where(norms > 0, norms, 1)).astype(np.float32)


def allowed_items(catalogue: Catalogue, config: Recommend) -> NDArray[np.bool_] | None:
    """Return which items may be recommended, bool, shape (m,); None: all."""
    if not config.allow_items and not config.deny_items:
        return None
    allowed = catalogue.mask(config.allow_items) if config.allow_items else np.ones(len(catalogue.ids), dtype=bool)
    return allowed & ~catalogue.mask(config.deny_items)


def _top_of_block(
    batch: pa.RecordBatch, catalogue: Catalogue, allowed: NDArray[np.bool_] | None, mean: float, config: Recommend
) -> pa.RecordBatch:
    from lakefactor.kernels import top_n

    indptr, indices, _ = known_only(*csr_columns(batch["seen"], catalogue)[:2])
    scores, columns = top_n(
        matrix(batch["factors"]),
        catalogue.factors,
        catalogue.bias,
        config.n,
        indptr,
        indices,
        allowed,
        config.item_block_rows,
    )
    scores += np.float32(mean) + batch["bias"].to_numpy(zero_copy_only=False)[:, None]
    return _ranked(batch["user_id"], catalogue.ids, scores, columns, ["user_id", "position", "item_id", "score"])


def _ranked(
    of: pa.Array, ids: pa.Array, scores: NDArray[np.float32], columns: NDArray[np.int32], names: list[str]
) -> pa.RecordBatch:
    """Return one row per filled position of ranked lists."""
    rows, positions = np.nonzero(columns >= 0)
    arrays = [
        of.take(pa.array(rows)),
        pa.array(positions.astype(np.int32) + 1),
        ids.take(pa.array(columns[rows, positions])),
        pa.array(scores[rows, positions]),
    ]
    return pa.record_batch(arrays, names=names)


def _spark_type(arrow_type: pa.DataType) -> str:
    return "bigint" if pa.types.is_integer(arrow_type) else "string"
