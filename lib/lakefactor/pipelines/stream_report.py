"""What a running stream tells after each micro-batch: a line for its log, and a file of metrics for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from prometheus_client import write_to_textfile
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lakefactor.errors import ConfigError
from lakefactor.log import say
from lakefactor.metrics.drift import Change
from lakefactor.query.stream_status import duration

_COUNTED = {
    "read": ("rows", "Rows that arrived."),
    "accepted": ("events", "New events."),
    "duplicates": ("duplicates", "Rows that repeat an event."),
    "rejected": ("rejects", "Rows that were refused."),
    "users": ("users_solved", "Users solved."),
    "items": ("items_solved", "Items solved."),
    "new_users": ("new_users", "Users that the model did not know before."),
    "new_items": ("new_items", "Items that the model did not know before."),
}
"""Column of the ledger: name of the counter, and its help."""


def batch_line(row: Mapping[str, Any]) -> str:
    """Return a row of ``stream_ledger`` as one line for people.

    Examples
    --------
    >>> from datetime import datetime, timezone
    >>> line = batch_line({
    ...     "batch_id": 17, "accepted": 1024, "duplicates": 0, "rejected": 12, "users": 310, "items": 55,
    ...     "metrics": {"ndcg_at_10": 0.08, "recall_at_10": 0.1234}, "seconds": {"total": 1.42},
    ...     "finished_at": datetime(2026, 11, 20, 8, 0, 3, tzinfo=timezone.utc),
    ...     "newest_event_time": datetime(2026, 11, 20, 8, tzinfo=timezone.utc),
    ... })
    >>> line
    'batch 17: 1,024 events (12 rejected), 310 users, 55 items, recall@10 0.123, ndcg@10 0.080, 1.4 s; lag 3 s'
    """
    aside = [f"{row[name]:,} {text}" for name, text in (("rejected", "rejected"), ("duplicates", "again")) if row[name]]
    events = f"{row['accepted']:,} events" + (f" ({', '.join(aside)})" if aside else "")
    parts = [events, f"{row['users']:,} users", f"{row['items']:,} items"]
    overall = {name: value for name, value in (row["metrics"] or {}).items() if "." not in name}
    for prefix in ("recall_at_", "ndcg_at_", "rmse"):
        parts += [f"{name.replace('_at_', '@')} {overall[name]:.3f}" for name in overall if name.startswith(prefix)]
    parts.append(duration(row["seconds"]["total"]))
    newest = row["newest_event_time"]
    lag = "" if newest is None else f"; lag {duration((row['finished_at'] - newest).total_seconds())}"
    return f"batch {row['batch_id']}: {', '.join(parts)}{lag}"


def change_line(change: Change) -> str:
    """Return a change of quality as one line for people.

    >>> change_line(Change(90, "v1", "tail_items", "recall_at_10", "adwin", 0.25, 0.1))
    'batch 90: recall_at_10 of tail_items changed from 0.25 to 0.1 (adwin)'
    """
    of = "" if change.segment == "all" else f" of {change.segment}"
    return (
        f"batch {change.batch_id}: {change.metric}{of} changed from {change.before:.4g} to {change.after:.4g} "
        f"({change.detector})"
    )


class StreamMetrics(Collector):
    """Keeps a file of metrics in Prometheus' text format, for the textfile collector of node_exporter.

    Parameters
    ----------
    path : str
        The file; it is replaced in one step, so a reader never sees half of it. The collector reads names that end in
        ``.prom``.
    stream : str
        Label ``stream`` of every sample.

    Raises
    ------
    ConfigError
        The file cannot be written.

    Notes
    -----
    Counters count from the start of the process, as those of any exporter do: ``rate`` and ``increase`` of Prometheus
    know resets. Every sample has the labels ``stream`` and ``model_version``; gauges are of the last micro-batch and
    its version alone.
    """

    def __init__(self, path: str, stream: str) -> None:
        self._path = path
        self._stream = stream
        self._row: Mapping[str, Any] | None = None
        self._counters: Counter[tuple[str, str, tuple[str, ...]]] = Counter()
        self._writable = True
        try:
            write_to_textfile(path, self)
        except OSError as error:
            raise ConfigError(
                f"stream.metrics_file {path} cannot be written ({error.strerror}); give a file in an existing folder "
                f"that this user may write to (here {Path(path).absolute().parent})"
            ) from None

    def record(self, row: Mapping[str, Any], changes: Sequence[Change] = ()) -> None:
        """Take in a micro-batch and write the file.

        A file that cannot be written any more is told once: a full disk of a monitor stops no stream.

        Parameters
        ----------
        row : mapping
            Row of ``stream_ledger``, by column.
        changes : sequence of Change
            What the drift watch saw in it.
        """
        self._row = row
        version = row["model_version"] or ""
        self._counters["batches", version, ()] += 1
        for column in _COUNTED:
            self._counters[column, version, ()] += row[column]
        for safeguard, count in (row["acted"] or {}).items():
            self._counters["acted", version, (safeguard,)] += count
        for change in changes:
            self._counters["changes", version, (change.metric, change.segment, change.detector)] += 1
        try:
            write_to_textfile(self._path, self)
            self._writable = True
        except OSError as error:
            if self._writable:
                say(f"stream.metrics_file {self._path} cannot be written: {error.strerror}; the stream goes on without")
            self._writable = False

    def collect(self) -> Iterator[Metric]:
        """Yield every metric with its samples, as prometheus_client asks for them."""
        yield self._counter("batches", "batches", "Micro-batches that are done.")
        for column, (name, text) in _COUNTED.items():
            yield self._counter(column, name, text)
        yield self._counter("acted", "safeguard_acts", "How often a safeguard acted.", "safeguard")
        yield self._counter(
            "changes", "drift_changes", "Changes of quality that a detector saw.", "metric", "segment", "detector"
        )
        if self._row is not None:
            yield from self._gauges(self._row)

    def _counter(self, key: str, name: str, text: str, *labels: str) -> Metric:
        family = CounterMetricFamily(f"lakefactor_stream_{name}", text, labels=["stream", "model_version", *labels])
        for (counted, version, values), count in sorted(self._counters.items()):
            if counted == key:
                family.add_metric([self._stream, version, *values], count)
        return family

    def _gauges(self, row: Mapping[str, Any]) -> Iterator[Metric]:
        plain = {
            "batch_id": ("Last micro-batch that is done.", row["batch_id"]),
            "finished_timestamp_seconds": ("When it was done, Unix time.", row["finished_at"].timestamp()),
        }
        if row["newest_event_time"] is not None:
            moment = row["newest_event_time"].timestamp()
            plain["newest_event_timestamp_seconds"] = ("Newest event time so far, Unix time.", moment)
        for name, (text, value) in plain.items():
            yield self._gauge(row, name, text, [((), value)])
        seconds = [((step,), value) for step, value in (row["seconds"] or {}).items()]
        yield self._gauge(row, "step_seconds", "Time of each step of the last micro-batch.", seconds, "step")
        quality = [(_metric_labels(name), value) for name, value in (row["metrics"] or {}).items() if isfinite(value)]
        text = "Prequential metrics and distances of the last micro-batch."
        yield self._gauge(row, "quality", text, quality, "metric", "segment")

    def _gauge(
        self, row: Mapping[str, Any], name: str, text: str, values: Iterable[tuple[Sequence[str], float]], *labels: str
    ) -> Metric:
        family = GaugeMetricFamily(f"lakefactor_stream_{name}", text, labels=["stream", "model_version", *labels])
        for label, value in values:
            family.add_metric([self._stream, row["model_version"] or "", *label], value)
        return family


def _metric_labels(name: str) -> tuple[str, str]:
    metric, _, segment = name.partition(".")
    return metric, segment or "all"
