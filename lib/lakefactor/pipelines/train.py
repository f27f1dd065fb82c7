"""Train: ``interactions`` at one pinned version -> factor rows and a ``models`` row under a new model version."""

from __future__ import annotations

import secrets
from datetime import datetime, timezone
from importlib.metadata import version
from time import perf_counter
from typing import Any

from pydantic import BaseModel, ConfigDict
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Config, canonical_json
from lakefactor.pipelines.progress import TrainingProgress
from lakefactor.spark.tables import Tables
from lakefactor.spark.training import Trained, train_interactions
from lakefactor.types import SIDES, Side

RECORDED_LIBRARIES = ("lakefactor", "pyspark", "delta-spark", "torch", "numpy", "numba", "scipy", "pyarrow")


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
    seconds: float
    seconds_per_iteration: float


def run(spark: SparkSession, config: Config) -> TrainResult:
    """Train a model; it stays invisible to readers until it is published.

    Parameters
    ----------
    spark : SparkSession
    config : Config

    Raises
    ------
    TableError
        There is no ``interactions`` table.
    InputError, SolveError, SetupError, RankFailedError
        As :func:`lakefactor.spark.training.train_interactions`.
    """
    start = perf_counter()
    tables = Tables(spark, config.tables)
    interactions_version = tables.version("interactions")
    interactions = tables.read("interactions", interactions_version)
    model_version = new_model_version()
    with TrainingProgress(config.train.iterations) as progress:
        trained = train_interactions(interactions, config, progress)
    try:
        for table in ("user_factors", "item_factors", "models"):
            tables.ensure(table, *tables.id_types("interactions"))
        for side in SIDES:
            _write_factors(tables, trained, side, model_version)
        row = _model_row(config, model_version, interactions_version, trained)
        row["train_seconds"] = perf_counter() - start
        models = spark.createDataFrame([row], tables.read("models").schema)
        tables.append("models", models, txn=(model_version, 0))
    finally:
        trained.release()
    history, totals = trained.log["history"], trained.log["totals"]
    return TrainResult(
        model_version=model_version,
        interactions_version=interactions_version,
        users=totals["users"],
        items=totals["items"],
        interactions=totals["entries"],
        objective=trained.objective,
        iterations=len(history),
        seconds=round(perf_counter() - start, 3),
        seconds_per_iteration=round(trained.log["seconds"]["iterations"] / len(history), 4),
    )


def new_model_version() -> str:
    """Return a name that sorts by time and is unique, such as ``20261122-154312-3f9c``."""
    return f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


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
