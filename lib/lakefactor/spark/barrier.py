"""Run one function on W ranks at once: a Spark barrier stage with a communicator between its tasks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import cast

import pyarrow as pa
from py4j.protocol import Py4JJavaError
from pyspark import BarrierTaskContext
from pyspark.errors import PySparkException
from pyspark.resource import ResourceProfile
from pyspark.sql import DataFrame, SparkSession

from lakefactor import errors
from lakefactor.comm import Communicator
from lakefactor.errors import LakefactorError, RankFailedError, SetupError, SolveError
from lakefactor.spark.progress import Address, Beacon, Watched, beacon

RankFunction = Callable[[Communicator, Iterable[pa.RecordBatch], Beacon], Iterator[pa.RecordBatch]]
"""What every rank runs: its communicator, its rows and its line to the driver in, result rows out."""

BACKSTOP = 1.5
"""A rank waits for a peer for so many times the timeout: the driver, which can name the culprit, comes first."""

STARTING_SECONDS = 10.0
"""Longest wait for executors that register while the first job is on its way."""

POLL_SECONDS = 0.5


def run_on_ranks(
    rows: DataFrame,
    owner: str,
    ranks: int,
    function: RankFunction,
    schema: str,
    timeout: float,
    address: Address,
    profile: ResourceProfile | None = None,
) -> DataFrame:
    """Deliver rows to their ranks and run a function there, all ranks at the same time.

    Parameters
    ----------
    rows : DataFrame
        Has the integer column ``owner``, in [0, ranks).
    owner : str
        Name of that column; the function does not see it.
    ranks : int
        W; that many task slots must be free together.
    function : RankFunction
        Runs in an executor's Python process; must be serialisable.
    schema : str
        Spark DDL of the function's rows.
    timeout : float
        Longest wait (seconds) for a peer.
    address : Address
        Where the driver's watchdog listens.
    profile : ResourceProfile or None
        What each rank gets, as `resources.training_profile` says; None: what every task gets.

    Returns
    -------
    DataFrame
        Lazy. Every evaluation runs the stage, so persist it before reading it twice.

    Raises
    ------
    SetupError
        Rows would not arrive in W partitions.
    """

    def on_rank(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        context = BarrierTaskContext.get()
        tasks = context.getTaskInfos()
        proc_rank = context.partitionId()
        with beacon(address, proc_rank) as line:
            if len(tasks) != ranks:
                raise SetupError(_partitions(len(tasks), ranks))
            from lakefactor.comm.torch_dist import connect

            host = tasks[0].address.rsplit(":", 1)[0]
            with connect(proc_rank, ranks, host, context.allGather, BACKSTOP * timeout) as comm:
                yield from function(cast(Communicator, Watched(comm, line)), batches, line)

    delivered = rows.repartitionById(ranks, owner).drop(owner)
    planned = delivered._jdf.queryExecution().executedPlan().outputPartitioning().numPartitions()
    if planned not in (0, ranks):  # 0: Spark does not know
        raise SetupError(_partitions(planned, ranks))
    return delivered.mapInArrow(on_rank, schema, barrier=True, profile=profile)


def _partitions(found: int, ranks: int) -> str:
    return (
        f"the training stage has {found} partitions for {ranks} ranks: something merges or splits its input; "
        "set spark.sql.adaptive.coalescePartitions.enabled to false"
    )


def refuse_unfit_cluster(
    spark: SparkSession, ranks: int, profile: ResourceProfile | None = None, wait_seconds: float = STARTING_SECONDS
) -> None:
    """Raise SetupError unless W tasks can run together; Spark itself would wait for ten minutes and then fail.

    Parameters
    ----------
    spark : SparkSession
    ranks : int
    profile : ResourceProfile or None
        What each rank gets; None: what every task gets.
    wait_seconds : float
        Longest wait for executors that are being started; none where their number is fixed.
    """
    if spark.conf.get("spark.dynamicAllocation.enabled", "false") == "true":
        raise SetupError(
            "spark.dynamicAllocation.enabled is true, but the training stage needs all its executors at once; "
            "set it to false and give spark.executor.instances"
        )
    master = str(spark.sparkContext.master)
    until = monotonic() + (0 if master.startswith("local[") else wait_seconds)
    while (slots := _slots(spark, profile)) < ranks:
        if monotonic() >= until:
            each, more = (", each with a GPU,", "executors with a GPU") if profile else ("", "executors or cores")
            raise SetupError(
                f"train.ranks is {ranks}, but the cluster {master} runs {slots} tasks{each} at once; "
                f"set train.ranks to {max(slots, 1)} or less, or add {more}"
            )
        sleep(POLL_SECONDS)


def _slots(spark: SparkSession, profile: ResourceProfile | None) -> int:
    """Return how many tasks of a profile the cluster runs at once."""
    context = spark.sparkContext._jsc.sc()
    profiles = context.resourceProfileManager()
    wanted = profile._java_resource_profile if profile else profiles.defaultResourceProfile()
    try:
        profiles.addResourceProfile(wanted)  # Spark counts slots of profiles that it knows
    except Py4JJavaError as error:
        raise SetupError(
            "an executor cannot hold a rank, which takes one GPU and train.threads_per_rank cores: "
            f"{error.java_exception.getMessage()}"
        ) from error
    return int(context.maxNumConcurrentTasks(wanted))


@contextmanager
def rank_errors() -> Iterator[None]:
    """Raise what a rank raised: around every action that runs the stage.

    Raises
    ------
    LakefactorError
        The class and text of the rank's own error.
    RankFailedError
        A rank's process or executor was lost.
    """
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        raise typed_error(str(error)) or error from error


def typed_error(text: str) -> LakefactorError | None:
    r"""Find the rank's error in Spark's account of a failed stage.

    >>> typed_error("Job aborted\nTraceback ...\nlakefactor.errors.InputError: no interactions\n at x")
    InputError('no interactions')
    >>> typed_error("Job aborted: out of disk")
    """
    found = re.findall(r"^\s*lakefactor\.errors\.(\w+): (.*)$", text, re.MULTILINE)
    if found:
        name, message = found[-1]
        error_class = getattr(errors, name)
        return SolveError([], message) if error_class is SolveError else error_class(message)
    if "BarrierJobUnsupportedRDDChain" in text:
        return SetupError(
            "Spark cannot run the training stage: something between its shuffle and the ranks merges or splits "
            "partitions; leave spark.sql.adaptive.coalescePartitions.enabled at false for the training"
        )
    lost = re.search(r"ExecutorLostFailure|Python worker exited unexpectedly", text)
    if lost or ("Could not recover from a failed barrier" in text and "PythonException" not in text):
        return RankFailedError(f"a rank's process was lost: {text.splitlines()[0]}; run the job again")
    return None
