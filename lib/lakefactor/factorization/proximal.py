"""Rows solved near what they were, or anew: the rules ``proximal`` and ``exact`` of `update_rules`.

Both are one least squares problem. With residuals r = t - w p at x_old (`row_entries.pulls`), the change d is::

    (a0 Y'Y + sum_R w y y' + lambda I + rho n D) d = sum_R r y

and with x_old = 0 and n = 0 this is the equation of a half-step.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lakefactor.factorization.equation import Equation
from lakefactor.factorization.fold_in import solve
from lakefactor.factorization.live_model import LiveModel
from lakefactor.factorization.row_entries import (
    BLOCK_ENTRIES,
    Entries,
    Float32s,
    Int64s,
    huber_weights,
    predictions,
    pulls,
)
from lakefactor.kernels import System
from lakefactor.types import FACTOR_DTYPE, INDEX_DTYPE, Side, other

HUBER_PASSES = 5
"""Solutions, each but the first with weights from the errors of the one before: a row's own past does not matter."""


def solve_near(
    live: LiveModel,
    side: Side,
    old: Float32s,
    entries: Entries,
    counts: Int64s,
    stay: Int64s,
    rho: float,
    huber: float = 0.0,
    threads: int = 1,
) -> tuple[Float32s, Int64s]:
    """Return the rows' solutions, and how many entries of each weigh less by ``huber``.

    Parameters
    ----------
    live : LiveModel
    side : {"user", "item"}
    old : float32 ndarray, shape (n, columns)
        The rows so far.
    entries : Entries
        R, the entries to solve with.
    counts : int64 ndarray, shape (n,)
        Interactions that each row has now; its regularization goes by them.
    stay : int64 ndarray, shape (n,)
        n of the equation: interactions that are not in R. Where there are none, ``old`` does not matter.
    rho : float
        Weight of what stays, in units of `curvature`.
    huber : float
        Error (units of strength) beyond which an entry weighs less; 0: none does.
    threads : int
    """
    equation, source, gram = live.equation, live.source(other(side)), live.scaled_gramian(other(side))
    kept = stay > 0
    entries = entries.where(kept[entries.owners] | ~np.isnan(entries.strengths))
    old = np.where(kept[:, None], old, FACTOR_DTYPE(0))
    fixed = source[entries.indices, -1] if equation.biased else np.zeros(len(entries.indices), FACTOR_DTYPE)
    known = predictions(equation, source, old, entries) if kept.any() else fixed
    weights, targets = pulls(equation, entries, known)
    near, near_last = curvature(equation, source, entries, weights) * np.where(kept, rho * stay, 0)
    # The kernel takes the source's biases off the targets, but ``known`` holds them already.
    rest = targets - weights * known + weights * fixed
    system = System(
        entries.indptr,
        entries.indices,
        weights,
        rest,
        equation.reg(side, counts, len(source)) + near.astype(FACTOR_DTYPE),
        equation.bias_reg(side, counts, len(source)) + near_last.astype(FACTOR_DTYPE),
        equation.biased,
    )
    share = np.ones_like(weights)
    if equation.nonnegative and kept.any():
        x = _solve_above_zero(system, source, gram, old, weights * known, threads)
    else:
        x = old + solve(system, source, gram, equation.nonnegative, threads)
    for _ in range(HUBER_PASSES - 1 if huber else 0):
        share = huber_weights(targets - weights * predictions(equation, source, x, entries), huber)
        robust = replace(system, weights=share * weights, targets=share * rest)
        x = old + solve(robust, source, gram, nonnegative=False, threads=threads)
    return x, np.bincount(entries.owners, share < 1, len(old)).astype(np.int64)


def curvature(equation: Equation, source: Float32s, entries: Entries, weights: Float32s) -> NDArray[np.float64]:
    """Return D of each row, float64, shape (2, n): of its factors, and of its last column.

    D is what an entry like those given adds on average to the diagonal of the row's matrix: the mean of w |y|^2 / rank,
    and for a bias that of w. 0 for a row without entries. So rho n D is the matrix of n entries that stay, were they
    like these and their factors without correlation, times rho.
    """
    rank, owners = equation.model.rank, entries.owners
    square = np.empty(len(weights))
    for start in range(0, len(weights), BLOCK_ENTRIES):
        some = slice(start, start + BLOCK_ENTRIES)
        y = source[entries.indices[some], :rank]
        square[some] = weights[some] * np.einsum("ij,ij->i", y, y, dtype=np.float64) / rank
    n, length = len(entries.lengths), np.maximum(entries.lengths, 1)
    own = np.bincount(owners, square, n) / length
    last = np.bincount(owners, weights, n) / length if equation.biased else own
    return np.stack([own, last])


def _solve_above_zero(
    system: System, source: Float32s, gram: Float32s, old: Float32s, held: Float32s, threads: int
) -> Float32s:
    """Return x = old + d >= 0, where ``held`` is w p of each entry at ``old``.

    The bound is on x, so M x = sum r y + M old is solved. The part of M old that is not the entries' becomes the source
    row of one more entry of weight 0 and target 1.
    """
    n, (used, place) = len(old), np.unique(system.indices, return_inverse=True)
    beyond = old @ gram + system.reg[:, None] * old
    ends = system.indptr[1:]
    extended = System(
        system.indptr + np.arange(n + 1),
        np.insert(place, ends, len(used) + np.arange(n)).astype(INDEX_DTYPE),
        np.insert(system.weights, ends, 0),
        np.insert(system.targets + held, ends, 1),
        system.reg,
        system.reg_last,
    )
    return solve(extended, np.concatenate([source[used], beyond]), gram, nonnegative=True, threads=threads)
