"""The live model of a stream: read from its tables, taught by the events of a micro-batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import SparkSession

from lakefactor.config import Config, Stream
from lakefactor.errors import SetupError
from lakefactor.factorization.catalogue import Catalogue, as_lists, matrix
from lakefactor.factorization.coding import coded, invert
from lakefactor.factorization.equation import Equation
from lakefactor.factorization.live_model import LiveModel, check_streamed, memory_bytes
from lakefactor.factorization.micro_batch import solve_anew, solve_batch
from lakefactor.factorization.safeguards import in_quarantine, newest_events
from lakefactor.factorization.strengths import Bools, PairEvents, Span
from lakefactor.factorization.update_rules import Updated, is_heavy, rule_of
from lakefactor.metrics.prequential import sample_users
from lakefactor.pipelines.learned import learned_to, source_of
from lakefactor.pipelines.models import ModelRecord, newest
from lakefactor.pipelines.stream_watch import score_ranks, score_ratings
from lakefactor.spark.live_factors import collect_factors, optimizer_states
from lakefactor.spark.memory import free_bytes
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
        ``user_id, item_id``: all interactions of the users, as they are now, where asked for.
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
    learned_to : int
        Version of `events` up to which it had learned.
    model : LiveModel
    caught_up : bool
        Whether it has been given what arrived between that and the micro-batch.
    id_types : dict of pyarrow DataType
    """

    record: ModelRecord
    span: Span
    learned_to: int
    model: LiveModel
    caught_up: bool
    id_types: dict[Side, pa.DataType]

    @property
    def model_version(self) -> str:
        """Name of the version."""
        return self.record.model_version

    def learn(
        self,
        settings: Stream,
        history: pa.Table,
        missed: pa.Table,
        fresh: pa.Table,
        events_of_items: Callable[[pa.Array], pa.Table],
        number: int,
        timed: Timer,
        with_seen: bool = False,
    ) -> Learned:
        """Measure the model on new events, then bring it up to date with them.

        Parameters
        ----------
        settings : Stream
        history : pyarrow.Table
            All events of the users in ``missed`` and ``fresh``, these included; columns as `touched.COLUMNS`.
        missed : pyarrow.Table
            Events that came while the version was not live; they are learned and not measured.
        fresh : pyarrow.Table
            New events.
        events_of_items : callable
            Gives all events of some items, new ones included; asked where items are solved exactly.
        number : int
            The micro-batch.
        timed : callable
            Times a step.
        with_seen : bool, optional
            Whether `Learned.seen` is wanted.
        """
        with timed("guard"):
            ignored, acted = self._ignored(settings, history, fresh)
            history, missed, fresh = (_without(events, ignored) for events in (history, missed, fresh))
        if not len(missed) + len(fresh):
            return replace(NOTHING, acted=acted)
        with timed("strengths"):
            events = PairEvents(history, self.record.config, self.span)
            is_fresh = events.of_ids(fresh["event_id"])
            is_new = is_fresh | events.of_ids(missed["event_id"]) if len(missed) else is_fresh
            acted["unweighted_events"] = int((events.unweighted & is_new).sum())
            changes = _changes(events, is_new, is_fresh)
            whole = events.interactions() if settings.user_rule == "exact" or with_seen else None
        with timed("measure"):
            known = partial(_interactions, events, ~is_new)
            metrics = self._measure(settings, changes.filter(changes["is_fresh"]), known, number)
        of_items = None
        if settings.item_rule == "exact":
            with timed("item_history"):
                of_items = self._item_history(settings, events_of_items, changes["item_id"], ignored)
        sizes = {side: self.model.size(side) for side in SIDES}
        with timed("solve"):
            updated = solve_batch(self.model, changes, {"user": whole, "item": of_items}, settings)
        counts = {f"{side}s": len(updated[side].rows) if side in updated else 0 for side in SIDES}
        counts |= {f"new_{side}s": self.model.size(side) - sizes[side] for side in SIDES}
        for name in ("bounded", "huber"):
            acted[name] = sum(int(getattr(some, name).sum()) for some in updated.values())
        rows = [self._rows(side, some, number) for side, some in updated.items() if len(some.rows)]
        updates = pa.concat_tables(rows) if rows else None
        return Learned(
            updates, counts, {name: n for name, n in acted.items() if n}, metrics, whole if with_seen else None
        )

    def _ignored(self, settings: Stream, history: pa.Table, fresh: pa.Table) -> tuple[pa.Array, dict[str, int]]:
        """Return the ids of events that a safeguard keeps the model from learning, and how often each acted.

        A new user is in quarantine by all its events, so it stays there until a training knows it.
        """
        ignored, acted = [pa.array([], history.schema.field("event_id").type)], {}
        if settings.burst_events:
            users, place = coded(history["user_id"])
            is_new = self.model.numbers("user", users.to_pylist())[place] < 0
            caught = in_quarantine(place, is_new, settings.burst_events)
            ignored.append(history["event_id"].combine_chunks().filter(pa.array(caught)))
            acted["quarantined_users"] = len(np.unique(place[caught]))
        if settings.events_per_user and len(fresh):
            time = pc.fill_null(
                fresh["event_time"].cast(pa.int64()), np.iinfo(np.int64).min
            )  # those without come first
            in_time = pc.sort_indices(
                pa.table([time, fresh["event_id"]], ["time", "id"]), [("time", "ascending"), ("id", "ascending")]
            )
            order = invert(in_time.to_numpy())
            beyond = ~newest_events(coded(fresh["user_id"])[1], order, settings.events_per_user)
            ignored.append(fresh["event_id"].combine_chunks().filter(pa.array(beyond)))
            acted["capped_events"] = int(beyond.sum())
        return pa.concat_arrays(ignored), acted

    def _item_history(
        self,
        settings: Stream,
        events_of_items: Callable[[pa.Array], pa.Table],
        items: pa.ChunkedArray,
        ignored: pa.Array,
    ) -> pa.Table:
        """Return all interactions of those of some items that are solved exactly: ``user_id, item_id, strength``."""
        distinct, _ = coded(items)
        rows = self.model.numbers("item", distinct.to_pylist())
        exactly = rows < 0
        exactly[~exactly] = ~is_heavy(self.model, "item", rows[~exactly], settings)
        events = _without(events_of_items(distinct.filter(pa.array(exactly))), ignored)
        return PairEvents(events, self.record.config, self.span).interactions()

    def _measure(
        self, settings: Stream, changes: pa.Table, had: Callable[[pa.Array], pa.Table], number: int
    ) -> dict[str, float]:
        """Return the prequential metrics of the changes that speak for an item."""
        if not settings.watch_users:
            return {}
        found = changes.filter(pc.invert(pc.is_nan(changes["after"])))
        if self.record.config.feedback == "explicit":
            bounds = (self.record.min_strength, self.record.max_strength)
            ratings = found.select([*PAIR, "after"]).rename_columns([*PAIR, "strength"])
            return score_ratings(self.model, settings, number, ratings, self.record.mean, bounds)
        return score_ranks(self.model, settings, number, found, had)

    def distances(
        self, settings: Stream, events_of_users: Callable[[pa.Array], pa.Table], number: int
    ) -> dict[str, float]:
        """Return how far some users' factors are from those that a solution from their whole histories would give now.

        ``distance_p50`` and ``distance_p95`` of |x - x_exact| / |x_exact|: what items that moved since a user's last
        event, and rules that read no history, leave behind. Empty where ``stream.resolve_users`` is 0.
        """
        ids = pa.array(self.model.ids("user", np.arange(self.model.size("user"))), self.id_types["user"])
        users = ids.take(pa.array(sample_users(ids, number, settings.resolve_users)))
        history = PairEvents(events_of_users(users), self.record.config, self.span).interactions()
        if not len(history):
            return {}
        anew = solve_anew(self.model, "user", history, settings)
        change = np.linalg.norm(self.model.source("user")[anew.rows] - anew.factors, axis=1)
        size = np.linalg.norm(anew.factors, axis=1)
        p50, p95 = np.percentile(change[size > 0] / size[size > 0], (50, 95)) if size.any() else (0.0, 0.0)
        return {"distance_p50": float(p50), "distance_p95": float(p95)}

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


