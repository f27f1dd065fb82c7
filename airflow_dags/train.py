"""Train, measure, publish and recommend: one model version, or a refusal that says why."""

from __future__ import annotations

from datetime import timedelta

from _assets import INTERACTIONS
from _release import release
from _submit import OVERRIDES
from airflow.sdk import DAG, Param

FRESH = Param(False, type="boolean", description="Train again, even where the same training has been done.")

with DAG(
    "train",
    doc_md="""
Trains a model on `interactions` as they are, measures it on held-out events, holds it against the gate, and makes it
the live one.

Every task may be killed, cleared or run again: a training that was done is found by its configuration and the version
of `interactions`, one that was cut off goes on from its last snapshot, and a version is published once. A refusal by
the gate fails `publish`, is a row of `decisions`, and leaves the live model as it was.
""",
    schedule=[INTERACTIONS],
    max_active_runs=1,
    params=OVERRIDES | {"fresh": FRESH},
    default_args={"retries": 2, "retry_delay": timedelta(minutes=1), "execution_timeout": timedelta(hours=12)},
    tags=["lakefactor"],
):
    release()
