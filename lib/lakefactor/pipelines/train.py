"""Train: ``interactions`` at one pinned version -> factor rows and a ``models`` row under a new model version.

A training that was killed is found again by its snapshots: the same command goes on from the last of them, under the
same model version. What was written already is not written twice, since every append carries the version as its Delta
transaction.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from functools import partial
from importlib.metadata import version
from time import perf_counter
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Config, canonical_json
from lakefactor.errors import ConfigError
from lakefactor.factorization import snapshot as snapshots
from lakefactor.factorization.equation import Equation
from lakefactor.factorization.snapshot_folder import Folder
from lakefactor.pipelines.models import ModelRecord, live_version, newest
from lakefactor.pipelines.progress import TrainingProgress
from lakefactor.pipelines.run_log import RunLog
from lakefactor.spark.attempts import Attempt, attempt_until_done
from lakefactor.spark.barrier import rank_errors
from lakefactor.spark.catalogue import as_lists, matrix
from lakefactor.spark.live_factors import read_factors
from lakefactor.spark.tables import Tables
from lakefactor.spark.training import Lifecycle, Trained, train_once
from lakefactor.types import SIDES, Side

RECORDED_LIBRARIES = ("lakefactor", "pyspark", "delta-spark", "torch", "numpy", "numba", "scipy", "pyarrow")

SNAPSHOT_FOLDER = "_snapshots"
"""Under ``tables.root``; VACUUM leaves folders that begin with ``_`` alone."""

ABANDONED = timedelta(days=7)
"""Snapshots of a training that nobody went on with are removed after this time: they hold users' factors."""

_OPERATION = {
    "attempts",
    "backend",
    "memory_budget_mb",
    "ranks",
    "snapshot_every",
    "snapshot_root",
    "threads_per_rank",
    "timeout_seconds",
}
"""Keys of ``train`` that change how a training runs and not what it computes: it may go on with others."""


class TrainResult(BaseModel):
    """What a training made."""

    model_config = ConfigDict(frozen=True)

    model_version: str
    interactions_version: int
    users: int
    items: int
    interactions: int
    objective: float
    iterations: int
    attempts: int
    seconds: float
    seconds_per_iteration: float
    seconds_per_phase: dict[str, float]


def run(spark: SparkSession, config: Config, fresh: bool = False) -> TrainResult:
    """Train a model; it stays invisible to readers until it is published.

    Parameters
    ----------
    spark : SparkSession
    config : Config
    fresh : bool
        Begin anew, even where a training of the same configuration and input was cut off.

    Raises
    ------
    TableError
        There is no ``interactions`` table.
    ConfigError
        ``train.warm_start`` is set and the live model is of another rank or algorithm.
    InputError, SolveError, SetupError, RankFailedError
        As :func:`lakefactor.spark.training.train_once`.
    """
    start = perf_counter()
    tables = Tables(spark, config.tables)
    interactions_version = tables.version("interactions")
    interactions = tables.read("interactions", interactions_version)
    with TrainingProgress(config.train.iterations) as progress:
        live = _model_to_start_from(tables, config, progress)
        identity = _identity(config, tables, interactions_version, live)
        place = _place(config, identity, fresh, progress)
        log = RunLog(place.run if place else new_model_version(), "train")
        lifecycle = Lifecycle(place, _factor_rows(tables, live) if live else None)

        def on_event(event: dict[str, Any]) -> None:
            log(event)
            progress(event)

        def attempt(attempt: Attempt) -> Trained:
            log.begin(attempt.number)
            with log.phase("stage"):
                trained = train_once(interactions, config, on_event, attempt, lifecycle)
            try:
                with rank_errors():  # an executor that is lost takes factor rows with it
                    _write(spark, tables, config, interactions_version, trained, log, start)
            finally:
                trained.release()
            return trained

        try:
            trained = attempt_until_done(config.train.attempts, place, attempt, progress.note)
        except Exception as error:
            log.add("failed", perf_counter() - start, {"error": f"{type(error).__name__}: {error}", **progress.told()})
            with suppress(Exception):  # the error itself is what counts, and Spark may be gone
                log.write(spark, tables)
            raise
        if place:
            _clean_up(place, progress)
    history, totals = trained.log["history"], trained.log["totals"]
    seconds = perf_counter() - start
    facts = {name: trained.log[name] for name in ("kept", "held_out", "warm_rows")}
    log.add("total", seconds, facts | progress.told())
    log.write(spark, tables)
    return TrainResult(
        model_version=log.run_id,
        interactions_version=interactions_version,
        users=totals["users"],
        items=totals["items"],
        interactions=totals["entries"],
        objective=trained.objective,
        iterations=len(history),
        attempts=log.attempt,
        seconds=round(seconds, 3),
        seconds_per_iteration=round(sum(iteration["seconds"] for iteration in history) / len(history), 4),
        seconds_per_phase=log.seconds(),
    )


