"""Ingest: new events from files, checked, once."""

from __future__ import annotations

from _assets import EVENTS, INTERACTIONS
from _submit import OVERRIDES, defaults, submit
from airflow.sdk import DAG, Param

PATH = Param(
    type="string",
    minLength=1,
    pattern=r"^(?![A-Za-z][A-Za-z0-9+.-]*:.*:.*@)",  # no password: Airflow keeps and shows what is given here
    description="File or folder (CSV, JSON lines, Parquet) or Delta table: a URI, or a path that the driver sees.",
)

with DAG(
    "ingest",
    doc_md="""
Reads events from `path` into `events`, and makes `interactions` of all events. Rows that cannot be used go to
`rejects`, with the reason. What was read before changes nothing, so every run may be repeated.
""",
    max_active_runs=1,
    params=OVERRIDES | {"path": PATH},
    default_args=defaults(hours=6),
    tags=["lakefactor"],
):
    submit("ingest", "{{ params.path }}", outlets=[EVENTS, INTERACTIONS])
