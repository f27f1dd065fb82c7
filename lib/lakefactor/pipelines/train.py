"""Train: ``interactions`` at one pinned version -> factor rows and a ``models`` row under a new model version.

A training is known by its identity: all that decides what it computes. One that was done is found in ``models`` and not
done again; one that was killed is found by its snapshots, and the same command goes on from the last of them, under the
same model version. What was written already is not written twice, since every append carries the version as its Delta
transaction, and of two of one identity that end together ``models`` takes one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Config
from lakefactor.config.sections import UNTURNED
from lakefactor.errors import ConfigError
from lakefactor.factorization.catalogue import as_lists, matrix
from lakefactor.factorization.equation import Equation
from lakefactor.factorization.snapshot import Place
from lakefactor.pipelines.model_rows import write_version
from lakefactor.pipelines.models import ModelRecord, live_version, newest
from lakefactor.pipelines.progress import TrainingProgress
from lakefactor.pipelines.run_log import RunLog
from lakefactor.pipelines.training_run import Training, clean_up, new_model_version, snapshot_folder
from lakefactor.pipelines.trials import read_trials, with_best
from lakefactor.spark.alignment import align
from lakefactor.spark.attempts import Attempt, attempt_until_done
from lakefactor.spark.barrier import rank_errors
from lakefactor.spark.live_factors import read_factors
from lakefactor.spark.tables import Tables
from lakefactor.spark.training import Lifecycle, Trained, train_once
from lakefactor.types import SIDES


class TrainResult(BaseModel):
    """What a training made, or, where `attempts` is 0, the version that the same training had made before."""

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


def run(spark: SparkSession, config: Config, fresh: bool = False, tuned: str | None = None) -> TrainResult:
    """Train a model; it stays invisible to readers until it is published.

    Parameters
    ----------
    spark : SparkSession
    config : Config
    fresh : bool
        Train anew, even where the same training has been done, or was cut off.
    tuned : str or None
        A tuning study, whose best values take the place of the configuration's.

    Raises
    ------
    TableError
        There is no ``interactions`` table, or no such study.
    ConfigError
        ``train.warm_start`` is set and the live model is of another rank or algorithm.
    InputError, SolveError, SetupError, RankFailedError
        As :func:`lakefactor.spark.training.train_once`.
    """
    tables = Tables(spark, config.tables)
    version = tables.version("interactions")
    if tuned is not None:
        config = with_best(config, read_trials(tables, tuned), tuned)
    with TrainingProgress(config.train.iterations) as progress:
        start, align_to = _model_to_start_from(tables, config, progress), _version_to_align_to(tables, config, progress)
        training = Training.of(config, tables, version, start, align_to)
        folder = snapshot_folder(config, progress.note)
        with training.alone(folder):
            if not fresh and (found := _done(tables, training)):
                progress.note(f"nothing has changed since model version {found.model_version}; --fresh trains again")
                return found
            place = training.place(folder, fresh, progress.note) if folder else None
            result = _train(spark, training, place, fresh, progress)
            if place:
                clean_up(place, progress.note)
    return result


def _train(
    spark: SparkSession, training: Training, place: Place | None, fresh: bool, progress: TrainingProgress
) -> TrainResult:
    start, config, tables = perf_counter(), training.config, Tables(spark, training.config.tables)
    interactions = tables.read("interactions", training.interactions_version)
    log = RunLog(place.run if place else new_model_version(), "train")
    lifecycle = Lifecycle(place, _factor_rows(tables, training.live) if training.live else None)

    def on_event(event: dict[str, Any]) -> None:
        log(event)
        progress(event)

    def attempt(attempt: Attempt) -> tuple[Trained, bool]:
        log.begin(attempt.number)
        with log.phase("stage"):
            trained = train_once(interactions, config, on_event, attempt, lifecycle)
        try:
            with rank_errors():  # an executor that is lost takes factor rows with it
                if training.align_to:
                    with log.phase("align"):
                        trained = _aligned(tables, trained, training.align_to, config.model.rank)
                return trained, write_version(spark, tables, training, trained, log, start, fresh)
        finally:
            trained.release()

    try:
        trained, is_first = attempt_until_done(config.train.attempts, place, attempt, progress.note)
    except Exception as error:
        log.add("failed", perf_counter() - start, {"error": f"{type(error).__name__}: {error}", **progress.told()})
        with suppress(Exception):  # the error itself is what counts, and Spark may be gone
            log.write(spark, tables)
        raise
    history, totals = trained.log["history"], trained.log["totals"]
    seconds = perf_counter() - start
    facts = {name: trained.log[name] for name in ("kept", "held_out", "warm_rows")}
    log.add("total", seconds, facts | progress.told())
    log.write(spark, tables)
    if not is_first and (found := _done(tables, training)):
        progress.note(f"the same training ended elsewhere as model version {found.model_version}, which counts")
        return found
    return TrainResult(
        model_version=log.run_id,
        interactions_version=training.interactions_version,
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


def _done(tables: Tables, training: Training) -> TrainResult | None:
    """Return what the same training made before, if it has been done."""
    found = tables.collect("models", {"identity": training.identity}) if tables.exists("models") else []
    if not found:
        return None
    row = max(found, key=lambda row: (row["created_at"], row["model_version"]))
    return TrainResult(
        model_version=row["model_version"],
        interactions_version=training.interactions_version,
        users=row["n_users"],
        items=row["n_items"],
        interactions=row["n_interactions"],
        objective=row["objective"],
        iterations=len(row["objective_history"]),
        attempts=0,
        seconds=0.0,
        seconds_per_iteration=0.0,
        seconds_per_phase={},
    )


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


def _version_to_align_to(tables: Tables, config: Config, progress: TrainingProgress) -> str | None:
    live = live_version(tables) if config.train.align else None
    if live is None:
        return None
    theirs = newest(tables, live).config.model
    if theirs.algorithm in UNTURNED or theirs.rank != config.model.rank:
        progress.note(f"not aligned: the live model {live} is {theirs.algorithm} of rank {theirs.rank}")
        return None
    return live


def _aligned(tables: Tables, trained: Trained, version: str, rank: int) -> Trained:
    """Turn the factors toward a version's, as they were trained: what a stream has changed since is no frame."""
    old = tables.read("item_factors").where(F.col("model_version") == version)
    return replace(trained, alignment=align(trained.factors("item"), old, rank))


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
