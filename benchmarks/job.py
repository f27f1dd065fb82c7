"""The whole job from Delta to Delta, beside MLlib ALS in the same Spark session on the same table.

Ours: `lakefactor.pipelines.train`, from ``interactions`` with string ids to factor rows and a model row. MLlib's:
index both ids (StringIndexer), fit (ALS, implicit feedback, the same objective), put the ids back (IndexToString) and
write both factor tables. Repetitions in turn. ``make bench-train`` runs this with the others.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from kernels import synthetic
from pyspark.ml.feature import IndexToString, StringIndexer
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Config, load
from lakefactor.log import say
from lakefactor.pipelines import train
from lakefactor.spark.session import build
from lakefactor.spark.tables import Tables

REG, ALPHA, SEED = 0.1, 1.0, 1


def configuration(root: str, rank: int, iterations: int, cores: int) -> Config:
    """Return ours, with MLlib's objective: w = alpha*s, lambda = reg * n."""
    return load(
        None,
        [
            f"tables.root={root}",
            f"spark.master=local[{cores}]",
            f"spark.shuffle_partitions={2 * cores}",
            "spark.driver_memory=10g",
            "model.algorithm=implicit_als",
            f"model.rank={rank}",
            f"model.alpha={ALPHA}",
            f"model.user_reg={REG}",
            f"model.item_reg={REG}",
            "model.reg_exponent=1.0",
            f"model.seed={SEED}",
            f"train.iterations={iterations}",
            f"train.ranks={cores}",
        ],
    )


def write_interactions(spark: SparkSession, config: Config, users: int, items: int, entries: int) -> DataFrame:
    """Fill the table ``interactions`` with synthetic entries under string ids, in random order."""
    indptr, indices, strengths = synthetic(users, items, entries, SEED).by_user
    order = np.random.default_rng(SEED).permutation(entries)
    user_of = np.repeat(np.arange(users, dtype=np.int32), np.diff(indptr))[order]
    ids = [pa.array([f"{name}-{number:08d}" for number in range(n)]) for name, n in (("user", users), ("item", items))]
    table = pa.table(
        {
            "user_id": ids[0].take(pa.array(user_of)),
            "item_id": ids[1].take(pa.array(indices[order])),
            "strength": strengths[order].astype(np.float64),
        }
    )
    tables = Tables(spark, config.tables)
    tables.ensure("interactions", "string", "string")
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder, "entries.parquet"))
        pyarrow.parquet.write_table(table, file, row_group_size=500_000)
        rows = spark.read.parquet(file).withColumns(
            {"n_events": F.lit(1).cast("bigint"), "last_event_time": F.lit(None).cast("timestamp")}
        )
        tables.overwrite("interactions", rows, {})
    return tables.read("interactions")


def ours(spark: SparkSession, config: Config) -> dict[str, float]:
    """Train once; return seconds and the objective."""
    result = train.run(spark, config)
    return {
        "seconds": result.seconds,
        "seconds_per_iteration": result.seconds_per_iteration,
        "objective": result.objective,
    }


def mllib(
    spark: SparkSession, interactions: DataFrame, rank: int, iterations: int, cores: int, out: str
) -> dict[str, Any]:
    """Index, fit and write once; return seconds per part and the factors' objective."""
    start = time.perf_counter()
    rows = interactions.select("user_id", "item_id", F.col("strength").cast("float"))
    indexer = StringIndexer(inputCols=["user_id", "item_id"], outputCols=["user", "item"]).fit(rows)
    ratings = indexer.transform(rows).select(F.col("user").cast("int"), F.col("item").cast("int"), "strength")
    indexed = time.perf_counter()
    began = time.time()
    als = ALS(
        rank=rank, maxIter=iterations, regParam=REG, alpha=ALPHA, implicitPrefs=True, seed=SEED,
        userCol="user", itemCol="item", ratingCol="strength", numUserBlocks=cores, numItemBlocks=cores,
    )  # fmt: skip
    model = als.fit(ratings)
    fitted = time.perf_counter()
    sides = (("user", indexer.labelsArray[0], model.userFactors), ("item", indexer.labelsArray[1], model.itemFactors))
    for side, labels, factors in sides:
        back = IndexToString(inputCol="number", outputCol=f"{side}_id", labels=labels)
        named = back.transform(factors.withColumn("number", F.col("id").cast("double")))
        named.select(f"{side}_id", F.col("features").alias("factors")).write.format("delta").mode("overwrite").save(
            f"{out}/{side}_factors"
        )
    written = time.perf_counter()
    return {
        "seconds": written - start,
        "index_seconds": indexed - start,
        "fit_seconds": fitted - indexed,
        "write_seconds": written - fitted,
        "seconds_per_iteration": _iteration_seconds(_jobs(spark, began), iterations),
        "objective": _objective(ratings, model.userFactors, model.itemFactors),
    }


