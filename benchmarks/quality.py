"""Rank and rating metrics on real data, through the whole pipeline, beside `implicit` and popularity.

``make bench-quality`` (or ``python benchmarks/quality.py [task ...]``): each task ingests a data set, trains,
evaluates by the configured split, and gives `implicit`, tuned by ``tune_peers.py``, the very same folds. Prints a
table and, as the last line, one JSON object; writes everything to benchmarks/results/quality.json.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import peers
import pyarrow as pa
from machine import machine
from pyspark.sql import SparkSession
from rich.table import Table
from scipy.sparse import csr_matrix

from lakefactor.config import Config, load
from lakefactor.log import say, show
from lakefactor.pipelines import evaluate, ingest, train
from lakefactor.spark.session import build
from lakefactor.spark.splits import Fold, folds
from lakefactor.spark.tables import Tables

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "quality.json"
LIBRARIES = ("lakefactor", "pyspark", "delta-spark", "numpy", "numba", "scipy", "torch", "implicit")

ML_100K = ("ml-100k", "ratings.csv")
PER_USER_20 = ("evaluate.split=random_holdout", "evaluate.holdout_fraction=0.2")


@dataclass(frozen=True)
class Task:
    """One data set with one split.

    Attributes
    ----------
    data : tuple of str
        Folder and file.
    settings : tuple of str
        Configuration, as ``--set`` takes it.
    metrics : tuple of str
        What is reported, of everything that is measured.
    peer : str
        Task of ``tune_peers.py``; empty: `implicit` has no such model.
    wanted : dict
        Figures to reach.
    """

    data: tuple[str, str]
    settings: tuple[str, ...]
    metrics: tuple[str, ...]
    peer: str = ""
    wanted: tuple[tuple[str, float], ...] = ()


TASKS = {
    "ml100k_explicit": Task(
        ML_100K,
        (
            "model.algorithm=explicit_als",
            "model.rank=16",
            "model.posterior_draws=200",
            "model.user_reg=1.0",
            "model.reg_exponent=0.0",
            "train.iterations=220",
            "evaluate.split=k_fold",
            "evaluate.folds=5",
        ),
        ("rmse", "mae"),
        wanted=(("rmse", 0.900),),
    ),
    # strength, rank and regularization by compare_ours.py on six validation parts of a training part
    "ml100k": Task(
        ML_100K,
        (
            "model.algorithm=implicit_als",
            "model.rank=64",
            "model.strength=value",
            "model.alpha=0.65",
            "model.user_reg=10.0",
            "model.item_reg=10.0",
            "model.reg_exponent=0.25",
            "train.iterations=14",
            "evaluate.split=k_fold",
            "evaluate.folds=5",
        ),
        ("precision_at_5", "ndcg_at_10"),
        peer="ml100k",
        wanted=(("precision_at_5", 0.46), ("ndcg_at_10", 0.445)),
    ),
    "ml100k_7525": Task(
        ML_100K,
        (
            "model.algorithm=implicit_als",
            "model.rank=96",
            "model.strength=value",
            "model.alpha=0.66",
            "model.user_reg=19.7",
            "model.item_reg=6.0",
            "model.reg_exponent=0.244",
            "train.iterations=13",
            "evaluate.split=random_holdout",
            "evaluate.holdout_fraction=0.25",
        ),
        ("ndcg_at_10",),
        peer="ml100k_7525",
        wanted=(("ndcg_at_10", 0.505),),
    ),
    "lastfm": Task(("lastfm", "plays.csv"), PER_USER_20, ("ndcg_at_10",), peer="lastfm"),
    "amazon_book": Task(
        ("amazon-book", "interactions.csv.gz"),
        (
            *PER_USER_20,
            "model.algorithm=implicit_als",
            "model.rank=256",
            "model.strength=binary",
            "model.alpha=25.0",
            "model.user_reg=2.0",
            "model.item_reg=0.7",
            "model.reg_exponent=1.0",
            "model.item_norm_exponent=0.6",
            "train.iterations=10",
        ),
        ("ndcg_at_20",),
        peer="amazon_book",
    ),
}


def tuned_settings(name: str) -> list[str]:
    """Return what ``tune_ours.py`` found for a task, as settings; none where the task states its own."""
    record = json.loads((HERE / "our_params.json").read_text())
    if any(setting.startswith("model.") for setting in TASKS[name].settings):
        return []
    found = dict(record[name]["params"])
    iterations = found.pop("iterations")
    model = [
        f"model.{key}={value:.4g}" if isinstance(value, float) else f"model.{key}={value}"
        for key, value in found.items()
    ]
    return [*model, f"train.iterations={iterations}"]


def run_task(spark: SparkSession, name: str, root: str) -> dict[str, Any]:
    """Run one task; return its figures by recommender, its configuration and its times."""
    task = TASKS[name]
    settings = [*task.settings, *tuned_settings(name), f"tables.root={root}/{name}", "evaluate.ks=[5,10,20]"]
    config = load(None, [*settings, "spark.master=local[2]", "spark.shuffle_partitions=4", "publish.metric=ndcg_at_10"])
    started = time.perf_counter()
    ingested = ingest.run(spark, config, [str(peers.data_folder().joinpath(*task.data))])
    trained = train.run(spark, config)
    evaluated = evaluate.run(spark, config, trained.model_version)
    figures: dict[str, dict[str, float]] = dict(evaluated.metrics)
    seconds = {"pipeline": time.perf_counter() - started}
    if task.peer:
        started = time.perf_counter()
        figures["implicit"] = peer_figures(spark, config, task)
        seconds["implicit"] = time.perf_counter() - started
    return {
        "figures": figures,
        "events": ingested.accepted,
        "interactions": trained.interactions,
        "users": trained.users,
        "items": trained.items,
        "seconds": seconds,
        "seconds_per_iteration": trained.seconds_per_iteration,
        "settings": settings[:-2],
    }


def peer_figures(spark: SparkSession, config: Config, task: Task) -> dict[str, float]:
    """Train and measure `implicit` on the folds of the pipeline; each metric with the parameters tuned for it."""
    table = Tables(spark, config.tables).read("interactions")
    got: dict[str, list[float]] = {metric: [] for metric in task.metrics}
    for fold in folds(table, config.evaluate):
        train_part, test = as_matrices(fold)
        for metric in task.metrics:
            params = peers.tuned(task.peer, metric)
            factors = peers.implicit_als(train_part, params, threads=2)
            k = [int(metric.rpartition("_")[2])]
            got[metric].append(peers.evaluate(*factors, train_part, test, k, threads=2)[metric])
    return {metric: float(np.mean(values)) for metric, values in got.items()}


def as_matrices(fold: Fold) -> tuple[csr_matrix, csr_matrix]:
    """Return a fold's train and test parts as matrices over the same ids, in order of the ids."""
    parts = [frame.select("user_id", "item_id", "strength").toArrow() for frame in (fold.train, fold.test)]
    both = pa.concat_tables(parts)
    codes = [np.unique(both[column].to_numpy(), return_inverse=True)[1] for column in ("user_id", "item_id")]
    shape = tuple(int(code.max()) + 1 for code in codes)
    cut = parts[0].num_rows
    values = both["strength"].to_numpy().astype(np.float32)
    return tuple(
        csr_matrix((values[some], (codes[0][some], codes[1][some])), shape=shape)
        for some in (slice(0, cut), slice(cut, None))
    )


