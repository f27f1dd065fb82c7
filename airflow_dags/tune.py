"""Tune: better hyperparameters, and, where that is wanted, a model version with them."""

from __future__ import annotations

from _release import release
from _submit import OVERRIDES, TRAIN_POOL, defaults, result_of, submit
from airflow.sdk import DAG, Param, task

TRAIN = Param(False, type="boolean", description="Train the best, and publish it if it passes the gate.")

with DAG(
    "tune",
    doc_md="""
Runs the trials of a study on `interactions` as they are: once a week, or when triggered. With `train`, the best trial's
values make a model version, which is measured, held against the gate and published as the DAG `train` does it. They are
not kept for later trainings: put the overrides of the result into the configuration for that.

A task that is killed or cleared goes on with the trials that are missing.
""",
    schedule="0 3 * * 0",
    max_active_runs=1,
    params=OVERRIDES | {"train": TRAIN},
    default_args=defaults(hours=24),
    tags=["lakefactor"],
):

    @task.short_circuit
    def is_wanted(params: dict[str, object]) -> bool:
        """Go on to the training only where it is asked for."""
        return bool(params["train"])

    submit("tune", pool=TRAIN_POOL) >> is_wanted() >> release("--tuned", f"@{result_of('tune')}")
