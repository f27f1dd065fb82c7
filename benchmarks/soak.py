"""A stream at a steady rate for half an hour, with a publish in the middle: ``make soak-stream``.

Every few seconds a file of new events arrives, with some of the file before, while a stream by the default rules runs;
half-way another model version is trained and published. Recorded through it all: memory of both processes, lag in
events and in seconds. At the end: how many of the events that arrived are in `events` and in the ledger, and how often.

Writes benchmarks/results/stream_soak.json; the last line is one JSON object. A trial: ``--minutes 2 --events 100000``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from stream import LIBRARIES, SEED, configuration, streaming
from stream_tables import History, prepare

from lakefactor.config import Config
from lakefactor.log import say
from lakefactor.pipelines import interactions, publish, train
from lakefactor.query.lake import Lake
from lakefactor.spark.session import build
from lakefactor.spark.tables import Tables

RESULTS = Path(__file__).resolve().parent / "results" / "stream_soak.json"
REPEATED = 0.05
"""Share of a file's events that an earlier file had."""


class Arrivals:
    """Files of new events, at a steady rate; knows what has arrived, and when."""

    def __init__(self, history: History, folder: Path, size: int) -> None:
        self._history, self._folder, self.size = history, folder, size
        self._last: list[str] = []
        self.times: list[float] = []
        self.rows: list[str] = []

    def arrive(self) -> None:
        """Let the next file arrive, whole."""
        number = len(self.times)
        header, *new = self._history.micro_batch(self.size, number, seconds_apart=1000).splitlines()
        again = self._last[: int(REPEATED * self.size)]
        hidden = self._folder / f".{number}.csv"
        hidden.write_text("\n".join([header, *new, *again]) + "\n")
        hidden.rename(self._folder / f"{number}.csv")
        self._last = new
        self.rows += new
        self.times.append(time.time())


def memory_bytes(pid: int) -> int:
    """Return what a process holds of physical memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Soak; return the record."""
    at_start, landing = machine(LIBRARIES), folder / "landing"
    landing.mkdir()
    config = configuration(args, folder / "warehouse", landing, "exact")
    config = config.model_copy(update={"stream": config.stream.model_copy(update={"fold_every": 50})})
    spark = build(config, "lakefactor stream soak")
    history = History.drawn(args.users, args.items, args.events, SEED)
    prepare(spark, config, history, SEED)
    arrivals, samples, over = Arrivals(history, landing, args.batch), [], threading.Event()
    retrained: dict[str, Any] = {}

    def retrain() -> None:
        began = time.time()
        interactions.run(spark, config)
        version = train.run(spark, config).model_version
        publish.run(spark, config, version)
        retrained.update(model_version=version, began=began, published=time.time())

    began = time.time()
    with streaming(spark, config) as running:
        retraining = threading.Thread(target=retrain)
        while (elapsed := time.time() - began) < 60 * args.minutes:
            arrivals.arrive()
            if elapsed > 30 * args.minutes and not retraining.ident:
                say("half-way: training and publishing another version")
                retraining.start()
            samples.append(sample(spark, config, arrivals) | {"second": elapsed})
            if running.done():
                running.result()
            over.wait(max(0.0, began + len(arrivals.times) * args.every - time.time()))
        retraining.join()
        while sample(spark, config, arrivals)["lag_events"]:
            over.wait(1.0)
    record = {
        "problem": {k: v for k, v in vars(args).items() if k != "out"},
        "machine": at_start | {"load_average_after": machine(())["load_average"]},
        "retrained": retrained,
        "samples": samples,
        "checks": checks(spark, config, arrivals, retrained["model_version"]),
    }
    spark.stop()
    record["headline"] = headline(samples, record["checks"])
    return record


def sample(spark: SparkSession, config: Config, arrivals: Arrivals) -> dict[str, Any]:
    """Return memory and lag at this moment."""
    lake = Lake(config.tables)
    done = 0
    if lake.exists("stream_ledger"):
        done = int(np.sum(lake.rows("stream_ledger", ["accepted"])["accepted"].to_numpy()))
    files = done // arrivals.size
    waiting = arrivals.times[files:]
    jvm = spark._jvm.java.lang.ProcessHandle.current().pid()  # type: ignore[union-attr]
    return {
        "lag_events": len(arrivals.rows) - done,
        "lag_seconds": time.time() - waiting[0] if waiting else 0.0,
        "python_bytes": memory_bytes(os.getpid()),
        "jvm_bytes": memory_bytes(jvm),
    }


def checks(spark: SparkSession, config: Config, arrivals: Arrivals, version: str) -> dict[str, Any]:
    """Compare what arrived with what the tables hold."""
    tables = Tables(spark, config.tables)
    streamed = tables.read("events").where(F.col("source").contains("landing/") & ~F.col("source").contains("history"))
    ledger = tables.read("stream_ledger")
    sums = ledger.agg(F.sum("accepted"), F.sum("duplicates"), F.count("*"), F.countDistinct("batch_id")).collect()[0]
    distances = [
        dict(row.metrics) for row in ledger.orderBy("batch_id").collect() if "distance_p50" in (row.metrics or {})
    ]
    return {
        "arrived": len(arrivals.rows),
        "in_events": streamed.count(),
        "in_events_distinct": streamed.select("event_id").distinct().count(),
        "in_ledger": sums[0],
        "repeated": (len(arrivals.times) - 1) * int(REPEATED * arrivals.size),
        "duplicates_in_ledger": sums[1],
        "ledger_rows": sums[2],
        "batches": sums[3],
        "versions": [row[0] for row in ledger.orderBy("batch_id").select("model_version").distinct().collect()],
        "published": version,
        "distances": distances,
    }


def headline(samples: list[dict[str, Any]], found: dict[str, Any]) -> dict[str, float]:
    """Return growth of memory from the second quarter to the last, lags, and what was lost or doubled."""
    quarters = np.array_split(np.arange(len(samples)), 4)

    def median(name: str, quarter: int) -> float:
        return float(np.median([samples[i][name] for i in quarters[quarter]]))

    return {
        "python_memory_growth": median("python_bytes", 3) / median("python_bytes", 1),
        "jvm_memory_growth": median("jvm_bytes", 3) / median("jvm_bytes", 1),
        "lag_seconds_p50_second_quarter": median("lag_seconds", 1),
        "lag_seconds_p50_last_quarter": median("lag_seconds", 3),
        "lost": found["arrived"] - found["in_events_distinct"],
        "doubled": found["in_events"] - found["in_events_distinct"] + found["in_ledger"] - found["arrived"],
    }


def main() -> None:
    """Soak, keep the record, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {
        "events": 1_000_000, "users": 20_000, "items": 5_000, "rank": 64, "cores": 2, "minutes": 30, "batch": 500,
        "every": 5,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value:,}")
    parser.add_argument("--driver-memory", default="4g", help="default 4g")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the file of raw results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        record = run(args, Path(folder))
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["headline"]))


if __name__ == "__main__":
    main()
