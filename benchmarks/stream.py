"""Freshness of a stream and what it costs, beside a retraining by MLlib: ``make bench-stream``.

History: 10M events of 70k users and 10k items in Delta, and a published model of rank 64. Then files of 1k, 20k and
100k events are moved into the landing folder of a running stream, one after the other, each as soon as the one before
is done. Rules of users and items: ``exact`` (users exact, items proximal), ``proximal`` (both) and ``sgd`` (both), each
on a copy of the same tables. The first micro-batch of each size is left out.

Seconds are measured from the file's arrival to the commit of `factor_updates`, which makes its factors readable
(``readable``), and to the end of the micro-batch (``whole``), which events per second count by. MLlib's retraining, in
the same run on the same interactions, is: index both ids, fit 10 iterations, write both factor tables. Growth: the same
1k micro-batches after a tenth and three tenths of the history.

Writes benchmarks/results/stream.json (``--out`` names another file); the last line is one JSON object. A trial:
``python benchmarks/stream.py --events 300000 --batches 3 --no-mllib --out /tmp/stream.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from job import _jobs, mllib
from machine import machine
from pyspark.sql import SparkSession
from rich.table import Table
from stream_tables import History, bytes_written, commits, copied, files_opened, prepare, versions

from lakefactor.config import Config, load
from lakefactor.log import say, show
from lakefactor.pipelines import stream
from lakefactor.pipelines.fold import fold
from lakefactor.pipelines.models import live_version
from lakefactor.spark.session import build
from lakefactor.spark.stream_checkpoint import checkpoint_of
from lakefactor.spark.tables import Tables

RESULTS = Path(__file__).resolve().parent / "results" / "stream.json"
LIBRARIES = ("lakefactor", "pyspark", "delta-spark", "deltalake", "pyarrow", "numba", "numpy")
SIZES = {"1k": 1_000, "20k": 20_000, "100k": 100_000}
RULES = {
    "exact": {"user": "exact", "item": "proximal"},
    "proximal": {"user": "proximal", "item": "proximal"},
    "sgd": {"user": "sgd", "item": "sgd"},
}
SEED, TRAIN_ITERATIONS, MLLIB_ITERATIONS = 1, 3, 10
LONGEST = 600.0
"""Seconds after which a micro-batch that has not ended is an error."""


def configuration(args: argparse.Namespace, warehouse: Path, landing: Path, rule: str) -> Config:
    """Return the configuration of a stream; of its training as MLlib's objective: w = alpha*s, lambda = reg * n."""
    return load(
        None,
        [
            f"tables.root={warehouse}",
            f"spark.master=local[{args.cores}]",
            f"spark.shuffle_partitions={args.cores}",
            f"spark.driver_memory={args.driver_memory}",
            "model.algorithm=implicit_als",
            f"model.rank={args.rank}",
            "model.alpha=1.0",
            "model.user_reg=0.1",
            "model.item_reg=0.1",
            "model.reg_exponent=1.0",
            f"train.iterations={TRAIN_ITERATIONS}",
            f"train.ranks={args.cores}",
            "publish.require_evaluation=false",
            "publish.beat_popularity=false",
            "stream.source=files",
            f"stream.path={landing}",
            "stream.trigger_seconds=0",
            f"stream.user_rule={RULES[rule]['user']}",
            f"stream.item_rule={RULES[rule]['item']}",
        ],
    )


