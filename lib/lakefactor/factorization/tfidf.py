"""What `svd` and `lsa` factorize: the strengths themselves, or their TF-IDF weights.

Users are the documents, items the terms, and a strength is how often a term occurs. For user u and item i::

    w_ui = s_ui * idf_i / sqrt(sum_j (s_uj * idf_j)^2)        idf_i = ln((1 + n_users) / (1 + n_i)) + 1

with n_i the number of users that have item i. This is scikit-learn's `TfidfTransformer` with its defaults (smoothed
idf, rows of length 1), after Salton and Buckley, "Term-weighting approaches in automatic text retrieval", Information
Processing and Management 24(5), 1988.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lakefactor.comm import Communicator
from lakefactor.config import Model
from lakefactor.factorization.shard import Shard
from lakefactor.types import FACTOR_DTYPE, SIDES, Side

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]


def matrix_values(shard: Shard, comm: Communicator, model: Model, n_users: int) -> dict[Side, Float32s]:
    """Return the entries of the factorized matrix R in both orientations of a shard.

    Parameters
    ----------
    shard : Shard
    comm : Communicator
        Every rank calls this: item owners tell the idf to users' owners, those tell the users' lengths.
    model : Model
        ``algorithm`` is `svd` or `lsa`.
    n_users : int
        Users of all ranks.
    """
    used = {side: _used(model, shard.rows[side].strengths) for side in SIDES}
    if model.algorithm == "svd":
        return used
    users, items = shard.rows["user"], shard.rows["item"]
    idf = inverse_document_frequency(items.n_entries, n_users)
    by_user, lengths = _tfidf(users.indptr, used["user"], shard.plans["item"].fetch(comm, idf)[users.indices])
    by_item = used["item"] * np.repeat(idf, items.n_entries) / shard.plans["user"].fetch(comm, lengths)[items.indices]
    return {"user": by_user, "item": by_item.astype(FACTOR_DTYPE)}


def row_values(
    model: Model, idf: Float64s, indptr: NDArray[np.int64], indices: NDArray[np.int32], strengths: Float32s
) -> Float32s:
    """Return the entries of the factorized matrix for CSR rows of users; ``idf`` is that of every column."""
    used = _used(model, strengths)
    return used if model.algorithm == "svd" else _tfidf(indptr, used, idf[indices])[0]


def inverse_document_frequency(n_entries: NDArray[np.int64], n_users: int) -> Float64s:
    """Return ln((1 + n_users) / (1 + n_entries)) + 1 of each item.

    Examples
    --------
    >>> inverse_document_frequency(np.array([3, 1]), n_users=3).round(4)
    array([1.    , 1.6931])
    """
    return np.log((1.0 + n_users) / (1.0 + n_entries)) + 1.0


def _used(model: Model, strengths: Float32s) -> Float32s:
    return np.ones_like(strengths) if model.strength == "binary" else strengths


def _tfidf(indptr: NDArray[np.int64], strengths: Float32s, idf: Float64s) -> tuple[Float32s, Float64s]:
    """Return the weights of rows, and what each row was divided by: its length, or 1 where that is 0."""
    weights = strengths * idf
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    lengths = np.sqrt(np.bincount(rows, np.square(weights), len(indptr) - 1))
    lengths[lengths == 0] = 1.0
    return (weights / lengths[rows]).astype(FACTOR_DTYPE), lengths
