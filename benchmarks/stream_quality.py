"""What a stream keeps of a retraining's gain: 1,000 micro-batches of ml-100k in time order. No Spark.

``python benchmarks/stream_quality.py`` (five minutes) trains on the first 80 % of the events, streams the rest through
the update rules, and compares on held-out events: the stale model, the streamed one, and one that is trained anew on
all that was streamed. ``python benchmarks/stream_quality.py choose`` compares rules on earlier events (trained on
60 %, streamed to 80 %): what the defaults of section `stream` rest on.

The held-out events are every fifth of the streamed part, never streamed and never trained on; each of the five choices
is one run. Every model ranks the same items, those of the training and the stream, without what its user has already.
Users that a model does not know get the most popular items of the training, or for ratings the mean and the item's
bias. The share kept is (streamed - stale) / (retrained - stale). Prints tables and, as the last line, one JSON object;
writes benchmarks/results/stream_quality.json.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from machine import machine
from matrices import in_order
from numpy.typing import NDArray
from peers import evaluate, load, popularity
from rich.table import Table
from scipy.sparse import csr_matrix

from lakefactor.comm.local import Local
from lakefactor.config import Model, Stream, Train
from lakefactor.factorization.fitting import fit
from lakefactor.factorization.live_model import LiveModel
from lakefactor.factorization.micro_batch import solve_batch
from lakefactor.factorization.shard import build_shard
from lakefactor.log import say, show
from lakefactor.metrics import error_sums
from lakefactor.types import SIDES

RESULTS = Path(__file__).resolve().parent / "results" / "stream_quality.json"
MICRO_BATCHES = 1000
HELD_OUT = 5
"""One of so many events of the streamed part is held out."""

IMPLICIT = Model(
    algorithm="implicit_als", rank=64, alpha=0.65, user_reg=10.0, item_reg=10.0, reg_exponent=0.25
)  # as benchmarks/quality.py
RATINGS = Model(algorithm="explicit_als", rank=60, user_reg=2.0, item_reg=1.0, bias_reg=0.6)  # as compare_ours.py
TASKS = {"ndcg_at_10": (IMPLICIT, Train(iterations=14)), "rmse": (RATINGS, Train(iterations=20, solver="cholesky"))}

OPTIMIZERS = ("sgd", "momentum", "adagrad", "rmsprop", "adam")
RULES: dict[str, dict[str, Any]] = {
    "users exact, items off": {"item_rule": "off"},
    "exact, exact": {"item_rule": "exact"},
    "proximal, proximal": {"user_rule": "proximal"},
    **{f"exact, {name}": {"item_rule": name, "learning_rate": 0.005} for name in ("sgd", "adagrad")},
    "adagrad, proximal": {"user_rule": "adagrad"},
}
CANDIDATES = {
    **{name: RULES[name] for name in ("users exact, items off", "exact, exact", "proximal, proximal")},
    **{f"exact, proximal, rho {rho:g}": {"rho": rho} for rho in (0.1, 0.3, 1.0, 3.0)},
    **{
        f"exact, {name}, {rate:g}": {"item_rule": name, "learning_rate": rate}
        for name in OPTIMIZERS
        for rate in (0.005, 0.05)
    },
    **{
        f"{name}, off, {rate:g}": {"user_rule": name, "item_rule": "off", "learning_rate": rate}
        for name in OPTIMIZERS
        for rate in (0.005, 0.05)
    },
}


@dataclass(frozen=True)
class Events:
    """Events in time order, ids as row numbers 0 .. n - 1 of each side."""

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    value: NDArray[np.float64]

    def __getitem__(self, some: Any) -> Events:
        return Events(self.user[some], self.item[some], self.value[some])

    def __len__(self) -> int:
        return len(self.user)

    def table(self, value: str = "strength") -> pa.Table:
        """Return ``user_id, item_id`` and the value."""
        return pa.table({"user_id": self.user, "item_id": self.item, value: self.value})

    def matrix(self, shape: tuple[int, int]) -> csr_matrix:
        """Return the matrix of users and items."""
        return csr_matrix((self.value.astype(np.float32), (self.user, self.item)), shape=shape)


def ml_100k() -> Events:
    """Return all events; those of one second are in order of their users and items."""
    table = load("ml-100k").sort_by([(name, "ascending") for name in ("timestamp", "user", "item")])
    user, item = (np.unique(table[name].to_numpy(), return_inverse=True)[1] for name in ("user", "item"))
    return Events(user, item, table["value"].to_numpy().astype(np.float64))


def joined(*parts: Events) -> Events:
    """Return the events of several parts."""
    return Events(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("user", "item", "value")))


def trained(model: Model, train: Train, events: Events) -> LiveModel:
    """Return the model of a training."""
    shard = build_shard(Local(), events.table().to_batches())
    result = fit(shard, Local(), model, train)
    ids = {side: pa.array(shard.rows[side].ids) for side in SIDES}
    n_entries = {side: shard.rows[side].n_entries.astype(np.int64) for side in SIDES}
    return LiveModel(model, result.mean, ids, result.factors, result.bias, n_entries)


def streamed(live: LiveModel, past: Events, new: Events, settings: Stream) -> float:
    """Stream events through a live model; return the seconds that took."""
    started = time.perf_counter()
    bounds = np.linspace(0, len(new), MICRO_BATCHES + 1).astype(int)
    everything = joined(past, new)
    for first, stop in pairwise(bounds):
        if first == stop:
            continue
        batch, so_far = new[first:stop], everything[: len(past) + stop]
        changes = batch.table("after").append_column("before", pa.nulls(len(batch), pa.float64()))
        histories = {
            "user": so_far[np.isin(so_far.user, batch.user)].table(),
            "item": so_far[np.isin(so_far.item, batch.item)].table() if settings.item_rule == "exact" else None,
        }
        solve_batch(live, changes, histories, settings)
    return time.perf_counter() - started


def figure(live: LiveModel, past: Events, seen: Events, test: Events, shape: tuple[int, int]) -> float:
    """Return NDCG@10, or RMSE; ``past`` is what a user that the model lacks is served from."""
    rows = {}
    for side, n in zip(SIDES, shape, strict=True):
        own = np.arange(live.size(side))
        found = np.column_stack(live.stored(side, own))
        rows[side] = in_order(n, np.array(live.ids(side, own)), found)
    x, y = rows["user"], rows["item"]
    if live.equation.biased:
        p = live.equation.mean + x[test.user, -1] + y[test.item, -1]
        p += np.einsum("nk,nk->n", x[test.user, :-1], y[test.item, :-1])
        errors = error_sums(np.clip(p, past.value.min(), past.value.max()), test.value)
        return float(np.sqrt(errors.squared / errors.n))
    unknown = ~x.any(axis=1, keepdims=True)
    x, y = np.hstack([x[:, :-1], unknown]), np.hstack([y[:, :-1], popularity(past.matrix(shape))[1]])
    factors = (np.ascontiguousarray(side, np.float32) for side in (x, y))
    return evaluate(*factors, seen.matrix(shape), test.matrix(shape), [10])["ndcg_at_10"]


def compare(
    task: str, events: Events, cut: int, rules: dict[str, dict[str, Any]], runs: Sequence[int]
) -> dict[str, Any]:
    """Return the mean figures of the runs: stale, retrained, and of each rule with the share it keeps."""
    model, train = TASKS[task]
    shape = (int(events.user.max()) + 1, int(events.item.max()) + 1)
    past, rest = events[:cut], events[cut:]
    figures: dict[str, list[float]] = {name: [] for name in ("stale", "retrained", *rules)}
    seconds: dict[str, list[float]] = {name: [] for name in figures}
    for run in runs:
        out = np.arange(len(rest)) % HELD_OUT == run
        new, test = rest[~out], rest[out]
        seen = joined(past, new)
        for name in figures:
            started = time.perf_counter()
            live = trained(model, train, seen if name == "retrained" else past)
            took = time.perf_counter() - started
            if name in rules:
                took = streamed(live, past, new, Stream(**rules[name]))
            seconds[name].append(took)
            figures[name].append(figure(live, past, seen, test, shape))
    means = {name: float(np.mean(values)) for name, values in figures.items()}
    gain = means["retrained"] - means["stale"]
    return {
        name: {
            "figure": means[name],
            "runs": figures[name],
            "share_kept": (means[name] - means["stale"]) / gain,
            "seconds": float(np.mean(seconds[name])),
        }
        for name in figures
    }


def main(arguments: Sequence[str]) -> None:
    """Run the comparison, or the choice of rules."""
    choose = list(arguments) == ["choose"]
    events = ml_100k()
    if choose:
        events = events[: int(0.8 * len(events))]
    cut = int(0.75 * len(events)) if choose else int(0.8 * len(events))
    rules, runs = (CANDIDATES, range(2)) if choose else ({"defaults": {}, **RULES}, range(HELD_OUT))
    results = {}
    for task in TASKS:
        results[task] = compare(task, events, cut, rules, runs)
        say(f"\n{task}: trained on {cut} events, {len(events) - cut} follow", style="bold")
        table = Table("model", task, "share kept", "seconds", box=None)
        for name, found in results[task].items():
            table.add_row(name, f"{found['figure']:.4f}", f"{found['share_kept']:.3f}", f"{found['seconds']:.1f}")
        show(table)
    record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    record["choice" if choose else "results"] = results
    record |= {
        "command": "python benchmarks/stream_quality.py",
        "defaults": {name: getattr(Stream(), name) for name in ("user_rule", "item_rule", "rho", "learning_rate")},
        "machine": machine(("lakefactor", "numpy", "numba", "torch")),
    }
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    line, default = {}, "exact, proximal, rho 1" if choose else "defaults"
    for task, found in results.items():
        line |= {f"stream_{task}_{name}": round(found[name]["figure"], 4) for name in ("stale", "retrained")}
        line |= {f"stream_{task}": round(found[default]["figure"], 4)}
        line |= {f"stream_{task}_share_kept": round(found[default]["share_kept"], 3)}
    print(json.dumps(line))


if __name__ == "__main__":
    main(sys.argv[1:])
