"""What every backend of the half-step must do, on every solver, precision and device: checks against float64 loops.

A test runs each of `CHECKS` on each combination it asks `combinations` for::

    @pytest.mark.parametrize("combination", combinations("torch", "cpu"), ids=str)
    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_backend(check, combination):
        check(combination)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lakefactor.errors import SolveError
from lakefactor.kernels import Method, System
from lakefactor.kernels.backends import PRECISIONS, Backend, HalfStep, Precision, prepare
from lakefactor.kernels.system import SOLVERS, Solver
from lakefactor.testing.problems import MODELS, Problem, make_problem

RANKS = (1, 7, 16, 33, 64, 65, 128)
DEGREES = (0, 1, 4, 5, 8, 9, 127, 131, 0)

NO_SHARPER_THAN = 1e-5
"""Error of a row, relative to its length, that is always allowed: the promise of the same numbers anywhere."""

NOISE: dict[tuple[Solver, Precision], float] = {
    ("cholesky", "float32"): 5e-7,
    ("cholesky", "tf32"): 1e-5,
    ("cholesky", "bfloat16"): 1e-5,
    ("cg", "float32"): 5e-6,
    ("subspace", "float32"): 5e-7,
    ("subspace", "tf32"): 2e-3,
    ("subspace", "bfloat16"): 1e-2,
    ("nonnegative", "float32"): 5e-7,
    ("nonnegative", "tf32"): 5e-7,
    ("nonnegative", "bfloat16"): 5e-7,
}
"""Error in M and in the terms of b that an error of x may amount to, relative: the tolerance of x, row by row.

Float32 rounds by 6e-8; a factorization loses a few roundings, short recurrences of ``cg`` ten times as much. In lower
precision ``cholesky`` is refined to a residual of 1e-5, and one sweep of ``subspace`` takes its steps in directions as
good as the precision (2^-11 and 2^-8, four roundings); ``nonnegative`` does not use it. ``cg`` in lower precision takes
other steps: its values are compared, see `VALUES`."""

VALUES: dict[Precision, float] = {"float32": 2e-6, "tf32": 1e-4, "bfloat16": 1e-3}
"""How much above the oracle's the sum of values may be, relative to the sum of the rows' absolute terms."""


@dataclass(frozen=True)
class Combination:
    """One backend with one solver, on one device in one precision."""

    backend: Backend
    solver: Solver
    device: str = "cpu"
    precision: Precision = "float32"

    def __str__(self) -> str:
        return f"{self.backend}-{self.solver}-{self.precision}"

    def method(self, k: int, exact: bool = False) -> Method:
        """Return a method: a few steps, or as many as lead to the solution."""
        # Two steps, not three: a row of one entry has three eigenvalues at most, so the third is all rounding.
        steps = 8 * k + 40 if exact and self.solver == "cg" else 2
        return Method(self.solver, steps, block_size=max(1, k // 3))

    def prepare(self, system: System, method: Method) -> HalfStep:
        """Return the half-step of this combination."""
        return prepare(system, method, self.backend, self.device, self.precision)

    def solve(self, problem: Problem, exact: bool = False) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Return x and the values of a problem."""
        x = problem.start.copy()
        values = self.prepare(problem.system, self.method(problem.k, exact))(problem.source, problem.gramian, x)
        return x, values


def combinations(backend: Backend, device: str) -> list[Combination]:
    """Return all solvers and precisions of a backend on a device."""
    precisions: tuple[Precision, ...] = PRECISIONS if backend == "torch" else ("float32",)
    return [Combination(backend, solver, device, precision) for solver in SOLVERS for precision in precisions]


@lru_cache(maxsize=256)
def problem_of(model: str, rank: int, degrees: tuple[int, ...], n_source: int, nonnegative: bool) -> Problem:
    """Return a problem; made once, with its oracle's equations, for all combinations."""
    return make_problem(model, rank, degrees, n_source, seed=rank, nonnegative=nonnegative)


def problems(combination: Combination, rank: int, degrees: tuple[int, ...] = DEGREES) -> list[Problem]:
    """Return one problem of each model that the solver serves."""
    nonnegative = combination.solver == "nonnegative"
    models = ("implicit", "ials") if nonnegative else MODELS
    return [problem_of(model, rank, degrees, 150, nonnegative) for model in models]


def assert_as_the_oracle(combination: Combination, problem: Problem, exact: bool = False) -> None:
    """Compare x row by row and the values with the float64 loops."""
    x, values = combination.solve(problem, exact)
    method = combination.method(problem.k, exact)
    expected, expected_values = problem.expected(method)
    noise = NOISE.get((combination.solver, combination.precision))
    if noise is not None:
        assert_rows_close(problem, x, expected, noise)
    assert np.all(np.isfinite(x))
    empty = np.diff(problem.system.indptr) == 0
    np.testing.assert_array_equal(x[empty], 0.0)
    np.testing.assert_array_equal(values[empty], 0.0)
    tolerance = VALUES[combination.precision] * scale(problem, expected)
    assert values.sum() <= expected_values.sum() + tolerance
    # The values are those of the x that was found, whatever it is: exact but for float32's rounding.
    assert abs(values.sum() - value_of(problem, x)) <= VALUES["float32"] * scale(problem, x)


