"""The training stage: interactions in, factor rows out.

One shuffle brings every interaction to the rank that owns its user; the ranks do the rest (``factorization.shard`` and
``factorization.als``) and each writes out the rows that it owns.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lakefactor.comm import Communicator
from lakefactor.config import Config
from lakefactor.errors import InputError, LakefactorError, RankFailedError
from lakefactor.factorization.shard import NOTHING_TO_TRAIN_ON
from lakefactor.factorization.snapshot import Manifest, Place
from lakefactor.spark.alignment import Alignment, rotated
from lakefactor.spark.attempts import FIRST, Attempt, attempt_until_done
from lakefactor.spark.barrier import STARTING_SECONDS, RankFunction, rank_errors, refuse_unfit_cluster, run_on_ranks
from lakefactor.spark.progress import Beacon
from lakefactor.spark.resources import training_profile
from lakefactor.spark.watchdog import Watchdog
from lakefactor.types import SIDES, Side

OUTPUT_BATCH_ROWS = 8192
VERDICT_SECONDS = 2.0
"""The watchdog notices a lost process as fast as Spark does, but perhaps a little later."""

OnEvent = Callable[[dict[str, Any]], None]
"""Receives live events on the driver, each with its ``proc_rank``: ``{"phase": "start"|"iteration"|"note", ...}``, or
``{"timing": {"phase", "iteration", "seconds", "peak_memory_bytes"}}``."""


@dataclass(frozen=True)
class Trained:
    """Factor rows of a finished training, held by the executors.

    Attributes
    ----------
    rows : DataFrame
        Persisted; columns ``side, user_id, item_id, factors, bias, n_entries, log``. Free it with :meth:`release`.
    log : dict
        What rank 0 recorded: ``mean``, ``totals``, ``history`` (a list of iterations), ``kept`` (the iteration that the
        factors are of), ``held_out`` and ``warm_rows`` (counts).
    """

    rows: DataFrame
    log: dict[str, Any]
    alignment: Alignment | None = None

    def factors(self, side: Side) -> DataFrame:
        """Return ``<side>_id, factors, bias, n_entries`` of all rows of a side, turned where there is an alignment."""
        rows = self.rows.where(F.col("side") == side).select(f"{side}_id", "factors", "bias", "n_entries")
        return rotated(rows, self.alignment.rotation) if self.alignment else rows

    @cached_property
    def objective(self) -> float:
        """Objective of the factors."""
        return self.log["objective"]

    def release(self) -> None:
        """Free the executors' copy."""
        self.rows.unpersist()


@dataclass(frozen=True)
class Lifecycle:
    """What a training has beyond its input and its configuration.

    Attributes
    ----------
    place : Place or None
        Where snapshots go; None: nowhere.
    warm : DataFrame or None
        Factor rows to begin from: ``user_id, item_id, factors, bias``, one of the ids null.
    """

    place: Place | None = None
    warm: DataFrame | None = None


def train_interactions(interactions: DataFrame, config: Config, on_event: OnEvent = lambda event: None) -> Trained:
    """Factorize a table of interactions, in as many attempts as ``train.attempts`` allows; no snapshots.

    Parameters, errors: as `train_once`.
    """

    def say(text: str) -> None:
        on_event({"proc_rank": 0, "phase": "note", "text": text})

    return attempt_until_done(
        config.train.attempts, None, lambda attempt: train_once(interactions, config, on_event, attempt), say
    )


def train_once(
    interactions: DataFrame,
    config: Config,
    on_event: OnEvent = lambda event: None,
    attempt: Attempt = FIRST,
    lifecycle: Lifecycle = Lifecycle(),
) -> Trained:
    """Factorize a table of interactions in one attempt.

    Parameters
    ----------
    interactions : DataFrame
        ``user_id, item_id, strength``; each pair once. Read at a fixed version, since a repeated stage reads it again.
    config : Config
        Sections ``model``, ``sgd`` and ``train`` are used.
    on_event : callable
        Live progress, called on the driver in another thread.
    attempt : Attempt
    lifecycle : Lifecycle

    Raises
    ------
    RankFailedError
        A rank died, stopped or hung; the text names it.
    InputError, SolveError, SnapshotError, SetupError
        As raised on a rank, or by :func:`run_on_ranks`.
    """
    spark = interactions.sparkSession
    train = config.train
    profile = training_profile(spark, train)
    wait = STARTING_SECONDS if attempt.number == 1 else train.timeout_seconds
    refuse_unfit_cluster(spark, train.ranks, profile, wait)
    warm = lifecycle.warm if attempt.snapshot is None else None
    types = dict(interactions.dtypes)
    schema = (
        f"side string, user_id {types['user_id']}, item_id {types['item_id']}, "
        "factors array<float>, bias float, n_entries bigint, log string"
    )
    tag = f"lakefactor-{secrets.token_hex(8)}"
    host = str(spark.conf.get("spark.driver.host"))
    watchdog = Watchdog(host, train.ranks, train.timeout_seconds, on_event, lambda: _cancel(spark, tag))
    with watchdog as address, _named_by(watchdog, tag), rank_errors():
        function = _rank_function(
            config, lifecycle.place, attempt.snapshot, warm is not None, *(_arrow_type(types[f"{s}_id"]) for s in SIDES)
        )
        owned = _owned(interactions, warm, train.ranks)
        rows = run_on_ranks(owned, "owner", train.ranks, function, schema, train.timeout_seconds, address, profile)
        rows = rows.persist(StorageLevel.DISK_ONLY)
        try:
            spark.sparkContext.addJobTag(tag)
            logs = rows.where(F.col("side") == "log").select("log").collect()
        except BaseException:
            rows.unpersist()
            raise
        finally:
            spark.sparkContext.removeJobTag(tag)
    if not logs:  # Spark does not even start the stage where it knows that there are no rows
        raise InputError(NOTHING_TO_TRAIN_ON)
    return Trained(rows, json.loads(logs[0][0]))


