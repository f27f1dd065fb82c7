"""Alternating least squares on one rank's shard.

A half-step fetches the source rows that this rank's entries need (in stages, where they exceed the memory budget), sums
the Gramian over the ranks meanwhile, and solves the rank's own rows; an iteration is a half-step for users and one for
items.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lakefactor.comm import Communicator, sum_over_ranks
from lakefactor.config import Model, Train
from lakefactor.errors import SolveError
from lakefactor.factorization.equation import Equation
from lakefactor.factorization.exchange import Schedule, make_schedule
from lakefactor.factorization.fitting import State, Totals
from lakefactor.factorization.fold_in import exact_method
from lakefactor.factorization.shard import Shard
from lakefactor.factorization.split import Split, find_split, limit, solve_split
from lakefactor.kernels import Method, System, gramian, hash_ids, initial_factors
from lakefactor.kernels.backends import HalfStep, prepare
from lakefactor.kernels.initial import STANDARD_DEVIATION
from lakefactor.kernels.system import Solver
from lakefactor.log import say
from lakefactor.types import FACTOR_DTYPE, SIDES, Side, other


@dataclass(frozen=True)
class _Half:
    """One side's half-step: its fetches, the equations of each stage, and the rows that are split over the ranks."""

    schedule: Schedule
    stages: list[HalfStep]
    split: Split
    local: System


class Als:
    """The least squares models (`Algorithm` of `fitting`): every algorithm that `Equation` knows.

    Parameters
    ----------
    shard : Shard
    comm : Communicator
    model, train : Model, Train
    totals : Totals
    device : str
        Torch's name of this rank's device: ``cpu``, or ``cuda:<n>``.

    Notes
    -----
    Users are solved first, so only the initial item factors matter to exact solvers; users start from zero
    (`nmf`: both sides start positive, at the scale of the data). The objective costs no extra pass over the entries:
    the item half-step returns x'Mx - 2x'b of each of its rows, which holds every term but the constant and the users'
    regularization.
    """

    def __init__(
        self, shard: Shard, comm: Communicator, model: Model, train: Train, totals: Totals, device: str = "cpu"
    ) -> None:
        self._shard = shard
        self._comm = comm
        self._equation = Equation(model, totals.mean_strength if model.algorithm == "explicit_als" else 0.0)
        self._equation.check(totals.min_strength)
        self._train, self._device = train, device
        self._method = method(model, train)
        self._totals = totals
        self._systems = {
            side: self._equation.system(side, rows.indptr, rows.indices, rows.strengths, totals.rows(other(side)))
            for side, rows in shard.rows.items()
        }
        budget_rows = rows_of_budget(train.memory_budget_mb, self._equation.columns)
        most = limit(totals.entries, comm.size, self._equation.columns, budget_rows)
        self._halves = {side: self._half(side, most, budget_rows) for side in SIDES}
        self._constant = sum_over_ranks(comm, self._equation.constant(shard.rows["user"].strengths))
        self.mean = self._equation.mean
        self.state: State = {side: {"factors": self._initial(side, totals)} for side in SIDES}

    def iterate(self) -> float:
        """Solve users, then items; return the objective.

        Raises
        ------
        SolveError
            A row's system is singular; every rank raises it.
        """
        for side in SIDES:
            values = self._solve(side)
        return self._objective("item", values)

    def close(self) -> float:
        """Solve users once more, as `fold_in` does: each is what its entries give. Return the objective.

        Raises
        ------
        SolveError
            As `iterate`.
        """
        self._train = self._train.model_copy(update={"exchange_dtype": "float32", "precision": "float32"})
        self._method = exact_method(self._equation.nonnegative, self._train.threads_per_rank)
        half = self._halves["user"]
        self._halves["user"] = replace(half, stages=self._stages("user", half.schedule))
        self.state["user"]["factors"][:] = 0  # non-negative factors are swept from where they are
        return self._objective("user", self._solve("user"))

    def factors(self, side: Side) -> NDArray[np.float32]:
        """Return this rank's factor rows without the bias column; items as scores use them."""
        factors = self.state[side]["factors"][:, : self._equation.model.rank]
        return self._equation.tempered(factors) if side == "item" else factors

    def bias(self, side: Side) -> NDArray[np.float32]:
        """Return this rank's biases."""
        factors = self.state[side]["factors"]
        return factors[:, -1] if self._equation.biased else np.zeros(len(factors), FACTOR_DTYPE)

    def _objective(self, solved: Side, values: NDArray[np.float64]) -> float:
        """Return the objective over all ranks from each row's part of the side that was solved last."""
        penalty = self._systems[other(solved)].penalty(self.state[other(solved)]["factors"])
        return self._constant + sum_over_ranks(self._comm, float(values.sum()) + penalty)

    def _half(self, side: Side, most: int, budget_rows: int) -> _Half:
        """Lay out one side's half-step; rows with more than ``most`` entries are split over the ranks."""
        rows, source = self._shard.rows[side], self._shard.rows[other(side)]
        split = find_split(self._comm, self._shard, side, most)
        schedule = make_schedule(
            self._comm,
            self._shard.plans[other(side)],
            rows.indptr,
            rows.indices,
            len(source.ids),
            budget_rows,
            split.count,
        )
        if self._comm.proc_rank == 0 and (split.rows or schedule.stages > 1):
            say(f"{side} half-step: {schedule.stages} stages; {split.rows} rows are split over the ranks")
        local = self._equation.system(side, split.indptr, split.indices, split.strengths, len(source.ids))
        return _Half(schedule, self._stages(side, schedule), split, local)

    def _stages(self, side: Side, schedule: Schedule) -> list[HalfStep]:
        """Prepare the equations of each stage for the solver of now."""
        train = self._train
        return [
            prepare(
                part(self._systems[side], schedule, stage), self._method, train.backend, self._device, train.precision
            )
            for stage in range(schedule.stages)
        ]

    def _solve(self, side: Side) -> NDArray[np.float64]:
        """Run one half-step; return each row's part of the objective."""
        own, x, half = self.state[other(side)]["factors"], self.state[side]["factors"], self._halves[side]
        panels = half.schedule.start(self._comm, own, self._train.exchange_dtype)
        # The first rows are on their way while this rank makes its sums.
        gram = scaled_gramian(self._comm, own, self._equation.a0)
        values = np.zeros(len(x))
        values[: half.split.count], failed = solve_split(
            self._comm, half.split, half.local, own, gram, self._systems[side], x, self._method
        )
        for stage, panel in enumerate(panels):
            some = slice(*half.schedule.bounds[stage : stage + 2])
            try:
                values[some] = half.stages[stage](panel, gram, x[some])
            except SolveError as error:
                failed += len(error.rows)
        # Every rank raises the same error, so that none is left waiting for a peer that has given up.
        if failed_anywhere := int(sum_over_ranks(self._comm, failed)):
            raise SolveError([], self._advice(side, failed_anywhere))
        return values

    def _advice(self, side: Side, failed: int) -> str:
        model = self._equation.model
        return (
            f"the systems of {failed} {side} rows are singular or not finite; "
            f"raise model.{side}_reg (now {getattr(model, side + '_reg')})"
            + (f" or model.bias_reg (now {model.bias_reg})" if self._equation.biased else "")
            + f", or lower model.rank (now {model.rank}). {self._totals.strengths}"
        )

    def _initial(self, side: Side, totals: Totals) -> NDArray[np.float32]:
        model, ids = self._equation.model, self._shard.rows[side].ids
        if side == "user" and not self._equation.nonnegative:
            return np.zeros((len(ids), self._equation.columns), FACTOR_DTYPE)
        factors = initial_factors(hash_ids(ids), model.seed, self._equation.columns, side)
        if self._equation.nonnegative:
            # |normal| has mean sqrt(2/pi) sd; predictions begin at the mean strength of all pairs, times a mild spread.
            mean = totals.mean_strength * totals.entries / (totals.users * totals.items)
            scale = np.sqrt(max(mean, 1e-30) / model.rank) / (STANDARD_DEVIATION / np.sqrt(model.rank))
            return np.abs(factors) * FACTOR_DTYPE(scale)
        if self._equation.biased:
            factors[:, -1] = 0
        return factors


