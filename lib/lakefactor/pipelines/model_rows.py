"""What makes a model version exist: its factor rows, then its row in ``models``."""

from __future__ import annotations

from datetime import datetime, timezone
from importlib.metadata import version
from time import perf_counter
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lakefactor.config import canonical_json, without_secrets
from lakefactor.pipelines.run_log import RunLog
from lakefactor.pipelines.training_run import Training
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
    for side in SIDES:
        with log.phase(f"write_{side}_factors"):
            _write_factors(tables, trained, side, model_version)
    with log.phase("write_models"):
        row = _model_row(training, model_version, trained) | {"train_seconds": perf_counter() - start}
        models = spark.createDataFrame([row], tables.read("models").schema)
        if not fresh:
            return bool(tables.merge_new("models", models, ["identity"]))
        tables.append("models", models, txn=(model_version, 0))
        return True


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


def _model_row(training: Training, model_version: str, trained: Trained) -> dict[str, Any]:
    config, totals = training.config, trained.log["totals"]
    return {
        "model_version": model_version,
        "created_at": datetime.now(timezone.utc),
        "algorithm": config.model.algorithm,
        "rank": config.model.rank,
        "identity": training.identity,
        "config": canonical_json(without_secrets(config)),
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
    }
