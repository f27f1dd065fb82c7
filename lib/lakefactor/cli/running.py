"""Run a pipeline: configuration, Spark session, call, result."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from lakefactor.cli.errors import reported
from lakefactor.cli.output import print_json, print_summary
from lakefactor.cli.results import NAMED, named, write_result
from lakefactor.config import Config, load

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

STOP_SECONDS = 30.0
"""Longest wait for Spark to stop; a JVM that hangs ends with this process anyway."""


def run_job(
    stem: str,
    config: Path | None,
    overrides: Sequence[str] | None,
    debug: bool,
    result: str | None,
    **arguments: Any,
) -> dict[str, Any]:
    """Run a pipeline in a Spark session, print what it did, and return that.

    Parameters
    ----------
    stem : str
        Name of the command and of its pipeline.
    config : Path or None
        The configuration file.
    overrides : sequence of str or None
        ``section.key=value``, as given by ``--set``.
    debug : bool
        Show the stack trace of an error.
    result : str or None
        Where to write the result, beside stdout.
    **arguments
        Further arguments of the pipeline's ``run(spark, config, ...)``; those of `results.NAMED` may be the
        ``@PLACE`` of a result that names them.

    Raises
    ------
    typer.Exit
        After an error, with its exit status; the error is on stderr and no result on stdout.
    """
    with reported(debug):
        settings = load(config, overrides or ())
        arguments |= {name: named(name, arguments[name]) for name in NAMED.keys() & arguments.keys()}
        with _session(settings, f"lakefactor {stem}") as spark:
            done = import_module(f"lakefactor.pipelines.{stem}").run(spark, settings, **arguments)
            record = done.model_dump(mode="json")
            if stem != "demo":  # which has told its story
                print_summary(stem, record)
        if result is not None:
            write_result(result, record)
        print_json(record)
    return record


@contextmanager
def _session(settings: Config, app_name: str) -> Iterator[SparkSession]:
    """Start Spark, and stop it at the end; a session that was there before (a notebook's, a test's) is left running."""
    from pyspark.sql import SparkSession

    from lakefactor.spark.session import build

    if SparkSession.getActiveSession() is not None:
        yield build(settings, app_name)
        return
    spark = build(settings, app_name)
    try:
        with _interruptible(spark):
            yield spark
    finally:
        _in_new_thread(spark.stop)


@contextmanager
def _interruptible(spark: SparkSession) -> Iterator[None]:
    """Let an interrupt cancel Spark's jobs and then raise KeyboardInterrupt.

    PySpark's own handler cancels from the main thread, over the connection on which that thread waits for an answer,
    and so ends in whatever Py4J makes of two answers. A new thread has its own connection.
    """

    def cancel() -> None:
        context, java = spark.sparkContext, spark.sparkContext._jvm.java  # type: ignore[union-attr]
        context.setLogLevel("OFF")
        silent = java.io.PrintStream(java.io.OutputStream.nullOutputStream())
        java.lang.System.setErr(silent)  # what a closed thread pool refuses is printed, not logged
        context.cancelAllJobs()

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # who interrupts again waits for nothing
        logging.disable()  # Py4J logs a stack trace of every call that is cut off
        _in_new_thread(cancel)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _in_new_thread(action: Callable[[], object]) -> None:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(STOP_SECONDS)