def _changes(events: PairEvents, is_new: Bools, is_fresh: Bools) -> pa.Table:
    """Return ``user_id, item_id, before, after, is_fresh`` of the pairs with new events; NaN: no interaction."""
    pair = np.unique(events.pair[is_new])
    touched = events.of_pairs(pair)
    before, after = (events.strengths(some).of(pair) for some in (touched & ~is_new, touched))
    changed = ~(np.isnan(before) & np.isnan(after))
    fresh = np.isin(pair, events.pair[is_fresh])
    return events.table(pair[changed], before=before[changed], after=after[changed], is_fresh=fresh[changed])


def _interactions(events: PairEvents, some: Bools, users: pa.Array) -> pa.Table:
    """Return the interactions that some of the events of some users amount to."""
    return events.interactions(some & events.of_users(users))


def _without(events: pa.Table, ids: pa.Array) -> pa.Table:
    """Return the events whose id is not one of some."""
    return events.filter(pc.invert(pc.is_in(events["event_id"], value_set=ids))) if len(ids) else events


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
    SetupError
        The driver lacks the memory for it.
    TableError
        Nothing tells any more which events it was trained on.
    """
    tables = Tables(spark, config.tables)
    record = newest(tables, model_version)
    check_streamed(record.config.model)
    _check_memory(record)
    source = source_of(record)
    read = {side: collect_factors(tables, side, model_version, number) for side in SIDES}
    model = LiveModel(
        record.config.model,
        record.mean,
        {side: table[f"{side}_id"].combine_chunks() for side, table in read.items()},
        {side: matrix(table["factors"].combine_chunks()) for side, table in read.items()},
        {side: table["bias"].to_numpy() for side, table in read.items()},
        {side: table["n_entries"].to_numpy() for side, table in read.items()},
    )
    if config.stream.optimizers:
        _restore_states(model, tables, config.stream, model_version, number)
    span = source.span
    span = replace(span, types=span.types | {record.config.ingest.delete_event_type})  # it may come yet
    types = {side: read[side].schema.field(f"{side}_id").type for side in SIDES}
    known = learned_to(tables, model_version, source.events_version, number)
    return Live(record, span, known, model, caught_up=False, id_types=types)


def _check_memory(record: ModelRecord) -> None:
    """Refuse a model that this machine has no memory for, before it is read."""
    needed = memory_bytes(record.n_users, record.n_items, Equation(record.config.model).columns)
    free = free_bytes()
    if free is not None and needed > free:
        raise SetupError(
            f"model version {record.model_version} has {record.n_users:,} users and {record.n_items:,} items of rank "
            f"{record.config.model.rank}, for which a stream's driver needs {needed / 1e9:.2g} GB beside Spark, and "
            f"{free / 1e9:.2g} GB are free here; give the driver's machine or container more, or train a smaller rank"
        )


def _restore_states(model: LiveModel, tables: Tables, settings: Stream, model_version: str, number: int) -> None:
    """Give the model the optimizer's states from before a micro-batch, those of the rule that goes on."""
    for side in SIDES:
        states = optimizer_states(tables, side, model_version, number, rule_of(settings, side)).toArrow()
        if len(states):
            values = matrix(states["optimizer_state"].combine_chunks())
            model.put_state(side, model.rows(side, states[f"{side}_id"]), values)
