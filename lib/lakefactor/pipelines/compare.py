"""Compare: a champion and a challenger, measured on the same users of the same split, figure by figure.

Both configurations are trained on the same part of the same interactions and measured on the rest. A difference is told
with the interval of the paired bootstrap, over everyone and over segments, so that a gain for some that hurts others
is seen.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from pyspark.sql import SparkSession
from rich.table import Table

from lakefactor.config import Config
from lakefactor.errors import TableError
from lakefactor.log import show
from lakefactor.metrics.bootstrap import interval
from lakefactor.pipelines import evaluate
from lakefactor.pipelines.models import live_version, newest
from lakefactor.spark.measuring import MODEL
from lakefactor.spark.tables import Tables
from lakefactor.spark.tally import ALL

LOWER_IS_BETTER = ("rmse", "mae")
UNVALUED = ("coverage", "exposure_gini", "mean_popularity")
"""Metrics of which more is neither better nor worse: what they should be is for people to say."""

LEVEL = 0.95


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
    """Every figure that both have."""

    model_config = ConfigDict(frozen=True)

    champion: str
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
        There is no such version, or no champion was named and none is live.
    ConfigError, InputError
        As :func:`lakefactor.pipelines.evaluate.run`.
    """
    tables = Tables(spark, config.tables)
    new = newest(tables, challenger)
    old = champion or live_version(tables)
    if old is None:
        raise TableError("no model is live; name the version to compare with")
    known = newest(tables, old)
    evaluations = [
        evaluate.run(spark, config, version, new.interactions_version).evaluation_id
        for version in (known.model_version, new.model_version)
    ]
    result = CompareResult(
        champion=known.model_version,
        challenger=new.model_version,
        split=config.evaluate.split,
        interactions_version=new.interactions_version,
        differences=differences(tables, *evaluations),
    )
    show(_table(result))
    return result


def differences(tables: Tables, champion: str, challenger: str) -> list[Difference]:
    """Return every figure that two evaluations (by id) of the same split both have, in order of segment and metric."""
    old, new = _figures(tables, champion), _figures(tables, challenger)
    return [_difference(*key, old[key], new[key]) for key in sorted(old.keys() & new.keys(), key=_order)]


Values = tuple[float, np.ndarray]


def _difference(segment: str, metric: str, old: Values, new: Values) -> Difference:
    low, high = (None, None)
    if len(old[1]) and len(old[1]) == len(new[1]):
        low, high = interval(new[1] - old[1], LEVEL)
    verdict: Literal["better", "worse", "unclear", ""] = "unclear"
    if metric.partition("_at_")[0] in UNVALUED:
        verdict = ""
    elif low is not None and high is not None and (low > 0 or high < 0):
        verdict = "better" if (low > 0) != (metric in LOWER_IS_BETTER) else "worse"
    return Difference(
        metric=metric, segment=segment, champion=old[0], challenger=new[0], low=low, high=high, verdict=verdict
    )


def _figures(tables: Tables, evaluation_id: str) -> dict[tuple[str, str], Values]:
    """Return the model's figures of an evaluation, the mean over its folds, by segment and metric."""
    columns = ("segment", "metric", "k", "value", "replicates")
    where: dict[str, str | int] = {"evaluation_id": evaluation_id, "fold": evaluate.MEAN_FOLD, "recommender": MODEL}
    rows = tables.rows("evaluations", columns, where).to_pylist()
    return {
        (row["segment"], evaluate.metric_name(row["metric"], row["k"])): (row["value"], np.array(row["replicates"]))
        for row in rows
    }


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
