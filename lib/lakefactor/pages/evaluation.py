"""The newest evaluation of a model version: figures beside popularity, with intervals, by segment."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lakefactor.metrics import sign_of
from lakefactor.metrics.bootstrap import interval
from lakefactor.pages.charts import Chart, Row, row_chart
from lakefactor.pages.numbers import words
from lakefactor.query.lake import Lake
from lakefactor.query.reader import ALL_SEGMENT, MEAN_FOLD

_COLUMNS = ("evaluation_id", "evaluated_at", "split", "interactions_version", "recommender", "metric", "segment", "k",
            "value", "n", "replicates")  # fmt: skip

_UNJUDGED = ("exposure_gini", "mean_popularity")
"""Metrics of which neither more nor less is better."""

_SEGMENTS = (ALL_SEGMENT, "new_users", "light_users", "heavy_users", "popular_items", "tail_items")

_MAIN = ("ndcg", "recall", "precision", "hit_rate", "map", "mrr", "auc", "rmse", "mae", "coverage", "exposure_gini",
         "mean_popularity")  # fmt: skip
"""What is shown first, in this order, at one cut-off."""

Interval = tuple[float, float]


class Figure(NamedTuple):
    """A figure, what it is a mean of, and its replicates of the bootstrap."""

    value: float
    n: int
    replicates: NDArray[np.float64]

    @property
    def interval(self) -> Interval | None:
        """The interval of 95 %; None: there are no replicates."""
        return _interval(self.replicates)


class Comparison(NamedTuple):
    """A metric of the model beside that of popularity on the same users."""

    metric: str
    segment: str
    model: Figure
    popularity: Figure | None

    @property
    def difference(self) -> float | None:
        """Model minus popularity."""
        return None if self.popularity is None else self.model.value - self.popularity.value

    @property
    def difference_interval(self) -> Interval | None:
        """The interval of the difference, from paired replicates."""
        if self.popularity is None or len(self.popularity.replicates) != len(self.model.replicates):
            return None
        return _interval(self.model.replicates - self.popularity.replicates)

    @property
    def verdict(self) -> str:
        """Whether the model is ``better``, ``worse``, or neither (``""``) by the interval, or by the values alone."""
        low, high = self.difference_interval or (self.difference, self.difference)
        if low is None or high is None or low <= 0 <= high or self.metric.startswith(_UNJUDGED):
            return ""
        return "better" if (low > 0) == (sign_of(self.metric) > 0) else "worse"


@dataclass(frozen=True)
class Evaluation:
    """What was measured, on what."""

    evaluated_at: datetime
    split: str
    interactions_version: int
    comparisons: tuple[Comparison, ...]

    @property
    def overall(self) -> list[Comparison]:
        """Figures over everyone."""
        return [one for one in self.comparisons if one.segment == ALL_SEGMENT]

    def main(self, metric: str) -> list[Comparison]:
        """Return figures over everyone at the cut-off of a metric, and those without one."""
        _, _, k = metric.partition("_at_")
        order = {name: n for n, stem in enumerate(_MAIN) for name in (stem, f"{stem}_at_{k}")}
        return sorted((one for one in self.overall if one.metric in order), key=lambda one: order[one.metric])

    def segment_chart(self, metric: str) -> Chart | None:
        """Return a metric by segment, with intervals, popularity beside; None: it was not measured."""
        found = [one for one in self.comparisons if one.metric == metric]
        if not found:
            return None
        rows = [
            Row(
                "everyone" if one.segment == ALL_SEGMENT else one.segment.replace("_", " "),
                one.model.value,
                low,
                high,
                None if one.popularity is None else one.popularity.value,
            )
            for one in found
            for low, high in [one.model.interval or (None, None)]
        ]
        described = "The model's figure with its 95 % interval; the grey dot is popularity on the same users."
        title = f"{words(metric)} by segment"
        return row_chart(
            title, rows, description=described, value_name="model", reference_name="popularity", style="intervals"
        )


def newest_evaluation(lake: Lake, model_version: str) -> Evaluation | None:
    """Read the newest evaluation of a model version; None: there is none."""
    if not lake.exists("evaluations"):
        return None
    rows = lake.rows("evaluations", _COLUMNS, {"model_version": model_version, "fold": MEAN_FOLD}).to_pylist()
    if not rows:
        return None
    newest = max(rows, key=lambda row: (row["evaluated_at"], row["evaluation_id"]))
    figures = {
        (row["recommender"], f"{row['metric']}_at_{row['k']}" if row["k"] else row["metric"], row["segment"]): Figure(
            row["value"], row["n"], np.array(row["replicates"], np.float64)
        )
        for row in sorted(rows, key=lambda row: (row["metric"], row["k"]))
        if row["evaluation_id"] == newest["evaluation_id"]
    }
    comparisons = [
        Comparison(metric, segment, figure, figures.get(("popularity", metric, segment)))
        for (recommender, metric, segment), figure in figures.items()
        if recommender == "model"
    ]
    comparisons.sort(key=lambda one: _SEGMENTS.index(one.segment) if one.segment in _SEGMENTS else len(_SEGMENTS))
    return Evaluation(newest["evaluated_at"], newest["split"], newest["interactions_version"], tuple(comparisons))


def _interval(replicates: NDArray[np.float64]) -> Interval | None:
    known = replicates[np.isfinite(replicates)]
    return interval(known) if len(known) else None
