"""Tune: trials of other hyperparameters on one split, of which the best can be trained.

A study is known by all that decides it: configuration, space, split, and the version of `interactions`. Every trial is
a row of `trials` once it has ended, and the sampler is rebuilt from these rows: a study that was killed goes on with
the trials that are missing, and `tune.trials` can be raised later.

What trials are measured on is held out of the training part of the evaluation's split, so that the evaluation of the
winner, which the gate asks for, is on interactions that no choice has seen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from time import monotonic

from pydantic import BaseModel, ConfigDict
from pyspark import inheritable_thread_target
from pyspark.sql import SparkSession
from rich.table import Table

from lakefactor.config import Config, canonical_json, digest
from lakefactor.errors import InputError
from lakefactor.factorization.snapshot_folder import Folder
from lakefactor.log import say, show
from lakefactor.metrics import sign_of
from lakefactor.pipelines.evaluate import refuse_unfit_split
from lakefactor.pipelines.lease import held
from lakefactor.pipelines.sampler import Sampler
from lakefactor.pipelines.search_space import Phase, changes_of, coarse_phase, fine_phase, space_of, values_of
from lakefactor.pipelines.training_run import LEASES, snapshot_folder
from lakefactor.pipelines.trial_run import Bench
from lakefactor.pipelines.trials import Trial, best, read_trials, write_trial
from lakefactor.spark.splits import inner_fold
from lakefactor.spark.tables import Tables

_OPERATION = {"trials", "parallel", "timeout_seconds"}
"""Keys of ``tune`` that change how far a study goes and not what it tries."""
SHOWN = 20
"""Trials of the table at the end, the best ones."""


class TuneResult(BaseModel):
    """What a study has found.

    Attributes
    ----------
    study_id : str
        `train --tuned` takes it.
    interactions_version : int
    split, metric : str
    trials, pruned, failed : int
        All that have ended, and how many of them so.
    resumed : int
        Trials that had ended before this run.
    default_value : float or None
        The metric of the configuration as it is; None: it cannot be trained.
    best_trial : int
    best_value : float
    overrides : list of str
        What gives a configuration the best values, each as ``--set`` takes it.
    """

    model_config = ConfigDict(frozen=True)

    study_id: str
    interactions_version: int
    split: str
    metric: str
    trials: int
    pruned: int
    failed: int
    resumed: int
    default_value: float | None
    best_trial: int
    best_value: float
    overrides: list[str]


def run(spark: SparkSession, config: Config) -> TuneResult:
    """Run the trials of a study that have not ended yet.

    Parameters
    ----------
    spark : SparkSession
    config : Config
        ``tune`` and ``evaluate``; ``model``, ``train`` and ``sgd`` are where it begins.

    Raises
    ------
    TableError
        There is no ``interactions`` table.
    ConfigError
        The model cannot be measured by the split, or the metric is not measured.
    SetupError
        The same study is running elsewhere, or as `lakefactor.pipelines.train.run`.
    InputError
        The split leaves nothing to train or test on, or no trial is complete.
    RankFailedError
        A rank was lost in every attempt; the same command goes on with the study.
    """
    refuse_unfit_split(config)
    tables = Tables(spark, config.tables)
    version = tables.version("interactions")
    metric = config.tune.metric or config.publish.metric
    study = Study(spark, config, tables, version, _study_id(config, tables, version, metric), metric)
    tables.ensure("trials")
    with _alone(config, study.study_id):
        study.resume()
        study.search()
    result = study.result()
    show(_table(study, result))
    return result


@dataclass
class Study:
    """A study that runs.

    Attributes
    ----------
    spark : SparkSession
    config : Config
    tables : Tables
    interactions_version : int
    study_id, metric : str
    done : dict
        Ended trials by number.
    resumed : int
        How many of them had ended before.
    """

    spark: SparkSession
    config: Config
    tables: Tables
    interactions_version: int
    study_id: str
    metric: str
    done: dict[int, Trial] = field(default_factory=dict)
    resumed: int = 0

    def __post_init__(self) -> None:
        seconds = self.config.tune.timeout_seconds
        self._until = monotonic() + seconds if seconds else float("inf")
        self._writing = threading.Lock()

    def resume(self) -> None:
        """Take up the trials that have ended before."""
        self.done = {trial.number: trial for trial in read_trials(self.tables, self.study_id)}
        self.resumed = len(self.done)
        if self.done:
            say(f"tune: going on with study {self.study_id}, {self.resumed} trials of which have ended")

    def search(self) -> None:
        """Run what is left: the configuration as it is, coarse trials, fine trials."""
        space = space_of(self.config)
        coarse = coarse_phase(self.config, space)
        with self._bench() as bench:
            if 0 not in self.done:
                self._end(bench.run(0, "default", {}, None))
            if coarse:
                self._phase(coarse, bench)
            winner = best(self._of("coarse")) if coarse else None
            values = values_of(winner.changes, coarse.space) if coarse and winner else None
            self._phase(fine_phase(self.config, space, coarse, values), bench)

    def result(self) -> TuneResult:
        """Sum up."""
        winner, trials = best(self.done.values()), self.done.values()
        if winner is None:
            raise InputError(f"no trial of study {self.study_id} is complete; the first: {self.done[0].reason}")
        return TuneResult(
            study_id=self.study_id,
            interactions_version=self.interactions_version,
            split=self.config.evaluate.split,
            metric=self.metric,
            trials=len(trials),
            pruned=sum(trial.state == "pruned" for trial in trials),
            failed=sum(trial.state == "failed" for trial in trials),
            resumed=self.resumed,
            default_value=self.done[0].value,
            best_trial=winner.number,
            best_value=winner.value or 0.0,
            overrides=winner.overrides,
        )

    def _phase(self, phase: Phase, bench: Bench) -> None:
        """Run a phase's missing trials, some at a time."""
        sampler = Sampler(phase, self._of(phase.name), self.metric, self.config.tune)

        def one(number: int) -> None:
            if monotonic() > self._until:
                return
            draw = sampler.draw(number)
            trial = bench.run(number, phase.name, changes_of(draw.values) | dict(phase.fixed), draw.is_poor)
            sampler.take(draw, trial)
            self._end(trial)

        missing = [number for number in phase.numbers if number not in self.done and number < self.config.tune.trials]
        in_threads(self.spark, self.config.tune.parallel, one, missing)

    def _of(self, phase: str) -> list[Trial]:
        return sorted((t for t in self.done.values() if t.phase == phase), key=lambda trial: trial.number)

    def _end(self, trial: Trial) -> None:
        """Record a trial, and tell people."""
        with self._writing:
            write_trial(self.tables, self.study_id, self.interactions_version, trial)
            self.done[trial.number] = trial
            say(f"tune: trial {trial.number} of {self.config.tune.trials}, {_told(trial)}")

    @contextmanager
    def _bench(self) -> Iterator[Bench]:
        """Keep both parts of the split in memory or on disk while trials run."""
        interactions = self.tables.read("interactions", self.interactions_version)
        fold = inner_fold(interactions, self.config.evaluate)
        train, test = fold.train.persist(), fold.test.persist()
        known = train if fold.known is fold.train else fold.known.persist()
        try:
            users = train.select("user_id").distinct().count()
            kept = replace(fold, train=train, known=known, test=test)
            yield Bench(self.spark, self.config, kept, self.metric, users)
        finally:
            for part in (train, test, known):
                part.unpersist()


