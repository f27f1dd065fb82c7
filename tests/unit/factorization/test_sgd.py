"""Stochastic gradients: torch.autograd's derivatives, torch.optim's factors, explicit ALS's optimum, any ranks."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from lakefactor.comm.local import Local
from lakefactor.config import Model, Sgd, Train
from lakefactor.errors import SolveError
from lakefactor.factorization import sgd as stochastic
from lakefactor.factorization.distant_rows import DistantRows
from lakefactor.factorization.fitting import count, fit
from lakefactor.factorization.losses import LOSSES
from lakefactor.factorization.optimizers import RULES
from lakefactor.factorization.sampling import Sampler, splitmix64
from lakefactor.factorization.shard import build_shard
from lakefactor.kernels import hashing
from lakefactor.testing.interactions import deal, random_interactions
from lakefactor.testing.threads import run_ranks

TABLE = random_interactions(60, 40, 900, seed=5)
MODEL = Model(algorithm="sgd", rank=7, user_reg=0.02, item_reg=0.03, bias_reg=0.01, reg_exponent=1, alpha=0.5)
CPU = torch.device("cpu")


def fit_on(size, config, model=MODEL, iterations=3, table=TABLE):
    """Train on ``size`` ranks; return (objectives, {side: {id: factors and bias}})."""
    dealt = deal(table, size)

    def on_rank(comm):
        shard = build_shard(comm, dealt[comm.proc_rank])
        trained = fit(shard, comm, model, Train(iterations=iterations), sgd=config)
        rows = {
            side: dict(
                zip(
                    shard.rows[side].ids.to_pylist(),
                    np.column_stack([trained.factors[side], trained.bias[side]]),
                    strict=True,
                )
            )
            for side in ("user", "item")
        }
        return [iteration.objective for iteration in trained.history], rows

    results = run_ranks(size, on_rank)
    return results[0][0], {s: {k: v for _, rows in results for k, v in rows[s].items()} for s in ("user", "item")}


@pytest.mark.parametrize("loss", LOSSES)
def test_slopes_are_the_derivatives(loss):
    random = torch.Generator().manual_seed(2)
    positive = torch.randn(20, generator=random, dtype=torch.float64).requires_grad_()
    negative = torch.randn(20, 3, generator=random, dtype=torch.float64).requires_grad_()
    used = (torch.rand(20, 3, generator=random) < 0.7).double()
    weights, targets = torch.rand(2, 20, generator=random, dtype=torch.float64)
    value, by_positive, by_negative = LOSSES[loss](positive, negative, used, weights, targets)
    expected = torch.autograd.grad(value.sum(), (positive, negative), allow_unused=True)
    torch.testing.assert_close(by_positive, expected[0])
    if loss != "squared":
        torch.testing.assert_close(by_negative, expected[1])


@pytest.mark.parametrize("loss", LOSSES)
def test_far_scores_give_finite_losses(loss):
    far = torch.tensor([1e4, -1e4])
    results = LOSSES[loss](far, -far[:, None], torch.ones(2, 1), torch.ones(2), torch.zeros(2))
    assert all(torch.isfinite(result).all() for result in results)


def autograd_training(loss, optimizer, epochs):
    """Minimise the documented objective of each step by autograd and torch.optim on all rows; return the factors.

    With one step an epoch and samples of all users and items, every row has a gradient: dense and row-wise rules agree.
    """
    shard = build_shard(Local(), TABLE.to_batches())
    config = Sgd(loss=loss, optimizer=optimizer, learning_rate=0.02, batch_entries=10**6, negatives=2, clip_norm=0)
    totals = count(shard, Local())
    ours = stochastic.Sgd(shard, Local(), MODEL, Train(), config, totals)
    negatives = 0 if loss == "squared" else 2
    sampler = Sampler(Local(), shard, negatives, MODEL.seed, CPU)
    x, y = (torch.from_numpy(ours.state[side]["factors"].copy()).requires_grad_() for side in ("user", "item"))
    peer = {
        "sgd": lambda: torch.optim.SGD([x, y], lr=0.02),
        "adam": lambda: torch.optim.Adam([x, y], lr=0.02, betas=(config.momentum, config.decay)),
    }[optimizer]()
    strengths = torch.from_numpy(shard.rows["user"].strengths)[sampler.order]
    weights = torch.ones_like(strengths) if loss == "squared" else MODEL.alpha * strengths
    for epoch in range(1, epochs + 1):
        users, items, used = sampler.sample(torch.arange(totals.entries), epoch)
        scores = (x[users, None, :-1] * y[items, :-1]).sum(2) + x[users, None, -1] + y[items, -1]
        value, _, _ = LOSSES[loss](scores[:, 0], scores[:, 1:], used, weights, strengths - ours.mean)
        kept = torch.cat([torch.ones(len(used), 1), used], 1)
        # reg_exponent is 1: each sample brings reg of its rows.
        penalty = MODEL.user_reg * x[users, :-1].square().sum() + MODEL.bias_reg * x[users, -1].square().sum()
        penalty = penalty + MODEL.item_reg * (kept[:, :, None] * y[items, :-1].square()).sum()
        penalty = penalty + MODEL.bias_reg * (kept * y[items, -1].square()).sum()
        peer.zero_grad()
        (value.sum() + penalty).backward()
        peer.step()
        ours.iterate()
    return {"user": x.detach().numpy(), "item": y.detach().numpy()}, ours


@pytest.mark.parametrize("loss", LOSSES)
def test_an_epoch_of_one_step_is_autograd_and_torch_optim(loss):
    expected, ours = autograd_training(loss, "sgd", epochs=4)
    for side in ("user", "item"):
        np.testing.assert_allclose(ours.state[side]["factors"], expected[side], rtol=1e-4, atol=2e-6)


def test_adam_of_an_epoch_of_one_step_is_torch_optims():
    expected, ours = autograd_training("logistic", "adam", epochs=4)
    for side in ("user", "item"):
        np.testing.assert_allclose(ours.state[side]["factors"], expected[side], rtol=1e-3, atol=1e-5)


def test_the_squared_loss_ends_where_explicit_als_does():
    """One objective: stochastic gradients come within 1 % of the exact solver's optimum, from above."""
    regs = {"rank": 3, "user_reg": 2.0, "item_reg": 1.5, "bias_reg": 0.7, "reg_exponent": 0.5}
    shard = build_shard(Local(), TABLE.to_batches())
    exact = fit(shard, Local(), Model(algorithm="explicit_als", **regs), Train(iterations=60, solver="cholesky"))
    config = Sgd(loss="squared", optimizer="adam", learning_rate=0.01, batch_entries=300, clip_norm=0)
    ours = fit(shard, Local(), Model(algorithm="sgd", **regs), Train(iterations=80), sgd=config)
    ratio = ours.history[-1].objective / exact.history[-1].objective
    assert 1 - 1e-4 < ratio < 1.01
    assert ours.mean == exact.mean


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("loss", LOSSES)
def test_number_of_ranks_changes_nothing(loss, size):
    config = Sgd(loss=loss, batch_entries=150, negatives=2)
    expected, alone = fit_on(1, config)
    objectives, rows = fit_on(size, config)
    np.testing.assert_allclose(objectives, expected, rtol=1e-5)
    for side in ("user", "item"):
        assert rows[side].keys() == alone[side].keys()
        np.testing.assert_allclose(
            [rows[side][name] for name in alone[side]], list(alone[side].values()), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("optimizer", RULES)
def test_every_optimizer_learns_and_repeats_itself(optimizer):
    config = Sgd(optimizer=optimizer, learning_rate=0.01, batch_entries=100)
    objectives, rows = fit_on(2, config, iterations=8)
    assert objectives[-1] < objectives[0]
    again, same = fit_on(2, config, iterations=8)
    assert objectives == again
    for side in ("user", "item"):
        np.testing.assert_array_equal(list(rows[side].values()), [same[side][name] for name in rows[side]])


@pytest.mark.parametrize("optimizer", RULES)
def test_a_stored_state_goes_on_as_if_unbroken(optimizer):
    config = Sgd(optimizer=optimizer, batch_entries=100)
    shard = build_shard(Local(), TABLE.to_batches())

    def start():
        return stochastic.Sgd(shard, Local(), MODEL, Train(), config, count(shard, Local()))

    whole, first, second = start(), start(), start()
    expected = [whole.iterate() for _ in range(4)][2:]
    for _ in range(2):
        first.iterate()
    for side in ("user", "item"):
        assert {len(array) for array in first.state[side].values()} == {len(shard.rows[side].ids)}
        for name, array in first.state[side].items():
            second.state[side][name] = array.copy()
    assert [second.iterate() for _ in range(2)] == expected


def test_draws_are_the_generators_bits():
    states = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 1000)
    ours = splitmix64(torch.from_numpy(states)).numpy().view(np.uint64)
    np.testing.assert_array_equal(ours, hashing.splitmix64(states.view(np.uint64)))


