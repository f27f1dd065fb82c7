"""Maintain: what has grown old is removed, and small files become large ones, every night."""

from __future__ import annotations

from _submit import OVERRIDES, defaults, submit
from airflow.sdk import DAG, CronTriggerTimetable, Param

DRY_RUN = Param(False, type="boolean", description="Tell what would be done, and change nothing.")

with DAG(
    "maintain",
    doc_md="""
Compacts tables with many small files, and removes old model versions, abandoned snapshots, and the history of the
tables as far as no stream, training or kept model version reads it (`maintain.history_hours`, `maintain.keep_models`).
Requests to forget a user are done once their history is gone: `erasures` says so.

Beside `stream_on` it leaves the tables alone that the stream rewrites; `stream` waits for it, since both write.
""",
    schedule=CronTriggerTimetable("30 3 * * *", timezone="UTC"),
    max_active_runs=1,
    params=OVERRIDES | {"dry_run": DRY_RUN},
    default_args=defaults(hours=6),
    tags=["lakefactor"],
):
    submit("maintain", options={"dry_run": "--dry-run"})
