"""Held-out NDCG against seconds of training: ours, `implicit` and MLlib, on real data, at one objective.

All three minimise sum c(1-p)^2 with c = 1 + alpha*s over observed pairs, p^2 over the others, and a penalty; ours has
MLlib's penalty (reg * n). `implicit` knows reg alone (nu = 0), so its reg is scaled by the mean number of entries.
Seconds are those of the iterations and of what comes before them (ours: numbering the ids too), measuring left out.
MLlib, which cannot be watched, is fitted anew for each number of iterations, ids indexed before. Two threads each.
``make bench-train`` runs this with the others.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import peers
import pyarrow as pa
from implicit.als import AlternatingLeastSquares
from matrices import batch_of, in_order
from pyspark.ml.recommendation import ALS
from pyspark.sql import SparkSession
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from lakefactor.comm.local import Local
from lakefactor.config import Model, Train, load
from lakefactor.factorization.fitting import count, make
from lakefactor.factorization.shard import build_shard
from lakefactor.spark.session import build
from lakefactor.types import SIDES

RANK, ALPHA, REG, SEED = 64, 10.0, 0.05, 1
DATA = {"lastfm": 10, "amazon-book": 20}
ITERATIONS = 15
MLLIB_ITERATIONS = (1, 2, 4, 8, 15)
Points = list[tuple[float, float]]
"""(seconds, NDCG) after an iteration."""


def lakefactor(train: csr_matrix, test: csr_matrix, k: int, solver: Any) -> Points:
    """Return ours, one point for each iteration."""
    batch = batch_of(train)
    start = time.perf_counter()
    shard, comm = build_shard(Local(), [batch]), Local()
    model = Model(rank=RANK, alpha=ALPHA, user_reg=REG, item_reg=REG, reg_exponent=1.0, seed=SEED, strength="binary")
    settings = Train(iterations=ITERATIONS, solver=solver, threads_per_rank=2)
    algorithm = make(shard, comm, model, settings, count(shard, comm))
    seconds, points = time.perf_counter() - start, []
    for _ in range(ITERATIONS):
        start = time.perf_counter()
        algorithm.iterate()
        seconds += time.perf_counter() - start
        factors = [
            in_order(n, shard.rows[side].ids.to_numpy(), algorithm.factors(side))
            for side, n in zip(SIDES, train.shape, strict=True)
        ]
        points.append((seconds, _ndcg(*factors, train, test, k)))
    return points


def implicit(train: csr_matrix, test: csr_matrix, k: int, use_cg: bool) -> Points:
    """Return `implicit`'s, one point for each iteration."""
    points: Points = []
    seconds, since = 0.0, time.perf_counter()

    def report(_iteration: int, _seconds: float, _loss: float | None) -> None:
        nonlocal seconds, since
        seconds += time.perf_counter() - since
        points.append((seconds, _ndcg(model.user_factors, model.item_factors, train, test, k)))
        since = time.perf_counter()

    reg = REG * train.nnz / np.mean(train.shape)
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=RANK, regularization=reg, alpha=1.0, iterations=ITERATIONS, use_cg=use_cg, num_threads=2,
            random_state=SEED,
        )  # fmt: skip
        confidence = csr_matrix((1 + ALPHA * np.ones_like(train.data), train.indices, train.indptr), train.shape)
        since = time.perf_counter()
        model.fit(confidence, show_progress=False, callback=report)
    return points


def mllib(spark: SparkSession, train: csr_matrix, test: csr_matrix, k: int) -> Points:
    """Return MLlib's, one point for each number of iterations."""
    users = np.repeat(np.arange(train.shape[0], dtype=np.int32), np.diff(train.indptr))
    rows = spark.createDataFrame(
        pa.table({"user": users, "item": train.indices, "rating": np.ones(train.nnz, np.float32)})
    ).cache()
    rows.count()
    points = []
    for iterations in MLLIB_ITERATIONS:
        als = ALS(
            rank=RANK, maxIter=iterations, regParam=REG, alpha=ALPHA, implicitPrefs=True, seed=SEED,
            userCol="user", itemCol="item", ratingCol="rating", numUserBlocks=2, numItemBlocks=2,
        )  # fmt: skip
        start = time.perf_counter()
        model = als.fit(rows)
        seconds = time.perf_counter() - start
        factors = []
        for frame, n in ((model.userFactors, train.shape[0]), (model.itemFactors, train.shape[1])):
            table = frame.toArrow().combine_chunks()
            numbers = table["features"].combine_chunks().flatten().to_numpy().reshape(-1, RANK)
            factors.append(in_order(n, table["id"].to_numpy(), numbers))
        points.append((seconds, _ndcg(*factors, train, test, k)))
    rows.unpersist()
    return points


def _ndcg(users: np.ndarray, items: np.ndarray, train: csr_matrix, test: csr_matrix, k: int) -> float:
    return peers.evaluate(users, items, train, test, [k], threads=2)[f"ndcg_at_{k}"]


def run(names: Sequence[str] = tuple(DATA)) -> dict[str, Any]:
    """Measure all data sets that are here; return the points of each trainer by data set."""
    if not peers.data_folder().is_dir():
        return {"skipped": f"no data sets at {peers.data_folder().name}; set LAKEFACTOR_DATA"}
    settings = ["spark.master=local[2]", "spark.shuffle_partitions=4", "spark.driver_memory=6g"]
    spark = build(load(None, settings), "lakefactor time to quality")
    found = {}
    for name in names:
        k = DATA[name]
        entries = peers.matrix(peers.load(name))
        mask = peers.held_out(entries, 0.2, per_user=True, seed=SEED)
        train, test = peers.part(entries, ~mask), peers.part(entries, mask)
        for solver in ("cg", "cholesky"):  # loads what was compiled before
            lakefactor(train[:50], test[:50], k, solver)
        found[name] = {
            "metric": f"ndcg_at_{k}",
            "interactions": int(train.nnz),
            "lakefactor cg": lakefactor(train, test, k, "cg"),
            "implicit cg": implicit(train, test, k, use_cg=True),
            "lakefactor exact": lakefactor(train, test, k, "cholesky"),
            "implicit exact": implicit(train, test, k, use_cg=False),
            "mllib": mllib(spark, train, test, k),
        }
        print(f"time to quality: {name} done", file=sys.stderr)
    spark.stop()
    return {"rank": RANK, "alpha": ALPHA, "reg": REG, "threads": 2, "data": found}


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1:] or tuple(DATA))))