def test_samples_are_uniform_over_items_and_skip_the_users_own():
    shard = build_shard(Local(), TABLE.to_batches())
    sampler = Sampler(Local(), shard, negatives=3, seed=1, device=CPU)
    entries = {tuple(pair.values()) for pair in TABLE.select(["user_id", "item_id"]).to_pylist()}
    user_ids, item_ids = (shard.rows[side].ids.to_pylist() for side in ("user", "item"))
    n = len(shard.rows["user"].strengths)
    drawn = []
    for epoch in range(1, 40):
        users, items, used = sampler.sample(torch.arange(n), epoch)
        names = [(user_ids[user], [item_ids[item] for item in row]) for user, row in zip(users, items, strict=True)]
        assert {(user, row[0]) for user, row in names} == entries
        expected = [[(user, item) not in entries for item in row[1:]] for user, row in names]
        np.testing.assert_array_equal(used.numpy(), expected)
        drawn.append(items[:, 1:].flatten())
    counts = torch.bincount(torch.cat(drawn), minlength=len(item_ids)).numpy()
    mean = counts.sum() / len(counts)
    # Chi-squared with 39 degrees of freedom: mean 39, standard deviation 8.8.
    assert (np.square(counts - mean) / mean).sum() < 39 + 5 * 8.8
    assert len(torch.unique(torch.stack(drawn), dim=0)) == len(drawn)


