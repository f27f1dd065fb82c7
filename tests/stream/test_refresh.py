"""Refresh: the rows of the given users and items become what their present factors say, and no other row changes."""

from __future__ import annotations

import shutil
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from lakefactor.config import Config
from lakefactor.factorization.catalogue import Catalogue
from lakefactor.pipelines import recommend, train
from lakefactor.pipelines.refresh import RefreshResult, refresh, replace_recommendations
from lakefactor.query import Reader
from lakefactor.spark.live_factors import read_factors
from lakefactor.spark.tables import Tables
from lakefactor.testing.live_factors import TRAINED_AT, append_rows, update_row
from lakefactor.testing.tables import taste_groups, write_interactions

N, SIMILAR = 4, 3
SETTINGS: dict[str, Any] = {
    "model": {"algorithm": "implicit_als", "rank": 2},
    "train": {"iterations": 1, "ranks": 1, "snapshot_every": 0},
    "ingest": {"event_weights": {"interaction": 1.0}},
    "interactions": {"half_life_days": 1.0},
    "recommend": {"n": N, "similar_n": SIMILAR},
}
EVENTS = [
    ("u003", "i001", "interaction", 1.0),
    ("u003", "i002", "interaction", 1.0),
    ("u003", "i002", "delete", 1.0),
    ("u003", "i005", "interaction", 1.0),
    ("u003", "i005", "interaction", -1.0),  # newer, so it weighs more
    ("new's", "fresh\\", "interaction", 1.0),
    ("u004", "i003", "interaction", 1.0),
]
SEEN = {"u003": {"i001"}, "new's": {"fresh\\"}}


def event_row(number: int, user: str, item: str, kind: str, value: float) -> dict[str, Any]:
    return {
        "event_id": bytearray(number.to_bytes(16, "big")),
        "user_id": user,
        "item_id": item,
        "event_type": kind,
        "value": value,
        "event_time": TRAINED_AT + timedelta(hours=number),
        "source": "test",
        "ingested_at": TRAINED_AT,
    }


@pytest.fixture(scope="module")
def streamed(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, str]:
    """Lists of a trained version; after that, updates of three users and two items, and their events."""
    config = Config(tables={"root": str(tmp_path_factory.mktemp("streamed") / "warehouse")}, **SETTINGS)
    tables = write_interactions(spark, config, taste_groups(12, 9))
    version = train.run(spark, config).model_version
    recommend.run(spark, config, version)
    other = {"model_version": "other", "position": 1, "created_at": TRAINED_AT}
    append_rows(spark, tables, "recommendations", [other | {"user_id": "u003", "item_id": "i001", "score": 1.0}])
    similar = {"item_id": "i001", "similar_item_id": "i002", "similarity": 1.0}
    append_rows(spark, tables, "similar_items", [other | similar])
    updates = [update_row("user", name, 0, version=version) for name in ("u003", "u004", "new's")]
    updates += [update_row("item", name, 0, version=version) for name in ("i001", "fresh\\")]
    append_rows(spark, tables, "factor_updates", updates)
    append_rows(spark, tables, "events", [event_row(number, *event) for number, event in enumerate(EVENTS)])
    return config, version


@pytest.fixture
def copied(streamed: tuple[Config, str], config: Config) -> tuple[Config, str]:
    shutil.copytree(streamed[0].tables.root, config.tables.root)
    return streamed[0].model_copy(update={"tables": config.tables}), streamed[1]


def factors(tables: Tables, side: str, version: str) -> dict[str, np.ndarray]:
    rows = read_factors(tables, side, version).orderBy(f"{side}_id").collect()
    return {row[f"{side}_id"]: np.array(row.factors) for row in rows}


def best(scores: dict[str, float], n: int) -> list[tuple[int, str, float]]:
    """Return (position, id, score) of the n largest, ties to the smaller id."""
    order = sorted(scores, key=lambda name: (-scores[name], name))[:n]
    return [(place, name, pytest.approx(scores[name], abs=1e-5)) for place, name in enumerate(order, start=1)]


def lists(tables: Tables, table: str) -> dict[tuple[str, str], list[tuple[int, str, float]]]:
    """Return {(version, id): [(position, id, score)]} of a whole table."""
    found: dict[tuple[str, str], list[tuple[int, str, float]]] = {}
    for version, name, place, *entry in sorted(tuple(row)[:5] for row in _frame(tables, table).collect()):
        found.setdefault((version, name), []).append((place, *entry))
    return found


