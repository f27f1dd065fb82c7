"""Where a stream's micro-batches come from: the change feed of `events`, a landing folder, or a Kafka topic."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Protocol

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Config
from lakefactor.errors import TableError
from lakefactor.spark.commits import commit_metadata
from lakefactor.spark.stream_checkpoint import claim, first_version
from lakefactor.spark.stream_raw import BYTES_PER_ROW, FileSource, KafkaSource
from lakefactor.spark.stream_refusals import BEGIN_AGAIN, explained
from lakefactor.spark.stream_rows import COMMIT, BatchRows
from lakefactor.spark.tables import Tables
from lakefactor.spark.user_rows import ERASURE


class Source(Protocol):
    """One of the sources."""

    def frame(self) -> DataFrame:
        """Return the stream, whose micro-batches have about ``stream.max_rows`` rows."""

    def batch(self, frame: DataFrame, batch_id: int, now: datetime) -> BatchRows:
        """Return the rows of micro-batch `batch_id`, given the (static) `frame` that foreachBatch gives.

        Repeated, it gives the same rows; only `now`, which becomes ``ingested_at`` and ``rejected_at``, differs.
        Where a row was read, the tables `events` and `rejects` exist afterwards. Call ``unpersist`` of the result when
        done with it.
        """


def open_source(spark: SparkSession, config: Config, starting_version: int = 0) -> Source:
    """Open the source that ``stream.source`` names.

    Parameters
    ----------
    spark : SparkSession
    config : Config
        ``stream``, ``ingest``, ``tables``.
    starting_version : int, optional
        First Delta version of `events` whose changes are read, of ``changes``; used only where there is no checkpoint.

    Raises
    ------
    InputError
        The landing folder or the table is not there, or is not what it should be.
    ConfigError
        The checkpoint belongs to another source.
    """
    claim(spark, config)
    # A second start of a stream in this application is refused; Spark's default is to stop the first one.
    spark.conf.set("spark.sql.streaming.stopActiveRunOnRestart", False)
    if config.stream.source == "files":
        return FileSource(spark, config)
    if config.stream.source == "kafka":
        return KafkaSource(spark, config)
    return ChangeSource(spark, config, starting_version)


def waiting(progress: str) -> int | None:
    """Return how many messages wait beyond a micro-batch, by its ``StreamingQueryProgress.json``.

    None where the source does not say: Spark knows the newest offset of Kafka alone.

    >>> waiting('{"sources": [{"endOffset": {"t": {"0": 3, "1": 5}}, "latestOffset": {"t": {"0": 7, "1": 5}}}]}')
    4
    """
    (source,) = json.loads(progress)["sources"]
    if not source.get("latestOffset"):
        return None
    newest, done = source["latestOffset"], source["endOffset"]
    return sum(
        offset - done.get(topic, {}).get(partition, 0)
        for topic, offsets in newest.items()
        for partition, offset in offsets.items()
    )


class ChangeSource:
    """What others append to `events`, by the table's change feed."""

    def __init__(self, spark: SparkSession, config: Config, starting_version: int) -> None:
        self._spark = spark
        self._config = config
        self._tables = Tables(spark, config.tables)
        self._starting_version = starting_version
        self._columns = self._tables.read("events").columns

    def frame(self) -> DataFrame:
        """Return the stream of changes; a commit is never split."""
        place = self._tables.path_or_name("events")
        # Or else a stream could not begin at the version after the newest, where nothing was appended since.
        self._spark.conf.set("spark.databricks.delta.changeDataFeed.timestampOutOfRange.enabled", True)
        reader = (
            self._spark.readStream.format("delta")
            .option("readChangeFeed", True)
            .option("failOnDataLoss", True)
            .option("maxBytesPerTrigger", self._config.stream.max_rows * self._bytes_per_row())
        )
        version = first_version(self._spark, self._config, self._starting_version)
        if version is not None:
            self._check_version(version)
            reader = reader.option("startingVersion", version)
        changes = reader.load(place) if self._config.tables.root else reader.table(place)
        return changes.select(*self._columns, "_change_type", COMMIT)

    def batch(self, frame: DataFrame, batch_id: int, now: datetime) -> BatchRows:
        """Return the events that were inserted.

        Raises
        ------
        TableError
            Events were updated or deleted, other than by `forget`.
        """
        changes = frame.persist()
        found = changes.groupBy("_change_type").agg(
            F.count("*").alias("rows"),
            F.min(COMMIT).alias("version"),
            F.max(COMMIT).alias("last"),
        )
        try:
            by_type = {row["_change_type"]: row for row in found.collect()}
        except (PySparkException, Py4JJavaError) as error:
            changes.unpersist()
            raise explained(error, self._config) or error from error
        inserted = by_type.pop("insert", None)
        if by_type and not self._are_erasures(changes):
            changes.unpersist()
            version = min(row["version"] for row in by_type.values())
            raise TableError(
                f"table events at {self._tables.path_or_name('events')} was changed in version {version}: rows were "
                f"{' and '.join(sorted({kind.partition('_')[0] + 'd' for kind in by_type}))}, and a stream learns only "
                f"from events that are added (an event of the delete type takes a pair back); {BEGIN_AGAIN}"
            )
        events = changes.where("_change_type = 'insert'").select(*self._columns, COMMIT)
        read = inserted["rows"] if inserted else 0
        last = inserted["last"] if inserted else None
        return BatchRows(events, None, read, 0, {}, appended=True, version=last, persisted=(changes,))

    def _are_erasures(self, changes: DataFrame) -> bool:
        """Tell whether all that was changed or deleted was deleted by `forget`."""
        versions = changes.where("_change_type <> 'insert'").select(COMMIT).distinct().collect()
        return all(ERASURE in commit_metadata(self._tables, "events", row[COMMIT]) for row in versions)

    def _check_version(self, version: int) -> None:
        newest = self._tables.version("events")
        if version > newest + 1:
            raise TableError(
                f"the stream was to start at version {version} of table events at {self._tables.path_or_name('events')}"
                f", whose newest version is {newest}: it is not the table that the model was trained on; {BEGIN_AGAIN}"
            )

    def _bytes_per_row(self) -> int:
        """Return what an event takes in the table's files, about."""
        detail = self._spark.sql(f"DESCRIBE DETAIL {self._tables.sql_name('events')}").first()
        rows = self._tables.read("events").count()  # of the files' statistics; no file is opened
        return max(1, int(detail["sizeInBytes"] / rows)) if detail and rows else BYTES_PER_ROW