def headline(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return the figures by the names that others rely on, as ``ml100k_ndcg_at_10_implicit``."""
    line = {}
    for name, result in results.items():
        data = "ml100k" if name == "ml100k_explicit" else name
        for metric in TASKS[name].metrics:
            for recommender, figures in result["figures"].items():
                if metric in figures:
                    suffix = "" if recommender == "model" else f"_{recommender}"
                    line[f"{data}_{metric}{suffix}"] = round(figures[metric], 5)
    return line


def main(names: Sequence[str]) -> None:
    """Run the named tasks, or all."""
    if not peers.data_folder().is_dir():
        say(f"skipped: no data sets at {peers.data_folder()}; set LAKEFACTOR_DATA to the folder that holds ml-100k/")
        return
    unknown = [name for name in names if name not in TASKS]
    if unknown:
        raise SystemExit(f"there is no task {unknown[0]!r}; tasks: {', '.join(TASKS)}")
    record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"tasks": {}}
    spark = build(load(None, ["spark.master=local[2]", "spark.shuffle_partitions=4"]), "lakefactor quality")
    with tempfile.TemporaryDirectory() as root:
        for name in names or TASKS:
            say(f"\n{name}", style="bold")
            record["tasks"][name] = run_task(spark, name, root) | {
                "wanted": dict(TASKS[name].wanted),
                "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            }
    spark.stop()
    record |= {"command": "make bench-quality", "machine": machine(LIBRARIES)}
    record["tasks"] = {name: record["tasks"][name] for name in TASKS if name in record["tasks"]}
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    table = Table("figure", "value", box=None)
    line = headline(record["tasks"])
    for figure, value in line.items():
        table.add_row(figure, f"{value:.4f}")
    show(table)
    print(json.dumps(line))


if __name__ == "__main__":
    main(sys.argv[1:])