def test_every_entry_is_in_one_step_of_an_epoch():
    shard = build_shard(Local(), TABLE.to_batches())
    sampler = Sampler(Local(), shard, negatives=1, seed=1, device=CPU)
    n = len(shard.rows["user"].strengths)
    epochs = [torch.cat(list(sampler.steps(epoch, 7))) for epoch in (1, 2)]
    for dealt in epochs:
        np.testing.assert_array_equal(np.sort(dealt.numpy()), np.arange(n))
    assert not torch.equal(*epochs)


@pytest.mark.parametrize("size", [1, 3])
def test_distant_rows_are_read_and_summed_at_their_owners(size):
    counts = np.array([4, 0, 3])[:size]
    starts = np.concatenate([[0], np.cumsum(counts)])
    everything = np.arange(2.0 * starts[-1], dtype=np.float32).reshape(-1, 2)
    wanted = [np.array([0, 2, starts[-1] - 1]), np.array([], np.int64), np.array([2, 3])][:size]

    def on_rank(comm):
        rows = DistantRows(comm, starts, torch.from_numpy(wanted[comm.proc_rank]))
        own = torch.from_numpy(everything[starts[comm.proc_rank] : starts[comm.proc_rank + 1]])
        fetched = rows.fetch(own)
        owned, sums = rows.sum_at_owners(fetched + 1)
        return fetched.numpy(), owned.numpy() + starts[comm.proc_rank], sums.numpy()

    results = run_ranks(size, on_rank)
    for rank in range(size):
        np.testing.assert_array_equal(results[rank][0], everything[wanted[rank]])
    asked, times = np.unique(np.concatenate(wanted), return_counts=True)
    np.testing.assert_array_equal(np.concatenate([owned for _, owned, _ in results]), asked)
    np.testing.assert_array_equal(
        np.concatenate([sums for _, _, sums in results]), times[:, None] * (everything[asked] + 1)
    )


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"user_id": ["ann"], "item_id": ["x"], "strength": [1.0]}),
        pa.table({"user_id": ["ann"] * 3, "item_id": ["x", "y", "z"], "strength": [1.0, 2.0, 3.0]}),
        pa.table({"user_id": ["ann", "bob"], "item_id": ["x", "y"], "strength": [1e-6, 1e6]}),
        pa.table({"user_id": pa.array([1, 2]), "item_id": pa.array([2**40, 7]), "strength": [1.0, 2.0]}),
    ],
    ids=["one entry", "one user", "far apart", "long ids"],
)
@pytest.mark.parametrize("loss", LOSSES)
def test_tiny_data_gives_finite_factors_on_more_ranks_than_rows(loss, table):
    _, rows = fit_on(3, Sgd(loss=loss), table=table)
    for side in ("user", "item"):
        assert set(rows[side]) == set(table[f"{side}_id"].to_pylist())
        assert np.isfinite(list(rows[side].values())).all()


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
def test_a_users_bias_stays_out_of_a_comparison(loss):
    _, rows = fit_on(2, Sgd(loss=loss, optimizer="adam", negatives=3))
    np.testing.assert_array_equal([row[-1] for row in rows["user"].values()], 0)


@pytest.mark.parametrize("size", [1, 2])
def test_divergence_is_refused_on_every_rank(size):
    config = Sgd(loss="squared", optimizer="sgd", learning_rate=1e6, clip_norm=0)
    with pytest.raises(SolveError, match=r"epoch [0-9]+ is not finite; lower sgd\.learning_rate \(now 1000000\.0\)"):
        fit_on(size, config, iterations=20)
