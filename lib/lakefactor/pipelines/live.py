"""The live model of a stream: read from its tables, taught by the events of a micro-batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Config, Stream
from lakefactor.factorization.live_model import LiveModel, check_streamed
from lakefactor.factorization.micro_batch import solve_batch
from lakefactor.factorization.safeguards import in_quarantine, newest_events
from lakefactor.factorization.update_rules import Updated, rule_of
from lakefactor.pipelines.interactions import Span, pairs_of
from lakefactor.pipelines.models import ModelRecord, newest
from lakefactor.pipelines.stream_watch import score_ranks, score_ratings
from lakefactor.spark.catalogue import Catalogue, as_lists, matrix
from lakefactor.spark.live_factors import UPDATES, optimizer_states, read_factors
from lakefactor.spark.tables import Tables
from lakefactor.types import SIDES, Side

PAIR = ["user_id", "item_id"]
Timer = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Learned:
    """What a micro-batch taught the model.

    Attributes
    ----------
    updates : pyarrow.Table or None
        Rows of `factor_updates`; None: no factors changed.
    counts : dict of str to int
        ``users, items, new_users, new_items``.
    acted : dict of str to int
        How often each safeguard acted.
    metrics : dict of str to float
        Prequential metrics.
    seen : pyarrow.Table or None
        ``user_id, item_id``: all interactions of the users, as they are now.
    """

    updates: pa.Table | None
    counts: dict[str, int]
    acted: dict[str, int]
    metrics: dict[str, float]
    seen: pa.Table | None = None


NOTHING = Learned(None, {"users": 0, "items": 0, "new_users": 0, "new_items": 0}, {}, {})


@dataclass
class Live:
    """A published model version in memory, as it was before a micro-batch.

    Attributes
    ----------
    record : ModelRecord
        Strengths are made as for its training, whatever the configuration says now.
    span : Span
        Of the events that it was trained on: times are measured against it.
    trained_on : int
        Version of `events` behind its training.
    model : LiveModel
    updated : bool
        Whether a micro-batch has updated this version before.
    id_types : dict of pyarrow DataType
    """

    record: ModelRecord
    span: Span
    trained_on: int
    model: LiveModel
    updated: bool
    id_types: dict[Side, pa.DataType]

    @property
    def model_version(self) -> str:
        """Name of the version."""
        return self.record.model_version

    def learn(
        self,
        spark: SparkSession,
        settings: Stream,
        history: pa.Table,
        missed: pa.Table,
        fresh: pa.Table,
        events_of_items: Callable[[pa.Array], DataFrame],
        number: int,
        timed: Timer,
    ) -> Learned:
        """Measure the model on new events, then bring it up to date with them.

        Parameters
        ----------
        spark : SparkSession
        settings : Stream
        history : pyarrow.Table
            All events of the users in ``missed`` and ``fresh``, these included.
        missed : pyarrow.Table
            Events that came after the training and before the stream; they are learned and not measured.
        fresh : pyarrow.Table
            New events.
        events_of_items : callable
            Gives all events of some items, new ones included; asked where items are solved exactly.
        number : int
            The micro-batch.
        timed : callable
            Times a step.
        """
        with timed("guard"):
            ignored, guarded = self._ignored(settings, history, fresh)
        history = history.filter(pc.invert(pc.is_in(history["event_id"], ignored)))
        learned = pa.concat_tables([missed, fresh])
        learned = learned.filter(pc.invert(pc.is_in(learned["event_id"], ignored)))
        if not len(learned):
            return replace(NOTHING, acted=guarded)
        with timed("strengths"):
            before, after = self._strengths(spark, history, learned)
        changes = _changes(before, after, learned)
        with timed("measure"):
            metrics = self._measure(settings, before, changes, fresh, number)
        of_items = None
        if settings.item_rule == "exact":
            with timed("item_history"):
                items = pc.unique(changes["item_id"])
                of_items = self._item_history(spark, events_of_items(items), ignored)
        known = {side: self.model.size(side) for side in SIDES}
        with timed("solve"):
            updated = solve_batch(self.model, changes, {"user": after, "item": of_items}, settings)
        counts = {f"{side}s": len(updated[side].rows) if side in updated else 0 for side in SIDES}
        counts |= {f"new_{side}s": self.model.size(side) - known[side] for side in SIDES}
        acted = guarded | {
            "bounded": sum(int(some.bounded.sum()) for some in updated.values()),
            "huber": sum(int(some.huber.sum()) for some in updated.values()),
        }
        rows = [self._rows(side, some, number) for side, some in updated.items() if len(some.rows)]
        updates = pa.concat_tables(rows) if rows else None
        return Learned(updates, counts, {name: count for name, count in acted.items() if count}, metrics, after)

    def _ignored(self, settings: Stream, history: pa.Table, fresh: pa.Table) -> tuple[pa.Array, dict[str, int]]:
        """Return the ids of events that a safeguard keeps the model from learning, and how often each acted.

        A new user is in quarantine by all its events, so it stays there until a training knows it.
        """
        ignored, acted = [pa.array([], history.schema.field("event_id").type)], {}
        if settings.burst_events:
            users = history["user_id"].combine_chunks().dictionary_encode()
            place = users.indices.to_numpy()
            is_new = self.model.numbers("user", users.dictionary.to_pylist())[place] < 0
            caught = in_quarantine(place, is_new, settings.burst_events)
            ignored.append(history["event_id"].combine_chunks().filter(pa.array(caught)))
            acted["quarantined_users"] = len(np.unique(place[caught]))
        if settings.events_per_user and len(fresh):
            in_time = pc.sort_indices(
                fresh, [("event_time", "ascending"), ("event_id", "ascending")], null_placement="at_start"
            )
            order = np.empty(len(fresh), np.int64)
            order[in_time.to_numpy()] = np.arange(len(fresh))
            users = fresh["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
            beyond = ~newest_events(users, order, settings.events_per_user)
            ignored.append(fresh["event_id"].combine_chunks().filter(pa.array(beyond)))
            acted["capped_events"] = int(beyond.sum())
        return pa.concat_arrays(ignored), acted

    def _strengths(self, spark: SparkSession, history: pa.Table, learned: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Return the users' interactions without the learned events, and with them: ``user_id, item_id, strength``."""
        is_new = pc.is_in(history["event_id"], learned["event_id"].combine_chunks())
        # One Spark job makes both: every event counts in "after", and what was known also in "before".
        both = pa.concat_tables(
            [
                history.append_column("after", pa.array(np.ones(len(history), bool))),
                (old := history.filter(pc.invert(is_new))).append_column("after", pa.array(np.zeros(len(old), bool))),
            ]
        )
        pairs = pairs_of(spark.createDataFrame(both), self.record.config, self.span, "after").where("kept")
        found = pairs.select(*PAIR, "strength", "after").toArrow()
        return tuple(found.filter(pc.equal(found["after"], flag)).drop_columns("after") for flag in (False, True))

    def _item_history(self, spark: SparkSession, events: DataFrame, ignored: pa.Array) -> pa.Table:
        """Return all interactions of items: ``user_id, item_id, strength``."""
        if len(ignored):
            events = events.join(
                F.broadcast(spark.createDataFrame(pa.table({"event_id": ignored}))), "event_id", "anti"
            )
        pairs = pairs_of(events, self.record.config, self.span).where("kept")
        return pairs.select(*PAIR, "strength").toArrow()

    def _measure(
        self, settings: Stream, before: pa.Table, changes: pa.Table, fresh: pa.Table, number: int
    ) -> dict[str, float]:
        """Return the prequential metrics of the new events that speak for an item."""
        if not settings.watch_users:
            return {}
        pairs = fresh.select(PAIR).group_by(PAIR).aggregate([])
        found = pairs.join(changes, PAIR, join_type="inner").rename_columns({"after": "strength"})
        found = found.filter(pc.is_valid(found["strength"])).sort_by([(name, "ascending") for name in PAIR])
        if self.record.config.feedback == "explicit":
            bounds = (self.record.min_strength, self.record.max_strength)
            return score_ratings(self.model, settings, number, found, self.record.mean, bounds)
        return score_ranks(self.model, settings, number, found, before)

    def catalogue(self) -> Catalogue:
        """Return the items as they are now, ordered by id."""
        ids = pa.array(self.model.ids("item", np.arange(self.model.size("item"))), self.id_types["item"])
        order = pc.sort_indices(ids).to_numpy().astype(np.int64)
        factors, bias = self.model.stored("item", order)
        return Catalogue(ids.take(pa.array(order)), factors, bias, self.model.n_entries("item", order))

    def _rows(self, side: Side, updated: Updated, number: int) -> pa.Table:
        """Return rows of `factor_updates`."""
        factors, bias = self.model.stored(side, updated.rows)
        ids = self.model.ids(side, updated.rows)
        n, state = len(ids), updated.optimizer_state
        columns = {
            "model_version": pa.array([self.model_version] * n),
            "batch_id": pa.array([number] * n, pa.int64()),
            "side": pa.array([side] * n),
            **{f"{s}_id": pa.array(ids if s == side else [None] * n, self.id_types[s]) for s in SIDES},
            "factors": as_lists(factors),
            "bias": pa.array(bias),
            "n_entries": pa.array(updated.n_entries),
            "rule": pa.array(updated.rules.tolist()),
            "optimizer_state": pa.nulls(n, pa.list_(pa.float32())) if state is None else as_lists(state),
            "updated_at": pa.array([datetime.now(timezone.utc)] * n, pa.timestamp("us", "UTC")),
        }
        return pa.table(columns)


