"""Entries of rows of the live model, and what the equation makes of them at given factors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lakefactor.factorization.equation import Equation
from lakefactor.types import FACTOR_DTYPE

BLOCK_ENTRIES = 1 << 16
Float32s = NDArray[np.float32]
Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class Entries:
    """CSR of the rows to update, in the order in which they are given.

    Attributes
    ----------
    indptr : int64 ndarray, shape (n + 1,)
    indices : int32 ndarray, shape (nnz,)
        Row numbers of the other side in the live model, distinct within a row.
    strengths : float32 ndarray, shape (nnz,)
        Strength now; NaN: the interaction was removed.
    before : float32 ndarray, shape (nnz,), or None
        Strength before the micro-batch; NaN: there was no interaction. None: there was none in any entry.
    """

    indptr: Int64s
    indices: NDArray[np.int32]
    strengths: Float32s
    before: Float32s | None = None

    @property
    def lengths(self) -> Int64s:
        """Entries of each row."""
        return np.diff(self.indptr)

    @property
    def owners(self) -> Int64s:
        """The row, as a position, of each entry."""
        return np.repeat(np.arange(len(self.indptr) - 1), self.lengths)

    def count_now(self) -> Int64s:
        """Return how many of each row's entries are interactions now."""
        return _count(self.indptr, self.strengths)

    def count_before(self) -> Int64s:
        """Return how many of each row's entries were interactions before."""
        return 0 * self.lengths if self.before is None else _count(self.indptr, self.before)

    def take(self, positions: NDArray[np.integer]) -> Entries:
        """Return some of the rows."""
        lengths = self.lengths[positions]
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        entry = np.arange(indptr[-1]) + np.repeat(self.indptr[positions] - indptr[:-1], lengths)
        before = None if self.before is None else self.before[entry]
        return Entries(indptr, self.indices[entry], self.strengths[entry], before)

    def where(self, mask: NDArray[np.bool_]) -> Entries:
        """Return the rows with those entries only that ``mask``, shape (nnz,), names."""
        indptr = np.concatenate([[0], np.cumsum(mask)])[self.indptr]
        before = None if self.before is None else self.before[mask]
        return Entries(indptr, self.indices[mask], self.strengths[mask], before)


def _count(indptr: Int64s, strengths: Float32s) -> Int64s:
    there = np.concatenate([[0], np.cumsum(~np.isnan(strengths))])
    return np.diff(there[indptr])


def coefficients(equation: Equation, strengths: Float32s) -> tuple[Float32s, Float32s]:
    """Return w and t of each entry; both 0 where there is no interaction.

    >>> from lakefactor.config import Model
    >>> coefficients(Equation(Model(alpha=2.0)), np.float32([1.0, np.nan]))
    (array([2., 0.], dtype=float32), array([3., 0.], dtype=float32))
    """
    missing = np.isnan(strengths)
    values = np.where(missing, FACTOR_DTYPE(0), strengths)
    weights, targets = equation.weights(values), equation.targets(values)
    return np.where(missing, FACTOR_DTYPE(0), weights), np.where(missing, FACTOR_DTYPE(0), targets)


def pulls(equation: Equation, entries: Entries, known: Float32s) -> tuple[Float32s, Float32s]:
    """Return w and t of each changed entry, given its prediction p.

    An interaction that is there pulls with t - w p towards its strength now. One that was removed pushes as it would
    pull, with -(t - w p) of its strength before: its target is the mirror image, 2 w p - t.

    >>> from lakefactor.config import Model
    >>> strengths, before = np.float32([3.0, np.nan]), np.float32([1.0, 3.0])
    >>> entries = Entries(np.array([0, 2]), np.zeros(2, np.int32), strengths, before)
    >>> pulls(Equation(Model(algorithm="explicit_als"), 2.0), entries, np.float32([0.25, 0.25]))
    (array([1., 1.], dtype=float32), array([ 1. , -0.5], dtype=float32))
    """
    weights, targets = coefficients(equation, entries.strengths)
    if entries.before is None:
        return weights, targets
    lost_weights, lost_targets = coefficients(equation, entries.before)
    removed = np.isnan(entries.strengths)
    mirrored = 2 * lost_weights * known - lost_targets
    return np.where(removed, lost_weights, weights), np.where(removed, mirrored, targets)


def predictions(equation: Equation, source: Float32s, x: Float32s, entries: Entries) -> Float32s:
    """Return p of each entry, float32, less the mean of a biased model.

    Parameters
    ----------
    equation : Equation
    source : float32 ndarray, shape (m, columns)
        Factors of the other side.
    x : float32 ndarray, shape (n, columns)
        Factors of the entries' rows.
    entries : Entries
    """
    result, owners = np.empty(len(entries.indices), FACTOR_DTYPE), entries.owners
    for start in range(0, len(result), BLOCK_ENTRIES):
        some = slice(start, start + BLOCK_ENTRIES)
        y = source[entries.indices[some]]
        p = np.einsum("ij,ij->i", design(equation, y), x[owners[some]], dtype=np.float64)
        result[some] = p + y[:, -1] if equation.biased else p
    return result


def design(equation: Equation, y: Float32s) -> Float32s:
    """Return what a row's factors are multiplied by: source rows, with 1 in place of a bias."""
    if equation.biased:
        y = y.copy()
        y[:, -1] = 1
    return y


def huber_weights(errors: Float32s, largest: float) -> Float32s:
    """Return min(1, largest / |error|), float32; 1 everywhere where ``largest`` is 0.

    >>> huber_weights(np.float32([0.5, -4.0]), 2.0)
    array([1. , 0.5], dtype=float32)
    """
    size, weights = np.abs(errors), np.ones_like(errors)
    far = (size > largest) & (largest > 0)
    weights[far] = FACTOR_DTYPE(largest) / size[far]
    return weights
