"""What makes a model version exist: its factor rows, then its row in ``models``."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from importlib.metadata import version
from time import perf_counter
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Config, canonical_json, without_secrets
from lakefactor.pipelines.run_log import RunLog
from lakefactor.pipelines.training_run import Training
from lakefactor.spark.commits import commit_metadata
from lakefactor.spark.suppression import load_suppression
from lakefactor.spark.tables import Tables
from lakefactor.spark.training import Trained
from lakefactor.types import SIDES, Side

RECORDED_LIBRARIES = ("lakefactor", "pyspark", "delta-spark", "torch", "numpy", "numba", "scipy", "pyarrow")


def write_version(
    spark: SparkSession, tables: Tables, training: Training, trained: Trained, log: RunLog, start: float, fresh: bool
) -> bool:
    """Write factor rows, then the row that makes the version exist.

    Parameters
    ----------
    spark : SparkSession
    tables : Tables
    training : Training
    trained : Trained
    log : RunLog
        Its run is the version; it is told how long the writes took.
    start : float
        When the training began, as `perf_counter` tells it.
    fresh : bool
        Write the row even where the same training has made a version.

    Returns
    -------
    bool
        Whether the version exists; not where the same training has ended elsewhere in the meantime.
    """
    model_version = log.run_id
    for table in ("user_factors", "item_factors", "models"):
        tables.ensure(table, *tables.id_types("interactions"))
    suppression = load_suppression(spark, training.config)
    for side in SIDES:
        rows = trained.factors(side)
        if side == "user":  # forgotten since the training has read its input
            rows = suppression.without(rows)
        with log.phase(f"write_{side}_factors"):
            _write_factors(tables, rows, side, model_version)
    with log.phase("write_models"):
        row = _model_row(training, model_version, trained) | {"train_seconds": perf_counter() - start}
        row["made_from"] = _made_from(tables, training.interactions_version)
        models = spark.createDataFrame([row], tables.read("models").schema)
        if not fresh:
            return bool(tables.merge_new("models", models, ["identity"]))
        tables.append("models", models, txn=(model_version, 0))
        return True


def _write_factors(tables: Tables, rows: DataFrame, side: Side, model_version: str) -> None:
    stamped = rows.select(
        F.lit(model_version).alias("model_version"),
        f"{side}_id",
        "factors",
        "bias",
        "n_entries",
        F.current_timestamp().alias("updated_at"),
        F.lit(-1).cast("bigint").alias("batch_id"),
    )
    tables.append(f"{side}_factors", stamped, txn=(model_version, 0))


def _made_from(tables: Tables, version: int) -> str | None:
    """Return what the interactions were made of, by their commit: its place in the history may go before the model."""
    record = commit_metadata(tables, "interactions", version)
    known = (
        {"events_version": record["made_from"]["events_version"], "span": record["span"]} if "span" in record else None
    )
    return None if known is None else json.dumps(known, sort_keys=True)


def _model_row(training: Training, model_version: str, trained: Trained) -> dict[str, Any]:
    config, totals = training.config, trained.log["totals"]
    return {
        "model_version": model_version,
        "created_at": datetime.now(timezone.utc),
        "algorithm": config.model.algorithm,
        "rank": config.model.rank,
        "identity": training.identity,
        "config": canonical_json(_without_users(without_secrets(config))),
        "seed": config.model.seed,
        "input_versions": {"interactions": training.interactions_version},
        "library_versions": {name: version(name) for name in RECORDED_LIBRARIES},
        "n_users": totals["users"],
        "n_items": totals["items"],
        "n_interactions": totals["entries"],
        "mean": trained.log["mean"],
        "min_strength": totals["min_strength"],
        "max_strength": totals["max_strength"],
        "objective": trained.objective,
        "aligned_to": training.align_to,
        "alignment_cosine": trained.alignment.cosine if trained.alignment else None,
        "objective_history": [iteration["objective"] for iteration in trained.log["history"]],
        "removed_at": None,
    }


def _without_users(config: Config) -> Config:
    """Return the configuration as it is recorded: who gets lists is no part of a model, and ids stay out of records."""
    return config.model_copy(update={"recommend": config.recommend.model_copy(update={"users": ()})})
