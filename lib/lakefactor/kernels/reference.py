"""The float64 oracle: the one equation in plain loops.

Every fast kernel is tested against this module. It is written to be read, not to be fast; only tests use it.

Notation (`docs`, "the one equation"): a target row r with entries E(r), source factors Y, solves

    (a0 Y'Y + sum_e w_e y_e y_e' + diag(reg_r, .., reg_r, reg_last_r)) x = sum_e t_e y_e

With ``biased`` the last column of a matrix is the row's own bias: the design row of a source row is
[y_0 .. y_{k-2}, 1], and its bias b_y leaves the target, t_e - w_e b_y (the loss is w_e (t_e/w_e - b_y - x'y)^2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Float64s = NDArray[np.float64]
Ints = NDArray[np.integer]


def gramian(factors: Floats) -> Float64s:
    """Return Y'Y of an (n, k) array, without regularization.

    >>> gramian(np.array([[1.0, 2.0], [0.0, 3.0]]))
    array([[ 1.,  2.],
           [ 2., 13.]])
    """
    k = factors.shape[1]
    result = np.zeros((k, k))
    for y in factors.astype(np.float64):
        result += np.outer(y, y)
    return result


def design(y: Floats, biased: bool) -> tuple[Float64s, float]:
    """Return the design row of a source row and the bias that leaves the target (0 unless ``biased``)."""
    row = y.astype(np.float64)
    if not biased:
        return row, 0.0
    bias = float(row[-1])
    row[-1] = 1.0
    return row, bias


def system(
    source: Floats,
    base: Floats,
    indices: Ints,
    weights: Floats,
    targets: Floats,
    reg: float,
    reg_last: float,
    biased: bool,
) -> tuple[Float64s, Float64s, float]:
    """Return the matrix M, the right-hand side b and the constant sum_e w b_y^2 - 2 t b_y of one row."""
    matrix = base.astype(np.float64)
    rhs = np.zeros(len(matrix))
    constant = 0.0
    for index, weight, target in zip(indices, weights.astype(np.float64), targets.astype(np.float64), strict=True):
        y, bias = design(source[index], biased)
        matrix += weight * np.outer(y, y)
        rhs += (target - weight * bias) * y
        constant += bias * (weight * bias - 2.0 * target)
    matrix[np.diag_indices_from(matrix)] += [float(reg)] * (len(matrix) - 1) + [float(reg_last)]
    return matrix, rhs, constant


def half_step(
    source: Floats,
    base: Floats,
    indptr: Ints,
    indices: Ints,
    weights: Floats,
    targets: Floats,
    reg: Floats,
    reg_last: Floats,
    biased: bool = False,
) -> tuple[Float64s, Float64s]:
    """Solve every row exactly.

    Parameters
    ----------
    source : float array, shape (m, k)
        Factors of the fixed side.
    base : float array, shape (k, k)
        a0 Y'Y; zeros where a0 = 0.
    indptr, indices : int arrays, shapes (n + 1,) and (nnz,)
        CSR rows over ``source``.
    weights, targets : float arrays, shape (nnz,)
        w_e and t_e.
    reg, reg_last : float arrays, shape (n,)
        Effective regularization of each row, and that of its last coordinate.
    biased : bool
        Whether the last column is a bias.

    Returns
    -------
    x : float64 array, shape (n, k)
        Solutions; zeros for a row without entries.
    values : float64 array, shape (n,)
        x'Mx - 2x'b, plus sum_e w b_y^2 - 2 t b_y if ``biased``.

    Raises
    ------
    numpy.linalg.LinAlgError
        A row's matrix is exactly singular.
    """
    n = len(indptr) - 1
    x = np.zeros((n, source.shape[1]))
    values = np.zeros(n)
    for r in range(n):
        row = slice(indptr[r], indptr[r + 1])
        if row.start == row.stop:
            continue
        matrix, rhs, constant = system(
            source, base, indices[row], weights[row], targets[row], float(reg[r]), float(reg_last[r]), biased
        )
        x[r] = np.linalg.solve(matrix, rhs)
        values[r] = x[r] @ matrix @ x[r] - 2.0 * x[r] @ rhs + constant
    return x, values


def conjugate_gradients(matrix: Float64s, rhs: Float64s, x: Float64s, steps: int) -> Float64s:
    """Return ``x`` after ``steps`` textbook steps towards the solution (Hestenes and Stiefel 1952)."""
    x = x.astype(np.float64)
    residual = rhs - matrix @ x
    direction = residual.copy()
    for _ in range(steps):
        square = residual @ residual
        if square == 0.0:
            break
        product = matrix @ direction
        step = square / (direction @ product)
        x = x + step * direction
        residual = residual - step * product
        direction = residual + (residual @ residual / square) * direction
    return x


def block_descent(matrix: Float64s, rhs: Float64s, x: Floats, sweeps: int, size: int) -> Float64s:
    """Return ``x`` after sweeps over blocks of ``size`` coordinates, each solved exactly (iALS++, arXiv 2110.14044)."""
    result: Float64s = np.array(x, np.float64)
    for _ in range(sweeps):
        for first in range(0, len(result), size):
            block = slice(first, first + size)
            result[block] += np.linalg.solve(matrix[block, block], rhs[block] - matrix[block] @ result)
    return result


def predict(x: Floats, y: Floats, biased: bool = False) -> float:
    """Return p of one pair: x'y, or with ``biased`` x_0 y_0 + .. + b_x + b_y.

    >>> predict(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    11.0
    >>> predict(np.array([1.0, 2.0]), np.array([3.0, 4.0]), biased=True)
    9.0
    """
    row, bias = design(y, biased)
    return float(x.astype(np.float64) @ row) + bias


def objective(
    users: Floats,
    items: Floats,
    indptr: Ints,
    indices: Ints,
    weights: Floats,
    targets: Floats,
    constants: Floats,
    a0: float,
    user_reg: tuple[Floats, Floats],
    item_reg: tuple[Floats, Floats],
    biased: bool = False,
) -> float:
    """Return the objective that both half-steps lower.

    Parameters
    ----------
    users, items : float arrays, shapes (n, k) and (m, k)
        Factors.
    indptr, indices, weights, targets : arrays
        The entries as CSR rows of users.
    constants : float array, shape (nnz,)
        What each entry adds whatever the factors are, such as t^2 / w.
    a0 : float
        Weight of all pairs' p^2; 0 with ``biased``.
    user_reg, item_reg : pairs of float arrays
        ``(reg, reg_last)`` of each side.
    biased : bool
        Whether the last column is a bias.

    Returns
    -------
    float
        sum_e (w p^2 - 2 t p + constant) + a0 sum over all pairs of p^2 + sum_r reg_r |x_r|^2 of both sides.
    """
    total = float(np.sum(constants, dtype=np.float64))
    for u in range(len(indptr) - 1):
        for entry in range(indptr[u], indptr[u + 1]):
            p = predict(users[u], items[indices[entry]], biased)
            total += float(weights[entry]) * p * p - 2.0 * float(targets[entry]) * p
    if a0:
        total += a0 * float(np.sum(gramian(users) * gramian(items)))
    return total + penalty(users, *user_reg) + penalty(items, *item_reg)


def penalty(factors: Floats, reg: Floats, reg_last: Floats) -> float:
    """Return sum_r reg_r (x_r0^2 + .. ) + reg_last_r x_r,k-1^2."""
    total = 0.0
    for x, own, last in zip(factors.astype(np.float64), reg, reg_last, strict=True):
        total += float(own) * float(x[:-1] @ x[:-1]) + float(last) * float(x[-1] ** 2)
    return total
