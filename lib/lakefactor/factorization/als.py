"""Alternating least squares on one rank's shard.

A half-step fetches the source rows that this rank's entries need, sums the Gramian over the ranks, and solves the
rank's own rows; an iteration is a half-step for users and one for items.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lakefactor.comm import Communicator, sum_over_ranks
from lakefactor.config import Model, Train
from lakefactor.errors import SolveError
from lakefactor.factorization.equation import Equation
from lakefactor.factorization.fitting import State, Totals
from lakefactor.factorization.shard import Shard
from lakefactor.kernels import Method, gramian, hash_ids, initial_factors
from lakefactor.kernels.backends import prepare
from lakefactor.types import FACTOR_DTYPE, SIDES, Side, other


class Als:
    """The least squares models (`Algorithm` of `fitting`): every algorithm that `Equation` knows.

    Parameters
    ----------
    shard : Shard
    comm : Communicator
    model, train : Model, Train
    totals : Totals
    device : str
        Torch's name of the device that the ``torch`` backend computes on; ``cpu`` or this rank's GPU.

    Notes
    -----
    Users are solved first, so only the initial item factors matter; users start from zero. The objective costs no
    extra pass over the entries: the item half-step returns x'Mx - 2x'b of each of its rows, which holds every term
    but the constant and the users' regularization.
    """

    def __init__(
        self, shard: Shard, comm: Communicator, model: Model, train: Train, totals: Totals, device: str = "cpu"
    ) -> None:
        self._shard = shard
        self._comm = comm
        self._equation = Equation(model, totals.mean_strength if model.algorithm == "explicit_als" else 0.0)
        self._systems = {
            side: self._equation.system(side, rows.indptr, rows.indices, rows.strengths, totals.rows(other(side)))
            for side, rows in shard.rows.items()
        }
        self._half_steps = {
            side: prepare(system, method(train), train.backend, device, train.precision)
            for side, system in self._systems.items()
        }
        self._constant = sum_over_ranks(comm, self._equation.constant(shard.rows["user"].strengths))
        self.mean = self._equation.mean
        self.state: State = {
            "user": {"factors": np.zeros((len(shard.rows["user"].ids), self._equation.columns), FACTOR_DTYPE)},
            "item": {"factors": self._initial_items(model.seed)},
        }

    def iterate(self) -> float:
        """Solve users, then items; return the objective.

        Raises
        ------
        SolveError
            A row's system is singular; every rank raises it.
        """
        for side in SIDES:
            values = self._solve(side)
        penalty = self._systems["user"].penalty(self.state["user"]["factors"])
        return self._constant + sum_over_ranks(self._comm, float(values.sum()) + penalty)

    def factors(self, side: Side) -> NDArray[np.float32]:
        """Return this rank's factor rows without the bias column; items as scores use them."""
        factors = self.state[side]["factors"][:, : self._equation.model.rank]
        return self._equation.tempered(factors) if side == "item" else factors

    def bias(self, side: Side) -> NDArray[np.float32]:
        """Return this rank's biases."""
        factors = self.state[side]["factors"]
        return factors[:, -1] if self._equation.biased else np.zeros(len(factors), FACTOR_DTYPE)

    def _solve(self, side: Side) -> NDArray[np.float64]:
        """Run one half-step; return each row's part of the objective."""
        own = self.state[other(side)]["factors"]
        source = self._shard.plans[other(side)].fetch(self._comm, own)
        gram = scaled_gramian(self._comm, own, self._equation.a0)
        values = np.empty(0)
        failed = 0
        try:
            values = self._half_steps[side](source, gram, self.state[side]["factors"])
        except SolveError as error:
            failed = len(error.rows)
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
            + f", or lower model.rank (now {model.rank})"
        )

    def _initial_items(self, seed: int) -> NDArray[np.float32]:
        items = initial_factors(hash_ids(self._shard.rows["item"].ids), seed, self._equation.columns, "item")
        if self._equation.biased:
            items[:, -1] = 0
        return items


def method(train: Train) -> Method:
    """Return how the configuration wants a half-step to be solved."""
    return Method(train.solver, train.cg_steps, threads=train.threads_per_rank)


def scaled_gramian(comm: Communicator, own: NDArray[np.float32], a0: float) -> NDArray[np.float32]:
    """Return a0 * Y'Y over all ranks' rows, float32, shape (k, k)."""
    k = own.shape[1]
    if a0 == 0:
        return np.zeros((k, k), dtype=FACTOR_DTYPE)
    return (a0 * comm.all_reduce_sum(gramian(own))).astype(FACTOR_DTYPE)
