from __future__ import annotations

import uuid
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from pyspark.sql import functions as F

from lakefactor.config import Tables as TablesConfig
from lakefactor.contracts import load
from lakefactor.errors import ShapeError, TableError
from lakefactor.spark.commits import commit_metadata, version_with
from lakefactor.spark.tables import Tables

ONE = ("u1", "i1", 1.0, 1, None)
OTHER = ("u2", "i1", 2.0, 3, None)


@pytest.fixture
def tables(spark, config):
    return Tables(spark, config.tables)


def rows(tables, *values):
    return tables._spark.createDataFrame(list(values), tables.read("interactions").schema)


def contents(tables, version=None):
    return sorted(tuple(row) for row in tables.read("interactions", version).collect())


def test_a_table_is_created_once_with_the_ids_asked_for(tables):
    assert not tables.exists("interactions")
    tables.ensure("interactions", "long", "string")
    tables.ensure("interactions", "long", "string")
    assert tables.exists("interactions")
    assert tables.version("interactions") == 0
    assert tables.id_types("interactions") == ("long", "string")
    assert dict(tables.read("interactions").dtypes)["user_id"] == "bigint"


def test_a_table_with_other_ids_is_refused_by_column(tables):
    tables.ensure("interactions", "long", "string")
    with pytest.raises(TableError, match=r"interactions at .*column user_id is BIGINT, not STRING"):
        tables.ensure("interactions", "string", "string")


def test_a_table_that_is_not_as_its_contract_is_refused_whenever_it_is_opened(spark, tables):
    place = tables.path_or_name("interactions")
    spark.sql("SELECT 'u' AS user_id, 1 AS strength, true AS odd").write.format("delta").save(place)
    for open_table in (tables.ensure, tables.read):
        with pytest.raises(TableError) as refusal:
            open_table("interactions")
        for part in (place, "strength is INT, not DOUBLE", "item_id is missing", "odd is not in the contract"):
            assert part in str(refusal.value)


def test_a_missing_table_is_named_with_its_place_and_the_command_that_creates_it(tables):
    with pytest.raises(TableError) as refusal:
        tables.read("item_factors")
    for part in ("item_factors", tables.path_or_name("item_factors"), "lakefactor train"):
        assert part in str(refusal.value)


def test_a_missing_version_is_named_with_those_that_are_there(tables):
    tables.ensure("interactions")
    with pytest.raises(TableError, match=r"interactions .* at version 7: .*\[0, 0\]"):
        tables.read("interactions", 7)


@pytest.mark.parametrize("name", ["events; DROP TABLE models", "../events", "", "delta.`/tmp/x`"])
def test_a_table_name_with_anything_else_in_it_is_refused(tables, name):
    with pytest.raises(TableError, match="no table is called"):
        tables.read(name)


def test_a_repeated_transaction_appends_nothing(tables):
    tables.ensure("interactions")
    for _ in range(2):
        tables.append("interactions", rows(tables, ONE), txn=("some job", 1))
    tables.append("interactions", rows(tables, OTHER), txn=("some job", 2))
    assert contents(tables) == [ONE, OTHER]
    assert tables.version("interactions") == 2


def update(user="u1", batch=1, **columns):
    """Return a row of `factor_updates`, as Arrow."""
    row = {
        "model_version": "v", "batch_id": batch, "side": "user", "user_id": user, "item_id": None,
        "factors": [1.0, 2.0], "bias": 0.0, "n_entries": 3, "rule": "exact", "optimizer_state": None,
        "updated_at": datetime(2026, 11, 25, tzinfo=timezone.utc),
    } | columns  # fmt: skip
    types = {"batch_id": pa.int64(), "n_entries": pa.int64(), "updated_at": pa.timestamp("us", "UTC")}
    types |= {"factors": pa.list_(pa.float32()), "optimizer_state": pa.list_(pa.float32()), "bias": pa.float32()}
    return pa.Table.from_pylist([row], schema=pa.schema([(name, types.get(name, pa.string())) for name in row]))


