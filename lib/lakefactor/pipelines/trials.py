"""Trials of tuning studies, as the table `trials` keeps them: what was tried, how it ended, which was best."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from lakefactor.config import Config, changed
from lakefactor.errors import InputError, TableError
from lakefactor.metrics import sign_of
from lakefactor.spark.tables import Tables


@dataclass(frozen=True)
class Trial:
    """An ended trial.

    Attributes
    ----------
    number : int
        0 is the configuration as it is.
    phase : {"default", "coarse", "fine"}
    state : {"complete", "pruned", "failed"}
    changes : dict
        New value of each key that it changes.
    metric : str
    value : float or None
        The metric; None unless complete.
    history : list of float
        Held-out metric after each iteration.
    iterations : int
    seconds : float
    reason : str or None
        Why it failed or was pruned.
    """

    number: int
    phase: str
    state: str
    changes: dict[str, Any]
    metric: str
    value: float | None
    history: list[float] = field(default_factory=list)
    iterations: int = 0
    seconds: float = 0.0
    reason: str | None = None

    @property
    def overrides(self) -> list[str]:
        """What makes a configuration this trial's, each as ``--set`` takes it."""
        return [f"{key}={json.dumps(value)}" for key, value in self.changes.items()]


def read_trials(tables: Tables, study_id: str) -> list[Trial]:
    """Return the ended trials of a study, by number."""
    if not tables.exists("trials"):
        return []
    names = ("number", "phase", "state", "metric", "value", "history", "iterations", "seconds", "reason")
    rows = tables.collect("trials", {"study_id": study_id})
    found = [
        Trial(changes={key: json.loads(text) for key, text in row["params"].items()}, **{n: row[n] for n in names})
        for row in rows
    ]
    return sorted(found, key=lambda trial: trial.number)


def write_trial(tables: Tables, study_id: str, interactions_version: int, trial: Trial) -> None:
    """Record an ended trial; of two of one number the first counts."""
    row = {
        "study_id": study_id,
        "params": {key: json.dumps(value) for key, value in trial.changes.items()},
        "interactions_version": interactions_version,
        "ended_at": datetime.now(timezone.utc),
    }
    row |= {name: value for name, value in vars(trial).items() if name != "changes"}
    tables.append_rows("trials", [row], txn=(f"trial-{study_id}-{trial.number}", 0))


def best(trials: Iterable[Trial]) -> Trial | None:
    """Return the best complete trial, of equals the first; None where none is complete."""
    complete = [trial for trial in trials if trial.value is not None]
    if not complete:
        return None
    return max(complete, key=lambda trial: (sign_of(trial.metric) * (trial.value or 0.0), -trial.number))


def with_best(config: Config, trials: Sequence[Trial], study_id: str) -> Config:
    """Return a configuration with the values of a study's best trial.

    Raises
    ------
    TableError
        The study has no trials: there is none of that name.
    InputError
        None of its trials is complete.
    ConfigError
        The values are not for this configuration.
    """
    if not trials:
        raise TableError(f"table trials holds no study {study_id!r}; 'lakefactor tune' makes one and prints its name")
    winner = best(trials)
    if winner is None:
        raise InputError(f"no trial of study {study_id} is complete; run 'lakefactor tune' to its end")
    return changed(config, winner.changes)
