"""What lakefactor is ranked against: `implicit` and popularity. No Spark; one machine, NumPy and SciPy.

The parameters of `implicit` are in peer_params.json, found by tune_peers.py.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from implicit.als import AlternatingLeastSquares
from implicit.cpu.topk import topk
from implicit.nearest_neighbours import bm25_weight
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from lakefactor.metrics import auc_at_k, coverage, item_counts, rank_metrics

HERE = Path(__file__).resolve().parent
PARAMS_FILE = HERE / "peer_params.json"
FILES = {
    "ml-100k": ("ratings.csv", {"user": "user", "item": "item", "rating": "value", "timestamp": "timestamp"}),
    "lastfm": ("plays.csv", {"user": "user", "item": "item", "plays": "value"}),
    "amazon-book": ("interactions.csv.gz", {"user": "user", "item": "item"}),
}
BLOCK_USERS = 2048
UNAVAILABLE = -np.finfo(np.float32).max  # the score that `implicit` gives to seen items where it runs out of others
Factors = NDArray[np.float32]


@dataclass(frozen=True)
class Params:
    """Parameters of `implicit` ALS, and how interactions become its confidences (``alpha`` * weight, mean weight 1)."""

    strength: str = "binary"  # binary, log (1 + strength), raw, or bm25
    bm25_k1: float = 100.0
    bm25_b: float = 0.8
    factors: int = 64
    regularization: float = 0.01
    alpha: float = 1.0
    iterations: int = 15


def data_folder() -> Path:
    """Return LAKEFACTOR_DATA, else ``shared/data`` beside the checkout."""
    return Path(os.environ.get("LAKEFACTOR_DATA", HERE.parent.parent / "shared" / "data"))


def load(name: str) -> pa.Table:
    """Read a data set as ``user, item, value[, timestamp]``; FileNotFoundError names the file that is missing."""
    file, columns = FILES[name]
    table = pa.csv.read_csv(data_folder() / name / file).select(list(columns)).rename_columns(list(columns.values()))
    if "value" not in table.column_names:
        table = table.append_column("value", pa.array(np.ones(table.num_rows)))
    return table


def matrix(table: pa.Table) -> csr_matrix:
    """Return the user-item matrix of values; rows and columns are in order of the ids."""
    users, items = (np.unique(table[name].to_numpy(), return_inverse=True)[1] for name in ("user", "item"))
    return csr_matrix((table["value"].to_numpy().astype(np.float32), (users, items)))


# Splits, as the pipeline's: each entry by chance (k-fold), or a rounded share of each user's entries.


def part(entries: csr_matrix, mask: NDArray[np.bool_]) -> csr_matrix:
    """Keep the entries of a mask over ``entries.data``; the shape stays."""
    users = np.repeat(np.arange(entries.shape[0]), np.diff(entries.indptr))
    return csr_matrix((entries.data[mask], (users[mask], entries.indices[mask])), shape=entries.shape)


def held_out(entries: csr_matrix, share: float, *, per_user: bool, seed: int) -> NDArray[np.bool_]:
    """Draw the entries to hold out: each with chance ``share``, or that share of each user's and never the only one."""
    chance = np.random.default_rng(seed).random(entries.nnz)
    if not per_user:
        return chance < share
    size = np.diff(entries.indptr)
    users = np.repeat(np.arange(len(size)), size)
    place = np.empty(entries.nnz, dtype=np.int64)
    place[np.lexsort([chance, users])] = np.arange(entries.nnz)
    return place - entries.indptr[users] < np.minimum(np.rint(size * share), size - 1)[users]


# Recommenders: (user factors, item factors), scores are inner products.


def popularity(train: csr_matrix) -> tuple[Factors, Factors]:
    """Score items by their number of training entries, ties by lower column."""
    count = np.bincount(train.indices, minlength=train.shape[1])
    order = np.lexsort([np.arange(len(count)), -count])
    score = np.empty((len(count), 1), dtype=np.float32)
    score[order, 0] = np.arange(len(count), 0, -1)  # distinct and exact in float32, so no ties are left to chance
    return np.ones((train.shape[0], 1), dtype=np.float32), score


