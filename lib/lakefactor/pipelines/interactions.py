"""Interactions: one strength per user and item, from all events at one pinned version.

Events of a pair are ordered by event time; those without a time are the oldest, in the order in which they were
ingested. A delete removes what came before it, and what came at the same moment.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Config
from lakefactor.errors import InputError
from lakefactor.factorization.strengths import MICROS_PER_DAY, Span, settings_of
from lakefactor.spark.commits import commit_metadata
from lakefactor.spark.tables import Tables

PAIR = ("user_id", "item_id")


class InteractionsResult(BaseModel):
    """What the events amount to.

    Attributes
    ----------
    events_version, interactions_version : int
        Delta versions read and written.
    pairs : int
        Rows of `interactions`.
    removed : int
        Pairs that have events but no interaction: deleted, or (implicit feedback) without positive strength.
    users, items : int
        Different users and items in `interactions`.
    """

    model_config = ConfigDict(frozen=True)

    events_version: int
    interactions_version: int
    pairs: int
    removed: int
    users: int
    items: int


def run(spark: SparkSession, config: Config) -> InteractionsResult:
    """Write `interactions` from `events`, unless it was made from the same events in the same way before.

    Parameters
    ----------
    spark : SparkSession
    config : Config
        ``model`` decides between explicit and implicit feedback; ``interactions`` and ``ingest`` give scale, decay,
        weights and the delete type.

    Raises
    ------
    TableError
        There is no table `events`.
    InputError
        Implicit feedback: events have a type that ``ingest.event_weights`` does not know.

    Notes
    -----
    Explicit feedback: strength is the value of the last event. Implicit feedback:
    s = sum of weight[type] * value * 2^(-age / half_life), then log(1 + s / log_scale) where log_scale > 0; age is
    measured back from the newest event of the table, and an event without a time is as old as the oldest that has one.
    """
    tables = Tables(spark, config.tables)
    version = tables.version("events")
    tables.ensure("interactions", *tables.id_types("events"))
    made_from = {"events": tables.uid("events"), "events_version": version, "settings": settings_of(config)}
    recorded = commit_metadata(tables, "interactions")
    if recorded.get("made_from") != made_from or "span" not in recorded:
        events = tables.read("events", version)
        span = span_of(events)
        pairs = pairs_of(events, config, span).persist()
        try:
            recorded = {"made_from": made_from, "span": span.record(), "counts": _counts(pairs)}
            tables.overwrite("interactions", pairs.where("kept").drop("kept"), recorded)
        finally:
            pairs.unpersist()
    return InteractionsResult(
        events_version=version, interactions_version=tables.version("interactions"), **recorded["counts"]
    )


def kept_pairs(events: DataFrame, config: Config) -> DataFrame:
    """Return ``user_id, item_id`` of the pairs among some users' events that `run` would keep.

    All events of these users must be there. Which pairs are kept does not depend on the newest event of the table,
    from which decay is measured: it scales all events of a pair alike.
    """
    return pairs_of(events, config, span_of(events)).where("kept").select(*PAIR)


def span_of(events: DataFrame) -> Span:
    """Look at all rows of `events` for what they have in common."""
    found = events.agg(
        F.collect_set("event_type").alias("types"),
        F.unix_micros(F.min("event_time")).alias("oldest"),
        F.unix_micros(F.max("event_time")).alias("newest"),
    ).first()
    assert found is not None
    return Span(frozenset(found["types"]), found["oldest"], found["newest"])


def pairs_of(events: DataFrame, config: Config, span: Span, *by: str) -> DataFrame:
    """Return the columns of `interactions`, and whether the pair is `kept`, for every pair that has events.

    Parameters
    ----------
    events : DataFrame
        Rows of `events`; of a pair all that are to count.
    config : Config
    span : Span
        Of the events that times are measured against; of `events` itself for the table `interactions`.
    *by : str
        More columns that tell pairs apart; the result has them too.
    """
    explicit = config.feedback == "explicit"
    strength = _last_value() if explicit else _scaled_sum(span, config)
    pairs = (
        _with_counts(events, span, config.ingest.delete_event_type, [*PAIR, *by])
        .groupBy(*PAIR, *by)
        .agg(
            strength.alias("strength"),
            F.count_if("counts").alias("n_events"),
            F.max(F.when(F.col("counts"), F.col("event_time"))).alias("last_event_time"),
        )
    )
    kept = F.col("n_events") > 0 if explicit else F.coalesce(F.col("strength") > 0, F.lit(False))
    return pairs.withColumn("kept", kept)


def _with_counts(events: DataFrame, span: Span, delete: str, pair: list[str]) -> DataFrame:
    """Add an event's `place` in time, and whether it `counts`: it is after the last delete of its pair."""
    arrival = F.when(F.col("event_time").isNull(), F.col("ingested_at"))
    placed = events.withColumn("place", F.struct("event_time", arrival.alias("arrival")))
    if delete not in span.types:
        return placed.withColumn("counts", F.lit(True))
    is_delete = F.col("event_type") == delete
    last_deletes = placed.where(is_delete).groupBy(*pair).agg(F.max("place").alias("deleted_at"))
    counts = ~is_delete & (F.col("deleted_at").isNull() | (F.col("place") > F.col("deleted_at")))
    return placed.join(last_deletes, pair, "left").withColumn("counts", counts)


def _last_value() -> Column:
    """Return the value of a pair's last event; what was ingested later wins a tie of times."""
    return F.max_by("value", F.when(F.col("counts"), F.struct("place", "ingested_at", F.hex("event_id"))))


def _scaled_sum(span: Span, config: Config) -> Column:
    """Return the decayed, weighted, scaled sum of a pair's events."""
    weights = config.ingest.event_weights
    if unknown := sorted(span.types - {*weights, config.ingest.delete_event_type}):
        raise InputError(
            f"table events has events of type {', '.join(map(repr, unknown))}, which have no weight; "
            "add them to ingest.event_weights"
        )
    kind = F.col("event_type")
    share = F.coalesce(*(F.when(kind == name, weight) for name, weight in weights.items())) * F.col("value")
    half_life = config.interactions.half_life_days
    if half_life > 0 and span.newest is not None:
        time = F.coalesce(F.unix_micros("event_time"), F.lit(span.oldest))
        share = share * F.pow(F.lit(2.0), (time - span.newest) / (half_life * MICROS_PER_DAY))
    total = F.sum(F.when(F.col("counts"), share))
    epsilon = config.interactions.log_scale
    return F.log1p(total / epsilon) if epsilon > 0 else total


def _counts(pairs: DataFrame) -> dict[str, int]:
    """Count the pairs kept and removed, and the users and items of those kept."""
    kept = pairs.where("kept")
    numbers = pairs.agg(F.count(F.lit(1)).alias("all"), F.count_if("kept").alias("kept")).first()
    assert numbers is not None
    return {
        "pairs": numbers["kept"],
        "removed": numbers["all"] - numbers["kept"],
        "users": kept.select("user_id").distinct().count(),
        "items": kept.select("item_id").distinct().count(),
    }
