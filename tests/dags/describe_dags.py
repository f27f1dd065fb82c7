"""Run by the tests with Airflow's own Python: print what the DAGs are, as one line of JSON.

Tasks that submit no job only decide whether those after them run, and are left out.
"""

from __future__ import annotations

import json
import os
import sys

from airflow.dag_processing.dagbag import DagBag

folder = os.environ["AIRFLOW__CORE__DAGS_FOLDER"]
sys.path.append(folder)  # as the DAG processor does
bag = DagBag(folder)
dags = {
    dag.dag_id: {
        "doc": dag.doc_md,
        "max_active_runs": dag.max_active_runs,
        "params": sorted(dag.params),
        "tasks": {
            task.task_id: {
                "application": os.path.basename(task.application),
                "pool": task.pool,
                "retries": task.retries,
                "outlets": [asset.name for asset in task.outlets],
                "upstream": sorted(task.upstream_task_ids),
                "callbacks": len(task.on_failure_callback or ()),
            }
            for task in dag.tasks
            if hasattr(task, "application")
        },
    }
    for dag in bag.dags.values()
}
print(json.dumps({"errors": bag.import_errors, "dags": dags}))
