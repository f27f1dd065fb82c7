"""Run by the tests with Airflow's own Python: one run of a DAG, here and now; the last line says how it ended.

Arguments: the DAG, and the parameters of the run as JSON.
"""

from __future__ import annotations

import json
import os
import sys

from airflow.dag_processing.dagbag import DagBag

folder = os.environ["AIRFLOW__CORE__DAGS_FOLDER"]
sys.path.append(folder)  # as the DAG processor does
bag = DagBag(folder)
assert not bag.import_errors, bag.import_errors
run = bag.dags[sys.argv[1]].test(run_conf=json.loads(sys.argv[2]))
tasks = {task.task_id: str(task.state) for task in run.get_task_instances()}
print(json.dumps({"state": str(run.state), "run_id": run.run_id, "tasks": tasks}))