def test_arrow_rows_are_committed_as_spark_s_are(spark, tables):
    tables.ensure("factor_updates")
    by_spark = spark.createDataFrame(update("u0")).select(*reversed(update().column_names))
    tables.append("factor_updates", by_spark, txn=("s", 0), metadata={"n": 0})
    tables.append("factor_updates", update("u9"), txn=("s", 0))  # delta-rs knows of what Spark has committed
    for _ in range(2):  # the second time it is there already
        tables.append("factor_updates", update("u1"), txn=("s", 1), metadata={"n": 1})
        assert tables.version("factor_updates") == 2
    tables.append("factor_updates", update("u9"), txn=("s", 0))
    tables.append("factor_updates", by_spark, txn=("s", 1))  # and the other way round
    assert tables.version("factor_updates") == 2
    found = sorted(tables.read("factor_updates").collect(), key=lambda row: row.user_id)
    assert [row.asDict() for row in found] == [update(user).to_pylist()[0] | when(row) for user, row in zip(
        ("u0", "u1"), found, strict=True
    )]  # fmt: skip
    assert commit_metadata(tables, "factor_updates") == {"n": 1}
    assert version_with(tables, "factor_updates", {"n": 1}) == 2


def test_a_table_whose_creation_was_killed_is_created(tables, config):
    folder = Path(config.tables.root, "factor_updates")
    staged = folder / "_delta_log" / "_staged_commits"
    staged.mkdir(parents=True)
    (folder / "_delta_log" / ".00000000000000000000.json.27fa1742.tmp").touch()
    tables.ensure("factor_updates")
    assert tables.version("factor_updates") == 0
    assert tables.read("factor_updates").columns == [column.name for column in load("factor_updates").columns]


@pytest.mark.parametrize("left", ["_delta_log/_staged_commits/0.json", "part-0.parquet", "_delta_log/other/file"])
def test_a_folder_with_anything_in_it_is_left_alone(tables, config, left):
    file = Path(config.tables.root, "factor_updates", left)
    file.parent.mkdir(parents=True)
    file.write_text("somebody's")
    with pytest.raises(TableError, match=r"factor_updates cannot be created at .*: something else is there"):
        tables.ensure("factor_updates")
    assert file.read_text() == "somebody's"


def when(row):
    """Return the time as Spark's rows have it: naive, in the local zone."""
    assert row.updated_at.astimezone(timezone.utc) == datetime(2026, 11, 25, tzinfo=timezone.utc)
    return {"updated_at": row.updated_at}


@pytest.mark.parametrize(
    "wrong",
    [
        {"factors": [1.0, float("nan")]}, {"factors": [float("-inf"), 1.0]}, {"factors": [1.0, None]}, {"factors": []},
        {"bias": float("inf")}, {"batch_id": -1}, {"user_id": ""}, {"item_id": "i"}, {"rule": "guess"},
        {"optimizer_state": [float("nan")]}, {"model_version": None},
    ],
    ids=str,
)  # fmt: skip
def test_arrow_rows_that_the_contract_refuses_are_not_committed(tables, wrong):
    tables.ensure("factor_updates")
    with pytest.raises(TableError, match=r"factor_updates at .* cannot be written"):
        tables.append("factor_updates", pa.concat_tables([update("u1"), update("u2", **wrong)]))
    assert tables.read("factor_updates").count() == 0


def test_a_few_rows_go_by_the_names_of_their_columns(spark):
    row = {
        "stream": "s", "batch_id": 3, "model_version": None, "segment": "all", "metric": "recall_at_10",
        "detector": "adwin", "before": 0.5, "after": 0.25, "detected_at": datetime(2026, 11, 25, tzinfo=timezone.utc),
    }  # fmt: skip
    schema = f"lake_{uuid.uuid4().hex}"
    with TemporaryDirectory() as folder:
        for place in ({"root": folder}, {"root": "", "catalog": schema}):
            tables = Tables(spark, TablesConfig(**place))
            tables.ensure("drift")
            for _ in range(2):
                tables.append_rows("drift", [row | {"model_version": "v"}], ("s", 3))
            (found,) = tables.collect("drift")
            assert found | {"detected_at": row["detected_at"]} == row | {"model_version": "v"}
            assert tables.version("drift") == 1
    spark.sql(f"DROP SCHEMA {schema} CASCADE")


