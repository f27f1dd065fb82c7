"""Ranked lists of all users and items, made in executors against a broadcast catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Recommend
from lakefactor.factorization.catalogue import Catalogue
from lakefactor.factorization.lists import BLOCK_ROWS, SimilarItems, TopItems
from lakefactor.spark.resources import task_device


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
    catalogue, mean, config
        As for `TopItems`.

    Returns
    -------
    DataFrame
        ``user_id, position, item_id, score``. Lazy.
    """
    user_type = dict(users.dtypes)["user_id"]
    items_of = f"array<{_spark_type(catalogue.ids.type)}>"
    if seen is None:
        with_seen = users.withColumn("seen", F.lit(None).cast(items_of))
    else:
        lists = seen.groupBy("user_id").agg(F.collect_list("item_id").alias("seen"))
        with_seen = users.join(lists, "user_id", "left")
    shared = users.sparkSession.sparkContext.broadcast(catalogue)

    def on_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        top = TopItems(shared.value, mean, config, task_device() or "cpu")
        for batch in batches:
            yield from top.of(batch)

    schema = f"user_id {user_type}, position int, item_id {_spark_type(catalogue.ids.type)}, score float"
    return with_seen.select("user_id", "factors", "bias", "seen").mapInArrow(on_partition, schema)


def similar_items(spark: SparkSession, catalogue: Catalogue, n: int, item_type: str) -> DataFrame:
    """Return each item's most similar items.

    Parameters
    ----------
    spark : SparkSession
    catalogue : Catalogue
    n : int
        Similar items per item.
    item_type : str
        Spark type of item ids.

    Returns
    -------
    DataFrame
        ``item_id, position, similar_item_id, similarity``. Lazy.
    """
    shared = spark.sparkContext.broadcast(catalogue)
    m = len(catalogue.ids)
    blocks = -(-m // BLOCK_ROWS)

    def on_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        similar = SimilarItems(shared.value)
        for batch in batches:
            for block in batch["id"].to_pylist():
                yield from similar.of(np.arange(block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, m)), n)

    schema = f"item_id {item_type}, position int, similar_item_id {item_type}, similarity float"
    partitions = min(blocks, spark.sparkContext.defaultParallelism)
    return spark.range(0, blocks, 1, partitions).mapInArrow(on_partition, schema)


def _spark_type(arrow_type: pa.DataType) -> str:
    return "bigint" if pa.types.is_integer(arrow_type) else "string"
