"""Solve the factors of rows that were not part of a training, holding the other side fixed.

The same equation, weights and kernel as a batch half-step: a row folded in with its full history gets the factors that
an exact half-step would give it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lakefactor.config import Model
from lakefactor.factorization.equation import Equation
from lakefactor.factorization.tfidf import inverse_document_frequency, row_values
from lakefactor.kernels import Method, System, gramian, half_step
from lakefactor.types import FACTOR_DTYPE, Side

EXACT_SWEEPS = 50
"""Sweeps from zero for non-negative factors, which have no exact solver."""

FoldIn = Callable[[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]], NDArray[np.float32]]
"""From CSR rows of users (indptr, indices, strengths) to their factors, float32, shape (n, columns); picklable."""


def user_fold_in(
    model: Model,
    mean: float,
    factors: NDArray[np.float32],
    bias: NDArray[np.float32],
    n_entries: NDArray[np.int64],
    n_users: int,
) -> FoldIn:
    """Return how a trained model folds users in.

    Parameters
    ----------
    model : Model
    mean : float
        The mean that it was trained with.
    factors, bias : float32 ndarray, shape (m, rank) and (m,)
        All its items; the rows' indices are row numbers of these.
    n_entries : int64 ndarray, shape (m,)
        Training interactions of each item.
    n_users : int
        Users that it was trained on.
    """
    if model.algorithm in ("svd", "lsa"):
        return partial(project, model, factors, inverse_document_frequency(n_entries, n_users))
    equation = Equation(model, mean)
    source = np.column_stack([factors, bias]) if equation.biased else equation.untempered(factors)
    scaled = (equation.a0 * gramian(source)).astype(FACTOR_DTYPE)
    return partial(fold_in, equation, "user", source, scaled, len(source))


def fold_in(
    equation: Equation,
    side: Side,
    source: NDArray[np.float32],
    gramian: NDArray[np.float32],
    n_source: int,
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    strengths: NDArray[np.float32],
    threads: int = 1,
) -> NDArray[np.float32]:
    """Return the exact factors of some rows of ``side``.

    Parameters
    ----------
    equation : Equation
        The trained model's equation, with its mean.
    side : {"user", "item"}
        Side of the rows to solve.
    source : float32 ndarray, shape (m, columns)
        Factors of the other side, the bias in the last column where the equation is biased.
    gramian : float32 ndarray, shape (columns, columns)
        a0 * Y'Y over *all* rows of the other side.
    n_source : int
        How many rows the other side has in all.
    indptr, indices, strengths : int64, int32, float32 ndarray
        CSR rows; ``indices`` are rows of ``source``, unique within a row.
    threads : int

    Returns
    -------
    float32 ndarray, shape (n, columns)
        A row with no entries is all zeros.

    Raises
    ------
    SolveError
        A row's system is singular.
    """
    system = equation.system(side, indptr, indices, strengths, n_source)
    return solve(system, source, gramian, equation.nonnegative, threads)


def solve(
    system: System,
    source: NDArray[np.float32],
    gramian: NDArray[np.float32],
    nonnegative: bool,
    threads: int = 1,
) -> NDArray[np.float32]:
    """Return the exact solutions of a system, float32, shape (n, columns); other arguments as in `fold_in`."""
    x = np.zeros((system.rows, source.shape[1]), dtype=FACTOR_DTYPE)
    half_step(system, source, gramian, x, exact_method(nonnegative, threads))
    return x


def exact_method(nonnegative: bool, threads: int = 1) -> Method:
    """Return how rows are solved, from zero, where the result is to be the solution."""
    return Method("nonnegative" if nonnegative else "cholesky", EXACT_SWEEPS, threads=threads)


def project(
    model: Model,
    item_factors: NDArray[np.float32],
    idf: NDArray[np.float64],
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    strengths: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return r V for some users of a truncated SVD: linear, since V is orthonormal.

    Parameters
    ----------
    model : Model
        ``algorithm`` is `svd` or `lsa`.
    item_factors : float32 ndarray, shape (m, rank)
        V.
    idf : float64 ndarray, shape (m,)
        Inverse document frequency of each item in the training; `lsa` weighs with it.
    indptr, indices, strengths : int64, int32, float32 ndarray
        CSR rows; ``indices`` are rows of ``item_factors``.

    Returns
    -------
    float32 ndarray, shape (n, rank)
        A user of the training, with all its interactions, gets the factors of the training.
    """
    from lakefactor.kernels import SparseMatrix, sparse_product

    matrix = SparseMatrix(indptr, indices, row_values(model, idf, indptr, indices, strengths), len(item_factors))
    return sparse_product(matrix, item_factors.astype(np.float64)).astype(FACTOR_DTYPE)
