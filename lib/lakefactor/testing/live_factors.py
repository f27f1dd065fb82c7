"""A small live model and updates of it as a stream appends them, for tests of everything that reads factors."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from lakefactor.config import Config
from lakefactor.spark.tables import Tables
from lakefactor.types import SIDES, Side

Rows = list[dict[str, Any]]

LIVE, OTHER = "20261120-080000-aaaa", "20261119-080000-bbbb"
USERS, ITEMS = ("ann", "bob", "cid", "dora"), ("i1", "i2", "i3")
TRAINED_AT = datetime(2026, 11, 20, 8, tzinfo=timezone.utc)


def factor_row(side: Side, name: str, batch: int = -1, version: str = LIVE) -> dict[str, Any]:
    """Return the row that micro-batch `batch` (-1: the training) gives to one id; no two batches give the same."""
    return {
        "model_version": version,
        f"{side}_id": name,
        "factors": [batch + 2.0 if version == LIVE else -batch - 2.0, float(len(name))],
        "bias": float(batch),
        "n_entries": batch + 5,
        "updated_at": TRAINED_AT + timedelta(minutes=batch),
        "batch_id": batch,
    }


def update_row(
    side: Side, name: str, batch: int, state: Sequence[float] | None = None, version: str = LIVE
) -> dict[str, Any]:
    """Return the same as a row of ``factor_updates``."""
    return factor_row(side, name, batch, version) | {
        "item_id" if side == "user" else "user_id": None,
        "side": side,
        "rule": "exact" if state is None else "adam",
        "optimizer_state": None if state is None else list(state),
    }


def append_rows(spark: SparkSession, tables: Tables, table: str, rows: Rows) -> None:
    """Append rows in one commit and one file, creating the table first."""
    tables.ensure(table)
    tables.append(table, spark.createDataFrame(rows, tables.read(table).schema).coalesce(1))


def write_trained(spark: SparkSession, config: Config) -> Tables:
    """Make a live version and another one: `USERS`, `ITEMS`, and no updates."""
    tables = Tables(spark, config.tables)
    for side, names in zip(SIDES, (USERS, ITEMS), strict=True):
        rows = [factor_row(side, name, version=version) for version in (LIVE, OTHER) for name in names]
        append_rows(spark, tables, f"{side}_factors", rows)
    live = {"name": "default", "model_version": LIVE, "previous_version": OTHER, "published_at": TRAINED_AT}
    append_rows(spark, tables, "live_model", [live | {"decision_id": "d"}])
    return tables


def rows_of(frame: DataFrame) -> Rows:
    """Return all rows as dicts, ordered by their text."""
    return sorted((row.asDict() for row in frame.collect()), key=str)
