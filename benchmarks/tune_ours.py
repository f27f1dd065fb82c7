"""Tune lakefactor's implicit models on the validation parts that ``tune_peers.py`` gives to `implicit`.

``python benchmarks/tune_ours.py [task ...]`` searches with optuna's TPE and writes our_params.json with every trial.
Only training parts are used.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matrices import batch_of, in_order
from peers import evaluate, held_out, load, matrix, part
from scipy.sparse import csr_matrix
from tune_peers import TASKS, Task, validation_parts

from lakefactor.comm.local import Local
from lakefactor.config import Model, Train
from lakefactor.factorization.fitting import fit
from lakefactor.factorization.shard import build_shard
from lakefactor.types import SIDES

PARAMS_FILE = Path(__file__).with_name("our_params.json")
TRIALS = {"ml100k": 90, "ml100k_7525": 70, "lastfm": 50, "amazon_book": 14}
RANKS = {
    "ml100k": (32, 64, 128, 256),
    "ml100k_7525": (32, 64, 128),
    "lastfm": (64, 128, 256),
    "amazon_book": (128, 256),
}
START = {"algorithm": "implicit_als", "rank": 128, "alpha": 2.5, "reg": 4.0, "ratio": 1.0, "exponent": 0.5}
WIDE = {"algorithm": "implicit_als", "rank": 256, "alpha": 25.0, "reg": 2.0, "ratio": 1.0, "exponent": 0.5}

Params = dict[str, Any]


def suggest(trial: optuna.Trial, task: str) -> Params:
    """Draw from the search space: the keys of sections ``model`` and ``train`` that decide quality."""
    algorithm = trial.suggest_categorical("algorithm", ["implicit_als", "ials"])
    params: Params = {
        "algorithm": algorithm,
        "rank": trial.suggest_categorical("rank", RANKS[task]),
        "reg_exponent": trial.suggest_float("exponent", 0.0, 1.0),
        "iterations": trial.suggest_int("iterations", 4, 20),
        "strength": "binary",
    }
    ratio = trial.suggest_float("ratio", 0.2, 5.0, log=True)
    if algorithm == "implicit_als":
        params["alpha"] = trial.suggest_float("alpha", 0.5, 60.0, log=True)
        reg = trial.suggest_float("reg", 0.1, 100.0, log=True)
    else:
        params["unobserved_weight"] = trial.suggest_float("unobserved_weight", 0.01, 2.0, log=True)
        reg = trial.suggest_float("ials_reg", 1e-3, 10.0, log=True)
    return params | {"user_reg": reg * ratio**-0.5, "item_reg": reg * ratio**0.5}


def factorize(train: csr_matrix, params: Params) -> tuple[np.ndarray, np.ndarray]:
    """Return (user factors, item factors), rows and columns as in ``train``."""
    keys = dict(params)
    iterations = keys.pop("iterations")
    shard = build_shard(Local(), [batch_of(train)])
    fitted = fit(shard, Local(), Model(**keys), Train(iterations=iterations, solver="cg", cg_steps=3))
    users, items = (
        in_order(n, shard.rows[side].ids.to_numpy(), fitted.factors[side])
        for side, n in zip(SIDES, train.shape, strict=True)
    )
    return users, items


def measure(train: csr_matrix, test: csr_matrix, params: Params, task: Task) -> dict[str, float]:
    """Return the task's metrics of one fit."""
    ks = sorted({int(metric.rpartition("_")[2]) for metric in task.metrics})
    figures = evaluate(*factorize(train, params), train, test, ks)
    return {metric: figures[metric] for metric in task.metrics}


def tune(name: str, seed: int = 1) -> dict[str, Any]:
    """Search one task for the best sum of its metrics over the validation parts."""
    task, started = TASKS[name], time.perf_counter()
    entries = matrix(load(task.data))
    mask = held_out(entries, task.share, per_user=task.per_user, seed=0)
    train, test = part(entries, ~mask), part(entries, mask)
    parts = validation_parts(train, task, seed)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=10)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.enqueue_trial(WIDE if name == "amazon_book" else START, skip_if_exists=True)
    trials = []

    def objective(trial: optuna.Trial) -> float:
        params = suggest(trial, name)
        got = [measure(fitted, validation, params, task) for fitted, validation in parts]
        figures = {metric: float(np.mean([g[metric] for g in got])) for metric in task.metrics}
        trials.append(params | {"validation": figures})
        print(name, trial.number, {m: round(v, 5) for m, v in figures.items()}, params, flush=True)
        return sum(figures.values())

    study.optimize(objective, n_trials=TRIALS[name])
    best = trials[study.best_trial.number]
    params = {key: value for key, value in best.items() if key != "validation"}
    return {
        "params": params,
        "validation": best["validation"],
        "test": measure(train, test, params, task),
        "seconds": round(time.perf_counter() - started, 1),
        "trials": trials,
    }


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for name in sys.argv[1:] or TASKS:
        record = json.loads(PARAMS_FILE.read_text()) if PARAMS_FILE.exists() else {}
        record[name] = tune(name)
        PARAMS_FILE.write_text(json.dumps(record, indent=1) + "\n")
        print(json.dumps({key: value for key, value in record[name].items() if key != "trials"}, indent=1), flush=True)
