"""Measure a model on a fold, and popularity beside it: executors score the test users, the driver adds up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark import Broadcast
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakefactor.config import Evaluate
from lakefactor.errors import InputError
from lakefactor.factorization.catalogue import Catalogue, csr_columns, known_only, matrix
from lakefactor.factorization.fold_in import FoldIn
from lakefactor.spark.splits import Fold
from lakefactor.spark.tally import ALL, SCHEMA, SHOWN, Figure, Masks, Tally, figures

MODEL, POPULARITY = "model", "popularity"

SCORE_BYTES = 32 << 20
"""Memory for the scores of one block of users against the whole catalogue."""


@dataclass(frozen=True)
class Subject:
    """The trained model that is measured, as executors need it.

    Attributes
    ----------
    catalogue : Catalogue
    mean : float
        Global mean that is part of a predicted rating (0 for implicit models).
    item_mean : float32 ndarray, shape (m,)
        Mean training strength of each item: the rating that the popularity baseline predicts.
    fold_in : FoldIn or None
        Given where test users are folded in.
    rated : bool
        Scores are predicted ratings: RMSE and MAE are measured.
    strength_range : tuple of float
        Smallest and largest training strength; predicted ratings are clipped to it.
    """

    catalogue: Catalogue
    mean: float
    item_mean: NDArray[np.float32]
    fold_in: FoldIn | None
    rated: bool
    strength_range: tuple[float, float]


def measure(fold: Fold, user_factors: DataFrame, subject: Subject, config: Evaluate) -> list[Figure]:
    """Measure the model and the popularity baseline on a fold's test users.

    Parameters
    ----------
    fold : Fold
    user_factors : DataFrame
        ``user_id, factors, bias`` of the model trained on ``fold.train``.
    subject : Subject
    config : Evaluate

    Returns
    -------
    list of Figure
        Rank metrics and AUC over users with at least one relevant test item; RMSE and MAE over all test
        interactions for explicit models; coverage, mean popularity and Gini of what was recommended. Each over all
        users and over segments: users without known interactions (``new_users``), with at most
        ``evaluate.light_user_max`` (``light_users``), with more (``heavy_users``); rank metrics also of relevant items
        that are among the most popular (``popular_items``) or not (``tail_items``).

    Raises
    ------
    InputError
        The test part is empty.
    """
    spark = user_factors.sparkSession
    shared = spark.sparkContext.broadcast(subject)
    try:
        partials = _users(fold, user_factors).mapInArrow(_block_function(shared, config), SCHEMA)
        keys = ("recommender", "metric", "segment", "k", "column")
        sums = partials.groupBy(*keys).agg(F.sum("total").alias("total"), F.sum("n").alias("n")).toArrow()
    finally:
        shared.destroy()
    if not sums.num_rows:
        raise InputError(
            f"the {config.split} split leaves nothing to test on; "
            "raise evaluate.holdout_fraction or choose another evaluate.split"
        )
    is_shown = pc.equal(sums["metric"], SHOWN)
    found = [*figures(sums.filter(pc.invert(is_shown)))]
    found += _of_catalogue(sums.filter(is_shown), len(subject.catalogue.ids))
    return sorted(found, key=lambda figure: (figure.recommender, figure.metric, figure.segment, figure.k))


def _users(fold: Fold, user_factors: DataFrame) -> DataFrame:
    """Return one row per test user: what to predict, what is known of the user, and the user's factors."""
    test = fold.test.groupBy("user_id").agg(
        F.collect_list("item_id").alias("test_items"), F.collect_list("strength").alias("test_strengths")
    )
    known = fold.known.groupBy("user_id").agg(
        F.collect_list("item_id").alias("known_items"), F.collect_list("strength").alias("known_strengths")
    )
    return (
        test.join(known, "user_id", "left")
        .join(user_factors.select("user_id", "factors", "bias"), "user_id", "left")
        .select("user_id", "test_items", "test_strengths", "known_items", "known_strengths", "factors", "bias")
    )


