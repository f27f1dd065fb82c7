"""Catch up: teach a model version that is not live yet what has arrived since the interactions that it was trained on.

The rows go to ``factor_updates`` in one commit that replaces those of an earlier catch-up, and are computed from the
trained factors anew: run again, it comes to the same. They bear the number of the newest micro-batch, in which the
version had no part, so what a stream adds once the version is live is newer.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict
from pyspark.sql import SparkSession

from lakefactor.config import Config
from lakefactor.contracts import literal
from lakefactor.factorization.coding import coded
from lakefactor.factorization.live_model import STREAMED
from lakefactor.log import say
from lakefactor.pipelines.learned import CATCH_UP, source_of, was_live
from lakefactor.pipelines.live import NOTHING, Learned, load_live
from lakefactor.pipelines.models import live_version, newest
from lakefactor.query.live_factors import UPDATES
from lakefactor.spark.suppression import load_suppression
from lakefactor.spark.tables import Tables
from lakefactor.spark.touched import events_of, events_since


class CatchupResult(BaseModel):
    """What a version has learned.

    Attributes
    ----------
    model_version : str
    events_version : int
        Version of `events` up to which it has learned; what came later, the stream will teach it once it is live.
    events : int
        Events that it has learned since its training.
    users, items, new_users, new_items : int
        Rows solved, and how many of them the training did not know.
    """

    model_config = ConfigDict(frozen=True)

    model_version: str
    events_version: int
    events: int = 0
    users: int = 0
    items: int = 0
    new_users: int = 0
    new_items: int = 0


def run(spark: SparkSession, config: Config, model_version: str | None = None) -> CatchupResult:
    """Let a model version (default: the newest) catch up; one that is or was live is left to the stream.

    Parameters
    ----------
    spark : SparkSession
    config : Config
        ``stream`` (rules and safeguards, as for a micro-batch) and ``tables``.
    model_version : str or None

    Raises
    ------
    TableError
        There is no such version, or nothing tells which events it was trained on.
    SetupError
        The driver lacks the memory for the model.
    """
    tables = Tables(spark, config.tables)
    record = newest(tables, model_version)
    version, trained_on = record.model_version, source_of(record).events_version
    if version == live_version(tables) or was_live(tables, version):
        say(f"model version {version} has been live: the stream keeps it up to date")
        return CatchupResult(model_version=version, events_version=trained_on)
    if record.config.model.algorithm not in STREAMED:
        say(f"{record.config.model.algorithm} has no update rule, so model version {version} stays as it was trained")
        return CatchupResult(model_version=version, events_version=trained_on)
    tables.ensure(UPDATES, *tables.id_types("events"))
    until = tables.version("events")
    suppression = load_suppression(spark, config)  # of users whom old commits may still hold
    missed = suppression.keep(events_since(tables, trained_on, until)) if trained_on < until else None
    learned = _learn(spark, config, version, missed, until) if missed else NOTHING
    if learned.updates is not None:
        rows = spark.createDataFrame(learned.updates)
        metadata = {CATCH_UP: version, "events_version": until}
        tables.replace_where(UPDATES, rows, f"model_version = {literal(version)}", metadata)
    return CatchupResult(
        model_version=version, events_version=until, events=len(missed) if missed else 0, **learned.counts
    )


def next_number(tables: Tables) -> int:
    """Return the number of the next micro-batch, behind all streams and catch-ups."""
    numbers = [
        pc.max(tables.rows(table, ("batch_id",))["batch_id"]).as_py()
        for table in ("stream_ledger", UPDATES)
        if tables.exists(table)
    ]
    return max((number for number in numbers if number is not None), default=-1) + 1


def _learn(spark: SparkSession, config: Config, model_version: str, missed: pa.Table, until: int) -> Learned:
    """Solve anew from the trained factors."""
    number = max(next_number(Tables(spark, config.tables)) - 1, 0)
    live = load_live(spark, config, model_version, 0)
    users, _ = coded(missed["user_id"])
    known = events_of(spark, config, "user", users, until)
    of_items = partial(events_of, spark, config, "item", version=until)
    nothing = missed.slice(0, 0)
    return live.learn(config.stream, known, missed, nothing, of_items, number, lambda step: nullcontext())
