"""Evaluate: train the model's configuration on a part of its interactions, and measure it on the rest.

A model that has seen everything cannot be measured on anything; so what is measured is its configuration, at the
interactions version that it was trained on, and recorded under its version.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lakefactor.config import Config, canonical_json, digest
from lakefactor.errors import ConfigError
from lakefactor.factorization.catalogue import Catalogue
from lakefactor.log import say
from lakefactor.pipelines.models import newest
from lakefactor.pipelines.progress import TrainingProgress
from lakefactor.spark.catalogue import collect_catalogue
from lakefactor.spark.measuring import Subject, measure
from lakefactor.spark.splits import Fold, folds
from lakefactor.spark.tables import Tables
from lakefactor.spark.tally import ALL, Figure
from lakefactor.spark.training import Trained, train_interactions

MEAN_FOLD = -1


class EvaluateResult(BaseModel):
    """Means over folds, by recommender (``model``, ``popularity``) and metric, as ``ndcg_at_10`` or ``rmse``."""

    model_config = ConfigDict(frozen=True)

    model_version: str
    evaluation_id: str
    split: str
    folds: int
    metrics: dict[str, dict[str, float]]


def run(
    spark: SparkSession, config: Config, model_version: str | None = None, interactions_version: int | None = None
) -> EvaluateResult:
    """Evaluate the configuration of a model version (default: the newest) by the configured split, once.

    Parameters
    ----------
    spark : SparkSession
    config : Config
        ``evaluate`` and ``tables`` are used; ``model``, ``train`` and ``sgd`` come from the model version.
    model_version : str or None
    interactions_version : int, optional
        Of `interactions`, to train and test on; None: the one that the model version was trained on.

    Raises
    ------
    TableError
        There is no such model version, or the interactions version is gone.
    ConfigError
        The split is ``user_holdout`` and the model is one that no row can be folded into.
    InputError
        The split leaves nothing to train or test on.
    """
    tables = Tables(spark, config.tables)
    record = newest(tables, model_version)
    as_trained = config.model_copy(update={name: getattr(record.config, name) for name in ("model", "train", "sgd")})
    refuse_unfit_split(as_trained)
    if interactions_version is None:
        interactions_version = record.interactions_version
    evaluation_id = digest(record.model_version, str(interactions_version), canonical_json(config.evaluate))[:16]
    if done := _done(tables, record.model_version, evaluation_id):
        say(f"model version {record.model_version} has been evaluated in this way before")
        return done
    interactions = tables.read("interactions", interactions_version)
    figures = {fold.number: _measure_fold(fold, as_trained) for fold in folds(interactions, config.evaluate)}
    tables.ensure("evaluations")
    facts = {
        "model_version": record.model_version,
        "evaluation_id": evaluation_id,
        "evaluated_at": datetime.now(timezone.utc),
        "split": config.evaluate.split,
        "interactions_version": interactions_version,
    }
    tables.append_rows("evaluations", _rows(facts, figures), txn=(evaluation_id, 0))
    return EvaluateResult(
        model_version=record.model_version,
        evaluation_id=evaluation_id,
        split=config.evaluate.split,
        folds=len(figures),
        metrics=by_name(_mean(figures)),
    )


def refuse_unfit_split(config: Config) -> None:
    """Raise ConfigError where the split is one that the model cannot be measured by."""
    if config.model.algorithm == "sgd" and config.evaluate.split == "user_holdout":
        raise ConfigError(
            "evaluate.split is user_holdout, which folds users in by least squares, but model.algorithm is sgd; "
            "choose another evaluate.split"
        )


def _done(tables: Tables, model_version: str, evaluation_id: str) -> EvaluateResult | None:
    """Return what the same evaluation found before; None: it has not been done."""
    rows = tables.collect("evaluations", {"evaluation_id": evaluation_id}) if tables.exists("evaluations") else []
    if not rows:
        return None
    columns = ("recommender", "metric", "segment", "k", "value", "n")
    return EvaluateResult(
        model_version=model_version,
        evaluation_id=evaluation_id,
        split=rows[0]["split"],
        folds=len({row["fold"] for row in rows} - {MEAN_FOLD}),
        metrics=by_name(Figure(*(row[name] for name in columns)) for row in rows if row["fold"] == MEAN_FOLD),
    )


def by_name(measured: Iterable[Figure]) -> dict[str, dict[str, float]]:
    """Return ``{recommender: {"ndcg_at_10": value, ...}}`` of the figures over all users and items."""
    names: dict[str, dict[str, float]] = defaultdict(dict)
    for figure in measured:
        if figure.segment != ALL:
            continue
        names[figure.recommender][metric_name(figure.metric, figure.k)] = figure.value
    return dict(names)


def metric_name(metric: str, k: int) -> str:
    """Return how people call a metric.

    >>> metric_name("ndcg", 10), metric_name("rmse", 0)
    ('ndcg_at_10', 'rmse')
    """
    return f"{metric}_at_{k}" if k else metric


def _measure_fold(fold: Fold, config: Config) -> list[Figure]:
    train = fold.train.persist()
    try:
        with TrainingProgress(config.train.iterations, label=f"fold {fold.number + 1}") as progress:
            trained = train_interactions(train, config, progress)
        try:
            return measure_trained(fold, trained, config)
        finally:
            trained.release()
    finally:
        train.unpersist()


def measure_trained(fold: Fold, trained: Trained, config: Config) -> list[Figure]:
    """Measure what was trained on a fold by the fold's test part, as :func:`lakefactor.spark.measuring.measure`."""
    return measure(fold, trained.factors("user"), _subject(fold, trained, config), config.evaluate)


