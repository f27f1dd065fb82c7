"""Truncated SVD on shards: numpy's numbers for any number of ranks, scikit-learn's TF-IDF, and no NaN anywhere."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from sklearn.feature_extraction.text import TfidfTransformer

from lakefactor.config import Config, Model, Train
from lakefactor.factorization.fitting import count, make
from lakefactor.factorization.fold_in import user_fold_in
from lakefactor.factorization.shard import build_shard
from lakefactor.testing.interactions import deal, random_interactions
from lakefactor.testing.threads import run_ranks
from lakefactor.types import SIDES

TABLE = random_interactions(60, 40, 900, seed=5)


def fit_on(size: int, model: Model, table: pa.Table = TABLE, iterations: int = 15):
    """Return (objectives, singular values, {side: {id: factors}})."""
    dealt = deal(table, size)

    def on_rank(comm):
        shard = build_shard(comm, dealt[comm.proc_rank])
        svd = make(shard, comm, model, Train(iterations=iterations), count(shard, comm))
        objectives = [svd.iterate() for _ in range(iterations)]
        rows = {side: dict(zip(shard.rows[side].ids.to_pylist(), svd.factors(side), strict=True)) for side in SIDES}
        return objectives, svd.singular_values, rows

    results = run_ranks(size, on_rank)
    merged = {side: {k: v for *_, rows in results for k, v in rows[side].items()} for side in SIDES}
    return results[0][0], results[0][1], merged


def dense(table: pa.Table) -> np.ndarray:
    """Return the matrix, rows and columns in order of the ids."""
    users, items = (np.unique(table[c].to_numpy(), return_inverse=True)[1] for c in ("user_id", "item_id"))
    matrix = np.zeros((users.max() + 1, items.max() + 1))
    matrix[users, items] = table["strength"].to_numpy()
    return matrix


def table_of(matrix: np.ndarray) -> pa.Table:
    users, items = np.nonzero(matrix)
    ids = ([f"{name}{n:04d}" for n in numbers] for name, numbers in (("u", users), ("i", items)))
    names = ("user_id", "item_id", "strength")
    return pa.table(dict(zip(names, (*ids, matrix[users, items]), strict=True)))


def stacked(rows: dict) -> np.ndarray:
    return np.array([rows[row_id] for row_id in sorted(rows)], np.float64)


def tfidf(matrix: np.ndarray) -> np.ndarray:
    return TfidfTransformer().fit_transform(matrix).toarray()


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("algorithm", ["svd", "lsa"])
def test_numpys_decomposition_for_any_number_of_ranks(algorithm, size):
    objectives, values, rows = fit_on(size, Model(algorithm=algorithm, rank=7))
    matrix = dense(TABLE) if algorithm == "svd" else tfidf(dense(TABLE))
    left, expected, right = np.linalg.svd(matrix, full_matrices=False)
    np.testing.assert_allclose(values, expected[:7], rtol=1e-6)
    np.testing.assert_allclose(objectives[-1], np.square(expected[7:]).sum(), rtol=1e-6)
    users, items = stacked(rows["user"]), stacked(rows["item"])
    np.testing.assert_allclose(users @ items.T, left[:, :7] * expected[:7] @ right[:7], atol=1e-4 * expected[0])
    np.testing.assert_allclose(np.linalg.norm(users, axis=0), expected[:7], rtol=1e-5)
    np.testing.assert_allclose(items.T @ items, np.eye(7), atol=1e-5)


@pytest.mark.parametrize("algorithm", ["svd", "lsa"])
def test_factors_have_the_same_signs_on_any_number_of_ranks(algorithm):
    model = Model(algorithm=algorithm, rank=7)
    alone, shared = (fit_on(size, model)[2] for size in (1, 4))
    for side in SIDES:
        np.testing.assert_allclose(stacked(shared[side]), stacked(alone[side]), atol=1e-3)
    assert (stacked(alone["item"])[:, 0] >= 0).all()


def test_slowly_falling_singular_values_reach_1e_4():
    table = random_interactions(700, 400, 12_000, seed=2)
    objectives, values, _ = fit_on(2, Model(algorithm="svd", rank=30), table)
    np.testing.assert_allclose(values, np.linalg.svd(dense(table), compute_uv=False)[:30], rtol=1e-5)
    assert (np.diff(objectives) <= 1e-12 * objectives[0]).all()


def test_an_iteration_after_the_last_is_free_and_changes_nothing():
    first, second = (fit_on(1, Model(algorithm="svd", rank=7), iterations=n) for n in (15, 30))
    np.testing.assert_array_equal(stacked(first[2]["user"]), stacked(second[2]["user"]))


def test_repeated_singular_values_are_all_found():
    """Thirty copies, more than a block has columns: a Krylov space of one block cannot hold them."""
    matrix = np.diag(np.r_[np.full(30, 5.0), np.linspace(4, 1, 270)])
    _, values, _ = fit_on(2, Model(algorithm="svd", rank=34, oversampling=0), table_of(matrix))
    np.testing.assert_allclose(values, np.diag(matrix)[:34], rtol=1e-4)


RANDOM = np.random.default_rng(3)
SPECIAL = {
    "one entry": np.array([[2.0]]),
    "one user": np.array([[1.0, 2.0, 3.0]]),
    "one item": np.array([[1.0], [2.0], [3.0]]),
    "rank one": np.outer(np.arange(1.0, 31), np.arange(1.0, 21)),
    "rank three": RANDOM.integers(1, 4, (30, 3)).astype(float) @ RANDOM.integers(1, 4, (3, 25)).astype(float),
    "all equal": np.ones((20, 20)),
    "identity": np.eye(60),
    "negative": np.where(RANDOM.random((30, 20)) < 0.5, RANDOM.normal(size=(30, 20)), 0),
    "far apart": np.diag([1e-3, 1.0, 1e3]),
    "tiny": 1e-18 * np.ones((5, 4)),
}


@pytest.mark.parametrize("rank", [1, 12, 64])
@pytest.mark.parametrize("name", SPECIAL)
def test_special_matrices_and_ranks_beyond_them(name, rank):
    """Columns beyond the rank of the matrix are zeros."""
    matrix = SPECIAL[name]
    _, values, rows = fit_on(2, Model(algorithm="svd", rank=rank), table_of(matrix))
    expected = np.zeros(rank)
    found = np.linalg.svd(matrix, compute_uv=False)[:rank]
    expected[: len(found)] = np.where(found > 3.2e-7 * found[0], found, 0)
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    users, items = stacked(rows["user"]), stacked(rows["item"])
    np.testing.assert_allclose(np.linalg.norm(items, axis=0), expected > 0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(users, axis=0), expected, rtol=1e-5)


@pytest.mark.parametrize("algorithm", ["svd", "lsa"])
def test_strengths_of_zero_give_zero_factors(algorithm):
    table = pa.table({"user_id": ["ann", "bob"], "item_id": ["x", "y"], "strength": [0.0, 0.0]})
    objectives, values, rows = fit_on(2, Model(algorithm=algorithm, rank=3), table, iterations=2)
    np.testing.assert_array_equal(objectives, [0.0, 0.0])
    np.testing.assert_array_equal(values, np.zeros(3))
    for side in SIDES:
        np.testing.assert_array_equal(stacked(rows[side]), np.zeros((2, 3)))


@pytest.mark.parametrize("strength", ["value", "binary"])
@pytest.mark.parametrize("algorithm", ["svd", "lsa"])
def test_a_user_folded_in_with_everything_gets_the_factors_of_the_training(algorithm, strength):
    model = Model(algorithm=algorithm, rank=7, strength=strength)
    _, _, rows = fit_on(2, model)
    matrix = dense(TABLE)
    items = stacked(rows["item"]).astype(np.float32)
    fold_in = user_fold_in(model, 0.0, items, np.zeros(len(items), np.float32), (matrix > 0).sum(axis=0), len(matrix))
    users, columns = np.nonzero(matrix)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(users))]).astype(np.int64)
    folded = fold_in(indptr, columns.astype(np.int32), matrix[users, columns].astype(np.float32))
    expected = stacked(rows["user"])
    np.testing.assert_allclose(folded, expected, atol=1e-5 * np.abs(expected).max())


def test_keys_that_svd_does_not_use_are_refused():
    with pytest.raises(ValueError, match=r"model.algorithm lsa does not use model.alpha: leave its default"):
        Config(model=Model(algorithm="lsa", alpha=2.0))
    with pytest.raises(ValueError, match=r"svd does not use train.solver"):
        Config(model=Model(algorithm="svd"), train=Train(solver="cholesky"))
    with pytest.raises(ValueError, match=r"implicit_als does not use model.oversampling"):
        Config(model=Model(oversampling=3))
