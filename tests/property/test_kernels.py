"""Laws of the kernels over random problems: sizes and a seed are drawn, numpy makes the data."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from lakefactor.kernels import (
    Method,
    Ranker,
    System,
    _giant,
    _rows,
    build_csr,
    effective_reg,
    gramian,
    half_step,
    reference,
    top_k,
    transpose,
)
from lakefactor.kernels._panel import SEGMENT_ROWS

MODELS = ["implicit", "ials", "explicit", "weighted explicit"]
SOLVERS = ["cholesky", "cg", "subspace", "nonnegative"]
RANKS = [1, 2, 3, 7, 16, 33, 64, 65, 128]
seeds = st.integers(0, 2**32 - 1)
backends = st.sampled_from(["numba", "torch"])
repeatable = settings(deadline=None, derandomize=True, max_examples=40)
CG_NOISE = 5e-6  # its short recurrences lose more than a factorization does


@dataclass(frozen=True)
class Problem:
    """Entries as CSR rows of users, with the factors of both sides."""

    users: np.ndarray
    items: np.ndarray
    indptr: np.ndarray
    indices: np.ndarray
    weights: np.ndarray
    targets: np.ndarray
    constants: np.ndarray
    a0: float
    user_reg: tuple[np.ndarray, np.ndarray]
    item_reg: tuple[np.ndarray, np.ndarray]
    biased: bool

    @property
    def base(self) -> np.ndarray:
        return (self.a0 * gramian(self.items)).astype(np.float32)

    def solve(
        self, solver: str = "cholesky", steps: int = 3, threads: int = 1, block: int = 16
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return new user factors and the values of the rows."""
        x = self.users.copy()
        system = System(self.indptr, self.indices, self.weights, self.targets, *self.user_reg, self.biased)
        values = half_step(system, self.items, self.base, x, Method(solver, steps, block, threads))
        return x, values

    def exact(self) -> tuple[np.ndarray, np.ndarray]:
        return reference.half_step(
            self.items, self.base, self.indptr, self.indices, self.weights, self.targets, *self.user_reg, self.biased
        )

    def systems(self) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Return (row, M, b) of each row that has entries."""
        result = []
        for r, (start, stop) in enumerate(zip(self.indptr[:-1], self.indptr[1:], strict=True)):
            if start < stop:
                row = slice(start, stop)
                matrix, rhs, _ = reference.system(
                    self.items, self.base, self.indices[row], self.weights[row], self.targets[row],
                    self.user_reg[0][r], self.user_reg[1][r], self.biased,
                )  # fmt: skip
                result.append((r, matrix, rhs))
        return result

    def flipped(self) -> Problem:
        """Return the problem seen from the items."""
        m = len(self.items)
        indptr, indices, weights = transpose(self.indptr, self.indices, self.weights, m)
        targets = transpose(self.indptr, self.indices, self.targets, m)[2]
        return replace(
            self, users=self.items, items=self.users, indptr=indptr, indices=indices, weights=weights, targets=targets,
            user_reg=self.item_reg, item_reg=self.user_reg,
        )  # fmt: skip

    def objective(self) -> float:
        return reference.objective(
            self.users, self.items, self.indptr, self.indices, self.weights, self.targets, self.constants, self.a0,
            self.user_reg, self.item_reg, self.biased,
        )  # fmt: skip


def make(model: str, k: int, degrees: Any, m: int, seed: int, reg: float = 0.1) -> Problem:
    """Return a problem whose users have ``degrees`` entries each."""
    rng = np.random.default_rng(seed)
    n, nnz = len(degrees), int(np.sum(degrees))
    biased = model.endswith("explicit")
    k += biased
    strengths = rng.gamma(2.0, 1.0, nnz).astype(np.float32)
    if model == "implicit":
        weights, targets, a0 = strengths * 4, 1 + strengths * 4, 1.0
        constants = targets
    elif model == "ials":
        weights = targets = constants = 1 + strengths
        a0 = 0.1
    else:
        weights = np.ones_like(strengths) if model == "explicit" else strengths + np.float32(0.1)
        targets = weights * rng.normal(size=nnz).astype(np.float32)
        constants, a0 = targets.astype(np.float64) ** 2 / weights, 0.0
    indices = rng.integers(0, m, nnz).astype(np.int32)

    def regs(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own = effective_reg(counts, reg, 1.0, offset=1.0)
        return own, own * np.float32(0.5) if biased else own

    return Problem(
        users=rng.normal(0, 0.3, (n, k)).astype(np.float32),
        items=rng.normal(0, 0.3, (m, k)).astype(np.float32),
        indptr=np.cumsum([0, *degrees]).astype(np.int64),
        indices=indices,
        weights=weights,
        targets=targets,
        constants=constants,
        a0=a0,
        user_reg=regs(np.asarray(degrees)),
        item_reg=regs(np.bincount(indices, minlength=m)),
        biased=biased,
    )


def assert_rows_close(x: np.ndarray, expected: np.ndarray, problem: Problem, noise: float = 5e-7) -> None:
    """Compare row by row: to 1e-5 of the row's length, or what ``noise`` in M and in the terms of b amounts to in x.

    ``noise`` is a few float32 rounding errors (6e-8 each).
    """
    for r, matrix, _ in problem.systems():
        row = slice(problem.indptr[r], problem.indptr[r + 1])
        terms = np.abs(problem.targets[row]) @ (1 + np.linalg.norm(problem.items[problem.indices[row]], axis=1))
        length, sizes = np.linalg.norm(expected[r]), np.linalg.eigvalsh(matrix)
        allowed = max(1e-5 * length, noise * (sizes[-1] * length + terms) / sizes[0])
        assert np.linalg.norm(x[r] - expected[r]) <= allowed, f"row {r}"


problems = st.builds(
    make,
    model=st.sampled_from(MODELS),
    k=st.sampled_from(RANKS),
    degrees=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    m=st.integers(1, 60),
    seed=seeds,
    reg=st.sampled_from([0.01, 0.1, 1.0]),
)


@repeatable
@given(problems)
def test_cholesky_equals_the_oracle(problem):
    x, values = problem.solve()
    expected, expected_values = problem.exact()
    assert_rows_close(x, expected, problem)
    np.testing.assert_array_equal(x[np.diff(problem.indptr) == 0], 0.0)
    np.testing.assert_allclose(values, expected_values, rtol=1e-5, atol=1e-6 * np.abs(expected_values).max())


@repeatable
@given(problems, st.integers(1, 5))
def test_cg_equals_as_many_textbook_steps(problem, steps):
    x, _ = problem.solve("cg", steps)
    expected = np.zeros_like(x, np.float64)
    for r, matrix, rhs in problem.systems():
        expected[r] = reference.conjugate_gradients(matrix, rhs, problem.users[r], steps)
    assert_rows_close(x, expected, problem, CG_NOISE)


@repeatable
@given(problems)
def test_many_cg_steps_reach_the_oracle(problem):
    x, values = problem.solve("cg", 6 * problem.users.shape[1] + 20)
    expected, expected_values = problem.exact()
    assert_rows_close(x, expected, problem, CG_NOISE)
    np.testing.assert_allclose(values, expected_values, rtol=1e-4, atol=1e-5 * np.abs(expected_values).max())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("k", RANKS)
def test_every_rank_equals_the_oracle(model, k):
    assert_both_solvers_equal_the_oracle(make(model, k, [0, 1, 4, 5, 127, 128, 131], 150, seed=k))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("k", [3, 65])
def test_a_long_row_equals_the_oracle(model, k, monkeypatch):
    # More than one segment of tiles; with so small a panel CG takes the matrix of the row.
    monkeypatch.setattr(_rows, "PANEL_BYTES", 1 << 10)
    assert_both_solvers_equal_the_oracle(make(model, k, [2, SEGMENT_ROWS + 200], 400, seed=k))


def assert_both_solvers_equal_the_oracle(problem: Problem) -> None:
    expected, expected_values = problem.exact()
    for solver, noise in (("cholesky", 5e-7), ("cg", CG_NOISE)):
        x, values = problem.solve(solver, steps=6 * problem.users.shape[1] + 30)
        assert_rows_close(x, expected, problem, noise)
        np.testing.assert_allclose(
            values.sum(), expected_values.sum(), rtol=0, atol=4 * noise * np.abs(expected_values).sum()
        )


def test_a_row_of_half_a_million_entries_keeps_its_digits():
    problem = make("ials", 8, [500_000], 1000, seed=1)
    x, values = problem.solve()
    y, c = problem.items.astype(np.float64)[problem.indices], problem.weights.astype(np.float64)
    matrix = problem.base.astype(np.float64) + y.T @ (c[:, None] * y) + np.eye(8) * problem.user_reg[0][0]
    expected = np.linalg.solve(matrix, y.T @ c)
    np.testing.assert_allclose(x[0], expected, rtol=1e-5)
    np.testing.assert_allclose(values[0], -(expected @ y.T @ c), rtol=1e-6)


@repeatable
@given(problems, st.sampled_from(SOLVERS))
def test_rows_make_up_the_objective(problem, solver):
    for turned in (problem, problem.flipped()):
        x, values = turned.solve(solver)
        found = values.sum() + float(np.sum(turned.constants, dtype=np.float64))
        found += reference.penalty(turned.items, *turned.item_reg)
        scale = float(np.sum(np.abs(turned.constants), dtype=np.float64))
        assert abs(found - replace(turned, users=x).objective()) <= 1e-6 * max(scale, abs(found))


@repeatable
@given(problems, st.sampled_from(SOLVERS))
def test_no_half_step_raises_the_objective(problem, solver):
    before = problem.objective()
    for _ in range(3):
        # Rows without entries go to zero, which never costs: without entries there is nothing to predict but the base.
        problem = replace(problem, users=problem.solve(solver)[0]).flipped()
        after = problem.objective()
        assert after <= before + 2e-6 * abs(before)
        before = after


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("rank", [33, 144])
def test_threads_and_company_change_no_bit(rank, model, solver, monkeypatch):
    """Any number of threads, any set of rows: the fold-in of a row is the batch half-step of that row."""
    monkeypatch.setattr(_rows, "PANEL_BYTES", 1)  # so that some rows share a panel, and some do not fit in it
    degrees = np.random.default_rng(3).zipf(1.5, 300) % 500
    problem = make(model, rank, degrees, 200, seed=3)
    x, values = problem.solve(solver)
    for threads in (2, 3):
        again, again_values = problem.solve(solver, threads=threads)
        np.testing.assert_array_equal(again, x)
        np.testing.assert_array_equal(again_values, values)
    for r in (0, 7, 250, int(np.argmax(degrees))):
        row = slice(problem.indptr[r], problem.indptr[r + 1])
        alone = replace(
            problem, users=problem.users[r : r + 1], indptr=np.array([0, degrees[r]]), indices=problem.indices[row],
            weights=problem.weights[row], targets=problem.targets[row],
            user_reg=tuple(reg[r : r + 1] for reg in problem.user_reg),
        )  # fmt: skip
        np.testing.assert_array_equal(alone.solve(solver)[0][0], x[r])


@repeatable
@given(problems, st.integers(1, 3), st.sampled_from([1, 3, 16, 20]))
def test_subspace_equals_the_sweeps_of_the_oracle(problem, sweeps, block):
    x, _ = problem.solve("subspace", sweeps, block=block)
    expected = np.zeros_like(x, np.float64)
    for r, matrix, rhs in problem.systems():
        expected[r] = reference.block_descent(matrix, rhs, problem.users[r], sweeps, block)
    assert_rows_close(x, expected, problem, CG_NOISE)


@repeatable
@given(problems)
def test_a_block_of_all_columns_is_the_exact_solution(problem):
    k = problem.users.shape[1]
    for found, exact in zip(problem.solve("subspace", 1, block=k), problem.solve(), strict=True):
        np.testing.assert_array_equal(found, exact)


@repeatable
@given(problems)
def test_nonnegative_sweeps_reach_nnls(problem):
    # Sweeps converge slowly where M is ill-conditioned, so values are compared, which do not.
    x, values = problem.solve("nonnegative", 2000)
    assert x.min() >= 0
    for r, matrix, rhs in problem.systems():
        lower = np.linalg.cholesky(matrix)
        best = nnls(lower.T, np.linalg.solve(lower, rhs))[0]
        least = best @ matrix @ best - 2 * best @ rhs
        found = x[r].astype(np.float64)
        reached = found @ matrix @ found - 2 * found @ rhs
        assert reached <= least + 1e-3 * (abs(least) + 1e-6)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("model", ["implicit", "weighted explicit"])
def test_a_giant_row_is_solved_by_all_threads_alike(model, solver, monkeypatch):
    problem = make(model, 20, [3, 900, 0, 40], 300, seed=2)
    whole, whole_values = problem.solve(solver, 30)
    monkeypatch.setattr(_giant, "GIANT_ENTRIES", 100)
    monkeypatch.setattr(_giant, "SEGMENT_ENTRIES", 136)
    x, values = problem.solve(solver, 30)
    np.testing.assert_allclose(x, whole, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(values, whole_values, rtol=1e-4)
    for threads in (2, 3):
        again, again_values = problem.solve(solver, 30, threads)
        np.testing.assert_array_equal(again, x)
        np.testing.assert_array_equal(again_values, values)


@repeatable
@given(problems)
def test_the_order_of_entries_does_not_matter(problem):
    shuffled = problem.indptr.copy(), *(a.copy() for a in (problem.indices, problem.weights, problem.targets))
    rng = np.random.default_rng(0)
    for start, stop in zip(problem.indptr[:-1], problem.indptr[1:], strict=True):
        order = start + rng.permutation(stop - start)
        for new, old in zip(shuffled[1:], (problem.indices, problem.weights, problem.targets), strict=True):
            new[start:stop] = old[order]
    again = replace(problem, indices=shuffled[1], weights=shuffled[2], targets=shuffled[3])
    assert_rows_close(again.solve()[0], problem.exact()[0], problem)


@repeatable
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 200), seeds, st.sampled_from([np.int32, np.int64]))
def test_csr_equals_scipy(n_rows, n_columns, nnz, seed, dtype):
    rng = np.random.default_rng(seed)
    pairs = rng.choice(n_rows * n_columns, min(nnz, n_rows * n_columns), replace=False)
    rows, cols = (pairs // n_columns).astype(dtype), (pairs % n_columns).astype(np.int32)
    values = rng.normal(size=len(pairs)).astype(np.float32)
    expected = scipy.sparse.csr_array((values, (rows, cols)), shape=(n_rows, n_columns))
    expected.sort_indices()
    found = build_csr(rows, cols, values, n_rows)
    for array, peer in zip(found, (expected.indptr, expected.indices, expected.data), strict=True):
        np.testing.assert_array_equal(array, peer)
    turned = scipy.sparse.csr_array(expected.T)
    turned.sort_indices()
    for array, peer in zip(transpose(*found, n_columns), (turned.indptr, turned.indices, turned.data), strict=True):
        np.testing.assert_array_equal(array, peer)


def sorted_best(scores: np.ndarray, k: int) -> list[list[int]]:
    """Return the columns of the k best of each row by a plain sort, -1 where there are none."""
    result = []
    for row in scores.tolist():
        able = [column for column, score in enumerate(row) if score > -np.inf]
        able.sort(key=lambda column: (-row[column], column))
        result.append((able + [-1] * k)[:k])
    return result


@repeatable
@given(st.integers(1, 5), st.integers(0, 300), st.integers(1, 20), seeds)
@example(1, 64, 3, 0)
@example(1, 65, 3, 0)
def test_top_k_equals_a_plain_sort(b, m, k, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(-3, 4, (b, m)).astype(np.float32)
    scores[rng.random((b, m)) < 0.1] = np.nan
    scores[rng.random((b, m)) < 0.1] = -np.inf
    found, columns = top_k(scores, k)
    assert columns.tolist() == sorted_best(scores, k)
    for row in range(b):
        won = columns[row] >= 0
        np.testing.assert_array_equal(found[row, won], scores[row, columns[row, won]])


@repeatable
@given(st.integers(1, 5), st.integers(1, 80), st.integers(1, 12), st.integers(1, 90), st.booleans(), backends, seeds)
def test_a_ranking_equals_a_plain_sort_of_the_unseen(b, m, n, block, cosine, backend, seed):
    rng = np.random.default_rng(seed)
    # Small whole numbers: sums are exact, and there are many ties.
    users, items = rng.integers(-2, 3, (b, 4)).astype(np.float32), rng.integers(-2, 3, (m, 4)).astype(np.float32)
    own, bias = rng.integers(-1, 2, b).astype(np.float64), rng.integers(-1, 2, m).astype(np.float32)
    seen, allowed = rng.random((b, m)) < 0.2, rng.random(m) < 0.8
    scores = scores_of(users, items, own, bias, cosine)
    scores[seen | ~allowed] = -np.inf
    rows = np.concatenate([[0], np.cumsum(seen.sum(axis=1))]), np.nonzero(seen)[1].astype(np.int32)
    ranker = Ranker(items, bias, cosine=cosine, block_rows=block, backend=backend)
    found, columns = ranker.top(users, n, rows, bias=own, allowed=allowed)
    assert columns.tolist() == sorted_best(scores, n)
    assert found.dtype == np.float32


@repeatable
@given(st.integers(1, 4), st.integers(40, 400), st.integers(1, 6), st.integers(1, 400), st.booleans(), backends, seeds)
def test_a_ranking_by_scores_that_float32_products_confuse_is_still_exact(b, m, n, block, cosine, backend, seed):
    """Many items that are equal, or nearly so, and more of them than candidates."""
    rng = np.random.default_rng(seed)
    few = rng.normal(size=(3, 33))
    items = (few[rng.integers(3, size=m)] * (1 + 1e-7 * rng.integers(3, size=(m, 1)))).astype(np.float32)
    users, own = rng.normal(size=(b, 33)).astype(np.float32), rng.normal(size=b)
    bias = np.zeros(m, np.float32)
    nothing = np.zeros(b + 1, np.int64), np.empty(0, np.int32)
    scores = scores_of(users, items, own, bias, cosine)
    ranker = Ranker(items, bias, cosine=cosine, block_rows=block, backend=backend)
    found, columns = ranker.top(users, n, nothing, bias=own)
    assert columns.tolist() == sorted_best(scores, n)
    np.testing.assert_array_equal(found, np.take_along_axis(scores, columns.astype(np.int64), axis=1))


def scores_of(users, items, own, bias, cosine):
    """Return float32 scores of all pairs from float64 sums in plain loops."""

    def over_length(row):
        length = math.sqrt(sum(float(p) ** 2 for p in row))
        return 1 / length if cosine and length else 0.0 if cosine else 1.0

    def score(x, y, b):
        return sum(float(p) * float(q) for p, q in zip(x, y, strict=True)) * (over_length(x) * over_length(y)) + b

    pairs = [[score(x, y, float(a) + float(c)) for y, c in zip(items, bias)] for x, a in zip(users, own)]  # noqa: B905
    return np.array(pairs).astype(np.float32)
