"""How a stream is doing, read from `stream_ledger` and `drift` without Spark: for people, scripts and monitors."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from pydantic import BaseModel, ConfigDict
from rich.console import Group
from rich.text import Text

from lakefactor.config import Config
from lakefactor.errors import TableError
from lakefactor.log import printable
from lakefactor.query.lake import Lake
from lakefactor.query.reader import live_version
from lakefactor.query.render import text_table

RECENT_SECONDS = 600
"""Span that "recent" means."""

RECENT_BATCHES = 100
"""Micro-batches of which the times of the steps are summarised."""

DRIFT_ROWS = 10
"""Newest changes that are shown."""

_COUNTS = ("read", "accepted", "duplicates", "rejected")
_LEDGER = (
    "stream",
    "source",
    "batch_id",
    "model_version",
    "input_versions",
    *_COUNTS,
    "acted",
    "metrics",
    "seconds",
    "newest_event_time",
    "started_at",
    "finished_at",
)
_DRIFT = ("batch_id", "model_version", "segment", "metric", "detector", "before", "after", "detected_at")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Counts(_Record):
    """Sums over micro-batches."""

    batches: int = 0
    rows: int = 0
    """Rows that arrived."""
    events: int = 0
    """New events among them."""
    duplicates: int = 0
    rejected: int = 0


class Times(_Record):
    """Seconds that a step takes: half of the micro-batches stay below `p50`, 95 % below `p95`."""

    p50: float
    p95: float


class StreamStatus(_Record):
    """What `lakefactor stream --status` tells."""

    stream: str
    live_version: str | None = None
    """Model version that readers use now."""
    model_version: str | None = None
    """The one that the last micro-batch updated; another than `live_version` only until the next micro-batch."""
    batch_id: int | None = None
    """Last micro-batch that is done; None: none is."""
    finished_at: datetime | None = None
    total: Counts = Counts()
    recent: Counts = Counts()
    """Of the last `RECENT_SECONDS`."""
    events_per_second: float = 0.0
    """New events over the last `RECENT_SECONDS`, or since the stream's first micro-batch began."""
    lag_seconds: float | None = None
    """Time since the last micro-batch was done."""
    event_lag_seconds: float | None = None
    """Time since the newest event happened, by the source's clock; None where no event has a time."""
    lag_events: int | None = None
    """Rows of `events` that came after what the last micro-batch read; None unless the source is `changes`."""
    seconds: dict[str, Times] = {}
    """By step, of the last `RECENT_BATCHES`."""
    metrics: dict[str, float] = {}
    """Of the last micro-batch that has any."""
    acted: dict[str, int] = {}
    """How often each safeguard acted in the last `RECENT_BATCHES`."""
    drift: list[dict[str, Any]] = []
    """Newest changes first: columns of the table `drift`."""
    other_streams: list[str] = []
    """Names of other streams in the ledger."""


def status(config: Config, now: datetime | None = None) -> StreamStatus:
    """Read how the stream ``stream.name`` is doing.

    Parameters
    ----------
    config : Config
        ``tables.root`` and ``stream.name``.
    now : datetime, optional
        With a time zone; None: the clock's.

    Returns
    -------
    StreamStatus
        Without a ``batch_id`` where no micro-batch of the stream is done yet; that is no error.

    Raises
    ------
    ConfigError
        ``tables.root`` is empty: the tables are in a catalog, which only Spark can ask.
    TableError
        A table cannot be read.
    """
    lake, name, now = Lake(config.tables), config.stream.name, now or datetime.now(timezone.utc)
    found = StreamStatus(stream=name, live_version=live_version(lake))
    if not lake.exists("stream_ledger"):
        return found
    ledger = lake.rows("stream_ledger", _LEDGER)  # once: two reads may be of two versions
    others = sorted(set(ledger["stream"].unique().to_pylist()) - {name})
    ledger = ledger.filter(pc.equal(ledger["stream"], name))
    if not ledger.num_rows:
        return found.model_copy(update={"other_streams": others})
    order = pc.sort_indices(ledger, [("batch_id", "descending")])[:RECENT_BATCHES]
    newest_first = ledger.take(order).to_pylist(maps_as_pydicts="lossy")
    recent = ledger.filter(pc.greater(ledger["finished_at"], pa.scalar(now - timedelta(seconds=RECENT_SECONDS))))
    running = (now - pc.min(ledger["started_at"]).as_py()).total_seconds()
    finished_at = pc.max(ledger["finished_at"]).as_py()
    newest_event = newest_first[0]["newest_event_time"]
    in_feed = newest_first[0]["input_versions"].get("events") if newest_first[0]["source"] == "changes" else None
    return found.model_copy(
        update={
            "model_version": newest_first[0]["model_version"],
            "batch_id": newest_first[0]["batch_id"],
            "finished_at": finished_at,
            "total": _counts(ledger),
            "recent": _counts(recent),
            "events_per_second": _counts(recent).events / min(max(running, 1.0), RECENT_SECONDS),
            "lag_seconds": (now - finished_at).total_seconds(),
            "event_lag_seconds": None if newest_event is None else (now - newest_event).total_seconds(),
            "lag_events": None if in_feed is None else _rows_after(lake, in_feed),
            "seconds": _times([row["seconds"] for row in newest_first]),
            "metrics": next((row["metrics"] for row in newest_first if row["metrics"]), {}),
            "acted": _sums([row["acted"] for row in newest_first]),
            "drift": _newest_drift(lake, name),
            "other_streams": others,
        }
    )


