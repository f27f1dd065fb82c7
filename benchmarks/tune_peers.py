"""Tune `implicit`, so that a comparison with it is fair; writes peer_params.json with every trial.

``python benchmarks/tune_peers.py [task ...]``: for each task of `TASKS`, parameters are searched on validation parts
that are cut from the training part of a split. The peer is treated well: it may weigh interactions in every way that
its users know, each fit counts by its best iteration, and each metric gets its own parameters.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import implicit
import numpy as np
from peers import PARAMS_FILE, Factors, Params, evaluate, held_out, implicit_als, load, matrix, part, popularity
from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class Task:
    """What `implicit` is tuned for."""

    data: str
    share: float  # held out by the split
    per_user: bool
    metrics: tuple[str, ...]
    trials: int
    start: tuple[Params, ...] = ()  # tried before anything is drawn
    validation_share: float = 0.1  # of the training part; small, as the best reg grows with the data
    validations: int = 1  # validation parts, averaged
    users: int = 0  # users measured in a trial (0: all)
    max_factors: int = 256
    checkpoints: tuple[int, ...] = (5, 10, 15, 20, 30)


USUAL = (Params(), Params(alpha=3.0, regularization=20.0), Params(strength="bm25", alpha=2.0))
TASKS = {
    "ml100k": Task("ml-100k", 0.2, False, ("precision_at_5", "ndcg_at_10"), trials=80, start=USUAL, validations=3),
    "ml100k_7525": Task("ml-100k", 0.25, True, ("ndcg_at_10",), trials=80, start=USUAL, validations=3),
    "lastfm": Task("lastfm", 0.2, True, ("ndcg_at_10",), trials=60, start=USUAL),
    "amazon_book": Task(
        "amazon-book",
        0.2,
        True,
        ("ndcg_at_20",),
        trials=16,
        start=(
            Params(factors=256, alpha=15.0, regularization=0.1),  # from a first search up to 128 factors
            Params(factors=256, alpha=30.0, regularization=10.0),
            Params(factors=256, alpha=15.0, regularization=0.1, strength="bm25", bm25_k1=20.0, bm25_b=0.5),
        ),
        users=4000,
        checkpoints=(5, 10, 15),
    ),
}
HOPELESS, HOPELESS_FROM = 0.85, 10
"""A fit that is below this share of the best figure, in every metric, from this iteration on is given up."""


class _Hopeless(Exception):
    pass


def propose(
    trial: int, task: Task, strengths: Sequence[str], best: Sequence[Params], rng: np.random.Generator
) -> Params:
    """Return what to try: ``task.start``, then random draws, in the second half mostly near the best so far.

    Space: factors 8 to ``task.max_factors`` in powers of two; regularization 0.01 to 1000 and alpha 0.5 to 100,
    logarithmic; strengths binary, log, raw and BM25 with k1 1 to 300, logarithmic, and b 0 to 1.
    """
    if trial < len(task.start):
        return task.start[trial]
    if trial < task.trials / 2 or rng.random() < 0.2:
        return Params(
            strength=str(rng.choice(strengths)),
            factors=int(2 ** rng.integers(3, int(np.log2(task.max_factors)) + 1)),
            regularization=float(10 ** rng.uniform(-2, 3)),
            alpha=float(10 ** rng.uniform(np.log10(0.5), 2)),
            bm25_k1=float(10 ** rng.uniform(0, np.log10(300))),
            bm25_b=float(rng.uniform(0, 1)),
        )
    near = best[int(rng.integers(len(best)))]
    scale = rng.lognormal(sigma=0.4)  # of alpha and regularization together: their ratio matters most
    return replace(
        near,
        factors=int(np.clip(near.factors * 2.0 ** rng.integers(-1, 2), 8, task.max_factors)),
        regularization=float(np.clip(near.regularization * scale * rng.lognormal(sigma=0.25), 0.01, 1000)),
        alpha=float(np.clip(near.alpha * scale, 0.5, 100)),
        bm25_k1=float(np.clip(near.bm25_k1 * rng.lognormal(sigma=0.5), 1, 300)),
        bm25_b=float(np.clip(near.bm25_b + rng.normal(scale=0.15), 0, 1)),
    )


def tune_implicit(train: csr_matrix, task: Task, seed: int = 1) -> dict[str, Any]:
    """Search parameters of `implicit` on validation parts that are cut from ``train``.

    Returns
    -------
    dict
        ``best``: for each metric its validation figure and parameters; ``trials``: every fit with its figures by
        iteration; ``seconds``.
    """
    started = time.perf_counter()
    cuts = [
        held_out(train, task.validation_share, per_user=task.per_user, seed=seed + v) for v in range(task.validations)
    ]
    parts = [(part(train, ~cut), _some_users(part(train, cut), task.users, seed)) for cut in cuts]
    strengths = ["binary", "bm25"] if np.ptp(train.data) == 0 else ["binary", "log", "raw", "bm25"]
    rng = np.random.default_rng(seed)
    best: dict[str, tuple[float, Params]] = {}
    trials: list[dict[str, Any]] = []
    for trial in range(task.trials):
        params = propose(trial, task, strengths, [chosen for _, chosen in best.values()], rng)
        params = replace(params, iterations=max(task.checkpoints))
        figures = _figures(parts, params, task, {metric: value for metric, (value, _) in best.items()})
        for iteration, by_metric in figures.items():
            for metric, value in by_metric.items():
                if metric not in best or value > best[metric][0]:
                    best[metric] = value, replace(params, iterations=iteration)
        trials.append(asdict(params) | {"validation": figures})
        print(f"{task.data} {trial + 1}/{task.trials}", {m: round(v, 5) for m, (v, _) in best.items()}, flush=True)
    return {
        "best": {metric: {"validation": value, "params": asdict(params)} for metric, (value, params) in best.items()},
        "seconds": round(time.perf_counter() - started, 1),
        "trials": trials,
    }


def validation_parts(train: csr_matrix, task: Task, seed: int = 1) -> list[tuple[csr_matrix, csr_matrix]]:
    """Cut a training part into (what to fit, what to measure on), ``task.validations`` times."""
    share, seeds = task.validation_share, range(seed, seed + task.validations)
    cuts = [held_out(train, share, per_user=task.per_user, seed=s) for s in seeds]
    return [(part(train, ~cut), _some_users(part(train, cut), task.users, seed)) for cut in cuts]


def _figures(
    parts: Sequence[tuple[csr_matrix, csr_matrix]], params: Params, task: Task, to_beat: dict[str, float]
) -> dict[int, dict[str, float]]:
    """Fit on each part; return the mean figures at each checkpoint, or nothing for a fit that was given up."""
    ks = sorted({int(metric.rpartition("_")[2]) for metric in task.metrics})
    figures = {iteration: dict.fromkeys(task.metrics, 0.0) for iteration in task.checkpoints}
    for train, validation in parts:

        def measure(
            iteration: int, users: Factors, items: Factors, split: tuple[csr_matrix, csr_matrix] = (train, validation)
        ) -> None:
            if iteration not in figures:
                return
            got = evaluate(users, items, split[0], split[1], ks)
            behind = [got[metric] < HOPELESS * value for metric, value in to_beat.items()]
            if iteration >= HOPELESS_FROM and behind and all(behind):
                raise _Hopeless
            for metric in task.metrics:
                figures[iteration][metric] += got[metric] / len(parts)

        try:
            implicit_als(train, params, on_iteration=measure)
        except _Hopeless:
            return {}
    return figures


def _some_users(test: csr_matrix, n: int, seed: int) -> csr_matrix:
    """Keep the test entries of ``n`` users drawn at random; 0 keeps all."""
    users = np.flatnonzero(np.diff(test.indptr))
    if not 0 < n < len(users):
        return test
    keep = np.zeros(test.shape[0], dtype=bool)
    keep[np.random.default_rng(seed).choice(users, n, replace=False)] = True
    return part(test, np.repeat(keep, np.diff(test.indptr)))


def main(names: Sequence[str]) -> None:
    """Tune for each named task, check once on the split's test part, and write the record."""
    record = json.loads(PARAMS_FILE.read_text()) if PARAMS_FILE.exists() else {}
    for name in names or TASKS:
        task = TASKS[name]
        entries = matrix(load(task.data))
        mask = held_out(entries, task.share, per_user=task.per_user, seed=0)
        train, test = part(entries, ~mask), part(entries, mask)
        found = tune_implicit(train, task)
        for metric, choice in found["best"].items():
            k = [int(metric.rpartition("_")[2])]
            model, baseline = implicit_als(train, Params(**choice["params"])), popularity(train)
            choice["test"] = evaluate(model[0], model[1], train, test, k)[metric]
            choice["test_popularity"] = evaluate(baseline[0], baseline[1], train, test, k)[metric]
        record[name] = {"implicit": implicit.__version__, "task": asdict(task), **found}
        PARAMS_FILE.write_text(json.dumps(record, indent=1) + "\n")
        print(name, json.dumps(found["best"], indent=1), f"{found['seconds']} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
