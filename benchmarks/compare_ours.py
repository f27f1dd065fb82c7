"""Compare a few settings of lakefactor on the validation parts of a training part: what quality.py's settings rest on.

``python benchmarks/compare_ours.py [task ...]`` prints a line for each candidate and writes our_candidates.json. Beside
the search of tune_ours.py because its models are others: averaged posterior draws (RMSE), strengths by value, tempered
item norms. Only training parts are used.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matrices import batch_of, in_order
from peers import evaluate, held_out, load, matrix, part
from scipy.sparse import csr_matrix
from tune_peers import TASKS, validation_parts

from lakefactor.comm.local import Local
from lakefactor.config import Model, Train
from lakefactor.factorization.fitting import Fit, fit
from lakefactor.factorization.shard import build_shard
from lakefactor.metrics import error_sums
from lakefactor.types import SIDES

RESULTS = Path(__file__).with_name("our_candidates.json")
PARTS = 6
RATINGS: dict[str, Any] = {"algorithm": "explicit_als", "user_reg": 1.0, "reg_exponent": 0.0}
IMPLICIT: dict[str, Any] = {"alpha": 2.3, "user_reg": 10.0, "item_reg": 10.0, "reg_exponent": 0.25}
VALUE = IMPLICIT | {"alpha": 0.65}
WIDE = {"rank": 256, "strength": "binary", "alpha": 25.0, "user_reg": 2.0, "item_reg": 0.7, "reg_exponent": 1.0}

CANDIDATES: dict[str, list[tuple[dict[str, Any], int]]] = {
    "ml100k_explicit": [
        ({"algorithm": "explicit_als", "rank": 60, "user_reg": 2.0, "item_reg": 1.0, "bias_reg": 0.6}, 20),
        *[(RATINGS | {"rank": rank, "posterior_draws": n}, n + 20) for rank, n in ((10, 50), (10, 200), (16, 200))],
    ],
    "ml100k": [
        (IMPLICIT | {"rank": 128, "strength": "binary"}, 16),
        (VALUE | {"rank": 64}, 14),
        (VALUE | {"rank": 128}, 14),
    ],
    "ml100k_7525": [
        (IMPLICIT | {"rank": 64, "strength": "binary"}, 16),
        (VALUE | {"rank": 64}, 14),
        ({"rank": 96, "alpha": 0.66, "user_reg": 19.7, "item_reg": 6.0, "reg_exponent": 0.244}, 13),
    ],
    "amazon_book": [(WIDE | {"item_norm_exponent": p}, 10) for p in (0.0, 0.4, 0.6, 0.8)],
}


def fitted(train: csr_matrix, keys: dict[str, Any], iterations: int) -> tuple[Fit, dict[str, np.ndarray]]:
    """Return the fit, and for each side its factors and bias in the order of ``train``."""
    shard = build_shard(Local(), [batch_of(train)])
    model = Model(**keys)
    solver = "cholesky" if model.algorithm == "explicit_als" else "cg"
    result = fit(shard, Local(), model, Train(iterations=iterations, solver=solver))
    rows = {}
    for side, n in zip(SIDES, train.shape, strict=True):
        found = np.column_stack([result.factors[side], result.bias[side]])
        rows[side] = in_order(n, shard.rows[side].ids.to_numpy(), found)
    return result, rows


def measure(name: str, train: csr_matrix, test: csr_matrix, keys: dict[str, Any], iterations: int) -> dict[str, float]:
    """Return a candidate's figures on one validation part."""
    result, rows = fitted(train, keys, iterations)
    users, items = rows["user"], rows["item"]
    if name == "ml100k_explicit":
        pairs = test.tocoo()
        x, y = users[pairs.row], items[pairs.col]
        predicted = result.mean + x[:, -1] + y[:, -1] + np.einsum("nk,nk->n", x[:, :-1], y[:, :-1])
        errors = error_sums(np.clip(predicted, train.data.min(), train.data.max()), pairs.data)
        return {"rmse": float(np.sqrt(errors.squared / errors.n))}
    metrics = TASKS[name].metrics
    ks = sorted({int(metric.rpartition("_")[2]) for metric in metrics})
    x, y = (np.ascontiguousarray(side[:, :-1]) for side in (users, items))
    return {metric: value for metric, value in evaluate(x, y, train, test, ks).items() if metric in metrics}


def compare(name: str) -> list[dict[str, Any]]:
    """Measure every candidate of a task on the same parts; return settings, mean figures and each part's."""
    task = TASKS["ml100k" if name == "ml100k_explicit" else name]
    entries = matrix(load(task.data))
    train = part(entries, ~held_out(entries, task.share, per_user=task.per_user, seed=0))
    n_parts = 1 if name == "amazon_book" else PARTS
    parts = [p for v in range(n_parts) for p in validation_parts(train, task, seed=1 + v)[:1]]
    found = []
    for keys, iterations in CANDIDATES[name]:
        by_part = [measure(name, *split, keys, iterations) for split in parts]
        means = {metric: round(float(np.mean([one[metric] for one in by_part])), 5) for metric in by_part[0]}
        found.append({"model": keys, "iterations": iterations, "validation": means, "parts": by_part})
        print(name, means, keys, iterations, flush=True)
    return found


if __name__ == "__main__":
    for name in sys.argv[1:] or CANDIDATES:
        record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        record[name] = compare(name)
        RESULTS.write_text(json.dumps(record, indent=1) + "\n")
