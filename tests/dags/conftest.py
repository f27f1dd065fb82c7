"""Airflow in its own environment and with an empty database, for tests that run DAGs for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[2]
collect_ignore = ["run_dag.py", "describe_dags.py"]  # they run in Airflow's environment
PYTHON = CHECKOUT / ".venv-airflow" / "bin" / "python"


@dataclass(frozen=True)
class Airflow:
    """Airflow's commands, in a folder of their own."""

    environment: dict[str, str]

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Airflow's Python."""
        return subprocess.run(
            [str(PYTHON), *arguments], capture_output=True, text=True, env=self.environment, check=False
        )

    def script(self, name: str, *arguments: str) -> dict[str, Any]:
        """Run a script of this folder; return the JSON of its last line."""
        done = self.python(str(Path(__file__).with_name(name)), *arguments)
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def run(self, dag: str, **params: Any) -> dict[str, Any]:
        """Run a DAG to its end; return its state, its run_id, and the states of its tasks."""
        return self.script("run_dag.py", dag, json.dumps(params))


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    """Airflow with our DAGs, Spark on this machine, and nothing in its database."""
    if not PYTHON.exists():
        pytest.skip("no Airflow in .venv-airflow; `make test-airflow` installs it (0.5 GB)")
    home = tmp_path_factory.mktemp("airflow")
    spark = {"conn_type": "spark", "host": "local[2]", "extra": {"deploy-mode": "client"}}
    environment = os.environ | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(CHECKOUT / "airflow_dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_CONN_LAKEFACTOR_SPARK": json.dumps(spark),
        "AIRFLOW_VAR_LAKEFACTOR_RESULTS": str(home / "results"),
        "PATH": f"{PYTHON.parent}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": str(CHECKOUT / "lib"),
    }
    made = Airflow(environment)
    migrated = made.python("-m", "airflow", "db", "migrate")
    assert migrated.returncode == 0, migrated.stderr[-5000:]
    return made
