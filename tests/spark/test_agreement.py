"""The table of recommendations, the client, and SQL of docs/reading.md in three engines give a user one list."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lakefactor.client import Client
from lakefactor.config import Config, Spark, Tables, changed
from lakefactor.pipelines import ingest, publish, recommend, train
from lakefactor.query import Reader
from lakefactor.spark.live_factors import read_factors
from lakefactor.spark.tables import Tables as SparkTables
from lakefactor.testing.interactions import random_interactions

PAGE = (Path(__file__).parents[2] / "docs" / "reading.md").read_text(encoding="utf-8")
N = 10


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def published(spark, config: Config, events: Path) -> Config:
    ingest.run(spark, config, [str(events)])
    version = train.run(spark, config).model_version
    publish.run(
        spark, changed(config, {"publish.require_evaluation": False, "publish.beat_popularity": False}), version
    )
    recommend.run(spark, config)
    return config


def small(config: Config, **model: object) -> Config:
    keys = {"rank": 6, "user_reg": 0.5, "item_reg": 0.5} | model
    return changed(config, {f"model.{key}": value for key, value in keys.items()} | {"recommend.n": N})


@pytest.fixture(scope="module", params=["implicit_als", "explicit_als", "ml-100k"])
def live(request, spark, tmp_path_factory) -> Config:
    """Return the configuration of a published model; in the random ones some items are twins."""
    folder = tmp_path_factory.mktemp("agreement")
    config = Config(tables=Tables(root=str(folder / "warehouse")), spark=Spark(shuffle_partitions=2))
    if request.param == "ml-100k":
        events = request.getfixturevalue("data_dir") / "ml-100k" / "ratings.csv"
        return published(spark, changed(small(config, rank=32), {"train.iterations": 5}), events)
    table = random_interactions(60, 40, 900, seed=5)
    rows = zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
    lines = [f"{user},{item},{value:g}" for user, item, value in rows]
    lines += [line.replace("i-7,", "twin,") for line in lines if ",i-7," in line]
    (folder / "events.csv").write_text("\n".join(["user,item,rating", *lines]) + "\n")
    return published(spark, small(config, algorithm=request.param), folder / "events.csv")


def by_spark(spark, config: Config, user: str) -> list[tuple[str, float]]:
    tables, version = SparkTables(spark, config.tables), Client(config.tables).model_version
    for side in ("user", "item"):
        read_factors(tables, side, version).createOrReplaceTempView(f"live_{side}_factors")
    for table in ("models", "interactions"):
        tables.read(table).createOrReplaceTempView(table)
    return [(row.item_id, row.score) for row in spark.sql(blocks("sql")[2].replace("'u7'", f"'{user}'")).collect()]


def by_polars(config: Config, user: str) -> list[tuple[str, float]]:
    names = {"root": config.tables.root}
    newest, best = blocks("python")
    if not (Path(config.tables.root) / "factor_updates").exists():  # the page: there is none without a stream
        newest = newest.replace("pl.concat([updates, factors])", "factors").replace("updates = pl", "# updates = pl")
        newest = newest.replace('.filter(pl.col("side") == "user")', "")
    for side in ("user", "item"):
        exec(newest.replace("user", side), names)
        names[f"{side}s"] = names["newest"]
    exec(best.replace('"u7"', repr(user)), names)
    return list(names["best"].iter_rows())


def test_everyone_gives_the_same_list(live, spark):
    client, reader = Client(live.tables), Reader(live.tables)
    table = SparkTables(spark, live.tables).read("recommendations").orderBy("user_id", "position").toArrow()
    listed: dict[str, list[tuple[str, float]]] = {}
    for row in table.to_pylist():
        listed.setdefault(row["user_id"], []).append((row["item_id"], row["score"]))
    users = sorted(listed)
    assert len(users) >= 60
    for user in users[:: max(1, len(users) // 60)]:
        answer = client.recommend(user, N)
        assert [(row["item_id"], row["score"]) for row in answer.to_pylist()] == listed[user], user
    for user in users[:: max(1, len(users) // 5)]:
        rows = reader.sql(blocks("sql")[1].replace("'u7'", f"'{user}'")).to_pylist()
        assert [(row["item_id"], row["score"]) for row in rows] == listed[user], user
        assert by_polars(live, user) == listed[user], user
    assert by_spark(spark, live, users[0]) == listed[users[0]]


def test_similar_items_and_explanations_agree_with_the_tables(live, spark):
    client = Client(live.tables)
    table = SparkTables(spark, live.tables).read("similar_items").orderBy("item_id", "position").toArrow().to_pylist()
    listed: dict[str, list[tuple[str, float]]] = {}
    for row in table:
        listed.setdefault(row["item_id"], []).append((row["similar_item_id"], row["similarity"]))
    for item in sorted(listed)[::7]:
        rows = client.similar_items(item, 20).to_pylist()
        assert [(row["item_id"], row["similarity"]) for row in rows] == listed[item], item
    for user in pl.read_delta(f"{live.tables.root}/user_factors")["user_id"].sort().to_list()[::13]:
        best = client.recommend(user, 1).to_pylist()[0]
        why = client.explain(user, best["item_id"])
        assert why.stored_score == best["score"]
        np.testing.assert_allclose(why.base + sum(why.rows["contribution"].to_pylist()), best["score"], rtol=1e-5)
