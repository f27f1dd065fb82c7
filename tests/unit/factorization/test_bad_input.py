"""Input that no measurement gives, for every algorithm: finite factors, or an error that says what to do.

Warnings are errors here, so nothing may overflow or become NaN on the way unnoticed.
"""

from __future__ import annotations

import warnings

import numpy as np
import pyarrow as pa
import pytest

from lakefactor.config import Model, Sgd, Train, load
from lakefactor.errors import ConfigError, InputError, SolveError
from lakefactor.factorization.fitting import fit
from lakefactor.factorization.shard import build_shard
from lakefactor.testing.interactions import deal, random_interactions
from lakefactor.testing.threads import run_ranks

TABLE = random_interactions(12, 9, 60, seed=3)
RANK = 13
"""More than there are items or users, and no multiple of 16."""

ALS = [
    ({"algorithm": algorithm}, {"solver": solver, "block_size": 4})
    for algorithm in ("implicit_als", "ials", "explicit_als")
    for solver in ("cholesky", "cg", "subspace")
]
OTHERS = [
    ({"algorithm": "explicit_als", "posterior_draws": 2}, {}),
    ({"algorithm": "nmf"}, {}),
    ({"algorithm": "nmf", "unobserved_weight": 1.0}, {}),
    ({"algorithm": "svd"}, {}),
    ({"algorithm": "lsa"}, {}),
    *(({"algorithm": "sgd"}, {"loss": loss}) for loss in ("squared", "logistic", "bpr", "softmax")),
]
CASES = [*ALS, *OTHERS]
every_algorithm = pytest.mark.parametrize(
    ("model", "how"), CASES, ids=[" ".join(map(str, [*model.values(), *how.values()])) for model, how in CASES]
)


def strengths(*values: float | None) -> pa.Table:
    """Return `TABLE` with its first strengths replaced; a single value replaces all of them."""
    old = TABLE["strength"].to_pylist()
    new = list(values) * len(old) if len(values) == 1 else [*values, *old[len(values) :]]
    return TABLE.set_column(2, "strength", pa.array(new, pa.float64()))


def zero_item() -> pa.Table:
    """Return `TABLE` with strength 0 for every entry of one item."""
    of_item = np.array(TABLE["item_id"].to_pylist()) == "i-0"
    assert of_item.any()
    return TABLE.set_column(2, "strength", pa.array(np.where(of_item, 0.0, TABLE["strength"].to_numpy())))


def column(users: list[str], items: list[str]) -> pa.Table:
    return pa.table({"user_id": users, "item_id": items, "strength": np.arange(1.0, len(users) + 1)})


def train(table: pa.Table, model: dict, how: dict, size: int = 2, **settings: float) -> list[np.ndarray]:
    """Train on ``size`` ranks with warnings as errors; return every rank's factors, biases and objectives."""
    dealt = deal(table, size)
    loss = {"loss": how["loss"]} if "loss" in how else {}
    options = {key: value for key, value in how.items() if key != "loss"}

    def on_rank(comm):
        shard = build_shard(comm, dealt[comm.proc_rank])
        fitted = fit(
            shard, comm, Model(**{"rank": RANK, **model, **settings}), Train(iterations=3, **options), Sgd(**loss)
        )
        objectives = np.array([iteration.objective for iteration in fitted.history])
        return [*fitted.factors.values(), *fitted.bias.values(), objectives]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return [array for arrays in run_ranks(size, on_rank) for array in arrays]


def check_finite_or_explained(table: pa.Table, model: dict, how: dict, **settings: float) -> str:
    """Train; return the text of the error, "" where the result is finite."""
    try:
        arrays = train(table, model, how, **settings)
    except (InputError, SolveError) as error:
        return str(error)
    assert all(np.isfinite(array).all() for array in arrays)
    return ""


@pytest.mark.parametrize(
    ("table", "count"),
    [
        (strengths(np.nan), len(TABLE)),
        (strengths(1.0, np.inf, 2.0), 1),
        (strengths(-np.inf, np.inf), 2),
        (strengths(None, 1.0), 1),
        (strengths(1e39, 1.0), 1),
    ],
    ids=["all NaN", "inf", "both inf", "null", "beyond float32"],
)
@pytest.mark.parametrize("size", [1, 3])
def test_strengths_that_are_no_numbers_are_refused_on_every_rank(table, count, size):
    dealt = deal(table, size)

    def on_rank(comm):
        with pytest.raises(InputError) as caught:
            build_shard(comm, dealt[comm.proc_rank])
        return str(caught.value)

    texts = run_ranks(size, on_rank)
    assert len(texts) == size
    for text in texts:
        assert text.startswith(f"interactions hold {count} strengths that are NaN, null, or beyond 3.4e38")
        assert "correct the events, or rebuild the table" in text
    assert any("the first of user u-" in text for text in texts)


