"""What Spark writes, a reader without Spark reads."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from lakefactor.config import Config
from lakefactor.errors import UnknownIdError
from lakefactor.query import Reader
from lakefactor.spark.tables import Tables

VERSION = "20261120-080000-aaaa"
NOW = datetime(2026, 11, 20, 8, tzinfo=timezone.utc)
LARGE = 2**62 + 1


@pytest.mark.parametrize("deletion_vectors", ["false", "true"])
def test_rows_that_spark_changed_are_read_as_they_are_now(
    spark: SparkSession, config: Config, deletion_vectors: str
) -> None:
    tables = Tables(spark, config.tables)
    live = {"name": "default", "model_version": VERSION, "previous_version": None, "published_at": NOW}
    factors = [
        {
            "user_id": user,
            "factors": [0.5, float(number)],
            "bias": 0.0,
            "n_entries": 1,
            "updated_at": NOW,
            "batch_id": -1,
        }
        for number, user in enumerate((7, 8, LARGE))
    ]
    for table, rows in (
        ("live_model", [live | {"decision_id": "d"}]),
        ("user_factors", [{"model_version": VERSION} | row for row in factors]),
    ):
        tables.ensure(table, user_id_type="long")
        tables.append(table, spark.createDataFrame(rows, tables.read(table).schema).coalesce(1))
    name = tables.sql_name("user_factors")
    spark.sql(f"ALTER TABLE {name} SET TBLPROPERTIES ('delta.enableDeletionVectors' = '{deletion_vectors}')")
    spark.sql(f"DELETE FROM {name} WHERE user_id = 7")
    spark.sql(f"UPDATE {name} SET factors = array(1.0F, 2.0F), batch_id = 3 WHERE user_id = 8")

    features = DeltaTable(tables.path_or_name("user_factors")).protocol().reader_features or []
    assert ("deletionVectors" in features) == (deletion_vectors == "true")
    reader = Reader(config.tables)
    shown = ["model_version", "user_id", "factors", "batch_id", "updated_at"]
    answer = [reader.factors(user=user).select(shown).to_pylist() for user in (8, LARGE)]
    assert answer == [
        [dict(zip(shown, (VERSION, 8, [1.0, 2.0], 3, NOW), strict=True))],
        [dict(zip(shown, (VERSION, LARGE, [0.5, 2.0], -1, NOW), strict=True))],
    ]
    with pytest.raises(UnknownIdError, match="user 7 is not in user_factors"):
        reader.factors(user=7)
    assert reader.sql("SELECT count(*) AS n FROM user_factors").to_pylist() == [{"n": 2}]
