"""Stream: the live model, kept up to date by micro-batches of new events."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from types import FrameType
from typing import Any

from pydantic import BaseModel, ConfigDict
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming import StreamingQuery

from lakefactor.config import Config, Stream
from lakefactor.errors import SetupError
from lakefactor.factorization.snapshot_folder import Folder
from lakefactor.log import say
from lakefactor.metrics.drift import DriftWatch
from lakefactor.pipelines.catchup import next_number
from lakefactor.pipelines.lease import held
from lakefactor.pipelines.micro_batch import APP_ID, MicroBatches
from lakefactor.pipelines.stream_report import StreamMetrics, batch_line, change_line
from lakefactor.spark.stream_checkpoint import checkpoint_of, checkpoint_root, planned_batch
from lakefactor.spark.stream_refusals import explained
from lakefactor.spark.stream_source import open_source
from lakefactor.spark.tables import Tables

STOP = "stop"
"""File in the stream's folder that asks it to end."""

_POLL_SECONDS = 1


class StreamResult(BaseModel):
    """What a stream did until it ended.

    Attributes
    ----------
    stream : str
    batches : int
        Micro-batches processed.
    first_batch, last_batch : int or None
        Their numbers; None where nothing arrived.
    read, accepted, duplicates, rejected : int
        Rows, as in `stream_ledger`.
    users, items : int
        Factor rows solved, each as often as it was.
    seconds : float
        Time in micro-batches.
    """

    model_config = ConfigDict(frozen=True)

    stream: str
    batches: int = 0
    first_batch: int | None = None
    last_batch: int | None = None
    read: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    users: int = 0
    items: int = 0
    seconds: float = 0.0

    def with_batch(self, ledger: dict[str, Any]) -> StreamResult:
        """Return the result with one more micro-batch."""
        sums = ("read", "accepted", "duplicates", "rejected", "users", "items")
        first = ledger["batch_id"] if self.first_batch is None else self.first_batch
        return self.model_copy(
            update={
                "batches": self.batches + 1,
                "first_batch": first,
                "last_batch": ledger["batch_id"],
                "seconds": round(self.seconds + ledger["seconds"]["total"], 3),
                **{name: getattr(self, name) + ledger[name] for name in sums},
            }
        )


class _Report:
    """Tells of every micro-batch: a line, the metrics file, changes of quality; and adds up.

    A restart brings the drift watch to where it was, from the ledger.
    """

    def __init__(self, tables: Tables, settings: Stream) -> None:
        self.result = StreamResult(stream=settings.name)
        self._tables = tables
        self._metrics = StreamMetrics(settings.metrics_file, settings.name) if settings.metrics_file else None
        self._watch = DriftWatch(settings)
        columns = ("batch_id", "model_version", "metrics")
        self._watch.replay(row.asDict() for row in tables.read("stream_ledger").select(*columns).collect())

    def __call__(self, row: dict[str, Any]) -> None:
        """Take in a row of the ledger."""
        self.result = self.result.with_batch(row)
        say(batch_line(row))
        version = row["model_version"]
        changes = self._watch.update(row["batch_id"], version, row["metrics"]) if version else []
        for change in changes:
            say(change_line(change))
        if changes:
            facts = {"stream": row["stream"], "detected_at": row["finished_at"]}
            rows = [asdict(change) | facts for change in changes]
            self._tables.append_rows("drift", rows, (APP_ID, row["batch_id"]))
        if self._metrics:
            self._metrics.record(row, changes)


def ask_to_stop(config: Config) -> None:
    """Ask the stream of these tables to end after its micro-batch; it hears within seconds."""
    Folder(checkpoint_root(config)).write_bytes(STOP, b"")
    say("the stream is asked to stop; it ends after its micro-batch")


