"""What makes an event *this* event, so that ingesting it again finds it instead of doubling it.

With a time, an event is its user, item, type, value and time: identical rows are one event delivered again, whatever
file they come from. Without a time, two identical rows are two events; what tells them apart is the source and the
row's number among the identical rows of that source. So counts add up, a source read again changes nothing, and a
source that has grown adds what is new. Where a row has a position in its source that never changes (a message's
offset), that takes the place of the number. Refused rows are told apart the same way.
"""

from __future__ import annotations

from datetime import datetime
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F


def count_identical(rows: DataFrame) -> DataFrame:
    """Count identical rows; those without a time and refused ones by source.

    Parameters
    ----------
    rows : DataFrame
        As `check_rows` returns them.

    Returns
    -------
    DataFrame
        The columns of `rows`, `copies` (identical rows, >= 1) and `events` (rows that they amount to). Where copies
        come from several sources, `source_hash` is the least of theirs; `position` is null where it does not matter.
    """
    rows_of_one_source = F.col("event_time").isNull() | F.col("reason").isNotNull()
    counted = (
        rows.withColumn("own_source", F.when(rows_of_one_source, F.col("source_hash")))
        .withColumn("position", F.when(rows_of_one_source, F.col("position")))
        .groupBy(
            "user_id", "item_id", "event_type", "value", "event_time", "reason", "content", "own_source", "position"
        )
        .agg(F.count(F.lit(1)).alias("copies"), F.min("source_hash").alias("source_hash"))
    )
    events = F.when(F.col("own_source").isNull(), 1).otherwise(F.col("copies"))
    return counted.select("*", events.alias("events")).drop("own_source")


def identified_events(counted: DataFrame, sources: DataFrame, now: datetime) -> DataFrame:
    """Return the rows of the table `events`, each with its id.

    Parameters
    ----------
    counted : DataFrame
        As `count_identical` returns them.
    sources : DataFrame
        ``source_hash, source``.
    now : datetime
        Becomes `ingested_at`.
    """
    rows = _each_once(counted.where("reason IS NULL"), sources)
    shared = [F.col("user_id"), F.col("item_id"), F.col("event_type"), *_exactly("value", "event_time")]
    own = F.when(F.col("event_time").isNull(), _join(F.col("source"), F.col("occurrence"))).otherwise("")
    return rows.select(
        _digest(*shared, own).alias("event_id"),
        *("user_id", "item_id", "event_type", "value", "event_time", "source"),
        F.lit(now).alias("ingested_at"),
    )


def identified_rejects(counted: DataFrame, sources: DataFrame, now: datetime) -> DataFrame:
    """Return the rows of the table `rejects`, each with its id; parameters as `identified_events`."""
    rows = _each_once(counted.where("reason IS NOT NULL"), sources)
    return rows.select(
        _digest(*map(F.col, ("source", "reason", "content", "occurrence"))).alias("reject_id"),
        *("source", "reason", "content"),
        F.lit(now).alias("rejected_at"),
    )


def _each_once(counted: DataFrame, sources: DataFrame) -> DataFrame:
    """Repeat every row `events` times, with `source` and `occurrence`: its position, else its number (1...)."""
    numbers = F.explode(F.sequence(F.lit(1), F.col("events").cast("bigint")))
    numbered = counted.select("*", numbers.alias("number"))
    numbered = numbered.withColumn("occurrence", F.coalesce("position", "number"))
    return numbered.join(F.broadcast(sources), "source_hash", "left")


def _exactly(value: str, time: str) -> tuple[Column, Column]:
    """Return texts that differ where values or times differ.

    The text of a double depends on the Java version; its 64-bit hash does not, and maps 64 bits one to one.
    """
    return F.xxhash64(value), F.coalesce(F.unix_micros(F.col(time)).cast("string"), F.lit(""))


def _digest(*parts: Column) -> Column:
    return F.unhex(F.md5(_join(*parts)))


def _join(*parts: Column) -> Column:
    """Join texts so that different parts never give the same text: each is preceded by its length."""
    texts = [part.cast("string") for part in parts]
    return reduce(F.concat, [F.concat(F.length(text).cast("string"), F.lit(":"), text) for text in texts])
