"""Random half-steps with float64 answers: what the conformance kit and property tests solve.

Expected values come from the plain loops of `kernels.reference` and of this module, never from a fast kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lakefactor.kernels import Method, System, effective_reg, reference, transpose

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]

MODELS = ("implicit", "ials", "explicit", "weighted explicit")


class Row(NamedTuple):
    """One row's equation in float64: its number, M, b, and the constant of its value."""

    number: int
    matrix: Float64s
    rhs: Float64s
    constant: float


@dataclass(frozen=True)
class Problem:
    """One half-step, and the objective that it lowers.

    Attributes
    ----------
    system : System
    source : float32 ndarray, shape (m, k)
    start : float32 ndarray, shape (n, k)
        What x holds before.
    a0 : float
    constants : float64 ndarray, shape (nnz,)
        What each entry adds to the objective whatever the factors are.
    source_reg : pair of float32 ndarray, shape (m,)
    """

    system: System
    source: Float32s
    start: Float32s
    a0: float
    constants: Float64s
    source_reg: tuple[Float32s, Float32s]

    @property
    def k(self) -> int:
        """Columns."""
        return self.source.shape[1]

    @cached_property
    def gramian(self) -> Float32s:
        """a0 Y'Y."""
        y = self.source.astype(np.float64)
        return (self.a0 * (y.T @ y)).astype(np.float32)

    @cached_property
    def rows(self) -> list[Row]:
        """The equations of all rows that have entries."""
        s, result = self.system, []
        for r, (start, stop) in enumerate(zip(s.indptr[:-1], s.indptr[1:], strict=True)):
            if start < stop:
                row = slice(start, stop)
                equation = reference.system(
                    self.source, self.gramian, s.indices[row], s.weights[row], s.targets[row],
                    float(s.reg[r]), float(s.reg_last[r]), s.biased,
                )  # fmt: skip
                result.append(Row(r, *equation))
        return result

    def expected(self, method: Method) -> tuple[Float64s, Float64s]:
        """Return x and the values after a half-step, float64."""
        x, values = np.zeros(self.start.shape), np.zeros(len(self.start))
        for number, matrix, rhs, constant in self.rows:
            x[number] = oracle_step(matrix, rhs, self.start[number], method)
            values[number] = x[number] @ matrix @ x[number] - 2 * x[number] @ rhs + constant
        return x, values

    def flipped(self) -> Problem:
        """Return the other half-step: the source's rows are solved, from what they hold."""
        s, m = self.system, len(self.source)
        indptr, indices, weights = transpose(s.indptr, s.indices, s.weights, m)
        targets = transpose(s.indptr, s.indices, s.targets, m)[2]
        return Problem(
            System(indptr, indices, weights, targets, *self.source_reg, s.biased),
            self.start, self.source, self.a0, self.constants, (s.reg, s.reg_last),
        )  # fmt: skip

    def shuffled(self, seed: int) -> Problem:
        """Return the same rows with their entries in another order."""
        s, rng = self.system, np.random.default_rng(seed)
        bounds = zip(s.indptr[:-1], s.indptr[1:], strict=True)
        order = np.concatenate([rng.permutation(np.arange(start, stop)) for start, stop in bounds])
        return replace(
            self,
            system=replace(s, indices=s.indices[order], weights=s.weights[order], targets=s.targets[order]),
            constants=self.constants[order],
        )

    def alone(self, r: int) -> Problem:
        """Return one row as a problem of its own: what folding it in solves."""
        s = self.system
        row, own = slice(s.indptr[r], s.indptr[r + 1]), slice(r, r + 1)
        system = System(
            np.array([0, row.stop - row.start]), s.indices[row], s.weights[row], s.targets[row],
            s.reg[own], s.reg_last[own], s.biased,
        )  # fmt: skip
        return replace(self, system=system, start=self.start[own], constants=self.constants[row])

    def objective(self) -> float:
        """Return what both half-steps lower, at ``start`` and ``source``."""
        s = self.system
        return reference.objective(
            self.start, self.source, s.indptr, s.indices, s.weights, s.targets, self.constants, self.a0,
            (s.reg, s.reg_last), self.source_reg, s.biased,
        )  # fmt: skip