def method(model: Model, train: Train) -> Method:
    """Return how the configuration wants a half-step to be solved."""
    solver: Solver = "nonnegative" if model.algorithm == "nmf" else train.solver
    steps = train.cg_steps if solver == "cg" else train.sweeps
    return Method(solver, steps, train.block_size, train.threads_per_rank)


def rows_of_budget(megabytes: int, columns: int) -> int:
    """Return how many float32 rows of ``columns`` fit a budget, at least 2; 0 for no budget.

    >>> rows_of_budget(1, 64)
    4096
    """
    return max(2, (megabytes << 20) // (4 * columns)) if megabytes else 0


def part(system: System, schedule: Schedule, stage: int) -> System:
    """Return the equations of one stage, with the panel rows of its entries; views where they can be."""
    first, stop = (int(bound) for bound in schedule.bounds[stage : stage + 2])
    if schedule.indices is system.indices and (first, stop) == (0, system.rows):
        return system
    begin, end = system.indptr[first], system.indptr[stop]
    offset = system.indptr[schedule.bounds[0]]
    return replace(
        system,
        indptr=system.indptr[first : stop + 1] - begin,
        indices=schedule.indices[begin - offset : end - offset],
        weights=system.weights[begin:end],
        targets=system.targets[begin:end],
        reg=system.reg[first:stop],
        reg_last=system.reg_last[first:stop],
    )


def scaled_gramian(comm: Communicator, own: NDArray[np.float32], a0: float) -> NDArray[np.float32]:
    """Return a0 * Y'Y over all ranks' rows, float32, shape (k, k)."""
    k = own.shape[1]
    if a0 == 0:
        return np.zeros((k, k), dtype=FACTOR_DTYPE)
    return (a0 * comm.all_reduce_sum(gramian(own))).astype(FACTOR_DTYPE)