def test_columns_go_by_name_and_a_missing_one_is_refused(tables):
    tables.ensure("interactions")
    tables.append("interactions", rows(tables, ONE).select("strength", "*").select(*reversed(rows(tables).columns)))
    assert contents(tables) == [ONE]
    with pytest.raises(ShapeError, match="interactions lack the columns item_id, strength"):
        tables.append("interactions", rows(tables, ONE).drop("strength", "item_id"))


def test_overwrite_replaces_all_rows_and_records_its_metadata(tables):
    tables.ensure("interactions")
    assert commit_metadata(tables, "interactions") == {}
    tables.overwrite("interactions", rows(tables, ONE), {"made_from": {"events": 3}})
    tables.overwrite("interactions", rows(tables, OTHER), {"made_from": {"events": 4}})
    assert contents(tables) == [OTHER]
    assert contents(tables, version=1) == [ONE]
    assert commit_metadata(tables, "interactions") == {"made_from": {"events": 4}}


def test_replace_where_touches_only_the_rows_of_its_predicate(tables):
    tables.ensure("interactions")
    tables.append("interactions", rows(tables, ONE, OTHER))
    again = ("u2", "i9", 5.0, 1, None)
    for _ in range(2):
        tables.replace_where("interactions", rows(tables, again), "user_id = 'u2'")
    assert contents(tables) == [ONE, again]


def test_merge_new_inserts_only_keys_that_are_not_there(tables):
    tables.ensure("interactions")
    changed = ("u1", "i1", 99.0, 1, None)
    assert tables.merge_new("interactions", rows(tables, ONE), ["user_id", "item_id"]) == 1
    assert tables.merge_new("interactions", rows(tables, changed, OTHER), ["user_id", "item_id"]) == 1
    assert contents(tables) == [ONE, OTHER]
    assert tables.version("interactions") == 2


def test_merge_new_without_anything_new_makes_no_version(tables):
    tables.ensure("interactions")
    tables.append("interactions", rows(tables, ONE, OTHER))
    assert tables.merge_new("interactions", rows(tables, OTHER, ONE), ["user_id", "item_id"]) == 0
    assert tables.version("interactions") == 1


def test_a_table_created_again_has_another_uid(spark, tables, config, tmp_path):
    tables.ensure("interactions")
    elsewhere = Tables(spark, TablesConfig(root=str(tmp_path / "elsewhere")))
    elsewhere.ensure("interactions")
    assert tables.uid("interactions") == tables.uid("interactions") != elsewhere.uid("interactions")


def test_catalog_tables_work_as_path_tables(spark):
    schema = f"lake_{uuid.uuid4().hex}"
    tables = Tables(spark, TablesConfig(root="", catalog=schema))
    try:
        assert not tables.exists("interactions")
        tables.ensure("interactions")
        tables.ensure("interactions")
        assert tables.merge_new("interactions", rows(tables, ONE), ["user_id", "item_id"]) == 1
        tables.overwrite("interactions", rows(tables, OTHER), {"n": 1})
        assert contents(tables) == [OTHER]
        assert contents(tables, version=1) == [ONE]
        assert commit_metadata(tables, "interactions") == {"n": 1}
        with pytest.raises(TableError, match=rf"models does not exist at {schema}\.models"):
            tables.read("models")
    finally:
        spark.sql(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


def test_a_root_with_quotes_and_blanks_is_a_folder_like_any_other(spark, tmp_path):
    tables = Tables(spark, TablesConfig(root=str(tmp_path / 'it\'s "a" ünusual; --root')))
    tables.ensure("interactions")
    tables.append("interactions", rows(tables, ONE))
    assert contents(tables) == [ONE]
    assert tables.read("interactions").where(F.col("user_id") == "u1").count() == 1
