"""Stream without end: the live factors, seconds behind the events."""

from __future__ import annotations

from datetime import timedelta

from _assets import FACTOR_UPDATES
from _submit import OVERRIDES, STREAM_POOL, defaults, submit
from airflow.sdk import DAG

with DAG(
    "stream_on",
    doc_md="""
Keeps one stream running, and starts it again when it ends. Unpause either this or `stream`, which drains what has
arrived and ends: the two exclude each other. To stop it: pause this DAG, then `lakefactor stream --stop`.
""",
    schedule="@continuous",
    max_active_runs=1,
    params=OVERRIDES,
    default_args=defaults(hours=24) | {"execution_timeout": None, "retries": 10, "retry_delay": timedelta(seconds=30)},
    tags=["lakefactor"],
):
    submit("stream", pool=STREAM_POOL, outlets=[FACTOR_UPDATES])
