"""Model versions: which exist, which one is live."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import functions as F

from lakefactor.config import Config, recorded
from lakefactor.errors import TableError
from lakefactor.spark.tables import Tables

LIVE_NAME = "default"


@dataclass(frozen=True)
class ModelRecord:
    """A row of ``models``."""

    model_version: str
    config: Config
    interactions_version: int
    mean: float
    min_strength: float
    max_strength: float
    n_users: int
    n_items: int


def newest(tables: Tables, model_version: str | None = None) -> ModelRecord:
    """Return a model version by name, or the newest.

    Raises
    ------
    TableError
        There is none of that name, or none at all.
    """
    models = tables.read("models")
    if model_version is not None:
        models = models.where(F.col("model_version") == model_version)
    row = models.orderBy(F.desc("created_at"), F.desc("model_version")).first()
    if row is None:
        wanted = f"model version {model_version!r}" if model_version else "any model version"
        raise TableError(f"table models does not hold {wanted}; 'lakefactor query models' lists what there is")
    return ModelRecord(
        row.model_version,
        recorded(row.config),
        row.input_versions["interactions"],
        row["mean"],
        row.min_strength,
        row.max_strength,
        row.n_users,
        row.n_items,
    )


def live_version(tables: Tables) -> str | None:
    """Return the published model version, or None before the first."""
    if not tables.exists("live_model"):
        return None
    return next((row["model_version"] for row in tables.collect("live_model") if row["name"] == LIVE_NAME), None)


def readable_versions(tables: Tables) -> set[str]:
    """Return the versions that may still be read: the live one, the one to roll back to, and the newest."""
    versions: set[str | None] = set()
    if tables.exists("live_model"):
        live = tables.read("live_model").where(F.col("name") == LIVE_NAME).first()
        versions |= {live.model_version, live.previous_version} if live else set()
    if tables.exists("models"):
        row = tables.read("models").orderBy(F.desc("created_at"), F.desc("model_version")).first()
        versions |= {row.model_version} if row else set()
    return {version for version in versions if version is not None}
