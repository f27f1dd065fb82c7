"""The DDL on a real Delta session: what the YAML says is what the table enforces, and any reader can read it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from py4j.protocol import Py4JJavaError
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql.types import StructType

from lakefactor.contracts import TableContract, by_name, by_path, load, names
from lakefactor.contracts.model import Column


class Created(NamedTuple):
    """A table made from its contract, with ids of both types where it has both."""

    contract: TableContract
    types: dict[str, str]
    folder: Path
    name: str
    schema: StructType


def create(spark: SparkSession, contract: TableContract, folder: Path) -> Created:
    name = by_path(str(folder))
    for statement in contract.ddl(name, None, "string", "long"):
        spark.sql(statement)
    return Created(contract, contract.column_types("string", "long"), folder, name, spark.table(name).schema)


@pytest.fixture(scope="module", params=names())
def table(request: pytest.FixtureRequest, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Created:
    return create(spark, load(request.param), tmp_path_factory.mktemp("tables") / request.param)


def good(column: Column, sql_type: str) -> Any:
    """A value that the contract allows, made from the contract's own words."""
    number = next(bound for bound in (column.min, column.max, 1) if bound is not None)
    if column.min is not None and column.max is not None:
        number = (column.min + column.max) / 2
    return {
        "STRING": column.one_of[0] if column.one_of else "x" * (column.min_length or 1),
        "BINARY": b"x" * (column.min_length or 1),
        "TIMESTAMP": datetime(2024, 2, 29, 12),
        "INT": int(number),
        "BIGINT": int(number),
        "FLOAT": float(number),
        "DOUBLE": float(number),
        "ARRAY<FLOAT>": [0.5, -1.5],
        "ARRAY<DOUBLE>": [0.5, -1.5],
        "MAP<STRING,BIGINT>": {"a": 1},
        "MAP<STRING,DOUBLE>": {"a": 0.5},
        "MAP<STRING,STRING>": {"a": "b"},
    }[sql_type]


def good_row(table: Created) -> dict[str, Any]:
    row = {column.name: good(column, table.types[column.name]) for column in table.contract.columns}
    if "similar_item_id" in row:  # an item is not similar to itself
        row["similar_item_id"] = row["item_id"] * 2
    if table.contract.name == "factor_updates":  # a row is of a user or of an item
        row["item_id" if row["side"] == "user" else "user_id"] = None
    return row


def bad(column: Column, sql_type: str) -> Iterator[Any]:
    """Values that the contract forbids, null apart."""
    if sql_type in ("FLOAT", "DOUBLE"):
        yield from (math.nan, math.inf, -math.inf)
    if sql_type.startswith("ARRAY"):
        yield from ([1.0, math.nan], [math.inf], [1.0, None])
        if column.min_length:
            yield []
    if column.min is not None:
        yield type(good(column, sql_type))(column.min - 1)
    if column.max is not None:
        yield type(good(column, sql_type))(column.max + 1)
    if column.min_length and sql_type in ("STRING", "BINARY"):
        yield good(column, sql_type)[:-1]
    if column.one_of:
        yield from ("", column.one_of[0] + " ", column.one_of[0].upper())


def frame(spark: SparkSession, rows: list[dict[str, Any]], schema: StructType) -> DataFrame:
    """Rows in a frame whose columns may all be null, as in any frame that a writer is handed."""
    loose = StructType.fromJson(schema.jsonValue())
    for field in loose.fields:
        field.nullable = True
    return spark.createDataFrame([Row(**row) for row in rows], loose)


def append(spark: SparkSession, table: Created, *rows: dict[str, Any]) -> None:
    frame(spark, list(rows), table.schema).writeTo(table.name).append()


def test_the_table_is_what_the_contract_says(spark: SparkSession, table: Created) -> None:
    contract, fields = table.contract, table.schema.fields
    found = {field.name: field.dataType.simpleString() for field in fields}
    assert list(found) == [column.name for column in contract.columns]
    assert contract.differences(found, "string", "long") == []
    assert {field.name for field in fields if field.nullable} == {col.name for col in contract.columns if col.nullable}
    for field, column in zip(fields, contract.columns, strict=True):
        assert field.metadata["comment"].startswith(column.meaning)
    detail = spark.sql(f"DESCRIBE DETAIL {table.name}").collect()[0]
    assert (detail.description, detail.partitionColumns) == (contract.grain, [])
    assert detail.clusteringColumns == list(contract.cluster_by)
    assert detail.properties["lakefactor.contract"] == contract.name
    assert (detail.properties.get("delta.enableChangeDataFeed") == "true") is contract.change_data_feed


