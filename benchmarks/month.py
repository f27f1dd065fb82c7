"""A month in the life of a model, kept fresh in three ways: ``make bench-month``.

Synthetic events with planted taste: a history that the first model is trained on, then 30 days with two shifts, at each
of which six of ten users change places (and with them tastes) with one another. Three arms begin with the same
published model and get the same files of events:

``nightly``
    every midnight the day's files are ingested, and a model is trained on all events and published;
``stream``
    the files are streamed as they arrive, and nothing is trained again;
``stream_drift``
    the same, and a model is trained and published whenever the pipeline ``quality`` asks for it.

NDCG@10 is prequential and the same for all: before a part of a day is learned, the live factors, read as applications
read them, rank the items that users have not had yet, for the same users of that part of the day. Seconds are those in
pipelines (ingest or stream, interactions, train, publish, quality), not in measuring; the arms take turns part by part,
so that what else the machine does slows all of them. The gate is off for all: an evaluation trains a second time.

Strengths halve in a week for all arms, or else a training after a shift learns mostly old tastes; the other settings
are the defaults but for sizes, `SETTINGS`. None was chosen by the outcome.

Writes benchmarks/results/month.json (``--out`` names another file), of which `make docs` draws docs/images/month.svg;
the last line is one JSON object. A trial: ``--days 6 --shifts 3 --out month.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from machine import machine
from pyspark.sql import SparkSession
from stream_tables import copied

from lakefactor.config import Config, Stream, Synthetic, load
from lakefactor.factorization.catalogue import matrix
from lakefactor.factorization.live_model import LiveModel
from lakefactor.log import say
from lakefactor.pipelines import ingest, interactions, publish, quality, stream, train
from lakefactor.pipelines.stream_watch import score_ranks
from lakefactor.query import Reader
from lakefactor.spark.session import build
from lakefactor.synthetic import generate
from lakefactor.types import SIDES

RESULTS = Path(__file__).resolve().parent / "results" / "month.json"
LIBRARIES = ("lakefactor", "pyspark", "delta-spark", "deltalake", "pyarrow", "numba", "numpy", "river")
ARMS = ("nightly", "stream", "stream_drift")
SHIFTED = 0.6
"""Share of the users that a shift moves."""

PARTS, FILES_PER_PART = 3, 2
"""Parts of a day, each measured and then learned, and the files of each: a file is a micro-batch."""

METRIC, MEASURED = "ndcg_at_10", Stream(watch_k=10, watch_users=300)
SETTINGS = (
    "spark.driver_memory=3g",
    "interactions.half_life_days=7",
    "model.rank=16",
    "publish.require_evaluation=false",
    "publish.beat_popularity=false",
    "stream.source=files",
)


def configuration(args: argparse.Namespace, warehouse: Path, landing: Path) -> Config:
    """Return the configuration of an arm."""
    return load(
        None,
        [
            *SETTINGS,
            f"tables.root={warehouse}",
            f"stream.path={landing}",
            f"stream.max_rows={args.events_per_day // (PARTS * FILES_PER_PART)}",
            f"spark.master=local[{args.cores}]",
            f"spark.shuffle_partitions={args.cores}",
            f"train.ranks={args.cores}",
        ],
    )


def drawn(args: argparse.Namespace) -> pa.Table:
    """Return ``user_id, item_id, ...`` of all events in order of time: the history, then the days."""
    days = args.history_days + args.days
    events = generate(
        Synthetic(
            users=args.users, items=args.items, groups=args.groups, events=args.events_per_day * days, days=days,
            drift=0.0, seed=args.seed,
        )
    )  # fmt: skip
    names = pc.unique(events["user"])
    user = pc.index_in(events["user"].combine_chunks(), names).to_numpy()
    day = np.arange(len(user)) // args.events_per_day - args.history_days
    rng = np.random.default_rng(args.seed)
    for shift in args.shifts:
        moved = rng.permutation(len(names))[: round(SHIFTED * len(names))]
        place = np.arange(len(names))
        place[moved] = np.roll(moved, 1)
        user = np.where(day >= shift, place[user], user)
    return events.set_column(0, "user_id", names.take(pa.array(user))).rename_columns(
        ["user_id", "item_id", "event_type", "value", "event_time"]
    )


class Arm:
    """One way to keep a model fresh: its tables, and what it took.

    Attributes
    ----------
    name : str
    seconds : dict of str to float
        In each pipeline.
    ndcg : list of float
        Of each part of the days.
    retrained : list of float
        Moments of trainings, in days.
    rolled_back : list of float
        Moments at which ``quality`` went back to the version before, in days.
    """

    def __init__(self, name: str, spark: SparkSession, config: Config) -> None:
        self.name, self._spark, self._config = name, spark, config
        self.seconds: dict[str, float] = defaultdict(float)
        self.ndcg: list[float] = []
        self.retrained: list[float] = []
        self.rolled_back: list[float] = []

    def measure(self, part: int, events: pa.Table, past: pa.Table) -> None:
        """Measure the live model on a part of a day that it has not learned yet."""
        live = live_model(self._config)
        found = score_ranks(
            live, MEASURED, part, events, lambda users: past.filter(pc.is_in(past["user_id"], value_set=users))
        )
        self.ndcg.append(found[METRIC])

    def learn(self, part: int, landing: Path) -> None:
        """Do what this arm does after a part of a day."""
        now, day = (part + 1) / PARTS, part // PARTS
        if self.name == "nightly":
            if now == day + 1:
                with self._timed("ingest"):
                    ingest.run(self._spark, self._config, [str(landing / f"{day:02d}")])
                self._retrain(now)
            return
        with self._timed("stream"):
            stream.run(self._spark, self._config, available_now=True)
        if self.name == "stream_drift":
            with self._timed("quality"):
                found = quality.run(self._spark, self._config)
            if found.rolled_back_to:
                self.rolled_back.append(now)
            if found.retrain:
                with self._timed("interactions"):
                    interactions.run(self._spark, self._config)
                self._retrain(now)

    def _retrain(self, now: float) -> None:
        # As in a job of its own: a stream turns it off for its session.
        self._spark.conf.unset("spark.sql.adaptive.enabled")
        with self._timed("train"):
            version = train.run(self._spark, self._config).model_version
        with self._timed("publish"):
            publish.run(self._spark, self._config, version)
        self.retrained.append(now)

    @contextmanager
    def _timed(self, pipeline: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[pipeline] += time.perf_counter() - began


def live_model(config: Config) -> LiveModel:
    """Read the live factors without Spark."""
    reader, ids, rows = Reader(config.tables), {}, {}
    for side in SIDES:
        columns = f"{side}_id, factors, bias, n_entries"
        rows[side] = reader.sql(f"SELECT {columns} FROM live_{side}_factors ORDER BY {side}_id").combine_chunks()
        ids[side] = rows[side][f"{side}_id"].combine_chunks()
    factors = {side: matrix(rows[side]["factors"].combine_chunks()) for side in SIDES}
    bias, n_entries = ({side: rows[side][name].to_numpy() for side in SIDES} for name in ("bias", "n_entries"))
    return LiveModel(config.model, 0.0, ids, factors, bias, n_entries)


def write_files(events: pa.Table, folder: Path, first: int, files: int) -> None:
    """Let the files of a part of a day arrive, in order of time."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, some in enumerate(np.array_split(np.arange(len(events)), files), first):
        hidden = folder / f".{number:04d}.csv"
        pyarrow.csv.write_csv(events.take(pa.array(some)), hidden)
        os.utime(hidden, (1_700_000_000 + number,) * 2)  # which decides the order in which they are streamed
        hidden.rename(folder / f"{number:04d}.csv")


