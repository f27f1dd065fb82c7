"""Where a stream's micro-batches come from: the change feed of `events`, a landing folder, or a Kafka topic.

A file that is streamed and a file that is ingested give the same events and rejects with the same ids: the stream of a
landing folder is a stream of file *names*, and a micro-batch reads its files as an ingest does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Config
from lakefactor.contracts import IdType, load
from lakefactor.errors import ConfigError, InputError, TableError
from lakefactor.spark.files import check_folder, group_files, missing_files, without_patterns
from lakefactor.spark.judging import JudgedRows, judge_rows
from lakefactor.spark.sources import RawRows, decide_id_types, read_files, read_messages
from lakefactor.spark.stream_checkpoint import first_version, planned_files
from lakefactor.spark.stream_refusals import BEGIN_AGAIN, explained
from lakefactor.spark.tables import Tables

BYTES_PER_ROW = 40
"""Of a file with one short line per event, or of a small Parquet file; only how many files make a micro-batch."""


@dataclass(frozen=True)
class BatchRows:
    """The rows of a micro-batch.

    Attributes
    ----------
    events : DataFrame
        The columns of table `events`; every event_id once.
    rejects : DataFrame or None
        The columns of table `rejects`; None where no row was refused.
    read : int
        Rows that arrived.
    duplicates : int
        Rows that repeat another row of the micro-batch.
    reasons : dict of str to int
        Refused rows by reason.
    appended : bool
        Whether the events are in the table `events` already.
    version : int or None
        Version of `events` that holds them and no later ones, where they are appended already.
    """

    events: DataFrame
    rejects: DataFrame | None
    read: int
    duplicates: int
    reasons: dict[str, int]
    appended: bool
    version: int | None = None
    persisted: tuple[DataFrame, ...] = ()

    @property
    def rejected(self) -> int:
        """Refused rows."""
        return sum(self.reasons.values())

    def unpersist(self) -> None:
        """Let go of what Spark keeps of the rows; `events` and `rejects` are computed anew when asked for again."""
        for frame in self.persisted:
            frame.unpersist()


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
    """
    if config.stream.source == "files":
        return FileSource(spark, config)
    if config.stream.source == "kafka":
        return KafkaSource(spark, config)
    return ChangeSource(spark, config, starting_version)


class FileSource:
    """New files of a landing folder and the folders below it.

    Files must come whole (written elsewhere on the same file system, then moved), and stay until their micro-batch is
    done. A file is read once; one that grows is not read again. Empty files are left out.
    """

    def __init__(self, spark: SparkSession, config: Config) -> None:
        if config.ingest.format == "delta":
            raise ConfigError("stream.source files reads files, but ingest.format is delta; correct one of them")
        self._spark = spark
        self._config = config
        self._folder = check_folder(spark, config.stream.path, config.ingest.format)
        self._ids = _IdTypes(config)

    def frame(self) -> DataFrame:
        """Return the stream of the files' names; no file is opened."""
        files = (
            self._spark.readStream.format("binaryFile")
            .schema("path string, modificationTime timestamp, length bigint, content binary")
            .option("recursiveFileLookup", True)
            .option("maxBytesPerTrigger", self._config.stream.max_rows * BYTES_PER_ROW)
            .option("maxFileAge", "36500d")  # or else files moved here with an old time stamp are passed over
            .load(without_patterns(self._folder))
        )
        uri = files.metadataColumn("_metadata").getField("file_path")
        return files.select("path", uri.alias("uri"))

    def batch(self, frame: DataFrame, batch_id: int, now: datetime) -> BatchRows:
        """Read the files of a micro-batch as an ingest reads files."""
        spark, ingest = frame.sparkSession, self._config.ingest
        files = sorted({(row["path"], row["uri"]) for row in frame.collect()})  # Spark repeats those with brackets
        self._check_presence(spark, batch_id, {path for path, _ in files})
        try:
            sets = group_files([path for path, _ in files], ingest.format, self._folder)
            raw = [rows for one_format in sets for rows in read_files(spark, ingest, one_format)]
            if not raw:
                return _no_rows(spark)
            id_types = self._ids.of(Tables(spark, self._config.tables), raw)
            names = spark.createDataFrame(files, "source string, uri string")
            sources = names.select(F.xxhash64("uri").alias("source_hash"), "source")
            judged = judge_rows(raw, sources, ingest, id_types, now)
        except InputError as error:
            raise InputError(
                f"{error}; micro-batch {batch_id} waits for this: correct the configuration or the file in its place, "
                "or put an empty file in its place, and start the stream again"
            ) from error
        return _batch_rows(judged)

    def _check_presence(self, spark: SparkSession, batch_id: int, found: set[str]) -> None:
        """Refuse a micro-batch whose files have gone: Spark passes over them, as it does over empty ones."""
        planned = planned_files(spark, self._config, batch_id)
        if len(found) == len(planned):
            return
        if gone := [path for path in missing_files(spark, planned) if path not in found]:
            raise InputError(
                f"{len(gone)} of the {len(planned)} files of micro-batch {batch_id} have gone from the landing folder "
                "before they were read; put them back, or empty files in their places, and start the stream again; "
                f"they are {', '.join(gone[:20])}{', ...' if len(gone) > 20 else ''}"
            )


