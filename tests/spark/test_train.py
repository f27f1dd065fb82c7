"""train: interactions -> factor rows and a model row; the numbers are those of one process and of MLlib."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lakefactor.comm.local import Local
from lakefactor.config import Config, Model, Train
from lakefactor.errors import ConfigError, InputError, SetupError, SolveError, TableError
from lakefactor.factorization.fitting import fit
from lakefactor.factorization.shard import build_shard
from lakefactor.pipelines import publish, train
from lakefactor.spark.tables import Tables
from lakefactor.testing.interactions import random_interactions
from lakefactor.testing.tables import write_interactions

MODEL = Model(rank=6, alpha=2.0, user_reg=0.5, item_reg=0.3, reg_exponent=0.5)
EXPLICIT = Model(algorithm="explicit_als", rank=5, user_reg=1.0, item_reg=0.7, bias_reg=0.4)


def with_model(config: Config, model: Model, **train_keys: object) -> Config:
    keys = {"iterations": 3, "solver": "cholesky"} | train_keys
    return config.model_copy(update={"model": model, "train": config.train.model_copy(update=keys)})


@pytest.mark.parametrize(
    ("model", "long_ids", "ranks"), [(MODEL, False, 2), (EXPLICIT, True, 1)], ids=["implicit", "explicit"]
)
def test_tables_hold_what_one_process_computes(spark, config, model, long_ids, ranks):
    table = random_interactions(60, 40, 900, seed=5, long_ids=long_ids)
    tables = write_interactions(spark, config, table)
    config = with_model(config, model, ranks=ranks)
    result = train.run(spark, config)

    shard = build_shard(Local(), table.to_batches())
    expected = fit(shard, Local(), model, config.train)
    for side in ("user", "item"):
        ids, counts = shard.rows[side].ids.to_pylist(), shard.rows[side].n_entries.tolist()
        found = {row[f"{side}_id"]: row for row in tables.read(f"{side}_factors").collect()}
        assert sorted(found) == sorted(ids)
        for row, row_id in enumerate(ids):
            np.testing.assert_allclose(found[row_id].factors, expected.factors[side][row], atol=1e-4)
            assert found[row_id].bias == pytest.approx(expected.bias[side][row], abs=1e-4)
            assert found[row_id].n_entries == counts[row]
            assert (found[row_id].model_version, found[row_id].batch_id) == (result.model_version, -1)

    (model_row,) = tables.read("models").collect()
    assert model_row.model_version == result.model_version
    assert Config.model_validate_json(model_row.config) == config
    assert model_row.input_versions == {"interactions": tables.version("interactions")}
    assert model_row.library_versions["pyspark"] == "4.1.1"
    assert (model_row.n_users, model_row.n_items) == (len(shard.rows["user"].ids), len(shard.rows["item"].ids))
    assert model_row.n_interactions == table.num_rows == result.interactions
    np.testing.assert_allclose(model_row.objective_history, [i.objective for i in expected.history], rtol=1e-5)
    assert model_row.objective == result.objective == pytest.approx(expected.objective, rel=1e-5)
    assert model_row.objective < model_row.objective_history[-1]  # users are solved once more


def test_several_versions_stand_side_by_side(spark, config):
    tables = write_interactions(spark, config, random_interactions(20, 10, 80, seed=1))
    versions = [train.run(spark, with_model(config, MODEL), fresh=True).model_version for _ in range(2)]
    assert versions[0] < versions[1]
    counts = {
        row.model_version: row["count"]
        for row in tables.read("user_factors").groupBy("model_version").count().collect()
    }
    assert set(counts) == set(versions)
    assert len(set(counts.values())) == 1


def test_the_same_training_is_found_and_not_done_again(spark, config, monkeypatch):
    config = with_model(config, MODEL, iterations=2)
    tables = write_interactions(spark, config, random_interactions(20, 10, 60, seed=1))
    first = train.run(spark, config)
    again = train.run(spark, config.model_copy(update={"train": config.train.model_copy(update={"ranks": 1})}))
    same = ("model_version", "interactions_version", "users", "items", "interactions", "objective", "iterations")
    assert [getattr(again, name) for name in same] == [getattr(first, name) for name in same]
    assert (first.attempts, again.attempts) == (1, 0)

    done, asked = train._done, iter([None])
    monkeypatch.setattr(train, "_done", lambda *of: next(asked) if asked.__length_hint__() else done(*of))
    assert train.run(spark, config).model_version == first.model_version  # of two that end together one counts
    monkeypatch.undo()

    fresh = train.run(spark, config, fresh=True)
    other = train.run(spark, with_model(config, MODEL, iterations=3))
    assert train.run(spark, config).model_version == fresh.model_version
    made = {row.model_version: row.identity for row in tables.read("models").collect()}
    assert sorted(made) == [first.model_version, fresh.model_version, other.model_version]
    assert made[first.model_version] == made[fresh.model_version] != made[other.model_version]


def test_a_training_that_runs_elsewhere_is_not_started_again(spark, config):
    config = with_model(config, MODEL, iterations=2)
    write_interactions(spark, config, random_interactions(20, 10, 60, seed=1))
    train.run(spark, config)
    (lease,) = Path(config.tables.root, "_snapshots", "_leases").glob("*/lease.json")
    holder = json.loads(lease.read_text()) | {"pid": os.getppid(), "renewed_at": time.time()}
    lease.write_text(json.dumps(holder))
    with pytest.raises(SetupError, match=rf"the same training is running on {socket.gethostname()} \(process "):
        train.run(spark, config, fresh=True)
    assert train.run(spark, with_model(config, MODEL, iterations=3)).attempts == 1


@pytest.mark.parametrize("implicit_feedback", [True, False])
def test_agrees_with_mllib(spark, implicit_feedback):
    """MLlib solves users last: an exact half-step from its item factors gives its user factors (nu = 1)."""
    from pyspark.ml.recommendation import ALS
    from scipy import sparse

    from lakefactor.factorization.equation import Equation
    from lakefactor.kernels import Method, System, gramian, half_step

    table = random_interactions(40, 30, 500, seed=3, long_ids=True)
    numbers = {
        side: {v: n for n, v in enumerate(sorted(set(table[side].to_pylist())))} for side in ("user_id", "item_id")
    }
    users = [numbers["user_id"][v] for v in table["user_id"].to_pylist()]
    items = [numbers["item_id"][v] for v in table["item_id"].to_pylist()]
    strengths = table["strength"].to_numpy().astype(np.float32)
    frame = spark.createDataFrame(
        list(zip(users, items, strengths.tolist(), strict=True)), "user int, item int, rating float"
    )
    als = ALS(
        rank=5,
        maxIter=3,
        regParam=0.1,
        alpha=1.5,
        implicitPrefs=implicit_feedback,
        userCol="user",
        itemCol="item",
        seed=1,
    )
    peer = als.fit(frame)
    peer_users = np.array([row.features for row in peer.userFactors.orderBy("id").collect()], np.float32)
    source = np.array([row.features for row in peer.itemFactors.orderBy("id").collect()], np.float32)

    matrix = sparse.csr_matrix((strengths, (users, items)))
    implicit = Equation(Model(rank=5, alpha=1.5, user_reg=0.1, item_reg=0.1, reg_exponent=1))
    n_entries = np.diff(matrix.indptr).astype(np.int64)
    reg = implicit.reg("user", n_entries, len(source))
    x = np.zeros((len(n_entries), 5), np.float32)
    system = System(
        matrix.indptr.astype(np.int64),
        matrix.indices.astype(np.int32),
        implicit.weights(matrix.data) if implicit_feedback else np.ones_like(matrix.data),
        implicit.targets(matrix.data) if implicit_feedback else matrix.data,
        reg,
        reg,
    )
    base = gramian(source).astype(np.float32) if implicit_feedback else np.zeros((5, 5), np.float32)
    half_step(system, source, base, x, Method("cholesky"))
    np.testing.assert_allclose(x, peer_users, atol=2e-5 * np.abs(peer_users).max(), rtol=2e-4)


@pytest.mark.parametrize(
    ("model", "table"),
    [
        (MODEL, pa.table({"user_id": [2**31, 2**62], "item_id": [-5, -(2**40)], "strength": [1.0, 1e6]})),
        (
            EXPLICIT,
            pa.table(
                {"user_id": ["a b'c\"d`", "ü" * 300], "item_id": ["; DROP TABLE x; --", "日本"], "strength": [1.0, 2.0]}
            ),
        ),
    ],
    ids=["large ids", "strange ids"],
)
def test_ids_arrive_as_they_are(spark, config, model, table):
    tables = write_interactions(spark, config, table)
    train.run(spark, with_model(config, model, iterations=1))
    for side in ("user", "item"):
        rows = tables.read(f"{side}_factors").collect()
        assert {row[f"{side}_id"] for row in rows} == set(table[f"{side}_id"].to_pylist())
        assert np.isfinite([[*row.factors, row.bias] for row in rows]).all()


def test_singular_system_is_a_clear_error(spark, config):
    write_interactions(spark, config, random_interactions(20, 10, 60, seed=1))
    model = EXPLICIT.model_copy(update={"user_reg": 0.0, "item_reg": 0.0, "bias_reg": 0.0, "rank": 30})
    with pytest.raises(SolveError, match=r"user rows are singular or not finite; raise model\.user_reg"):
        train.run(spark, with_model(config, model))


def test_empty_interactions_are_a_clear_error(spark, config):
    write_interactions(spark, config, random_interactions(2, 2, 2, seed=1).slice(0, 0))
    with pytest.raises(InputError, match="there are no interactions to train on"):
        train.run(spark, with_model(config, MODEL))


def test_missing_table_is_a_clear_error(spark, config):
    with pytest.raises(TableError, match="table interactions does not exist"):
        train.run(spark, config)


def test_more_ranks_than_slots_are_refused_before_reading(spark, config):
    write_interactions(spark, config, random_interactions(20, 10, 60, seed=1))
    with pytest.raises(SetupError, match=r"train.ranks is 3, but the cluster local\[2\] runs 2 tasks at once"):
        train.run(spark, with_model(config, MODEL, ranks=3))


CLUSTER_SCRIPT = """
import json, sys
from lakefactor.config import load
from lakefactor.pipelines import publish, train
from lakefactor.spark.session import build
from lakefactor.testing.interactions import random_interactions
from lakefactor.testing.tables import write_interactions

