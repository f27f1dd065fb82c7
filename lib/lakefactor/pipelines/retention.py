"""What of the tables' past somebody still reads, and the removal of the rest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Config
from lakefactor.pipelines.erasures import finish, tables_of_pending
from lakefactor.pipelines.learned import NEVER, is_streamed, learned_to, source_of
from lakefactor.pipelines.models import live_version, newest
from lakefactor.spark.commits import first_change_after
from lakefactor.spark.files import names_in
from lakefactor.spark.stream_checkpoint import checkpoint_root, is_unfinished, next_change
from lakefactor.spark.tables import Tables
from lakefactor.spark.upkeep import Past, past_of, remove


@dataclass(frozen=True)
class Needed:
    """The first version of a table whose commit somebody looks at, the first whose files, and who it is."""

    version: int
    files: int
    why: str


def needed_versions(spark: SparkSession, config: Config, tables: Tables) -> dict[str, Needed]:
    """Return what must stay of the past of each table, however old it is; a table that is not named has nobody.

    Until a user is to be forgotten, which is worth more, model versions keep the `interactions` that they were trained
    on, so that they can be evaluated again, and the live one the `events` that it has missed. One that a rollback
    brings back goes on without what the history no longer tells.
    """
    found: dict[str, list[Needed]] = {"events": _of_streams(spark, config, tables), "interactions": []}
    is_pending = bool(tables_of_pending(tables))
    if tables.exists("events") and not is_pending and (needed := _of_live(tables)):
        found["events"].append(needed)
    if tables.exists("models") and not is_pending:
        found["interactions"] = [
            _whole(row["input_versions"]["interactions"], f"model version {row['model_version']} was trained on it")
            for row in tables.collect("models")
            if row["removed_at"] is None
        ]
    return {table: _least(some) for table, some in found.items() if some}


def past(
    spark: SparkSession, config: Config, tables: Tables, table: str, needed: dict[str, Needed], now: datetime
) -> Past:
    """Return what of a table's past may go."""
    floor = (needed[table].version, needed[table].files) if table in needed else None
    return past_of(spark, tables, table, config.maintain.history_hours, floor, now)


def remove_past(spark: SparkSession, config: Config, tables: Tables, names: Iterable[str]) -> None:
    """Remove the past of some tables as far as nobody needs it, and finish the erasures that waited for that."""
    needed, waited_for = needed_versions(spark, config, tables), tables_of_pending(tables)
    left = {}
    for table in names:
        now = datetime.now(timezone.utc)
        gone = past(spark, config, tables, table, needed, now)
        # Without a past there may still be files that no commit has named, of a job that was killed.
        is_due = table in waited_for and gone.before >= waited_for[table]
        first = remove(spark, tables, table, gone, now) if is_due or not gone.is_empty else gone.oldest
        left[table] = (first, gone.before)
    finish(spark, tables, left)


def _whole(version: int, why: str) -> Needed:
    return Needed(version, version, why)


def _least(some: list[Needed]) -> Needed:
    """Return what all of them need, and who looks back farthest."""
    first = min(some, key=lambda needed: needed.version)
    return Needed(first.version, min(needed.files for needed in some), first.why)


def _of_streams(spark: SparkSession, config: Config, tables: Tables) -> list[Needed]:
    """Return what the streams that can go on read of `events`: changes, or what was there before a micro-batch."""
    if not config.tables.root and not config.stream.checkpoint:
        return []
    found = []
    last = _last_batches(tables)
    overtaken = {stream for stream, (batch, _) in last.items() if batch < max(batch for batch, _ in last.values())}
    folders = {name for name in names_in(spark, checkpoint_root(config)) if "." not in name}  # and no lease.json
    for name in {config.stream.name, *folders} - overtaken:
        named = config
        if name != config.stream.name:
            named = config.model_copy(
                update={"stream": config.stream.model_copy(update={"name": name, "checkpoint": ""})}
            )
        change = next_change(spark, named)
        if change is not None:
            found.append(Needed(*change, f"stream {name!r} reads its changes"))
        elif is_unfinished(spark, named):
            found.append(_whole(last.get(name, (0, 0))[1], f"stream {name!r} was cut off in a micro-batch"))
    return found


def _last_batches(tables: Tables) -> dict[str, tuple[int, int]]:
    """Return the number of each stream's newest micro-batch, and the version of `events` before it."""
    if not tables.exists("stream_ledger"):
        return {}
    newest_row = F.max(F.struct("batch_id", F.element_at("input_versions", F.lit("events")).alias("version")))
    rows = tables.read("stream_ledger").groupBy("stream").agg(newest_row.alias("last")).collect()
    return {row["stream"]: (row["last"]["batch_id"], row["last"]["version"]) for row in rows}


def _of_live(tables: Tables) -> Needed | None:
    """Return what a stream reads first of `events` for the live model."""
    live = live_version(tables) if tables.exists("stream_ledger") else None
    if live is None or not is_streamed(record := newest(tables, live)):
        return None
    known = learned_to(tables, live, source_of(record).events_version, NEVER)
    first = first_change_after(tables, "events", known)
    return None if first is None else _whole(first, f"the stream has not taught the live model {live} what came since")