def assert_rows_close(problem: Problem, x: NDArray, expected: NDArray, noise: float) -> None:
    """Compare row by row: to 1e-5 of the row's length, or to what ``noise`` in M and in the terms of b makes of x."""
    s = problem.system
    for number, matrix, _rhs, _constant in problem.rows:
        row = slice(s.indptr[number], s.indptr[number + 1])
        terms = np.abs(s.targets[row]) @ (1 + np.linalg.norm(problem.source[s.indices[row]], axis=1))
        length, sizes = np.linalg.norm(expected[number]), np.linalg.eigvalsh(matrix)
        allowed = max(NO_SHARPER_THAN * length, noise * (sizes[-1] * length + terms) / sizes[0])
        found = np.linalg.norm(x[number] - expected[number])
        assert found <= allowed, f"row {number} is {found:.2e} off, {allowed:.2e} allowed, its length is {length:.2e}"


def value_of(problem: Problem, x: NDArray) -> float:
    """Return the sum of the rows' values at x, float64."""
    x = x.astype(np.float64)
    return sum(
        x[row.number] @ row.matrix @ x[row.number] - 2 * x[row.number] @ row.rhs + row.constant for row in problem.rows
    )


def scale(problem: Problem, x: NDArray) -> float:
    """Return the size of the terms that the sum of values adds up from."""
    x = x.astype(np.float64)
    return sum(
        x[row.number] @ row.matrix @ x[row.number] + 2 * np.abs(x[row.number]) @ np.abs(row.rhs) + abs(row.constant)
        for row in problem.rows
    )


def every_rank(combination: Combination) -> None:
    """Solve any rank, also those that are no multiple of anything, in every model; rows of 0, 1 and many entries."""
    for rank in RANKS:
        for problem in problems(combination, rank):
            assert_as_the_oracle(combination, problem)


def enough_steps_solve(combination: Combination) -> None:
    """Reach the exact solution by enough steps of conjugate gradients, in lower precision too."""
    if combination.solver != "cg":
        return
    for rank in (7, 33):
        for problem in problems(combination, rank):
            x, _ = combination.solve(problem, exact=True)
            expected, _ = problem.expected(Method("cholesky"))
            assert_rows_close(problem, x, expected, NOISE["cg", "float32"])


def long_rows(combination: Combination) -> None:
    """Solve rows of thousands of entries next to short ones."""
    for problem in problems(combination, 7, (3, 9000, 2500)):
        assert_as_the_oracle(combination, problem)


def any_order_of_entries(combination: Combination) -> None:
    """See no difference but rounding between orders of a row's entries."""
    for problem in problems(combination, 16):
        expected, _ = problem.expected(combination.method(problem.k))
        x, values = combination.solve(problem.shuffled(seed=1))
        _, straight = combination.solve(problem)
        noise = NOISE.get((combination.solver, combination.precision))
        if noise is not None:
            assert_rows_close(problem, x, expected, noise)
        assert abs(values.sum() - straight.sum()) <= VALUES[combination.precision] * scale(problem, expected)


def no_rise_of_the_objective(combination: Combination) -> None:
    """Never raise the objective, whatever the precision."""
    for problem in problems(combination, 7):
        before = problem.objective()
        for _ in range(6):
            problem = replace(problem, start=combination.solve(problem)[0]).flipped()
            after = problem.objective()
            assert after <= before + VALUES["float32"] * abs(before)
            before = after


def rows_make_up_the_objective(combination: Combination) -> None:
    """Return values that make up the objective, with the constants and the source's penalty."""
    for problem in problems(combination, 16):
        x, values = combination.solve(problem)
        squares = np.square(problem.source, dtype=np.float64)
        penalty = squares[:, :-1].sum(1) @ problem.source_reg[0] + squares[:, -1] @ problem.source_reg[1]
        found = values.sum() + problem.constants.sum() + penalty
        expected = replace(problem, start=x).objective()
        assert abs(found - expected) <= 1e-6 * (scale(problem, x) + np.abs(problem.constants).sum() + abs(expected))


def fold_in_is_the_half_step(combination: Combination) -> None:
    """Give a row solved alone the factors that it gets among others."""
    for problem in problems(combination, 33):
        x, _ = combination.solve(problem)
        for number in (1, 3, 7):
            own = problem.alone(number)
            found, _ = combination.solve(own)
            noise = NOISE.get((combination.solver, combination.precision), VALUES[combination.precision])
            assert_rows_close(own, found, x[number : number + 1], noise)


