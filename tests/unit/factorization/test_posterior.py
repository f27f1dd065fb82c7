"""Gibbs sampling of rated models: each draw's distribution, the average, any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest

from lakefactor.comm.local import Local
from lakefactor.config import Model, Train, load
from lakefactor.errors import ConfigError
from lakefactor.factorization.equation import Equation
from lakefactor.factorization.fitting import count, fit, make
from lakefactor.factorization.fold_in import user_fold_in
from lakefactor.factorization.posterior import _best_bases
from lakefactor.factorization.shard import build_shard
from lakefactor.kernels import gramian
from lakefactor.testing.interactions import deal, random_interactions
from lakefactor.testing.threads import run_ranks

MODEL = Model(algorithm="explicit_als", rank=2, posterior_draws=3, user_reg=2.0, reg_exponent=0.0)
TABLE = random_interactions(30, 20, 250, seed=3)


def sampler(model: Model = MODEL, train: Train | None = None):
    shard = build_shard(Local(), TABLE.to_batches())
    return shard, make(shard, Local(), model, train or Train(iterations=5, solver="cholesky"), count(shard, Local()))


def test_draws_have_the_mean_and_covariance_of_the_conditional_posterior():
    shard, algorithm = sampler()
    algorithm.iterate()
    rows, noise, columns = shard.rows["user"], 0.5, 3
    start = algorithm.state["user"]["factors"].copy()
    items = algorithm.state["item"]["factors"][shard.plans["item"].send_rows].astype(np.float64)
    precision = (len(rows.ids) + columns) * np.linalg.inv(np.eye(columns) + gramian(start))
    draws = np.empty((1500, *start.shape))
    for number in range(len(draws)):
        algorithm.state["user"]["factors"][:] = start
        algorithm._draw("user", number + 10, noise)
        draws[number] = algorithm.state["user"]["factors"]
    for r in range(len(rows.ids)):
        entries = slice(rows.indptr[r], rows.indptr[r + 1])
        y = items[rows.indices[entries]]
        design = np.column_stack([y[:, :2], np.ones(len(y))])
        matrix = design.T @ design + noise * precision
        target = rows.strengths[entries].astype(np.float64) - algorithm.mean - y[:, 2]
        mean, covariance = np.linalg.solve(matrix, design.T @ target), noise * np.linalg.inv(matrix)
        deviation = np.sqrt(np.diag(covariance))
        assert np.all(np.abs(draws[:, r].mean(axis=0) - mean) < 5 * deviation / np.sqrt(len(draws)))
        found = np.cov(draws[:, r].T) / np.outer(deviation, deviation)
        np.testing.assert_allclose(found, covariance / np.outer(deviation, deviation), atol=5 * np.sqrt(2 / len(draws)))


def test_the_result_is_the_average_of_the_last_draws():
    # Enough columns for the average of rank-2 draws to be exact, so that nothing is cut off.
    train = Train(iterations=5, solver="cholesky")
    _, algorithm = sampler(MODEL.model_copy(update={"rank": 20, "posterior_draws": 3}), train)
    drawn = []
    for _ in range(5):
        algorithm.iterate()
        x, y = (algorithm.state[side]["factors"].astype(np.float64) for side in ("user", "item"))
        drawn.append(x[:, :-1] @ y[:, :-1].T + x[:, -1:] + y[:, -1])
    x, y = algorithm.factors("user"), algorithm.factors("item")
    average = x @ y.T + algorithm.bias("user")[:, None] + algorithm.bias("item")
    np.testing.assert_allclose(average, np.mean(drawn[2:], axis=0), atol=1e-4)


def test_the_bases_give_the_best_approximation():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((12, 6)), rng.standard_normal((9, 6))
    c, d = _best_bases(a.T @ a, b.T @ b, 2)
    u, s, vt = np.linalg.svd(a @ b.T)
    np.testing.assert_allclose(a @ c @ (b @ d).T, u[:, :2] * s[:2] @ vt[:2], atol=1e-9)
    np.testing.assert_allclose((a @ c).T @ (a @ c), np.eye(2), atol=1e-9)


@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_ranks_draws_the_same(size):
    def predictions(ranks: int):
        dealt = deal(TABLE, ranks)

        def on_rank(comm):
            shard = build_shard(comm, dealt[comm.proc_rank])
            trained = fit(shard, comm, MODEL, Train(iterations=5, solver="cholesky"))
            columns = {}
            for side in ("user", "item"):
                rows = zip(trained.factors[side], trained.bias[side], strict=True)
                columns[side] = dict(zip(shard.rows[side].ids.to_pylist(), rows, strict=True))
            return [iteration.objective for iteration in trained.history], columns

        results = run_ranks(ranks, on_rank)
        sides = []
        for side in ("user", "item"):
            rows = {key: row for _, columns in results for key, row in columns[side].items()}
            sides.append([rows[key] for key in sorted(rows)])
        (x, bx), (y, by) = (map(np.array, zip(*rows, strict=True)) for rows in sides)
        return results[0][0], x @ y.T + bx[:, None] + by

    objectives, expected = predictions(1)
    found_objectives, found = predictions(size)
    np.testing.assert_allclose(found_objectives, objectives, rtol=1e-5)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_tempering_is_undone_exactly():
    items = np.random.default_rng(1).standard_normal((50, 4)).astype(np.float32)
    items[3] = 0
    equation = Equation(Model(item_norm_exponent=0.6))
    tempered = equation.tempered(items)
    norms = np.linalg.norm(items, axis=1)
    np.testing.assert_allclose(np.linalg.norm(tempered, axis=1), norms**0.4, rtol=1e-5)
    np.testing.assert_allclose(equation.untempered(tempered), items, rtol=1e-4, atol=1e-6)


def test_a_user_is_folded_in_against_the_items_as_trained():
    model = Model(rank=4, alpha=2.0, user_reg=0.5, item_reg=0.3)
    shard = build_shard(Local(), TABLE.to_batches())
    train = Train(iterations=4, solver="cholesky")
    plain, tempered = (
        fit(shard, Local(), model.model_copy(update={"item_norm_exponent": p}), train) for p in (0.0, 0.6)
    )
    rows, order = shard.rows["user"], shard.plans["item"].send_rows
    folded = []
    for trained, p in ((plain, 0.0), (tempered, 0.6)):
        items, entries = trained.factors["item"], shard.rows["item"].n_entries
        bias = np.zeros(len(items), np.float32)
        used = model.model_copy(update={"item_norm_exponent": p})
        fold = user_fold_in(used, 0.0, items, bias, entries, len(rows.ids))
        folded.append(fold(rows.indptr, order[rows.indices], rows.strengths))
    np.testing.assert_allclose(folded[1], folded[0], rtol=1e-4, atol=1e-5)
    assert not np.allclose(tempered.factors["item"], plain.factors["item"], rtol=0.1)
    np.testing.assert_array_equal(tempered.factors["user"], plain.factors["user"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.posterior_draws=5"], "posterior_draws is for explicit_als only"),
        (["model.algorithm=explicit_als", "model.posterior_draws=50"], "exceeds train.iterations 15"),
        (
            ["model.algorithm=explicit_als", "model.posterior_draws=5", "train.stop_below=0.01"],
            "train.stop_below must be 0",
        ),
        (["model.algorithm=explicit_als", "model.item_norm_exponent=0.5"], "implicit_als and ials only"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides, words):
    with pytest.raises(ConfigError, match=words):
        load(None, overrides)