def in_threads(spark: SparkSession, limit: int, action: Callable[[int], None], numbers: Iterable[int]) -> None:
    """Do something for every number, so many at a time; after an error nothing more begins, and it is raised."""
    pool = ThreadPoolExecutor(limit, thread_name_prefix="lakefactor-trial")
    try:
        # Each wrapped anew: what they inherit, job tags among it, is one object that all of its calls would share.
        tasks = [pool.submit(inheritable_thread_target(spark)(action), number) for number in numbers]
        wait(tasks, return_when=FIRST_EXCEPTION)
    except BaseException:  # an interrupt: Spark is about to stop, under trials that run
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown(cancel_futures=True)
    for task in tasks:
        if not task.cancelled():
            task.result()


def _study_id(config: Config, tables: Tables, interactions_version: int, metric: str) -> str:
    sections = [canonical_json(section) for section in (config.model, config.train, config.sgd, config.evaluate)]
    tune = config.tune.model_dump(mode="json", exclude=_OPERATION)
    version = (tables.uid("interactions"), str(interactions_version))
    return digest(*sections, repr(sorted(tune.items())), metric, *version)[:16]


def _alone(config: Config, study_id: str) -> AbstractContextManager[None]:
    folder = snapshot_folder(config, say)
    if folder is None:
        return nullcontext()  # of two trials of one number, `trials` takes one
    lease = Folder(f"{folder.root}/{LEASES}/study-{study_id}")
    return held(lease, "the same study", "wait for its end, and the same command finds its trials")


def _told(trial: Trial) -> str:
    """Return a trial in a line."""
    found = f"{trial.metric} {trial.value:.4f}" if trial.value is not None else f"{trial.state}: {trial.reason}"
    changes = (
        ", ".join(f"{key} {_short(value)}" for key, value in trial.changes.items()) or "the configuration as it is"
    )
    return f"{trial.phase}: {found}; {changes}; {trial.iterations} iterations, {trial.seconds:.1f} s"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(study: Study, result: TuneResult) -> Table:
    complete = sorted(
        (trial for trial in study.done.values() if trial.value is not None),
        key=lambda trial: -sign_of(trial.metric) * (trial.value or 0.0),
    )[:SHOWN]
    keys = sorted({key for trial in complete for key in trial.changes})
    table = Table("trial", "phase", result.metric, *keys, "iterations", "seconds", box=None)
    for trial in complete:
        values = [_short(trial.changes[key]) if key in trial.changes else "" for key in keys]
        style = "green" if trial.number == result.best_trial else None
        took = (str(trial.iterations), f"{trial.seconds:.1f}")
        table.add_row(str(trial.number), trial.phase, f"{trial.value:.4f}", *values, *took, style=style)
    table.title = f"best trials of study {result.study_id}, measured on split {result.split}"
    return table