@contextmanager
def streaming(spark: SparkSession, config: Config) -> Iterator[Future[Any]]:
    """Run the stream beside the body, and stop it after."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(stream.run, spark, config)
        try:
            yield running
        finally:
            if not running.done():
                stream.ask_to_stop(config)
            running.result()


class Landing:
    """Moves micro-batches into the landing folder of a running stream, and measures each."""

    def __init__(self, spark: SparkSession, config: Config, running: Future[Any]) -> None:
        self._spark, self._running = spark, running
        self._folder, self._warehouse = Path(config.stream.path), Path(config.tables.root)
        self._done = Path(checkpoint_of(config), "commits")
        self._number = 0

    def measure(self, text: str) -> dict[str, Any]:
        """Let a file arrive; return what its micro-batch took, once the stream is ready for the next."""
        before = versions(self._warehouse)
        hidden = self._folder / f".{self._number}.csv"
        hidden.write_text(text)
        hidden.rename(self._folder / f"{self._number}.csv")
        arrived = time.time()
        while not (self._done / str(self._number)).exists():
            if self._running.done():
                self._running.result()
                raise RuntimeError("the stream has ended")
            if time.time() > arrived + LONGEST:
                raise RuntimeError(f"micro-batch {self._number} has not ended after {LONGEST:.0f} s")
            time.sleep(0.01)
        made = {
            table: next(c.at for c in commits(self._warehouse / table, before.get(table, -1)) if c.txn == self._number)
            for table in ("factor_updates", "stream_ledger")
        }
        self._number += 1
        return {
            "readable": made["factor_updates"] - arrived,
            "whole": made["stream_ledger"] - arrived,
            "arrived": arrived,
            "bytes": bytes_written(self._warehouse, before),
            "spark_jobs": [[name, round(end - start, 3)] for name, start, end in _jobs(self._spark, arrived)],
        }


def stream_sizes(
    spark: SparkSession, config: Config, history: History, sizes: Sequence[str], batches: int
) -> dict[str, Any]:
    """Stream micro-batches of some sizes; return what was measured of each size, and the fold after them."""
    Path(config.stream.path).mkdir(parents=True)
    measured: dict[str, list[dict[str, Any]]] = {}
    with streaming(spark, config) as running:
        landing = Landing(spark, config, running)
        number = 0
        for size in sizes:
            measured[size] = []
            for _ in range(batches + 1):
                text = history.micro_batch(SIZES[size], number)
                users = sorted({line.partition(",")[0] for line in text.splitlines()[1:]})
                measured[size].append(landing.measure(text) | {"batch_id": number, "users": users})
                number += 1
    tables = Tables(spark, config.tables)
    ledger = {row["batch_id"]: row for row in tables.read("stream_ledger").collect()}
    for batch in (batch for some in measured.values() for batch in some):
        row, users = ledger[batch["batch_id"]], batch.pop("users")
        batch |= {name: row[name] for name in ("accepted", "users", "items", "new_users", "metrics")}
        batch["seconds"] = row["seconds"] | {"pick_up": row["started_at"].timestamp() - batch.pop("arrived")}
        if batch["batch_id"] == 1:
            batch["history"] = files_opened(config, users, row["input_versions"]["events"])
            batch["history_of_one_user"] = files_opened(config, users[:1], row["input_versions"]["events"])
    began, version = time.perf_counter(), live_version(tables)
    assert version is not None
    folded = fold(tables, version)
    return {
        "sizes": {size: summary(size, some[1:]) for size, some in measured.items()},
        "fold": {"seconds": time.perf_counter() - began, "users": folded.users, "items": folded.items},
    }


def summary(size: str, batches: list[dict[str, Any]]) -> dict[str, Any]:
    """Return p50, p95, throughput, and the medians of steps and bytes of some micro-batches."""
    readable, whole = ([batch[name] for batch in batches] for name in ("readable", "whole"))
    steps = {
        name: float(np.median([batch["seconds"].get(name, 0.0) for batch in batches])) for name in batches[0]["seconds"]
    }
    total = float(np.median(whole))
    steps["after"] = max(0.0, total - steps.pop("total") - steps["pick_up"])
    return {
        "p50_seconds": float(np.percentile(readable, 50)),
        "p95_seconds": float(np.percentile(readable, 95)),
        "whole_p50_seconds": total,
        "events_per_second": SIZES[size] / total,
        "step_seconds": steps,
        "step_shares": {name: seconds / total for name, seconds in steps.items()},
        "bytes_per_batch": float(np.median([sum(batch["bytes"].values()) for batch in batches])),
        "spark_jobs_per_batch": float(np.median([len(batch["spark_jobs"]) for batch in batches])),
        "spark_job_seconds": float(np.median([sum(s for _, s in batch["spark_jobs"]) for batch in batches])),
        "batches": batches,
    }


def exponent(points: list[tuple[float, float]]) -> float:
    """Return the slope of the line through points in logarithms: 1 is growth in proportion."""
    x, y = (np.log([point[axis] for point in points]) for axis in (0, 1))
    return float(np.polyfit(x, y, 1)[0])


def growth_of(runs: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Compare the same 1k micro-batches after histories of several lengths."""
    points = {}
    for events, run in runs.items():
        found = run["sizes"]["1k"]
        opened = {key: found["batches"][0][key] for key in ("history", "history_of_one_user")}
        points[str(events)] = {
            "p50_seconds": found["p50_seconds"],
            "history_step_seconds": found["step_seconds"]["history"],
            **opened,
        }
    touched = [(point["history"]["events_of_the_users"], point["p50_seconds"]) for point in points.values()]
    return {"points": points, "exponent_of_touched_history": exponent(touched)}


