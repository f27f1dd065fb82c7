"""Experiment: what a running A/B test says today."""

from __future__ import annotations

from _submit import OVERRIDES, defaults, submit
from airflow.sdk import DAG, Param

NAME = Param("", type="string", description="The A/B test; empty: the variable lakefactor_experiment names it.")
EXPOSURES = Param(
    "",
    type="string",
    description="File or Delta table that exposures are logged to: a URI, or a path that the driver sees; empty: the "
    "variable lakefactor_exposures names it.",
)

with DAG(
    "experiment",
    doc_md="""
Takes in new exposures and analyses a running A/B test, once a day: its figures go to `experiment_results`, of which the
intervals that hold at any time may be looked at every day. It may be repeated: an exposure counts once.
""",
    schedule="0 6 * * *",
    max_active_runs=1,
    params=OVERRIDES | {"name": NAME, "exposures": EXPOSURES},
    default_args=defaults(hours=2),
    tags=["lakefactor"],
):
    submit(
        "experiment",
        "analyse",
        "{{ params.name or var.value.lakefactor_experiment }}",
        "{{ params.exposures or var.value.lakefactor_exposures }}",
    )