def render(status: StreamStatus) -> Group:
    """Return the status as tables for people."""
    if status.batch_id is None:
        note = f"stream {status.stream}: no micro-batch is done yet"
        if status.other_streams:
            note += f"; the ledger has other streams: {', '.join(status.other_streams)} (--set stream.name=...)"
        return Group(Text(printable(note)))
    tables = [text_table(_summary(status), f"stream {status.stream}", header=False)]
    if status.metrics:
        tables.append(text_table(_by_segment(status.metrics), "metrics of the last micro-batch that has any"))
    if status.seconds:
        rows = [{"step": name, "p50": times.p50, "p95": times.p95} for name, times in status.seconds.items()]
        tables.append(text_table(rows, f"seconds of the last {RECENT_BATCHES} micro-batches"))
    if status.drift:
        columns = [column for column in _DRIFT if column not in ("model_version", "detected_at")]
        tables.append(text_table(status.drift, "newest changes of quality", columns))
    return Group(*tables)


def duration(seconds: float) -> str:
    """Return a time span as people say it.

    >>> duration(3.2), duration(0.04), duration(130), duration(7300), duration(9e5), duration(-2)
    ('3.2 s', '0.04 s', '2 min', '2 h', '10 d', '-2 s')
    """
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if abs(seconds) >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if abs(seconds) >= 10 else f"{seconds:.2g} s"


def _summary(status: StreamStatus) -> list[dict[str, Any]]:
    total, recent = status.total, status.recent
    minutes = RECENT_SECONDS // 60
    live = "none" if status.live_version is None else status.live_version
    if status.model_version not in (None, status.live_version):
        live += f" (the last micro-batch updated {status.model_version})"
    lag = f"{duration(status.lag_seconds or 0.0)} since the last micro-batch"
    if status.event_lag_seconds is not None:
        lag += f", {duration(status.event_lag_seconds)} since the newest event"
    if status.lag_events is not None:
        lag += f", {status.lag_events:,} events wait"
    fields = {
        "live model": live,
        "last micro-batch": f"{status.batch_id}, done {status.finished_at:%Y-%m-%d %H:%M:%S} UTC",
        "lag": lag,
        "throughput": f"{status.events_per_second:,.1f} events/s",
        f"last {minutes} min": _counted(recent),
        "in total": _counted(total),
    }
    if status.acted:
        fields["safeguards"] = ", ".join(f"{name} {count:,}" for name, count in status.acted.items())
    if status.other_streams:
        fields["other streams"] = ", ".join(status.other_streams)
    return [{"field": name, "value": value} for name, value in fields.items()]


def _counted(counts: Counts) -> str:
    return (
        f"{counts.batches:,} micro-batches, {counts.rows:,} rows: {counts.events:,} new events, "
        f"{counts.duplicates:,} duplicates, {counts.rejected:,} rejects"
    )


def _by_segment(metrics: dict[str, float]) -> list[dict[str, Any]]:
    """Return a row per metric and a column per segment.

    >>> _by_segment({"recall_at_10": 0.5, "recall_at_10.new_users": 0.0, "distance": 0.1})
    [{'metric': 'distance', 'all': 0.1, 'new_users': None}, {'metric': 'recall_at_10', 'all': 0.5, 'new_users': 0.0}]
    """
    parts = {name: name.partition(".") for name in sorted(metrics)}
    segments = dict.fromkeys(["all", *(segment for _, _, segment in parts.values() if segment)])
    rows: dict[str, dict[str, Any]] = {}
    for name, (metric, _, segment) in parts.items():
        row = rows.setdefault(metric, {"metric": metric} | dict.fromkeys(segments))
        row[segment or "all"] = metrics[name]
    return list(rows.values())


def _counts(ledger: pa.Table) -> Counts:
    rows, events, duplicates, rejected = (pc.sum(ledger[column]).as_py() or 0 for column in _COUNTS)
    return Counts(batches=ledger.num_rows, rows=rows, events=events, duplicates=duplicates, rejected=rejected)


def _times(batches: list[dict[str, float]]) -> dict[str, Times]:
    steps = dict.fromkeys(step for batch in batches for step in batch)
    result = {}
    for step in steps:
        p50, p95 = np.quantile([batch[step] for batch in batches if step in batch], [0.5, 0.95])
        result[step] = Times(p50=float(p50), p95=float(p95))
    return result


def _sums(batches: list[dict[str, int]]) -> dict[str, int]:
    names = sorted({name for batch in batches for name in batch})
    return {name: sum(batch.get(name, 0) for batch in batches) for name in names}


def _newest_drift(lake: Lake, name: str) -> list[dict[str, Any]]:
    if not lake.exists("drift"):
        return []
    order = [("batch_id", "descending"), ("segment", "ascending"), ("metric", "ascending"), ("detector", "ascending")]
    rows: list[dict[str, Any]] = (
        lake.rows("drift", _DRIFT, {"stream": name}).sort_by(order).slice(0, DRIFT_ROWS).to_pylist()
    )
    return rows


def _rows_after(lake: Lake, version: int) -> int | None:
    """Return how many rows `events` has more than at `version`, from the statistics of the Delta log alone.

    None where the log no longer holds that version, or a file has no statistics.
    """
    if not lake.exists("events"):
        return None
    newest = lake.open("events")
    if newest.version() <= version:
        return 0
    try:
        then = lake.open("events", version)
    except TableError:
        return None
    after, before = _rows(newest), _rows(then)
    return None if after is None or before is None else max(0, after - before)


def _rows(table: DeltaTable) -> int | None:
    counts = pa.table(table.get_add_actions(flatten=True))["num_records"]
    return None if counts.null_count else pc.sum(counts).as_py() or 0
