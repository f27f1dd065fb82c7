"""Seconds per iteration (both half-steps) of the kernels on the CPU, beside `implicit` on the same equations.

``make bench-train ARGS=kernels``: synthetic implicit feedback with a popularity power law, the same start for all,
repetitions in turn so that a busy moment of the machine hits all, medians, and the objective that each iteration
reached. ``python benchmarks/kernels.py cg_k64 --scale 0.1`` measures a case at a tenth of its size and prints it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from implicit.cpu import _als
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from lakefactor.kernels import Method, System, build_csr, gramian, half_step, initial_factors, transpose

REG, ALPHA, CG_STEPS, BLOCK = 0.1, 1.0, 3, 64
Factors = NDArray[np.float32]
Run = Callable[[Factors, Factors], None]


@dataclass(frozen=True)
class Case:
    """One rank at one size, and the runs to compare: ``ours <solver>`` or ``implicit <solver>``."""

    rank: int
    users: int
    items: int
    entries: int
    runs: tuple[str, ...]


WIDE = ("ours subspace", "ours cg", "ours cholesky", "implicit cg", "implicit cholesky")
CASES = {
    "cg_k64": Case(64, 70_000, 10_000, 10_000_000, ("ours cg", "implicit cg")),
    "cg_k128": Case(128, 70_000, 10_000, 10_000_000, ("ours cg", "implicit cg")),
    "exact_k64": Case(64, 70_000, 10_000, 10_000_000, ("ours cholesky", "implicit cholesky")),
    "wide_k256": Case(256, 7_000, 1_000, 1_000_000, WIDE),
    "wide_k512": Case(512, 3_500, 500, 300_000, WIDE),
}


@dataclass(frozen=True)
class Entries:
    """Strengths as CSR rows of users, and of items."""

    by_user: tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]
    by_item: tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]


def synthetic(users: int, items: int, entries: int, seed: int) -> Entries:
    """Draw distinct (user, item) pairs: activity is log-normal, popularity a power law of the item's position."""
    if 2 * entries > users * items:
        raise ValueError(f"{entries:,} distinct pairs do not fit well into {users:,} x {items:,}")
    rng = np.random.default_rng(seed)
    activity = np.cumsum(rng.lognormal(0.0, 1.0, users))
    popularity = np.cumsum((np.arange(items) + 20.0) ** -0.9)
    pairs = np.empty(0, np.int64)
    while len(pairs) < entries:
        more = int(1.5 * (entries - len(pairs))) + 1000
        drawn = np.searchsorted(activity, rng.random(more) * activity[-1]) * items
        drawn += np.searchsorted(popularity, rng.random(more) * popularity[-1])
        pairs = np.unique(np.concatenate([pairs, drawn]))
    pairs = rng.permutation(pairs)[:entries]
    strengths = (1 + rng.poisson(1.0, entries)).astype(np.float32)
    by_user = build_csr(pairs // items, (pairs % items).astype(np.int32), strengths, users)
    return Entries(by_user, transpose(*by_user, n_columns=items))


def lakefactor_run(entries: Entries, solver: Any, threads: int) -> Run:
    """Return one iteration of ours."""
    method = Method(solver, CG_STEPS if solver == "cg" else 1, BLOCK, threads)

    def side(rows: tuple[Any, ...], x: Factors, source: Factors) -> None:
        indptr, indices, excess, confidence = rows
        reg = np.full(len(x), REG, np.float32)
        system = System(indptr, indices, excess, confidence, reg, reg)
        half_step(system, source, gramian(source).astype(np.float32), x, method)

    by_user, by_item = (
        (indptr, indices, ALPHA * strengths, 1 + ALPHA * strengths)
        for indptr, indices, strengths in (entries.by_user, entries.by_item)
    )

    def run(users: Factors, items: Factors) -> None:
        side(by_user, users, items)
        side(by_item, items, users)

    return run


def implicit_run(entries: Entries, solver: str, threads: int) -> Run:
    """Return one iteration of `implicit`, by the functions that its ``fit`` calls, BLAS on one thread as it asks."""
    shape = (len(entries.by_user[0]) - 1, len(entries.by_item[0]) - 1)
    by_user, by_item = (
        csr_matrix((1 + ALPHA * strengths, indices, indptr.astype(np.int32)), shape=form)
        for (indptr, indices, strengths), form in ((entries.by_user, shape), (entries.by_item, shape[::-1]))
    )

    def run(users: Factors, items: Factors) -> None:
        with threadpool_limits(1, "blas"):
            for rows, x, source in ((by_user, users, items), (by_item, items, users)):
                if solver == "cg":
                    _als.least_squares_cg(rows, x, source, REG, num_threads=threads, cg_steps=CG_STEPS)
                else:
                    _als.least_squares(rows, x, source, REG, num_threads=threads)

    return run


def objective(entries: Entries, users: Factors, items: Factors) -> float:
    """Return sum c (1 - p)^2 over the entries, p^2 over all other pairs, and the penalty, in float64."""
    indptr, indices, strengths = entries.by_user
    total = float(np.sum(gramian(users) * gramian(items)))
    total += REG * float(np.square(users, dtype=np.float64).sum() + np.square(items, dtype=np.float64).sum())
    user_of = np.repeat(np.arange(len(users), dtype=np.int32), np.diff(indptr))
    step = max(1, (256 << 20) // (8 * users.shape[1]))
    for first in range(0, len(indices), step):
        some = slice(first, first + step)
        p = np.einsum("ij,ij->i", users[user_of[some]], items[indices[some]]).astype(np.float64)
        total += float(np.sum((1 + ALPHA * strengths[some]) * (1 - p) ** 2 - p**2))
    return total


def measure(case: Case, threads: int, repeats: int, seed: int = 0) -> dict[str, Any]:
    """Return seconds of every repetition of each run, their medians, and the objective after an iteration."""
    entries = synthetic(case.users, case.items, case.entries, seed)
    start = (
        initial_factors(np.arange(case.users, dtype=np.uint64), seed, case.rank, "user"),
        initial_factors(np.arange(case.items, dtype=np.uint64), seed, case.rank, "item"),
    )
    runs = {}
    for name in case.runs:
        whose, solver = name.split()
        runs[name] = (lakefactor_run if whose == "ours" else implicit_run)(entries, solver, threads)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    reached = {}
    for repeat in range(-1, repeats):  # the first is for compiling and for touching the memory
        for name, run in runs.items():
            users, items = start[0].copy(), start[1].copy()
            began = time.perf_counter()
            run(users, items)
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - began)
            else:
                reached[name] = objective(entries, users, items)
    return {
        "problem": {key: getattr(case, key) for key in ("rank", "users", "items", "entries")},
        "seconds": seconds,
        "median_seconds": {name: statistics.median(times) for name, times in seconds.items()},
        "objective": reached,
    }


def speedup(result: dict[str, Any], ours: str, peer: str) -> float:
    """Return how many times as fast ours is, by the medians."""
    return float(result["median_seconds"][peer] / result["median_seconds"][ours])


def headline(results: dict[str, Any]) -> dict[str, float]:
    """Return the ratios that others rely on, of the cases that were measured."""
    line = {}
    for name, solver in (("cg_k64", "cg"), ("cg_k128", "cg"), ("exact_k64", "cholesky")):
        if name in results:
            kind, rank = name.split("_")
            line[f"{kind}_speedup_vs_implicit_{rank}"] = speedup(results[name], f"ours {solver}", f"implicit {solver}")
    for rank in ("k256", "k512"):
        if f"wide_{rank}" in results:
            for peer in ("cg", "cholesky"):
                key = f"subspace_speedup_vs_implicit_{'exact' if peer == 'cholesky' else peer}_{rank}"
                line[key] = speedup(results[f"wide_{rank}"], "ours subspace", f"implicit {peer}")
    return {key: round(value, 3) for key, value in line.items()}


def run(
    names: tuple[str, ...] = tuple(CASES), threads: int = 2, repeats: int = 3, scale: float = 1.0
) -> dict[str, Any]:
    """Measure the named cases; ``scale`` shrinks them all, for a trial."""
    results = {}
    for name in names:
        case = CASES[name]
        users, items, entries = (max(1, int(scale * n)) for n in (case.users, case.items, case.entries))
        results[name] = measure(Case(case.rank, users, items, entries, case.runs), threads, repeats)
        Console(stderr=True).print(table(name, results[name]))
    return {
        "cg_steps": CG_STEPS,
        "block_size": BLOCK,
        "threads": threads,
        "results": results,
        **headline(results),
    }


def table(name: str, result: dict[str, Any]) -> Table:
    """Return one case's medians with their range, and the objectives."""
    problem = result["problem"]
    shown = Table(title=f"{name}: {problem['entries']:,} entries, {problem['users']:,} x {problem['items']:,}")
    for heading in ("run", "seconds per iteration", "range", "objective"):
        shown.add_column(heading, justify="left" if heading == "run" else "right")
    for run_name, times in result["seconds"].items():
        median, reached = result["median_seconds"][run_name], result["objective"][run_name]
        shown.add_row(run_name, f"{median:.3f}", f"{min(times):.3f} - {max(times):.3f}", f"{reached:.6g}")
    return shown


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="case", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--threads", type=int, default=2, help="default 2")
    parser.add_argument("--repeats", type=int, default=3, help="default 3")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the sizes, for a trial")
    args = parser.parse_args()
    found = run(tuple(args.cases) or tuple(CASES), args.threads, args.repeats, args.scale)
    print(json.dumps(headline(found["results"])))


if __name__ == "__main__":
    main()
