"""Events of some users, at one version of the table: what a micro-batch needs of the history.

Where the tables lie under a root, delta-rs reads them in this process: of files and row groups it knows the smallest
and largest user, so most are never opened, and no Spark job is planned. A catalog's tables are read by Spark.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Config
from lakefactor.query.lake import Lake
from lakefactor.spark.tables import Tables


def events_of_users(spark: SparkSession, config: Config, users: pa.Array, version: int) -> pa.Table:
    """Return the rows of `events` of some users.

    Parameters
    ----------
    spark : SparkSession
    config : Config
    users : pyarrow Array
        Ids, each once.
    version : int
        Delta version of `events`.

    Returns
    -------
    pyarrow.Table
        All columns of `events`, in no particular order.
    """
    if config.tables.root:
        events = Lake(config.tables).dataset("events", version=version)
        return events.to_table(filter=pc.field("user_id").isin(users))
    return rows_of(spark, Tables(spark, config.tables).read("events", version), "user_id", users).toArrow()


def events_of_items(
    spark: SparkSession, tables: Tables, items: pa.Array, version: int, new: pa.Table | None
) -> DataFrame:
    """Return the rows of `events` of some items, and those of ``new`` events that are not in the table yet.

    The table is clustered by user first, so most of its files are read.
    """
    events = tables.read("events", version)
    if new is not None:
        events = events.unionByName(spark.createDataFrame(new).select(*events.columns))
    return rows_of(spark, events, "item_id", items)


def rows_of(spark: SparkSession, rows: DataFrame, key: str, ids: pa.Array) -> DataFrame:
    """Return the rows whose `key` is one of some ids, few enough to be sent to every executor."""
    wanted = F.broadcast(spark.createDataFrame(pa.table({key: ids})))
    return rows.join(wanted, key, "left_semi").select(*rows.columns)  # a join puts its key first


def events_since(tables: Tables, after: int, until: int) -> pa.Table:
    """Return the events that commits after version ``after``, up to and with ``until``, have appended.

    All columns of `events`.

    Raises
    ------
    TableError
        The log of the table no longer holds these commits.
    """
    events = tables.read("events")
    if after >= until:
        return events.limit(0).toArrow()
    return tables.changes("events", after + 1, until).select(*events.columns).toArrow()
