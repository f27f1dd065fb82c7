"""Recorded evaluations: the figures of one, and the newest of a model version."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lakefactor.metrics.bootstrap import interval
from lakefactor.pipelines.evaluate import MEAN_FOLD, metric_name
from lakefactor.query.lake import Where
from lakefactor.spark.tables import Tables
from lakefactor.spark.tally import ALL

LEVEL = 0.95

FigureKey = tuple[str, str, str]
"""Recommender, segment and metric, as ``("model", "all", "ndcg_at_10")``."""


@dataclass(frozen=True)
class Measured:
    """A figure, the mean over folds.

    Attributes
    ----------
    value : float
    replicates : float64 ndarray, shape (B,)
        Of the bootstrap; empty where there are none.
    """

    value: float
    replicates: NDArray[np.float64]

    def minus(self, other: Measured) -> tuple[float, float] | None:
        """Return the interval of the difference to a figure of the same users; None where there is none."""
        if not len(self.replicates) or len(self.replicates) != len(other.replicates):
            return None
        return interval(self.replicates - other.replicates, LEVEL)


@dataclass(frozen=True)
class Evaluation:
    """What was measured, on what.

    Attributes
    ----------
    split : str
    interactions_version : int
    figures : dict
        By recommender, segment and metric.
    """

    split: str
    interactions_version: int
    figures: dict[FigureKey, Measured]

    def value(self, recommender: str, metric: str) -> float | None:
        """Return a figure over everyone; None where it was not measured."""
        found = self.figures.get((recommender, ALL, metric))
        return found.value if found else None


def evaluation(tables: Tables, evaluation_id: str) -> Evaluation:
    """Return an evaluation that exists, by its id."""
    rows = tables.collect("evaluations", {"evaluation_id": evaluation_id, "fold": MEAN_FOLD})
    figures = {
        (row["recommender"], row["segment"], metric_name(row["metric"], row["k"])): Measured(
            row["value"], np.array(row["replicates"])
        )
        for row in rows
    }
    return Evaluation(rows[0]["split"], rows[0]["interactions_version"], figures)


def newest_evaluation(tables: Tables, model_version: str, like: Evaluation | None = None) -> Evaluation | None:
    """Return the newest evaluation of a version; None where it has none.

    With `like`, of the same split, and of the same interactions where it has been measured on these.
    """
    if not tables.exists("evaluations"):
        return None
    where: Where = {"model_version": model_version, "fold": MEAN_FOLD, "segment": ALL}
    columns = ("evaluated_at", "evaluation_id", "split", "interactions_version")
    found = tables.rows("evaluations", columns, where).to_pylist()
    if like:
        found = [row for row in found if row["split"] == like.split]
        same = [row for row in found if row["interactions_version"] == like.interactions_version]
        found = same or found
    newest = max(found, key=lambda row: (row["evaluated_at"], row["evaluation_id"]), default=None)
    return evaluation(tables, newest["evaluation_id"]) if newest else None
