"""Warm start: known rows begin as the live model has them, new ones as in a cold start, on any number of ranks."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from lakefactor.config import Model, Train
from lakefactor.errors import InputError
from lakefactor.factorization.fitting import Training, count, fit, make
from lakefactor.factorization.shard import build_shard, owner_of
from lakefactor.factorization.warm_start import WarmRows
from lakefactor.testing.interactions import random_interactions
from lakefactor.testing.threads import run_ranks
from lakefactor.types import SIDES

TABLE = random_interactions(30, 20, 250, seed=4)
RANK = 5
IDS = {side: sorted(set(TABLE[f"{side}_id"].to_pylist())) for side in SIDES}
KNOWN = {side: ids[::2] for side, ids in IDS.items()}
GONE = ["long-gone"]
MODELS = {
    "implicit_als": (Model(algorithm="implicit_als", rank=RANK), False),
    "explicit_als": (Model(algorithm="explicit_als", rank=RANK), True),
    "sgd": (Model(algorithm="sgd", rank=RANK), True),
}


def live_model(seed: int = 0, rank: int = RANK) -> dict:
    """Return {side: {id: (factors, bias)}} of half of the rows, and of one that no interaction mentions."""
    random = np.random.default_rng(seed)
    return {
        side: {name: (random.normal(size=rank).astype(np.float32), float(np.float32(random.normal())))
               for name in KNOWN[side] + GONE}
        for side in SIDES
    }  # fmt: skip


def stream(live: dict, size: int) -> list[list[pa.RecordBatch]]:
    """Return each rank's batches as Spark brings them: by the user's owner; items' rows go to any rank."""
    entries = TABLE.append_column("factors", pa.nulls(TABLE.num_rows, pa.list_(pa.float32())))
    tables = [entries.append_column("bias", pa.nulls(TABLE.num_rows, pa.float32()))]
    for side in SIDES:
        ids, nothing = pa.array(list(live[side]), pa.string()), pa.nulls(len(live[side]), pa.string())
        columns = [ids, nothing] if side == "user" else [nothing, ids]
        factors = pa.array([factors.tolist() for factors, _ in live[side].values()], pa.list_(pa.float32()))
        bias = pa.array([bias for _, bias in live[side].values()], pa.float32())
        strength = pa.nulls(len(ids), pa.float64())
        tables.append(pa.table([*columns, strength, factors, bias], names=tables[0].column_names))
    table = pa.concat_tables(tables).combine_chunks()
    users = table["user_id"].combine_chunks()
    anywhere = np.arange(table.num_rows) % size
    owner = np.where(users.is_null(), anywhere, owner_of(users.fill_null(""), size))
    table = table.append_column("owner", pa.array(owner))
    table = table.take(pa.array(np.random.default_rng(1).permutation(table.num_rows)))
    owner = table["owner"].to_numpy()
    return [table.filter(pa.array(owner == proc_rank)).drop(["owner"]).to_batches(50) for proc_rank in range(size)]


def start(algorithm: str, live: dict, size: int):
    """Return what was filled, and {side: {id: its row of the state}} before and after."""
    model, biased = MODELS[algorithm]
    dealt = stream(live, size)

    def on_rank(comm):
        warm = WarmRows(RANK, biased)
        shard = build_shard(comm, warm.split(dealt[comm.proc_rank]))
        training = Training(make(shard, comm, model, Train(), count(shard, comm)).state)
        cold = {side: training.state[side]["factors"].copy() for side in SIDES}
        filled = warm.fill(comm, shard, training)
        return filled, *(
            {side: dict(zip(shard.rows[side].ids.to_pylist(), rows[side], strict=True)) for side in SIDES}
            for rows in (cold, {side: training.state[side]["factors"] for side in SIDES})
        )

    results = run_ranks(size, on_rank)
    merged = [{side: {k: v for r in results for k, v in r[part][side].items()} for side in SIDES} for part in (1, 2)]
    return [result[0] for result in results], *merged


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("algorithm", MODELS)
def test_known_rows_are_filled_and_new_ones_stay_cold(algorithm, size):
    live = live_model()
    filled, cold, warm = start(algorithm, live, size)
    assert filled == [{side: len(KNOWN[side]) for side in SIDES}] * size
    for side in SIDES:
        assert sorted(warm[side]) == IDS[side]
        for name, row in warm[side].items():
            if name in live[side]:
                factors, bias = live[side][name]
                np.testing.assert_array_equal(row, np.append(factors, bias) if MODELS[algorithm][1] else factors)
            else:
                np.testing.assert_array_equal(row, cold[side][name])


@pytest.mark.parametrize("size", [1, 3])
def test_a_live_model_of_another_rank_is_refused_with_what_to_do(size):
    with pytest.raises(InputError, match=r"not of length 5; set model\.rank to the live model's, or train\.warm_start"):
        start("implicit_als", live_model(rank=4), size)


def test_a_warm_training_begins_where_the_last_one_ended():
    """The first objective of the second training is the one that another iteration of the first would have had."""
    model, settings = Model(rank=RANK), Train(iterations=6, solver="cholesky")
    nothing = {side: {} for side in SIDES}

    def train(live: dict, settings: Train):
        def on_rank(comm):
            warm = WarmRows(RANK, biased=False)
            shard = build_shard(comm, warm.split(stream(live, comm.size)[comm.proc_rank]))

            def begin(training: Training) -> None:
                warm.fill(comm, shard, training)

            fitted = fit(shard, comm, model, settings, start=begin)
            rows = {side: zip(shard.rows[side].ids.to_pylist(), fitted.factors[side], strict=True) for side in SIDES}
            return fitted.history, {side: {name: (row, 0.0) for name, row in rows[side]} for side in SIDES}

        results = run_ranks(2, on_rank)
        return results[0][0], {side: {k: v for r in results for k, v in r[1][side].items()} for side in SIDES}

    unbroken, _ = train(nothing, settings)
    _, live = train(nothing, settings.model_copy(update={"iterations": 5}))
    warm, _ = train(live, settings.model_copy(update={"iterations": 1}))
    np.testing.assert_allclose(warm[0].objective, unbroken[5].objective, rtol=1e-6)
    assert warm[0].objective < 0.999 * unbroken[0].objective
