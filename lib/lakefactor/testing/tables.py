"""Put rows straight into tables, for tests of the pipelines that read them."""

from __future__ import annotations

import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Config
from lakefactor.contracts import IdType
from lakefactor.spark.tables import Tables


def write_interactions(spark: SparkSession, config: Config, table: pa.Table) -> Tables:
    """Make ``interactions`` hold exactly ``user_id, item_id, strength`` and, where given, ``last_event_time``."""
    tables = Tables(spark, config.tables)
    types: list[IdType] = [
        "long" if pa.types.is_integer(table[column].type) else "string" for column in ("user_id", "item_id")
    ]
    tables.ensure("interactions", *types)
    rows = spark.createDataFrame(table).withColumn("n_events", F.lit(1).cast("bigint"))
    if "last_event_time" not in rows.columns:
        rows = rows.withColumn("last_event_time", F.lit(None).cast("timestamp"))
    tables.overwrite("interactions", rows, {})
    return tables


def taste_groups(n_users: int = 60, n_items: int = 24, groups: int = 3) -> pa.Table:
    """Return users who know two thirds of their own group's items: the rest of the group is the right recommendation.

    User u belongs to group u % groups and lacks the items whose number within the group leaves remainder u % 3.
    """
    rows = [
        (f"u{user:03d}", f"i{item:03d}", 1.0 + (user + item) % 3)
        for user in range(n_users)
        for item in range(n_items)
        if item % groups == user % groups and (item // groups) % 3 != (user // groups) % 3
    ]
    users, items, strengths = zip(*rows, strict=True)
    return pa.table({"user_id": users, "item_id": items, "strength": pa.array(strengths, pa.float64())})
