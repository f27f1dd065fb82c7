"""Run one function on W ranks at once: a Spark barrier stage with a communicator between its tasks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pyarrow as pa
from py4j.protocol import Py4JJavaError
from pyspark import BarrierTaskContext
from pyspark.errors import PySparkException
from pyspark.resource import ResourceProfile
from pyspark.sql import DataFrame, SparkSession

from lakefactor import errors
from lakefactor.comm import Communicator
from lakefactor.errors import LakefactorError, RankFailedError, SetupError, SolveError

RankFunction = Callable[[Communicator, Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]
"""What every rank runs: its communicator and its rows in, result rows out."""


def run_on_ranks(
    rows: DataFrame,
    owner: str,
    ranks: int,
    function: RankFunction,
    schema: str,
    timeout: float,
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
    profile : ResourceProfile or None
        What each rank gets, as `resources.training_profile` says; None: what every task gets.

    Returns
    -------
    DataFrame
        Lazy. Every evaluation runs the stage, so persist it before reading it twice.

    Raises
    ------
    SetupError
        The cluster cannot run W tasks at once, or allocates executors dynamically.
    """
    refuse_unfit_cluster(rows.sparkSession, ranks, profile)

    def on_rank(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from lakefactor.comm.torch_dist import connect

        context = BarrierTaskContext.get()
        host = context.getTaskInfos()[0].address.rsplit(":", 1)[0]
        with connect(context.partitionId(), ranks, host, context.allGather, timeout) as comm:
            yield from function(comm, batches)

    delivered = rows.repartitionById(ranks, owner).drop(owner)
    return delivered.mapInArrow(on_rank, schema, barrier=True, profile=profile)


def refuse_unfit_cluster(spark: SparkSession, ranks: int, profile: ResourceProfile | None = None) -> None:
    """Raise SetupError unless W tasks can run together; Spark itself would wait for ten minutes and then fail."""
    if spark.conf.get("spark.dynamicAllocation.enabled", "false") == "true":
        raise SetupError(
            "spark.dynamicAllocation.enabled is true, but the training stage needs all its executors at once; "
            "set it to false and give spark.executor.instances"
        )
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
    slots = context.maxNumConcurrentTasks(wanted)
    if slots < ranks:
        each, more = (", each with a GPU,", "executors with a GPU") if profile else ("", "executors or cores")
        raise SetupError(
            f"train.ranks is {ranks}, but the cluster {spark.sparkContext.master} runs {slots} tasks{each} at once; "
            f"set train.ranks to {slots} or less, or add {more}"
        )


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
    if re.search(
        r"ExecutorLostFailure|Python worker exited unexpectedly|Could not recover from a failed barrier", text
    ):
        return RankFailedError(f"a rank's process was lost: {text.splitlines()[0]}; run the job again")
    return None