def make_problem(
    model: str, rank: int, degrees: Sequence[int], n_source: int, seed: int, nonnegative: bool = False
) -> Problem:
    """Return a problem of a model (one of `MODELS`) whose rows have so many entries each, with repeats.

    The models with biases have one column more than ``rank``. ``nonnegative``: factors of 0 and more.
    """
    rng = np.random.default_rng(seed)
    nnz, biased = int(np.sum(degrees)), model.endswith("explicit")
    k = rank + biased
    strengths = rng.gamma(2.0, 1.0, nnz).astype(np.float32)
    if model == "implicit":
        weights, targets, a0 = strengths * 4, 1 + strengths * 4, 1.0
    elif model == "ials":
        weights, targets, a0 = 1 + strengths, 1 + strengths, 0.1
    else:
        weights = np.ones_like(strengths) if model == "explicit" else strengths + np.float32(0.1)
        targets, a0 = weights * rng.normal(size=nnz).astype(np.float32), 0.0
    constants = targets.astype(np.float64) ** 2 / weights if biased else targets.astype(np.float64)
    indices = rng.integers(0, n_source, nnz).astype(np.int32)
    source = rng.normal(0, 0.3, (n_source, k)).astype(np.float32)
    start = rng.normal(0, 0.3, (len(degrees), k)).astype(np.float32)

    def regs(counts: NDArray[np.integer]) -> tuple[Float32s, Float32s]:
        own = effective_reg(counts, 0.1, 1.0, offset=1.0)
        return own, own * np.float32(0.5) if biased else own

    indptr = np.cumsum([0, *degrees]).astype(np.int64)
    system = System(indptr, indices, weights, targets, *regs(np.asarray(degrees)), biased)
    source, start = (np.abs(source), np.abs(start)) if nonnegative else (source, start)
    return Problem(system, source, start, a0, constants, regs(np.bincount(indices, minlength=n_source)))


def oracle_step(matrix: Float64s, rhs: Float64s, x: Float32s, method: Method) -> Float64s:
    """Return what a method makes of one row's x."""
    if method.solver == "cholesky":
        return np.linalg.solve(matrix, rhs).astype(np.float64)
    if method.solver == "cg":
        return reference.conjugate_gradients(matrix, rhs, x.astype(np.float64), method.steps)
    if method.solver == "subspace":
        return block_descent(matrix, rhs, x, method.block_size, method.steps)
    return nonnegative_descent(matrix, rhs, x, method.steps)


def block_descent(matrix: Float64s, rhs: Float64s, x: Float32s, block_size: int, sweeps: int) -> Float64s:
    """Minimise over blocks of consecutive coordinates, ascending, ``sweeps`` times over all (iALS++).

    >>> block_descent(np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([2.0, 2.0]), np.zeros(2, np.float32), 1, 1)
    array([1. , 0.5])
    """
    result = x.astype(np.float64)
    for _ in range(sweeps):
        for start in range(0, len(result), block_size):
            block = slice(start, start + block_size)
            result[block] += np.linalg.solve(matrix[block, block], (rhs - matrix @ result)[block])
    return result


def nonnegative_descent(matrix: Float64s, rhs: Float64s, x: Float32s, sweeps: int) -> Float64s:
    """Set each coordinate, ascending, to its best value of 0 or more, ``sweeps`` times over all (HALS).

    >>> nonnegative_descent(np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([2.0, -2.0]), np.ones(2, np.float32), 1)
    array([0.5, 0. ])
    """
    result = x.astype(np.float64)
    for _ in range(sweeps):
        for j in range(len(result)):
            result[j] = max(0.0, result[j] + (rhs - matrix @ result)[j] / matrix[j, j])
    return result