def _jobs(spark: SparkSession, since: float) -> list[tuple[str, float, float]]:
    """Return (name, start, end) of the Spark jobs since a time, in order; Spark keeps the last 1000.

    A name says which line called, without the folders of this machine.
    """
    found = spark.sparkContext._jsc.sc().statusStore().jobsList(None)
    jobs = [found.apply(number) for number in range(found.size())]
    named = [
        (
            re.sub(r" at .*/", " at ", job.name()),
            job.submissionTime().get().getTime() / 1e3,
            job.completionTime().get().getTime() / 1e3,
        )
        for job in sorted(jobs, key=lambda job: job.jobId())
    ]
    return [job for job in named if job[1] >= since]


def _iteration_seconds(jobs: list[tuple[str, float, float]], iterations: int) -> float:
    """Return seconds per iteration of one fit: its half-steps run in the jobs ``aggregate`` (Y'Y) and a last ``count``.

    The first ``aggregate`` is over the initial factors and is left out, as are the jobs that build the blocks.
    """
    aggregates = [job for job in jobs if job[0].startswith("aggregate at ALS")]
    counts = [job for job in jobs if job[0].startswith("count at ALS") and job[1] > aggregates[-1][1]]
    return (counts[0][2] - aggregates[1][1]) / iterations


def _objective(ratings: DataFrame, user_factors: DataFrame, item_factors: DataFrame) -> float:
    """Return the objective that both minimise, for MLlib's factors (sum over entries of c(1-p)^2 and all other p^2)."""
    factors = []
    for frame in (user_factors, item_factors):
        table = frame.toArrow().sort_by("id").combine_chunks()
        lists = table["features"].combine_chunks()
        matrix = np.zeros((table["id"][-1].as_py() + 1, len(lists[0])), np.float32)
        matrix[table["id"].to_numpy()] = lists.flatten().to_numpy().reshape(len(lists), -1)
        factors.append(matrix)
    entries = ratings.toArrow()
    users, items, strengths = (entries[name].to_numpy() for name in ("user", "item", "strength"))
    x, y = factors
    total = float(np.sum((x.T.astype(np.float64) @ x) * (y.T.astype(np.float64) @ y)))
    for some in np.array_split(np.arange(len(users)), max(1, len(users) // 500_000)):
        p = np.einsum("ij,ij->i", x[users[some]], y[items[some]], dtype=np.float64)
        s = strengths[some].astype(np.float64)
        total += float(np.sum((1 + ALPHA * s) * (1 - p) ** 2 - p**2))
    for numbers, matrix in ((users, x), (items, y)):
        counts = np.bincount(numbers, minlength=len(matrix))
        total += REG * float(counts @ np.square(matrix, dtype=np.float64).sum(axis=1))
    return total


def run(users: int, items: int, entries: int, rank: int, iterations: int, repeats: int, cores: int) -> dict[str, Any]:
    """Measure both in turn; return every repetition and the ratios of the medians."""
    found: dict[str, list[dict[str, Any]]] = {"lakefactor": [], "mllib": []}
    with tempfile.TemporaryDirectory() as root:
        config = configuration(root, rank, iterations, cores)
        spark = build(config, "lakefactor job benchmark")
        interactions = write_interactions(spark, config, users, items, entries)
        for repeat in range(repeats):
            found["lakefactor"].append(ours(spark, config))
            say(f"job {repeat + 1}/{repeats}: lakefactor {found['lakefactor'][-1]['seconds']:.1f} s")
            found["mllib"].append(mllib(spark, interactions, rank, iterations, cores, f"{root}/mllib"))
            say(f"job {repeat + 1}/{repeats}: MLlib {found['mllib'][-1]['seconds']:.1f} s")
        spark.stop()
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()
    }
    ratio = {key: medians["mllib"][key] / medians["lakefactor"][key] for key in ("seconds", "seconds_per_iteration")}
    return {
        "problem": {"users": users, "items": items, "entries": entries, "rank": rank, "iterations": iterations},
        "cores": cores,
        "repetitions": found,
        "medians": medians,
        "iteration_speedup_vs_mllib": ratio["seconds_per_iteration"],
        "wall_speedup_vs_mllib": ratio["seconds"],
    }


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {
        "users": 70_000, "items": 10_000, "entries": 10_000_000, "rank": 64, "iterations": 10, "repeats": 3, "cores": 2,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value:,}")
    print(json.dumps(run(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
