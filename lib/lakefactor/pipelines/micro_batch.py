"""One micro-batch: new events in, new factors of the users and items that they touch out.

The order of the commits, and what each does when it is repeated, is docs/decisions/0007. A micro-batch that is run
again finds the state from before it, since its own factors carry its number, and computes the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from time import perf_counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Config
from lakefactor.errors import SetupError, TableError
from lakefactor.factorization.coding import coded
from lakefactor.log import say
from lakefactor.pipelines.fold import fold
from lakefactor.pipelines.learned import batch_metadata
from lakefactor.pipelines.live import NOTHING, Learned, Live, load_live
from lakefactor.pipelines.models import live_version
from lakefactor.pipelines.refresh import LISTS, replace_recommendations, replace_similar_items
from lakefactor.spark.commits import version_with
from lakefactor.spark.stream_rows import COMMIT, BatchRows
from lakefactor.spark.stream_source import Source
from lakefactor.spark.suppression import load_suppression
from lakefactor.spark.tables import Tables
from lakefactor.spark.touched import events_of, events_since, learnable
from lakefactor.types import SIDES

APP_ID = "lakefactor-stream"
"""Delta's transactions of all streams: of two at once, Delta lets one win."""


@dataclass
class Steps:
    """Seconds of each step, by name."""

    seconds: dict[str, float] = field(default_factory=dict)
    _began: float = field(default_factory=perf_counter)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a step."""
        began = perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - began

    def with_total(self) -> dict[str, float]:
        """Return the seconds of all steps, and since the beginning."""
        return self.seconds | {"total": perf_counter() - self._began}


class MicroBatches:
    """The function that Spark calls for every micro-batch of a stream.

    Parameters
    ----------
    spark : SparkSession
    config : Config
    source : Source
    first_number : int
        Number of the stream's first micro-batch: behind those of the streams before it.
    done : callable
        Gets the ledger row of every micro-batch.
    at : callable
        Gets the name of each commit once it is made; tests strike there.
    """

    def __init__(
        self,
        spark: SparkSession,
        config: Config,
        source: Source,
        first_number: int,
        done: Callable[[dict[str, Any]], None],
        at: Callable[[str], None] = lambda step: None,
    ) -> None:
        self._spark, self._config, self._source, self._first = spark, config, source, first_number
        self._done, self._at = done, at
        self._tables = Tables(spark, config.tables)
        self._suppression = load_suppression(spark, config)
        self._live: Live | None = None
        self._number = self._ledger_version = -1

    def __call__(self, frame: DataFrame, spark_batch: int) -> None:
        """Process a micro-batch.

        Raises
        ------
        SetupError
            Another stream has gone on with the same tables.
        """
        number, started, steps = self._first + spark_batch, datetime.now(timezone.utc), Steps()
        self._fence(number)
        with steps("read"):
            rows = self._source.batch(frame, spark_batch, started)
        try:
            if rows.read:
                self._process(rows, number, started, steps)
        finally:
            rows.unpersist()
        self._number = number

    def _process(self, rows: BatchRows, number: int, started: datetime, steps: Steps) -> None:
        """Append, learn, write, and enter the micro-batch in the ledger."""
        with steps("read"):
            events = rows.events.toArrow()
            arrived = self._suppression.keep(events).combine_chunks()  # others may append some of theirs
            unwanted = {"suppressed_events": len(events) - len(arrived)} if len(events) > len(arrived) else {}
            before = self._version_before(number, rows)
        with steps("follow"):
            live = self._follow(number)
            events = learnable(arrived)
            missed = self._missed(live, before) or events.slice(0, 0)
        with steps("history"):
            users, _ = coded(pa.concat_tables([events, missed])["user_id"])
            known = events_of(self._spark, self._config, "user", users, before)
        new = arrived if rows.appended else _without(arrived, known)
        fresh = new
        if rows.appended and live is not None:  # a model that is newer than the stream knows some
            fresh = new.filter(pc.greater(new[COMMIT], live.learned_to))
        with ThreadPoolExecutor(1) as pool:
            appending = pool.submit(self._append, rows, new, number)  # Spark is busy with it while the model learns
            learned = NOTHING
            if live is not None and len(fresh) + len(missed):
                learned = self._learn(live, known, missed, fresh, number, before, rows.appended, steps)
            with steps("append"):
                appending.result()
        if live is not None and learned.updates is not None:
            with steps("write"):
                self._tables.append("factor_updates", learned.updates, (APP_ID, number))
                self._at("factor_updates")
            with steps("refresh"):
                self._refresh(live, learned)
        ledger = {
            "stream": self._config.stream.name,
            "source": self._config.stream.source,
            "batch_id": number,
            "model_version": live.model_version if live else None,
            "input_versions": {"events": before},
            "read": rows.read,
            "accepted": len(new),
            "duplicates": rows.duplicates + len(arrived) - len(new),
            "rejected": rows.rejected,
            **learned.counts,
            "acted": learned.acted | unwanted,
            "metrics": learned.metrics,
            "newest_event_time": pc.max(new["event_time"]).as_py(),
            "started_at": started,
        }
        settings = self._config.stream
        if live is not None and number % settings.gramian_every == 0:
            with steps("check"):
                newest = self._tables.version("events")
                events_of_users = partial(events_of, self._spark, self._config, "user", version=newest)
                checked = live.distances(settings, events_of_users, number)
                checked["gramian_difference"] = live.model.recompute_gramians()
            ledger["metrics"] = learned.metrics | checked
        self._finish(ledger, steps)
        if live is not None and settings.fold_every and (number + 1) % settings.fold_every == 0:
            fold(self._tables, live.model_version, batch_below=number)
            self._at("fold")

    def _learn(
        self,
        live: Live,
        known: pa.Table,
        missed: pa.Table,
        fresh: pa.Table,
        number: int,
        before: int,
        appended: bool,
        steps: Steps,
    ) -> Learned:
        """Give the model the events, with the histories of their users and, where it asks, of their items."""
        fresh = learnable(fresh)
        unknown = [] if appended else [fresh]  # to the version of the table that histories are read at

        def of_items(items: pa.Array) -> pa.Table:
            return pa.concat_tables([events_of(self._spark, self._config, "item", items, before), *unknown])

        history = pa.concat_tables([known, *unknown])
        with_seen = self._config.stream.refresh and any(map(self._tables.exists, LISTS))
        return live.learn(self._config.stream, history, missed, fresh, of_items, number, steps, with_seen)

    def _fence(self, number: int) -> None:
        """Refuse to go on behind another stream's back; Delta would skip what is numbered lower."""
        if self._tables.version("stream_ledger") == self._ledger_version:
            return  # the newest row is this stream's own
        ledger = self._tables.read("stream_ledger")
        newest = ledger.where(F.col("batch_id") >= number).orderBy(F.desc("batch_id")).first()
        if newest is None:
            return
        if newest["stream"] != self._config.stream.name or newest["batch_id"] > number:
            raise SetupError(
                f"stream {newest['stream']!r} has finished micro-batch {newest['batch_id']} on the same tables, so "
                f"micro-batch {number} of stream {self._config.stream.name!r} is not processed; one stream at a time"
            )

    def _version_before(self, number: int, rows: BatchRows) -> int:
        """Return the version of `events` that the micro-batch's history is read at.

        With events that are in the table already it is the version that brought the last of them; else the newest, or,
        where the micro-batch is repeated and its events have been appended, the one before that.
        """
        if rows.version is not None:
            return rows.version
        if self._number >= 0:  # only the first one after a start may be a repetition
            return self._tables.version("events")
        own = version_with(self._tables, "events", batch_metadata(self._config.stream.name, number))
        return self._tables.version("events") if own is None else own - 1

    def _follow(self, number: int) -> Live | None:
        """Return the live model as it was before this micro-batch; None where none is published yet."""
        version = live_version(self._tables)
        if version is None:
            self._live = None
        elif self._live is None or self._live.model_version != version:
            self._tables.ensure("factor_updates", *self._tables.id_types("events"))
            self._live = load_live(self._spark, self._config, version, number)
        return self._live

    def _missed(self, live: Live | None, before: int) -> pa.Table | None:
        """Return the events that arrived while a model was not live; None where it has been given them."""
        if live is None or live.caught_up:
            return None
        live.caught_up = True
        if live.learned_to >= before:
            return None
        try:
            return self._suppression.keep(events_since(self._tables, live.learned_to, before))
        except TableError as error:
            say(
                f"model version {live.model_version} goes on without events that it has missed: {error}; a user's next "
                "event brings them to the user, the next training to all",
                "yellow",
            )
            return None

    def _refresh(self, live: Live, learned: Learned) -> None:
        """Bring the lists of the changed users and items up to date, where `recommend` has made some."""
        updates = learned.updates
        if updates is None or learned.seen is None:
            return
        catalogue = live.catalogue()
        users = updates.filter(pc.equal(updates["side"], "user")).select(["user_id", "factors", "bias"])
        plain = pa.schema([(f"{side}_id", live.id_types[side]) for side in SIDES])
        seen = learned.seen.select(plain.names).cast(plain)
        seen = seen.group_by("user_id").aggregate([("item_id", "list")]).rename_columns(["user_id", "seen"])
        place = pc.index_in(users["user_id"], seen["user_id"].combine_chunks())
        users = users.append_column("seen", seen["seen"].take(place))
        replace_recommendations(self._spark, self._config, live.model_version, live.record.mean, catalogue, users)
        items = updates.filter(pc.equal(updates["side"], "item"))["item_id"].combine_chunks()
        replace_similar_items(self._spark, self._config, live.model_version, catalogue, items)
        self._at("refresh")

    def _append(self, rows: BatchRows, fresh: pa.Table, number: int) -> None:
        """Append what was refused, and the new events, once."""
        if rows.rejects is not None:
            self._tables.merge_new("rejects", rows.rejects, ["reject_id"])
            self._at("rejects")
        if not rows.appended and len(fresh):
            self._tables.append("events", fresh, (APP_ID, number), batch_metadata(self._config.stream.name, number))
            self._at("events")

    def _finish(self, ledger: dict[str, Any], steps: Steps) -> None:
        ledger |= {"seconds": steps.with_total(), "finished_at": datetime.now(timezone.utc)}
        self._tables.append_rows("stream_ledger", [ledger], (APP_ID, ledger["batch_id"]))
        self._ledger_version = self._tables.version("stream_ledger")
        self._at("stream_ledger")
        self._done(ledger)


def _without(arrived: pa.Table, known: pa.Table) -> pa.Table:
    """Return the events whose id is not among those known."""
    # The few that arrived are hashed, not the many that are known.
    again = known["event_id"].filter(pc.is_in(known["event_id"], value_set=arrived["event_id"].combine_chunks()))
    return arrived.filter(pc.invert(pc.is_in(arrived["event_id"], value_set=again.combine_chunks())))
