"""One trial of a study: trained on the fold, watched while it iterates, measured on the held-out rest."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from pyspark.sql import SparkSession

from lakefactor.config import Config, changed
from lakefactor.config.model_sections import RANK_METRICS
from lakefactor.errors import ConfigError, SolveError
from lakefactor.pipelines.evaluate import by_name, measure_trained
from lakefactor.pipelines.trials import Trial
from lakefactor.spark.measuring import MODEL
from lakefactor.spark.splits import Fold
from lakefactor.spark.training import Trained, train_interactions

WATCHED_USERS = 5_000
"""Users whose held-out metric is watched, where there are so many: of 100 the best iteration is a matter of chance."""
PATIENCE = 4
"""Iterations without a better held-out metric before a trial stops, at least."""

IsPoor = Callable[[int, float], bool]
"""Told the held-out metric after an iteration; answers whether the trial is to end."""


@dataclass
class Watch:
    """Follows a training by its events, and ends it where it is poor: by cancelling its Spark jobs.

    Attributes
    ----------
    history : list of float
        Held-out metric after each iteration.
    pruned : bool
    """

    spark: SparkSession
    is_poor: IsPoor
    iterations: int
    history: list[float] = field(default_factory=list)
    pruned: bool = False

    @contextmanager
    def jobs(self) -> Iterator[None]:
        """Mark the jobs that this thread starts as those to cancel."""
        context, self._tag = self.spark.sparkContext, f"lakefactor-trial-{secrets.token_hex(8)}"
        context.addJobTag(self._tag)
        try:
            yield
        finally:
            context.removeJobTag(self._tag)

    def __call__(self, event: dict[str, Any]) -> None:
        """Take an event of a rank; called in the watchdog's thread, which must not wait for Spark."""
        if event.get("phase") != "iteration" or event["metric"] is None:
            return
        number = event["number"]
        if number == len(self.history) + 1:  # a second attempt begins anew
            self.history.append(event["metric"])
            self.pruned = self.pruned or (self.is_poor(number, event["metric"]) and number < self.iterations)
        if self.pruned:
            cancel = self.spark.sparkContext.cancelJobsWithTag
            threading.Thread(target=cancel, args=(self._tag,), daemon=True).start()


@dataclass(frozen=True)
class Bench:
    """Where the trials of a study are run.

    Attributes
    ----------
    spark : SparkSession
    config : Config
        The study's.
    fold : Fold
        Persisted.
    metric : str
    users : int
        Users of the fold's training part.
    """

    spark: SparkSession
    config: Config
    fold: Fold
    metric: str
    users: int

    def run(self, number: int, phase: str, changes: Mapping[str, Any], is_poor: IsPoor | None) -> Trial:
        """Run a trial to its end, good or bad.

        Parameters
        ----------
        number : int
        phase : str
        changes : mapping
            New value of each key.
        is_poor : callable or None
            None: the configuration's own rule decides when to stop, and no iteration is chosen.

        Raises
        ------
        ConfigError
            The metric is not among what is measured.
        LakefactorError
            What another trial would meet too, as a rank that was lost in every attempt.
        """
        began = perf_counter()
        ended: dict[str, Any] = {"state": "failed", "value": None, "changes": dict(changes)}
        watch = None
        try:
            config = self._config(changes)
            if is_poor and self.metric.partition("_at_")[0] in RANK_METRICS and not config.model.posterior_draws:
                config = self._watched(config)
                watch = Watch(self.spark, is_poor, config.train.iterations)
            trained = self._train(config, watch)
        except (SolveError, ConfigError) as error:
            ended["reason"] = str(error)
        else:
            ended |= self._measured(trained, config, changes, watch)
        return Trial(
            number=number,
            phase=phase,
            metric=self.metric,
            history=watch.history if watch else [],
            seconds=perf_counter() - began,
            **ended,
        )

    def _config(self, changes: Mapping[str, Any]) -> Config:
        plain = {"train.warm_start": False, "evaluate.replicates": 0}
        return changed(self.config, {**changes, **plain})

    def _watched(self, config: Config) -> Config:
        train = config.train
        share = max(train.stop_share, min(1.0, WATCHED_USERS / max(self.users, 1)))
        patience = max(train.stop_patience, PATIENCE)
        return changed(
            config,
            {"train.stop_metric": self.metric, "train.stop_share": share, "train.stop_patience": patience},
        )

    def _train(self, config: Config, watch: Watch | None) -> Trained | None:
        """Return what was trained; None: it was pruned."""
        if watch is None:
            return train_interactions(self.fold.train, config)
        try:
            with watch.jobs():
                trained = train_interactions(self.fold.train, config, watch)
        except Exception:
            if watch.pruned:
                return None
            raise
        if watch.pruned:  # it ended before it was cancelled
            trained.release()
            return None
        return trained

    def _measured(
        self, trained: Trained | None, config: Config, changes: Mapping[str, Any], watch: Watch | None
    ) -> dict[str, Any]:
        if trained is None:
            assert watch is not None
            n = len(watch.history)
            reason = f"held-out {self.metric} {max(watch.history):.4f} after {n} iterations is below the median"
            return {"state": "pruned", "iterations": n, "reason": reason}
        try:
            figures = by_name(measure_trained(self.fold, trained, config))[MODEL]
        finally:
            trained.release()
        if self.metric not in figures:
            raise ConfigError(f"tune.metric {self.metric} is not measured; measured are {', '.join(sorted(figures))}")
        chosen = {"train.iterations": trained.log["kept"]} if watch else {}
        return {
            "state": "complete",
            "value": figures[self.metric],
            "changes": {**changes, **chosen},
            "iterations": len(trained.log["history"]),
        }