@every_algorithm
@pytest.mark.parametrize("reg", [0.0, 3.0])
@pytest.mark.parametrize("table", [strengths(1.0, 1e38), strengths(1e38), strengths(3e38), strengths(1e-38)])
def test_strengths_at_the_ends_of_float32(model, how, table, reg):
    text = check_finite_or_explained(table, model, how, user_reg=reg, item_reg=reg, bias_reg=reg)
    if text and model["algorithm"] != "sgd":
        assert "correct or scale them" in text
    elif text:
        assert "lower sgd.learning_rate" in text


@every_algorithm
def test_negative_strengths(model, how):
    """They are ratings, or values of a matrix; but no weights and nothing that a non-negative model can mean."""
    text = check_finite_or_explained(strengths(-4.0, 1.0), model, how)
    refused = model["algorithm"] in ("implicit_als", "ials", "nmf") or how.get("loss") in ("logistic", "bpr", "softmax")
    assert ("found a strength of -4" in text) == refused
    if model["algorithm"] in ("implicit_als", "ials"):  # whether an interaction is there is all that counts
        assert check_finite_or_explained(strengths(-4.0, 1.0), model, how, strength="binary") == ""


@every_algorithm
@pytest.mark.parametrize(
    "table",
    [
        strengths(0.0),
        strengths(0.0, 1.0),
        zero_item(),
        column(["ann"] * 5, list("vwxyz")),
        column(list("vwxyz"), ["x"] * 5),
        column(["ann"], ["x"]),
    ],
    ids=["all zero", "one zero", "zero item", "one user", "one item", "one entry"],
)
def test_little_or_nothing_to_learn_from_gives_finite_factors(model, how, table):
    assert check_finite_or_explained(table, model, how) == ""


@every_algorithm
def test_more_ranks_than_users(model, how):
    arrays = train(column(["ann", "bob"], ["x", "x"]), model, how, size=4)
    assert all(np.isfinite(array).all() for array in arrays)


@every_algorithm
@pytest.mark.parametrize("rank", [1, 17, 40])
def test_any_rank_gives_finite_factors(model, how, rank):
    arrays = train(TABLE, model, how, rank=rank)
    assert all(np.isfinite(array).all() for array in arrays)


@every_algorithm
def test_without_regularization(model, how):
    """Rank 13 and 5 entries a row: some systems are singular. Each solver finds a solution, or says what to raise."""
    text = check_finite_or_explained(TABLE, model, how, user_reg=0.0, item_reg=0.0, bias_reg=0.0)
    if how.get("solver") == "cholesky":
        assert "raise model.user_reg (now 0.0)" in text
    if model["algorithm"] not in ("implicit_als", "ials", "explicit_als"):
        assert text == ""


@pytest.mark.parametrize("size", [1, 3])
def test_a_pair_twice_is_refused_on_every_rank(size):
    dealt = deal(pa.concat_tables([TABLE, TABLE.slice(0, 2)]), size)

    def on_rank(comm):
        with pytest.raises(InputError, match=r"2 repeated .* each pair must occur once: rebuild the table"):
            build_shard(comm, dealt[comm.proc_rank])
        return True

    assert run_ranks(size, on_rank) == [True] * size


@pytest.mark.parametrize("size", [1, 3])
def test_no_interactions_at_all_are_refused_on_every_rank(size):
    def on_rank(comm):
        with pytest.raises(InputError, match="no interactions to train on; ingest events first"):
            build_shard(comm, TABLE.slice(0, 0).to_batches())
        return True

    assert run_ranks(size, on_rank) == [True] * size


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        ("model.rank=0", "1 to 2048"),
        ("model.alpha=0", "> 0"),
        ("model.alpha=nan", "finite"),
        ("model.user_reg=-1", ">= 0"),
        ("model.item_reg=-0.1", ">= 0"),
        ("model.bias_reg=inf", "finite"),
        ("model.unobserved_weight=0", "> 0"),
        ("model.reg_exponent=-1", "0 to 2"),
        ("model.posterior_draws=-1", "0 to 10000"),
        ("train.iterations=0", "1 to 10000"),
        ("train.cg_steps=0", "1 to 1000"),
        ("train.sweeps=0", "1 to 1000"),
        ("train.block_size=0", "1 to 2048"),
        ("train.ranks=0", "1 to 65536"),
        ("sgd.learning_rate=0", "> 0"),
        ("sgd.negatives=0", "1 to 1000"),
    ],
)
def test_settings_out_of_range_are_refused_by_name_with_what_is_allowed(override, allowed):
    with pytest.raises(ConfigError) as caught:
        load(None, [override])
    assert override.partition("=")[0] in str(caught.value)
    assert allowed in str(caught.value)
