"""What the DAGs are, without running one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lakefactor.contracts import names

CHECKOUT = Path(__file__).parents[2]
POOLS = json.loads((CHECKOUT / "conf" / "airflow" / "pools.json").read_text())


@pytest.fixture(scope="module")
def found(airflow) -> dict[str, Any]:
    return airflow.describe()


def tasks(found: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, task) for dag in found["dags"].values() for name, task in dag["tasks"].items()]


def test_every_file_parses_into_one_documented_dag_of_its_name(found):
    files = {path.stem for path in (CHECKOUT / "airflow_dags").glob("[!_]*.py")}
    assert found["errors"] == {}
    assert set(found["dags"]) == files
    for name, dag in found["dags"].items():
        assert len(dag["doc"].strip()) > 100, name
        assert dag["max_active_runs"] == 1, name
        assert "set" in dag["params"], name


def test_a_task_is_a_job_of_its_name(found):
    for name, task in tasks(found):
        assert task["application"] == f"{name}.py"
        assert (CHECKOUT / "jobs" / task["application"]).exists()


def test_an_asset_is_a_table_of_its_name(found):
    assert {asset for _, task in tasks(found) for asset in task["outlets"]} <= set(names())


def test_every_task_is_retried_watched_and_waits_in_a_pool_that_is_set_up(found):
    for name, task in tasks(found):
        assert task["retries"] > 0, name
        assert task["callbacks"] == 1, name
        assert task["pool"] in POOLS, name


def test_a_training_goes_through_the_gate_before_it_is_published(found):
    chain = found["dags"]["train"]["tasks"]
    order = ["interactions", "train", "evaluate", "compare", "gate", "catchup", "publish", "recommend"]
    assert [chain[name]["upstream"] for name in order] == [[], *([name] for name in order[:-1])]
