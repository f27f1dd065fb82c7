"""Faults of a training: real signals to real processes; the run ends in the objective of a run without faults."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import pytest

from lakefactor.comm.local import Local
from lakefactor.config import Config, Model, Train
from lakefactor.errors import RankFailedError, SetupError
from lakefactor.factorization.fitting import fit
from lakefactor.factorization.shard import build_shard
from lakefactor.pipelines import train
from lakefactor.pipelines.training_run import LEASES
from lakefactor.spark.tables import Tables
from lakefactor.testing.cluster import standalone_cluster
from lakefactor.testing.faults import Fault, doomed_ranks_alive, listening_ports, struck
from lakefactor.testing.interactions import random_interactions
from lakefactor.testing.tables import write_interactions

TABLE = random_interactions(60, 40, 900, seed=5)
MODEL = Model(rank=6)
ITERATIONS = 6
ENDING_SECONDS = 30.0  # a bound on waiting for processes to be gone, not an assertion about speed

AFTER_SNAPSHOT = "iteration 4"
"""A phase; the first snapshot comes after iteration 2."""


def with_faults(config: Config, **keys: object) -> Config:
    wanted = {"iterations": ITERATIONS, "solver": "cholesky", "snapshot_every": 2, "timeout_seconds": 60} | keys
    return config.model_copy(update={"model": MODEL, "train": config.train.model_copy(update=wanted)})


@pytest.fixture(scope="module")
def expected() -> float:
    shard = build_shard(Local(), TABLE.to_batches())
    return fit(shard, Local(), MODEL, Train(iterations=ITERATIONS, solver="cholesky")).objective


@pytest.fixture(autouse=True)
def nothing_is_left(spark, tmp_path):
    """After every test: no rank of a struck attempt lives, and this process listens where it did before."""
    ports = listening_ports([os.getpid()])
    yield
    assert_nothing_is_left(tmp_path, ports)


def assert_nothing_is_left(folder: Path, ports: set[int]) -> None:
    until = monotonic() + ENDING_SECONDS
    while doomed_ranks_alive(folder) and monotonic() < until:
        sleep(0.1)
    assert doomed_ranks_alive(folder) == []
    assert listening_ports([os.getpid()]) <= ports


def snapshots_of(warehouse: str | Path) -> list[str]:
    """Return the trainings that have snapshots."""
    folder = Path(warehouse, "_snapshots")
    return [name for name in os.listdir(folder) if name != LEASES] if folder.exists() else []


def run_log(spark, config: Config) -> list:
    rows = Tables(spark, config.tables).read("run_log").collect()
    assert all(row.seconds >= 0 for row in rows)
    assert all(row.peak_memory_bytes > 0 for row in rows if row.phase in ("build", "iteration", "snapshot")
               and row.proc_rank is not None)  # fmt: skip
    return rows


@pytest.mark.parametrize(
    ("kind", "timeout", "blame"),
    [("kill", 60, "died"), ("stop", 15, "gave no sign of life"), ("hang", 15, "is behind: rank 0 has waited")],
    ids=["kill", "stop", "hang"],
)
def test_a_lost_rank_is_named_and_the_run_goes_on(
    spark, config, expected, tmp_path, monkeypatch, capfd, kind, timeout, blame
):
    """Faults 5 and 6: the attempt ends, the next one goes on from the snapshot."""
    config = with_faults(config, timeout_seconds=timeout)
    write_interactions(spark, config, TABLE)
    Fault(kind, 1, AFTER_SNAPSHOT, str(tmp_path)).install(monkeypatch)
    result = train.run(spark, config)
    assert struck(tmp_path)
    told = capfd.readouterr().err
    # The last phase heard: a killed process may not have sent its last line.
    named = rf"rank 1 \(process (\d+) on \S+, in phase '[a-z]+ \d'\) of 2 {blame}"
    found = re.search("attempt 1 of 3 failed: " + named, told)
    assert found, told
    assert (tmp_path / f"doomed-{found.group(1)}").exists()
    assert "going on from the snapshot of iteration 2" in told
    assert result.attempts == 2
    assert result.objective == pytest.approx(expected, rel=1e-5)
    assert snapshots_of(config.tables.root) == []
    phases = {(row.attempt, row.phase, row.proc_rank) for row in run_log(spark, config)}
    assert {(1, "build", 0), (1, "snapshot", 0), (1, "shuffle", None), (2, "total", None)} <= phases
    for phase in ("deliver", "build", "read_snapshot", "iteration", "exchange", "solve", "snapshot", "write"):
        assert {(2, phase, 0), (2, phase, 1)} <= phases, phase


def test_an_aborted_run_goes_on_and_passes_over_damaged_snapshots(
    spark, config, expected, tmp_path, monkeypatch, capfd
):
    """Fault 17: the last attempt fails, then a bit changes on disk, then the same command is given again."""
    config = with_faults(config, attempts=1)
    write_interactions(spark, config, TABLE)
    with monkeypatch.context() as patch:
        Fault("kill", 0, AFTER_SNAPSHOT, str(tmp_path)).install(patch)
        with pytest.raises(RankFailedError, match=r"rank 0 \(process .* died.*\(attempt 1 of 1; the same command goes"):
            train.run(spark, config)
    rows = run_log(spark, config)
    assert {row.proc_rank for row in rows if row.phase == "build"} == {0, 1}
    (failed,) = (row for row in rows if row.phase == "failed")
    assert json.loads(failed.details)["error"].startswith("RankFailedError: rank 0 (process")
    (run_id,) = snapshots_of(config.tables.root)
    assert failed.run_id == run_id
    files = sorted(Path(config.tables.root, "_snapshots").glob("*/iteration-*/item-00001-of-00002.arrow"))
    assert files
    for file in files:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    result = train.run(spark, config)
    told = capfd.readouterr().err
    assert result.model_version == run_id
    assert f"going on with {run_id}, which was cut off" in told
    assert "is refused: its checksum does not match" in told
    assert "no usable snapshot: beginning anew" in told
    assert result.objective == pytest.approx(expected, rel=1e-5)
    assert snapshots_of(config.tables.root) == []


def test_partitions_that_do_not_match_are_refused(spark, config, monkeypatch):
    """Fault 7: a shuffle that merges the ranks' partitions is refused before the stage starts."""
    from pyspark.sql.classic.dataframe import DataFrame

    config = with_faults(config)
    write_interactions(spark, config, TABLE)
    monkeypatch.setattr(DataFrame, "repartitionById", lambda frame, n, owner: frame.repartition(1, owner))
    with pytest.raises(SetupError, match="the training stage has 1 partitions for 2 ranks"):
        train.run(spark, config)


