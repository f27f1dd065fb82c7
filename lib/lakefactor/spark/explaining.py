"""Explain many scores in executors, against a broadcast catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from lakefactor.config import Model
from lakefactor.factorization.catalogue import Catalogue, csr_columns
from lakefactor.factorization.explanation import Explainer

NAMES = ("user_id", "item_id", "reason", "known_item_id", "strength", "contribution", "base", "score")


def explained(
    users: DataFrame, catalogue: Catalogue, model: Model, mean: float, n_users: int, reasons: int
) -> DataFrame:
    """Return what adds most to the scores of some items of each user.

    Parameters
    ----------
    users : DataFrame
        ``user_id, known`` (items that the user has interacted with, each once)``, strengths`` (beside them), ``items``
        (those whose scores are explained).
    catalogue, model, mean, n_users
        As for `Explainer`.
    reasons : int
        At most this many for each score.

    Returns
    -------
    DataFrame
        ``user_id, item_id, reason, known_item_id, strength, contribution, base, score``. Lazy.
    """
    shared = users.sparkSession.sparkContext.broadcast(catalogue)
    types = dict(users.dtypes)

    def on_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        explainer = Explainer(model, mean, shared.value, n_users)
        for batch in batches:
            yield _of_batch(batch, shared.value, explainer, reasons)

    item_type = types["items"].removeprefix("array<").removesuffix(">")
    schema = (
        f"user_id {types['user_id']}, item_id {item_type}, reason int, known_item_id {item_type}, "
        "strength double, contribution double, base double, score double"
    )
    return users.select("user_id", "known", "strengths", "items").mapInArrow(on_partition, schema)


def _of_batch(batch: pa.RecordBatch, catalogue: Catalogue, explainer: Explainer, reasons: int) -> pa.RecordBatch:
    known_at, known, (strengths,) = csr_columns(batch["known"], catalogue, batch["strengths"])
    items_at, items, _ = csr_columns(batch["items"], catalogue)
    users, of_item, places, of_known, numbers = [], [], [], [], []
    for user in range(batch.num_rows):
        own = slice(known_at[user], known_at[user + 1])
        wanted = items[items_at[user] : items_at[user + 1]]
        has_factors = known[own] >= 0
        columns, values = known[own][has_factors], strengths[own][has_factors]
        wanted = wanted[wanted >= 0]
        parts, base = explainer.parts(columns, values, wanted)
        best = np.argsort(-parts, axis=1, kind="stable")[:, :reasons]
        n = best.shape[1]
        scores = base + parts.sum(axis=1)
        users.append(np.full(best.size, user))
        of_item.append(np.repeat(wanted, n))
        places.append(np.tile(np.arange(1, n + 1), len(wanted)))
        of_known.append(columns[best].ravel())
        contributions = np.take_along_axis(parts, best, axis=1).ravel()
        numbers.append(np.stack([values[best].ravel(), contributions, np.repeat(base, n), np.repeat(scores, n)]))
    by_name = {
        "user_id": batch["user_id"].take(pa.array(np.concatenate(users))),
        "item_id": catalogue.ids.take(pa.array(np.concatenate(of_item))),
        "reason": pa.array(np.concatenate(places).astype(np.int32)),
        "known_item_id": catalogue.ids.take(pa.array(np.concatenate(of_known))),
        **dict(zip(NAMES[4:], map(pa.array, np.concatenate(numbers, axis=1)), strict=True)),
    }
    return pa.record_batch(by_name)
