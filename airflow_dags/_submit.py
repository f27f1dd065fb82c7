"""One way to submit a job: spark-submit, with the files of ``conf/`` that the command line uses too.

A deployment is described outside of the DAGs: the connection ``lakefactor_spark`` says where Spark is, and four
variables say with which settings. All are read when a task runs, none when a DAG is parsed.
"""

from __future__ import annotations

import logging
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

if TYPE_CHECKING:
    from airflow.sdk import Context

PROJECT = Path(__file__).resolve().parents[1]

CONFIG = f"{{{{ var.value.get('lakefactor_config', '{PROJECT}/conf/local.toml') }}}}"
"""Variable: the TOML file that `lakefactor --config` takes."""
SPARK_CONF = f"{{{{ var.value.get('lakefactor_spark_conf', '{PROJECT}/conf/spark/cpu.conf') }}}}"
"""Variable: the file that `spark-submit --properties-file` takes."""
TRAIN_SPARK_CONF = f"{{{{ var.value.get('lakefactor_train_spark_conf', '{PROJECT}/conf/spark/cpu.conf') }}}}"
"""Variable: the same for jobs that train, as on GPUs."""
RESULTS = "{{ var.value.lakefactor_results }}/{{ dag.dag_id }}/{{ run_id | replace(':', '.') }}"
"""Variable: the folder or URI for results, in reach of every driver; then one folder per run."""

WRITE_POOL, TRAIN_POOL, STREAM_POOL = "lakefactor_write", "lakefactor_train", "lakefactor_stream"
"""Pools of one slot each: one job at a time writes events and the live model, one trains, one streams without end."""

FINAL = {2, 4, 6}
"""Exit statuses that a retry would meet again: configuration, input or table, and a gate that refuses."""

NOT_CALLED_FOR = 8
"""Exit status of a job that was asked by --exit-code whether something is called for, where it is not."""

OVERRIDES = {
    "set": Param(
        [],
        type="array",
        items={"type": "string", "pattern": r"^(?!stream\.kafka_options)[a-z]+\.[a-z0-9_]+=.*$"},
        title="Configuration",
        description="Keys to change for this run, one `section.key=value` a line; `lakefactor config` lists them. "
        "No secrets: Airflow keeps and shows what is given here.",
    )
}
"""Parameters that every DAG has."""


def log_failure(context: Context) -> None:
    """Say what failed and what to do; the place for a deployment's own message to people."""
    task = context["ti"]
    logging.getLogger("lakefactor").error(
        "%s.%s of run %s failed: %s. Nothing is half done: mend the cause, then clear the task.",
        task.dag_id,
        task.task_id,
        context["run_id"],
        context.get("exception"),
    )


def defaults(hours: float) -> dict[str, Any]:
    """Return what all tasks of a DAG have in common; they are given up after so many hours."""
    return {
        "retries": 2,
        "retry_delay": timedelta(minutes=1),
        "execution_timeout": timedelta(hours=hours),
        "on_failure_callback": log_failure,
    }


class Job(SparkSubmitOperator):
    """A job of ``jobs/``, submitted; parameters of the run are added to its arguments.

    Parameters
    ----------
    options : dict of str to str
        Option of the job by parameter: repeated for a list, bare for true, left out for what is empty.
    **operator
        Arguments of the operator.
    """

    def __init__(self, *, options: dict[str, str] | None = None, **operator: Any) -> None:
        super().__init__(**operator)
        self.options = {"set": "--set"} | (options or {})

    def execute(self, context: Context) -> None:
        """Submit the job and wait for its end.

        Raises
        ------
        AirflowFailException
            It ended with a status that a retry would meet again.
        AirflowSkipException
            It was asked whether something is called for, and it is not.
        """
        given = ((option, context["params"].get(name)) for name, option in self.options.items())
        self.application_args = [*self.application_args, *(part for one in given for part in _arguments(*one))]
        try:
            super().execute(context)
        except AirflowException as error:
            found = re.search(r"Error code is: (\d+)", str(error))
            status = int(found.group(1)) if found else None
            if status == NOT_CALLED_FOR:
                raise AirflowSkipException(f"{self.task_id}: not called for") from None
            if status in FINAL:
                raise AirflowFailException(str(error)) from error
            raise


def _arguments(option: str, value: Any) -> list[str]:
    if value is True:
        return [option]
    values = value if isinstance(value, list) else [value] if value else []
    return [part for one in values for part in (option, str(one))]


def submit(stem: str, *arguments: str, pool: str = WRITE_POOL, **operator: Any) -> Job:
    """Return the task that submits ``jobs/<stem>.py``.

    Parameters
    ----------
    stem : str
        The job; also the task's id.
    *arguments : str
        Of the job, templated.
    pool : str
    **operator
        Further arguments of the operator.
    """
    return Job(
        task_id=stem,
        application=f"{PROJECT}/jobs/{stem}.py",
        application_args=["--config", CONFIG, "--result", result_of(stem), *arguments],
        conn_id="lakefactor_spark",
        properties_file=TRAIN_SPARK_CONF if pool == TRAIN_POOL else SPARK_CONF,
        name=f"lakefactor {stem}",
        pool=pool,
        **operator,
    )


def result_of(stem: str) -> str:
    """Return the place of the result of a job of the same run."""
    return f"{RESULTS}/{stem}.json"


def version_of(stem: str) -> tuple[str, str]:
    """Return the arguments that let a job use the model version that another job of the same run names."""
    return "--model-version", f"@{result_of(stem)}"