def _block_function(
    shared: Broadcast[Subject], config: Evaluate
) -> Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]]:
    def on_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from lakefactor.metrics.prequential import popular_items

        subject = shared.value
        tally = Tally(config.ks, config.replicates)
        is_popular = popular_items(subject.catalogue.n_entries)
        item_segments = {"popular_items": is_popular, "tail_items": ~is_popular}
        block_rows = max(1, SCORE_BYTES // (4 * len(subject.catalogue.ids)))
        for batch in batches:
            for start in range(0, batch.num_rows, block_rows):
                _measure_block(batch.slice(start, block_rows), subject, config, item_segments, tally)
        yield from tally.rows()

    return on_partition


def _measure_block(
    batch: pa.RecordBatch, subject: Subject, config: Evaluate, item_segments: Masks, tally: Tally
) -> None:
    from lakefactor.kernels import hash_ids
    from lakefactor.metrics.bootstrap import poisson_counts

    catalogue = subject.catalogue
    test_indptr, test_columns, (actual,) = csr_columns(batch["test_items"], catalogue, batch["test_strengths"])
    known = known_only(*_flat(csr_columns(batch["known_items"], catalogue, batch["known_strengths"])))
    factors, bias = _user_side(batch, subject, known)
    relevant = _where(test_indptr, test_columns, actual >= config.relevant_min_value)
    n_known = pc.fill_null(pc.list_value_length(batch["known_items"]), 0).to_numpy(zero_copy_only=False)
    is_new, is_light = n_known == 0, n_known <= config.light_user_max
    segments = {"new_users": is_new, "light_users": ~is_new & is_light, "heavy_users": ~is_light}
    tally.begin(poisson_counts(hash_ids(batch["user_id"]), config.replicates), segments)

    scores = factors @ catalogue.factors.T
    scores += catalogue.bias
    _measure_ranking(MODEL, scores, known, relevant, catalogue, item_segments, tally)
    popularity = np.tile(catalogue.n_entries.astype(np.float32), (len(factors), 1))
    _measure_ranking(POPULARITY, popularity, known, relevant, catalogue, item_segments, tally)
    if subject.rated:
        users = np.repeat(np.arange(len(factors)), np.diff(test_indptr))
        inside = test_columns >= 0
        columns = test_columns[inside]
        predicted = subject.mean + bias[users]
        predicted[inside] += catalogue.bias[columns]
        predicted[inside] += np.einsum("nk,nk->n", factors[users[inside]], catalogue.factors[columns])
        baseline = np.full(len(actual), subject.mean)
        baseline[inside] = subject.item_mean[columns]
        for name, ratings in ((MODEL, predicted), (POPULARITY, baseline)):
            errors = np.clip(ratings, *subject.strength_range).astype(np.float64) - actual
            for metric, parts in (("rmse", errors**2), ("mae", np.abs(errors))):
                totals = np.bincount(users, parts, len(factors))
                tally.add_sums(name, metric, 0, totals, np.diff(test_indptr))


def _flat(csr: tuple) -> tuple:
    indptr, columns, values = csr
    return indptr, columns, *values


def _user_side(
    batch: pa.RecordBatch, subject: Subject, known: tuple
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return factors (b, k) and bias (b,) of a block; users that the training did not see have zeros."""
    k = subject.catalogue.factors.shape[1]
    if subject.fold_in is not None:
        indptr, columns, (strengths,) = known
        rows = subject.fold_in(indptr, columns, strengths)
        return rows[:, :k], rows[:, k] if rows.shape[1] > k else np.zeros(len(rows), np.float32)
    trained = batch["factors"].is_valid().to_numpy(zero_copy_only=False)
    factors = np.zeros((batch.num_rows, k), np.float32)
    if trained.any():
        factors[trained] = matrix(batch["factors"].drop_null())
    return factors, batch["bias"].fill_null(0).to_numpy(zero_copy_only=False)


def _where(
    indptr: NDArray[np.int64], columns: NDArray[np.int32], keep: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    kept_before = np.concatenate([[0], np.cumsum(keep)])
    return kept_before[indptr], columns[keep]


def _measure_ranking(
    name: str,
    scores: NDArray[np.float32],
    known: tuple,
    relevant: tuple,
    catalogue: Catalogue,
    item_segments: Masks,
    tally: Tally,
) -> None:
    from lakefactor.kernels import top_k
    from lakefactor.metrics import auc, auc_at_k, rank_metrics

    tally.add(name, "auc", 0, auc(scores, known[0], known[1], *relevant))
    seen_users = np.repeat(np.arange(len(scores)), np.diff(known[0]))
    scores[seen_users, known[1]] = -np.inf
    _, ranked = top_k(scores, max(tally.ks))
    n_candidates = scores.shape[1] - np.diff(known[0])
    found = rank_metrics(ranked, relevant[0], relevant[1], tally.ks)
    found |= auc_at_k(ranked, relevant[0], relevant[1], n_candidates, tally.ks)
    for (metric, k), values in found.items():
        tally.add(name, metric, k, values)
    for segment, inside in item_segments.items():
        some = _where(relevant[0], relevant[1], (relevant[1] >= 0) & inside[relevant[1]])
        for (metric, k), values in rank_metrics(ranked, *some, tally.ks).items():
            tally.add_segment(segment, name, metric, k, values)
    for k in tally.ks:
        tally.show(name, k, ranked, catalogue.n_entries)


def _of_catalogue(shown: pa.Table, catalogue_size: int) -> Iterator[Figure]:
    """Return what the lists do to the catalogue, from how often they show each item."""
    from lakefactor.metrics import coverage, exposure_gini

    keys = set(zip(shown["recommender"].to_pylist(), shown["k"].to_pylist(), strict=True))
    for recommender, k in keys:
        mine = shown.filter(pc.and_(pc.equal(shown["recommender"], recommender), pc.equal(shown["k"], k)))
        counts = np.zeros(catalogue_size, np.int64)
        counts[mine["column"].to_numpy()] = mine["n"].to_numpy()
        for metric, value in (("coverage", coverage(counts)), ("exposure_gini", exposure_gini(counts))):
            yield Figure(recommender, metric, ALL, k, value, catalogue_size)
