"""Watch over the live model: go back if it is worse than the one before, train again when it drifts."""

from __future__ import annotations

from _assets import DRIFT, FACTOR_UPDATES
from _submit import OVERRIDES, defaults, submit
from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable

with DAG(
    "quality",
    doc_md="""
Looks at what micro-batches say of the live model, after each run of `stream` and every quarter of an hour.

Where the model is worse than the one that it replaced was, that one becomes live again. Where a detector has seen a
change for the worse since the newest training, and the cool-down is over, the asset `drift` is updated, which starts
`train`; otherwise the task is skipped. The limits are in section `quality` of the configuration.
""",
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable("*/15 * * * *", timezone="UTC"), assets=[FACTOR_UPDATES]
    ),
    max_active_runs=1,
    params=OVERRIDES,
    default_args=defaults(hours=1),
    tags=["lakefactor"],
):
    submit("quality", "--exit-code", outlets=[DRIFT])