@contextmanager
def _named_by(watchdog: Watchdog, tag: str) -> Iterator[None]:
    """Raise what ended an attempt: the watchdog's verdict where a process was lost, else the error itself."""
    try:
        yield
    except Exception as error:
        lost = isinstance(error, RankFailedError) or (not isinstance(error, LakefactorError) and tag in str(error))
        if lost and (verdict := watchdog.explain(VERDICT_SECONDS)):
            raise RankFailedError(verdict) from error
        raise


def _cancel(spark: SparkSession, tag: str) -> None:
    spark.sparkContext.cancelJobsWithTag(tag)


def _owned(interactions: DataFrame, warm: DataFrame | None, ranks: int) -> DataFrame:
    """Return the rows that go to the ranks, each with its owner: the rank of its user (of a lone item: any)."""
    rows = interactions.select("user_id", "item_id", F.col("strength").cast("float").alias("strength"))
    if warm is not None:
        entries = rows.withColumns({"factors": F.lit(None).cast("array<float>"), "bias": F.lit(None).cast("float")})
        rows = entries.unionByName(warm.withColumn("strength", F.lit(None).cast("float")))
    key = "xxhash64(user_id)" if warm is None else "if(user_id is null, xxhash64(item_id), xxhash64(user_id))"
    return rows.withColumn("owner", F.expr(f"cast(pmod({key}, {ranks}) as int)"))


def _rank_function(
    config: Config,
    place: Place | None,
    snapshot: Manifest | None,
    warm: bool,
    user_type: pa.DataType,
    item_type: pa.DataType,
) -> RankFunction:
    output = pa.schema(
        [
            ("side", pa.string()),
            ("user_id", user_type),
            ("item_id", item_type),
            ("factors", pa.list_(pa.float32())),
            ("bias", pa.float32()),
            ("n_entries", pa.int64()),
            ("log", pa.string()),
        ]
    )

    def on_rank(comm: Communicator, batches: Iterable[pa.RecordBatch], line: Beacon) -> Iterator[pa.RecordBatch]:
        # Imported here: the driver needs neither numba nor the kernels.
        from lakefactor.spark.rank import RankTraining

        training = RankTraining(comm, line, config, place, snapshot, warm)
        shard, trained = training.run(batches)
        with line.phase("write"):
            for side in SIDES:
                rows = shard.rows[side]
                yield from _factor_batches(
                    output, side, rows.ids, trained.factors[side], trained.bias[side], rows.n_entries
                )
            if comm.proc_rank == 0:
                log = json.dumps(training.log(trained))
                yield pa.RecordBatch.from_pylist([{"side": "log", "log": log}], schema=output)

    return on_rank


def _factor_batches(
    output: pa.Schema, side: Side, ids: pa.Array, factors: Any, bias: Any, n_entries: Any
) -> Iterator[pa.RecordBatch]:
    id_column = f"{side}_id"
    id_type = output.field(id_column).type
    for start in range(0, len(ids), OUTPUT_BATCH_ROWS):
        some = slice(start, min(start + OUTPUT_BATCH_ROWS, len(ids)))
        n, k = some.stop - start, factors.shape[1]
        lists = pa.ListArray.from_arrays(
            pa.array(range(0, (n + 1) * k, k), pa.int32()), pa.array(factors[some].ravel())
        )
        columns = {
            "side": pa.array([side] * n),
            id_column: ids.slice(start, n).cast(id_type),
            "factors": lists,
            "bias": pa.array(bias[some]),
            "n_entries": pa.array(n_entries[some]),
        }
        yield pa.record_batch(
            [columns[field.name] if field.name in columns else pa.nulls(n, field.type) for field in output],
            schema=output,
        )


def _arrow_type(spark_type: str) -> pa.DataType:
    return {"string": pa.string(), "bigint": pa.int64()}[spark_type]
