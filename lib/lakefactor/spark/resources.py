"""GPUs of the training stage: one for each rank, asked for as a resource profile of that stage alone.

ETL stages share a GPU between tasks; a rank wants one to itself. Spark's stage-level scheduling serves both in one
application: `spark.task.resource.gpu.amount` is a fraction, and the training stage's profile asks for a whole one.
"""

from __future__ import annotations

from pyspark import TaskContext
from pyspark.resource import ResourceProfile, ResourceProfileBuilder, TaskResourceRequests
from pyspark.sql import SparkSession

from lakefactor.config import Train
from lakefactor.errors import SetupError

GPU = "gpu"
"""Name of the resource in ``spark.executor.resource.gpu.amount``."""


def training_profile(spark: SparkSession, train: Train) -> ResourceProfile | None:
    """Return what each rank asks for, or None: what every task of this application gets.

    Parameters
    ----------
    spark : SparkSession
    train : Train
        ``backend`` decides whether GPUs are wanted, ``threads_per_rank`` how many cores go with one.

    Returns
    -------
    ResourceProfile or None
        One GPU and ``threads_per_rank`` cores where executors have GPUs and the backend may use them. None on
        ``local[n]``, which has neither executors nor stage-level scheduling.

    Raises
    ------
    SetupError
        Executors have GPUs in a number that stage-level scheduling or the RAPIDS plugin cannot divide between ranks.
    """
    if train.backend == "numba" or executor_gpus(spark) == 0:
        return None
    if (gpus := executor_gpus(spark)) != 1:
        raise SetupError(
            f"spark.executor.resource.gpu.amount is {gpus}, but a rank has one GPU and the RAPIDS plugin uses one per "
            "executor; set it to 1 and start one executor for each GPU (spark.executor.instances)"
        )
    request = TaskResourceRequests().cpus(train.threads_per_rank).resource(GPU, 1)
    return ResourceProfileBuilder().require(request).build


def executor_gpus(spark: SparkSession) -> int:
    """Return how many GPUs each executor has; 0 on ``local[n]``, where there are no executors."""
    if str(spark.sparkContext.master).split("[")[0] == "local":
        return 0
    return int(spark.sparkContext.getConf().get(f"spark.executor.resource.{GPU}.amount", "0"))


def task_device() -> str | None:
    """Return torch's name of the GPU that Spark has given to the running task, as ``cuda:0``, or None.

    Raises
    ------
    SetupError
        The discovery script named the GPU by something else than its number.
    """
    context = TaskContext.get()
    resources = context.resources() if context else {}
    if GPU not in resources:
        return None
    address = resources[GPU].addresses[0]
    if not address.isdecimal():
        raise SetupError(
            f"Spark names this task's GPU {address!r}, but torch needs its number; let the discovery script print "
            "numbers, as conf/spark/discover_gpus.sh does"
        )
    return f"cuda:{address}"