def test_dynamic_allocation_is_refused(spark, config):
    config = with_faults(config)
    write_interactions(spark, config, TABLE)
    spark.conf.set("spark.sql.legacy.setCommandRejectsSparkCoreConfs", "false")
    spark.conf.set("spark.dynamicAllocation.enabled", "true")
    try:
        with pytest.raises(SetupError, match="dynamicAllocation"):
            train.run(spark, config)
    finally:
        spark.conf.unset("spark.dynamicAllocation.enabled")
        spark.conf.unset("spark.sql.legacy.setCommandRejectsSparkCoreConfs")


SCRIPT = """
import json, os, sys
from lakefactor.config import load
from lakefactor.pipelines import train
from lakefactor.spark import training
from lakefactor.spark.session import build
from lakefactor.testing.faults import Fault
from lakefactor.testing.interactions import random_interactions
from lakefactor.testing.tables import write_interactions

kind, at, folder, *settings = sys.argv[1:]
config = load(None, settings)
spark = build(config, "fault test")
if not os.path.exists(config.tables.root + "/interactions"):
    write_interactions(spark, config, random_interactions(60, 40, 900, seed=5))
fault = Fault(kind, 1, at, folder, os.getpid())
make = training._rank_function
training._rank_function = lambda *arguments: fault.wrap(make(*arguments))
print(json.dumps(train.run(spark, config).model_dump()))
spark.stop()
"""