def prepared_once_solved_again(combination: Combination) -> None:
    """Serve new source factors by what was prepared once, and leave the arguments as they were."""
    for problem in problems(combination, 7):
        half_step = combination.prepare(problem.system, combination.method(problem.k))
        other = replace(problem, source=problem.source[::-1].copy())
        for one in (problem, other, problem):
            source, x, again = one.source.copy(), one.start.copy(), one.start.copy()
            values = half_step(source, one.gramian, x)
            np.testing.assert_array_equal(source, one.source)
            fresh = combination.prepare(one.system, combination.method(one.k))(source, one.gramian, again)
            np.testing.assert_array_equal(x, again)
            np.testing.assert_array_equal(values, fresh)


def singular_rows_are_refused(combination: Combination) -> None:
    """Name the rows without a unique finite solution in the error; stay finite where the solver needs none."""
    source = np.random.default_rng(3).normal(size=(8, 8)).astype(np.float32)
    degrees = (7, 8, 7)
    indices = np.concatenate([np.arange(degree) for degree in degrees]).astype(np.int32)
    ones, none = np.ones(len(indices), np.float32), np.zeros(3, np.float32)
    system = System(np.cumsum([0, *degrees]), indices, ones, ones, none, none)
    method = Method(combination.solver, block_size=8)
    x = np.zeros((3, 8), np.float32)
    half_step = combination.prepare(system, method)
    if combination.solver in ("cg", "nonnegative"):
        values = half_step(source, np.zeros((8, 8), np.float32), x)
        assert np.all(np.isfinite(x))
        assert np.all(np.isfinite(values))
    else:
        assert refused(half_step, source, np.zeros((8, 8), np.float32), 3) == [0, 2]
    source, nothing, reg = np.array([[1, 0.5]], np.float32), np.zeros((2, 2), np.float32), np.ones(2, np.float32)
    for weight, target in ((np.nan, 1), (1, np.nan), (np.inf, 1), (1, np.inf), (-5, 1)):
        weights, targets = np.array([1, weight], np.float32), np.array([1, target], np.float32)
        bad = System(np.array([0, 1, 2]), np.zeros(2, np.int32), weights, targets, reg, reg)
        assert refused(combination.prepare(bad, method), source, nothing, 2) == [1], f"{weight}, {target}"


def refused(half_step: HalfStep, source: NDArray[np.float32], gramian: NDArray[np.float32], rows: int) -> list[int]:
    """Return the rows that the half-step's SolveError names; [] where there is none."""
    try:
        half_step(source, gramian, np.zeros((rows, len(gramian)), np.float32))
    except SolveError as error:
        return error.rows
    return []


def tiny_and_huge_numbers(combination: Combination) -> None:
    """Find x = 1/2 of (s + s) x = s for any s that float32 holds, also where its products overflow."""
    for size in (1e-30, 1e-18, 1e18, 1e30, 1e38):
        one = np.full(1, size, np.float32)
        system = System(np.array([0, 1]), np.zeros(1, np.int32), one, one, one, one)
        x, nothing = np.zeros((1, 2), np.float32), np.zeros((2, 2), np.float32)
        combination.prepare(system, combination.method(2))(np.array([[1, 0]], np.float32), nothing, x)
        np.testing.assert_allclose(x, [[0.5, 0.0]], rtol=NO_SHARPER_THAN, err_msg=f"{size}")


def checkerboard(combination: Combination) -> None:
    """Find the two blocks of users who like the items of their own colour.

    With every pair weighing the same the minimum is known: regularization lambda takes lambda off each singular value
    (Mazumder, Hastie, Tibshirani 2010), and both are sqrt(30) for blocks of 6 users and 5 items.
    """
    own = np.add.outer(np.arange(12), np.arange(10)) % 2 == 0
    targets, rng = np.ones(own.sum(), np.float32), np.random.default_rng(0)
    regs = [np.ones(count, np.float32) for count in own.shape]
    indptr, indices = np.append(0, np.cumsum(own.sum(1))), np.nonzero(own)[1].astype(np.int32)
    system = System(indptr, indices, 0 * targets, targets, regs[0], regs[0])
    source, start = rng.random((10, 2), np.float32), rng.random((12, 2), np.float32)
    problem = Problem(system, source, start, 1.0, targets.astype(np.float64), (regs[1], regs[1]))
    for _ in range(60):
        problem = replace(problem, start=combination.solve(problem)[0]).flipped()
    scores = problem.start.astype(np.float64) @ problem.source.astype(np.float64).T
    np.testing.assert_allclose(scores, own * (1 - 1 / np.sqrt(30)), atol=1e-4)


CHECKS: tuple[Callable[[Combination], None], ...] = (
    every_rank,
    enough_steps_solve,
    long_rows,
    any_order_of_entries,
    no_rise_of_the_objective,
    rows_make_up_the_objective,
    fold_in_is_the_half_step,
    prepared_once_solved_again,
    singular_rows_are_refused,
    tiny_and_huge_numbers,
    checkerboard,
)
"""All checks; each takes a combination and raises AssertionError."""
