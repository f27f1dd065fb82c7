"""Measure a model on a fold, and popularity beside it: executors score the test users, the driver adds up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import Broadcast
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakefactor.config import Evaluate
from lakefactor.errors import InputError
from lakefactor.factorization.fold_in import FoldIn
from lakefactor.spark.catalogue import Catalogue, csr_columns, known_only, matrix
from lakefactor.spark.splits import Fold

MODEL, POPULARITY = "model", "popularity"

SCORE_BYTES = 32 << 20
"""Memory for the scores of one block of users against the whole catalogue."""

PARTIAL_SCHEMA = "recommender string, metric string, k int, column int, total double, n bigint"
PARTIAL_ARROW = pa.schema(
    [
        ("recommender", pa.string()),
        ("metric", pa.string()),
        ("k", pa.int32()),
        ("column", pa.int32()),
        ("total", pa.float64()),
        ("n", pa.int64()),
    ]
)


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


@dataclass(frozen=True)
class Measured:
    """One figure: the mean of ``metric`` at cut-off ``k`` (0: none) over ``n`` users, positions or interactions."""

    recommender: str
    metric: str
    k: int
    value: float
    n: int


def measure(fold: Fold, user_factors: DataFrame, subject: Subject, config: Evaluate) -> list[Measured]:
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
    list of Measured
        Rank metrics and AUC over users with at least one relevant test item; RMSE and MAE over all test
        interactions for explicit models; coverage and mean popularity of what was recommended.

    Raises
    ------
    InputError
        The test part is empty.
    """
    spark = user_factors.sparkSession
    shared = spark.sparkContext.broadcast(subject)
    try:
        partials = _users(fold, user_factors).mapInArrow(_block_function(shared, config), PARTIAL_SCHEMA)
        by_figure = partials.groupBy("recommender", "metric", "k").agg(
            F.sum("total").alias("total"), F.sum("n").alias("n"), F.countDistinct("column").alias("columns")
        )
        rows = by_figure.collect()
    finally:
        shared.destroy()
    if not rows:
        raise InputError(
            f"the {config.split} split leaves nothing to test on; "
            "raise evaluate.holdout_fraction or choose another evaluate.split"
        )
    return sorted(_figures(rows, len(subject.catalogue.ids)), key=lambda m: (m.recommender, m.metric, m.k))


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
        .select("test_items", "test_strengths", "known_items", "known_strengths", "factors", "bias")
    )


def _block_function(
    shared: Broadcast[Subject], config: Evaluate
) -> Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]]:
    def on_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        subject = shared.value
        tally = Tally(config.ks)
        block_rows = max(1, SCORE_BYTES // (4 * len(subject.catalogue.ids)))
        for batch in batches:
            for start in range(0, batch.num_rows, block_rows):
                _measure_block(batch.slice(start, block_rows), subject, config, tally)
        yield from tally.rows()

    return on_partition


class Tally:
    """Running sums of one partition."""

    def __init__(self, ks: Sequence[int]) -> None:
        self.ks = ks
        self.sums: defaultdict[tuple[str, str, int], NDArray[np.float64]] = defaultdict(lambda: np.zeros(2))
        self.shown: dict[tuple[str, int], NDArray[np.bool_]] = {}

    def add(self, recommender: str, metric: str, k: int, values: NDArray[np.float64]) -> None:
        """Add one value per user; NaN means that the metric says nothing about that user."""
        said = ~np.isnan(values)
        self.sums[recommender, metric, k] += (values[said].sum(), said.sum())

    def show(self, recommender: str, k: int, ranked: NDArray[np.int32], popularity: NDArray[np.int64]) -> None:
        """Note which items the first k positions hold, and how popular they are."""
        columns = ranked[:, :k]
        columns = columns[columns >= 0]
        self.sums[recommender, "mean_popularity", k] += (popularity[columns].sum(), len(columns))
        seen = self.shown.setdefault((recommender, k), np.zeros(len(popularity), dtype=bool))
        seen[columns] = True

    def rows(self) -> Iterator[pa.RecordBatch]:
        """Yield the sums, and one row per item shown."""
        if self.sums:
            records = [
                {"recommender": r, "metric": m, "k": k, "total": total, "n": int(n)}
                for (r, m, k), (total, n) in self.sums.items()
            ]
            yield pa.RecordBatch.from_pylist(records, schema=PARTIAL_ARROW)
        for (recommender, k), seen in self.shown.items():
            columns = np.flatnonzero(seen).astype(np.int32)
            n = len(columns)
            arrays = [
                pa.array([recommender] * n, pa.string()),
                pa.array(["coverage"] * n, pa.string()),
                pa.array(np.full(n, k, np.int32)),
                pa.array(columns),
                pa.nulls(n, pa.float64()),
                pa.nulls(n, pa.int64()),
            ]
            yield pa.record_batch(arrays, schema=PARTIAL_ARROW)


def _measure_block(batch: pa.RecordBatch, subject: Subject, config: Evaluate, tally: Tally) -> None:
    from lakefactor.metrics import error_sums

    catalogue = subject.catalogue
    test_indptr, test_columns, (actual,) = csr_columns(batch["test_items"], catalogue, batch["test_strengths"])
    known = known_only(*_flat(csr_columns(batch["known_items"], catalogue, batch["known_strengths"])))
    factors, bias = _user_side(batch, subject, known)
    relevant = _where(test_indptr, test_columns, actual >= config.relevant_min_value)

    scores = factors @ catalogue.factors.T
    scores += catalogue.bias
    _measure_ranking(MODEL, scores, known, relevant, catalogue, tally)
    popularity = np.tile(catalogue.n_entries.astype(np.float32), (len(factors), 1))
    _measure_ranking(POPULARITY, popularity, known, relevant, catalogue, tally)
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
            errors = error_sums(np.clip(ratings, *subject.strength_range), actual)
            tally.sums[name, "rmse", 0] += (errors.squared, errors.n)
            tally.sums[name, "mae", 0] += (errors.absolute, errors.n)


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
    name: str, scores: NDArray[np.float32], known: tuple, relevant: tuple, catalogue: Catalogue, tally: Tally
) -> None:
    from lakefactor.kernels import top_k
    from lakefactor.metrics import auc, auc_at_k, rank_metrics

    tally.add(name, "auc", 0, auc(scores, known[0], known[1], *relevant))
    seen_users = np.repeat(np.arange(len(scores)), np.diff(known[0]))
    scores[seen_users, known[1]] = -np.inf
    _, ranked = top_k(scores, max(tally.ks))
    n_candidates = scores.shape[1] - np.diff(known[0])
    figures = rank_metrics(ranked, relevant[0], relevant[1], tally.ks)
    figures |= auc_at_k(ranked, relevant[0], relevant[1], n_candidates, tally.ks)
    for (metric, k), values in figures.items():
        tally.add(name, metric, k, values)
    for k in tally.ks:
        tally.show(name, k, ranked, catalogue.n_entries)


def _figures(rows: list, catalogue_size: int) -> Iterator[Measured]:
    for row in rows:
        if row.metric == "coverage":
            yield Measured(row.recommender, row.metric, row.k, row.columns / catalogue_size, catalogue_size)
        elif row.n:
            mean = row.total / row.n
            yield Measured(row.recommender, row.metric, row.k, mean**0.5 if row.metric == "rmse" else mean, row.n)
