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
HERE = Path(__file__).parent
PYTHON = CHECKOUT / ".venv-airflow" / "bin" / "python"


@dataclass(frozen=True)
class Airflow:
    """Airflow's commands, in a folder of their own with an empty database."""

    environment: dict[str, str]

    @classmethod
    def at(cls, home: Path) -> Airflow:
        """Make an Airflow with our DAGs, and Spark on this machine."""
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
        made = cls(environment)
        migrated = made.python("-m", "airflow", "db", "migrate")
        assert migrated.returncode == 0, migrated.stderr[-5000:]
        return made

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Airflow's Python."""
        return subprocess.run(
            [str(PYTHON), *arguments], capture_output=True, text=True, env=self.environment, check=False
        )

    def describe(self) -> dict[str, Any]:
        """Return what the DAGs are, as ``describe_dags.py`` tells it."""
        found = self.python(str(HERE / "describe_dags.py"))
        assert found.returncode == 0, found.stdout[-5000:] + found.stderr[-5000:]
        return _last_line(found.stdout)

    def start(self, dag: str, **params: Any) -> subprocess.Popen[str]:
        """Start a run of a DAG, in a process group of its own."""
        return subprocess.Popen(
            [str(PYTHON), str(HERE / "run_dag.py"), dag, json.dumps(params)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment, start_new_session=True,
        )  # fmt: skip

    def ended(self, run: subprocess.Popen[str]) -> dict[str, Any]:
        """Wait for the end of a run; return its state, its run_id, and the states of its tasks."""
        output, _ = run.communicate()
        assert run.returncode == 0, output[-10_000:]
        return _last_line(output)

    def run(self, dag: str, **params: Any) -> dict[str, Any]:
        """Run a DAG to its end."""
        return self.ended(self.start(dag, **params))


def _last_line(output: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    """Airflow with nothing in its database."""
    if not PYTHON.exists():
        pytest.skip("no Airflow in .venv-airflow; `make test-airflow` installs it (0.5 GB)")
    return Airflow.at(tmp_path_factory.mktemp("airflow"))
