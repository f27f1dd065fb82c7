"""The resolved view of factor tables and updates: whole tables against rows chosen by hand."""

from __future__ import annotations

import uuid
from datetime import timezone
from tempfile import TemporaryDirectory

import pytest
from pyspark.sql import SparkSession

from lakefactor.config import Config
from lakefactor.config import Tables as TablesConfig
from lakefactor.spark.live_factors import collect_factors, optimizer_states, read_factors
from lakefactor.spark.tables import Tables
from lakefactor.testing.live_factors import (
    ITEMS,
    LIVE,
    OTHER,
    USERS,
    append_rows,
    factor_row,
    rows_of,
    update_row,
    write_trained,
)


def expected(side: str, batches: dict[str, int], version: str = LIVE) -> list[dict[str, object]]:
    """Return the rows of `side` where each id has its row of that micro-batch (-1: the training)."""
    rows = [factor_row(side, name, batch, version) for name, batch in batches.items()]
    for row in rows:
        row["updated_at"] = row["updated_at"].astimezone(timezone.utc).replace(tzinfo=None)
    return sorted(rows, key=str)


@pytest.fixture
def tables(spark: SparkSession, config: Config) -> Tables:
    return write_trained(spark, config)


def test_without_updates_it_is_the_plain_table(spark: SparkSession, tables: Tables) -> None:
    def plan(frame):
        return frame._jdf.queryExecution().optimizedPlan().toString()

    trained = expected("user", dict.fromkeys(USERS, -1))
    assert rows_of(read_factors(tables, "user", LIVE)) == trained
    append_rows(spark, tables, "factor_updates", [update_row("user", "ann", 0, version=OTHER)])
    frame = read_factors(tables, "user", LIVE)
    assert rows_of(frame) == trained
    assert "Join" not in plan(frame)
    assert "Join" in plan(read_factors(tables, "user", OTHER))


def test_the_update_with_the_largest_batch_id_holds(spark: SparkSession, tables: Tables) -> None:
    updates = [
        [update_row("user", "bob", 0), update_row("user", "new", 0), update_row("item", "i2", 0)],
        [update_row("user", "bob", 1), update_row("item", "i4", 1), update_row("user", "ann", 7, version=OTHER)],
        [update_row("user", "new", 2), update_row("item", "i2", 2)],
    ]
    for rows in reversed(updates):  # the order of the commits does not count
        append_rows(spark, tables, "factor_updates", rows)
    users, items = dict.fromkeys(USERS, -1), dict.fromkeys(ITEMS, -1)
    frame = read_factors(tables, "user", LIVE)
    assert frame.dtypes == tables.read("user_factors").dtypes
    assert rows_of(frame) == expected("user", users | {"bob": 1, "new": 2})
    assert rows_of(read_factors(tables, "item", LIVE)) == expected("item", items | {"i2": 2, "i4": 1})
    assert rows_of(read_factors(tables, "user", OTHER)) == expected("user", users | {"ann": 7}, OTHER)


def test_a_stream_finds_the_factors_as_they_were_before_a_micro_batch(spark: SparkSession) -> None:
    schema = f"lake_{uuid.uuid4().hex}"
    with TemporaryDirectory() as folder:
        for place in ({"root": folder}, {"root": "", "catalog": schema}):
            tables = write_trained(spark, Config(tables=TablesConfig(**place)))
            append_rows(spark, tables, "factor_updates", [update_row("user", "ann", 7, version=OTHER)])
            assert collect_factors(tables, "user", "unknown", 3).num_rows == 0
            append_rows(spark, tables, "factor_updates", [update_row("user", "new", 2), update_row("item", "i2", 0)])
            append_rows(spark, tables, "factor_updates", [update_row("user", "bob", 1)])
            append_rows(spark, tables, "factor_updates", [update_row("user", "bob", 0), update_row("user", "new", 0)])
            append_rows(spark, tables, "user_factors", [factor_row("user", "new", 0)])  # a fold is half done
            for below, (bob, new) in {0: (-1, 0), 1: (0, 0), 2: (1, 0), 3: (1, 2)}.items():
                found = collect_factors(tables, "user", LIVE, below)
                state = expected("user", dict.fromkeys(USERS, -1) | {"bob": bob, "new": new})
                assert found.to_pylist() == [{name: row[name] for name in found.column_names} for row in state]
    spark.sql(f"DROP SCHEMA {schema} CASCADE")


def test_a_factor_row_that_is_newer_than_an_update_holds(spark: SparkSession, tables: Tables) -> None:
    """A fold was done by others between the moments at which a reader opened the two tables."""
    append_rows(spark, tables, "factor_updates", [update_row("user", "zoe", 3), update_row("user", "yan", 3)])
    append_rows(spark, tables, "user_factors", [factor_row("user", "zoe", 5), factor_row("user", "yan", 3)])
    state = dict.fromkeys(USERS, -1) | {"zoe": 5, "yan": 3}
    assert rows_of(read_factors(tables, "user", LIVE)) == expected("user", state)


def test_what_was_read_stays_as_it_was(spark: SparkSession, tables: Tables) -> None:
    append_rows(spark, tables, "factor_updates", [update_row("user", "ann", 0)])
    frame = read_factors(tables, "user", LIVE)
    append_rows(spark, tables, "factor_updates", [update_row("user", "ann", 1), update_row("user", "new", 1)])
    spark.sql(f"DELETE FROM {tables.sql_name('user_factors')}")
    assert rows_of(frame) == expected("user", dict.fromkeys(USERS, -1) | {"ann": 0})


def test_optimizer_states_are_the_newest_that_are_there(spark: SparkSession, tables: Tables) -> None:
    assert rows_of(optimizer_states(tables, "user", LIVE)) == []
    updates = [
        update_row("user", "ann", 0, [1.0, 2.0]),
        update_row("user", "ann", 1, [3.0, 4.0]),
        update_row("user", "bob", 0, [5.0]),
        update_row("user", "bob", 1),
        update_row("user", "cid", 1),
        update_row("user", "dora", 1, [9.0], version=OTHER),
        update_row("item", "i1", 1, [6.0]),
    ]
    append_rows(spark, tables, "factor_updates", updates)
    assert rows_of(optimizer_states(tables, "user", LIVE)) == [
        {"user_id": "ann", "optimizer_state": [3.0, 4.0]},
        {"user_id": "bob", "optimizer_state": [5.0]},
    ]
    assert rows_of(optimizer_states(tables, "item", LIVE)) == [{"item_id": "i1", "optimizer_state": [6.0]}]