class KafkaSource:
    """Messages of a Kafka topic, each a JSON object with the columns of a JSON line.

    A message is one event of the source ``kafka:topic/partition``. A first start reads the topic from its beginning,
    unless ``stream.kafka_options`` has another ``startingOffsets``.
    """

    def __init__(self, spark: SparkSession, config: Config) -> None:
        self._spark = spark
        self._config = config
        self._ids = _IdTypes(config)

    def frame(self) -> DataFrame:
        """Return the stream of messages."""
        stream = self._config.stream
        options = {
            "startingOffsets": "earliest",
            **stream.kafka_options,
            "kafka.bootstrap.servers": stream.kafka_servers,
            "subscribe": stream.kafka_topic,
            "maxOffsetsPerTrigger": str(stream.max_rows),
            "failOnDataLoss": "true",
        }
        messages = self._spark.readStream.format("kafka").options(**options).load()
        return messages.select("partition", "offset", F.make_valid_utf8(F.col("value").cast("string")).alias("text"))

    def batch(self, frame: DataFrame, batch_id: int, now: datetime) -> BatchRows:
        """Read the messages of a micro-batch as an ingest reads JSON lines."""
        spark, config = frame.sparkSession, self._config
        messages = frame.persist()
        try:
            found = (
                messages.select("partition", F.explode_outer(F.json_object_keys("text")).alias("key"))
                .agg(F.collect_set("partition").alias("partitions"), F.collect_set("key").alias("keys"))
                .collect()[0]
            )
            if not found["partitions"]:
                return _no_rows(spark)
            topic = config.stream.kafka_topic
            raw = [read_messages(messages, topic, found["keys"], config.ingest)]
            id_types = self._ids.of(Tables(spark, config.tables), raw)
            partitions = sorted(found["partitions"])
            names = spark.createDataFrame([(f"kafka:{topic}/{number}",) for number in partitions], "source string")
            sources = names.select(F.xxhash64("source").alias("source_hash"), "source")
            return _batch_rows(judge_rows(raw, sources, config.ingest, id_types, now))
        except (PySparkException, Py4JJavaError) as error:
            raise explained(error, config) or error from error
        finally:
            messages.unpersist()


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
        return changes.select(*self._columns, "_change_type", "_commit_version")

    def batch(self, frame: DataFrame, batch_id: int, now: datetime) -> BatchRows:
        """Return the events that were inserted.

        Raises
        ------
        TableError
            Events were updated or deleted.
        """
        changes = frame.persist()
        found = changes.groupBy("_change_type").agg(
            F.count("*").alias("rows"),
            F.min("_commit_version").alias("version"),
            F.max("_commit_version").alias("last"),
        )
        try:
            by_type = {row["_change_type"]: row for row in found.collect()}
        except (PySparkException, Py4JJavaError) as error:
            changes.unpersist()
            raise explained(error, self._config) or error from error
        inserted = by_type.pop("insert", None)
        if by_type:
            changes.unpersist()
            version = min(row["version"] for row in by_type.values())
            raise TableError(
                f"table events at {self._tables.path_or_name('events')} was changed in version {version}: rows were "
                f"{' and '.join(sorted({kind.partition('_')[0] + 'd' for kind in by_type}))}, and a stream learns only "
                f"from events that are added (an event of the delete type takes a pair back); {BEGIN_AGAIN}"
            )
        events = changes.select(*self._columns)
        read = inserted["rows"] if inserted else 0
        last = inserted["last"] if inserted else None
        return BatchRows(events, None, read, 0, {}, appended=True, version=last, persisted=(changes,))

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


@dataclass
class _IdTypes:
    """The types of ids in `events`: decided by the first micro-batch that has rows, which creates the tables."""

    config: Config
    known: tuple[IdType, IdType] | None = field(default=None)

    def of(self, tables: Tables, raw: list[RawRows]) -> tuple[IdType, IdType]:
        if self.known is None:
            types = decide_id_types(tables, self.config.tables, raw)
            tables.ensure("rejects")
            tables.ensure("events", *types)
            self.known = types
        return self.known


def _batch_rows(judged: JudgedRows) -> BatchRows:
    return BatchRows(
        judged.events,
        judged.rejects if judged.reasons else None,
        judged.read,
        judged.duplicates,
        judged.reasons,
        appended=False,
        persisted=(judged.counted,),
    )


def _no_rows(spark: SparkSession) -> BatchRows:
    types = load("events").column_types()
    empty = spark.createDataFrame([], ", ".join(f"{name} {kind}" for name, kind in types.items()))
    return BatchRows(empty, None, 0, 0, {}, appended=False)
