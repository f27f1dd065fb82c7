"""Histories of some users and items, from tables that delta-rs reads and from those that Spark must."""

from __future__ import annotations

import uuid

import pyarrow as pa
import pytest

from lakefactor.config import Config
from lakefactor.config import Tables as TablesConfig
from lakefactor.query.lake import Lake
from lakefactor.spark.tables import Tables
from lakefactor.spark.touched import COLUMNS, events_of, events_since


@pytest.fixture(params=["root", "deletion vectors", "catalog"])
def tables(request, spark, tmp_path):
    catalog = f"lake_{uuid.uuid4().hex}"
    place = {"root": "", "catalog": catalog} if request.param == "catalog" else {"root": str(tmp_path / "lake")}
    tables = Tables(spark, TablesConfig(**place))
    tables.ensure("events")
    if request.param == "deletion vectors":
        name = tables.sql_name("events")
        spark.sql(f"ALTER TABLE {name} SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')")
    tables.config = Config(tables=TablesConfig(**place))
    yield tables
    spark.sql(f"DROP SCHEMA IF EXISTS {catalog} CASCADE")


def put(spark, tables, *numbers):
    rows = spark.createDataFrame([(n,) for n in numbers], "n int").selectExpr(
        "unhex(lpad(hex(n), 32, '0')) AS event_id", "concat('u', n % 4) AS user_id", "concat('i', n % 3) AS item_id",
        "'view' AS event_type", "double(n) AS value", "if(n % 2 = 0, timestamp_seconds(n), null) AS event_time",
        "'test' AS source", "timestamp_seconds(1000 + n) AS ingested_at",
    )  # fmt: skip
    tables.append("events", rows)


def values(events):
    assert events.schema.names == list(COLUMNS)
    assert pa.types.is_dictionary(events.schema.field("user_id").type)
    return sorted(events["value"].to_pylist())


def test_the_events_of_some_are_what_the_table_holds_at_a_version(spark, tables):
    put(spark, tables, *range(12))
    put(spark, tables, *range(12, 20))
    both = tables.version("events")
    if "deletionVectors" in str(tables.config.tables.root and Lake(tables.config.tables).open("events").protocol()):
        spark.sql(f"DELETE FROM {tables.sql_name('events')} WHERE value = 5")
        assert values(events_of(spark, tables.config, "user", pa.array(["u1"]), both + 1)) == [1, 9, 13, 17]
    users, items = pa.array(["u1", "u3", "nobody"]), pa.array(["i2"])
    of_users = events_of(spark, tables.config, "user", users, both)
    assert values(of_users) == [n for n in range(20) if n % 4 in (1, 3)]
    assert values(events_of(spark, tables.config, "item", items, both)) == [n for n in range(20) if n % 3 == 2]
    assert values(events_of(spark, tables.config, "user", users, both - 1)) == [n for n in range(12) if n % 4 in (1, 3)]
    since = events_since(tables, both - 1, both)
    assert values(since) == list(range(12, 20))
    assert since.schema == of_users.schema
    row = of_users.filter(pa.compute.equal(of_users["value"], 17.0)).to_pylist()[0]
    assert (row["event_id"], row["user_id"], row["item_id"]) == ((17).to_bytes(16, "big"), "u1", "i2")
    assert (row["event_time"], row["ingested_at"].timestamp()) == (None, 1017.0)
