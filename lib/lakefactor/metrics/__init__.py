"""How good is a model: rating errors, rank metrics per user, AUC, and what the lists do to the catalogue.

Every function takes a block of users or entries, so that a Spark worker can call it on its part; what is merged over
blocks (sums, counts) is additive.
"""

from __future__ import annotations

from lakefactor.metrics.auc import auc, auc_at_k
from lakefactor.metrics.catalogue import coverage, exposure_gini, item_counts, mean_popularity, popularity_rank
from lakefactor.metrics.ranking import RANK_METRICS, Hits, find_hits, rank_metrics
from lakefactor.metrics.rating import ErrorSums, error_sums, mae, rmse, sign_of

__all__ = [
    "RANK_METRICS",
    "ErrorSums",
    "Hits",
    "auc",
    "auc_at_k",
    "coverage",
    "error_sums",
    "exposure_gini",
    "find_hits",
    "item_counts",
    "mae",
    "mean_popularity",
    "popularity_rank",
    "rank_metrics",
    "rmse",
    "sign_of",
]
