"""The files of a Delta table: small ones compacted, marked rows purged, and the past removed, files and log alike.

VACUUM removes files that no kept version reads. The log is cut here: Delta's own clean-up goes by whole days and by a
setting of the table, and statistics in the log hold the smallest and largest ids of files that are long gone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from delta.exceptions import DeltaConcurrentModificationException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lakefactor.spark.files import at, names_in
from lakefactor.spark.tables import Tables

ATTEMPTS = 3
"""At a commit that others may forestall."""

FILE_BYTES = 128 << 20
"""Size of file that a compacted table has about."""

MARGIN = timedelta(hours=1)
"""Files that a version replaced were marked before its commit; a version that is to be read keeps so much more."""

_LOG_FILE = re.compile(r"(?:\d{20}\.)?(\d{20})\.(?:json|crc|checkpoint\..*|checkpoint|compacted\.json)")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\..*")
_VACUUM = {
    "spark.databricks.delta.retentionDurationCheck.enabled": "false",  # the configuration has vouched for the age
    "spark.databricks.delta.vacuum.logging.enabled": "false",  # or else it adds versions of its own
}
_PARALLELISM = "spark.sql.sources.parallelPartitionDiscovery.parallelism"


@dataclass(frozen=True)
class Size:
    """What a table takes, its log and its past included."""

    files: int
    bytes: int


@dataclass(frozen=True)
class Past:
    """Which of a table's past is to go.

    Attributes
    ----------
    oldest, first : int
        First version that is there, and first that stays.
    before : datetime
        Files that no version needs since then are removed.
    """

    oldest: int
    first: int
    before: datetime

    @property
    def is_empty(self) -> bool:
        """Whether all versions stay."""
        return self.first <= self.oldest


def size_of(spark: SparkSession, tables: Tables, table: str) -> Size:
    """Return the files under a table's folder, and their bytes."""
    files, path = at(spark, tables.location(table))
    found = files.getContentSummary(path)
    return Size(found.getFileCount(), found.getLength())


def has_small_files(spark: SparkSession, tables: Tables, table: str, small_files: int) -> bool:
    """Tell whether a table has more than so many files beyond one per ``FILE_BYTES``."""
    detail = spark.sql(f"DESCRIBE DETAIL {tables.sql_name(table)}").first()
    assert detail is not None
    return bool(detail["numFiles"] - -(-detail["sizeInBytes"] // FILE_BYTES) > small_files)


def compact(spark: SparkSession, tables: Tables, table: str) -> bool:
    """Write small files together; tell whether it was done, or others changed the same files every time."""
    return _attempted(spark, f"OPTIMIZE {tables.sql_name(table)}")


def purge(spark: SparkSession, tables: Tables, table: str) -> bool:
    """Write files anew that hold rows which are marked as deleted; returns as `compact`."""
    return _attempted(spark, f"REORG TABLE {tables.sql_name(table)} APPLY (PURGE)")


def past_of(
    spark: SparkSession, tables: Tables, table: str, hours: float, needed: tuple[int, int] | None, now: datetime
) -> Past:
    """Return what of a table's past is older than it has to be.

    Parameters
    ----------
    spark : SparkSession
    tables : Tables
    table : str
    hours : float
        Age up to which versions stay readable.
    needed : (int, int) or None
        First version whose commit somebody looks at, and first whose files, however old they are.
    now : datetime
        Aware.
    """
    history = spark.sql(f"DESCRIBE HISTORY {tables.sql_name(table)}")
    rows = history.select("version", F.unix_millis("timestamp").alias("millis")).orderBy("version").collect()
    commits = [(row["version"], datetime.fromtimestamp(row["millis"] / 1000, timezone.utc)) for row in rows]
    before, oldest = now - timedelta(hours=hours), commits[0][0]
    first = max((version for version, time in commits if time <= before), default=oldest)
    if needed is not None:
        first = min(first, max(needed[0], oldest))
        times = [time - MARGIN for version, time in commits if version >= needed[1]]
        before = min([before, *times[:1]])
    return Past(oldest, first, before)


def removable_files(spark: SparkSession, tables: Tables, table: str, past: Past, now: datetime) -> list[str]:
    """Return the files that `remove` would remove beside those of the log; Delta lists 1,000 at most."""
    return [row["path"] for row in _vacuum(spark, tables, table, past, now, " DRY RUN")]


def remove(spark: SparkSession, tables: Tables, table: str, past: Past, now: datetime) -> int:
    """Remove a table's past, and return its first version that is left.

    The log is cut at a checkpoint, which this makes where there is none of the newest version: so the log may go back
    farther than asked for, until the next time.
    """
    _vacuum(spark, tables, table, past, now)
    checkpoint(spark, tables, table)
    log = f"{tables.location(table)}/_delta_log"
    found = names_in(spark, log)
    marks = [int(match[1]) for name in found if (match := _CHECKPOINT.fullmatch(name))]
    cut = max((version for version in marks if version <= past.first), default=0)
    files, folder = at(spark, log)
    for name in found:
        match = _LOG_FILE.fullmatch(name)
        if match and int(match[1]) < cut:
            files.delete(folder.suffix(f"/{name}"), False)
    _forget_cached(spark, tables, table)
    return cut or min((int(match[1]) for name in found if (match := _LOG_FILE.fullmatch(name))), default=0)


def checkpoint(spark: SparkSession, tables: Tables, table: str) -> None:
    """Let Delta write a checkpoint of the newest version, unless there is one."""
    tables.read(table)  # Delta looks for commits of others
    log = _log(spark, tables, table)
    mark = f"{log.unsafeVolatileSnapshot().version():020d}.checkpoint"
    if not any(name.startswith(mark) for name in names_in(spark, f"{tables.location(table)}/_delta_log")):
        log.checkpoint()


def _attempted(spark: SparkSession, statement: str) -> bool:
    for _ in range(ATTEMPTS):
        try:
            spark.sql(statement)
            return True
        except DeltaConcurrentModificationException:
            continue
    return False


def _vacuum(spark: SparkSession, tables: Tables, table: str, past: Past, now: datetime, suffix: str = "") -> list[Any]:
    """Run VACUUM, and return what it says."""
    hours = max(0.0, (now - past.before).total_seconds() / 3600)
    # A listing is shuffled into as many tasks as Spark lists folders by: 10,000, for a handful of files.
    wanted = _VACUUM | {_PARALLELISM: spark.conf.get("spark.sql.shuffle.partitions", "200") or "200"}
    before = {key: spark.conf.get(key, None) for key in wanted}
    for key, value in wanted.items():
        spark.conf.set(key, value)
    try:
        return spark.sql(f"VACUUM {tables.sql_name(table)} RETAIN {hours:.6f} HOURS{suffix}").collect()
    finally:
        for key, old in before.items():
            spark.conf.unset(key) if old is None else spark.conf.set(key, old)


def _log(spark: SparkSession, tables: Tables, table: str) -> Any:
    jvm: Any = spark._jvm
    return jvm.org.apache.spark.sql.delta.DeltaLog.forTable(spark._jsparkSession, tables.location(table))


def _forget_cached(spark: SparkSession, tables: Tables, table: str) -> None:
    """Let Delta list the log anew: what this session knows of it has gone."""
    jvm: Any = spark._jvm
    place = jvm.org.apache.hadoop.fs.Path(tables.location(table))
    jvm.org.apache.spark.sql.delta.DeltaLog.invalidateCache(spark._jsparkSession, place)
