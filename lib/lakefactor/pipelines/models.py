"""Model versions: which exist, which one is live."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lakefactor.config import Config, recorded
from lakefactor.errors import TableError
from lakefactor.query.reader import LIVE_NAME
from lakefactor.spark.tables import Tables


@dataclass(frozen=True)
class ModelRecord:
    """A row of ``models``."""

    model_version: str
    created_at: datetime
    config: Config
    interactions_version: int
    mean: float
    min_strength: float
    max_strength: float
    n_users: int
    n_items: int
    made_from: dict[str, Any] | None


def newest(tables: Tables, model_version: str | None = None) -> ModelRecord:
    """Return a model version by name, or the newest.

    Raises
    ------
    TableError
        There is none of that name, or none at all, or its factors were removed.
    """
    found = tables.collect("models", {"model_version": model_version} if model_version is not None else None)
    if model_version is None:
        found = [row for row in found if row["removed_at"] is None]
    if not found:
        wanted = f"model version {model_version!r}" if model_version else "any model version"
        raise TableError(f"table models does not hold {wanted}; 'lakefactor query models' lists what there is")
    row = max(found, key=lambda row: (row["created_at"], row["model_version"]))
    if row["removed_at"] is not None:
        raise TableError(
            f"the factors of model version {row['model_version']} were removed at {row['removed_at']:%Y-%m-%d %H:%M} "
            "by 'lakefactor maintain' (maintain.keep_models); name a version that has some, or train it again"
        )
    return ModelRecord(
        row["model_version"],
        row["created_at"],
        recorded(row["config"]),
        row["input_versions"]["interactions"],
        row["mean"],
        row["min_strength"],
        row["max_strength"],
        row["n_users"],
        row["n_items"],
        json.loads(row["made_from"]) if row["made_from"] else None,
    )


def live_row(tables: Tables) -> dict[str, Any] | None:
    """Return the row of ``live_model`` that readers go by, or None before the first publish."""
    if not tables.exists("live_model"):
        return None
    return next(iter(tables.collect("live_model", {"name": LIVE_NAME})), None)


def live_version(tables: Tables) -> str | None:
    """Return the published model version, or None before the first."""
    live = live_row(tables)
    return live["model_version"] if live else None


def wanted_version(tables: Tables, model_version: str | None) -> str:
    """Return the version that was named, else the live one.

    Raises
    ------
    TableError
        None was named, and none is published.
    """
    version = model_version or live_version(tables)
    if version is None:
        raise TableError("no model is published; run 'lakefactor publish', or name one with --model-version")
    return version


def readable_versions(tables: Tables) -> set[str]:
    """Return the versions that may still be read.

    They are the live one, the one to roll back to, the newest, and those of running A/B tests.
    """
    versions: set[str | None] = set()
    if live := live_row(tables):
        versions |= {live["model_version"], live["previous_version"]}
    if tables.exists("experiments"):
        for experiment in tables.collect("experiments"):
            versions |= set() if experiment["ended_at"] else set(experiment["variants"].values())
    if tables.exists("models"):
        with suppress(TableError):  # none yet
            versions.add(newest(tables).model_version)
    return {version for version in versions if version is not None}
