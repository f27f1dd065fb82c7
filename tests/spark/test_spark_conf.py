"""conf/spark: layers of settings that Spark knows, and a discovery script that prints what Spark expects."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from lakefactor.spark.session import DELTA_PACKAGE
from lakefactor.testing.spark_conf import read_conf

CONF = Path(__file__).parents[2] / "conf" / "spark"
LAYERS = ["cpu.conf", "gpu.conf", "k8s.conf", "standalone.conf"]

# Keys whose last part is free to choose, and the plugins', which test_rapids_plans.py asks the plugin about.
FAMILIES = ("spark.executorEnv.", "spark.executor.resource.gpu.", "spark.task.resource.gpu.", "spark.rapids.")
# Spark passes these on without an entry of their own: the catalog's name is part of the key.
WITHOUT_ENTRY = {"spark.sql.catalog.spark_catalog"}


def test_the_folder_holds_these_layers() -> None:
    assert sorted(file.name for file in CONF.glob("*.conf")) == LAYERS


@pytest.mark.parametrize("layer", LAYERS)
def test_spark_knows_every_key(spark: SparkSession, layer: str) -> None:
    jvm = spark._jvm
    assert jvm is not None
    loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
    for entries in ("internal.config.package$", "deploy.k8s.Config$", "sql.internal.StaticSQLConf$"):
        loader.loadClass(f"org.apache.spark.{entries}").getField("MODULE$").get(None)  # registers its keys
    find, find_sql = (
        jvm.org.apache.spark.internal.config.ConfigEntry.findEntry,
        jvm.org.apache.spark.sql.internal.SQLConf,
    )
    keys = {key for key in read_conf(CONF / layer) if not key.startswith(FAMILIES)} - WITHOUT_ENTRY
    assert {key for key in keys if find(key) is None and find_sql.getConfigEntry(key) is None} == set()
    assert find("spark.executor.no.such.key") is None


@pytest.mark.parametrize("layer", ["gpu.conf", "k8s.conf", "standalone.conf"])
def test_a_layer_repeats_nothing_that_cpu_conf_says(layer: str) -> None:
    base = read_conf(CONF / "cpu.conf")
    assert {key for key, value in read_conf(CONF / layer).items() if base.get(key) == value} == set()


def test_cpu_conf_asks_for_the_delta_of_this_release() -> None:
    assert read_conf(CONF / "cpu.conf")["spark.jars.packages"] == DELTA_PACKAGE


def discover(folder: Path, nvidia_smi: str) -> subprocess.CompletedProcess[str]:
    """Run the discovery script on a machine whose nvidia-smi is this shell script."""
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{nvidia_smi}\n")
    (folder / "nvidia-smi").chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run([CONF / "discover_gpus.sh"], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(("lists", "addresses"), [("0", ["0"]), ("0\\n1\\n10", ["0", "1", "10"])])
def test_the_discovery_script_prints_the_numbers_of_the_gpus(tmp_path: Path, lists: str, addresses: list[str]) -> None:
    found = discover(tmp_path, f"printf '{lists}\\n'")
    assert json.loads(found.stdout) == {"name": "gpu", "addresses": addresses}


@pytest.mark.parametrize(
    ("nvidia_smi", "complaint"), [("exit 9", "is the NVIDIA driver installed?"), ("true", "nvidia-smi lists no GPU on")]
)
def test_the_discovery_script_fails_where_there_is_no_gpu(tmp_path: Path, nvidia_smi: str, complaint: str) -> None:
    found = discover(tmp_path, nvidia_smi)
    assert (found.returncode, found.stdout) == (1, "")
    assert complaint in found.stderr
