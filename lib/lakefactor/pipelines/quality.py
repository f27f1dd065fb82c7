"""Quality: was the live model worth publishing, and is it as good as it was? If not, go back, or call for a retraining.

Both are told from what the stream left: a model's prequential metric, micro-batch by micro-batch, and the changes that
detectors saw in it. A rollback compares the micro-batches on both sides of the publish and no later ones: what users do
differs more from month to month than one model from another.
"""

from __future__ import annotations

from datetime import datetime
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ConfigDict
from pyspark.sql import SparkSession

from lakefactor.config import Config, Stream
from lakefactor.config.model_sections import Feedback
from lakefactor.log import say
from lakefactor.metrics import sign_of
from lakefactor.pipelines import publish
from lakefactor.pipelines.models import live_row, newest
from lakefactor.spark.tables import Tables


class QualityResult(BaseModel):
    """How the live model does.

    Attributes
    ----------
    model_version : str or None
        The live version that was looked at; None: none is live.
    metric : str or None
    batches : int
        Micro-batches with that metric since it was published.
    value, previous_value : float or None
        Means over `quality.window` micro-batches: the first ones after the publish, and the last ones of the version
        that it replaced; None: there are not so many.
    rolled_back_to : str or None
        Version that is live now in its place.
    retrain : bool
        Whether a retraining is called for.
    reason : str
    """

    model_config = ConfigDict(frozen=True)

    model_version: str | None
    metric: str | None
    batches: int = 0
    value: float | None = None
    previous_value: float | None = None
    rolled_back_to: str | None = None
    retrain: bool = False
    reason: str


def run(spark: SparkSession, config: Config) -> QualityResult:
    """Look at the live model, and go back to the one before where it is worse than that one was.

    Parameters
    ----------
    spark : SparkSession
    config : Config
        ``quality`` and ``tables``.

    Notes
    -----
    A retraining is called for by a change for the worse that was seen in the live version after the newest training,
    once the version has had `quality.cool_down` micro-batches. A rollback needs `quality.window` micro-batches of both
    versions, and is not undone by another.
    """
    tables, settings = Tables(spark, config.tables), config.quality
    live = live_row(tables)
    if live is None:
        return QualityResult(model_version=None, metric=None, reason="no model is live")
    metric = settings.metric or _default_metric(newest(tables, live["model_version"]).config.feedback, config.stream)
    since = _metric_of(tables, metric, live["model_version"], live["published_at"])
    before = _metric_of(tables, metric, live["previous_version"]) if live["previous_version"] else []
    value, previous_value = _mean(since[: settings.window], settings.window), _mean(before, settings.window)
    facts: dict[str, Any] = {
        "model_version": live["model_version"],
        "metric": metric,
        "batches": len(since),
        "value": value,
        "previous_value": previous_value,
    }
    if value is not None and previous_value is not None and _was_published(tables, live["decision_id"]):
        lost = sign_of(metric) * (previous_value - value)
        if lost > settings.max_relative_loss * abs(previous_value):
            reason = (
                f"{metric} of {settings.window} micro-batches fell from {previous_value:.4f} to {value:.4f}, "
                f"by more than {settings.max_relative_loss:.0%}"
            )
            publish.run(spark, config, live["previous_version"], rollback=True, reason=reason)
            say(f"back to model version {live['previous_version']}: {reason}", "yellow")
            return QualityResult(**facts, rolled_back_to=live["previous_version"], reason=reason)
    retrain, reason = _drifted(tables, live["model_version"], len(since), settings.cool_down)
    say(reason, "yellow" if retrain else "")
    return QualityResult(**facts, retrain=retrain, reason=reason)


def _default_metric(feedback: Feedback, stream: Stream) -> str:
    return "rmse" if feedback == "explicit" else f"ndcg_at_{stream.watch_k}"


def _metric_of(tables: Tables, metric: str, model_version: str, since: datetime | None = None) -> list[float]:
    """Return the metric of a version's micro-batches, in their order; of those alone that began after a time."""
    if not tables.exists("stream_ledger"):
        return []
    rows = tables.rows("stream_ledger", ("batch_id", "started_at", "metrics"), {"model_version": model_version})
    found = rows.sort_by("batch_id").to_pylist(maps_as_pydicts="strict")
    return [
        row["metrics"][metric]
        for row in found
        if metric in row["metrics"] and (since is None or row["started_at"] >= since)
    ]


def _mean(values: list[float], window: int) -> float | None:
    """Return the mean of the last values; None where there are too few."""
    return fmean(values[-window:]) if len(values) >= window else None


def _was_published(tables: Tables, decision_id: str) -> bool:
    return any(row["action"] == "publish" for row in tables.collect("decisions", {"decision_id": decision_id}))


def _drifted(tables: Tables, model_version: str, batches: int, cool_down: int) -> tuple[bool, str]:
    """Return whether a retraining is called for, and why or why not."""
    changes = tables.collect("drift", {"model_version": model_version}) if tables.exists("drift") else []
    trained_at = newest(tables).created_at
    worse = [
        row
        for row in changes
        if sign_of(row["metric"]) * (row["after"] - row["before"]) < 0 and row["detected_at"] > trained_at
    ]
    if not worse:
        return False, "no drift since the newest training"
    last = max(worse, key=lambda row: row["batch_id"])
    what = (
        f"{last['metric']} ({last['segment']}) of model version {model_version} drifted from {last['before']:.4f} to "
        f"{last['after']:.4f} in micro-batch {last['batch_id']}"
    )
    if batches < cool_down:
        return False, f"{what}, but it has had {batches} of {cool_down} micro-batches (quality.cool_down)"
    return True, f"{what}: a retraining is called for"
