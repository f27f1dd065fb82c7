"""Refresh: the lists of the users and items that a micro-batch changed, and no others.

Scored in the driver, which is faster than a Spark job for as many users as a micro-batch has; one commit per table.
What else a changed item alters is left to the next `recommend`: its place in the lists of those that did not change.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Config
from lakefactor.factorization.catalogue import Catalogue
from lakefactor.factorization.lists import SimilarItems, TopItems
from lakefactor.pipelines.interactions import kept_pairs
from lakefactor.pipelines.models import newest
from lakefactor.spark.catalogue import collect_catalogue, with_categories
from lakefactor.spark.live_factors import read_factors
from lakefactor.spark.tables import Tables
from lakefactor.spark.touched import rows_of

LISTS = ("recommendations", "similar_items")


class RefreshResult(BaseModel):
    """What was refreshed.

    Attributes
    ----------
    model_version : str
    users, items : int
        Users whose recommendations, and items whose similar items, were replaced.
    missing : tuple of str
        Tables that do not exist yet, so nothing was done for them: 'lakefactor recommend' makes them.
    """

    model_config = ConfigDict(frozen=True)

    model_version: str
    users: int = 0
    items: int = 0
    missing: tuple[str, ...] = ()


def refresh(spark: SparkSession, config: Config, model_version: str, users: pa.Array, items: pa.Array) -> RefreshResult:
    """Recompute ``recommendations`` of some users and ``similar_items`` of some items from the tables.

    A stream, which has all of this in memory, calls `replace_recommendations` and `replace_similar_items` itself.

    Parameters
    ----------
    spark : SparkSession
    config : Config
        ``tables``, ``recommend``, and what makes interactions of events: what a user has seen comes from the user's
        events here and not from ``interactions``, which a stream does not change.
    model_version : str
    users, items : pyarrow Array
        Ids; those that the model does not know are passed over.
    """
    tables = Tables(spark, config.tables)
    if not any(map(tables.exists, LISTS)):
        return RefreshResult(model_version=model_version, missing=LISTS)
    catalogue = collect_catalogue(read_factors(tables, "item", model_version))
    factors = read_factors(tables, "user", model_version).select("user_id", "factors", "bias")
    rows = rows_of(spark, factors, "user_id", users)
    no_list = F.lit(None).cast(f"array<{dict(tables.read('item_factors').dtypes)['item_id']}>")
    if config.recommend.exclude_seen:
        pairs = kept_pairs(rows_of(spark, tables.read("events"), "user_id", users), config)
        rows = rows.join(pairs.groupBy("user_id").agg(F.collect_list("item_id").alias("seen")), "user_id", "left")
    else:
        rows = rows.withColumn("seen", no_list)
    mean = newest(tables, model_version).mean
    done = (
        replace_recommendations(spark, config, model_version, mean, catalogue, rows.toArrow()),
        replace_similar_items(spark, config, model_version, catalogue, items),
    )
    missing = tuple(table for table, count in zip(LISTS, done, strict=True) if count is None)
    return RefreshResult(model_version=model_version, users=done[0] or 0, items=done[1] or 0, missing=missing)


def replace_recommendations(
    spark: SparkSession, config: Config, model_version: str, mean: float, catalogue: Catalogue, users: pa.Table
) -> int | None:
    """Replace the lists of exactly these users in one commit.

    Parameters
    ----------
    spark : SparkSession
    config : Config
        ``tables`` and ``recommend``. Where ``recommend.users`` is set, the others get no lists.
    model_version : str
    mean : float
        Global mean that is part of a predicted rating (0 for implicit models).
    catalogue : Catalogue
        All items.
    users : pyarrow Table
        ``user_id, factors, bias, seen``, each user once; ``seen`` are lists of the item ids to leave out.

    Returns
    -------
    int or None
        How many users; None: there is no table yet, and nothing was done.
    """
    tables = Tables(spark, config.tables)
    if not tables.exists("recommendations"):
        return None
    if wanted := config.recommend.users:
        users = users.filter(pc.is_in(users["user_id"].cast(pa.string()), value_set=pa.array(wanted, pa.string())))
    top = TopItems(with_categories(tables, catalogue, config.recommend), mean, config.recommend)
    lists = [block for batch in users.combine_chunks().to_batches() for block in top.of(batch)]
    _replace(spark, tables, "recommendations", "user_id", users["user_id"], model_version, lists)
    return users.num_rows


def replace_similar_items(
    spark: SparkSession, config: Config, model_version: str, catalogue: Catalogue, items: pa.Array
) -> int | None:
    """Replace the similar items of exactly these items in one commit; items outside the catalogue are passed over.

    Returns
    -------
    int or None
        How many items (0 where ``recommend.similar_n`` is 0); None: there is no table yet, and nothing was done.
    """
    tables = Tables(spark, config.tables)
    if not config.recommend.similar_n:
        return 0
    if not tables.exists("similar_items"):
        return None
    columns = np.unique(catalogue.columns_of(items)).astype(np.int64)
    columns = columns[columns >= 0]
    lists = SimilarItems(catalogue).of(columns, config.recommend.similar_n)
    _replace(spark, tables, "similar_items", "item_id", catalogue.ids.take(pa.array(columns)), model_version, lists)
    return len(columns)


def _replace(
    spark: SparkSession,
    tables: Tables,
    table: str,
    key: str,
    ids: pa.Array | pa.ChunkedArray,
    model_version: str,
    lists: Iterable[pa.RecordBatch],
) -> None:
    """Replace the rows of `ids` by `lists`."""
    if not len(ids):
        return
    rows = spark.createDataFrame(pa.Table.from_batches(lists)).coalesce(1)
    stamped = rows.select(
        F.lit(model_version).alias("model_version"), *rows.columns, F.current_timestamp().alias("created_at")
    )
    tables.replace_ids(table, stamped, model_version, key, ids.to_pylist())
