"""The loop around every algorithm: totals, iterations, the objective's history, the result.

An algorithm (`als`, and whatever else implements `Algorithm`) knows one iteration on one rank's shard; this module
chooses it by the configuration and drives it. The same code runs on one process and on many: only the communicator
differs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lakefactor.comm import Communicator, all_gather, sum_over_ranks
from lakefactor.config import Model, Sgd, Train
from lakefactor.errors import SolveError
from lakefactor.factorization.shard import Shard
from lakefactor.types import SIDES, Side

State = dict[Side, dict[str, NDArray]]
"""What an iteration starts from: per side, named arrays with one row for each of the shard's rows, in its order.

``factors`` is always there; an algorithm may keep more (an optimizer's moments). Enough to go on elsewhere: a state
whose rows are brought to their owners by id continues the same training on any number of ranks.
"""


@dataclass(frozen=True)
class Iteration:
    """What one iteration did, over all ranks.

    Attributes
    ----------
    number : int
        1, 2, ...
    objective : float
        Value of the minimised function after the iteration.
    seconds : float
        Time of this iteration on this rank.
    entries : int
        Interactions of all ranks; each is visited twice in an iteration.
    metric : float or None
        The rank metric on held-out interactions, where ``train.stop_metric`` names one; in [0, 1].
    """

    number: int
    objective: float
    seconds: float
    entries: int
    metric: float | None = None


@dataclass(frozen=True)
class Totals:
    """The interactions of all ranks in a few numbers; strengths in their own unit.

    Attributes
    ----------
    users, items, entries : int
    mean_strength, min_strength, max_strength : float
    """

    users: int
    items: int
    entries: int
    mean_strength: float
    min_strength: float
    max_strength: float

    def rows(self, side: Side) -> int:
        """Return how many rows a side has."""
        return self.users if side == "user" else self.items

    @property
    def strengths(self) -> str:
        """A sentence for errors: what cannot be solved is often one strength beyond all measure."""
        return (
            f"Strengths are {self.min_strength:g} to {self.max_strength:g}, {self.mean_strength:g} on average: correct "
            "or scale them where these are not what was measured"
        )


class Algorithm(Protocol):
    """One model on one rank's shard.

    Attributes
    ----------
    state : State
        Updated in place by `iterate`; every rank's together are the whole training.
    mean : float
        The part of every prediction that no row owns: the mean strength for biased models, else 0.
    """

    state: State
    mean: float

    def iterate(self) -> float:
        """Run one iteration on all ranks and return the objective after it."""
        ...

    def factors(self, side: Side) -> NDArray[np.float32]:
        """Return this rank's factor rows, shape (n_side, rank)."""
        ...

    def bias(self, side: Side) -> NDArray[np.float32]:
        """Return this rank's biases, shape (n_side,); zeros where the model has none."""
        ...


@dataclass
class Training:
    """How far a training has come on one rank: what a snapshot holds, and what a start may change.

    Attributes
    ----------
    state : State
        The algorithm's own.
    history : list of Iteration
        Iterations done; the same objectives on every rank.
    best : State or None
        State after the iteration with the best held-out metric, where that is not the last one.
    """

    state: State
    history: list[Iteration] = field(default_factory=list)
    best: State | None = None

    @property
    def kept(self) -> int:
        """Number of the iteration whose state is the result: the first with the best metric, else the last."""
        metrics = [iteration.metric for iteration in self.history]
        best = [metric for metric in metrics if metric is not None]
        return metrics.index(max(best)) + 1 if best else len(metrics)


@dataclass(frozen=True)
class Fit:
    """Result on one rank: the factor rows it owns, and the history of the whole run.

    Attributes
    ----------
    factors : dict of float32 ndarray, shape (n_side, rank)
    bias : dict of float32 ndarray, shape (n_side,)
        Zeros where the algorithm has none.
    mean : float
        The part of every prediction that no row owns.
    totals : Totals
    history : list of Iteration
    kept : int
        Number of the iteration that the factors are of; the last one, unless a held-out metric was watched.
    closed : float or None
        Objective after `Als.close`; None: the factors are as the iteration left them.
    """

    factors: dict[Side, NDArray[np.float32]]
    bias: dict[Side, NDArray[np.float32]]
    mean: float
    totals: Totals
    history: list[Iteration]
    kept: int
    closed: float | None = None

    @property
    def objective(self) -> float:
        """Objective of the factors."""
        return self.history[self.kept - 1].objective if self.closed is None else self.closed


def fit(
    shard: Shard,
    comm: Communicator,
    model: Model,
    train: Train,
    sgd: Sgd | None = None,
    *,
    start: Callable[[Training], None] = lambda training: None,
    measure: Callable[[Algorithm], float] | None = None,
    on_iteration: Callable[[Training], None] = lambda training: None,
    closing: Callable[[], AbstractContextManager[object]] = nullcontext,
    device: str = "cpu",
) -> Fit:
    """Factorize; every rank calls this with its own shard.

    Parameters
    ----------
    shard : Shard
    comm : Communicator
    model, train, sgd : Model, Train, Sgd
        Configuration sections; the same on every rank. ``sgd`` is used by the algorithm of that name only.
    start : callable
        Changes the initial state: a snapshot's, or the live model's factors.
    measure : callable, optional
        Held-out metric of the factors, larger is better, the same number on every rank; it decides when to stop.
    on_iteration : callable
        Called after each iteration.
    closing : callable
        What it returns is entered while users are solved once more, where ``train.close`` asks for it.
    device : str
        Torch's name of this rank's device: ``cpu``, or ``cuda:<n>``.

    Raises
    ------
    SolveError
        A row's system is singular, or a factor is beyond float32; every rank raises it.
    ConfigError, InputError
        The model has no meaning for the strengths, or from ``start``.
    SnapshotError
        From ``start``.
    RankFailedError
        A peer was lost.
    """
    from lakefactor.factorization.als import Als

    totals = count(shard, comm)
    algorithm = make(shard, comm, model, train, totals, sgd, device)
    training = Training(algorithm.state)
    start(training)
    if measure and training.history and training.best is None:
        training.best = _copy(training.state)
    while len(training.history) < train.iterations and not stops(training, train):
        began = perf_counter()
        objective = algorithm.iterate()
        seconds = perf_counter() - began
        metric = measure(algorithm) if measure else None
        training.history.append(Iteration(len(training.history) + 1, objective, seconds, totals.entries, metric))
        if measure and training.kept == len(training.history):
            training.best = _copy(training.state)
        on_iteration(training)
    if training.best is not None:
        overwrite(training.state, training.best)
    closed = None
    if train.close and isinstance(algorithm, Als):
        with closing():
            closed = algorithm.close()
    factors: dict[Side, NDArray[np.float32]] = {side: algorithm.factors(side) for side in SIDES}
    bias: dict[Side, NDArray[np.float32]] = {side: algorithm.bias(side) for side in SIDES}
    _refuse_not_finite(comm, [*factors.values(), *bias.values()], totals)
    return Fit(
        factors=factors,
        bias=bias,
        mean=algorithm.mean,
        totals=totals,
        history=training.history,
        kept=training.kept,
        closed=closed,
    )


def stops(training: Training, train: Train) -> bool:
    """Tell whether ``stop_below`` or ``stop_metric`` ends the training before its last iteration."""
    history = training.history
    if train.stop_metric and len(history) - training.kept >= train.stop_patience:
        return True
    if len(history) < 2:
        return False
    before, after = history[-2].objective, history[-1].objective
    return train.stop_below > 0 and before - after < train.stop_below * abs(before)


def _refuse_not_finite(comm: Communicator, results: list[NDArray[np.float32]], totals: Totals) -> None:
    """Raise SolveError on every rank where a number of any rank's result is not finite."""
    if strange := int(sum_over_ranks(comm, sum(int((~np.isfinite(result)).sum()) for result in results))):
        raise SolveError([], f"{strange} numbers of the factors are beyond float32. {totals.strengths}")


def overwrite(state: State, other: State) -> None:
    """Put the values of one state into the arrays of another."""
    for side, arrays in state.items():
        for name, array in arrays.items():
            array[...] = other[side][name]


def _copy(state: State) -> State:
    return {side: {name: array.copy() for name, array in arrays.items()} for side, arrays in state.items()}


def make(
    shard: Shard,
    comm: Communicator,
    model: Model,
    train: Train,
    totals: Totals,
    sgd: Sgd | None = None,
    device: str = "cpu",
) -> Algorithm:
    """Return the algorithm that ``model.algorithm`` names, at its initial state."""
    if model.algorithm == "sgd":
        from lakefactor.factorization import sgd as stochastic

        return stochastic.Sgd(shard, comm, model, train, sgd or Sgd(), totals, device)
    from lakefactor.factorization.als import Als
    from lakefactor.factorization.svd import Svd

    if model.algorithm in ("svd", "lsa"):
        return Svd(shard, comm, model, train, totals)
    if model.posterior_draws:
        from lakefactor.factorization.posterior import PosteriorMean

        return PosteriorMean(shard, comm, model, train, totals, device)
    return Als(shard, comm, model, train, totals, device)


def count(shard: Shard, comm: Communicator) -> Totals:
    """Return the totals over all ranks."""
    strengths = shard.rows["user"].strengths
    n_rows = [len(shard.rows[side].ids) for side in SIDES]
    users, items, entries, total = comm.all_reduce_sum(
        np.array([*n_rows, len(strengths), strengths.sum(dtype=np.float64)], dtype=np.float64)
    )
    extremes = np.array([strengths.min(initial=np.inf), strengths.max(initial=-np.inf)], dtype=np.float64)
    smallest, largest = all_gather(comm, extremes).T
    return Totals(int(users), int(items), int(entries), total / entries, smallest.min(), largest.max())
