"""One way to submit a job: spark-submit, with the files of ``conf/`` that the command line uses too.

A deployment is described outside of the DAGs: the connection ``lakefactor_spark`` says where Spark is, and three
variables say with which settings. All are read when a task runs, none when a DAG is parsed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowException, AirflowFailException

if TYPE_CHECKING:
    from airflow.sdk import Context

PROJECT = Path(__file__).resolve().parents[1]

CONFIG = f"{{{{ var.value.get('lakefactor_config', '{PROJECT}/conf/local.toml') }}}}"
"""Variable: the TOML file that `lakefactor --config` takes."""
SPARK_CONF = f"{{{{ var.value.get('lakefactor_spark_conf', '{PROJECT}/conf/spark/cpu.conf') }}}}"
"""Variable: the file that `spark-submit --properties-file` takes."""
RESULTS = "{{ var.value.lakefactor_results }}/{{ dag.dag_id }}/{{ run_id | replace(':', '.') }}"
"""Variable: the folder or URI for results, in reach of every driver; then one folder per run."""

WRITE_POOL, TRAIN_POOL, GPU_POOL = "lakefactor_write", "lakefactor_train", "lakefactor_gpu"
"""Pools. The first two have one slot each: one job at a time writes events and live factors, and one trains."""

FINAL = {2, 3, 4, 6}
"""Exit statuses that a retry would meet again: configuration, input, table, and a gate that refuses."""

OVERRIDES = {
    "set": Param(
        [],
        type="array",
        items={"type": "string", "pattern": r"^[a-z]+\.[a-z0-9_]+=.*$"},
        title="Configuration",
        description="Keys to change for this run, one `section.key=value` a line; `lakefactor config` lists them.",
    )
}
"""Parameters that every DAG has."""


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
        """
        given = ((option, context["params"].get(name)) for name, option in self.options.items())
        self.application_args = [*self.application_args, *(part for one in given for part in _arguments(*one))]
        try:
            super().execute(context)
        except AirflowException as error:
            status = re.search(r"Error code is: (\d+)", str(error))
            if status and int(status.group(1)) in FINAL:
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
        properties_file=SPARK_CONF,
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
