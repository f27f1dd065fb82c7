"""Ratings by Bayesian matrix factorization: Gibbs sampling whose draws are averaged into one model.

One iteration draws every user and then every item from its conditional posterior, N(M^-1 b, s2 M^-1) with the normal
equations M x = b of `explicit_als`; the last ``model.posterior_draws`` iterations are averaged. What is averaged is the
whole matrix of predictions, kept as its best approximation of rank ``model.rank``: so the result is factors and biases
like those of any other model, as short as one draw. The spectrum of the average falls fast, so little is lost.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lakefactor.comm import Communicator, sum_over_ranks
from lakefactor.config import Model, Train
from lakefactor.errors import SolveError
from lakefactor.factorization.equation import Equation
from lakefactor.factorization.fitting import State, Totals
from lakefactor.factorization.shard import Rows, Shard
from lakefactor.kernels import Method, System, gramian, hash_ids, splitmix64
from lakefactor.kernels.backends import prepare
from lakefactor.kernels.initial import standard_normals
from lakefactor.types import FACTOR_DTYPE, SIDES, Side, other

INITIAL_DEVIATION = 0.1
"""Of each element before the first iteration; small beside a rating, large enough for the prior to learn from."""

_BLOCK_ENTRIES = 1 << 16
_PRIOR, _NOISE = np.uint64(1), np.uint64(2)  # streams of random numbers
_NEGLIGIBLE = 1e-10  # share of the largest eigenvalue below which a direction of the average is dropped


class PosteriorMean:
    """Gibbs sampling of ``explicit_als`` (`Algorithm` of `fitting`).

    Parameters
    ----------
    shard : Shard
    comm : Communicator
    model, train : Model, Train
    totals : Totals
    device : str
        As for `Als`.

    Notes
    -----
    A draw is a half-step with disturbed targets (Papandreou and Yuille, "Gaussian sampling by local perturbations",
    NIPS 2010): with x0 from the prior and e_e from N(0, s2), ``x0 + M^-1 sum_e y_e (t_e + e_e - y_e'x0)`` has the mean
    and the covariance of the conditional posterior. So every backend draws, and nothing of size k x k is kept per row.

    The prior of a side is N(0, P^-1) with a full precision P over factors and bias, which is learned from the previous
    draw: P = (n + k + 1) (I + sum_r x_r x_r')^-1, about the mean of the Wishart posterior of Salakhutdinov and Mnih;
    the noise s2 is the draw's mean squared error. Hence no regularization is tuned: ``user_reg`` and ``reg_exponent``
    only set the scale of the result (see `_average`), for folding users in. A fold-in solves the equation of
    ``explicit_als`` against the averaged items; it is not the average over all draws that a trained user gets.

    Random numbers depend on (seed, iteration, ids) alone, so any number of ranks draws the same.

    References
    ----------
    Salakhutdinov, Mnih, "Bayesian probabilistic matrix factorization using Markov chain Monte Carlo", ICML 2008.
    """

    def __init__(
        self, shard: Shard, comm: Communicator, model: Model, train: Train, totals: Totals, device: str = "cpu"
    ) -> None:
        self._shard, self._comm, self._model, self._train = shard, comm, model, train
        self._totals, self._device = totals, device
        self._equation = Equation(model, totals.mean_strength)
        self.mean = self._equation.mean
        self._keys = {side: hash_ids(rows.ids) for side, rows in shard.rows.items()}
        self._source_keys = {
            side: shard.plans[other(side)].fetch(comm, self._keys[other(side)].view(np.int64)).view(np.uint64)
            for side in SIDES
        }
        regs = self._equation.reg("user", shard.rows["user"].n_entries, totals.items)
        self._user_reg = sum_over_ranks(comm, float(regs.sum(dtype=np.float64))) / totals.users or 1.0
        columns = self._equation.columns
        self.state: State = {}
        for side in SIDES:
            draws = standard_normals(self._stream(side, 0, _PRIOR), columns) * INITIAL_DEVIATION
            draws[:, -1] = 0
            n = len(draws)
            self.state[side] = {
                "factors": draws.astype(FACTOR_DTYPE),
                "average": np.zeros((n, columns), FACTOR_DTYPE),
                "iterations": np.zeros(n, np.int64),
            }

    def iterate(self) -> float:
        """Draw users, then items; return the sum of squared errors of the draw.

        Raises
        ------
        SolveError
            A row's system is singular; every rank raises it.
        """
        number = 1 + int(sum_over_ranks(self._comm, self.state["item"]["iterations"].sum())) // self._totals.items
        noise = self._squared_error() / self._totals.entries
        for side in SIDES:
            self._draw(side, number, noise)
        count = number - (self._train.iterations - self._model.posterior_draws)
        if count > 0:
            self._average(count, noise)
        for side in SIDES:
            self.state[side]["iterations"][:] = number
        return self._squared_error()

    def factors(self, side: Side) -> NDArray[np.float32]:
        """Return this rank's averaged factor rows without the bias column."""
        return self._result(side)[:, :-1]

    def bias(self, side: Side) -> NDArray[np.float32]:
        """Return this rank's averaged biases."""
        return self._result(side)[:, -1]

    def _result(self, side: Side) -> NDArray[np.float32]:
        """Return the average, or the last draw where nothing has been averaged yet."""
        first = self._train.iterations - self._model.posterior_draws
        averaged = np.all(self.state[side]["iterations"] > first)
        return self.state[side]["average" if averaged else "factors"]

    def _draw(self, side: Side, number: int, noise: float) -> None:
        rows, own = self._shard.rows[side], self.state[side]["factors"]
        source = self._shard.plans[other(side)].fetch(self._comm, self.state[other(side)]["factors"])
        columns = own.shape[1]
        second_moment = np.eye(columns) + self._comm.all_reduce_sum(gramian(own))
        precision = (self._totals.rows(side) + columns) * np.linalg.inv(second_moment)
        # x0 = L'^-1 z has the covariance (L L')^-1.
        normals = standard_normals(self._stream(side, number, _PRIOR), columns)
        prior = np.linalg.solve(np.linalg.cholesky(precision).T, normals.T).T.astype(FACTOR_DTYPE)
        targets = self._equation.targets(rows.strengths) - _interactions(rows, prior, source) - _own_bias(rows, prior)
        targets += self._entry_noise(side, number) * FACTOR_DTYPE(np.sqrt(noise))
        zeros = np.zeros(len(own), FACTOR_DTYPE)  # the prior is the equation's Gramian: it is the same for every row
        system = System(rows.indptr, rows.indices, np.ones_like(targets), targets, zeros, zeros, biased=True)
        method = Method("cholesky", threads=self._train.threads_per_rank)
        failed = 0
        try:
            solve = prepare(system, method, self._train.backend, self._device)
            with np.errstate(over="ignore"):  # such rows are refused
                base = (noise * precision).astype(FACTOR_DTYPE)
            solve(source, base, own)
        except SolveError as error:
            failed = len(error.rows)
        if failed := int(sum_over_ranks(self._comm, failed)):
            raise SolveError(
                [],
                f"the systems of {failed} {side} rows are singular or not finite; lower model.rank (now "
                f"{self._model.rank}). {self._totals.strengths}",
            )
        own += prior

    def _average(self, count: int, noise: float) -> None:
        """Take draw number ``count`` into the average and cut that back to the rank.

        With A B' the old average and x y' the new draw, both of rank k, the best approximation of rank k of
        [A, x] [B, y]' follows from the two Gramians of 2k columns alone. It is given in the basis in which the second
        moment of the users' factors is s2 / lambda I, lambda the mean of the users' regularization: there the
        equation of ``explicit_als`` is the right one for a user who is folded in.
        """
        stacked, moments = {}, {}
        for side in SIDES:
            old, new = self.state[side]["average"], self.state[side]["factors"]
            old[:, -1] += (new[:, -1] - old[:, -1]) / count
            share = (count - 1) / count if side == "user" else 1.0
            fresh = 1 / count if side == "user" else 1.0
            stacked[side] = np.concatenate([old[:, :-1] * share, new[:, :-1] * fresh], axis=1, dtype=np.float64)
            moments[side] = self._comm.all_reduce_sum(stacked[side].T @ stacked[side])
        spread = np.sqrt(self._totals.users * noise / self._user_reg)
        for side, basis in zip(SIDES, _best_bases(moments["user"], moments["item"], self._model.rank), strict=True):
            scale = spread if side == "user" else 1 / spread
            self.state[side]["average"][:, :-1] = stacked[side] @ basis * scale

    def _squared_error(self) -> float:
        """Return the sum over all entries of (t - prediction)^2 of the last draw."""
        rows, x = self._shard.rows["user"], self.state["user"]["factors"]
        source = self._shard.plans["item"].fetch(self._comm, self.state["item"]["factors"])
        errors = self._equation.targets(rows.strengths) - _interactions(rows, x, source)
        errors -= _own_bias(rows, x) + source[rows.indices, -1]
        return sum_over_ranks(self._comm, float(np.square(errors, dtype=np.float64).sum()))

    def _stream(self, side: Side, number: int, stream: np.uint64) -> NDArray[np.uint64]:
        """Return a random key for each of a side's rows."""
        start = np.array([self._model.seed % 2**64], np.uint64)
        for part in (stream, np.uint64(number), np.uint64(SIDES.index(side))):
            start = splitmix64(start ^ part)
        return splitmix64(self._keys[side] ^ start)

    def _entry_noise(self, side: Side, number: int) -> NDArray[np.float32]:
        """Return a standard normal for each entry, float32."""
        rows = self._shard.rows[side]
        noise = np.empty(len(rows.indices), FACTOR_DTYPE)
        own = np.repeat(self._stream(side, number, _NOISE), rows.n_entries)
        for block in _blocks(len(noise)):
            keys = splitmix64(own[block] ^ self._source_keys[side][rows.indices[block]])
            noise[block] = standard_normals(keys, 1)[:, 0]
        return noise


def _blocks(n: int) -> list[slice]:
    return [slice(first, first + _BLOCK_ENTRIES) for first in range(0, n, _BLOCK_ENTRIES)]


def _interactions(rows: Rows, x: NDArray[np.float32], source: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return x'y of each entry without the bias columns, float32."""
    owners = np.repeat(np.arange(len(x)), rows.n_entries)
    products = np.empty(len(owners), FACTOR_DTYPE)
    for block in _blocks(len(owners)):
        np.einsum(
            "nk,nk->n", x[owners[block], :-1], source[rows.indices[block], :-1], out=products[block], dtype=FACTOR_DTYPE
        )
    return products


def _own_bias(rows: Rows, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the bias of each entry's own row, float32."""
    return np.repeat(x[:, -1], rows.n_entries)


def _best_bases(
    left: NDArray[np.float64], right: NDArray[np.float64], rank: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the bases C and D for which (A C) (B D)' is the best approximation of A B' of some rank.

    Parameters
    ----------
    left, right : float64 ndarray, shape (c, c)
        A'A and B'B.
    rank : int
        At most c.

    Returns
    -------
    two float64 ndarrays, shape (c, rank)
        (A C)'(A C) is the identity, or has zeros on the diagonal where A B' has a lower rank.

    Examples
    --------
    >>> a, b = np.array([[2.0, 0.0], [0.0, 1.0]]), np.eye(2)
    >>> c, d = _best_bases(a.T @ a, b.T @ b, 1)
    >>> (a @ c @ (b @ d).T).round(6)
    array([[2., 0.],
           [0., 0.]])
    """
    roots = []
    for moment in (left, right):
        values, vectors = np.linalg.eigh(moment)
        kept = values > _NEGLIGIBLE * max(values[-1], np.finfo(np.float64).tiny)
        roots.append((np.sqrt(values[kept]), vectors[:, kept]))
    (a, a_vectors), (b, b_vectors) = roots
    u, s, vt = np.linalg.svd(a[:, None] * (a_vectors.T @ b_vectors) * b, full_matrices=False)
    first, second = np.zeros((len(left), rank)), np.zeros((len(right), rank))
    kept = min(rank, len(s))
    first[:, :kept] = a_vectors / a @ u[:, :kept]
    second[:, :kept] = b_vectors / b @ vt[:kept].T * s[:kept]
    return first, second
