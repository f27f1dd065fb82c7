"""Maintain: small files compacted; old model versions, leftovers, and a past that nobody needs removed.

Every step looks at what there is and removes what is too old, so a run that was cut off is simply run again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone

from pydantic import BaseModel, ConfigDict
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Config
from lakefactor.contracts import literal, load, names
from lakefactor.errors import SetupError
from lakefactor.factorization import snapshot as snapshots
from lakefactor.factorization.snapshot_folder import Folder
from lakefactor.log import say
from lakefactor.pipelines.lease import held, holder_of
from lakefactor.pipelines.models import readable_versions
from lakefactor.pipelines.retention import Needed, needed_versions, past, remove_past
from lakefactor.pipelines.training_run import (
    LEASES,
    abandoned,
    finished_leases,
    oldest_kept,
    running,
    snapshot_folder,
)
from lakefactor.spark.stream_checkpoint import checkpoint_root
from lakefactor.spark.tables import Tables
from lakefactor.spark.upkeep import Size, compact, has_small_files, purge, removable_files, size_of

OF_VERSIONS = ("user_factors", "item_factors", "factor_updates", "recommendations", "explanations", "similar_items")
"""Tables whose rows go with their model version; what was measured and decided of it stays."""

REWRITTEN_BY_STREAMS = frozenset({*OF_VERSIONS, "rejects"})
"""Of two that rewrite the same files Delta refuses one, and a stream must not be that one; to others it appends."""


class TableUpkeep(BaseModel):
    """What was done to a table, or would be.

    Attributes
    ----------
    files, bytes : int
        Under its folder before, log and past included.
    files_after, bytes_after : int
        Afterwards.
    removed : int
        Files of its past; in a dry run 1,000 at most, without those of the log.
    compact : bool
        It had too many small files.
    needed : str
        Who reads a version that is older than the configured history; empty: nobody.
    """

    model_config = ConfigDict(frozen=True)

    files: int
    bytes: int
    files_after: int
    bytes_after: int
    removed: int = 0
    compact: bool = False
    needed: str = ""


class MaintainResult(BaseModel):
    """What was removed, or (dry run) would be.

    Attributes
    ----------
    dry_run : bool
    bytes_removed : int
    versions_removed, versions_kept : tuple of str
        Model versions.
    snapshots, leases : int
        Abandoned trainings whose snapshots were removed; leases of trainings that do not run.
    left : tuple of str
        What was left to the next run, and why.
    tables : dict of str to TableUpkeep
    """

    model_config = ConfigDict(frozen=True)

    dry_run: bool
    bytes_removed: int
    versions_removed: tuple[str, ...]
    versions_kept: tuple[str, ...]
    snapshots: int
    leases: int
    left: tuple[str, ...]
    tables: dict[str, TableUpkeep]


def run(spark: SparkSession, config: Config, dry_run: bool = False) -> MaintainResult:
    """Tidy the tables and what lies beside them.

    Parameters
    ----------
    spark : SparkSession
    config : Config
        ``maintain``, ``tables``, ``stream``, ``train``.
    dry_run : bool
        Look, and change nothing.

    Raises
    ------
    SetupError
        ``maintain.alone`` is set, but a stream or a training is running.
    """
    tables = Tables(spark, config.tables)
    folder = snapshot_folder(config, say)
    trainings = running(folder) if folder else []
    if trainings and config.maintain.alone:
        raise SetupError(f"maintain.alone is set, but {trainings[0]} is at work; wait for its end, or set it to false")
    with _beside(config, dry_run) as stream:
        plan = _plan(spark, config, tables, stream, trainings)
        if dry_run:
            return _result(plan, plan.sizes, _removable(spark, config, tables, plan), True)
        _remove_versions(spark, tables, plan.removed)
        if folder:
            _remove_leftovers(folder, plan)
        left = [
            f"{table}: others write to it" for table in plan.sizes if not _tidied(spark, tables, table, plan.crowded)
        ]
        plan.left.extend(left)
        remove_past(spark, config, tables, [t for t in plan.sizes if t != "interactions" or not trainings])
        after = {table: size_of(spark, tables, table) for table in plan.sizes}
        removed = {table: max(0, plan.sizes[table].files - after[table].files) for table in after}
        return _result(plan, after, removed, False)


@dataclass(frozen=True)
class _Plan:
    """What is there, and what of it is to be done."""

    sizes: dict[str, Size]
    needed: dict[str, Needed]
    crowded: set[str]
    kept: list[str]
    removed: list[str]
    snapshots: list[str]
    leases: list[str]
    left: list[str]


def _plan(spark: SparkSession, config: Config, tables: Tables, stream: str | None, trainings: list[str]) -> _Plan:
    folder = snapshot_folder(config, say)
    busy = REWRITTEN_BY_STREAMS if stream else frozenset()
    left = [f"{', '.join(sorted(busy))}: {stream} rewrites them"] if stream else []
    kept, removed = _versions(tables, config)
    if removed and (stream or trainings):
        left.append(f"model versions {', '.join(removed)}: {stream or trainings[0]} is at work")
        removed = []
    present = [table for table in names() if tables.exists(table)]
    small = config.maintain.small_files
    return _Plan(
        sizes={table: size_of(spark, tables, table) for table in present},
        needed=needed_versions(spark, config, tables),
        crowded={table for table in present if table not in busy and has_small_files(spark, tables, table, small)},
        kept=kept,
        removed=removed,
        snapshots=abandoned(folder) if folder else [],
        leases=finished_leases(folder) if folder else [],
        left=left,
    )


def _removable(spark: SparkSession, config: Config, tables: Tables, plan: _Plan) -> dict[str, int]:
    """Return how many files of the past of each table would go as it is now."""
    found = {}
    for table in plan.sizes:
        now = datetime.now(timezone.utc)
        gone = past(spark, config, tables, table, plan.needed, now)
        found[table] = 0 if gone.is_empty else len(removable_files(spark, tables, table, gone, now))
    return found


def _remove_leftovers(folder: Folder, plan: _Plan) -> None:
    """Remove snapshots that nobody goes on with, and leases of trainings that do not run."""
    for run_id in plan.snapshots:
        snapshots.discard(folder, run_id)
    for name in plan.leases:
        Folder(f"{folder.root}/{LEASES}").remove(name)


def _result(plan: _Plan, after: dict[str, Size], removed: dict[str, int], dry_run: bool) -> MaintainResult:
    return MaintainResult(
        dry_run=dry_run,
        bytes_removed=sum(max(0, size.bytes - after[table].bytes) for table, size in plan.sizes.items()),
        versions_removed=tuple(plan.removed),
        versions_kept=tuple(plan.kept),
        snapshots=len(plan.snapshots),
        leases=len(plan.leases),
        left=tuple(plan.left),
        tables={
            table: TableUpkeep(
                files=size.files,
                bytes=size.bytes,
                files_after=after[table].files,
                bytes_after=after[table].bytes,
                removed=removed[table],
                compact=table in plan.crowded,
                needed=plan.needed[table].why if table in plan.needed else "",
            )
            for table, size in plan.sizes.items()
        },
    )


@contextmanager
def _beside(config: Config, dry_run: bool) -> Iterator[str | None]:
    """Keep streams out meanwhile; or yield who keeps the tables, where one is running already."""
    if not config.tables.root and not config.stream.checkpoint:
        yield None  # there can be no stream
        return
    folder = Folder(checkpoint_root(config))
    holder = holder_of(folder)
    if dry_run or (holder and not config.maintain.alone):
        yield holder
        return
    with held(folder, "maintain", "maintain.alone is set: stop it ('lakefactor stream --stop'), or set that to false"):
        yield None


def _versions(tables: Tables, config: Config) -> tuple[list[str], list[str]]:
    """Return the model versions that stay, and those that have rows although nobody is to read them."""
    if not tables.exists("models"):
        return [], []
    rows = sorted(tables.collect("models"), key=lambda row: (row["created_at"], row["model_version"]), reverse=True)
    present = [row["model_version"] for row in rows if row["removed_at"] is None]
    kept = {*present[: config.maintain.keep_models], *readable_versions(tables)}
    known = {row["model_version"] for row in rows}
    found: set[str] = set()
    for table in filter(tables.exists, OF_VERSIONS):
        found |= {row[0] for row in tables.read(table).select("model_version").distinct().collect()}
    unborn = {version for version in found - known if version >= oldest_kept()}  # a training may yet end with it
    return sorted(kept), sorted({*present, *found} - kept - unborn)


def _remove_versions(spark: SparkSession, tables: Tables, versions: list[str]) -> None:
    """Mark model versions as removed, then delete their rows: a reader is told, and never finds a part."""
    if not versions:
        return
    which = f"model_version IN ({', '.join(map(literal, versions))})"
    marked = (
        tables.read("models", tables.version("models"))
        .where(f"{which} AND removed_at IS NULL")
        .select(
            "model_version",
            F.concat_ws(" ", "identity", "model_version").alias("identity"),
            F.current_timestamp().alias("removed_at"),
        )
    )
    tables.update("models", marked, ["model_version"], ["identity", "removed_at"])
    for table in filter(tables.exists, OF_VERSIONS):
        tables.delete(table, which)


def _tidied(spark: SparkSession, tables: Tables, table: str, crowded: set[str]) -> bool:
    """Compact a table where it needs that; first drop the rows that are only marked as deleted."""
    if table not in crowded:
        return True
    return (not load(table).deletion_vectors or purge(spark, tables, table)) and compact(spark, tables, table)
