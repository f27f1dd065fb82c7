"""ALS on shards: the oracle's numbers, any number of ranks, and the numbers of `implicit`."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

from lakefactor.comm.local import Local
from lakefactor.config import Model, Train
from lakefactor.errors import ConfigError, InputError, SolveError
from lakefactor.factorization.equation import Equation
from lakefactor.factorization.fitting import fit
from lakefactor.factorization.fold_in import fold_in
from lakefactor.factorization.shard import build_shard
from lakefactor.kernels import gramian, hash_ids, initial_factors, reference
from lakefactor.testing.interactions import deal, random_interactions
from lakefactor.testing.threads import run_ranks

MODELS = {
    "implicit_als": Model(algorithm="implicit_als", rank=7, alpha=2.0, user_reg=0.5, item_reg=0.3, reg_exponent=0.5),
    "ials": Model(
        algorithm="ials", rank=7, strength="binary", unobserved_weight=0.1, user_reg=0.02, item_reg=0.02, reg_exponent=1
    ),
    "explicit_als": Model(algorithm="explicit_als", rank=7, user_reg=1.0, item_reg=0.7, bias_reg=0.4, reg_exponent=0.5),
}
TABLE = random_interactions(60, 40, 900, seed=5)


def fit_on(size: int, model: Model, train: Train, table=TABLE):
    """Train on ``size`` ranks; return (history, {side: {id: (factors, bias)}})."""
    dealt = deal(table, size)

    def on_rank(comm):
        shard = build_shard(comm, dealt[comm.proc_rank])
        trained = fit(shard, comm, model, train)
        rows = {
            side: dict(
                zip(
                    shard.rows[side].ids.to_pylist(),
                    zip(trained.factors[side], trained.bias[side], strict=True),
                    strict=True,
                )
            )
            for side in ("user", "item")
        }
        return trained.history, rows

    results = run_ranks(size, on_rank)
    merged = {side: {k: v for _, rows in results for k, v in rows[side].items()} for side in ("user", "item")}
    return results[0][0], merged


def oracle_objectives(model: Model, iterations: int) -> list[float]:
    """Run float64 ALS in plain loops from the same initial item factors."""
    shard = build_shard(Local(), TABLE.to_batches())
    users, items = shard.rows["user"], shard.rows["item"]
    mean = float(users.strengths.mean(dtype=np.float64)) if model.algorithm == "explicit_als" else 0.0
    equation = Equation(model, mean)
    y = initial_factors(hash_ids(items.ids), model.seed, equation.columns, "item").astype(np.float64)
    if equation.biased:
        y[:, -1] = 0
    # The panel order differs from the row order; the oracle works on row numbers.
    user_of = shard.plans["user"].send_rows
    item_of = shard.plans["item"].send_rows
    regs = {
        side: (
            equation.reg(side, rows.n_entries, n_source).astype(np.float64),
            equation.bias_reg(side, rows.n_entries, n_source).astype(np.float64),
        )
        for side, rows, n_source in (("user", users, len(items.ids)), ("item", items, len(users.ids)))
    }
    objectives = []
    for _ in range(iterations):
        x, _ = reference.half_step(
            y, equation.a0 * reference.gramian(y), users.indptr, item_of[users.indices],
            equation.weights(users.strengths), equation.targets(users.strengths), *regs["user"], equation.biased,
        )  # fmt: skip
        y, _ = reference.half_step(
            x, equation.a0 * reference.gramian(x), items.indptr, user_of[items.indices],
            equation.weights(items.strengths), equation.targets(items.strengths), *regs["item"], equation.biased,
        )  # fmt: skip
        constants = np.array([equation.constant(users.strengths[e : e + 1]) for e in range(len(users.strengths))])
        objectives.append(
            reference.objective(
                x, y, users.indptr, item_of[users.indices], equation.weights(users.strengths),
                equation.targets(users.strengths), constants, equation.a0, regs["user"], regs["item"], equation.biased,
            )
        )  # fmt: skip
    return objectives


@pytest.mark.parametrize("algorithm", MODELS)
def test_objective_is_the_oracles(algorithm):
    history, _ = fit_on(1, MODELS[algorithm], Train(iterations=3, solver="cholesky"))
    expected = oracle_objectives(MODELS[algorithm], 3)
    np.testing.assert_allclose([iteration.objective for iteration in history], expected, rtol=1e-5)


@pytest.mark.parametrize("solver", ["cholesky", "cg"])
@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("algorithm", MODELS)
def test_number_of_ranks_changes_nothing(algorithm, size, solver):
    train = Train(iterations=4, solver=solver)
    history, _ = fit_on(size, MODELS[algorithm], train)
    alone, _ = fit_on(1, MODELS[algorithm], train)
    np.testing.assert_allclose(
        [iteration.objective for iteration in history], [iteration.objective for iteration in alone], rtol=1e-5
    )


@pytest.mark.parametrize("algorithm", MODELS)
def test_an_exact_iteration_never_raises_the_objective(algorithm):
    history, _ = fit_on(1, MODELS[algorithm], Train(iterations=12, solver="cholesky"))
    objectives = np.array([iteration.objective for iteration in history])
    assert (np.diff(objectives) <= 1e-6 * objectives[:-1]).all()


def test_the_same_seed_gives_the_same_bits():
    first, second = (fit_on(2, MODELS["implicit_als"], Train(iterations=3))[1] for _ in range(2))
    for side in ("user", "item"):
        for row_id, (factors, _) in first[side].items():
            np.testing.assert_array_equal(factors, second[side][row_id][0])


@pytest.mark.parametrize("algorithm", MODELS)
def test_fold_in_of_a_full_row_is_the_half_step(algorithm):
    """Fold every item into the final user factors: the last half-step of the training did the same."""
    model = MODELS[algorithm]
    _, rows = fit_on(1, model, Train(iterations=2, solver="cholesky", close=False))
    strengths = np.array(TABLE["strength"].to_pylist(), np.float32)
    mean = float(strengths.mean(dtype=np.float64)) if algorithm == "explicit_als" else 0.0
    equation = Equation(model, mean)
    user_ids, item_ids = sorted(rows["user"]), sorted(rows["item"])
    source = np.array([np.append(f, b) if equation.biased else f for f, b in (rows["user"][u] for u in user_ids)])
    matrix = sparse.csr_matrix(
        (
            strengths,
            (
                [item_ids.index(i) for i in TABLE["item_id"].to_pylist()],
                [user_ids.index(u) for u in TABLE["user_id"].to_pylist()],
            ),
        )
    )
    folded = fold_in(
        equation,
        "item",
        source,
        (equation.a0 * gramian(source)).astype(np.float32),
        len(user_ids),
        matrix.indptr.astype(np.int64),
        matrix.indices.astype(np.int32),
        matrix.data,
    )
    expected = np.array([np.append(f, b) if equation.biased else f for f, b in (rows["item"][i] for i in item_ids)])
    np.testing.assert_allclose(folded, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"user_id": ["ann"], "item_id": ["x"], "strength": [1.0]}),
        pa.table({"user_id": ["ann"] * 3, "item_id": ["x", "y", "z"], "strength": [1.0, 2.0, 3.0]}),
        pa.table({"user_id": ["ann", "bob", "cid"], "item_id": ["x"] * 3, "strength": [2.0, 2.0, 2.0]}),
        pa.table({"user_id": ["ann", "bob"] * 2, "item_id": ["x", "x", "y", "y"], "strength": [4.0] * 4}),
        pa.table({"user_id": ["ann", "bob"], "item_id": ["x", "y"], "strength": [1e-6, 1e6]}),
    ],
    ids=["one entry", "one user", "one item", "all equal", "far apart"],
)
@pytest.mark.parametrize("solver", ["cholesky", "cg"])
@pytest.mark.parametrize("algorithm", MODELS)
def test_data_smaller_than_the_rank_gives_finite_factors(algorithm, solver, table):
    _, rows = fit_on(2, MODELS[algorithm], Train(iterations=3, solver=solver), table)
    for side in ("user", "item"):
        assert set(rows[side]) == set(table[f"{side}_id"].to_pylist())
        assert np.isfinite([[*factors, bias] for factors, bias in rows[side].values()]).all()


def test_singular_rows_are_refused_on_every_rank():
    model = Model(algorithm="explicit_als", rank=30, user_reg=0, item_reg=0, bias_reg=0)
    for size in (1, 3):
        with pytest.raises(SolveError, match=r"user rows are singular or not finite; raise model\.user_reg"):
            fit_on(size, model, Train(iterations=1, solver="cholesky"))


def test_agrees_with_implicit():
    """nu = 0 and the same start: the scores of `implicit`, exact solver, to fp32.

    `implicit` takes the values of its matrix as the confidence c itself, so it is given c = 1 + alpha*s.
    """
    als = pytest.importorskip("implicit.cpu.als")
    model = Model(algorithm="implicit_als", rank=8, alpha=1.5, user_reg=0.7, item_reg=0.7, reg_exponent=0)
    _, rows = fit_on(1, model, Train(iterations=3, solver="cholesky", close=False))
    user_ids, item_ids = sorted(rows["user"]), sorted(rows["item"])
    matrix = sparse.csr_matrix(
        (
            1 + np.float32(1.5) * np.array(TABLE["strength"].to_pylist(), np.float32),
            (
                [user_ids.index(u) for u in TABLE["user_id"].to_pylist()],
                [item_ids.index(i) for i in TABLE["item_id"].to_pylist()],
            ),
        )
    )
    peer = als.AlternatingLeastSquares(
        factors=8, regularization=0.7, alpha=1.0, use_cg=False, iterations=3, num_threads=1, dtype=np.float32
    )
    peer.item_factors = initial_factors(hash_ids(pa.array(item_ids)), model.seed, 8, "item")
    peer.user_factors = np.zeros((len(user_ids), 8), np.float32)
    peer.fit(matrix, show_progress=False)
    scores = np.array([rows["user"][u][0] for u in user_ids]) @ np.array([rows["item"][i][0] for i in item_ids]).T
    np.testing.assert_allclose(scores, peer.user_factors @ peer.item_factors.T, atol=2e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("algorithm", MODELS)
def test_the_torch_backend_reaches_the_oracles_objective(algorithm, precision):
    train = Train(iterations=3, solver="cholesky", backend="torch", precision=precision)
    history, _ = fit_on(2, MODELS[algorithm], train)
    expected = oracle_objectives(MODELS[algorithm], 3)
    np.testing.assert_allclose([iteration.objective for iteration in history], expected, rtol=1e-5)


def test_nmf_reaches_the_objective_of_scikit_learn():
    decomposition = pytest.importorskip("sklearn.decomposition")
    users, items, strengths = (TABLE[name].to_pylist() for name in ("user_id", "item_id", "strength"))
    matrix = np.zeros((60, 40))
    matrix[[sorted(set(users)).index(u) for u in users], [sorted(set(items)).index(i) for i in items]] = strengths
    peer = decomposition.NMF(7, init="nndsvda", solver="cd", max_iter=1000, tol=1e-6, random_state=0)
    peer.fit(matrix)
    model = Model(algorithm="nmf", rank=7, unobserved_weight=1.0, user_reg=0, item_reg=0)
    history, rows = fit_on(2, model, Train(iterations=150, sweeps=3))
    assert history[-1].objective <= 1.01 * peer.reconstruction_err_**2
    for side in ("user", "item"):
        assert min(factors.min() for factors, _ in rows[side].values()) >= 0


def test_nmf_refuses_what_it_cannot_mean():
    with pytest.raises(ConfigError, match=r"unobserved_weight is 1\.5"):
        fit_on(1, Model(algorithm="nmf", rank=2, unobserved_weight=1.5), Train(iterations=1))
    table = pa.table({"user_id": ["ann"], "item_id": ["x"], "strength": [-1.0]})
    with pytest.raises(InputError, match="strength of -1"):
        fit_on(1, Model(algorithm="nmf", rank=2, unobserved_weight=1.0), Train(iterations=1), table)