def run(spark: SparkSession, config: Config, available_now: bool = False) -> StreamResult:
    """Process what arrives, until it is told to stop.

    Parameters
    ----------
    spark : SparkSession
    config : Config
    available_now : bool
        Process what is there, and end.

    Raises
    ------
    SetupError
        Another stream updates the same tables, or the checkpoint is gone.
    TableError, InputError
        The source cannot be read on; the message says what to do. Nothing is lost: events stay where they are.
    ConfigError
        ``tables.catalog`` gives no place for a checkpoint, or the live model cannot be streamed.
    """
    folder = Folder(checkpoint_root(config))
    tables = Tables(spark, config.tables)
    advice = "one stream at a time updates the tables: stop it ('lakefactor stream --stop')"
    with held(folder, f"stream {config.stream.name!r}", advice):
        if folder.exists(STOP):
            folder.remove_file(STOP)
        for table in ("stream_ledger", "drift"):
            tables.ensure(table)
        first_number = _first_number(tables, config, planned_batch(spark, config))
        spark.conf.set("spark.sql.adaptive.enabled", False)  # in a micro-batch it plans more than it saves
        source = open_source(spark, config, starting_version=_starting_version(tables))
        report = _Report(tables, config.stream)
        batches = _Guarded(MicroBatches(spark, config, source, first_number, report))
        writer = source.frame().writeStream.queryName(f"lakefactor-{config.stream.name}")
        writer = writer.option("checkpointLocation", checkpoint_of(config)).foreachBatch(batches)
        if available_now:
            writer = writer.trigger(availableNow=True)
        elif config.stream.trigger_seconds:
            writer = writer.trigger(processingTime=f"{config.stream.trigger_seconds} seconds")
        with _stopping(batches), _quiet():
            try:
                _await(writer.start(), batches, folder)
            except Exception as error:
                cause = batches.error or error  # the query's own error is the text of the micro-batch's
                if not batches.stopped.is_set() or batches.error:
                    raise explained(cause, config) or cause from None
        return report.result


class _Guarded:
    """Micro-batches one at a time, none after the stream was asked to stop; keeps the error that ended it."""

    def __init__(self, batches: MicroBatches) -> None:
        self._batches, self._busy = batches, threading.Lock()
        self.stopped = threading.Event()
        self.error: Exception | None = None

    def __call__(self, frame: Any, spark_batch: int) -> None:
        with self._busy:
            if self.stopped.is_set():
                raise InterruptedError("the stream was asked to stop")  # the micro-batch comes again at the next start
            try:
                self._batches(frame, spark_batch)
            except Exception as error:
                self.error = error
                raise

    def stop(self, query: StreamingQuery) -> None:
        """End the query between two micro-batches."""
        self.stopped.set()
        with self._busy:
            query.stop()


def _await(query: StreamingQuery, batches: _Guarded, folder: Folder) -> None:
    """Wait for the end of a query, by itself or by being asked."""
    try:
        while not query.awaitTermination(_POLL_SECONDS):
            if batches.stopped.is_set() or folder.exists(STOP):
                batches.stop(query)
                return
    finally:
        with suppress(Exception):
            query.stop()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Py4J from logging the stack trace of an error that is told in its own words."""
    logger = logging.getLogger("py4j")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _stopping(batches: _Guarded) -> Iterator[None]:
    """Let SIGTERM end the stream after its micro-batch."""

    def ask(number: int, frame: FrameType | None) -> None:
        batches.stopped.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _first_number(tables: Tables, config: Config, planned: int | None) -> int:
    """Return the number of a stream's first micro-batch: behind all of the streams before it.

    ``planned`` is the newest micro-batch that the checkpoint knows of.

    Raises
    ------
    SetupError
        Its checkpoint is gone although it has processed micro-batches, or another stream has come after it.
    """
    stream = config.stream.name
    per_stream = tables.read("stream_ledger").groupBy("stream")
    found = {
        row["stream"]: (row["first"], row["last"])
        for row in per_stream.agg(F.min("batch_id").alias("first"), F.max("batch_id").alias("last")).collect()
    }
    if stream not in found:
        return next_number(tables)
    own_first, own_last = found[stream]
    last = max(last for _, last in found.values())
    if planned is None:
        raise SetupError(
            f"stream {stream!r} has processed micro-batches up to {own_last}, but its checkpoint at "
            f"{checkpoint_of(config)} is gone, so nobody knows what it has read; restore it, or go on under another "
            "stream.name: events that are read again are found by their ids and not counted twice"
        )
    if last > own_last:
        raise SetupError(
            f"another stream has processed micro-batches up to {last} after stream {stream!r} ended with {own_last}; "
            "go on with that one, or under a new stream.name"
        )
    return own_first


def _starting_version(tables: Tables) -> int:
    """Return the version of `events` whose changes a new stream reads first: what came before, the model catches up."""
    return tables.version("events") + 1 if tables.exists("events") else 0
