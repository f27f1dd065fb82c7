"""The tables that a stream benchmark starts from, its micro-batches, and what Delta's logs tell of them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from kernels import synthetic
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from lakefactor.config import Config
from lakefactor.pipelines import interactions, publish, train
from lakefactor.query.lake import Lake
from lakefactor.spark.tables import Tables

FILES = 16
"""Of the table `events`, each with the events of neighbouring users, as OPTIMIZE of a clustered table leaves them."""

FIRST_SECOND, DAYS = 1_700_000_000, 90
NEW_USERS = 0.01
"""Share of a micro-batch's events that come from users that nobody has seen before."""


@dataclass(frozen=True)
class History:
    """Users and items (numbers from 0) of the events so far, in the order of users."""

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    value: NDArray[np.float32]

    @classmethod
    def drawn(cls, users: int, items: int, events: int, seed: int) -> History:
        """Draw events of distinct pairs."""
        indptr, indices, strengths = synthetic(users, items, events, seed).by_user
        return cls(np.repeat(np.arange(users, dtype=np.int32), np.diff(indptr)), indices, strengths)

    def micro_batch(self, size: int, number: int, seconds_apart: int = 1_000_000) -> str:
        """Draw new events as the text of a CSV file: as active users and as popular items as in the history.

        ``number * seconds_apart`` must not reach into the future, or else they are rejected.
        """
        rng = np.random.default_rng([size, number])
        users, items = (side[rng.integers(len(side), size=size)] for side in (self.user, self.item))
        is_new = rng.random(size) < NEW_USERS
        names = np.where(is_new, 10**7 * (number + 1) + rng.integers(max(1, int(is_new.sum() / 3)), size=size), users)
        seconds = FIRST_SECOND + DAYS * 86_400 + seconds_apart * number + np.arange(size)
        rows = zip(names, items, seconds, strict=True)
        return "user,item,value,time\n" + "".join(f"user-{u:08d},item-{i:08d},1,{t}\n" for u, i, t in rows)


def write_events(spark: SparkSession, config: Config, history: History, seed: int) -> None:
    """Fill the table `events` as ingests and an OPTIMIZE would leave it."""
    tables = Tables(spark, config.tables)
    tables.ensure("rejects")
    tables.ensure("events", "string", "string")
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        for number, some in enumerate(np.array_split(np.arange(len(history.user)), FILES)):
            n = len(some)
            digests = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), n, [None, pa.py_buffer(rng.bytes(16 * n))])
            micros = FIRST_SECOND * 10**6 + rng.integers(DAYS * 86_400, size=n) * 10**6
            chunk = pa.table(
                {
                    "event_id": digests.cast(pa.binary()),
                    "user_id": _names("user", history.user[some]),
                    "item_id": _names("item", history.item[some]),
                    "event_type": pa.repeat("view", n),
                    "value": history.value[some].astype(np.float64),
                    "event_time": pa.array(micros).cast(pa.timestamp("us", "UTC")),
                    "source": pa.repeat("file:///landing/history.csv", n),
                    "ingested_at": pa.repeat(pa.scalar(FIRST_SECOND * 10**6, pa.timestamp("us", "UTC")), n),
                }
            )
            pyarrow.parquet.write_table(chunk, Path(folder, f"{number:02d}.parquet"))
        cost = "spark.sql.files.openCostInBytes"
        before = spark.conf.get(cost)
        spark.conf.set(cost, str(2**30))  # so that every file read becomes one file written
        tables.append("events", spark.read.parquet(folder))
        spark.conf.set(cost, before)


def _names(side: str, numbers: NDArray[np.int32]) -> pa.Array:
    different, places = np.unique(numbers, return_inverse=True)
    return pa.array([f"{side}-{number:08d}" for number in different]).take(pa.array(places))


def prepare(spark: SparkSession, config: Config, history: History, seed: int) -> dict[str, Any]:
    """Write everything up to a published model; return the seconds of each step."""
    steps = {
        "events": lambda: write_events(spark, config, history, seed),
        "interactions": lambda: interactions.run(spark, config),
        "train": lambda: publish.run(spark, config, train.run(spark, config).model_version),
    }
    seconds = {}
    for name, step in steps.items():
        start = time.perf_counter()
        step()
        seconds[name] = time.perf_counter() - start
    return seconds


def copied(warehouse: Path, target: Path) -> Path:
    """Copy a warehouse; data files, which nobody changes, are linked."""

    def copy(source: str, to: str) -> None:
        if source.endswith(".parquet") and "_delta_log" not in source:
            os.link(source, to)
        else:
            shutil.copy2(source, to)

    shutil.copytree(warehouse, target, copy_function=copy)
    return target


@dataclass(frozen=True)
class Commit:
    """A commit of a Delta table.

    Attributes
    ----------
    version : int
    at : float
        When it could be read, in seconds since 1970.
    txn : int or None
        Its transaction's version.
    bytes : int
        Of the data files that it added, and of its log file.
    """

    version: int
    at: float
    txn: int | None
    bytes: int


def commits(table: Path, after: int = -1) -> Iterator[Commit]:
    """Read the commits of a table with a version greater than ``after``."""
    for file in sorted((table / "_delta_log").glob("[0-9]*.json")):
        if int(file.stem) <= after:
            continue
        actions = [json.loads(line) for line in file.read_text().splitlines()]
        added = sum(action["add"]["size"] for action in actions if "add" in action)
        txn = next((action["txn"]["version"] for action in actions if "txn" in action), None)
        stat = file.stat()
        yield Commit(int(file.stem), stat.st_mtime, txn, added + stat.st_size)


def versions(warehouse: Path) -> dict[str, int]:
    """Return the newest version of every table."""
    logs = warehouse.glob("*/_delta_log")
    return {log.parent.name: max(int(file.stem) for file in log.glob("[0-9]*.json")) for log in logs}


def bytes_written(warehouse: Path, before: dict[str, int]) -> dict[str, int]:
    """Return the bytes that each table has got since it was at the versions ``before``."""
    now = versions(warehouse)
    changed = [name for name in now if now[name] > before.get(name, -1)]
    return {name: sum(c.bytes for c in commits(warehouse / name, before.get(name, -1))) for name in sorted(changed)}


def files_opened(config: Config, users: Sequence[str], version: int) -> dict[str, int]:
    """Return how many of the files of `events`, and of their row groups, the reading of some users' events opens."""
    dataset = Lake(config.tables).open("events", version).to_pyarrow_dataset()
    of_users = pc.field("user_id").isin(pa.array(users))
    opened = list(dataset.get_fragments(filter=of_users))
    groups = [(fragment.num_row_groups, len(fragment.split_by_row_group(filter=of_users))) for fragment in opened]
    return {
        "files": len(list(dataset.get_fragments())),
        "files_opened": len(opened),
        "row_groups_of_those": sum(number for number, _ in groups),
        "row_groups_read": sum(read for _, read in groups),
        "events_of_the_users": dataset.filter(of_users).count_rows(),
    }
