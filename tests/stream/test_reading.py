"""What docs/reading.md tells readers of other engines to run gives the rows that lakefactor reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from lakefactor.config import Config
from lakefactor.query import Reader
from lakefactor.spark.live_factors import read_factors
from lakefactor.spark.tables import Tables
from lakefactor.testing.live_factors import LIVE, OTHER, USERS, append_rows, factor_row, update_row, write_trained

PAGE = Path(__file__).parents[2] / "docs" / "reading.md"
TABLES = ("live_model", "factor_updates", "user_factors")
COLUMNS = ("model_version", "user_id", "factors", "bias", "n_entries", "batch_id")


def block(language: str) -> str:
    """Return the first block of a language, which is of users' rows."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]


def by_spark(spark: SparkSession, tables: Tables) -> pa.Table:
    query = block("sql")
    for table in TABLES:
        query = re.sub(rf"FROM {table}\b", lambda _, table=table: f"FROM {tables.sql_name(table)}", query)
    return spark.sql(query).toArrow()


def by_duckdb(root: str) -> pa.Table:
    with duckdb.connect() as connection:
        for table in TABLES:
            connection.register(table, DeltaTable(f"{root}/{table}").to_pyarrow_dataset())
        return connection.sql(block("sql")).to_arrow_table()


def by_polars(root: str) -> pa.Table:
    names: dict[str, Any] = {"root": root}
    exec(block("python"), names)
    return names["newest"].to_arrow()


def rows(table: pa.Table) -> list[dict[str, Any]]:
    return table.select(COLUMNS).sort_by("user_id").to_pylist()


def test_every_engine_gives_the_same_rows(spark: SparkSession, config: Config) -> None:
    pytest.importorskip("polars")
    tables = write_trained(spark, config)
    append_rows(spark, tables, "factor_updates", [update_row("user", "bob", 2), update_row("user", "new", 2)])
    more = [update_row("user", "bob", 1), update_row("user", "ann", 3, version=OTHER), update_row("item", "i1", 3)]
    append_rows(spark, tables, "factor_updates", more)
    append_rows(spark, tables, "user_factors", [factor_row("user", "zoe", 2)])
    append_rows(spark, tables, "factor_updates", [update_row("user", "zoe", 1)])

    batches = dict.fromkeys(USERS, -1) | {"bob": 2, "new": 2, "zoe": 2}
    wanted = [{name: factor_row("user", user, batch)[name] for name in COLUMNS} for user, batch in batches.items()]
    wanted.sort(key=lambda row: row["user_id"])
    root = config.tables.root
    assert rows(read_factors(tables, "user", LIVE).toArrow()) == wanted
    assert rows(Reader(config.tables).sql("SELECT * FROM live_user_factors")) == wanted
    assert rows(by_spark(spark, tables)) == wanted
    assert rows(by_duckdb(root)) == wanted
    assert rows(by_polars(root)) == wanted
