"""Train, measure, publish and recommend: one model version, or a refusal that says why."""

from __future__ import annotations

from _assets import DRIFT, INTERACTIONS, LIVE_MODEL, MODELS, RECOMMENDATIONS
from _submit import OVERRIDES, TRAIN_POOL, defaults, result_of, submit, version_of
from airflow.sdk import DAG, Param, chain

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
    chain(
        submit("interactions"),
        submit("train", "{{ '--fresh' if params.fresh else '' }}", pool=TRAIN_POOL, outlets=[MODELS]),
        submit("evaluate", *version_of("train"), pool=TRAIN_POOL),
        submit("compare", "live", f"@{result_of('train')}", pool=TRAIN_POOL),
        submit("gate", *version_of("train")),
        submit("catchup", *version_of("train")),
        submit("publish", *version_of("train"), outlets=[LIVE_MODEL]),
        submit("recommend", *version_of("publish"), outlets=[RECOMMENDATIONS]),
    )
