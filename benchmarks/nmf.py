"""Non-negative factorization beside scikit-learn's: the same matrix, rank and number of iterations.

Both minimise ||S - XY'||^2 over all pairs, an unobserved one counting as zero (ours: ``unobserved_weight = 1``, reg 0).
scikit-learn's solver is coordinate descent, with its own start. ``make bench-train`` runs this with the others.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

from kernels import synthetic
from matrices import batch_of
from scipy.sparse import csr_matrix
from sklearn.decomposition import NMF
from threadpoolctl import threadpool_limits

from lakefactor.comm.local import Local
from lakefactor.config import Model, Train
from lakefactor.factorization.fitting import fit
from lakefactor.factorization.shard import build_shard

USERS, ITEMS, ENTRIES, RANK, ITERATIONS = 20_000, 4_000, 1_000_000, 32, 60


def lakefactor(entries: csr_matrix) -> dict[str, float]:
    """Return seconds and objective of ours."""
    batch = batch_of(entries)
    start = time.perf_counter()
    model = Model(algorithm="nmf", rank=RANK, unobserved_weight=1.0, user_reg=0.0, item_reg=0.0)
    settings = Train(iterations=ITERATIONS, threads_per_rank=2)
    result = fit(build_shard(Local(), [batch]), Local(), model, settings)
    return {"seconds": time.perf_counter() - start, "objective": result.history[-1].objective}


def sklearn(entries: csr_matrix) -> dict[str, float]:
    """Return seconds and objective of scikit-learn's (its error is the root of the objective)."""
    start = time.perf_counter()
    model = NMF(RANK, init="nndsvda", solver="cd", tol=0.0, max_iter=ITERATIONS, random_state=0)
    with threadpool_limits(2, "blas"):
        model.fit(entries)
    return {"seconds": time.perf_counter() - start, "objective": float(model.reconstruction_err_) ** 2}


def run(repeats: int = 3) -> dict[str, Any]:
    """Measure both in turn; return every repetition and the ratio of the objectives."""
    indptr, indices, strengths = synthetic(USERS, ITEMS, ENTRIES, seed=0).by_user
    entries = csr_matrix((strengths, indices, indptr), (USERS, ITEMS))
    found: dict[str, list[dict[str, float]]] = {"lakefactor": [], "sklearn": []}
    for _ in range(repeats):
        found["lakefactor"].append(lakefactor(entries))
        found["sklearn"].append(sklearn(entries))
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()
    }
    return {
        "problem": {"users": USERS, "items": ITEMS, "entries": ENTRIES, "rank": RANK, "iterations": ITERATIONS},
        "repetitions": found,
        "medians": medians,
        "nmf_objective_ratio_vs_sklearn": medians["lakefactor"]["objective"] / medians["sklearn"]["objective"],
        "nmf_speedup_vs_sklearn": medians["sklearn"]["seconds"] / medians["lakefactor"]["seconds"],
    }


if __name__ == "__main__":
    print(json.dumps(run()))