def new_model_version() -> str:
    """Return a name that sorts by time and is unique, such as ``20261122-154312-3f9c``."""
    return f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _identity(config: Config, tables: Tables, interactions_version: int, live: ModelRecord | None) -> str:
    """Return the digest of all that decides what a training computes."""
    decisive = config.train.model_dump(mode="json", exclude=_OPERATION)
    parts = [
        canonical_json(config.model),
        canonical_json(config.sgd),
        repr(sorted(decisive.items())),
        tables.uid("interactions"),
        str(interactions_version),
        live.model_version if live else "",
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _place(config: Config, identity: str, fresh: bool, progress: TrainingProgress) -> snapshots.Place | None:
    """Return where snapshots go: to a new run, or to the unfinished one of the same identity."""
    train, root = config.train, config.tables.root
    if not train.snapshot_every:
        return None
    if not train.snapshot_root and not root:
        progress.note("no snapshots: tables.catalog has no folder for them; set train.snapshot_root")
        return None
    folder = Folder(train.snapshot_root or f"{root.rstrip('/')}/{SNAPSHOT_FOLDER}")
    try:
        unfinished = list(snapshots.runs(folder, identity))
    except (OSError, ValueError) as error:
        progress.note(f"no snapshots: {folder.root} cannot be used: {error}; set train.snapshot_root")
        return None
    if fresh:
        for run_id in unfinished:
            snapshots.discard(folder, run_id)
    elif unfinished:
        progress.note(f"going on with {unfinished[0]}, which was cut off; --fresh would begin anew")
        return snapshots.Place(folder, unfinished[0], identity)
    return snapshots.Place(folder, new_model_version(), identity)


def _clean_up(place: snapshots.Place, progress: TrainingProgress) -> None:
    """Remove the snapshots of a finished training, and of those that were given up long ago."""
    limit = f"{datetime.now(timezone.utc) - ABANDONED:%Y%m%d-%H%M%S}"
    try:
        for run_id in place.folder.children(""):
            if run_id == place.run or run_id < limit:
                snapshots.discard(place.folder, run_id)
    except OSError as error:
        progress.note(f"snapshots in {place.folder.root} could not be removed: {error}")


def _model_to_start_from(tables: Tables, config: Config, progress: TrainingProgress) -> ModelRecord | None:
    if not config.train.warm_start:
        return None
    live = live_version(tables)
    if live is None:
        progress.note("no warm start: no model is live yet")
        return None
    record = newest(tables, live)
    for key in ("algorithm", "rank"):
        ours, theirs = getattr(config.model, key), getattr(record.config.model, key)
        if ours != theirs:
            raise ConfigError(
                f"train.warm_start: model.{key} is {ours}, but the live model {live} has {theirs}; "
                f"set model.{key} to {theirs}, or train.warm_start to false"
            )
    progress.note(f"warm start from the live model {live}")
    return record


def _factor_rows(tables: Tables, live: ModelRecord) -> DataFrame:
    """Return the live model's rows of both sides, as the stream left them, the other side's id null."""
    types = dict(zip(SIDES, tables.id_types("interactions"), strict=True))
    sql = {"string": "string", "long": "bigint"}
    frames = []
    for side in SIDES:
        rows = read_factors(tables, side, live.model_version).select(f"{side}_id", "factors", "bias")
        if side == "item" and live.config.model.item_norm_exponent:
            rows = rows.mapInArrow(partial(_untempered, Equation(live.config.model)), rows.schema)
        ids = [F.col(f"{s}_id") if s == side else F.lit(None).cast(sql[types[s]]).alias(f"{s}_id") for s in SIDES]
        frames.append(rows.select(*ids, "factors", "bias"))
    return frames[0].unionByName(frames[1])


def _untempered(equation: Equation, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Turn the item factors that scores use into those that the equation needs."""
    for batch in batches:
        if batch.num_rows:
            factors = as_lists(equation.untempered(matrix(batch["factors"])))
            field = batch.schema.field("factors")
            batch = batch.set_column(1, field, factors.cast(field.type))
        yield batch


def _write(
    spark: SparkSession,
    tables: Tables,
    config: Config,
    interactions_version: int,
    trained: Trained,
    log: RunLog,
    start: float,
) -> None:
    """Write factor rows, then the row that makes the version exist."""
    model_version = log.run_id
    for table in ("user_factors", "item_factors", "models"):
        tables.ensure(table, *tables.id_types("interactions"))
    for side in SIDES:
        with log.phase(f"write_{side}_factors"):
            _write_factors(tables, trained, side, model_version)
    with log.phase("write_models"):
        row = _model_row(config, model_version, interactions_version, trained)
        row["train_seconds"] = perf_counter() - start
        models = spark.createDataFrame([row], tables.read("models").schema)
        tables.append("models", models, txn=(model_version, 0))


def _write_factors(tables: Tables, trained: Trained, side: Side, model_version: str) -> None:
    rows = trained.factors(side).select(
        F.lit(model_version).alias("model_version"),
        f"{side}_id",
        "factors",
        "bias",
        "n_entries",
        F.current_timestamp().alias("updated_at"),
        F.lit(-1).cast("bigint").alias("batch_id"),
    )
    tables.append(f"{side}_factors", rows, txn=(model_version, 0))


def _model_row(config: Config, model_version: str, interactions_version: int, trained: Trained) -> dict[str, Any]:
    """Return the row that makes the version exist; it is written last."""
    totals = trained.log["totals"]
    return {
        "model_version": model_version,
        "created_at": datetime.now(timezone.utc),
        "algorithm": config.model.algorithm,
        "rank": config.model.rank,
        "config": canonical_json(config),
        "seed": config.model.seed,
        "input_versions": {"interactions": interactions_version},
        "library_versions": {name: version(name) for name in RECORDED_LIBRARIES},
        "n_users": totals["users"],
        "n_items": totals["items"],
        "n_interactions": totals["entries"],
        "mean": trained.log["mean"],
        "min_strength": totals["min_strength"],
        "max_strength": totals["max_strength"],
        "objective": trained.objective,
        "objective_history": [iteration["objective"] for iteration in trained.log["history"]],
    }
