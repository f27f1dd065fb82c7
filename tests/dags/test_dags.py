"""The DAGs as Airflow runs them: real submits to Spark on this machine, and the tables that they leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakefactor.config import Config
from lakefactor.pipelines.models import live_version
from lakefactor.spark.tables import Tables
from lakefactor.testing.stream_runs import lines, write

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def overrides(config: Config, **keys: object) -> list[str]:
    """Return the configuration of a run as the parameter `set` takes it."""
    small = {"model.rank": 4, "train.iterations": 3, "train.ranks": 2, "evaluate.split": "random_holdout"}
    small |= {"publish.beat_popularity": "false", "publish.max_relative_loss": 1.0, "recommend.n": 3}
    small |= {"spark.driver_memory": "1g", "spark.shuffle_partitions": 2}
    return [f"tables.root={config.tables.root}", *(f"{key}={value}" for key, value in (small | keys).items())]


def test_from_files_to_recommendations_and_the_same_again(spark, config, airflow, tmp_path):
    write(tmp_path, "events.csv", lines(1, 500))
    given = overrides(config)
    for _ in range(2):
        assert airflow.run("ingest", set=given, path=str(tmp_path / "events.csv"))["state"] == "success"
        done = airflow.run("train", set=given)
        assert done["tasks"] == dict.fromkeys(("train", "evaluate", "publish", "recommend"), "success")
    tables = Tables(spark, config.tables)
    (model,) = tables.collect("models")
    assert live_version(tables) == model["model_version"]
    assert [row["action"] for row in tables.collect("decisions")] == ["publish"]
    assert tables.read("events").count() == 500
    lists = tables.read("recommendations").groupBy("model_version", "user_id").count().collect()
    assert {row.model_version for row in lists} == {model["model_version"]}
    assert {row["count"] for row in lists} == {3}
    assert len(lists) == model["n_users"]

    (tmp_path / "landing").mkdir()
    write(tmp_path / "landing", "later.csv", lines(2, 30, first=500))
    stream = overrides(config, **{"stream.source": "files", "stream.path": str(Path(tmp_path / "landing"))})
    assert airflow.run("stream", set=stream)["state"] == "success"
    assert tables.read("events").count() == 530
    assert tables.read("factor_updates").where(f"model_version = '{model['model_version']}'").count() > 0