def run_process(folder: Path, master: str, kind: str, at: str, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    settings = [
        f"tables.root={folder}/warehouse",
        f"spark.master={master}",
        "spark.shuffle_partitions=2",
        "spark.driver_memory=1g",
        f"model.rank={MODEL.rank}",
        f"train.iterations={ITERATIONS}",
        "train.solver=cholesky",
        "train.snapshot_every=2",
        f"train.ranks={ranks}",
        "train.timeout_seconds=40",
    ]
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, kind, at, str(folder), *settings],
        capture_output=True, text=True, timeout=300, cwd=folder,
    )  # fmt: skip


def objective(done: subprocess.CompletedProcess[str]) -> float:
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])["objective"]


@pytest.mark.slow
def test_a_killed_executor_is_replaced_and_the_run_goes_on(tmp_path, expected):
    """Fault 5 on executors of their own."""
    done = run_process(tmp_path, "local-cluster[2,1,1024]", "kill_executor", AFTER_SNAPSHOT)
    assert objective(done) == pytest.approx(expected, rel=1e-5)
    assert "attempt 1 of 3 failed: rank 1 (process" in done.stderr
    assert "going on from the snapshot of iteration" in done.stderr
    assert snapshots_of(tmp_path / "warehouse") == []


@pytest.mark.slow
def test_a_killed_driver_is_run_again_on_a_standalone_cluster(tmp_path, expected):
    """The same command goes on where the dead one was, with another number of ranks; nothing is written twice."""
    from deltalake import DeltaTable

    with standalone_cluster(tmp_path) as cluster:
        killed = run_process(tmp_path, cluster.url, "kill_driver", AFTER_SNAPSHOT)
        assert killed.returncode == -9, killed.stderr[-3000:]
        assert_nothing_is_left(tmp_path, listening_ports([os.getpid()]))  # though the cluster goes on
        (run_id,) = snapshots_of(tmp_path / "warehouse")
        again = run_process(tmp_path, cluster.url, "kill", AFTER_SNAPSHOT, ranks=1)
        assert f"going on with {run_id}, which was cut off" in again.stderr, again.stderr[-3000:]
        assert objective(again) == pytest.approx(expected, rel=1e-5)
        models = DeltaTable(str(tmp_path / "warehouse" / "models")).to_pyarrow_table()
        assert models["model_version"].to_pylist() == [run_id]
        users = DeltaTable(str(tmp_path / "warehouse" / "user_factors")).to_pyarrow_table()["user_id"].to_pylist()
        assert sorted(users) == sorted(set(TABLE["user_id"].to_pylist()))
    assert snapshots_of(tmp_path / "warehouse") == []


PHASES = ["build", *(f"iteration {n}" for n in range(1, ITERATIONS + 1)), "snapshot 2", "snapshot 4"]


def test_random_kills(spark, config, expected, tmp_path, monkeypatch):
    """One kill here; `make test-faults` sets LAKEFACTOR_KILLS=20."""
    kills = int(os.environ.get("LAKEFACTOR_KILLS", "1"))
    draw = random.Random(20261124)
    config = with_faults(config)
    write_interactions(spark, config, TABLE)
    ports = listening_ports([os.getpid()])
    for number in range(kills):
        folder = tmp_path / str(number)
        folder.mkdir()
        with monkeypatch.context() as patch:
            Fault("kill", draw.randrange(2), draw.choice(PHASES), str(folder)).install(patch)
            assert train.run(spark, config).objective == pytest.approx(expected, rel=1e-5)
        assert struck(folder)
        assert_nothing_is_left(folder, ports)
