"""The closing half-step: a user has the factors that a fold-in gives, whatever the solver, on any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest

from lakefactor.config import Model, Train
from lakefactor.factorization import als
from lakefactor.factorization.equation import Equation
from lakefactor.factorization.fitting import fit
from lakefactor.factorization.fold_in import user_fold_in
from lakefactor.factorization.shard import build_shard
from lakefactor.kernels import build_csr, reference
from lakefactor.testing.interactions import deal, random_interactions
from lakefactor.testing.threads import run_ranks
from lakefactor.types import SIDES

REGS = {"rank": 5, "user_reg": 0.5, "item_reg": 0.3, "seed": 3}
MODELS = {
    "implicit_als": Model(algorithm="implicit_als", alpha=2.0, **REGS),
    "tempered": Model(algorithm="implicit_als", item_norm_exponent=0.4, **REGS),
    "ials": Model(algorithm="ials", strength="binary", reg_exponent=1, **REGS),
    "explicit_als": Model(algorithm="explicit_als", bias_reg=0.4, **REGS),
    "nmf": Model(algorithm="nmf", **REGS),
}
TABLE = random_interactions(60, 40, 900, seed=5)


def trained(size: int, model: Model, **settings):
    """Train on ``size`` ranks; return one rank's fit, and ids, factors, biases and counts of all rows by side."""
    dealt = deal(TABLE, size)

    def on_rank(comm):
        shard = build_shard(comm, dealt[comm.proc_rank])
        return fit(shard, comm, model, Train(iterations=2, **settings)), shard

    results = run_ranks(size, on_rank)
    rows = {}
    for side in SIDES:
        ids = np.concatenate([shard.rows[side].ids.to_numpy(zero_copy_only=False) for _, shard in results])
        parts = (
            [fitted.factors[side] for fitted, _ in results],
            [fitted.bias[side] for fitted, _ in results],
            [shard.rows[side].n_entries for _, shard in results],
        )
        order = np.argsort(ids)
        rows[side] = (ids[order], *(np.concatenate(part)[order] for part in parts))
    return results[0][0], rows


def as_csr(rows):
    users, items = (np.searchsorted(rows[side][0], TABLE[f"{side}_id"].to_numpy()) for side in SIDES)
    strengths = TABLE["strength"].to_numpy().astype(np.float32)
    return build_csr(users, items, strengths, len(rows["user"][0]))


@pytest.mark.parametrize("settings", [{"solver": "cg"}, {"solver": "cholesky", "exchange_dtype": "bfloat16"}])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_a_trained_user_is_what_its_fold_in_gives(name, size, settings, monkeypatch):
    monkeypatch.setattr(als, "rows_of_budget", lambda megabytes, columns: 15 * (size - 1))  # several stages
    model = MODELS[name]
    fitted, rows = trained(size, model, **settings)
    folded = user_fold_in(model, fitted.mean, *rows["item"][1:], len(rows["user"][0]))(*as_csr(rows))
    _, factors, bias, _ = rows["user"]
    own = np.column_stack([factors, bias]) if name == "explicit_als" else factors
    np.testing.assert_allclose(own, folded, rtol=1e-5, atol=1e-5 * np.abs(own).max())


@pytest.mark.parametrize("name", MODELS)
def test_the_objective_is_that_of_the_closed_factors(name):
    """By the float64 oracle over the rows that were returned."""
    model = MODELS[name]
    fitted, rows = trained(2, model)
    equation = Equation(model, fitted.mean)
    (_, x, x_bias, _), (_, y, y_bias, n_entries) = rows["user"], rows["item"]
    y = equation.untempered(y)
    if equation.biased:
        x, y = np.column_stack([x, x_bias]), np.column_stack([y, y_bias])
    indptr, indices, strengths = as_csr(rows)
    regs = [
        tuple(reg(side, counts, n).astype(np.float64) for reg in (equation.reg, equation.bias_reg))
        for side, counts, n in (("user", np.diff(indptr), len(y)), ("item", n_entries, len(x)))
    ]
    constants = np.array([equation.constant(strength) for strength in strengths[:, None]])
    weights, targets = equation.weights(strengths), equation.targets(strengths)
    expected = reference.objective(
        x.astype(np.float64), y.astype(np.float64), indptr, indices, weights, targets, constants, equation.a0, *regs,
        equation.biased,
    )  # fmt: skip
    np.testing.assert_allclose(fitted.objective, expected, rtol=1e-5)
    assert fitted.objective < fitted.history[-1].objective


def test_without_it_users_are_as_the_last_iteration_left_them():
    closed, _ = trained(1, MODELS["ials"])
    left, _ = trained(1, MODELS["ials"], close=False)
    assert left.objective == left.history[-1].objective == closed.history[-1].objective
    np.testing.assert_array_equal(left.factors["item"], closed.factors["item"])
    assert not np.array_equal(left.factors["user"], closed.factors["user"])
