"""Top-100 of all users, beside MLlib and `implicit`: ``make bench-recommend``.

100k users, 50k items, rank 64, random factors whose lengths are spread as trained ones are (log-normal). Two pairs,
each side by side on the same cores: the Spark job (`spark.scoring.top_items`) and MLlib's recommendForAllUsers, from
cached DataFrames of the same factors to rows that go nowhere; and the lists in one process (`TopItems`, a thread per
core) and `implicit`'s recommend. Lists are compared: `implicit`'s scores are float32 sums, so an item may differ where
two are equal to 1e-5.

Writes benchmarks/results/recommend.json (``--out`` names another file); the last line is one JSON object. A trial:
``python benchmarks/recommend.py --users 5000 --items 5000 --out /tmp/recommend.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from machine import machine
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from rich.table import Table
from scipy import sparse

from lakefactor.config import Recommend, load
from lakefactor.factorization.catalogue import Catalogue, as_lists
from lakefactor.factorization.lists import TopItems
from lakefactor.log import say, show
from lakefactor.spark.scoring import top_items
from lakefactor.spark.session import build

RESULTS = Path(__file__).resolve().parent / "results" / "recommend.json"
LIBRARIES = ("lakefactor", "pyspark", "implicit", "numba", "numpy", "pyarrow", "scipy")
SEED, N = 1, 100

Float32s = NDArray[np.float32]
Lists = tuple[Float32s, NDArray[np.int64]]


def factors(n: int, rank: int, seed: int) -> Float32s:
    """Return rows of random directions and log-normal lengths."""
    random = np.random.default_rng([SEED, seed])
    rows = random.normal(size=(n, rank)) / np.sqrt(rank)
    return (rows * random.lognormal(0.0, 0.5, (n, 1))).astype(np.float32)


def in_process(users: Float32s, items: Float32s, cores: int) -> Callable[[], Lists]:
    """Return our lists, made in this process by a thread per core."""
    m = len(items)
    catalogue = Catalogue(pa.array(range(m)), items, np.zeros(m, np.float32), np.ones(m, np.int64))
    rules = Recommend(n=N)
    starts = range(0, len(users), rules.user_block_rows)

    def run() -> Lists:
        top = TopItems(catalogue, 0.0, rules)

        def block(start: int) -> Lists:
            some = users[start : start + rules.user_block_rows]
            scores, columns = top.best(
                some, np.zeros(len(some)), (np.zeros(len(some) + 1, np.int64), np.empty(0, np.int32))
            )
            return scores, columns.astype(np.int64)

        with ThreadPoolExecutor(cores) as pool:
            parts = list(pool.map(block, starts))
        return np.concatenate([scores for scores, _ in parts]), np.concatenate([columns for _, columns in parts])

    return run


def by_implicit(users: Float32s, items: Float32s, cores: int) -> Callable[[], Lists]:
    """Return `implicit`'s lists for the same factors."""
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(factors=items.shape[1], num_threads=cores)
    model.user_factors, model.item_factors = users, items
    nothing = sparse.csr_matrix((len(users), len(items)), dtype=np.float32)

    def run() -> Lists:
        ids, scores = model.recommend(np.arange(len(users)), nothing, N=N, filter_already_liked_items=False)
        return scores, ids.astype(np.int64)

    return run


def by_our_job(users: DataFrame, items: Float32s) -> Callable[[], DataFrame]:
    """Return the rows of our Spark job."""
    m = len(items)
    catalogue = Catalogue(pa.array(range(m)), items, np.zeros(m, np.float32), np.ones(m, np.int64))
    return lambda: top_items(users, None, catalogue, 0.0, Recommend(n=N))