def tell(rules: dict[str, Any]) -> None:
    """Show what was measured."""
    steps = list(
        dict.fromkeys(s for run in rules.values() for size in run["sizes"].values() for s in size["step_seconds"])
    )
    table = Table("rule", "events", "p50 s", "p95 s", "events/s", "MB", "jobs", *steps, box=None)
    for rule, run in rules.items():
        for size, found in run["sizes"].items():
            shares = [f"{found['step_shares'].get(step, 0.0):.0%}" for step in steps]
            table.add_row(
                rule, size, f"{found['p50_seconds']:.2f}", f"{found['p95_seconds']:.2f}",
                f"{found['events_per_second']:,.0f}", f"{found['bytes_per_batch'] / 1e6:.2f}",
                f"{found['spark_jobs_per_batch']:.0f}", *shares,
            )  # fmt: skip
    show(table)


def headline(rules: dict[str, Any], growth: dict[str, Any], retrain: dict[str, Any] | None) -> dict[str, float]:
    """Return the figures that others rely on, by name."""
    exact, proximal, sgd = (rules[rule]["sizes"] for rule in RULES)
    found = {
        "batch_1k_p50_seconds": exact["1k"]["p50_seconds"],
        "batch_1k_p95_seconds": exact["1k"]["p95_seconds"],
        "batch_20k_exact_p50_seconds": exact["20k"]["p50_seconds"],
        "batch_20k_exact_p95_seconds": exact["20k"]["p95_seconds"],
        "batch_20k_proximal_p50_seconds": proximal["20k"]["p50_seconds"],
        "batch_20k_proximal_p95_seconds": proximal["20k"]["p95_seconds"],
        "batch_100k_sgd_events_per_second": sgd["100k"]["events_per_second"],
        "batch_100k_sgd_p95_seconds": sgd["100k"]["p95_seconds"],
        "growth_exponent": growth["exponent_of_touched_history"],
    }
    if retrain is not None:
        found["cost_ratio_vs_mllib_retrain"] = retrain["seconds"] / exact["1k"]["whole_p50_seconds"]
    return {name: float(f"{value:.5g}") for name, value in found.items() if math.isfinite(value)}


def run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure everything; return the record."""
    record: dict[str, Any] = {
        "problem": {k: v for k, v in vars(args).items() if k != "out"},
        "machine": machine(LIBRARIES),
    }
    lengths = [args.events // 10, 3 * args.events // 10, args.events]
    spark = build(configuration(args, folder, folder, "exact"), "lakefactor stream benchmark")
    record["prepare_seconds"], growth = {}, {}
    rules: dict[str, Any] = {}
    for events in lengths:
        history, warehouse = History.drawn(args.users, args.items, events, SEED), folder / str(events)
        say(f"{events:,} events: writing the tables, training")
        trained = configuration(args, warehouse, folder, "exact")
        record["prepare_seconds"][str(events)] = prepare(spark, trained, history, SEED)
        for rule in RULES if events == args.events else ["exact"]:
            say(f"{events:,} events: streaming by {rule}")
            place = folder / f"{events}-{rule}"
            config = configuration(args, copied(warehouse, place), folder / f"landing-{events}-{rule}", rule)
            sizes = list(SIZES) if events == args.events else ["1k"]
            found = stream_sizes(spark, config, history, sizes, args.batches)
            if events == args.events:
                rules[rule] = found
            if rule == "exact":
                growth[events] = found
    record |= {"rules": rules, "growth": growth_of(growth), "mllib_retrain": None}
    if args.mllib:
        say("MLlib: one retraining")
        trained_on = Tables(spark, trained.tables).read("interactions")
        record["mllib_retrain"] = mllib(
            spark, trained_on, args.rank, MLLIB_ITERATIONS, args.cores, str(folder / "mllib")
        )
    spark.stop()
    record["headline"] = headline(rules, record["growth"], record["mllib_retrain"])
    record["machine"]["load_average_after"] = machine(())["load_average"]
    return record


def main() -> None:
    """Measure, keep the record, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {
        "events": 10_000_000, "users": 70_000, "items": 10_000, "rank": 64, "batches": 10, "cores": 2,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value:,}")
    parser.add_argument("--driver-memory", default="10g", help="default 10g")
    parser.add_argument("--no-mllib", dest="mllib", action="store_false", help="leave out MLlib's retraining")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the file of raw results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        record = run(args, Path(folder))
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    tell(record["rules"])
    print(json.dumps(record["headline"]))


if __name__ == "__main__":
    main()
