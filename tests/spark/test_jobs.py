"""Real processes: what spark-submit and a person at a terminal get."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from lakefactor.config import Config
from lakefactor.spark.tables import Tables

CHECKOUT = Path(__file__).parents[2]
SPARK_SUBMIT = shutil.which(
    "spark-submit", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
)

pytestmark = pytest.mark.slow


def environment() -> dict[str, str]:
    """Processes use this Python and this checkout."""
    python = {"PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
    return os.environ | python | {"PYTHONPATH": str(CHECKOUT / "lib")}


def submit(job: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert SPARK_SUBMIT, "spark-submit comes with pyspark"
    command = [SPARK_SUBMIT, "--master", "local[2]", "--driver-memory", "1g", str(CHECKOUT / "jobs" / job), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)


def test_a_submitted_job_ends_with_its_result_or_with_the_status_of_its_error(tmp_path: Path) -> None:
    events = tmp_path / "my events.csv"
    events.write_text("user,item\nann,i1\nbob,i1\n,i2\n")
    place = f"tables.root={tmp_path / 'lake'}"
    refused = submit("train.py", "--set", place)
    assert refused.returncode == 4
    assert "error: table interactions does not exist at " in refused.stdout + refused.stderr
    assert "Traceback" not in refused.stdout + refused.stderr

    done = submit("ingest.py", str(events), "--set", place)
    assert done.returncode == 0
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["read"], result["accepted"], result["rejected"]) == (3, 2, 1)


def test_an_interrupt_cancels_the_training_without_a_trace(spark: SparkSession, config: Config) -> None:
    tables = Tables(spark, config.tables)
    tables.ensure("interactions")
    pairs = "SELECT 'ann' AS user_id, 'i1' AS item_id UNION ALL SELECT 'bob', 'i1' UNION ALL SELECT 'bob', 'i2'"
    columns = "user_id, item_id, 1.0D AS strength, 1L AS n_events, CAST(NULL AS TIMESTAMP) AS last_event_time"
    tables.append("interactions", spark.sql(f"SELECT {columns} FROM ({pairs})"))
    overrides = [f"tables.root={config.tables.root}", "spark.master=local[2]", "spark.driver_memory=1g"]
    overrides += ["model.rank=2", "train.iterations=10000"]
    command = [sys.executable, "-c", "from lakefactor.cli import main; main()", "train"]
    command += [part for override in overrides for part in ("--set", override)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environment(), start_new_session=True, **pipes) as process:
        assert process.stderr is not None
        before = [line for line in iter(process.stderr.readline, "") if not _begins_iterating(line, process.pid)]
        assert process.stdout is not None
        assert process.stdout.read() == ""
    assert process.returncode == 130
    assert before[-1] == "interrupted; what was finished is kept, and the same command can be run again\n"
    assert not [line for line in before if "Traceback" in line or line.startswith("\tat ")]


def _begins_iterating(line: str, process_group: int) -> bool:
    """Interrupt the training as a terminal does, every process of it, once it iterates."""
    if "iteration 1/" not in line:
        return False
    os.killpg(process_group, signal.SIGINT)
    return True
