"""What a trial tries next, and whether it is worth going on with: Optuna, told of the trials that the table holds."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import optuna
from optuna.trial import TrialState, create_trial

from lakefactor.config import Tune
from lakefactor.metrics import sign_of
from lakefactor.pipelines.search_space import Phase, values_of
from lakefactor.pipelines.trials import Trial

RANDOM_TRIALS = 5
"""Trials of a phase before the sampler learns from them."""
PRUNING_TRIALS = 4
"""Trials of a phase that none is pruned before."""

_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


class Draw:
    """A trial that runs.

    Attributes
    ----------
    values : dict
        Value of each dimension.
    """

    def __init__(self, trial: optuna.Trial, values: dict[str, Any]) -> None:
        self.trial = trial
        self.values = values

    def is_poor(self, iteration: int, metric: float) -> bool:
        """Take the held-out metric after an iteration, and tell whether the trial is to end."""
        self.trial.report(metric, iteration)
        return bool(self.trial.should_prune())


class Sampler:
    """Draws the trials of one phase; safe to use by several threads.

    Parameters
    ----------
    phase : Phase
    done : iterable of Trial
        Its trials that have ended.
    metric : str
    tune : Tune
        ``seed`` and ``prune_after``.
    """

    def __init__(self, phase: Phase, done: Iterable[Trial], metric: str, tune: Tune) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        known = list(done)
        self._phase = phase
        self._lock = threading.Lock()
        # A sampler that goes on must not draw again what it drew at first: its seed counts the trials.
        sampler = optuna.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, seed=tune.seed + len(known))
        pruner = optuna.pruners.MedianPruner(PRUNING_TRIALS, tune.prune_after) if tune.prune_after else None
        self._study = optuna.create_study(
            direction="maximize" if sign_of(metric) > 0 else "minimize",
            sampler=sampler,
            pruner=pruner or optuna.pruners.NopPruner(),
        )
        self._study.add_trials([_frozen(trial, phase) for trial in known])

    def draw(self, number: int) -> Draw:
        """Return the values of a trial of the phase; its first has those that the phase begins with."""
        with self._lock:
            if number == self._phase.numbers[0] and self._phase.first:
                self._study.enqueue_trial(self._phase.first)
            trial = self._study.ask(dict(self._phase.space))
        return Draw(trial, dict(trial.params))

    def take(self, draw: Draw, ended: Trial) -> None:
        """Learn from a trial that has ended."""
        with self._lock:
            self._study.tell(draw.trial, ended.value, _STATES[ended.state])


def _frozen(trial: Trial, phase: Phase) -> optuna.trial.FrozenTrial:
    values: Mapping[str, Any] = values_of(trial.changes, phase.space)
    return create_trial(
        state=_STATES[trial.state],
        value=trial.value,
        params=dict(values),
        distributions=dict(phase.space),
        intermediate_values=dict(enumerate(trial.history, 1)),
    )