def _changes(before: pa.Table, after: pa.Table, learned: pa.Table) -> pa.Table:
    """Return ``user_id, item_id, before, after`` of the pairs that have learned events; null: no interaction."""
    pairs = learned.select(PAIR).group_by(PAIR).aggregate([])
    for name, strengths in (("before", before), ("after", after)):
        pairs = pairs.join(strengths.rename_columns([*PAIR, name]), PAIR, join_type="left outer")
    changed = pc.or_(pc.is_valid(pairs["before"]), pc.is_valid(pairs["after"]))
    return pairs.filter(changed).sort_by([(name, "ascending") for name in PAIR])


def load_live(spark: SparkSession, config: Config, model_version: str, number: int) -> Live:
    """Read a model version as it was before a micro-batch.

    Parameters
    ----------
    spark : SparkSession
    config : Config
    model_version : str
    number : int
        The micro-batch; updates with its number or a larger one are not read.

    Raises
    ------
    ConfigError
        The model's algorithm cannot be streamed.
    TableError
        The logs no longer tell which events it was trained on.
    """
    tables = Tables(spark, config.tables)
    record = newest(tables, model_version)
    check_streamed(record.config.model)
    made_from = tables.commit_metadata("interactions", record.interactions_version)["made_from"]
    trained_on = made_from["events_version"]
    read = {side: read_factors(tables, side, model_version, number).toArrow() for side in SIDES}
    read = {side: table.sort_by(f"{side}_id").combine_chunks() for side, table in read.items()}
    model = LiveModel(
        record.config.model,
        record.mean,
        {side: table[f"{side}_id"].combine_chunks() for side, table in read.items()},
        {side: matrix(table["factors"].combine_chunks()) for side, table in read.items()},
        {side: table["bias"].to_numpy() for side, table in read.items()},
        {side: table["n_entries"].to_numpy() for side, table in read.items()},
    )
    updates = tables.read(UPDATES)
    earlier = (F.col("model_version") == model_version) & (F.col("batch_id") < number)
    updated = not updates.where(earlier).isEmpty() or any(
        pc.max(table["batch_id"]).as_py() not in (None, -1) for table in read.values()
    )
    if config.stream.optimizers:
        _restore_states(model, tables, config.stream, model_version, number)
    span = Span.of(tables.read("events", trained_on))
    span = replace(span, types=span.types | {record.config.ingest.delete_event_type})  # it may come yet
    types = {side: read[side].schema.field(f"{side}_id").type for side in SIDES}
    return Live(record, span, trained_on, model, updated, types)


def _restore_states(model: LiveModel, tables: Tables, settings: Stream, model_version: str, number: int) -> None:
    """Give the model the optimizer's states from before a micro-batch, those of the rule that goes on."""
    for side in SIDES:
        states = optimizer_states(tables, side, model_version, number, rule_of(settings, side)).toArrow()
        if len(states):
            values = matrix(states["optimizer_state"].combine_chunks())
            model.put_state(side, model.rows(side, states[f"{side}_id"]), values)
