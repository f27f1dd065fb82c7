"""The audit of who was forgotten: a request is begun, then its rows are deleted, then their history is gone."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from pyspark.sql import SparkSession

from lakefactor.spark.tables import Tables

Left = Mapping[str, tuple[int, datetime]]
"""Of tables: the first version that is left, and since when files are left that no version needs."""


def begin(
    spark: SparkSession, tables: Tables, rows: Mapping[str, Mapping[str, int]], items: Mapping[str, int]
) -> list[str]:
    """Enter requests, but those that were begun before and cut off; return the ids of all that are open.

    Parameters
    ----------
    spark : SparkSession
    tables : Tables
    rows : mapping
        Of each user, by hash: the rows by table.
    items : mapping
        Of each user, by hash: how many items.
    """
    begun = {row["user_hash"]: row["erasure_id"] for row in tables.collect("erasures", {"state": "begun"})}
    now = datetime.now(timezone.utc)
    new = [
        _row(user_hash, now) | {"rows": dict(counts), "items": items.get(user_hash, 0)}
        for user_hash, counts in rows.items()
        if user_hash not in begun
    ]
    if new:
        tables.append("erasures", spark.createDataFrame(new, tables.read("erasures").schema))
    return [*(begun[user_hash] for user_hash in rows if user_hash in begun), *(row["erasure_id"] for row in new)]


def record_deleted(spark: SparkSession, tables: Tables, ids: list[str], facts: Mapping[str, Any]) -> None:
    """Note of some requests that no table has rows of their users any more.

    ``facts`` has ``versions``, ``model_version``, ``remains``, ``remains_until``.
    """
    now = datetime.now(timezone.utc)
    _update(spark, tables, [{"erasure_id": name, "state": "deleted", "deleted_at": now, **facts} for name in ids])


def tables_of_pending(tables: Tables) -> dict[str, datetime]:
    """Return the tables whose history may still name somebody who was forgotten, and since when."""
    rows = tables.collect("erasures", {"state": "deleted"}) if tables.exists("erasures") else []
    rows.sort(key=lambda row: row["deleted_at"], reverse=True)
    return {table: row["deleted_at"] for row in rows for table in row["versions"]}


def finish(spark: SparkSession, tables: Tables, left: Left) -> int:
    """Note of the requests whose history is gone that they are done, and return how many those were."""
    if not tables_of_pending(tables):
        return 0
    now = datetime.now(timezone.utc)
    done = [
        {"erasure_id": row["erasure_id"], "state": "done", "done_at": now, "remains": None}
        for row in tables.collect("erasures", {"state": "deleted"})
        if all(_is_gone(left.get(table), first, row["deleted_at"]) for table, first in row["versions"].items())
    ]
    if done:
        _update(spark, tables, done)
    return len(done)


def _is_gone(left: tuple[int, datetime] | None, first: int, deleted_at: datetime) -> bool:
    return left is not None and left[0] >= first and left[1] >= deleted_at


def _row(user_hash: str, now: datetime) -> dict[str, Any]:
    nothing = dict.fromkeys(("model_version", "deleted_at", "remains", "remains_until", "done_at"))
    return nothing | {
        "erasure_id": secrets.token_hex(8),
        "user_hash": user_hash,
        "requested_at": now,
        "state": "begun",
        "versions": {},
    }


def _update(spark: SparkSession, tables: Tables, rows: list[dict[str, Any]]) -> None:
    columns = list(rows[0])
    schema = tables.read("erasures").select(*columns).schema
    tables.update("erasures", spark.createDataFrame(rows, schema), ["erasure_id"], columns[1:])
