"""Explanations sum to the score of the trained user, and each part is what its interaction adds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from lakefactor.comm.local import Local
from lakefactor.config import Model, Train
from lakefactor.errors import ConfigError
from lakefactor.factorization.catalogue import Catalogue
from lakefactor.factorization.equation import Equation
from lakefactor.factorization.explanation import Explainer
from lakefactor.factorization.fitting import fit
from lakefactor.factorization.shard import build_shard
from lakefactor.kernels import build_csr, reference
from lakefactor.testing.interactions import random_interactions

REGS = {"rank": 5, "user_reg": 0.5, "item_reg": 0.3, "seed": 3}
MODELS = {
    "implicit_als": Model(algorithm="implicit_als", alpha=2.0, **REGS),
    "tempered": Model(algorithm="implicit_als", item_norm_exponent=0.4, **REGS),
    "ials": Model(algorithm="ials", strength="binary", reg_exponent=1, **REGS),
    "explicit_als": Model(algorithm="explicit_als", bias_reg=0.4, **REGS),
    "nmf": Model(algorithm="nmf", **REGS),
    "svd": Model(algorithm="svd", **REGS),
    "lsa": Model(algorithm="lsa", **REGS),
}
N_USERS = 60
TABLE = random_interactions(N_USERS, 40, 900, seed=5)


@pytest.fixture(params=MODELS, scope="module")
def trained(request):
    """Return model, mean, catalogue, user factors with biases, and the interactions as CSR, rows and columns by id."""
    model = MODELS[request.param]
    shard = build_shard(Local(), TABLE.to_batches())
    fitted = fit(shard, Local(), model, Train(iterations=3))
    order = {side: np.argsort(shard.rows[side].ids.to_numpy(zero_copy_only=False)) for side in ("user", "item")}
    ids = {side: shard.rows[side].ids.to_numpy(zero_copy_only=False)[order[side]] for side in order}
    items = order["item"]
    catalogue = Catalogue(
        pa.array(ids["item"]), fitted.factors["item"][items], fitted.bias["item"][items],
        shard.rows["item"].n_entries[items],
    )  # fmt: skip
    users = fitted.factors["user"][order["user"]].astype(np.float64), fitted.bias["user"][order["user"]]
    csr = build_csr(
        np.searchsorted(ids["user"], TABLE["user_id"].to_numpy()),
        np.searchsorted(ids["item"], TABLE["item_id"].to_numpy()).astype(np.int32),
        TABLE["strength"].to_numpy().astype(np.float32),
        len(ids["user"]),
    )
    return model, fitted.mean, catalogue, users, csr


def test_the_parts_sum_to_the_score_of_the_trained_user(trained):
    model, mean, catalogue, (factors, bias), (indptr, indices, strengths) = trained
    explainer = Explainer(model, mean, catalogue, len(factors))
    everything = np.arange(len(catalogue.ids), dtype=np.int32)
    for user, (first, stop) in enumerate(pairwise(indptr)):
        parts, base = explainer.parts(indices[first:stop], strengths[first:stop], everything)
        assert parts.shape == (len(everything), stop - first)
        scores = factors[user] @ catalogue.factors.astype(np.float64).T + bias[user] + catalogue.bias + mean
        np.testing.assert_allclose(base + parts.sum(axis=1), scores, rtol=1e-5, atol=1e-5 * np.abs(scores).max())


@pytest.mark.parametrize("trained", ["implicit_als", "tempered", "ials", "explicit_als"], indirect=True)
def test_a_part_is_what_the_score_gains_per_unit_of_the_target(trained):
    """The score is linear in the targets: by the oracle, with one target changed."""
    model, mean, catalogue, (factors, _), (indptr, indices, strengths) = trained
    equation = Equation(model, mean)
    source = equation.untempered(catalogue.factors).astype(np.float64)
    source = np.column_stack([source, catalogue.bias]) if equation.biased else source
    columns, some = indices[: indptr[1]], strengths[: indptr[1]]
    system = equation.system("user", indptr[:2], columns, some, len(source))
    base = equation.a0 * reference.gramian(source)

    def scores(targets):
        arguments = (columns, system.weights, targets, system.reg[0], system.reg_last[0], equation.biased)
        matrix, rhs, _ = reference.system(source, base, *arguments)
        x = np.linalg.solve(matrix, rhs)
        items = catalogue.factors.astype(np.float64)
        return items @ x[: model.rank] + (x[-1] if equation.biased else 0.0)

    targets = system.targets.astype(np.float64)
    removed = targets - catalogue.bias[columns] if equation.biased else targets
    parts, _ = Explainer(model, mean, catalogue, len(factors)).parts(columns, some, np.arange(40, dtype=np.int32))
    for entry in range(len(columns)):
        more = targets + np.eye(len(targets))[entry] * removed[entry]
        np.testing.assert_allclose(parts[:, entry], scores(more) - scores(targets), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("model", [Model(algorithm="sgd"), Model(algorithm="explicit_als", posterior_draws=2)])
def test_a_model_without_an_equation_is_refused(model):
    one = np.ones((1, 64), np.float32)
    with pytest.raises(ConfigError, match=r"not the solution of an equation"):
        Explainer(model, 0.0, Catalogue(pa.array(["x"]), one, one[:, 0], np.ones(1, np.int64)), 1)