def confidences(train: csr_matrix, params: Params) -> csr_matrix:
    """Weigh the entries and scale them to mean 1, so that ``alpha`` means the same for every kind of strength."""
    weighted = train.astype(np.float64)
    if params.strength == "bm25":
        weighted = bm25_weight(weighted.T, K1=params.bm25_k1, B=params.bm25_b).T.tocsr()
    elif params.strength != "raw":
        weighted.data = np.log1p(weighted.data) if params.strength == "log" else np.ones_like(weighted.data)
    weighted.data /= weighted.data.mean()
    return csr_matrix(weighted, dtype=np.float32)


def implicit_als(
    train: csr_matrix,
    params: Params,
    *,
    seed: int = 1,
    threads: int = 1,
    on_iteration: Callable[[int, Factors, Factors], None] | None = None,
) -> tuple[Factors, Factors]:
    """Fit `implicit`'s ALS (its default solver, CG) and return (user factors, item factors)."""

    def report(iteration: int, _seconds: float, _loss: float | None) -> None:
        if on_iteration:
            on_iteration(iteration + 1, model.user_factors, model.item_factors)

    with threadpool_limits(1, "blas"):  # as `implicit` asks for; it has threads of its own
        model = AlternatingLeastSquares(
            factors=params.factors,
            regularization=params.regularization,
            alpha=params.alpha,
            iterations=params.iterations,
            num_threads=threads,
            random_state=seed,
        )
        model.fit(confidences(train, params), show_progress=False, callback=report)
    return model.user_factors, model.item_factors


def evaluate(
    user_factors: Factors,
    item_factors: Factors,
    train: csr_matrix,
    test: csr_matrix,
    ks: Sequence[int],
    *,
    item_bias: NDArray[np.float32] | None = None,
    threads: int = 1,
) -> dict[str, float]:
    """Rank every unseen item of the catalogue for each user with a test item, and return mean metrics.

    The catalogue is the items with a training entry; test items outside of it count as relevant and are never hit.

    Returns
    -------
    dict
        ``ndcg_at_10`` and so on, for each rank metric and coverage of lakefactor.metrics and each k.
    """
    if item_bias is not None:
        user_factors = np.column_stack([user_factors, np.ones(len(user_factors), np.float32)])
        item_factors = np.column_stack([item_factors, item_bias])
    catalogue = np.unique(train.indices)
    item_factors, train = np.ascontiguousarray(item_factors[catalogue]), train[:, catalogue]
    users = np.flatnonzero(np.diff(test.indptr))
    indptr, relevant = _relevant(test[users], catalogue)
    sums: dict[str, float] = defaultdict(float)
    shown = {k: np.zeros(len(catalogue), dtype=np.int64) for k in ks}
    for start in range(0, len(users), BLOCK_USERS):
        block = users[start : start + BLOCK_USERS]
        seen = train[block]
        ranked, scores = topk(item_factors, user_factors[block], max(ks), filter_query_items=seen, num_threads=threads)
        ranked[scores == UNAVAILABLE] = -1
        rows = indptr[start : start + len(block) + 1]
        lists = ranked, rows - rows[0], relevant[rows[0] : rows[-1]]
        figures = rank_metrics(*lists, ks) | auc_at_k(*lists, len(catalogue) - np.diff(seen.indptr), ks)
        for (metric, k), values in figures.items():
            sums[f"{metric}_at_{k}"] += float(np.nansum(values))
        for k in ks:
            shown[k] += item_counts(ranked, k, len(catalogue))
    means = {name: total / len(users) for name, total in sums.items()}
    return means | {f"coverage_at_{k}": coverage(shown[k]) for k in ks}


def _relevant(test: csr_matrix, catalogue: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return CSR rows of test items as catalogue columns, ascending, -1 for those outside."""
    number = np.full(test.shape[1], -1, dtype=np.int32)
    number[catalogue] = np.arange(len(catalogue))
    columns = number[test.indices]
    rows = np.repeat(np.arange(test.shape[0]), np.diff(test.indptr))
    return test.indptr.astype(np.int64), columns[np.lexsort([columns, rows])]


def tuned(name: str, metric: str) -> Params:
    """Return the parameters that ``tune_peers.py`` found for one of its tasks and a metric."""
    return Params(**json.loads(PARAMS_FILE.read_text())[name]["best"][metric]["params"])