def begin(spark: SparkSession, config: Config, history: Path) -> None:
    """Publish the model that all arms begin with."""
    ingest.run(spark, config, [str(history)])
    publish.run(spark, config, train.run(spark, config).model_version)


def run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Live through the month; return the record."""
    record: dict[str, Any] = {
        "problem": {k: v for k, v in vars(args).items() if k != "out"}
        | {"shifted": SHIFTED, "settings": SETTINGS, "micro_batches_per_day": PARTS * FILES_PER_PART},
        "machine": machine(LIBRARIES),
    }
    events, landing, history = drawn(args), folder / "landing", folder / "history"
    landing.mkdir()
    known = args.events_per_day * args.history_days
    write_files(events[:known], history, 0, 1)
    first = configuration(args, folder / "first", landing)
    spark = build(first, "lakefactor month")
    begin(spark, first, history)
    arms = [Arm(name, spark, configuration(args, copied(folder / "first", folder / name), landing)) for name in ARMS]
    size = args.events_per_day // PARTS
    for part in range(args.days * PARTS):
        past, new = events[: known + part * size], events[known + part * size :][:size]
        write_files(new, landing / f"{part // PARTS:02d}", part * FILES_PER_PART, FILES_PER_PART)
        for arm in arms:
            arm.measure(part, new, past)
            arm.learn(part, landing)
        tell(part, arms)
    spark.stop()
    record["arms"] = {
        arm.name: {
            "ndcg_per_day": np.mean(np.reshape(arm.ndcg, (-1, PARTS)), axis=1).tolist(),
            "ndcg": float(np.mean(arm.ndcg)),
            "retrained_at_days": arm.retrained,
            "rolled_back_at_days": arm.rolled_back,
            "seconds": dict(arm.seconds),
        }
        for arm in arms
    }
    record["machine"]["load_average_after"] = machine(())["load_average"]
    record["headline"] = headline(record["arms"])
    return record


def tell(part: int, arms: list[Arm]) -> None:
    """Show a day that is over."""
    if (part + 1) % PARTS == 0:
        figures = (
            f"{arm.name} {np.mean(arm.ndcg[-PARTS:]):.4f}, {len(arm.retrained)} trainings, "
            f"{sum(arm.seconds.values()):.0f} s"
            for arm in arms
        )
        say(f"day {part // PARTS}: {'; '.join(figures)}", "bold")


def headline(arms: dict[str, Any]) -> dict[str, float]:
    """Return the figures that others rely on, by name."""
    figures = {f"ndcg_{name}": round(arm["ndcg"], 5) for name, arm in arms.items()}
    for name in ("nightly", "stream_drift"):
        figures[f"retrains_{name}"] = len(arms[name]["retrained_at_days"])
    for name in ("nightly", "stream_drift"):
        figures[f"seconds_{name}"] = round(sum(arms[name]["seconds"].values()), 1)
    return figures


def main() -> None:
    """Measure, keep the record, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {
        "days": 30, "history-days": 10, "events-per-day": 3_000, "users": 2_000, "items": 1_000, "groups": 12,
        "seed": 7, "cores": 2,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value:,}")
    parser.add_argument("--shifts", type=int, nargs="*", default=[10, 20], help="days that begin with a shift")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the file of raw results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        record = run(args, Path(folder))
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["headline"]))


if __name__ == "__main__":
    main()
