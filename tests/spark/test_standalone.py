"""A standalone cluster of two workers, each with a GPU that only its discovery script knows: placement and settings.

The GPUs are made up, so nothing computes on them: what is shown is which rank is told which one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from lakefactor.config import Config
from lakefactor.spark.tables import Tables
from lakefactor.testing.cluster import Cluster, standalone_cluster
from lakefactor.testing.interactions import random_interactions
from lakefactor.testing.spark_conf import read_conf
from lakefactor.testing.tables import write_interactions

CHECKOUT = Path(__file__).parents[2]
ADDRESSES = ("3", "5")
"""Of the two workers' GPUs; neither is a number that a rank could have guessed."""

# What a worker of this test has to lend; the jars are in pyspark's folder already.
SMALL = {
    "spark.executor.cores": "2",
    "spark.cores.max": "4",
    "spark.executor.memory": "512m",
    "spark.jars.packages": "",
}
SMALL |= {"spark.driver.memory": "1g", "spark.ui.enabled": "false", "spark.pyspark.python": sys.executable}
SMALL |= {"spark.databricks.delta.snapshotPartitions": "1", "spark.log.level": "ERROR"}

pytestmark = pytest.mark.slow

PLACEMENT = """
import json, sys
import pyarrow as pa
from pyspark.sql import functions as F
from lakefactor.config import Config, Train
from lakefactor.errors import SetupError
from lakefactor.spark import session
from lakefactor.spark.barrier import refuse_unfit_cluster, run_on_ranks
from lakefactor.spark.resources import task_device, training_profile
from lakefactor.spark.watchdog import Watchdog

def on_rank(comm, batches, line):
    entries = sum(batch.num_rows for batch in batches)
    row = {"proc_rank": comm.proc_rank, "device": task_device(), "entries": entries}
    yield pa.RecordBatch.from_pylist([row])

def run(ranks, train):
    owned = spark.range(100).select(F.expr(f"cast(id % {ranks} as int)").alias("owner"), "id")
    schema = "proc_rank long, device string, entries long"
    profile = training_profile(spark, train)
    refuse_unfit_cluster(spark, ranks, profile)
    with Watchdog("127.0.0.1", ranks, 60, lambda event: None, lambda: None) as address:
        rows = run_on_ranks(owned, "owner", ranks, on_rank, schema, 60, address, profile)
        return sorted([row.proc_rank, row.device, row.entries] for row in rows.collect())

spark = session.build(Config(), "placement")
found = {"gpu": run(2, Train(backend="torch")), "auto": run(2, Train()), "cpu": run(3, Train(backend="numba"))}
for key, ranks, train in (("ranks", 3, Train(backend="torch")), ("threads", 2, Train(threads_per_rank=4))):
    try:
        run(ranks, train)
    except SetupError as error:
        found[key] = str(error)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    workers = []
    for address in ADDRESSES:
        script = folder / f"gpu-{address}.sh"
        script.write_text(f"""#!/bin/sh\necho '{{"name": "gpu", "addresses": ["{address}"]}}'\n""")
        script.chmod(0o755)
        workers.append(
            {"spark.worker.resource.gpu.amount": "1", "spark.worker.resource.gpu.discoveryScript": str(script)}
        )
    with standalone_cluster(folder, workers, cores=2) as running:
        yield running


def submit(
    cluster: Cluster, folder: Path, layers: list[str], overrides: dict[str, str], *job: str
) -> subprocess.CompletedProcess[str]:
    """Submit a job with layers of conf/spark, as their headers say."""
    conf = folder / "my.conf"
    conf.write_text("\n".join((CHECKOUT / "conf" / "spark" / layer).read_text() for layer in layers))
    command = [str(Path(sys.executable).with_name("spark-submit")), "--master", cluster.url]
    command += ["--properties-file", str(conf), "--load-spark-defaults"]
    command += [word for key, value in (SMALL | overrides).items() for word in ("--conf", f"{key}={value}")]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT / "lib"), "SPARK_LOCAL_IP": "127.0.0.1"}
    environment |= {"PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
    return subprocess.run([*command, *job], env=environment, cwd=folder, capture_output=True, text=True)


def test_every_rank_has_a_gpu_of_its_own(cluster: Cluster, tmp_path: Path) -> None:
    job = tmp_path / "placement.py"
    job.write_text(PLACEMENT)
    gpus = read_conf(CHECKOUT / "conf" / "spark" / "gpu.conf")
    overrides = {key: value for key, value in gpus.items() if "resource.gpu.amount" in key}
    overrides["spark.task.resource.gpu.amount"] = "0.5"  # of 2 cores, as gpu.conf says 1 / spark.executor.cores
    done = submit(cluster, tmp_path, ["cpu.conf", "standalone.conf"], overrides, str(job))
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for run in ("gpu", "auto"):
        assert [(proc_rank, entries) for proc_rank, _, entries in found[run]] == [(0, 50), (1, 50)]
        assert sorted(device for _, device, _ in found[run]) == [f"cuda:{address}" for address in ADDRESSES]
    assert [proc_rank for proc_rank, _, _ in found["cpu"]] == [0, 1, 2]  # without the profile, tasks share GPUs
    assert "runs 2 tasks, each with a GPU," in found["ranks"]
    assert "train.threads_per_rank cores: The number of cores per executor (=2) has to be >=" in found["threads"]


def test_standalone_conf_trains_on_the_cluster(
    cluster: Cluster, spark: SparkSession, config: Config, tmp_path: Path
) -> None:
    table = random_interactions(30, 20, 200, seed=3)
    tables: Tables = write_interactions(spark, config, table)
    keys = [
        f"tables.root={config.tables.root}",
        "model.rank=4",
        "train.iterations=2",
        "train.ranks=2",
        "spark.shuffle_partitions=2",
    ]
    job = [str(CHECKOUT / "jobs" / "train.py"), *(word for key in keys for word in ("--set", key))]
    done = submit(cluster, tmp_path, ["cpu.conf", "standalone.conf"], {}, *job)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["users"], result["items"], result["interactions"]) == (30, 20, table.num_rows)
    assert tables.read("user_factors").count() == 30
