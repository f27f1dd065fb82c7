"""Truncated SVD beside scikit-learn's TruncatedSVD (arpack): the same matrix, the largest singular values.

Ours iterates until its singular values have settled. Errors are relative to arpack's values at full precision
(``tol=0``). Repetitions in turn. ``make bench-train`` runs this with the others.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

import numpy as np
import peers
from kernels import synthetic
from matrices import batch_of
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD

from lakefactor.comm.local import Local
from lakefactor.config import Model, Train
from lakefactor.factorization.fitting import fit
from lakefactor.factorization.shard import build_shard
from lakefactor.types import SIDES

RANK, ITERATIONS, THREADS = 50, 40, 2
SYNTHETIC = (70_000, 10_000, 10_000_000)


def lakefactor(entries: csr_matrix) -> tuple[float, np.ndarray]:
    """Return seconds from numbered rows to factors, and the singular values: the lengths of the user factors' columns.

    Numbering the ids is left out, as scikit-learn's gets a matrix that is numbered.
    """
    shard = build_shard(Local(), [batch_of(entries)])
    start = time.perf_counter()
    settings = Train(iterations=ITERATIONS, threads_per_rank=THREADS)
    result = fit(shard, Local(), Model(algorithm="svd", rank=RANK), settings)
    factors = {side: result.factors[side] for side in SIDES}
    return time.perf_counter() - start, np.linalg.norm(factors["user"].astype(np.float64), axis=0)


def sklearn(entries: csr_matrix) -> tuple[float, np.ndarray]:
    """Return seconds and singular values of scikit-learn's."""
    matrix = entries.astype(np.float64)
    start = time.perf_counter()
    model = TruncatedSVD(RANK, algorithm="arpack", tol=0.0, random_state=0).fit(matrix)
    return time.perf_counter() - start, model.singular_values_


def measure(entries: csr_matrix, repeats: int) -> dict[str, Any]:
    """Measure both in turn on one matrix."""
    seconds: dict[str, list[float]] = {"lakefactor": [], "sklearn_arpack": []}
    for _ in range(repeats):
        for name, run in (("lakefactor", lakefactor), ("sklearn_arpack", sklearn)):
            took, values = run(entries)
            seconds[name].append(took)
            if name == "lakefactor":
                ours = values
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "problem": {"users": entries.shape[0], "items": entries.shape[1], "entries": int(entries.nnz), "rank": RANK},
        "seconds": seconds,
        "median_seconds": medians,
        "max_relative_error": float(np.max(np.abs(np.sort(ours)[::-1] / values - 1))),
        "speedup": medians["sklearn_arpack"] / medians["lakefactor"],
    }


def run(repeats: int = 3, synthetic_shape: tuple[int, int, int] = SYNTHETIC) -> dict[str, Any]:
    """Measure synthetic entries, and ml-100k where it is here."""
    lakefactor(csr_matrix(np.eye(100, dtype=np.float32)))  # loads what was compiled before
    users, items, count = synthetic_shape
    indptr, indices, strengths = synthetic(users, items, count, seed=0).by_user
    found = {"synthetic": measure(csr_matrix((strengths, indices, indptr), (users, items)), repeats)}
    if peers.data_folder().is_dir():
        found["ml-100k"] = measure(peers.matrix(peers.load("ml-100k")), repeats)
    return {
        "data": found,
        "svd_max_relative_error": max(result["max_relative_error"] for result in found.values()),
        "svd_speedup_vs_sklearn_arpack": found["synthetic"]["speedup"],
    }


if __name__ == "__main__":
    print(json.dumps(run()))
