"""Stream: the live factors, kept current by what has arrived."""

from __future__ import annotations

from _assets import EVENTS, FACTOR_UPDATES
from _submit import OVERRIDES, defaults, submit
from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable

with DAG(
    "stream",
    doc_md="""
Takes in what has arrived since the last time, micro-batch by micro-batch, and ends: every 10 minutes, and whenever
`events` has got new ones. For a stream that never ends, unpause `stream_on` instead; the two exclude each other.
""",
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("*/10 * * * *", timezone="UTC"), assets=[EVENTS]),
    max_active_runs=1,
    params=OVERRIDES,
    default_args=defaults(hours=2),
    tags=["lakefactor"],
):
    submit("stream", "--available-now", outlets=[FACTOR_UPDATES])
