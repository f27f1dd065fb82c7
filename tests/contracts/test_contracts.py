"""The YAML contracts: complete, explained, consistent, and safe when they become SQL text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lakefactor.contracts import TableContract, by_name, by_path, docs, load, names
from lakefactor.contracts.ddl import column_check
from lakefactor.contracts.model import Column
from lakefactor.errors import TableError

CHECKOUT = Path(__file__).parents[2]
INFINITY = "CAST('Infinity' AS DOUBLE)"


def contract(**changes: Any) -> TableContract:
    columns = [{"name": "a", "type": "STRING", "meaning": "A."}, {"name": "b", "type": "BINARY", "meaning": "B."}]
    return TableContract.model_validate({"name": "t", "grain": "One.", "key": ["a"], "columns": columns, **changes})


def column(kind: str, **facts: Any) -> Column:
    return Column.model_validate({"name": "c", "type": kind, "meaning": "M.", **facts})


def test_the_tables_of_the_main_job_are_here() -> None:
    job = "events rejects interactions user_factors item_factors models live_model decisions evaluations"
    assert {*job.split(), "recommendations", "similar_items", "run_log"} <= set(names())


@pytest.mark.parametrize("name", names())
def test_a_contract_is_called_as_its_file_and_explains_every_column(name: str) -> None:
    table = load(name)
    assert table.name == name
    for text in (table.grain, *(column.meaning for column in table.columns)):
        assert text.strip("`")[0].isalpha(), text
        assert text.endswith("."), text


@pytest.mark.parametrize("name", names())
def test_key_and_clustering_lie_where_delta_keeps_statistics(name: str) -> None:
    table = load(name)
    first = [column.name for column in table.columns[:32]]
    assert {*table.key, *table.cluster_by} <= set(first)


def test_a_stream_can_read_the_changes_of_events() -> None:
    assert load("events").change_data_feed


def test_ids_take_the_type_that_the_warehouse_has() -> None:
    assert load("similar_items").column_types("string", "long") == {
        "model_version": "STRING",
        "item_id": "BIGINT",
        "position": "INT",
        "similar_item_id": "BIGINT",
        "similarity": "FLOAT",
        "created_at": "TIMESTAMP",
    }
    assert load("events").column_types("long", "string")["user_id"] == "BIGINT"
    assert load("events").column_types("long", "string")["item_id"] == "STRING"


def test_an_unknown_table_is_refused_with_the_known_ones() -> None:
    with pytest.raises(TableError, match=r"'event'; the tables are .*events"):
        load("event")


@pytest.mark.parametrize(
    "changes",
    [
        {"key": ["c"]},
        {"cluster_by": ["c"]},
        {"cluster_by": ["b"]},
        {"key": []},
        {"name": "t; DROP TABLE x"},
        {"owner": "me"},
        {"columns": []},
        {"columns": [{"name": "a", "type": "STRING", "meaning": "A."}] * 2},
        {"columns": [{"name": "a", "type": "TEXT", "meaning": "A."}]},
        {"columns": [{"name": "a", "type": "STRING", "meaning": ""}]},
        {"columns": [{"name": "a b", "type": "STRING", "meaning": "A."}]},
    ],
)
def test_a_contract_that_contradicts_itself_is_refused(changes: dict[str, Any]) -> None:
    contract()
    with pytest.raises(ValidationError):
        contract(**changes)


@pytest.mark.parametrize(
    ("col", "sql_type", "condition"),
    [
        (column("STRING"), "STRING", None),
        (column("TIMESTAMP", nullable=True), "TIMESTAMP", None),
        (column("user_id", min_length=1), "STRING", "length(`c`) >= 1"),
        (column("user_id", min_length=1), "BIGINT", None),
        (column("BIGINT", min=0), "BIGINT", "`c` >= 0"),
        (column("INT", min=0, nullable=True), "INT", "`c` IS NULL OR (`c` >= 0)"),
        (column("DOUBLE"), "DOUBLE", f"abs(`c`) < {INFINITY}"),
        (column("FLOAT", min=-1, max=1), "FLOAT", "`c` >= -1 AND `c` <= 1"),
        (column("STRING", one_of=["a", "b'c"]), "STRING", r"`c` IN ('a', 'b\'c')"),
    ],
)
def test_a_range_becomes_a_condition(col: Column, sql_type: str, condition: str | None) -> None:
    assert column_check(col, sql_type) == condition


@pytest.mark.parametrize("catalog", ["a; DROP TABLE b", "a`b", "a.b.c", "a b", "", ".", "é", "a\n"])
def test_a_catalog_with_sql_in_it_makes_no_name(catalog: str) -> None:
    with pytest.raises(TableError, match="letters, digits and _ only"):
        by_name(catalog, "events")


@pytest.mark.parametrize(
    "name", ["events; DROP TABLE x", "`a`.`b`; SELECT 1", "delta.`/a`; SELECT 1", "delta.`/a`b`", ""]
)
def test_ddl_takes_no_name_with_sql_in_it(name: str) -> None:
    with pytest.raises(TableError, match="refused"):
        load("events").ddl(name)


def test_a_path_is_quoted_and_must_be_absolute() -> None:
    assert by_path("/a`; DROP TABLE b/c") == "delta.`/a``; DROP TABLE b/c`"
    assert by_path("s3://bucket/a") == "delta.`s3://bucket/a`"
    with pytest.raises(TableError, match="make it absolute"):
        by_path("warehouse/events")


def test_one_statement_creates_a_table_with_all_that_it_enforces() -> None:
    assert len(load("events").ddl(by_path("/a"))) == 1


def test_text_of_a_contract_cannot_leave_its_quotes() -> None:
    (sql,) = contract(grain="It's \\ '; DROP TABLE x; --").ddl(by_path("/a"), location="/b'c")
    assert r"COMMENT 'It\'s \\ \'; DROP TABLE x; --'" in sql
    assert r"LOCATION '/b\'c'" in sql


def test_differences_name_each_column_once() -> None:
    table = load("interactions")
    good = {name: kind.lower() for name, kind in table.column_types("long", "string").items()}
    assert table.differences(good, "long", "string") == []
    assert table.differences(good, "string", "string") == ["column user_id is BIGINT, not STRING"]
    found = {**good, "strength": "float", "extra": "string"}
    del found["n_events"]
    assert table.differences(found, "long", "string") == [
        "column strength is FLOAT, not DOUBLE",
        "column n_events is missing",
        "column extra is not in the contract",
    ]


def test_the_committed_docs_are_the_generated_ones() -> None:
    committed = (CHECKOUT / "docs" / "tables.md").read_text(encoding="utf-8")
    assert committed == docs.page(), "run `python -m lakefactor.contracts.docs`"


def test_the_docs_name_every_column() -> None:
    sections = docs.page().split("\n## ")
    for name in names():
        (section,) = [section for section in sections if section.startswith(f"{name}\n")]
        for col in load(name).columns:
            assert f"\n| `{col.name}` |" in section
