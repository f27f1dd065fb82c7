"""Users are forgotten in every table, and stay so: no byte names them once the history is gone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import functions as F

from lakefactor.config import Config
from lakefactor.errors import InputError, SetupError
from lakefactor.pipelines import forget, ingest, maintain, publish, recommend, stream, train
from lakefactor.pipelines.models import live_version, newest
from lakefactor.spark.live_factors import read_factors
from lakefactor.spark.suppression import SUPPRESSED
from lakefactor.spark.tables import Tables
from lakefactor.spark.user_rows import tables_with_users
from lakefactor.testing.solved import solved_rows
from lakefactor.testing.stream_runs import EVENTS, changed, lines, outcome, settings, write
from lakefactor.testing.traces import files_naming

pytestmark = pytest.mark.timeout(1800)

ZEBRA = "zebra-77-forgetme"
NOW = {"history_hours": 0.0, "alone": True}
HISTORY = [f"{ZEBRA},i000,1,1700000001", f"{ZEBRA},i003,1,1700000002", f"{ZEBRA},i950,1,1700000003"]
REFUSED = [f"{ZEBRA},i001,x,1700000004", f'"{ZEBRA}",,1,1700000005', f"u001,{ZEBRA},,1700000006"]
LATER = [f"{ZEBRA},i005,1,1700200000", f"{ZEBRA},,1,1700200001"]
ITEMS = ("i000", "i003", "i005", "i950")


@pytest.fixture(scope="module")
def lived(spark, tmp_path_factory) -> Path:
    """A warehouse in which every table and folder that can name the user does."""
    root = tmp_path_factory.mktemp("lived")
    config = settings(root / "warehouse", root / "landing")
    write(root, "history.csv", [*lines(0, EVENTS), *HISTORY, *REFUSED])
    ingest.run(spark, config, [str(root / "history.csv")])
    publish.run(spark, config, train.run(spark, config).model_version)
    recommend.run(spark, config)
    write(root / "landing", "1.csv", [*lines(1, 20, first=EVENTS), *LATER])
    assert stream.run(spark, config, available_now=True).accepted == 21
    snapshot = root / "warehouse" / "_snapshots" / "29991231-000000-dead" / "iteration-000001"
    snapshot.mkdir(parents=True)
    (snapshot / "user-00000-of-00001.arrow").write_text(ZEBRA)
    return root / "warehouse"


@pytest.fixture
def config(lived, tmp_path) -> Config:
    """Configuration of a copy of that warehouse, with an empty landing folder."""
    shutil.copytree(lived, tmp_path / "warehouse")
    (tmp_path / "landing").mkdir()
    return settings(tmp_path / "warehouse", tmp_path / "landing")


def factors(spark, config: Config, side: str) -> dict[str, tuple[tuple[float, ...], int]]:
    tables = Tables(spark, config.tables)
    rows = read_factors(tables, side, live_version(tables)).collect()
    return {row[f"{side}_id"]: (tuple(row.factors), row.n_entries) for row in rows}


def oracle_items(spark, config: Config, names: list[str]) -> dict[str, np.ndarray]:
    """Solve items in float64 from the interactions of the users that the model knows."""
    tables = Tables(spark, config.tables)
    users = {name: row[0] for name, row in factors(spark, config, "user").items()}
    known = F.col("item_id").isin(names) & F.col("user_id").isin(*users)
    pairs = tables.read("interactions").where(known).collect()
    return solved_rows(newest(tables, live_version(tables)).config.model, "item", names, pairs, users)


def erasures(spark, config: Config) -> list[dict]:
    return [row.asDict() for row in Tables(spark, config.tables).read("erasures").orderBy("requested_at").collect()]


def test_once_the_history_is_gone_no_byte_names_the_user_whatever_comes_back(spark, config):
    warehouse, tables = Path(config.tables.root), Tables(spark, config.tables)
    kept = {table: tables.read(table).where(f"user_id <> '{ZEBRA}'").count() for table in ("events", "recommendations")}
    before = factors(spark, config, "item")

    result = forget.run(spark, config, users=[ZEBRA])
    assert (result.users, result.known, result.items, result.state) == (1, 1, len(ITEMS), "deleted")
    assert result.tables == {
        "events": 4, "factor_updates": 1, "interactions": 3, "recommendations": 3, "rejects": 4, "user_factors": 1,
    }  # fmt: skip
    assert {table for table, count in result.tables.items() if count} == {*filter(tables.exists, tables_with_users())}
    (audit,) = erasures(spark, config)
    assert (audit["rows"], audit["items"], audit["state"], audit["done_at"]) == (result.tables, 4, "deleted", None)
    assert audit["remains_until"] is not None
    assert not (warehouse / "_snapshots" / "29991231-000000-dead").exists()
    assert {table: tables.read(table).count() for table in kept} == kept
    known = factors(spark, config, "user")
    assert ZEBRA not in known

    after = factors(spark, config, "item")
    expected = oracle_items(spark, config, ["i000", "i003", "i005"])
    for item, row in expected.items():
        np.testing.assert_allclose(after[item][0], row, rtol=1e-5, atol=1e-6, err_msg=item)
        assert after[item][0] != before[item][0]
    assert "i950" in before
    assert "i950" not in after  # which nobody else knows
    assert {item: row for item, row in after.items() if item not in ITEMS} == {
        item: row for item, row in before.items() if item not in ITEMS
    }

    assert maintain.run(spark, config).bytes_removed == 0  # the history is young
    assert files_naming(warehouse, ZEBRA)  # and named the user: the last look can fail
    maintain.run(spark, changed(config, maintain=NOW))
    assert files_naming(warehouse, ZEBRA) == []
    (audit,) = erasures(spark, config)
    assert (audit["state"], audit["remains"]) == ("done", None)
    assert audit["done_at"] >= audit["deleted_at"]

    write(warehouse.parent, "again.csv", [*HISTORY, *REFUSED, "u001,i001,1,1700300000"])
    read = ingest.run(spark, config, [str(warehouse.parent / "again.csv")])
    assert (read.accepted, read.reasons) == (1, {SUPPRESSED: 6})
    write(warehouse.parent / "landing", "2.csv", [*LATER, "u002,i002,1,1700300001"])
    streamed = stream.run(spark, config, available_now=True)
    assert (streamed.read, streamed.accepted, streamed.rejected) == (3, 1, 2)
    named_nobody = tables.read("rejects").where(F.col("reason") == SUPPRESSED)
    assert {row.content for row in named_nobody.collect()} == {""}
    assert named_nobody.count() == 8
    assert files_naming(warehouse, ZEBRA) == []


def versions(spark, config: Config) -> dict[str, int]:
    tables = Tables(spark, config.tables)
    names = [path.name for path in Path(config.tables.root).iterdir() if not path.name.startswith("_")]
    return {name: tables.version(name) for name in names}


def test_a_dry_run_tells_and_changes_nothing(spark, config, tmp_path):
    before, files = versions(spark, config), {file.name for file in tmp_path.rglob("*")}
    result = forget.run(spark, config, users=[ZEBRA, "nobody"], dry_run=True)
    assert (result.users, result.known, result.state, result.item_ids) == (2, 1, "dry run", ITEMS)
    assert (result.tables["events"], result.tables["rejects"], result.snapshots) == (4, 4, 1)
    assert versions(spark, config) == before
    assert {file.name for file in tmp_path.rglob("*")} == files


KILLED = """
import os, signal, sys
from lakefactor.config import Config
from lakefactor.pipelines import forget
from lakefactor.spark import session