def _frame(tables: Tables, table: str) -> Any:
    columns = {
        "recommendations": ("model_version", "user_id", "position", "item_id", "score"),
        "similar_items": ("model_version", "item_id", "position", "similar_item_id", "similarity"),
    }
    return tables.read(table).select(*columns[table])


def test_exactly_the_given_rows_become_what_their_factors_say(spark: SparkSession, copied: tuple[Config, str]) -> None:
    config, version = copied
    tables = Tables(spark, config.tables)
    before = {table: (lists(tables, table), tables.version(table)) for table in ("recommendations", "similar_items")}
    users, items = pa.array(["u003", "new's", "nobody"]), pa.array(["fresh\\", "i001", "nothing"])
    result = refresh(spark, config, version, users, items)
    assert result == RefreshResult(model_version=version, users=2, items=2)

    x, y = factors(tables, "user", version), factors(tables, "item", version)
    wanted = dict(before["recommendations"][0])
    for user, seen in SEEN.items():
        wanted[version, user] = best({name: x[user] @ y[name] for name in y if name not in seen}, N)
    assert lists(tables, "recommendations") == wanted
    reader = Reader(config.tables)  # reads the same, past the rows that are marked as deleted
    for user in SEEN:
        rows = reader.recommendations(user, model_version=version).to_pylist()
        assert [(row["position"], row["item_id"], row["score"]) for row in rows] == wanted[version, user]

    wanted = dict(before["similar_items"][0])
    unit = {name: row / np.linalg.norm(row) for name, row in y.items()}
    for item in ("i001", "fresh\\"):
        wanted[version, item] = best({name: unit[item] @ unit[name] for name in y if name != item}, SIMILAR)
    assert lists(tables, "similar_items") == wanted
    fresh = reader.similar("fresh\\", model_version=version).to_pylist()
    assert [(row["position"], row["similar_item_id"], row["similarity"]) for row in fresh] == wanted[version, "fresh\\"]
    assert [tables.version(table) for table in before] == [number + 1 for _, number in before.values()]


def test_settings_hold_for_a_refresh_too(spark: SparkSession, copied: tuple[Config, str]) -> None:
    config, version = copied
    tables = Tables(spark, config.tables)
    before = lists(tables, "recommendations"), tables.version("similar_items")
    keys = {"users": ("u003",), "exclude_seen": False, "similar_n": 0, "deny_items": ("i000",)}
    config = config.model_copy(update={"recommend": config.recommend.model_copy(update=keys)})
    result = refresh(spark, config, version, pa.array(["u003", "u004"]), pa.array(["i001"]))
    assert result == RefreshResult(model_version=version, users=1)
    x, y = factors(tables, "user", version), factors(tables, "item", version)
    of_user = best({name: x["u003"] @ y[name] for name in y if name != "i000"}, N)
    assert lists(tables, "recommendations") == before[0] | {(version, "u003"): of_user}
    assert tables.version("similar_items") == before[1]


def test_without_lists_there_is_nothing_to_refresh(spark: SparkSession, copied: tuple[Config, str]) -> None:
    config, version = copied
    tables = Tables(spark, config.tables)
    for table in ("recommendations", "similar_items"):
        shutil.rmtree(tables.path_or_name(table))
    result = refresh(spark, config, version, pa.array(["u003"]), pa.array(["i001"]))
    assert result == RefreshResult(model_version=version, missing=("recommendations", "similar_items"))
    assert not tables.exists("recommendations")


def test_integer_ids_and_nobody_at_all(spark: SparkSession, config: Config) -> None:
    tables = Tables(spark, config.tables)
    tables.ensure("recommendations", "long", "long")
    config = config.model_copy(update={"recommend": config.recommend.model_copy(update={"n": 1})})
    large = 2**62 + 1
    catalogue = Catalogue(
        pa.array([7, large]), np.eye(2, dtype=np.float32), np.zeros(2, np.float32), np.zeros(2, np.int64)
    )
    users = pa.table(
        {
            "user_id": [-1, large],
            "factors": pa.array([[2.0, 1.0], [2.0, 1.0]], pa.list_(pa.float32())),
            "bias": pa.array([0.0, 1.0], pa.float32()),
            "seen": pa.array([None, [7]], pa.list_(pa.int64())),
        }
    )
    for _ in range(2):
        assert replace_recommendations(spark, config, "v", 0.5, catalogue, users) == 2
    assert replace_recommendations(spark, config, "v", 0.5, catalogue, users.slice(0, 0)) == 0
    assert lists(tables, "recommendations") == {("v", -1): [(1, 7, 2.5)], ("v", large): [(1, large, 2.5)]}
    assert tables.version("recommendations") == 2
