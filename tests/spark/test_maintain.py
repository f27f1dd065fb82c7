"""What has grown old is removed, and nothing that the stream, a training, or a kept version reads."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from pathlib import Path

import pytest
from pydantic import ValidationError
from pyspark.sql import functions as F

from lakefactor.config import Config, Maintain
from lakefactor.errors import SetupError, TableError
from lakefactor.pipelines import ingest, maintain, publish, recommend, stream, train
from lakefactor.pipelines.models import live_version
from lakefactor.query import Reader
from lakefactor.spark.tables import Tables
from lakefactor.testing.stream_runs import EVENTS, TABLES, changed, lines, outcome, settings, write

pytestmark = pytest.mark.timeout(1800)

NOW = {"history_hours": 0.0, "alone": True}
OLD = ("20200101-000000-aaaa", "20200102-000000-bbbb")


@pytest.fixture(scope="module")
def lived(spark, tmp_path_factory) -> Path:
    """A warehouse with a live model, two old ones, and what a stream has left in small files."""
    root = tmp_path_factory.mktemp("lived")
    config = settings(root / "warehouse", root / "landing", max_rows=1)
    write(root, "history.csv", lines(0, EVENTS))
    ingest.run(spark, config, [str(root / "history.csv")])
    publish.run(spark, config, train.run(spark, config).model_version)
    recommend.run(spark, config)
    for number in range(3):
        write(root / "landing", f"{number}.csv", lines(number + 1, 5, first=EVENTS + 5 * number))
    stream.run(spark, config, available_now=True)
    tables = Tables(spark, config.tables)
    live = F.col("model_version") == live_version(tables)
    for version in OLD:
        for table in ("user_factors", "item_factors", "recommendations", "factor_updates"):
            rows = tables.read(table).where(live).withColumn("model_version", F.lit(version))
            tables.append(table, rows)
        row = tables.read("models").where(live).withColumn("model_version", F.lit(version))
        created = F.to_timestamp(F.lit(version[:8]), "yyyyMMdd")
        row = row.withColumn("identity", F.lit(version)).withColumn("created_at", created)
        tables.append("models", row)
    return root / "warehouse"


@pytest.fixture
def config(lived, tmp_path) -> Config:
    shutil.copytree(lived, tmp_path / "warehouse")
    (tmp_path / "landing").mkdir()
    return settings(tmp_path / "warehouse", tmp_path / "landing")


def versions(spark, config: Config) -> dict[str, int]:
    tables = Tables(spark, config.tables)
    names = [path.name for path in Path(config.tables.root).iterdir() if not path.name.startswith("_")]
    return {name: tables.version(name) for name in names}


def test_old_versions_and_history_go_and_what_is_read_stays(spark, config):
    tables, warehouse = Tables(spark, config.tables), Path(config.tables.root)
    live, tight = live_version(tables), changed(config, maintain=NOW | {"keep_models": 2, "small_files": 2})
    expected = outcome(spark, config)
    expected = {name: [row for row in rows if OLD[0] not in row] for name, rows in expected.items()}
    before = versions(spark, config)
    told = maintain.run(spark, tight, dry_run=True)
    assert (told.versions_removed, told.versions_kept) == (OLD[:1], (OLD[1], live))
    assert told.tables["events"].compact
    assert told.tables["events"].removed == 0  # they are taken into one file first
    assert versions(spark, config) == before

    done = maintain.run(spark, tight)
    assert (done.versions_removed, done.versions_kept, done.left) == (OLD[:1], (OLD[1], live), ())
    assert done.bytes_removed > 0
    assert done.tables["events"].files_after < done.tables["events"].files
    assert outcome(spark, config) == expected
    assert len(list((warehouse / "events").glob("*.parquet"))) == 1
    assert sorted(path.name for path in (warehouse / "events" / "_delta_log").glob("*.json")) == [
        f"{tables.version('events'):020d}.json"
    ]
    removed = {row.model_version: row.removed_at is not None for row in tables.read("models").collect()}
    assert removed == {OLD[0]: True, OLD[1]: False, live: False}
    with pytest.raises(
        TableError, match=rf"factors of model version {OLD[0]} were removed at .* 'lakefactor maintain'"
    ):
        publish.run(spark, config, OLD[0], rollback=True)
    with pytest.raises(TableError, match=rf"factors and lists of model version '{OLD[0]}' were removed at"):
        Reader(config.tables).factors(user="u001", model_version=OLD[0])
    assert Reader(config.tables).factors(user="u001", model_version=OLD[1]).num_rows == 1

    after = versions(spark, config)
    assert maintain.run(spark, tight).versions_removed == ()
    assert versions(spark, config) == after
    write(warehouse.parent / "landing", "9.csv", lines(9, 5, first=EVENTS + 50))
    assert stream.run(spark, config, available_now=True).accepted == 5


@pytest.mark.long
def test_interactions_that_a_kept_version_was_trained_on_stay(spark, config):
    tables, warehouse = Tables(spark, config.tables), Path(config.tables.root)
    trained_on = tables.collect("models", {"model_version": live_version(tables)})[0]["input_versions"]["interactions"]
    rows = tables.read("interactions", trained_on).count()
    write(warehouse.parent, "more.csv", lines(7, 20, first=EVENTS + 100))
    ingest.run(spark, config, [str(warehouse.parent / "more.csv")])
    done = maintain.run(spark, changed(config, maintain=NOW))
    assert "was trained on it" in done.tables["interactions"].needed
    assert tables.read("interactions", trained_on).count() == rows


@pytest.mark.long
def test_changes_that_the_stream_has_not_read_stay(spark, config):
    config = changed(config, stream={"source": "changes", "name": "changes"})
    warehouse = Path(config.tables.root)
    assert stream.run(spark, config, available_now=True).batches == 0
    for number in range(2):
        write(warehouse.parent, f"{number}.csv", lines(20 + number, 3, first=EVENTS + 200 + 3 * number))
        ingest.run(spark, config, [str(warehouse.parent / f"{number}.csv")])
    done = maintain.run(spark, changed(config, maintain=NOW | {"small_files": 1}))
    assert "stream 'changes' reads its changes" in done.tables["events"].needed
    assert stream.run(spark, config, available_now=True).accepted == 6


@pytest.mark.long
def test_beside_a_stream_or_a_training_it_leaves_alone_what_they_use(spark, config):
    warehouse = Path(config.tables.root)
    lease = {"name": "stream 'other'", "host": socket.gethostname(), "pid": os.getppid(), "renewed_at": time.time()}
    (warehouse / "_checkpoints" / "lease.json").write_text(json.dumps(lease))
    dead = warehouse / "_snapshots" / "_leases" / "dead"
    dead.mkdir(parents=True)
    (dead / "lease.json").write_text(json.dumps(lease | {"renewed_at": 0}))
    old = warehouse / "_snapshots" / "20200101-000000-cccc" / "iteration-000001"
    old.mkdir(parents=True)
    leases = len(list(dead.parent.iterdir()))
    expected = outcome(spark, config)
    done = maintain.run(spark, changed(config, maintain={"keep_models": 1, "small_files": 1}))
    assert [text.split(":")[-1] for text in done.left] == [
        f" stream 'other' on {socket.gethostname()} (process {os.getppid()}) rewrites them",
        f" stream 'other' on {socket.gethostname()} (process {os.getppid()}) is at work",
    ]
    assert {name for name, table in done.tables.items() if table.compact} & {*TABLES} <= {"events", "stream_ledger"}
    assert outcome(spark, config) == expected
    assert (done.snapshots, done.leases, done.versions_removed) == (1, leases, ())
    assert not dead.exists()
    assert not old.exists()
    with pytest.raises(SetupError, match=r"stream 'other' is running on .*maintain.alone is set"):
        maintain.run(spark, changed(config, maintain=NOW))


def test_a_short_history_is_refused_unless_nothing_else_is_at_work():
    with pytest.raises(ValidationError, match="removes files that others are writing"):
        Maintain(history_hours=24.0)
    assert Maintain(history_hours=24.0, alone=True).history_hours == 24.0
