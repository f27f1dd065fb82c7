"""Streams of rows that nobody has checked: new files of a landing folder, and messages of a Kafka topic.

A file that is streamed and a file that is ingested give the same events and rejects with the same ids: the stream of a
landing folder is a stream of file *names*, and a micro-batch reads its files as an ingest does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Config
from lakefactor.contracts import IdType
from lakefactor.errors import ConfigError, InputError
from lakefactor.spark.files import check_folder, group_files, missing_files, without_patterns
from lakefactor.spark.judging import judge_rows
from lakefactor.spark.sources import RawRows, decide_id_types, read_files, read_messages
from lakefactor.spark.stream_checkpoint import planned_files
from lakefactor.spark.stream_refusals import explained
from lakefactor.spark.stream_rows import BatchRows, batch_rows, no_rows
from lakefactor.spark.suppression import load_suppression
from lakefactor.spark.tables import Tables

BYTES_PER_ROW = 40
"""Of a file with one short line per event, or of a small Parquet file; only how many files make a micro-batch."""


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
        self._suppression = load_suppression(spark, config)  # no user is forgotten while a stream runs

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
                return no_rows(spark)
            id_types = self._ids.of(Tables(spark, self._config.tables), raw)
            names = spark.createDataFrame(files, "source string, uri string")
            sources = names.select(F.xxhash64("uri").alias("source_hash"), "source")
            judged = judge_rows(raw, sources, ingest, id_types, now, self._suppression)
        except InputError as error:
            raise InputError(
                f"{error}; micro-batch {batch_id} waits for this: correct the configuration or the file in its place, "
                "or put an empty file in its place, and start the stream again"
            ) from error
        return batch_rows(judged)

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
        self._suppression = load_suppression(spark, config)  # no user is forgotten while a stream runs

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
                return no_rows(spark)
            topic = config.stream.kafka_topic
            raw = [read_messages(messages, topic, found["keys"], config.ingest)]
            id_types = self._ids.of(Tables(spark, config.tables), raw)
            partitions = sorted(found["partitions"])
            names = spark.createDataFrame([(f"kafka:{topic}/{number}",) for number in partitions], "source string")
            sources = names.select(F.xxhash64("source").alias("source_hash"), "source")
            return batch_rows(judge_rows(raw, sources, config.ingest, id_types, now, self._suppression))
        except (PySparkException, Py4JJavaError) as error:
            raise explained(error, config) or error from error
        finally:
            messages.unpersist()


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
