"""Compare: a champion and a challenger, measured on the same users of the same split, figure by figure.

Both configurations are trained on the same part of the same interactions and measured on the rest. A difference is told
with the interval of the paired bootstrap, over everyone and over segments, so that a gain for some that hurts others
is seen.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict
from pyspark.sql import SparkSession
from rich.table import Table

from lakefactor.config import Config
from lakefactor.log import say, show
from lakefactor.metrics import sign_of
from lakefactor.pipelines import evaluate
from lakefactor.pipelines.evaluations import Evaluation, Measured, evaluation
from lakefactor.pipelines.models import live_version, newest
from lakefactor.spark.measuring import MODEL
from lakefactor.spark.tables import Tables
from lakefactor.spark.tally import ALL

UNVALUED = ("coverage", "exposure_gini", "mean_popularity")
"""Metrics of which more is neither better nor worse: what they should be is for people to say."""


class Difference(BaseModel):
    """One figure of both.

    Attributes
    ----------
    metric : str
        As ``ndcg_at_10``.
    segment : str
    champion, challenger : float
    low, high : float or None
        95 % interval of challenger minus champion; None where there is none: of too few users, or of a figure that is
        not over users.
    verdict : {"better", "worse", "unclear", ""}
        Of the challenger, where the interval says so; empty where more is neither better nor worse.
    """

    model_config = ConfigDict(frozen=True)

    metric: str
    segment: str
    champion: float
    challenger: float
    low: float | None
    high: float | None
    verdict: Literal["better", "worse", "unclear", ""]


class CompareResult(BaseModel):
    """Every figure that both have; none where no model is live and no champion was named."""

    model_config = ConfigDict(frozen=True)

    champion: str | None
    challenger: str
    split: str
    interactions_version: int
    differences: list[Difference]


def run(
    spark: SparkSession, config: Config, champion: str | None = None, challenger: str | None = None
) -> CompareResult:
    """Compare two model versions on the interactions that the challenger was trained on.

    Parameters
    ----------
    spark : SparkSession
    config : Config
        ``evaluate`` and ``tables``.
    champion : str or None
        None: the live version.
    challenger : str or None
        None: the newest version.

    Raises
    ------
    TableError
        There is no such version.
    ConfigError, InputError
        As :func:`lakefactor.pipelines.evaluate.run`.
    """
    tables = Tables(spark, config.tables)
    new = newest(tables, challenger)
    old = champion or live_version(tables)
    if old is None:
        say("no model is live yet, so there is nothing to compare with")
    versions = [newest(tables, version).model_version for version in (old, new.model_version) if version]
    evaluations = [evaluate.run(spark, config, version, new.interactions_version).evaluation_id for version in versions]
    result = CompareResult(
        champion=old,
        challenger=new.model_version,
        split=config.evaluate.split,
        interactions_version=new.interactions_version,
        differences=differences(*(evaluation(tables, name) for name in evaluations)) if old else [],
    )
    if old:
        show(_table(result))
    return result


def differences(champion: Evaluation, challenger: Evaluation) -> list[Difference]:
    """Return every figure of the model that two evaluations of the same split both have, by segment and metric."""
    old, new = _of_model(champion), _of_model(challenger)
    return [_difference(*key, old[key], new[key]) for key in sorted(old.keys() & new.keys(), key=_order)]


def _of_model(found: Evaluation) -> dict[tuple[str, str], Measured]:
    return {(segment, metric): value for (who, segment, metric), value in found.figures.items() if who == MODEL}


def _difference(segment: str, metric: str, old: Measured, new: Measured) -> Difference:
    low, high = new.minus(old) or (None, None)
    verdict: Literal["better", "worse", "unclear", ""] = "unclear"
    if metric.partition("_at_")[0] in UNVALUED:
        verdict = ""
    elif low is not None and high is not None and (low > 0 or high < 0):
        verdict = "better" if sign_of(metric) * low > 0 else "worse"
    return Difference(
        metric=metric, segment=segment, champion=old.value, challenger=new.value, low=low, high=high, verdict=verdict
    )


def _order(key: tuple[str, str]) -> tuple[bool, str, str, int]:
    """Everyone first, then segments; a metric by its cut-off."""
    name, _, k = key[1].partition("_at_")
    return key[0] != ALL, key[0], name, int(k or 0)


def _table(result: CompareResult) -> Table:
    colours = {"better": "green", "worse": "red"}
    table = Table("segment", "metric", "champion", "challenger", "difference, 95 %", "", box=None)
    for row in result.differences:
        bounds = "" if row.low is None or row.high is None else f"{row.low:+.4f} to {row.high:+.4f}"
        style = colours.get(row.verdict)
        table.add_row(
            row.segment, row.metric, f"{row.champion:.4f}", f"{row.challenger:.4f}", bounds, row.verdict, style=style
        )
    table.title = f"champion {result.champion}, challenger {result.challenger}, split {result.split}"
    return table
