"""Small systems with answers from worked maths; the laws over random problems are in tests/property/test_kernels.py."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from lakefactor.errors import ShapeError, SolveError
from lakefactor.kernels import Method, System, half_step, reference
from lakefactor.testing.conformance import Combination, assert_as_the_oracle
from lakefactor.testing.problems import make_problem

SOLVERS = ["cholesky", "cg"]
"""Those that lead to the solution in two dimensions."""
ALL_SOLVERS = [*SOLVERS, "subspace", "nonnegative"]


def solve(source, rows, *, reg=0.0, reg_last=None, base=0.0, x=None, biased=False, solver="cholesky", steps=50):
    """Solve rows given as lists of (source row, weight, target); return (x, values)."""
    source = np.atleast_2d(np.array(source, np.float32))
    k, n = source.shape[1], len(rows)
    entries = [entry for row in rows for entry in row]
    indptr = np.cumsum([0, *map(len, rows)])
    x = np.zeros((n, k), np.float32) if x is None else np.array(x, np.float32)
    system = System(
        indptr.astype(np.int64),
        np.array([entry[0] for entry in entries], np.int32),
        np.array([entry[1] for entry in entries], np.float32),
        np.array([entry[2] for entry in entries], np.float32),
        np.full(n, reg, np.float32),
        np.full(n, reg if reg_last is None else reg_last, np.float32),
        biased,
    )
    gramian = np.eye(k, dtype=np.float32) * np.float32(base)
    return x, half_step(system, source, gramian, x, Method(solver, steps, block_size=1))


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_entry(solver):
    # (3 + 2 * 2^2 + 1) x = 6 * 2, so x = 1 and x'Mx - 2x'b = -12.
    x, values = solve([[2.0]], [[(0, 2.0, 6.0)]], base=3.0, reg=1.0, solver=solver)
    np.testing.assert_allclose(x, [[1.0]], rtol=1e-6)
    np.testing.assert_allclose(values, [-12.0], rtol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_bias_is_one_more_coordinate_against_a_constant_one(solver):
    # Source row: factor 0, bias 1. Rating 4: min (4 - 1 - b)^2 + 0.5 b^2 gives b = 2; 1 + 2 = (4^2 - what values lack).
    x, values = solve([[0.0, 1.0]], [[(0, 1.0, 4.0)]], reg=1.0, reg_last=0.5, biased=True, solver=solver)
    np.testing.assert_allclose(x, [[0.0, 2.0]], atol=1e-6)
    np.testing.assert_allclose(values + 4.0**2, [(4 - 1 - 2) ** 2 + 0.5 * 2**2], rtol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_row_without_entries_is_zero_and_worth_nothing(solver):
    x, values = solve([[1.0, 1.0]], [[], [(0, 1.0, 1.0)], []], reg=1.0, x=np.ones((3, 2)), solver=solver)
    np.testing.assert_array_equal(x[[0, 2]], 0.0)
    np.testing.assert_array_equal(values[[0, 2]], 0.0)
    assert values[1] < 0.0


def test_no_rows_are_no_work():
    x, values = solve([[1.0]], [])
    assert len(x) == len(values) == 0


def test_cg_starts_from_x():
    # One step from the solution stays there; one step from zero does not reach it.
    source, row = [[1.0, 0.0], [1.0, 2.0]], [(0, 1.0, 1.0), (1, 1.0, 5.0)]
    solution, _ = solve(source, [row], reg=0.1)
    warm, _ = solve(source, [row], reg=0.1, x=solution, solver="cg", steps=1)
    cold, _ = solve(source, [row], reg=0.1, solver="cg", steps=1)
    np.testing.assert_allclose(warm, solution, rtol=1e-5)
    assert np.abs(cold - solution).max() > 1e-2


@pytest.mark.parametrize("k", [2, 8, 64, 65])
def test_fewer_entries_than_factors_without_reg_is_refused(k):
    source = np.random.default_rng(k).normal(size=(k, k))
    short, full = [(0, 1.0, 1.0)] * (k - 1), [(i, 1.0, 1.0) for i in range(k)]
    with pytest.raises(SolveError, match=r"2 of 3 rows .* raise reg") as error:
        solve(source, [short, full, short])
    assert error.value.rows == [0, 2]


@pytest.mark.parametrize("k", [2, 8, 64])
def test_cg_without_reg_is_finite(k):
    source = np.random.default_rng(k).normal(size=(k, k))
    x, values = solve(source, [[(0, 1.0, 1.0), (0, 1.0, 2.0)], [(1, 1.0, 1.0)]], solver="cg", x=np.ones((2, k)))
    assert np.all(np.isfinite(x))
    assert np.all(np.isfinite(values))


@pytest.mark.parametrize("solver", ALL_SOLVERS)
@pytest.mark.parametrize(
    "bad", [(0, np.nan, 1.0), (0, 1.0, np.nan), (0, np.inf, 1.0), (0, 1.0, np.inf), (0, -5.0, 1.0)]
)
def test_entries_that_make_no_sense_are_refused(solver, bad):
    with pytest.raises(SolveError) as error:
        solve([[1.0, 0.5]], [[(0, 1.0, 1.0)], [bad]], reg=1.0, solver=solver)
    assert error.value.rows == [1]


def test_the_error_names_ten_rows_and_lists_all():
    with pytest.raises(
        SolveError, match=r"30 of 30 rows .*\(local rows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\.\)"
    ) as error:
        solve([[1.0, 1.0]], [[(0, 1.0, 1.0)]] * 30)
    assert error.value.rows == list(range(30))


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("reg", [1e-9, 1e-7, 1e-6])
def test_a_row_too_ill_conditioned_for_float32_is_solved_in_float64(reg, biased):
    rng = np.random.default_rng(5)
    source = rng.normal(size=(4, 16)).astype(np.float32)
    row = [(i, 2.0, 1.0) for i in range(4)]
    x, values = solve(source, [row], reg=reg, base=0.0, biased=biased)
    regs = np.full(1, reg, np.float32)
    expected, expected_values = reference.half_step(
        source, np.zeros((16, 16)), [0, 4], np.arange(4), np.full(4, 2.0), np.ones(4), regs, regs, biased
    )
    np.testing.assert_allclose(x, expected, rtol=1e-5)
    np.testing.assert_allclose(values, expected_values, rtol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e18, 1e30])
def test_tiny_and_huge_weights(solver, scale):
    # (scale + scale) x = scale: x = 1/2 whatever the scale.
    x, _ = solve([[1.0, 0.0]], [[(0, scale, scale)]], reg=scale, solver=solver)
    np.testing.assert_allclose(x, [[0.5, 0.0]], rtol=1e-5)


@pytest.mark.parametrize("solver", ALL_SOLVERS)
@pytest.mark.parametrize("rank", [200, 256, 512, 1024])
def test_large_ranks_are_the_oracles(rank, solver):
    """No row, one entry, and more entries than there are tiles; the bias makes rank + 1 columns."""
    nonnegative = solver == "nonnegative"
    for model in ["ials"] if nonnegative else ["ials", "explicit"] if rank < 512 else ["explicit"]:
        problem = make_problem(model, rank, (0, 1, 131), 150, seed=rank, nonnegative=nonnegative)
        assert_as_the_oracle(Combination("numba", solver), problem)


@pytest.mark.parametrize("model", ["implicit", "ials"])
@pytest.mark.parametrize("k", [1, 5, 16, 40])
def test_nonnegative_reaches_the_conditions_of_a_minimum(model, k):
    """Karush, Kuhn and Tucker: the gradient Mx - b is 0 where x > 0, and not below 0 where x = 0."""
    problem = make_problem(model, k, (1, 3, 8, 60, 131), 50, seed=k)  # source factors of both signs: some x are 0
    x = problem.start.copy()
    half_step(problem.system, problem.source, problem.gramian, x, Method("nonnegative", 1000))
    assert (x >= 0).all()
    for number, matrix, rhs, _ in problem.rows:
        row = x[number].astype(np.float64)
        gradient = matrix @ row - rhs
        noise = 2e-6 * (np.abs(matrix) @ row + np.abs(rhs)).max()
        assert (np.abs(gradient[row > 0]) <= noise).all()
        assert (gradient[row == 0] >= -noise).all()
    if k > 1:
        assert (x[[row.number for row in problem.rows]] == 0).any()
        assert (x > 0).any()


def test_a_weight_that_overflows_float32_products_is_solved_in_float64():
    # (1e38 * 4 + 1) x = 2e38
    x, _ = solve([[2.0]], [[(0, 1e38, 1e38)]], reg=1.0)
    np.testing.assert_allclose(x, [[0.5]], rtol=1e-6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"source": np.ones((2, 3), np.float64)}, "source is float64"),
        ({"gramian": np.zeros((2, 2), np.float32)}, "gramian"),
        ({"indices": np.array([2], np.int32)}, r"indices lie in \[0, 2\]; source has 2 rows"),
        ({"indices": np.array([-1], np.int32)}, "indices begin at -1"),
        ({"indptr": np.array([0, 2])}, "indptr must rise from 0 to 1"),
        ({"indptr": np.array([1, 1])}, "indptr must rise"),
        ({"x": np.zeros((3, 1), np.float32).T}, None),
        ({"source": np.ones((3, 2), np.float32).T}, "C order False"),
        ({"solver": "lu"}, "'lu'"),
        ({"reg": np.ones(1)}, "reg is float64"),
        ({"reg_last": np.ones(2, np.float32)}, r"reg_last is float32\[2\]"),
        ({"weights": np.ones(2, np.float32)}, r"weights is float32\[2\]"),
        ({"targets": np.ones(1, np.int32)}, "targets is int32"),
        ({"x": np.zeros((2, 3), np.float32)}, r"x is float32\[2, 3\]"),
        ({"source": np.ones(3, np.float32)}, "two dimensions"),
        ({"threads": 0}, "threads is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"block_size": 0}, "block_size is 0"),
    ],
)
@pytest.mark.parametrize("solver", ALL_SOLVERS)
def test_arguments_that_disagree_are_refused(changed, message, solver):
    one = np.ones(1, np.float32)
    arguments = {
        "source": np.ones((2, 3), np.float32),
        "gramian": np.zeros((3, 3), np.float32),
        "indptr": np.array([0, 1]),
        "indices": np.zeros(1, np.int32),
        "weights": one,
        "targets": one,
        "reg": one,
        "reg_last": one,
        "x": np.zeros((1, 3), np.float32),
        "solver": solver,
        "steps": 1,
        "block_size": 1,
        "threads": 1,
    } | changed

    def run():
        system = System(*(arguments[field] for field in ("indptr", "indices", "weights", "targets", "reg", "reg_last")))
        method = Method(*(arguments[field] for field in ("solver", "steps", "block_size", "threads")))
        half_step(system, arguments["source"], arguments["gramian"], arguments["x"], method)

    if message is None:  # one row is contiguous either way
        run()
        return
    with pytest.raises(ShapeError, match=message):
        run()


def test_read_only_arrays_need_no_other_compiled_version():
    from lakefactor.kernels import _rows

    one, x = np.ones(1, np.float32), np.zeros((1, 1), np.float32)
    frozen = [np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32), np.array([0, 1]), np.zeros(1, np.int32)]
    frozen += [one.copy() for _ in range(4)]
    for array in frozen:
        array.setflags(write=False)
    half_step(System(*frozen[2:], np.False_), *frozen[:2], x, Method("cg", np.int32(1)))
    assert x[0, 0] == 0.5
    assert len(_rows.solve_cg.signatures) == 1


def test_another_process_uses_the_compiled_code_of_this_one():
    """Spark starts many Python workers: compiling in each would cost more than the work."""
    solve([[1.0]], [[(0, 1.0, 1.0)]], reg=1.0, solver="cg")
    code = """
import numpy as np
from lakefactor.kernels import Method, System, half_step, _rows
one, x = np.ones(1, np.float32), np.zeros((1, 1), np.float32)
system = System(np.array([0, 1]), np.zeros(1, np.int32), one, one, one, one)
half_step(system, np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32), x, Method("cg", 1))
stats = _rows.solve_cg.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()), x[0, 0])
"""
    assert run_python(code).split() == ["1", "0", "0.5"]


def test_importing_the_package_does_not_load_the_compiler():
    code = "import sys, lakefactor.kernels; print(sorted({'numba', 'scipy', 'pyarrow'} & set(sys.modules)))"
    assert run_python(code).strip() == "[]"


def run_python(code: str) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
