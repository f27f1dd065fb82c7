"""Fetches, stages and split rows: the same training for any budget, and exactly the needed rows on the wire."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from lakefactor.config import Model, Train
from lakefactor.factorization import als, plan, split
from lakefactor.factorization.exchange import make_schedule
from lakefactor.factorization.fitting import fit
from lakefactor.factorization.shard import build_shard
from lakefactor.factorization.wire import UNIT, expand, landing, pack, to_bfloat16
from lakefactor.testing.interactions import deal, random_interactions
from lakefactor.testing.threads import run_ranks
from lakefactor.types import SIDES, other

TABLE = random_interactions(90, 60, 1500, seed=8)
MODEL = Model(rank=6, alpha=2.0, user_reg=0.5, item_reg=0.3)
BIASED = Model(algorithm="explicit_als", rank=6, user_reg=1.0, item_reg=0.7)


def objectives(size: int, train: Train, model: Model = MODEL, table: pa.Table = TABLE) -> list[float]:
    dealt = deal(table, size)

    def on_rank(comm):
        return [i.objective for i in fit(build_shard(comm, dealt[comm.proc_rank]), comm, model, train).history]

    results = run_ranks(size, on_rank)
    assert all(result == results[0] for result in results)
    return results[0]


@pytest.fixture
def eager_common(monkeypatch):
    """Rows that all ranks need go from one buffer however few they are."""
    monkeypatch.setattr(plan, "MESSAGE_ROWS", 0)


def test_every_fetch_moves_exactly_the_needed_rows(eager_common):
    dealt = deal(TABLE, 4)

    def on_rank(comm):
        shard = build_shard(comm, dealt[comm.proc_rank])
        found = []
        for side in SIDES:
            ids, fetch = np.array(shard.rows[side].ids.to_pylist(), object), shard.plans[side]
            panel = fetch.fetch(comm, ids)
            before = comm.bytes_sent
            fetch.fetch(comm, np.zeros((len(ids), 6), np.float32))
            assert comm.bytes_sent - before == fetch.sent(comm.proc_rank) * 6 * 4
            received = fetch.rows - fetch.recv_counts[comm.proc_rank]
            found.append((panel.tolist(), shard.rows[other(side)].indices, fetch, received))
        return found

    ranks = run_ranks(4, on_rank)
    for number in (0, 1):
        assert sum(len(r[number][2].common) for r in ranks) > 0
        # What is sent is what is received, and every received row is one that an entry points to.
        sent = sum(r[number][2].sent(proc_rank) for proc_rank, r in enumerate(ranks))
        assert sent == sum(r[number][3] for r in ranks)
        for panel, indices, _, _ in (r[number] for r in ranks):
            assert len(set(panel)) == len(panel)
            np.testing.assert_array_equal(np.unique(indices), np.arange(len(panel)))


@pytest.mark.parametrize("budget_rows", [40, 50, 10_000])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_stages_hold_every_entry_and_keep_to_the_budget(size, budget_rows, eager_common):
    """Ids travel in place of factors: each stage's panel names the source of each entry."""
    table = random_interactions(90, 60, 600, seed=9)
    dealt = deal(table, size)

    def on_rank(comm):
        shard = build_shard(comm, dealt[comm.proc_rank])
        rows, source, whole = shard.rows["item"], shard.rows["user"], shard.plans["user"]
        first = int(np.count_nonzero(rows.n_entries > budget_rows // 2)) if size > 1 else 0
        schedule = make_schedule(comm, whole, rows.indptr, rows.indices, len(source.ids), budget_rows, first)
        own = np.array(source.ids.to_pylist(), object)
        expected = whole.fetch(comm, own)[rows.indices][rows.indptr[first] :]
        names = []
        for stage, panel in enumerate(schedule.start(comm, own)):
            begin, end = rows.indptr[schedule.bounds[stage : stage + 2]] - rows.indptr[first]
            names += panel[schedule.indices[begin:end]].tolist()
        assert names == expected.tolist()
        assert size == 1 or schedule.panel_rows <= budget_rows
        return schedule.stages

    stages = run_ranks(size, on_rank)
    assert len(set(stages)) == 1
    assert (stages[0] > 1) == (size > 1 and budget_rows < 90)


@pytest.mark.parametrize("model", [MODEL, BIASED], ids=["implicit", "biased"])
@pytest.mark.parametrize("solver", ["cholesky", "cg"])
@pytest.mark.parametrize("size", [2, 4])
def test_budget_changes_no_objective(size, solver, model, monkeypatch, eager_common):
    """With 40 rows of budget, the rows of more than 20 entries are split as well."""
    monkeypatch.setattr(als, "rows_of_budget", lambda megabytes, columns: 40 * megabytes)
    alone = objectives(1, Train(iterations=3, solver=solver), model)
    train = Train(iterations=3, solver=solver, memory_budget_mb=1)
    streamed = objectives(size, train, model)
    np.testing.assert_allclose(streamed, alone, rtol=1e-5)
    assert objectives(size, train, model) == streamed  # bit for bit


def test_one_item_with_nearly_all_entries_is_split(monkeypatch, capsys):
    users = [f"u{n}" for n in range(400)]
    table = pa.table(
        {"user_id": [*users, *users[:8]], "item_id": ["x"] * 400 + ["y"] * 8, "strength": [2.0] * 400 + [1.0] * 8}
    )
    assert split.limit(408, 4, 6, 0) == 25
    np.testing.assert_allclose(
        objectives(4, Train(iterations=3), table=table), objectives(1, Train(iterations=3), table=table), rtol=1e-5
    )
    assert "item half-step: 1 stages; 1 rows are split over the ranks" in capsys.readouterr().err


def test_bfloat16_is_torchs_rounding():
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).normal(size=10_001).astype(np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16)
    np.testing.assert_array_equal(to_bfloat16(values), expected.view(torch.uint16).numpy())
    rows = np.empty((73, 137), np.float32)
    landing(rows, "bfloat16")[...] = pack(values.reshape(73, 137), np.arange(73, dtype=np.int32), "bfloat16")
    expand(rows)
    np.testing.assert_array_equal(rows.reshape(-1), expected.float().numpy())
    assert (np.abs(rows.reshape(-1) - values) <= UNIT * np.abs(values)).all()


@pytest.mark.parametrize("budget", [0, 1])
def test_bfloat16_keeps_the_objective_within_its_bound(budget, monkeypatch):
    """The bound of `wire`: predictions move by UNIT |x||y|, hence the objective by sum_e w d (2|p| + d) + 2 |t| d."""
    monkeypatch.setattr(als, "rows_of_budget", lambda megabytes, columns: 40 * megabytes)
    dealt = deal(TABLE, 4)

    def on_rank(comm):
        shard = build_shard(comm, dealt[comm.proc_rank])
        train = Train(iterations=4, exchange_dtype="bfloat16", memory_budget_mb=budget, close=False)
        trained = fit(shard, comm, MODEL, train)
        named = {
            side: dict(zip(shard.rows[side].ids.to_pylist(), trained.factors[side], strict=True)) for side in SIDES
        }
        n_entries = {
            side: dict(zip(shard.rows[side].ids.to_pylist(), shard.rows[side].n_entries, strict=True)) for side in SIDES
        }
        return trained.history[-1].objective, named, n_entries

    ranks = run_ranks(4, on_rank)
    x, y = ({k: v.astype(np.float64) for r in ranks for k, v in r[1][side].items()} for side in SIDES)
    counts = [{k: v for r in ranks for k, v in r[2][side].items()} for side in SIDES]
    exact, bound = 0.0, 0.0
    for user, item, s in zip(*(TABLE[name].to_pylist() for name in TABLE.column_names), strict=True):
        p, w, t = x[user] @ y[item], 2 * s, 1 + 2 * s
        d = UNIT * np.linalg.norm(x[user]) * np.linalg.norm(y[item])
        exact += w * p * p - 2 * t * p + t
        bound += w * d * (2 * abs(p) + d) + 2 * t * d
    everyone, everything = np.array(list(x.values())), np.array(list(y.values()))
    exact += np.square(everyone @ everything.T).sum()
    for rows, n, reg in zip((x, y), counts, (MODEL.user_reg, MODEL.item_reg), strict=True):
        exact += sum(reg * n[key] ** MODEL.reg_exponent * (row @ row) for key, row in rows.items())
    assert abs(ranks[0][0] - exact) <= bound
    assert ranks[0][0] != pytest.approx(exact, rel=1e-7)  # it did round
    np.testing.assert_allclose(exact, objectives(1, Train(iterations=4))[-1], rtol=1e-3)
