"""Events of some users or items, at one version of the table: what a micro-batch needs of the history.

Tables in a folder or an object store are read by delta-rs in this process: of files and row groups it knows the
smallest and largest user, so those that cannot hold one are not opened, and no Spark job is planned. A catalog's tables
are read by Spark.
"""

from __future__ import annotations

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Config
from lakefactor.query.lake import Lake, encoded, reachable
from lakefactor.spark.tables import Tables
from lakefactor.types import Side

COLUMNS = ("event_id", "user_id", "item_id", "event_type", "value", "event_time", "ingested_at")
"""Of `events`: what strengths are made of."""


def events_of(spark: SparkSession, config: Config, side: Side, ids: pa.Array, version: int) -> pa.Table:
    """Return the rows of `events` of some users or items.

    The table is clustered by user first: of some items most of its files are read.

    Parameters
    ----------
    spark : SparkSession
    config : Config
    side : {"user", "item"}
    ids : pyarrow Array
        Each once.
    version : int
        Delta version of `events`.

    Returns
    -------
    pyarrow.Table
        ``COLUMNS``, in no particular order, as `learnable` gives them.
    """
    key = f"{side}_id"
    if reachable(config.tables):
        return Lake(config.tables).of_ids("events", COLUMNS, key, ids, version)
    rows = rows_of(spark, Tables(spark, config.tables).read("events", version), key, ids)
    return learnable(rows.select(*COLUMNS).toArrow())


def rows_of(spark: SparkSession, rows: DataFrame, key: str, ids: pa.Array) -> DataFrame:
    """Return the rows whose `key` is one of some ids, few enough to be sent to every executor."""
    wanted = F.broadcast(spark.createDataFrame(pa.table({key: ids})))
    return rows.join(wanted, key, "left_semi").select(*rows.columns)  # a join puts its key first


def events_since(tables: Tables, after: int, until: int) -> pa.Table:
    """Return the events that commits after version ``after``, up to and with a later ``until``, have appended.

    ``COLUMNS``, as `learnable` gives them.

    Raises
    ------
    TableError
        The log of the table no longer holds these commits.
    """
    return learnable(tables.changes("events", after + 1, until).select(*COLUMNS).toArrow())


def learnable(events: pa.Table) -> pa.Table:
    """Return ``COLUMNS`` of rows of `events` that Spark gave, texts dictionary-encoded."""
    return encoded(events.select(COLUMNS))
