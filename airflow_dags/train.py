"""Train, measure, publish and recommend: one model version, or a refusal that says why."""

from __future__ import annotations

from _assets import DRIFT, INTERACTIONS
from _release import release
from _submit import OVERRIDES, defaults, submit
from airflow.sdk import DAG, Param

FRESH = Param(False, type="boolean", description="Train again, even where the same training has been done.")

with DAG(
    "train",
    doc_md="""
Makes `interactions` of all events, trains a model on them, measures it on held-out ones beside the live model, holds it
against the gate, teaches it what has arrived meanwhile, and makes it the live one. It runs when `ingest` has made new
`interactions`, and when `quality` has seen drift.

Every task may be killed, cleared or run again: a training that was done is found by its configuration and the version
of `interactions`, one that was cut off goes on from its last snapshot, and a version is published once. A refusal fails
`gate`, is a row of `decisions` with its reasons, and leaves the live model as it was.
""",
    schedule=INTERACTIONS | DRIFT,
    max_active_runs=1,
    params=OVERRIDES | {"fresh": FRESH},
    default_args=defaults(hours=12),
    tags=["lakefactor"],
):
    submit("interactions") >> release()
