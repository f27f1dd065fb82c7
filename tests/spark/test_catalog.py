"""Tables of a catalog, written by Spark and read without it: both ask a real Hive metastore where they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from lakefactor.cli import app
from lakefactor.client import Client
from lakefactor.config import load
from lakefactor.errors import TableError
from lakefactor.query.lake import Lake
from lakefactor.service import create_app
from lakefactor.testing.interactions import random_interactions
from lakefactor.testing.metastore import hive_metastore

pytest.importorskip("hive_metastore", reason="no lakefactor[hive]")

SETTINGS = """\
[tables]
root = ""
catalog = "spark_catalog.lake"
metastore = "{metastore}"
[spark]
master = "local[2]"
shuffle_partitions = 2
driver_memory = "1g"
[model]
rank = 4
[train]
iterations = 3
ranks = 2
[publish]
require_evaluation = false
beat_popularity = false
[recommend]
n = 5
"""


@pytest.fixture(scope="module")
def lake(tmp_path_factory) -> SimpleNamespace:
    """Return configuration and recommendations of a model in a catalog."""
    folder = tmp_path_factory.mktemp("catalog")
    table = random_interactions(30, 20, 250, seed=8)
    rows = zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
    (folder / "events.csv").write_text("\n".join(["user,item,value", *(f"{u},{i},{v:g}" for u, i, v in rows)]) + "\n")
    with hive_metastore(folder) as metastore:
        file = folder / "config.toml"
        file.write_text(SETTINGS.format(metastore=metastore))
        command = [sys.executable, str(Path(__file__).with_name("catalog_driver.py")), str(file), "events.csv"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment())
        assert done.returncode == 0, done.stderr[-4000:]
        lists: dict[str, list[tuple[str, float]]] = {}
        for user, item, score in json.loads(done.stdout.splitlines()[-1]):
            lists.setdefault(user, []).append((item, score))
        yield SimpleNamespace(config=load(file), file=str(file), lists=lists, folder=folder)


def environment() -> dict[str, str]:
    checkout = str(Path(__file__).parents[2] / "lib")
    return os.environ | {"PYTHONPATH": checkout, "SPARK_LOCAL_IP": "127.0.0.1"}


def test_a_table_is_found_where_spark_made_it(lake):
    assert Lake(lake.config.tables).uri("user_factors") == str(
        lake.folder / "spark-warehouse" / "lake.db" / "user_factors"  # spark.sql.warehouse.dir, where a schema is made
    )


def test_the_client_gives_the_lists_that_spark_wrote(lake):
    client = Client(lake.config.tables)
    assert len(lake.lists) == 30
    for user, rows in lake.lists.items():
        answer = client.recommend(user, 5).rows
        assert list(zip(answer["item_id"].to_pylist(), answer["score"].to_pylist(), strict=True)) == rows


def test_the_service_answers_from_a_catalog(lake):
    with TestClient(create_app(lake.config)) as service:
        assert service.app.state.keeper.look()
        user, rows = next(iter(lake.lists.items()))
        answer = service.get("/v1/recommend", params={"user": user, "n": 5}).json()
    assert [row["item_id"] for row in answer["items"]] == [item for item, _ in rows]


def test_query_reads_a_catalog(lake):
    done = CliRunner().invoke(app, ["query", "sql", "SELECT count(*) AS n FROM recommendations", "--config", lake.file])
    assert (done.exit_code, "150" in done.stdout) == (0, True), done.output


def test_a_table_that_the_catalog_has_not_is_named_with_what_creates_it(lake):
    tables = Lake(lake.config.tables)
    assert not tables.exists("drift")
    assert tables.state("drift") is None
    with pytest.raises(TableError, match=r"drift does not exist at spark_catalog\.lake\.drift; 'lakefactor stream'"):
        tables.open("drift")


def test_of_several_metastores_the_first_that_answers_counts(lake):
    there = lake.config.tables.metastore
    silent = lake.config.tables.model_copy(update={"metastore": "thrift://127.0.0.1:1"})
    both = silent.model_copy(update={"metastore": f"thrift://127.0.0.1:1,{there}"})
    assert Lake(both).exists("models")
    with pytest.raises(TableError, match=r"metastore thrift://127\.0\.0\.1:1 does not say where .*lake\.models is"):
        Lake(silent).exists("models")