config = Config.model_validate_json(sys.argv[1])
strike = lambda step: step == sys.argv[2] and os.killpg(0, signal.SIGKILL)
forget.run(session.build(config, "killed"), config, users=sys.argv[3:], at=strike)
"""


@pytest.mark.long
def test_killed_and_run_again_it_ends_as_an_unbroken_run(spark, config, lived, tmp_path):
    whole = settings(tmp_path / "whole", tmp_path / "landing")
    shutil.copytree(lived, tmp_path / "whole")
    expected_result = forget.run(spark, whole, users=[ZEBRA])
    expected = outcome(spark, whole)

    small = changed(config, spark={"master": "local[2]", "driver_memory": "1g", "shuffle_partitions": 2})
    for step in ("item_factors", "events"):
        arguments = [small.model_dump_json(), step, ZEBRA]
        process = subprocess.run(
            [sys.executable, "-c", KILLED, *arguments], start_new_session=True, capture_output=True, text=True
        )
        assert process.returncode == -signal.SIGKILL, process.stderr[-3000:]
    forget.run(spark, config, users=[ZEBRA])
    assert outcome(spark, config) == expected
    (audit,) = erasures(spark, config)
    assert (audit["state"], audit["rows"], audit["items"]) == ("deleted", expected_result.tables, len(ITEMS))


@pytest.mark.long
def test_integer_ids_and_users_that_nobody_knows(spark, tmp_path):
    config = settings(tmp_path / "warehouse", tmp_path / "landing")
    config = changed(config, tables={"user_id_type": "long"}, maintain=NOW)
    rows = ["7,i1,1,1700000000", "17,i1,1,1700000001", "70,i2,1,1700000002", "007,i3,1,1700000003"]
    write(tmp_path, "a.csv", [*rows, "7,,1,1700000004", "17,,1,1700000005"])
    ingest.run(spark, config, [str(tmp_path / "a.csv")])
    (tmp_path / "users.txt").write_text("7\n\n9000000000000\n")
    result = forget.run(spark, config, users_file=str(tmp_path / "users.txt"))
    assert (result.users, result.known, result.items, result.state) == (2, 1, 2, "done")
    assert result.tables == {"events": 2, "interactions": 2, "rejects": 1}
    tables = Tables(spark, config.tables)
    for table in ("events", "interactions"):
        assert {row.user_id for row in tables.read(table).collect()} == {17, 70}
    assert [json.loads(row.content)["user"] for row in tables.read("rejects").collect()] == ["17"]
    assert tables.read("suppressions").count() == 2
    write(tmp_path, "b.csv", ["9000000000000,i1,1,1700000006", "0007,i1,1,1700000007", "71,i1,1,1700000008"])
    again = ingest.run(spark, config, [str(tmp_path / "b.csv")])
    assert (again.accepted, again.reasons) == (1, {SUPPRESSED: 2})
    with pytest.raises(InputError, match=r"--user is a 64-bit integer; found 'seven'"):
        forget.run(spark, config, users=["seven"])
    with pytest.raises(InputError, match="no user is named"):
        forget.run(spark, config)


@pytest.mark.long
def test_a_stream_of_changes_goes_on_after_an_erasure_and_learns_nothing_of_the_user(spark, config):
    config = changed(config, stream={"source": "changes", "name": "changes"})
    warehouse = Path(config.tables.root)
    write(warehouse.parent, "new.csv", ["u001,i001,1,1700300000"])
    assert stream.run(spark, config, available_now=True).batches == 0
    ingest.run(spark, config, [str(warehouse.parent / "new.csv")])
    stream.run(spark, config, available_now=True)
    write(warehouse.parent, "newer.csv", [f"{ZEBRA},i001,1,1700300001", "u002,i001,1,1700300002"])
    ingest.run(spark, config, [str(warehouse.parent / "newer.csv")])
    forget.run(spark, changed(config, maintain=NOW), users=[ZEBRA])
    (audit,) = erasures(spark, config)
    assert audit["state"] == "deleted"  # the stream has to read those changes first
    done = stream.run(spark, config, available_now=True)
    assert done.accepted == 1
    assert ZEBRA not in factors(spark, config, "user")
    write(warehouse.parent, "newest.csv", ["u003,i001,1,1700300003"])  # a start plans the micro-batch before once more
    ingest.run(spark, config, [str(warehouse.parent / "newest.csv")])
    assert stream.run(spark, config, available_now=True).accepted == 1
    maintain.run(spark, changed(config, maintain=NOW))
    assert files_naming(warehouse, ZEBRA) == []
    assert [row["state"] for row in erasures(spark, config)] == ["done"]


def test_it_refuses_to_begin_beside_a_stream_or_a_training(spark, config):
    lease = {"name": "stream 'other'", "host": socket.gethostname(), "pid": os.getppid(), "renewed_at": time.time()}
    for folder, message in (
        ("_checkpoints", r"stream 'other' is running on .*: stop it \('lakefactor stream --stop'\), then forget"),
        ("_snapshots/_leases/abc", r"stream 'other' on .*: wait for its end, or stop it"),
    ):
        place = Path(config.tables.root, folder)
        place.mkdir(parents=True, exist_ok=True)
        (place / "lease.json").write_text(json.dumps(lease))
        with pytest.raises(SetupError, match=message):
            forget.run(spark, config, users=[ZEBRA])
        (place / "lease.json").write_text(json.dumps(lease | {"renewed_at": 0}))
    assert not Tables(spark, config.tables).exists("suppressions")
