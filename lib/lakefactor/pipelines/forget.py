"""Forget: no table, snapshot or model row is of some users any more, and no new event of theirs is taken in.

Events go last, so a run that was cut off finds the items to solve again, and is simply run again. What is left of the
users is the history of the tables, which goes with `maintain`, and an entry in `erasures` that names nobody.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone

import pyarrow as pa
from pydantic import BaseModel, ConfigDict
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Config
from lakefactor.contracts import load
from lakefactor.errors import InputError, SetupError
from lakefactor.factorization import snapshot as snapshots
from lakefactor.factorization.snapshot_folder import Folder
from lakefactor.log import say
from lakefactor.pipelines import erasures, interactions
from lakefactor.pipelines.lease import held
from lakefactor.pipelines.resolve import resolve_items, solvable_live
from lakefactor.pipelines.retention import remove_past
from lakefactor.pipelines.training_run import running, snapshot_folder
from lakefactor.query.ids import parse_id
from lakefactor.spark.files import refused, without_patterns
from lakefactor.spark.stream_checkpoint import checkpoint_root, is_unfinished
from lakefactor.spark.suppression import Suppression, make_salt
from lakefactor.spark.tables import Tables
from lakefactor.spark.upkeep import checkpoint, purge
from lakefactor.spark.user_rows import ERASURE, Users, count_rows, delete_rows, tables_with_users

REMAINS = (
    "the history of the tables, until remains_until and then the next 'lakefactor maintain'; in numbers only, until "
    "they are trained again: other users' factors, and item factors of model versions that are not live; whatever "
    "lakefactor does not keep: the files or topics that the events came from, logs, copies"
)


class ForgetResult(BaseModel):
    """What was deleted, or would be; it names no user.

    Attributes
    ----------
    users, known : int
        Users asked for, and how many of them some table knew.
    tables : dict of str to int
        Rows of theirs by table.
    items : int
        Items of theirs, whose factors in the live model were solved anew, or would be.
    model_version : str or None
        The live model; None: there is none, or none of its rows can be solved alone.
    item_ids : tuple of str
        These items, in a dry run.
    snapshots : int
        Unfinished trainings whose snapshots were removed, or would be.
    state : str
        ``dry run``, or as in `erasures`.
    history_until : datetime
        When the history that holds the rows is due to go.
    """

    model_config = ConfigDict(frozen=True)

    users: int
    known: int
    tables: dict[str, int]
    items: int
    model_version: str | None
    item_ids: tuple[str, ...] = ()
    snapshots: int
    state: str
    history_until: datetime


def run(
    spark: SparkSession,
    config: Config,
    users: Sequence[str] = (),
    users_file: str | None = None,
    dry_run: bool = False,
    at: Callable[[str], None] = lambda step: None,
) -> ForgetResult:
    """Delete every row of some users, solve anew what depended on them, and keep them out.

    Parameters
    ----------
    spark : SparkSession
    config : Config
        ``tables``, ``forget``; ``maintain.history_hours`` says how long the history stays, at 0 it goes at once.
    users : sequence of str
        Ids; those that no table knows are kept out too.
    users_file : str or None
        File or URI with one more id on each line.
    dry_run : bool
        Look, and change nothing.
    at : callable
        Gets the name of each step once it is done; tests strike there.

    Raises
    ------
    InputError
        No user was named, or an id cannot be one.
    SetupError
        A stream or a training is running, or a stream was cut off in a micro-batch.
    """
    tables = Tables(spark, config.tables)
    ids = _ids(spark, config, tables, users, users_file)
    if dry_run:
        wanted = _users(spark, config, ids, secrets.token_hex(32))
        return _look(spark, config, tables, wanted)[0]
    with _alone(spark, config):
        wanted = _users(spark, config, ids, make_salt(config))
        return _forget(spark, config, tables, wanted, at)


def _forget(
    spark: SparkSession, config: Config, tables: Tables, users: Users, at: Callable[[str], None]
) -> ForgetResult:
    for table in ("suppressions", "erasures"):
        tables.ensure(table)
    hashes = users.ids.select("user_hash", F.current_timestamp().alias("suppressed_at"))
    tables.merge_new("suppressions", hashes, ["user_hash"])
    at("suppressions")
    found, rows, items = _look(spark, config, tables, users)
    requests = erasures.begin(spark, tables, rows, {name: len(some) for name, some in items.items()})
    at("erasures")
    present = [table for table in tables_with_users() if tables.exists(table)]
    for table in present:
        if table not in ("events", "interactions"):
            delete_rows(spark, tables, table, users, {ERASURE: True})
            at(table)
    wanted = pa.array(sorted(set().union(*items.values())), _arrow_type(tables, "item"))
    solved = resolve_items(spark, config, tables, wanted, at) if len(wanted) else found.model_version
    if "events" in present:
        delete_rows(spark, tables, "events", users, {ERASURE: True})
        at("events")
    if {"events", "interactions"} <= set(present):
        interactions.run(spark, config)
        at("interactions")
    if "interactions" in present:  # of which no event tells
        delete_rows(spark, tables, "interactions", users, {ERASURE: True})
    for table in present:
        if load(table).deletion_vectors:
            purge(spark, tables, table)
        checkpoint(spark, tables, table)  # at which the log can be cut, once it is old enough
    _discard_snapshots(config)
    facts = {
        "versions": {table: tables.version(table) for table in present},
        "model_version": solved,
        "remains": REMAINS,
        "remains_until": found.history_until,
    }
    erasures.record_deleted(spark, tables, requests, facts)
    at("deleted")
    if config.maintain.history_hours == 0:
        remove_past(spark, config, tables, present)
    states = {row["erasure_id"]: row["state"] for row in tables.collect("erasures")}
    state = "done" if all(states[name] == "done" for name in requests) else "deleted"
    return found.model_copy(update={"state": state, "item_ids": (), "model_version": solved})


def _look(
    spark: SparkSession, config: Config, tables: Tables, users: Users
) -> tuple[ForgetResult, dict[str, dict[str, int]], dict[str, set[str | int]]]:
    """Return what there is of the users: as a result, their rows by hash and table, their items by hash."""
    rows: dict[str, dict[str, int]] = {name: {} for name in users.suppression.hashes}
    totals = {}
    for table in filter(tables.exists, tables_with_users()):
        counts = count_rows(tables, table, users)
        totals[table] = sum(counts.values())
        for user_hash, count in counts.items():
            rows[user_hash][table] = count
    items: dict[str, set[str | int]] = defaultdict(set)
    if tables.exists("events"):
        pairs = tables.read("events").join(F.broadcast(users.ids), "user_id").select("user_hash", "item_id").distinct()
        for row in pairs.collect():
            items[row["user_hash"]].add(row["item_id"])
    distinct = sorted(set().union(*items.values()))
    folder = snapshot_folder(config, say)
    found = ForgetResult(
        users=len(rows),
        known=sum(bool(counts) for counts in rows.values()),
        tables=totals,
        items=len(distinct),
        model_version=solvable_live(tables),
        item_ids=tuple(map(str, distinct)),
        snapshots=len(folder.children("")) if folder else 0,
        state="dry run",
        history_until=datetime.now(timezone.utc) + timedelta(hours=config.maintain.history_hours),
    )
    return found, rows, items


@contextmanager
def _alone(spark: SparkSession, config: Config) -> Iterator[None]:
    """Keep streams out, and refuse to begin beside one or beside a training: both would write the users back."""
    folder = snapshot_folder(config, say)
    if folder and (trainings := running(folder)):
        raise SetupError(f"{trainings[0]}: wait for its end, or stop it; it would write rows of the users again")
    if not config.tables.root and not config.stream.checkpoint:
        yield  # no stream either
        return
    advice = "it would write rows of the users again: stop it ('lakefactor stream --stop'), then forget"
    with held(Folder(checkpoint_root(config)), "forget", advice):
        if is_unfinished(spark, config):
            raise SetupError(
                f"stream {config.stream.name!r} was cut off in a micro-batch, which would write rows of the users "
                "again: let it end ('lakefactor stream --available-now'), then forget"
            )
        yield


def _ids(
    spark: SparkSession, config: Config, tables: Tables, users: Sequence[str], users_file: str | None
) -> list[str | int]:
    """Return the ids that were given, each once, as the tables have them."""
    given = list(users)
    if users_file is not None:
        with refused(f"--users-file {users_file} cannot be read"):
            lines = spark.read.text(without_patterns(users_file)).collect()
        given += [row["value"] for row in lines if row["value"].strip()]
    if not given:
        raise InputError("no user is named; give --user ID, once or more often, or --users-file FILE")
    kind = _arrow_type(tables, "user") if tables.exists("events") else _configured_type(config)
    return list(dict.fromkeys(parse_id(user, kind, "--user") for user in given))


def _arrow_type(tables: Tables, side: str) -> pa.DataType:
    types = dict(zip(("user", "item"), tables.id_types("events"), strict=True)) if tables.exists("events") else {}
    return pa.int64() if types.get(side) == "long" else pa.string()


def _configured_type(config: Config) -> pa.DataType:
    return pa.int64() if config.tables.user_id_type == "long" else pa.string()


def _users(spark: SparkSession, config: Config, ids: list[str | int], salt: str) -> Users:
    suppression = Suppression(salt).of(ids)
    kind = pa.int64() if isinstance(ids[0], int) else pa.string()
    hashes = [suppression.hash(user) for user in ids]
    frame = spark.createDataFrame(pa.table({"user_id": pa.array(ids, kind), "user_hash": pa.array(hashes)}))
    return Users(frame, suppression, config.ingest.delimiter)


def _discard_snapshots(config: Config) -> None:
    """Remove what unfinished trainings have kept: it holds ids, and they could go on with the users."""
    if folder := snapshot_folder(config, say):
        for run_id in folder.children(""):
            snapshots.discard(folder, run_id)
