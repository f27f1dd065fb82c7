"""The stream: how good the model is on events before it learns them, how far behind it is, what was kept out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from starlette.datastructures import QueryParams

from lakefactor.dashboard.overview import DRIFT_COLUMNS, status_of
from lakefactor.dashboard.page import Page, command
from lakefactor.dashboard.store import Look
from lakefactor.pages.charts import Chart, Rule, Series, line_chart
from lakefactor.pages.numbers import number, span, words

SHOWN_BATCHES = 300
SHOWN_DRIFT, MARKED_DRIFT = 12, 500
SHOWN_STEPS, SHOWN_REASONS = 3, 12
MEAN_OF = 10
"""Micro-batches of the running mean: one alone is of few events."""

STALE_SECONDS = 3600
"""A stream whose last micro-batch is older is told of as not running."""

_LEDGER = ("stream", "batch_id", "model_version", "accepted", "metrics", "seconds")

Batches = list[dict[str, Any]]


def page(look: Look, path: Mapping[str, str], query: QueryParams) -> Page:
    """Return the page of one stream, ``stream.name`` or the one that is asked for."""
    if not look.exists("stream_ledger"):
        return Page.empty("Stream", "No stream has run on these tables yet.", command(look.config, "stream"))
    name = query.get("stream") or look.config.stream.name
    status = status_of(look, name)
    if status.batch_id is None:
        others = status.other_streams
        return Page("no_stream.html", {"name": name, "others": others}, 404 if query.get("stream") else 200)
    batches = look.newest("stream_ledger", _LEDGER, "batch_id", SHOWN_BATCHES, stream=name)[::-1]
    drift = look.newest("drift", DRIFT_COLUMNS, "batch_id", MARKED_DRIFT, stream=name)
    drift.sort(key=lambda row: (-row["batch_id"], row["segment"]))
    rules = [*_publishes(batches), *_changes(drift)]
    context = {
        "status": status,
        "is_stale": (status.lag_seconds or 0) > STALE_SECONDS,
        "quality": quality_charts(batches, rules),
        "volume": _volume(batches),
        "seconds": _seconds(batches),
        "drift": drift[:SHOWN_DRIFT],
        "rejects": _rejects(look),
    }
    return Page("stream.html", context)


def quality_charts(batches: Batches, rules: list[Rule]) -> list[Chart]:
    """Return a chart for each prequential metric over everyone: micro-batch by micro-batch, as a running mean."""
    names = sorted({name for row in batches for name in row["metrics"] if "." not in name})
    charts = []
    for name in (name for name in names if name.startswith(("ndcg", "recall", "rmse"))):
        points = [(float(row["batch_id"]), row["metrics"][name]) for row in batches if name in row["metrics"]]
        means = [
            (x, sum(y for _, y in points[max(0, n - MEAN_OF + 1) : n + 1]) / min(n + 1, MEAN_OF))
            for n, (x, _) in enumerate(points)
        ]
        series = [Series(f"mean of {MEAN_OF}", means), Series("micro-batch", points)]
        charts.append(
            line_chart(
                f"{words(name)} before learning",
                series,
                description="Events of each micro-batch, scored before the model learns from them.",
                x_name="micro-batch",
                from_zero=True,
                rules=rules,
            )
        )
    return charts


def _publishes(batches: Batches) -> list[Rule]:
    """Return where the stream took up another model version.

    >>> _publishes([{"batch_id": 1, "model_version": "a"}, {"batch_id": 2, "model_version": "b"}])
    [Rule(x=2.0, kind='publish', text='b is live from micro-batch 2 on')]
    """
    return [
        Rule(float(row["batch_id"]), "publish", f"{row['model_version']} is live from micro-batch {row['batch_id']} on")
        for before, row in pairwise(batches)
        if row["model_version"] not in (None, before["model_version"])
    ]


def _changes(drift: list[dict[str, Any]]) -> list[Rule]:
    """Return where a detector saw a change; several of one micro-batch are one mark."""
    found: dict[int, list[str]] = {}
    for row in drift:
        change = f"{words(row['metric'])} of {row['segment'].replace('_', ' ')}"
        found.setdefault(row["batch_id"], []).append(f"{change} {number(row['before'])} to {number(row['after'])}")
    return [Rule(float(batch), "drift", f"micro-batch {batch}: {'; '.join(what)}") for batch, what in found.items()]


def _volume(batches: Batches) -> Chart:
    points = [
        (float(row["batch_id"]), row["accepted"] / max(row["seconds"].get("total", 0.0), 1e-3)) for row in batches
    ]
    return line_chart(
        "Events per second of work",
        [Series("events/s", points)],
        description="New events of a micro-batch by the time that it took.",
        x_name="micro-batch",
        from_zero=True,
        style="area",
    )


def _seconds(batches: Batches) -> Chart:
    """Return what a micro-batch takes, with the steps that take most."""
    sums = Counter[str]()
    for row in batches:
        sums.update({name: seconds for name, seconds in row["seconds"].items() if name != "total"})
    names = ["total", *(name for name, _ in sums.most_common(SHOWN_STEPS))]
    series = [
        Series(words(name), [(float(row["batch_id"]), row["seconds"].get(name)) for row in batches]) for name in names
    ]
    return line_chart(
        "Seconds of a micro-batch",
        series,
        description="From its first row to factors that show it, and the steps that take most of that.",
        x_name="micro-batch",
        y_text=span,
        from_zero=True,
    )


def _rejects(look: Look) -> list[tuple[str, int]]:
    """Return how many rows were refused for each reason, most first."""
    if not look.exists("rejects"):
        return []

    def counted() -> list[tuple[str, int]]:
        counts = look.lake.rows("rejects", ("reason",))["reason"].value_counts().to_pylist()
        found = sorted(((row["values"], row["counts"]) for row in counts), key=lambda one: (-one[1], one[0]))
        return found[:SHOWN_REASONS]

    return look.hold("rejects", ["rejects"], counted)
