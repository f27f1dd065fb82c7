"""Tune lakefactor's implicit models on the validation parts that ``tune_peers.py`` gives to `implicit`.

``python benchmarks/tune_ours.py [task ...]`` writes our_params.json with every trial. Only training parts are used.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from peers import evaluate, held_out, load, matrix, part
from scipy.sparse import csr_matrix
from tune_peers import TASKS, Task, _some_users

from lakefactor.comm.local import Local
from lakefactor.config import Model, Train
from lakefactor.factorization.als import fit
from lakefactor.factorization.shard import build_shard

PARAMS_FILE = Path(__file__).with_name("our_params.json")
TRIALS = {"ml100k": 60, "ml100k_7525": 60, "lastfm": 40, "amazon_book": 16}


@dataclass(frozen=True)
class Ours:
    """What is searched: sections ``model`` and ``interactions.log_scale``."""

    algorithm: str = "implicit_als"
    strength: str = "binary"
    log_scale: float = 0.0
    rank: int = 64
    alpha: float = 2.0
    unobserved_weight: float = 0.1
    reg: float = 3.0
    item_reg_ratio: float = 1.0
    reg_exponent: float = 0.5
    iterations: int = 10

    def model(self) -> Model:
        """Return the configuration section."""
        return Model(
            algorithm=self.algorithm,
            rank=self.rank,
            strength=self.strength,
            alpha=self.alpha,
            unobserved_weight=self.unobserved_weight,
            user_reg=self.reg,
            item_reg=self.reg * self.item_reg_ratio,
            reg_exponent=self.reg_exponent,
        )


def factorize(train: csr_matrix, params: Ours) -> tuple[np.ndarray, np.ndarray]:
    """Return (user factors, item factors), rows and columns as in ``train``."""
    values = train.data.astype(np.float64)
    if params.log_scale:
        values = np.log1p(values / params.log_scale)
    users = np.repeat(np.arange(train.shape[0]), np.diff(train.indptr))
    batch = pa.record_batch({"user_id": users, "item_id": train.indices.astype(np.int64), "strength": values})
    shard = build_shard(Local(), [batch])
    fitted = fit(shard, Local(), params.model(), Train(iterations=params.iterations, solver="cg", cg_steps=3))
    result = []
    for side, n in (("user", train.shape[0]), ("item", train.shape[1])):
        rows = np.zeros((n, params.rank), np.float32)
        rows[shard.rows[side].ids.to_numpy()] = fitted.factors[side]
        result.append(rows)
    return result[0], result[1]


USUAL = (
    Ours(),
    Ours(rank=128, alpha=14.0, reg=1.0, reg_exponent=0.5),
    Ours(rank=128, alpha=14.0, reg=0.12, reg_exponent=0.0, iterations=15),
    Ours(algorithm="ials", rank=128, alpha=1.0, unobserved_weight=0.03, reg=0.003, reg_exponent=1.0),
)


def propose(trial: int, task: Task, valued: bool, best: Ours | None, rng: np.random.Generator) -> Ours:
    """Try a few usual settings, then draw at random up to half of the trials, then near the best."""
    if trial < len(USUAL):
        return replace(USUAL[trial], rank=min(USUAL[trial].rank, task.max_factors))
    if best is None or trial < TRIALS_NOW // 2:
        algorithm = str(rng.choice(["implicit_als", "ials"]))
        log_scale = float(10 ** rng.uniform(-1, 2.5)) if valued and rng.random() < 0.7 else 0.0
        return Ours(
            algorithm=algorithm,
            strength="value" if log_scale else "binary",
            log_scale=log_scale,
            rank=int(2 ** rng.integers(4, int(np.log2(task.max_factors)) + 1)),
            alpha=float(10 ** rng.uniform(-0.3, 1.7)) if algorithm == "implicit_als" else 1.0,
            unobserved_weight=float(10 ** rng.uniform(-2.5, 0)),
            reg=float(10 ** rng.uniform(-0.5, 1.5)) if algorithm == "implicit_als" else float(10 ** rng.uniform(-3, 0)),
            reg_exponent=float(rng.choice([0.0, 0.25, 0.5, 0.75, 1.0])),
            iterations=int(rng.choice([6, 10, 15])),
        )
    return replace(
        best,
        rank=int(np.clip(best.rank * 2.0 ** rng.integers(-1, 2), 8, task.max_factors)),
        alpha=best.alpha * rng.lognormal(sigma=0.35),
        unobserved_weight=best.unobserved_weight * rng.lognormal(sigma=0.35),
        reg=best.reg * rng.lognormal(sigma=0.35),
        item_reg_ratio=best.item_reg_ratio * rng.lognormal(sigma=0.35),
        log_scale=best.log_scale * rng.lognormal(sigma=0.35),
        reg_exponent=float(np.clip(best.reg_exponent + rng.normal(scale=0.12), 0, 1)),
        iterations=int(np.clip(best.iterations + rng.integers(-3, 4), 3, 25)),
    )


TRIALS_NOW = 40


def tune(name: str, seed: int = 1) -> dict:
    """Search one task; every metric keeps its own best."""
    global TRIALS_NOW
    task, TRIALS_NOW = TASKS[name], TRIALS[name]
    entries = matrix(load(task.data))
    mask = held_out(entries, task.share, per_user=task.per_user, seed=0)
    train, test = part(entries, ~mask), part(entries, mask)
    cuts = [held_out(train, task.share, per_user=task.per_user, seed=seed + v) for v in range(task.validations)]
    parts = [(part(train, ~cut), _some_users(part(train, cut), task.users, seed)) for cut in cuts]
    ks = sorted({int(metric.rpartition("_")[2]) for metric in task.metrics})
    rng = np.random.default_rng(seed)
    best: dict[str, tuple[float, Ours]] = {}
    trials, started = [], time.perf_counter()
    for trial in range(TRIALS_NOW):
        near = best[str(rng.choice(task.metrics))][1] if best else None
        params = propose(trial, task, bool(np.ptp(train.data) > 0) and task.data == "lastfm", near, rng)
        got = [evaluate(*factorize(fitted, params), fitted, validation, ks) for fitted, validation in parts]
        figures = {metric: float(np.mean([g[metric] for g in got])) for metric in task.metrics}
        trials.append(asdict(params) | {"validation": figures})
        for metric, value in figures.items():
            if metric not in best or value > best[metric][0]:
                best[metric] = value, params
        print(name, trial, {m: (round(v, 5), asdict(p)) for m, (v, p) in best.items()}, flush=True)
    found = {m: {"validation": v, "params": asdict(p)} for m, (v, p) in best.items()}
    for metric, choice in found.items():
        k = [int(metric.rpartition("_")[2])]
        choice["test"] = evaluate(*factorize(train, Ours(**choice["params"])), train, test, k)[metric]
    return {"best": found, "seconds": round(time.perf_counter() - started, 1), "trials": trials}


if __name__ == "__main__":
    for name in sys.argv[1:] or TASKS:
        record = json.loads(PARAMS_FILE.read_text()) if PARAMS_FILE.exists() else {}
        record[name] = tune(name)
        PARAMS_FILE.write_text(json.dumps(record, indent=1) + "\n")
        print(json.dumps(record[name]["best"], indent=1), flush=True)