config = load(None, sys.argv[1:])
spark = build(config, "cluster test")
write_interactions(spark, config, random_interactions(60, 40, 900, seed=5))
print(json.dumps(train.run(spark, config).model_dump()))
spark.stop()
"""


@pytest.mark.slow
def test_real_executor_processes(tmp_path):
    """Two executors in processes of their own; the objective is that of one process."""
    settings = [
        f"tables.root={tmp_path}/warehouse",
        "spark.master=local-cluster[2,1,1024]",
        "spark.shuffle_partitions=2",
        "model.rank=6",
        "train.iterations=3",
        "train.solver=cholesky",
    ]
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER_SCRIPT, *settings], capture_output=True, text=True, timeout=400, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    shard = build_shard(Local(), random_interactions(60, 40, 900, seed=5).to_batches())
    expected = fit(shard, Local(), Model(rank=6), Train(iterations=3, solver="cholesky"))
    assert found["objective"] == pytest.approx(expected.objective, rel=1e-5)


def test_tables_are_reachable_by_name_in_a_catalog(spark, config):
    name = "lakefactor_test"
    config = with_model(
        config.model_copy(update={"tables": config.tables.model_copy(update={"root": "", "catalog": name})}), MODEL
    )
    spark.sql(f"DROP SCHEMA IF EXISTS {name} CASCADE")
    try:
        tables = write_interactions(spark, config, random_interactions(20, 10, 60, seed=1))
        version = train.run(spark, config).model_version
        assert spark.sql(f"SELECT DISTINCT model_version FROM {name}.user_factors").collect()[0][0] == version
        assert isinstance(tables, Tables)
    finally:
        spark.sql(f"DROP SCHEMA IF EXISTS {name} CASCADE")


@pytest.mark.parametrize("exponent", [0.0, 0.5])
def test_a_warm_start_goes_on_where_the_live_model_ended(spark, config, exponent):
    model = MODEL.model_copy(update={"item_norm_exponent": exponent})
    tables = write_interactions(spark, config, random_interactions(60, 40, 900, seed=5))
    gate = config.publish.model_copy(update={"require_evaluation": False, "beat_popularity": False})
    config = with_model(config.model_copy(update={"publish": gate}), model, iterations=8)
    cold = train.run(spark, config)
    publish.run(spark, config, cold.model_version)
    warm = train.run(spark, with_model(config, model, iterations=1, warm_start=True))
    assert warm.objective <= cold.objective * (1 + 1e-6)
    assert warm.objective > 0.99 * cold.objective  # and it is the same problem

    more = random_interactions(80, 50, 1500, seed=5)  # with users and items that the live model lacks
    write_interactions(spark, config, more)
    grown = train.run(spark, with_model(config, model, iterations=1, warm_start=True))
    assert (grown.users, grown.items) == (80, 50)
    assert grown.objective < train.run(spark, with_model(config, model, iterations=1)).objective
    noted = tables.read("run_log").where(f"run_id = '{grown.model_version}' AND phase = 'total'").first()
    assert f"warm start from the live model {cold.model_version}" in noted.details

    other_rank = model.model_copy(update={"rank": 7})
    with pytest.raises(ConfigError, match=r"model\.rank is 7, but the live model .* has 6; set model\.rank to 6"):
        train.run(spark, with_model(config, other_rank, warm_start=True))