def _subject(fold: Fold, trained: Trained, config: Config) -> Subject:
    from lakefactor.factorization.fold_in import user_fold_in

    catalogue = collect_catalogue(trained.factors("item"))
    mean, totals = trained.log["mean"], trained.log["totals"]
    rated = config.feedback == "explicit"
    rows = catalogue.factors, catalogue.bias, catalogue.n_entries
    return Subject(
        catalogue=catalogue,
        mean=mean,
        item_mean=_item_mean(fold.train, catalogue) if rated else np.zeros(0, np.float32),
        fold_in=user_fold_in(config.model, mean, *rows, totals["users"]) if fold.fold_in else None,
        rated=rated,
        strength_range=(totals["min_strength"], totals["max_strength"]),
    )


def _item_mean(train: DataFrame, catalogue: Catalogue) -> np.ndarray:
    means = train.groupBy("item_id").agg(F.avg("strength").alias("mean")).toArrow().combine_chunks()
    result = np.zeros(len(catalogue.ids), np.float32)
    result[catalogue.columns_of(means["item_id"].combine_chunks())] = means["mean"].to_numpy()
    return result


def _mean(figures: dict[int, list[Figure]]) -> list[Figure]:
    """Average each figure, and each of its replicates, over the folds that have it."""
    groups: dict[tuple[str, str, str, int], list[Figure]] = defaultdict(list)
    for measured in figures.values():
        for figure in measured:
            groups[figure.recommender, figure.metric, figure.segment, figure.k].append(figure)
    return [
        Figure(
            *key,
            value=float(np.mean([f.value for f in group])),
            n=sum(f.n for f in group),
            replicates=_mean_replicates([f.replicates for f in group]),
        )
        for key, group in groups.items()
    ]


def _mean_replicates(replicates: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Average replicates over folds; none where a fold has none."""
    return np.mean(replicates, axis=0) if min(map(len, replicates)) else np.empty(0)


def _rows(facts: dict[str, Any], figures: dict[int, list[Figure]]) -> list[dict[str, Any]]:
    """Return rows of `evaluations`: of every fold, and of their mean."""
    return [
        facts
        | {
            "fold": fold,
            "recommender": figure.recommender,
            "metric": figure.metric,
            "segment": figure.segment,
            "k": figure.k,
            "value": figure.value,
            "n": figure.n,
            "replicates": figure.replicates.tolist(),
        }
        for fold, measured in [*figures.items(), (MEAN_FOLD, _mean(figures))]
        for figure in measured
    ]
