"""What the commits of a table say of themselves: what they were given to say, and which of them changed rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakefactor.errors import TableError
from lakefactor.spark.tables import Tables

_CHANGES = ("WRITE", "MERGE", "STREAMING UPDATE")
"""Operations that change rows, and not only files."""

_MEANWHILE = 100
"""More commits than others make between two calls."""


def commit_metadata(tables: Tables, table: str, version: int | None = None) -> dict[str, Any]:
    """Return the metadata that a commit of `table`, or its newest, was given; empty where it was given none.

    Raises
    ------
    TableError
        The log no longer holds the commit.
    """
    found = tables.history(table, 1) if version is None else tables.history(table).where(F.col("version") == version)
    commit = found.first()
    if commit is None:
        raise TableError(
            f"table {table} at {tables.path_or_name(table)} no longer has the commit of version {version} in its log"
        )
    return json.loads(commit["userMetadata"] or "{}")


def version_with(tables: Tables, table: str, metadata: Mapping[str, Any], after: int | None = None) -> int | None:
    """Return the version of `table` whose commit was given `metadata`; None where there is none.

    With `after` only later versions are looked at, and no other commit is read.
    """
    wanted = json.dumps(metadata, sort_keys=True)
    commits = tables.history(table) if after is None else _later(tables, table, after)
    found = commits.where(F.col("userMetadata") == wanted).agg(F.max("version").alias("version")).first()
    assert found is not None
    return None if found["version"] is None else int(found["version"])


def newest_metadata(tables: Tables, table: str, key: str, value: str) -> dict[str, Any]:
    """Return the metadata of the newest commit of `table` in which `key` has this value; empty: there is none."""
    found = tables.history(table).where(F.get_json_object("userMetadata", f"$.{key}") == value)
    newest = found.agg(F.max_by("userMetadata", "version").alias("metadata")).first()
    assert newest is not None
    return json.loads(newest["metadata"] or "{}")


def first_change_after(tables: Tables, table: str, version: int) -> int | None:
    """Return the first version of `table` after one that changed rows, and not only files; None: there is none."""
    changes = _later(tables, table, version).where(F.col("operation").isin(*_CHANGES))
    found = changes.agg(F.min("version").alias("version")).first()
    assert found is not None
    return None if found["version"] is None else int(found["version"])


def _later(tables: Tables, table: str, version: int) -> DataFrame:
    """Return the commits after a version; of the log little more is read than these."""
    count = max(tables.version(table) - version, 0) + _MEANWHILE
    return tables.history(table, count).where(F.col("version") > version)
