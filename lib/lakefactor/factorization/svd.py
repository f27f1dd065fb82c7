"""Truncated singular value decomposition R ~ U S V' on one rank's shard, by block power iteration.

The largest eigenvectors of R'R are the wanted item factors V. Power iteration multiplies a block of columns by R'R
again and again and keeps the last product only; its error falls with the ratio of neighbouring singular values, which
is close to 1 for interactions. All products together span a Krylov space, whose best vectors converge with the square
root of the gap (Musco and Musco 2015) and which needs a thin block only. So an iteration here continues such a space
for some products, takes its best vectors, and begins the next one from them (a thick restart).

Only the users' and items' own ranks hold rows of a tall matrix. What crosses the ranks are the rows that a product
needs, by the plans of the shard, and sums of small matrices.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lakefactor.comm import Communicator, sum_over_ranks
from lakefactor.config import Model, Train
from lakefactor.factorization.fitting import State, Totals
from lakefactor.factorization.shard import Shard
from lakefactor.factorization.tfidf import matrix_values
from lakefactor.kernels import SparseMatrix, hash_ids, initial_factors, sparse_product, splitmix64
from lakefactor.types import FACTOR_DTYPE, Side, other

Float64s = NDArray[np.float64]

BLOCK = 16
"""Columns multiplied together. Sixteen take 2 to 3 times as long as one; a wider block needs more products in all, a
thinner one more passes over the entries (10M entries, rank 50, measured: 8 took 1.4 times the CPU time)."""

SETTLED = 1e-4
"""A singular value is done when the residual of R'R v is this share of its square; it is then off by half of that at
most, and by the square of it where the next singular value is well apart."""

ZERO = 1e-13
"""Share of the largest eigenvalue of R'R below which one is rounding: a singular value below 3e-7 of the largest."""

DEPENDENT = 1e-12
"""Share of its length that a column must keep when the basis is projected out, to be a new direction."""


