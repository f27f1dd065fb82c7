"""A small stream for tests that cut it off: its configuration, its micro-batches as files, and the outcome of a run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from pyspark.sql import SparkSession

from lakefactor.config import Config
from lakefactor.spark.tables import Tables

USERS, ITEMS, EVENTS = 40, 25, 500


def changed(config: Config, **sections: dict[str, object]) -> Config:
    """Return a configuration with some keys of some sections changed."""
    parts = {name: getattr(config, name).model_copy(update=keys) for name, keys in sections.items()}
    return Config(**{**dict(config), **parts})


def settings(warehouse: Path, landing: Path, **keys: object) -> Config:
    """Return the configuration of a stream of files, and of the training behind it."""
    return changed(
        Config(),
        tables={"root": str(warehouse)},
        model={"rank": 4, "alpha": 2.0, "user_reg": 0.5, "item_reg": 0.5, "reg_exponent": 0.0},
        train={"iterations": 5, "solver": "cholesky", "ranks": 2},
        publish={"require_evaluation": False, "beat_popularity": False},
        recommend={"n": 3, "similar_n": 3},
        stream={"source": "files", "path": str(landing), "fold_every": 0, **keys},
    )


def lines(seed: int, n: int, users: int = USERS, items: int = ITEMS, first: int = 0) -> list[str]:
    """Draw events as CSV lines: time goes up by a minute."""
    rng = np.random.default_rng(seed)
    drawn = zip(rng.integers(users, size=n), (rng.power(2.0, n) * items).astype(int), strict=True)
    return [f"u{u:03d},i{i:03d},1,{1_700_000_000 + 60 * (first + t)}" for t, (u, i) in enumerate(drawn)]


def write(folder: Path, name: str, rows: list[str]) -> None:
    """Let a file arrive, whole."""
    folder.mkdir(exist_ok=True)
    (folder / f".{name}").write_text("user,item,value,time\n" + "\n".join(rows) + "\n")
    (folder / f".{name}").rename(folder / name)


BATCHES = (
    [*lines(2, 30, first=EVENTS), "u901,i001,1,1700100000", "u001,i901,1,1700100001", ",i001,1,1700100002"],
    [*lines(3, 30, first=EVENTS + 30), "u901,i901,1,1700100003", "u902,i902,1,1700100004", "u003,,1,1700100005"],
    [*lines(4, 30, first=EVENTS + 60), "u902,i001,1,1700100006", "u002,i002,x,1700100007"],
)
"""Known and new users and items, and rows that are refused."""


def write_batches(folder: Path) -> None:
    """Let BATCHES arrive as files of different times, which decide their order: a second apart, long ago."""
    for number, rows in enumerate(BATCHES):
        write(folder, f"{number}.csv", rows)
        os.utime(folder / f"{number}.csv", (1_700_000_000 + number,) * 2)


CLOCK = {"ingested_at", "rejected_at", "updated_at", "created_at", "started_at", "finished_at", "seconds"}
FOLDERS = {"source", "reject_id"}
"""Columns that the folder of the test decides."""

TABLES = (
    "events", "rejects", "factor_updates", "user_factors", "item_factors", "stream_ledger", "recommendations",
    "similar_items",
)  # fmt: skip


def outcome(spark: SparkSession, config: Config) -> dict[str, list[str]]:
    """Return every row of every table that a stream writes, in order, without what the clock or the folder decides."""
    found = {}
    for name in TABLES:
        frame = Tables(spark, config.tables).read(name)
        kept = [column for column in frame.columns if column not in CLOCK | FOLDERS]
        found[name] = sorted(repr(row) for row in frame.select(*kept).collect())
    return found
