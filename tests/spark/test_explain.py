"""Reasons of recommendations, categories of items, and lists of those alone that changed, as jobs over tables."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from pyspark.sql import functions as F

from lakefactor.config import Config, Spark, Tables, changed
from lakefactor.errors import InputError, TableError
from lakefactor.pipelines import explain, ingest, items, publish, recommend, train
from lakefactor.spark.tables import Tables as SparkTables
from lakefactor.testing.interactions import random_interactions

TABLE = random_interactions(60, 40, 900, seed=5)
N = 4


@pytest.fixture(scope="module")
def live(spark, tmp_path_factory) -> Config:
    """Return the configuration of a published model of ratings, with lists."""
    folder = tmp_path_factory.mktemp("explain")
    config = Config(tables=Tables(root=str(folder / "warehouse")), spark=Spark(shuffle_partitions=2))
    keys = {"model.algorithm": "explicit_als", "model.rank": 5, "recommend.n": N, "train.iterations": 3}
    config = changed(config, keys | {"publish.require_evaluation": False, "publish.beat_popularity": False})
    rows = zip(*(TABLE[name].to_pylist() for name in TABLE.column_names), strict=True)
    lines = ["user,item,rating", *(f"{user},{item},{value:g}" for user, item, value in rows)]
    (folder / "events.csv").write_text("\n".join(lines) + "\n")
    ingest.run(spark, config, [str(folder / "events.csv")])
    publish.run(spark, config, train.run(spark, config).model_version)
    recommend.run(spark, config)
    return config


def rows_of(spark, config: Config, table: str) -> list[dict]:
    return [row.asDict() for row in SparkTables(spark, config.tables).read(table).collect()]


def test_all_reasons_of_a_recommendation_sum_to_its_score(live, spark):
    result = explain.run(spark, changed(live, {"explain.reasons": 100}))
    listed = {(row["user_id"], row["item_id"]): row["score"] for row in rows_of(spark, live, "recommendations")}
    known = defaultdict(dict)
    for user, item, value in zip(*(TABLE[name].to_pylist() for name in TABLE.column_names), strict=True):
        known[user][item] = value
    reasons = defaultdict(list)
    for row in rows_of(spark, live, "explanations"):
        reasons[row["user_id"], row["item_id"]].append(row)
    assert set(reasons) == set(listed)
    assert (result.users, result.explanations) == (60, sum(map(len, reasons.values())))
    for (user, item), rows in reasons.items():
        rows.sort(key=lambda row: row["reason"])
        assert [row["reason"] for row in rows] == list(range(1, len(known[user]) + 1))
        assert {row["known_item_id"]: row["strength"] for row in rows} == known[user]
        parts = [row["contribution"] for row in rows]
        assert parts == sorted(parts, reverse=True)
        np.testing.assert_allclose(rows[0]["base"] + sum(parts), listed[user, item], rtol=1e-5)
        np.testing.assert_allclose([row["score"] for row in rows], listed[user, item], rtol=1e-5)


def test_fewer_reasons_are_the_first_ones_and_replace_the_old(live, spark):
    explain.run(spark, changed(live, {"explain.reasons": 100}))
    before = rows_of(spark, live, "explanations")
    explain.run(spark, changed(live, {"explain.reasons": 2}))
    key = ("user_id", "item_id", "reason", "known_item_id", "strength", "contribution", "base", "score")
    expected = {tuple(row[name] for name in key) for row in before if row["reason"] <= 2}
    assert {tuple(row[name] for name in key) for row in rows_of(spark, live, "explanations")} == expected


def test_only_those_who_changed_get_new_lists(live, spark):
    tables = SparkTables(spark, live.tables)
    before = {(row["user_id"], row["position"]): row for row in rows_of(spark, live, "recommendations")}
    unchanged = recommend.run(spark, changed(live, {"recommend.n": N}), changed=True)
    whole = recommend.RecommendResult(**(unchanged.model_dump() | {"users": 60}))
    spark.sql(
        f"UPDATE {tables.sql_name('recommendations')} SET created_at = created_at + INTERVAL 1 DAY, score = -7 "
        "WHERE user_id <> 'u-3'"
    )
    result = recommend.run(spark, live, changed=True)
    assert result.model_copy(update={"users": 60}) == whole
    assert result.users == 1
    after = {(row["user_id"], row["position"]): row for row in rows_of(spark, live, "recommendations")}
    assert set(after) == set(before)
    for (user, position), row in after.items():
        assert row["item_id"] == before[user, position]["item_id"]
        assert row["score"] == (before[user, position]["score"] if user == "u-3" else -7)
    recommend.run(spark, live)


def test_categories_come_from_a_file_and_rule_the_lists(live, spark, tmp_path):
    names = sorted(set(TABLE["item_id"].to_pylist()))
    kinds = {name: "even" if int(name[2:]) % 2 == 0 else "odd" for name in names}
    (tmp_path / "a.csv").write_text(
        "Item ID,genre,name\n" + "".join(f'{name},{kinds[name]},"the, {name}"\n' for name in names)
    )
    with pytest.raises(TableError, match=r"table items does not exist.*'lakefactor items' creates it"):
        recommend.run(spark, changed(live, {"recommend.max_per_category": 1}))
    first = items.run(spark, live, [str(tmp_path / "a.csv")])
    assert (first.read, first.written, first.categories) == (len(names), len(names), 2)
    assert items.run(spark, live, [str(tmp_path / "a.csv")]).written == 0
    stored = {row["item_id"]: (row["category"], row["title"]) for row in rows_of(spark, live, "items")}
    assert stored == {name: (kinds[name], f"the, {name}") for name in names}
    (tmp_path / "b.csv").write_text("item,category\ni-0,other\ni-new,odd\n")
    assert items.run(spark, live, [str(tmp_path / "b.csv")]).written == 2
    stored = {row["item_id"]: (row["category"], row["title"]) for row in rows_of(spark, live, "items")}
    assert (stored["i-0"], stored["i-new"], stored["i-1"]) == (("other", None), ("odd", None), ("odd", "the, i-1"))
    recommend.run(
        spark, changed(live, {"recommend.allow_categories": ["even", "odd"], "recommend.max_per_category": 1})
    )
    lists = SparkTables(spark, live.tables).read("recommendations")
    for row in lists.groupBy("user_id").agg(F.collect_list("item_id").alias("items")).collect():
        assert sorted(kinds[item] for item in row["items"]) == ["even", "odd"][: len(row["items"])]
        assert "i-0" not in row["items"]
    recommend.run(spark, live)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,genre\nx,a\n", "has no item column; its columns are 'name', 'genre'"),
        ("item,genre\nx,a\n ,b\n", "1 rows have an item id that is empty"),
        ("item,genre\nx,a\nx,b\n", "item 'x' has several rows that differ"),
        ("item,genre,category\nx,a,b\n", "the category may be 'genre' or 'category'; set items.category_column"),
    ],
)
def test_a_file_that_says_nothing_or_two_things_is_refused(config, spark, tmp_path, text, said):
    (tmp_path / "items.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        items.run(spark, config, [str(tmp_path / "items.csv")])
    assert not SparkTables(spark, config.tables).exists("items")