def test_conditions_are_true_for_good_values_and_not_for_bad_ones(spark: SparkSession, table: Created) -> None:
    """All conditions over all bad values of a table in one query, as Delta would decide: only true lets a row in."""
    columns, row = table.contract.columns, good_row(table)
    empty = {column.name for column in columns if column.nullable}
    if table.contract.name == "factor_updates":
        empty -= {"user_id", "item_id"}  # one of the two is there
    allowed = [row, row | dict.fromkeys(empty)]
    refused = [{**row, column.name: value} for column in columns for value in bad(column, table.types[column.name])]
    properties = DeltaTable(table.folder).metadata().configuration
    conditions = [text for key, text in properties.items() if key.startswith("delta.constraints.")]
    answers = frame(spark, allowed + refused, table.schema).selectExpr(
        " AND ".join(f"coalesce({condition}, false)" for condition in conditions)
    )
    assert [answer[0] for answer in answers.collect()] == [True] * len(allowed) + [False] * len(refused)


def test_delta_enforces_it_and_readers_without_spark_read_it(spark: SparkSession, table: Created) -> None:
    columns, row = table.contract.columns, good_row(table)
    append(spark, table, row)
    column, value = next((col, value) for col in columns for value in bad(col, table.types[col.name]))
    with pytest.raises(Py4JJavaError, match=f"{column.name}_valid"):
        append(spark, table, {**row, column.name: value})
    reader = DeltaTable(table.folder)
    read = pa.table(reader.scan())  # pyarrow alone does not know deletion vectors
    assert [commit["operation"] for commit in reader.history()] == ["WRITE", "CREATE TABLE"]  # one commit for each
    assert (read.column_names, read.num_rows) == (list(table.types), 1)
    for name, kind in table.types.items():
        if kind in ("STRING", "BINARY", "INT", "BIGINT", "DOUBLE") or kind.startswith("ARRAY"):
            assert read.column(name)[0].as_py() == row[name]


def test_a_null_where_the_contract_has_none_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    table = create(spark, load("decisions"), tmp_path)
    with pytest.raises(Py4JJavaError, match="NOT NULL constraint violated for column: decided_at"):
        append(spark, table, {**good_row(table), "decided_at": None})


def test_creating_a_table_again_changes_nothing(spark: SparkSession, tmp_path: Path) -> None:
    create(spark, load("models"), tmp_path)
    create(spark, load("models"), tmp_path)
    assert DeltaTable(tmp_path).version() == 0


def test_every_awkward_folder_name_is_a_place_for_tables(spark: SparkSession, tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s `a` "lake" №1'
    assert spark.table(create(spark, load("live_model"), folder).name).count() == 0
    assert (folder / "_delta_log").is_dir()


def test_a_table_in_a_schema_has_the_same_constraints(spark: SparkSession, tmp_path: Path) -> None:
    contract = load("recommendations")
    name = by_name("spark_catalog.contracts_test", contract.name)
    spark.sql(f"CREATE SCHEMA contracts_test LOCATION '{tmp_path}'")
    try:
        spark.sql(contract.ddl(name)[0])
        table = Created(contract, contract.column_types(), tmp_path / contract.name, name, spark.table(name).schema)
        append(spark, table, good_row(table))
        with pytest.raises(Py4JJavaError, match="position_valid"):
            append(spark, table, {**good_row(table), "position": 0})
        assert spark.table(name).count() == 1
    finally:
        spark.sql("DROP SCHEMA contracts_test CASCADE")


def test_text_of_a_contract_arrives_as_it_is(spark: SparkSession, tmp_path: Path) -> None:
    text = 'It\'s \\ a `test`; "quoted" -- and é\nmore.'
    column = {"name": "a", "type": "STRING", "meaning": text, "one_of": ["it's", "a\\b"]}
    table = create(
        spark, TableContract.model_validate({"name": "t", "grain": text, "key": ["a"], "columns": [column]}), tmp_path
    )
    assert table.schema.fields[0].metadata["comment"] == text
    assert spark.sql(f"DESCRIBE DETAIL {table.name}").collect()[0].description == text
    append(spark, table, {"a": "it's"}, {"a": "a\\b"})
    with pytest.raises(Py4JJavaError, match="a_valid"):
        append(spark, table, {"a": "its"})


def test_the_changes_of_events_can_be_read(spark: SparkSession, tmp_path: Path) -> None:
    table = create(spark, load("events"), tmp_path)
    append(spark, table, good_row(table))
    changes = spark.read.option("readChangeFeed", "true").option("startingVersion", 0).table(table.name)
    assert [row["_change_type"] for row in changes.collect()] == ["insert"]
