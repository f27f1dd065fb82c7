"""Held-out interactions: the same ones on any number of ranks, the metric by hand, and the best state kept."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from lakefactor.comm.local import Local
from lakefactor.config import Model, Train
from lakefactor.factorization.fitting import fit
from lakefactor.factorization.held_out import HeldOut
from lakefactor.factorization.shard import build_shard
from lakefactor.testing.interactions import deal, random_interactions
from lakefactor.testing.threads import run_ranks
from lakefactor.types import SIDES

TABLE = random_interactions(60, 40, 700, seed=5)
MODELS = {
    "ials": Model(algorithm="ials", rank=12, user_reg=1e-3, item_reg=1e-3),
    "explicit_als": Model(algorithm="explicit_als", rank=12, user_reg=0.1, item_reg=0.1, bias_reg=0.1),
}


def pairs(tables) -> set[tuple]:
    return {pair for t in tables for pair in zip(t["user_id"].to_pylist(), t["item_id"].to_pylist(), strict=True)}


def train(size: int, model: Model, settings: Train, share: float = 0.5):
    """Return (fits, held-out count, {side: {id: (factors, bias)}}) of a training that watches ndcg_at_10."""
    dealt = deal(TABLE, size, seed=size)

    def on_rank(comm):
        held_out = HeldOut(share, "ndcg_at_10")
        shard = build_shard(comm, held_out.split(dealt[comm.proc_rank]))
        held_out.prepare(comm, shard)
        fitted = fit(shard, comm, model, settings, measure=lambda algorithm: held_out.measure(comm, algorithm))
        rows = {
            side: dict(
                zip(
                    shard.rows[side].ids.to_pylist(),
                    zip(fitted.factors[side], fitted.bias[side], strict=True),
                    strict=True,
                )
            )
            for side in SIDES
        }
        return fitted, held_out.count, rows

    results = run_ranks(size, on_rank)
    merged = {side: {k: v for _, _, rows in results for k, v in rows[side].items()} for side in SIDES}
    return [fitted for fitted, _, _ in results], results[0][1], merged


def test_one_entry_of_each_sampled_user_whoever_has_it():
    kept = {}
    for size in (1, 3):
        splits = [list(HeldOut(0.5, "ndcg_at_10").split(batches)) for batches in deal(TABLE, size, seed=size)]
        kept[size] = pairs(batch for batches in splits for batch in batches)
    assert kept[1] == kept[3]
    out = pairs([TABLE]) - kept[1]
    users = [user for user, _ in out]
    assert len(users) == len(set(users))
    assert 15 <= len(users) <= 45  # half of 60 users, four standard deviations either way
    everyone = pairs([TABLE]) - pairs(HeldOut(1.0, "ndcg_at_10").split(TABLE.to_batches()))
    assert {user for user, _ in everyone} == set(TABLE["user_id"].to_pylist())


def test_a_single_interaction_is_never_held_out():
    table = pa.table({"user_id": ["ann", "bob", "bob"], "item_id": ["x", "x", "y"], "strength": [1.0, 1.0, 1.0]})
    kept = pairs(HeldOut(1.0, "mrr_at_5").split(table.to_batches()))
    assert ("ann", "x") in kept
    assert len(kept) == 2


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("algorithm", MODELS)
def test_the_metric_is_that_of_full_lists(algorithm, size):
    """The held-out item among all items that the user is not trained on, by hand: ndcg is 1 / log2(2 + ahead)."""
    fits, count, rows = train(size, MODELS[algorithm], Train(iterations=2, solver="cholesky", close=False))
    kept = pairs(HeldOut(0.5, "ndcg_at_10").split(TABLE.to_batches()))
    gains = []
    for user, item in pairs([TABLE]) - kept:
        x = rows["user"][user][0].astype(np.float64)
        scores = {i: x @ y + bias for i, (y, bias) in rows["item"].items() if (user, i) not in kept}
        ahead = sum(score >= scores[item] for i, score in scores.items() if i != item) if item in scores else np.inf
        gains.append(1 / np.log2(2 + ahead) if ahead < 10 else 0.0)
    assert count == len(gains)
    np.testing.assert_allclose(fits[0].history[fits[0].kept - 1].metric, np.mean(gains), rtol=1e-9)


@pytest.mark.parametrize("algorithm", MODELS)
def test_the_best_state_is_kept_and_training_stops_the_same_on_any_number_of_ranks(algorithm):
    model, settings = (
        MODELS[algorithm],
        Train(iterations=40, solver="cholesky", stop_metric="ndcg_at_10", stop_patience=3),
    )
    found = {size: train(size, model, settings) for size in (1, 3)}
    fits = [fitted for size in found for fitted in found[size][0]]
    metrics = [[iteration.metric for iteration in fitted.history] for fitted in fits]
    assert all(fitted.kept == fits[0].kept for fitted in fits)
    for other in metrics:
        np.testing.assert_allclose(other, metrics[0], rtol=1e-9)
    kept = fits[0].kept
    assert kept == int(np.argmax(metrics[0])) + 1
    assert len(metrics[0]) == kept + 3 < 40
    _, _, expected = train(1, model, Train(iterations=kept, solver="cholesky"))  # every iteration until the best one
    for size in (1, 3):
        for side in SIDES:
            for name, (factors, bias) in expected[side].items():
                np.testing.assert_allclose(found[size][2][side][name][0], factors, rtol=1e-3, atol=1e-4)
                np.testing.assert_allclose(found[size][2][side][name][1], bias, rtol=1e-3, atol=1e-4)


def test_nobody_to_measure_is_a_metric_of_zero():
    table = pa.table({"user_id": ["ann", "bob"], "item_id": ["x", "y"], "strength": [1.0, 2.0]})
    held_out, comm = HeldOut(1.0, "ndcg_at_10"), Local()
    shard = build_shard(comm, held_out.split(table.to_batches()))
    held_out.prepare(comm, shard)
    fitted = fit(
        shard, comm, Model(rank=2), Train(iterations=1), measure=lambda algorithm: held_out.measure(comm, algorithm)
    )
    assert held_out.count == 0
    assert fitted.history[0].metric == 0.0
