"""The DAGs as Airflow runs them: real submits to Spark on this machine, and the tables that they leave.

One story from the first events to a user who is forgotten, since each state follows from the one before.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from lakefactor.config import Config
from lakefactor.pipelines.models import live_version
from lakefactor.spark.tables import Tables
from lakefactor.testing.stream_runs import write

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

USERS, ITEMS = 30, 180
TRAIN = ("interactions", "train", "evaluate", "compare", "gate", "catchup", "publish", "recommend")


def overrides(config: Config, **keys: object) -> list[str]:
    """Return the configuration of a run as the parameter `set` takes it."""
    small = {"model.rank": 4, "train.iterations": 4, "train.ranks": 2, "train.solver": "cholesky"}
    small |= {"model.user_reg": 0.5, "model.item_reg": 0.5, "model.reg_exponent": 0}
    small |= {"evaluate.split": "random_holdout", "evaluate.ks": "[5, 10]", "publish.max_relative_loss": 1.0}
    small |= {"publish.max_segment_loss": 1.0, "publish.beat_popularity": "false", "recommend.n": 3}
    small |= {"stream.source": "files", "stream.path": f"{config.tables.root}/../landing", "stream.max_rows": 1}
    small |= {"stream.page_hinkley_threshold": 12, "stream.gramian_every": 1000, "stream.refresh": "false"}
    small |= {"quality.window": 3, "quality.cool_down": 5, "spark.driver_memory": "1g", "spark.shuffle_partitions": 2}
    return [f"tables.root={config.tables.root}", *(f"{key}={value}" for key, value in (small | keys).items())]


def tastes(seed: int, n: int, shift: int = 0) -> list[str]:
    """Draw events of users who each know one third of the items; `shift` moves everybody to another third."""
    rng = np.random.default_rng(seed)
    users = rng.integers(USERS, size=n)
    items = (users + shift) % 3 + 3 * rng.integers(ITEMS // 3, size=n)
    times = 1_700_000_000 + 10_000 * seed + np.arange(n)
    return [f"u{u:02d},i{i:02d},1,{time}" for u, i, time in zip(users, items, times, strict=True)]


def arrive(landing: Path, number: int, rows: list[str]) -> None:
    """Let a file arrive in its turn: a stream reads files in the order of their times."""
    name = f"{number:03d}.csv"
    write(landing, name, rows)
    os.utime(landing / name, (1_700_000_000 + number,) * 2)


def done(names: tuple[str, ...]) -> dict[str, str]:
    return dict.fromkeys(names, "success")


@pytest.mark.long
def test_a_model_lives_drifts_is_replaced_and_restored(spark, config, airflow, tmp_path):
    landing = tmp_path / "landing"
    given, tables = overrides(config), Tables(spark, config.tables)
    write(tmp_path, "events.csv", tastes(1, 600))
    assert airflow.run("ingest", set=given, path=str(tmp_path / "events.csv"))["state"] == "success"
    assert airflow.run("train", set=given)["tasks"] == done(TRAIN)
    (first,) = tables.collect("models")
    assert live_version(tables) == first["model_version"]
    assert [row["action"] for row in tables.collect("decisions")] == ["publish"]
    assert tables.read("events").count() == 600
    lists = tables.read("recommendations").groupBy("model_version", "user_id").count().collect()
    assert {(row.model_version, row["count"]) for row in lists} == {(first["model_version"], 3)}
    assert len(lists) == first["n_users"] == USERS

    # As many micro-batches as a detector learns from, then everybody turns to other items.
    for number in range(44):
        arrive(landing, number, tastes(100 + number, 30, shift=int(number >= 34)))
    assert airflow.run("stream", set=given)["tasks"] == done(("stream",))
    assert sorted(row["batch_id"] for row in tables.collect("stream_ledger")) == [*range(44)]
    assert {row["model_version"] for row in tables.collect("drift")} == {first["model_version"]}
    assert airflow.run("quality", set=given)["tasks"] == done(("quality",))  # which updates the asset drift

    assert airflow.run("train", set=given)["tasks"] == done(TRAIN)
    second = live_version(tables)
    assert second != first["model_version"]
    assert airflow.run("quality", set=given)["tasks"] == {"quality": "skipped"}

    # Everybody is back, at what the second model knows best. A model that is made to be poor, by a gate that lets it:
    # three micro-batches, and it is gone.
    for number in (100, 101, 102):
        arrive(landing, number, tastes(100 + number, 30))
    assert airflow.run("stream", set=given)["state"] == "success"
    poor = overrides(config, **{"model.rank": 1, "model.user_reg": 1000, "model.item_reg": 1000})
    assert airflow.run("train", set=poor)["tasks"] == done(TRAIN)
    assert live_version(tables) != second
    for number in (110, 111, 112):
        arrive(landing, number, tastes(100 + number, 30))
    assert airflow.run("stream", set=given)["state"] == "success"
    assert airflow.run("quality", set=given)["tasks"] == {"quality": "skipped"}
    assert live_version(tables) == second
    actions = [row["action"] for row in sorted(tables.collect("decisions"), key=lambda row: row["decided_at"])]
    assert actions == ["publish", "publish", "publish", "rollback"]

    # Somebody wants to be forgotten, and a stream goes on without.
    known = ("events", "interactions", "user_factors", "recommendations")
    assert all(tables.read(table).where("user_id = 'u01'").count() for table in known)
    assert airflow.run("forget", set=given, users=["u01"], dry_run=False)["tasks"] == done(("forget",))
    arrive(landing, 120, ["u01,i01,1,1700900000", "u02,i02,1,1700900001"])
    assert airflow.run("stream", set=given)["state"] == "success"
    for table in (*known, "factor_updates"):
        assert tables.read(table).where("user_id = 'u01'").count() == 0, table
    assert tables.read("events").where("user_id = 'u02' AND event_time = timestamp_seconds(1700900001)").count() == 1


def test_a_gate_that_refuses_ends_the_run_and_leaves_the_live_model(spark, config, airflow, tmp_path):
    write(tmp_path, "events.csv", tastes(1, 200))
    strict = overrides(config, **{"publish.min_coverage": 1.0, "recommend.n": 1, "model.rank": 1})
    assert airflow.run("ingest", set=strict, path=str(tmp_path / "events.csv"))["state"] == "success"
    refused = airflow.run("train", set=strict)
    states = done(TRAIN[:4]) | {"gate": "failed"} | dict.fromkeys(TRAIN[5:], "upstream_failed")
    assert (refused["state"], refused["tasks"]) == ("failed", states)
    tables = Tables(spark, config.tables)
    (decision,) = tables.collect("decisions")
    assert (decision["action"], "below publish.min_coverage 1" in decision["reason"]) == ("refuse", True)
    assert live_version(tables) is None


@pytest.mark.long
def test_killed_and_run_by_two_airflows_at_once_it_publishes_one_version(spark, config, airflow, tmp_path):
    """A run is killed in the middle of its training; then two that know nothing of each other go on with it."""
    given = overrides(config, **{"train.iterations": 1500, "train.snapshot_every": 1})
    write(tmp_path, "events.csv", tastes(1, 200))
    assert airflow.run("ingest", set=given, path=str(tmp_path / "events.csv"))["state"] == "success"
    killed = airflow.start("train", set=given)
    snapshots = Path(config.tables.root) / "_snapshots"
    while killed.poll() is None and not list(snapshots.glob("2*/*/manifest.json")):
        time.sleep(0.2)
    assert killed.poll() is None, "it ended before it could be killed"
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    (begun,) = (path.name for path in snapshots.glob("2*"))

    others = [each.start("train", set=given) for each in (airflow, airflow.at(tmp_path / "airflow"))]
    states = [airflow.ended(each)["state"] for each in others]
    assert states == ["success", "success"]
    tables = Tables(spark, config.tables)
    assert [row["model_version"] for row in tables.collect("models")] == [begun]
    assert [(row["model_version"], row["action"]) for row in tables.collect("decisions")] == [(begun, "publish")]
    assert live_version(tables) == begun
    for side in ("user", "item"):
        rows = tables.read(f"{side}_factors").select("model_version", f"{side}_id").collect()
        assert len(rows) == len(set(rows))
        assert {row.model_version for row in rows} == {begun}
    evaluated = tables.read("evaluations").select("recommender", "metric", "segment", "k", "fold").collect()
    assert len(evaluated) == len(set(evaluated))
    lists = tables.read("recommendations").select("user_id", "position").collect()
    assert len(lists) == len(set(lists)) == 3 * USERS
