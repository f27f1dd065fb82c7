"""Both backends on the CPU: the conformance kit, and what only the torch backend promises."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lakefactor.errors import ConfigError, SetupError, SolveError
from lakefactor.kernels import Method, torch_equations, torch_layout
from lakefactor.kernels.backends import prepare
from lakefactor.kernels.torch_half_step import TorchHalfStep
from lakefactor.testing.conformance import CHECKS, NOISE, assert_rows_close, combinations
from lakefactor.testing.problems import make_problem

PROBLEM = make_problem("weighted explicit", 7, [0, 1, 9, 300, 5000, 20], 150, seed=2)


@pytest.mark.parametrize("combination", [*combinations("numba", "cpu"), *combinations("torch", "cpu")], ids=str)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(check, combination):
    check(combination)


@pytest.mark.parametrize("solver", ["cholesky", "cg", "subspace", "nonnegative"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_row_that_does_not_fit_a_chunk_is_summed_from_partial_gramians(solver, precision, monkeypatch):
    streamed = []
    monkeypatch.setattr(torch_layout, "SEGMENT", 64)
    accumulate = torch_equations.accumulate
    monkeypatch.setattr(
        "lakefactor.kernels.torch_half_step.accumulate",
        lambda source, row, reg, count: (
            streamed.append(len(row.segments().rows)) or accumulate(source, row, reg, count)
        ),
    )
    method = Method(solver, 2, block_size=3)
    x = PROBLEM.start.copy()
    TorchHalfStep(PROBLEM.system, method, "cpu", precision, 1 << 14)(PROBLEM.source, PROBLEM.gramian, x)
    assert streamed == [128, 8]
    expected, _ = PROBLEM.expected(method)
    huge = np.array([3, 4])  # they are summed in float32 whatever the precision
    found = np.where(np.isin(np.arange(6), huge)[:, None], x, expected)
    assert_rows_close(PROBLEM, found, expected, NOISE[solver, "float32"])


class Largest(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that an operation returned."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.untyped_storage().nbytes() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.bytes = max([self.bytes, *sizes])
        return result


@pytest.mark.parametrize("solver", ["cholesky", "cg", "subspace", "nonnegative"])
def test_nothing_is_larger_than_a_chunk(solver):
    """3000 rows of k = 32 have 12 MiB of matrices and 5 MiB of panels; none of it exists at once."""
    problem = make_problem("implicit", 32, [14] * 3000, 50, seed=1)
    half_step = TorchHalfStep(problem.system, Method(solver, 1, 8), "cpu", "bfloat16", 1 << 19)
    with Largest() as largest:
        half_step(problem.source, problem.gramian, problem.start.copy())
    entries_and_factors = max(problem.start.nbytes, 4 * 16 * 3000)
    assert largest.bytes <= max(1 << 19, entries_and_factors)


def test_every_entry_is_in_one_bucket_with_little_padding():
    degrees = np.random.default_rng(0).zipf(1.3, 2000) % 3000
    system = make_problem("ials", 1, degrees, 100, seed=0).system
    found = torch_layout.buckets(system, torch.device("cpu"))
    rows = np.concatenate([bucket.rows.numpy() for bucket in found])
    assert sorted(rows.tolist()) == np.flatnonzero(degrees).tolist()
    for bucket in found:
        for row, indices, weights, targets in zip(
            bucket.rows.tolist(), bucket.indices.numpy(), bucket.weights.numpy(), bucket.targets.numpy(), strict=True
        ):
            start, stop = system.indptr[row], system.indptr[row + 1]
            count = stop - start
            assert count <= bucket.length <= max(count + 7, 1.25 * count)
            np.testing.assert_array_equal(indices[:count], system.indices[start:stop])
            np.testing.assert_array_equal(weights[:count], system.weights[start:stop])
            np.testing.assert_array_equal(targets[:count], system.targets[start:stop])
            assert not weights[count:].any()
            assert not targets[count:].any()


def test_source_rows_that_are_not_finite_spoil_their_own_rows_only():
    problem = make_problem("implicit", 4, [3, 0, 5], 4, seed=0)
    indices = np.where(np.arange(8) < 3, 3, problem.system.indices % 3).astype(np.int32)
    system, source = replace(problem.system, indices=indices), problem.source.copy()
    source[3] = np.nan
    for solver in ("cholesky", "cg", "subspace", "nonnegative"):
        with pytest.raises(SolveError) as error:
            prepare(system, Method(solver), "torch")(source, problem.gramian, problem.start.copy())
        assert error.value.rows == [0]


def test_bfloat16_is_used():
    """Its solutions differ from those of float32, or it would not be tested at all."""
    exact, rough = PROBLEM.start.copy(), PROBLEM.start.copy()
    for precision, x in (("float32", exact), ("bfloat16", rough)):
        TorchHalfStep(PROBLEM.system, Method("cg", 2), "cpu", precision)(PROBLEM.source, PROBLEM.gramian, x)
    assert 1e-4 < np.abs(exact - rough).max() < 1e-1


def test_the_matrix_units_are_switched_back():
    switch, cuda = torch.backends.cuda.matmul, torch.device("cuda")
    before = switch.fp32_precision
    with torch_equations.matrix_units("ieee", cuda):
        with torch_equations.matrix_units("tf32", cuda):
            assert switch.fp32_precision == "tf32"
        assert switch.fp32_precision == "ieee"
    assert switch.fp32_precision == before


def test_no_rows_and_no_entries():
    for degrees in ([], [0, 0]):
        problem = make_problem("implicit", 3, degrees, 4, seed=0)
        x = problem.start.copy()
        values = prepare(problem.system, Method(), "torch")(problem.source, problem.gramian, x)
        assert not x.any()
        np.testing.assert_array_equal(values, np.zeros(len(degrees)))


def test_auto_is_numba_on_the_cpu_and_torch_elsewhere():
    assert not isinstance(prepare(PROBLEM.system, Method()), TorchHalfStep)
    assert not isinstance(prepare(PROBLEM.system, Method(), "numba", "cuda:0"), TorchHalfStep)
    # "meta" is the one other device that every torch has; it computes nothing.
    assert isinstance(prepare(PROBLEM.system, Method(), "auto", "meta"), TorchHalfStep)


@pytest.mark.parametrize("name", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(SetupError, match=f"cannot use the device '{name}'.*train.backend"):
        prepare(PROBLEM.system, Method(), "torch", name)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match=r"train.backend is 'jax'; use one of auto, numba, torch"):
        prepare(PROBLEM.system, Method(), "jax")
    with pytest.raises(ConfigError, match=r"train.precision is 'float8'"):
        prepare(PROBLEM.system, Method(), precision="float8")


def test_importing_the_backends_loads_neither_torch_nor_numba():
    code = "import sys, lakefactor.kernels.backends; print(sorted({'torch', 'numba'} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