class Svd:
    """Truncated SVD of the strengths (`svd`) or of their TF-IDF weights (`lsa`): an `Algorithm` of `fitting`.

    Parameters
    ----------
    shard : Shard
    comm : Communicator
    model, train : Model, Train
    totals : Totals

    Attributes
    ----------
    singular_values : float64 ndarray, shape (rank,)
        Descending, those beyond the rank of R are 0; also the lengths of the user factors' columns.

    Notes
    -----
    The objective is |R - U S V'|^2 = |R|^2 - sum s_i^2; it never rises, since every iteration's space holds the last
    one's vectors. Item factors are V, user factors R V = U S; a column of V has the sign that makes a weighted sum of
    its entries positive, the weights being a hash of the ids, between 1/2 and 3/2. Columns beyond the rank of R are 0.

    The state of an item is its row of V, with ``oversampling`` more columns, and its row of R'R V (``images``): all of
    float64, as they are differenced to find what is still missing. Where ``images`` is 0 everywhere, the iteration
    starts from the columns of ``factors``, which need not be orthonormal. User factors follow from
    these and are brought up to date when they are asked for.

    Memory beside the shard: four arrays of float64 with at most 3 (rank + oversampling) columns for the items, and 16
    columns for the source rows of a product.

    References
    ----------
    Cremonesi, Koren, Turrin, "Performance of recommender algorithms on top-N recommendation tasks", RecSys 2010
    (PureSVD: scores r V V').
    Musco, Musco, "Randomized block Krylov methods for stronger and faster approximate singular value decomposition",
    NIPS 2015.
    Zhou, Saad, "Block Krylov-Schur method for large symmetric eigenvalue problems", Numerical Algorithms 47, 2008
    (thick restarts of a block).
    """

    mean = 0.0

    def __init__(self, shard: Shard, comm: Communicator, model: Model, train: Train, totals: Totals) -> None:
        self._shard = shard
        self._comm = comm
        self._rank = model.rank
        self._threads = train.threads_per_rank
        self._seed = model.seed
        values = matrix_values(shard, comm, model, totals.users)
        self._matrices = {
            side: SparseMatrix(rows.indptr, rows.indices, values[side], int(shard.plans[other(side)].recv_counts.sum()))
            for side, rows in shard.rows.items()
        }
        self._square = sum_over_ranks(comm, float(np.square(values["user"], dtype=np.float64).sum()))
        columns = model.rank + model.oversampling
        self._size = min(columns + max(2 * columns, 4 * BLOCK), totals.items)
        self._keys = hash_ids(shard.rows["item"].ids)
        self._sign_weights = 0.5 + splitmix64(self._keys) * 2.0**-64
        self._draws = 0
        self._settled = False
        self._users_are_current = False
        self.singular_values = np.zeros(model.rank)
        items = {name: np.zeros((len(self._keys), columns)) for name in ("factors", "images")}
        items["factors"][:, :BLOCK] = self._draw()[:, :columns]
        users = np.zeros((len(shard.rows["user"].ids), model.rank), FACTOR_DTYPE)
        self.state: State = {"user": {"factors": users}, "item": items}

    def iterate(self) -> float:
        """Improve the singular vectors and return the objective; costs nothing once all are found."""
        if not self._settled:
            self._continue()
            self._users_are_current = False
        return max(0.0, self._square - float(np.square(self.singular_values).sum()))

    def factors(self, side: Side) -> NDArray[np.float32]:
        """Return this rank's factor rows; every rank calls this, as user factors take a product with R."""
        items = self.state["item"]["factors"][:, : self._rank]
        if side == "item":
            return items.astype(FACTOR_DTYPE)
        users = self.state["user"]["factors"]
        if not self._users_are_current:
            for first in range(0, self._rank, 8 * BLOCK):
                columns = slice(first, first + 8 * BLOCK)
                with np.errstate(over="ignore"):  # `fit` refuses what float32 cannot hold
                    users[:, columns] = self._times("user", items[:, columns])
            self._users_are_current = True
        return users

    def bias(self, side: Side) -> NDArray[np.float32]:
        """Return zeros."""
        return np.zeros(len(self._shard.rows[side].ids), FACTOR_DTYPE)

    def _continue(self) -> None:
        """Extend the space of the kept vectors, and keep the best of it."""
        state = self.state["item"]
        lengths = self._sum(np.stack([np.square(state[name]).sum(axis=0) for name in ("factors", "images")]))
        kept = int(np.count_nonzero(lengths[0]))
        basis, images = (np.empty((len(self._keys), self._size)) for _ in range(2))
        block, columns, size, confirming = state["factors"][:, :kept], 0, self._size, False
        if lengths[1].any():
            columns = kept
            basis[:, :kept], images[:, :kept] = state["factors"][:, :kept], state["images"][:, :kept]
            directions = self._directions(basis[:, :kept], images[:, :kept])
            block = self._draw() if directions is None else directions
            # A Krylov space holds as many copies of a repeated singular value as its block has columns: before the end,
            # a short one from another random block must find nothing that was missed.
            if confirming := directions is None:
                size = min(kept + 4 * BLOCK, size)
        while columns < size:
            new = self._orthonormal(basis[:, :columns], block)
            if new.shape[1] == 0:  # the products lead nowhere new: R has this rank, or repeated singular values
                new = self._orthonormal(basis[:, :columns], self._draw())
            new = new[:, : size - columns]
            block = self._times("item", self._times("user", new))
            fresh = slice(columns, columns + new.shape[1])
            basis[:, fresh], images[:, fresh] = new, block
            columns = fresh.stop
        found = self.singular_values.copy()
        self._keep_best(basis[:, :size], images[:, :size])
        self._settled = confirming and np.allclose(self.singular_values, found, rtol=SETTLED, atol=0)

    def _directions(self, basis: Float64s, images: Float64s) -> Float64s | None:
        """Return the directions in which the residuals R'R v - v s^2 are longest; None where all are short."""
        matrix = self._sum(basis.T @ images)
        residuals = images - basis @ matrix
        products = self._sum(residuals.T @ residuals)
        lengths, squares = np.sqrt(np.diag(products))[: self._rank], np.diag(matrix)[: self._rank]
        if (lengths <= SETTLED * squares + ZERO * squares[0]).all():
            return None
        return residuals @ self._agree(np.linalg.eigh(products)[1][:, : -BLOCK - 1 : -1])

    def _keep_best(self, basis: Float64s, images: Float64s) -> None:
        """Set the state to the best vectors of a space, by Rayleigh and Ritz."""
        matrix = self._sum(basis.T @ images)
        solved = self._agree(np.vstack(np.linalg.eigh((matrix + matrix.T) / 2)))
        state = self.state["item"]
        values, vectors = solved[0, ::-1], solved[1:, ::-1]
        values = values[: state["factors"].shape[1]]
        kept = int(np.count_nonzero(values > ZERO * values[0])) if values[0] > 0 else 0
        vectors = vectors[:, :kept]
        factors = basis @ vectors
        signs = np.where(self._sum(self._sign_weights @ factors) < 0, -1.0, 1.0)
        for name, rows in (("factors", factors), ("images", images @ vectors)):
            state[name][:, :kept] = rows * signs
            state[name][:, kept:] = 0.0
        self.singular_values[:] = 0.0
        self.singular_values[: min(kept, self._rank)] = np.sqrt(values[: min(kept, self._rank)])

    def _times(self, side: Side, source: Float64s) -> Float64s:
        """Return R X for users, R'X for items, of own rows; X is on the rows of the other side."""
        needed = self._shard.plans[other(side)].fetch(self._comm, source)
        return sparse_product(self._matrices[side], needed, self._threads)

    def _orthonormal(self, basis: Float64s, block: Float64s) -> Float64s:
        """Return an orthonormal basis of what the columns of ``block`` add to ``basis``; it may be empty.

        Twice is enough: projection, then scaling and an eigendecomposition of the small Gramian in place of a QR
        (Stathopoulos and Wu, SIAM J. Sci. Comput. 23(6), 2002), which tells dependent columns, too.
        """
        for _ in range(2):
            inside = self._sum(basis.T @ block)
            block = block - basis @ inside
            gramian = self._sum(block.T @ block)
            before = np.diag(gramian) + np.square(inside).sum(axis=0)
            scale = self._agree(_whitening(gramian, before))
            block = block @ scale[:, scale.any(axis=0)]
        return block

    def _draw(self) -> Float64s:
        """Return the next random block: normal, by (seed, item id, column) alone."""
        self._draws += 1
        columns = initial_factors(self._keys, self._seed, self._draws * BLOCK, "item")
        return columns[:, -BLOCK:].astype(np.float64)

    def _sum(self, matrix: Float64s) -> Float64s:
        return self._comm.all_reduce_sum(np.ascontiguousarray(matrix))

    def _agree(self, matrix: Float64s) -> Float64s:
        """Return rank 0's matrix.

        All compute the same, but an eigenvector's sign, and its direction where the eigenvalue is repeated, are
        rounding: processors of different makes disagree.
        """
        return self._sum(matrix if self._comm.proc_rank == 0 else np.zeros_like(matrix))


def _whitening(gramian: Float64s, before: Float64s) -> Float64s:
    """Return T such that the columns of W T are orthonormal, for W'W = ``gramian``; columns without a direction are 0.

    ``before`` are the squared lengths of W's columns before the basis was projected out of them.
    """
    squares = np.diag(gramian)
    scale = np.zeros(len(gramian))
    np.divide(1.0, np.sqrt(squares), out=scale, where=squares > DEPENDENT**2 * before)
    values, vectors = np.linalg.eigh(gramian * scale[:, None] * scale)
    kept = values > DEPENDENT * max(1.0, len(values))
    factors = np.zeros_like(values)
    np.divide(1.0, np.sqrt(values, where=kept, out=np.ones_like(values)), out=factors, where=kept)
    return scale[:, None] * vectors * factors
