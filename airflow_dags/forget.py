"""Forget: every row of some users deleted, and the users kept out from then on."""

from __future__ import annotations

from _submit import OVERRIDES, defaults, submit
from airflow.sdk import DAG, Param

USERS = Param(
    [],
    type="array",
    items={"type": "string", "minLength": 1},
    description="Ids, one a line. Airflow keeps them with the run: `users_file` keeps them out of its database.",
)
USERS_FILE = Param(
    None,
    type=["null", "string"],
    minLength=1,
    description="File with an id on each line: a URI, or a path that the driver sees. Remove it afterwards.",
)
DRY_RUN = Param(True, type="boolean", description="Tell what would be deleted, and change nothing.")

with DAG(
    "forget",
    doc_md="""
Deletes every row of some users from every table, solves the items of the live model anew that depended on them, removes
snapshots of unfinished trainings, and keeps the users out: their rows are refused from then on. A row of `erasures`
records each request. The history of the tables is removed by `maintain`, once it is old enough.

`dry_run` is on unless it is switched off: look at its result first. A run that was cut off is simply run again. A
stream or a training that runs makes it fail, so stop `stream_on` before.
""",
    max_active_runs=1,
    params=OVERRIDES | {"users": USERS, "users_file": USERS_FILE, "dry_run": DRY_RUN},
    default_args=defaults(hours=6),
    tags=["lakefactor"],
):
    submit(
        "forget",
        options={"users": "--user", "users_file": "--users-file", "dry_run": "--dry-run"},
    )