def by_mllib(spark: SparkSession, users: DataFrame, items: DataFrame, rank: int) -> Callable[[], DataFrame]:
    """Return the rows of MLlib's recommendForAllUsers, for a model that is made of the same factors."""
    made = spark._jvm.org.apache.spark.ml.recommendation.ALSModel("als", rank, users._jdf, items._jdf)
    made = made.setUserCol("user").setItemCol("item")
    return lambda: DataFrame(made.recommendForAllUsers(N), spark).selectExpr("user", "explode(recommendations) AS pair")


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Run once; return seconds and the result."""
    began = time.perf_counter()
    result = run()
    return time.perf_counter() - began, result


def differing(one: Lists, other: Lists) -> float:
    """Return the share of places at which scores differ by more than 1e-5 of the largest."""
    (a, _), (b, _) = one, other
    return float((np.abs(a - b) > 1e-5 * np.abs(a).max()).mean())


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Time all four; ours and its peer take turns."""
    users, items = factors(args.users, args.rank, 1), factors(args.items, args.rank, 2)
    warm = factors(2048, args.rank, 3)
    in_process(warm, items, args.cores)()
    runs = {"lakefactor": in_process(users, items, args.cores), "implicit": by_implicit(users, items, args.cores)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    lists: dict[str, Lists] = {}
    for _ in range(args.repeats):
        for name, run in runs.items():
            taken, lists[name] = timed(run)
            seconds[name].append(taken)
            say(f"{name}: {taken:.1f} s")
    result: dict[str, Any] = {"in_process": {name: statistics.median(taken) for name, taken in seconds.items()}}
    result["in_process_all"] = seconds
    result["differing"] = {"implicit": differing(lists["lakefactor"], lists["implicit"])}
    spark = build(
        load(None, [f"spark.master=local[{args.cores}]", f"spark.shuffle_partitions={args.cores}"]), "recommend"
    )
    try:
        result["job"] = jobs(spark, args, users, items)
    finally:
        spark.stop()
    return result


def jobs(spark: SparkSession, args: argparse.Namespace, users: Float32s, items: Float32s) -> dict[str, float]:
    """Time our Spark job and MLlib's, from the same cached factors."""
    frames = []
    for rows in (users, items):
        table = pa.table({"id": pa.array(np.arange(len(rows), dtype=np.int32)), "features": as_lists(rows)})
        frames.append(spark.createDataFrame(table).repartition(4 * args.cores).cache())
        frames[-1].count()
    ours = frames[0].selectExpr("bigint(id) AS user_id", "features AS factors", "float(0) AS bias")
    warm = by_our_job(ours.limit(2048), items)()
    warm.write.format("noop").mode("overwrite").save()
    found: dict[str, float] = {}
    runs = {"lakefactor": by_our_job(ours, items), "mllib": by_mllib(spark, *frames, args.rank)}
    for name, run in runs.items():
        if name == "mllib" and args.no_mllib:
            continue
        taken, _ = timed(lambda run=run: run().write.format("noop").mode("overwrite").save())
        found[name] = taken
        say(f"Spark job, {name}: {taken:.1f} s")
    return found


def main() -> None:
    """Measure, show, write, and print the last line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=3, help="turns of the two in one process")
    parser.add_argument("--no-mllib", action="store_true", help="leave MLlib out, which takes minutes")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    before = machine(LIBRARIES)
    measured = measure(args)
    own, job = measured["in_process"], measured["job"]
    headline = {"speedup_vs_implicit": round(own["implicit"] / own["lakefactor"], 3)}
    if "mllib" in job:
        headline = {"speedup_vs_mllib": round(job["mllib"] / job["lakefactor"], 3)} | headline
    problem = {name: getattr(args, name) for name in ("users", "items", "rank", "cores", "repeats")}
    record = {
        "problem": problem | {"n": N},
        "machine": before | {"load_average_after": machine(())["load_average"]},
        **measured,
        "headline": headline,
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    table = Table("", "users", "seconds", "users/s")
    for name, taken in own.items():
        table.add_row(name, f"{args.users:,}", f"{taken:.1f}", f"{args.users / taken:,.0f}")
    for name, taken in job.items():
        table.add_row(f"Spark job, {name}", f"{args.users:,}", f"{taken:.1f}", f"{args.users / taken:,.0f}")
    show(table)
    print(json.dumps(headline))


if __name__ == "__main__":
    main()
