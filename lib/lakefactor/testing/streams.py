"""Run a stream's source to its end, for tests of what its micro-batches hold."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from lakefactor.config import Config
from lakefactor.spark.stream_checkpoint import checkpoint_of
from lakefactor.spark.stream_refusals import explained
from lakefactor.spark.stream_rows import COMMIT
from lakefactor.spark.stream_source import Source, open_source

NOW = datetime(2026, 1, 2, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Batch:
    """What a micro-batch held; rows as dictionaries in one order, without the time of their writing."""

    number: int
    events: list[dict[str, Any]]
    rejects: list[dict[str, Any]]
    read: int
    duplicates: int
    reasons: dict[str, int]
    appended: bool


def streaming(config: Config, source: str, name: str = "stream", **changes: Any) -> Config:
    """Return `config` with a stream of `source` that has other settings changed as well."""
    stream = config.stream.model_copy(update={"name": name, "source": source, **changes})
    return Config(**{**dict(config), "stream": stream})


def drain(spark: SparkSession, config: Config, starting_version: int = 0, source: Source | None = None) -> list[Batch]:
    """Run the stream until nothing is left, and return its micro-batches; raise what refuses one."""
    source = source or open_source(spark, config, starting_version)
    batches: list[Batch] = []
    refusals: list[BaseException] = []

    def take(frame: DataFrame, number: int) -> None:
        try:
            rows = source.batch(frame, number, NOW)
        except BaseException as error:
            refusals.append(error)
            raise
        try:
            events = in_order(rows.events)
            rejects = [] if rows.rejects is None else in_order(rows.rejects)
            assert rows.read == len(events) + rows.duplicates + len(rejects)
            assert rows.rejected == len(rejects)
            assert len({event["event_id"] for event in events}) == len(events)
            batches.append(Batch(number, events, rejects, rows.read, rows.duplicates, rows.reasons, rows.appended))
        finally:
            rows.unpersist()

    writer = source.frame().writeStream.foreachBatch(take).option("checkpointLocation", checkpoint_of(config))
    try:
        writer.trigger(availableNow=True).start().awaitTermination()
    except Exception as error:
        raise (*refusals, explained(error, config) or error)[0] from error
    return batches


def in_order(frame: DataFrame) -> list[dict[str, Any]]:
    """Return rows of `events` or `rejects` in one order, without the time of their writing."""
    rows = (row.asDict() for row in frame.drop("ingested_at", "rejected_at", COMMIT).collect())
    return sorted(rows, key=repr)
