"""Alternating least squares on one rank's shard.

The same code runs on one process and on many: only the communicator differs. A half-step fetches the source rows that
this rank's entries need, sums the Gramian over the ranks, and solves the rank's own rows; an iteration is a half-step
for users and one for items.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from lakefactor.comm import Communicator, all_gather
from lakefactor.config import Model, Train
from lakefactor.errors import SolveError
from lakefactor.factorization.equation import Equation
from lakefactor.factorization.shard import Rows, Shard
from lakefactor.kernels import gramian, half_step, hash_ids, initial_factors
from lakefactor.types import FACTOR_DTYPE, SIDES, Side, other


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
    """

    number: int
    objective: float
    seconds: float
    entries: int


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


@dataclass(frozen=True)
class Fit:
    """Result on one rank: the factor rows it owns, and the history of the whole run.

    Attributes
    ----------
    factors : dict of float32 ndarray, shape (n_side, rank)
    bias : dict of float32 ndarray, shape (n_side,)
        Zeros where the algorithm has none.
    mean : float
        The part of every prediction that no row owns: the mean strength for biased models, else 0.
    totals : Totals
    history : list of Iteration
    """

    factors: dict[Side, NDArray[np.float32]]
    bias: dict[Side, NDArray[np.float32]]
    mean: float
    totals: Totals
    history: list[Iteration]


def fit(
    shard: Shard,
    comm: Communicator,
    model: Model,
    train: Train,
    on_iteration: Callable[[Iteration], None] = lambda iteration: None,
) -> Fit:
    """Factorize; every rank calls this with its own shard.

    Parameters
    ----------
    shard : Shard
    comm : Communicator
    model, train : Model, Train
        Configuration sections; the same on every rank.
    on_iteration : callable
        Called after each iteration.

    Raises
    ------
    SolveError
        A row's system is singular.
    RankFailedError
        A peer was lost.

    Notes
    -----
    Users are solved first, so only the initial item factors matter; users start from zero. The objective costs no
    extra pass over the entries: the item half-step returns x'Mx - 2x'b of each of its rows, which holds every term
    but the constant and the users' regularization.
    """
    totals = _totals(shard, comm)
    equation = Equation(model, totals.mean_strength if model.algorithm == "explicit_als" else 0.0)
    half_steps = {
        "user": _HalfStep(shard.rows["user"], "user", totals.items, equation, train),
        "item": _HalfStep(shard.rows["item"], "item", totals.users, equation, train),
    }
    factors = _initial(shard, equation, model.seed)
    constant = _sum(comm, equation.constant(shard.rows["user"].strengths))
    history: list[Iteration] = []
    for number in range(1, train.iterations + 1):
        start = perf_counter()
        for side in SIDES:
            values = half_steps[side].solve(shard, comm, factors)
        penalty = half_steps["user"].penalty(factors["user"])
        objective = constant + _sum(comm, float(values.sum()) + penalty)
        history.append(Iteration(number, objective, perf_counter() - start, totals.entries))
        on_iteration(history[-1])
    return Fit(
        factors={side: factors[side][:, : model.rank] for side in SIDES},
        bias={
            side: factors[side][:, -1] if equation.biased else np.zeros(len(factors[side]), FACTOR_DTYPE)
            for side in SIDES
        },
        mean=equation.mean,
        totals=totals,
        history=history,
    )


class _HalfStep:
    """One side's rows with their weights, targets and regularization, ready to be solved again and again."""

    def __init__(self, rows: Rows, side: Side, n_source: int, equation: Equation, train: Train) -> None:
        self.rows = rows
        self.side = side
        self.equation = equation
        self.train = train
        self.weights = equation.weights(rows.strengths)
        self.targets = equation.targets(rows.strengths)
        self.reg = equation.reg(side, rows.n_entries, n_source)
        self.bias_reg = equation.bias_reg(side, rows.n_entries, n_source)

    def solve(self, shard: Shard, comm: Communicator, factors: dict[Side, NDArray[np.float32]]) -> NDArray[np.float64]:
        """Update ``factors[side]`` in place; return each row's part of the objective."""
        source_side = other(self.side)
        source = shard.plans[source_side].fetch(comm, factors[source_side])
        gram = scaled_gramian(comm, factors[source_side], self.equation.a0)
        values = np.empty(0)
        failed = 0
        try:
            values = half_step(
                source,
                gram,
                self.rows.indptr,
                self.rows.indices,
                self.weights,
                self.targets,
                self.reg,
                self.bias_reg,
                factors[self.side],
                biased=self.equation.biased,
                solver=self.train.solver,
                cg_steps=self.train.cg_steps,
                threads=self.train.threads_per_rank,
            )
        except SolveError as error:
            failed = len(error.rows)
        # Every rank raises the same error, so that none is left waiting for a peer that has given up.
        if failed_anywhere := int(_sum(comm, failed)):
            raise SolveError(
                [],
                f"the systems of {failed_anywhere} {self.side} rows are singular or not finite; "
                f"raise model.{self.side}_reg (now {getattr(self.equation.model, self.side + '_reg')})"
                + (f" or model.bias_reg (now {self.equation.model.bias_reg})" if self.equation.biased else "")
                + f", or lower model.rank (now {self.equation.model.rank})",
            )
        return values

    def penalty(self, factors: NDArray[np.float32]) -> float:
        """Return sum_r lambda_r |x_r|^2 over this rank's rows."""
        squares = np.square(factors, dtype=np.float64)
        return float(squares[:, :-1].sum(axis=1) @ self.reg + squares[:, -1] @ self.bias_reg)


def scaled_gramian(comm: Communicator, own: NDArray[np.float32], a0: float) -> NDArray[np.float32]:
    """Return a0 * Y'Y over all ranks' rows, float32, shape (k, k)."""
    k = own.shape[1]
    if a0 == 0:
        return np.zeros((k, k), dtype=FACTOR_DTYPE)
    return (a0 * comm.all_reduce_sum(gramian(own))).astype(FACTOR_DTYPE)


def _initial(shard: Shard, equation: Equation, seed: int) -> dict[Side, NDArray[np.float32]]:
    item_ids = shard.rows["item"].ids
    items = initial_factors(hash_ids(item_ids), seed, equation.columns, "item")
    if equation.biased:
        items[:, -1] = 0
    return {"user": np.zeros((len(shard.rows["user"].ids), equation.columns), FACTOR_DTYPE), "item": items}


def _totals(shard: Shard, comm: Communicator) -> Totals:
    strengths = shard.rows["user"].strengths
    n_rows = [len(shard.rows[side].ids) for side in SIDES]
    users, items, entries, total = comm.all_reduce_sum(
        np.array([*n_rows, len(strengths), strengths.sum(dtype=np.float64)], dtype=np.float64)
    )
    extremes = np.array([strengths.min(initial=np.inf), strengths.max(initial=-np.inf)], dtype=np.float64)
    smallest, largest = all_gather(comm, extremes).T
    return Totals(int(users), int(items), int(entries), total / entries, smallest.min(), largest.max())


def _sum(comm: Communicator, value: float) -> float:
    return float(comm.all_reduce_sum(np.array([value]))[0])
