"""How the work is divided changes nothing: ranks, who owns which user, backends, and rows heavier than all others."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from lakefactor.config import Model, Train
from lakefactor.factorization.fitting import fit
from lakefactor.factorization.shard import build_shard
from lakefactor.testing.interactions import random_interactions
from lakefactor.testing.threads import run_ranks

MODELS = {
    "implicit_als": Model(algorithm="implicit_als", rank=7, alpha=2.0, user_reg=0.5, item_reg=0.3),
    "ials": Model(algorithm="ials", rank=7, user_reg=0.02, item_reg=0.02, reg_exponent=1),
    "explicit_als": Model(algorithm="explicit_als", rank=7, user_reg=1.0, item_reg=0.7, bias_reg=0.4),
    "nmf": Model(algorithm="nmf", rank=7, user_reg=0.1, item_reg=0.1),
}
TABLE = random_interactions(60, 40, 900, seed=5)
every_model = pytest.mark.parametrize("algorithm", MODELS)


def partition(table: pa.Table, size: int, seed: int) -> list[list[pa.RecordBatch]]:
    """Give each user with all entries to a random rank, in random order; some ranks may get none."""
    random = np.random.default_rng(seed)
    table = table.take(pa.array(random.permutation(table.num_rows)))
    users = table["user_id"].combine_chunks().dictionary_encode()
    owner = random.integers(size, size=len(users.dictionary))[users.indices.to_numpy()]
    return [table.filter(pa.array(owner == proc_rank)).to_batches() for proc_rank in range(size)]


def objectives(model: Model, train: Train, size: int = 1, seed: int = 0, table: pa.Table = TABLE) -> list[float]:
    dealt = partition(table, size, seed)
    histories = run_ranks(size, lambda comm: fit(build_shard(comm, dealt[comm.proc_rank]), comm, model, train).history)
    every = [[iteration.objective for iteration in history] for history in histories]
    assert all(other == every[0] for other in every)  # ranks agree bit for bit
    return every[0]


@every_model
@pytest.mark.parametrize("solver", ["cholesky", "cg", "subspace"])
@pytest.mark.parametrize(("size", "seed"), [(1, 1), (2, 2), (4, 3), (4, 4), (8, 5)])
def test_ranks_and_partitions(algorithm, solver, size, seed):
    train = Train(iterations=4, solver=solver, block_size=4)
    np.testing.assert_allclose(
        objectives(MODELS[algorithm], train, size, seed), objectives(MODELS[algorithm], train), rtol=1e-5
    )


@every_model
@pytest.mark.parametrize("solver", ["cholesky", "cg", "subspace"])
def test_backends(algorithm, solver):
    train = Train(iterations=4, solver=solver, block_size=4)
    other = Train(iterations=4, solver=solver, block_size=4, backend="torch")
    np.testing.assert_allclose(
        objectives(MODELS[algorithm], other, 2, 6), objectives(MODELS[algorithm], train), rtol=1e-5
    )


@every_model
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_reduced_precision_of_exact_solutions(algorithm, precision):
    """Refinement (`torch_solvers`) takes the rounding of the products back."""
    train = Train(iterations=4, solver="cholesky", backend="torch", precision=precision)
    np.testing.assert_allclose(
        objectives(MODELS[algorithm], train, 2, 7),
        objectives(MODELS[algorithm], Train(iterations=4, solver="cholesky")),
        rtol=1e-5,
    )


@every_model
@pytest.mark.parametrize("size", [2, 4])
def test_bfloat16_on_the_wire(algorithm, size):
    """Rounding is 2^-9 of a number at most; a rank's own rows are exact. Measured: 6e-4."""
    train = Train(iterations=4, solver="cholesky", exchange_dtype="bfloat16")
    rounded = objectives(MODELS[algorithm], train, size, 8)
    exact = objectives(MODELS[algorithm], Train(iterations=4, solver="cholesky"))
    np.testing.assert_allclose(rounded, exact, rtol=1e-3)
    assert rounded != exact


@pytest.fixture(scope="module")
def heavy() -> dict[str, pa.Table]:
    """99 % of all entries on one user or item: 300 000 of them, each with another item or user."""
    n = 300_000
    others = random_interactions(300, 300, n // 99, seed=9, long_ids=True)
    many, one = pa.array(np.arange(n) * 7 + 1), pa.array(np.full(n, -5))
    strengths = pa.array(np.random.default_rng(10).integers(1, 6, n).astype(np.float64))
    columns = {"user": [one, many], "item": [many, one]}
    return {
        side: pa.concat_tables(
            [pa.table([*columns[side], strengths], names=["user_id", "item_id", "strength"]), others]
        ).combine_chunks()
        for side in columns
    }


@pytest.mark.parametrize("solver", ["cholesky", "cg"])
@pytest.mark.parametrize("side", ["user", "item"])
def test_one_key_with_nearly_all_entries(side, solver, heavy, capsys):
    model = Model(algorithm="implicit_als", rank=16, user_reg=2.0, item_reg=2.0)
    train = Train(iterations=2, solver=solver)
    alone = objectives(model, train, table=heavy[side])
    assert "split" not in capsys.readouterr().err
    for size in (2, 4):
        np.testing.assert_allclose(objectives(model, train, size, size, heavy[side]), alone, rtol=1e-5)
        assert f"{side} half-step: 1 stages; 1 rows are split over the ranks" in capsys.readouterr().err
