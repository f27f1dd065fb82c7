"""Seconds per iteration (both half-steps) of the kernels on the CPU, beside `implicit` on the same equations.

``make bench-kernels`` (or ``python benchmarks/kernels.py``): synthetic implicit feedback with a popularity power law,
the same start for both, repetitions in turn so that a busy moment of the machine hits both, medians. Prints a table
and, as the last line, one JSON object; writes everything to benchmarks/results/kernels.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from implicit.cpu import _als
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_info, threadpool_limits

from lakefactor.kernels import Method, System, build_csr, gramian, half_step, initial_factors, transpose

RESULTS = Path(__file__).resolve().parent / "results" / "kernels.json"
LIBRARIES = ("lakefactor", "implicit", "numba", "numpy", "scipy")
REG, ALPHA, CG_STEPS = 0.1, 1.0, 3
SOLVERS = ("cg", "cholesky", "subspace")
Factors = NDArray[np.float32]
Run = Callable[[Factors, Factors], None]


@dataclass(frozen=True)
class Entries:
    """Strengths as CSR rows of users, and of items."""

    by_user: tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]
    by_item: tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]


def synthetic(users: int, items: int, entries: int, seed: int) -> Entries:
    """Draw distinct (user, item) pairs: activity is log-normal, popularity a power law of the item's position."""
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

    def side(rows: tuple[Any, ...], x: Factors, source: Factors) -> None:
        indptr, indices, excess, confidence = rows
        reg = np.full(len(x), REG, np.float32)
        system = System(indptr, indices, excess, confidence, reg, reg)
        half_step(
            system,
            source,
            gramian(source).astype(np.float32),
            x,
            Method(solver, CG_STEPS if solver == "cg" else 1, threads=threads),
        )

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
                if solver != "cholesky":  # it has no subspace solver: CG is the nearest
                    _als.least_squares_cg(rows, x, source, REG, num_threads=threads, cg_steps=CG_STEPS)
                else:
                    _als.least_squares(rows, x, source, REG, num_threads=threads)

    return run


def measure(runs: dict[str, Run], start: tuple[Factors, Factors], repeats: int) -> tuple[dict[str, Any], float]:
    """Return seconds of each run's repetitions, and how far the factors of the two are apart after an iteration."""
    seconds: dict[str, Any] = {name: [] for name in runs}
    found = {}
    for repeat in range(-1, repeats):  # the first is for compiling and for touching the memory
        for name, run in runs.items():
            users, items = start[0].copy(), start[1].copy()
            began = time.perf_counter()
            run(users, items)
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - began)
            found[name] = items
    first, second = found.values()
    return seconds, float(np.linalg.norm(first - second) / np.linalg.norm(second))


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    info = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    blas = [
        f"{lib['internal_api']} {lib['version']} {lib['architecture']}"
        for lib in threadpool_info()
        if "architecture" in lib
    ]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "blas": sorted(set(blas)),
        "openblas_coretype": os.environ.get("OPENBLAS_CORETYPE"),
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {
        "users": 70_000, "items": 10_000, "entries": 9_900_000, "rank": 64, "threads": 2, "repeats": 5, "seed": 0,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value:,}")
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=SOLVERS[:2], help="default: cg cholesky")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of the raw results")
    args = parser.parse_args()

    console = Console()
    before = machine()
    with console.status("drawing entries"):
        entries = synthetic(args.users, args.items, args.entries, args.seed)
    start = (
        initial_factors(np.arange(args.users, dtype=np.uint64), args.seed, args.rank, "user"),
        initial_factors(np.arange(args.items, dtype=np.uint64), args.seed, args.rank, "item"),
    )
    results = {}
    for solver in args.solvers:
        runs = {
            "lakefactor": lakefactor_run(entries, solver, args.threads),
            "implicit": implicit_run(entries, solver, args.threads),
        }
        with console.status(f"{solver}: {args.repeats} repetitions of each"):
            seconds, apart = measure(runs, start, args.repeats)
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        results[solver] = {
            "seconds": seconds,
            "median_seconds": medians,
            "times_as_fast": medians["implicit"] / medians["lakefactor"],
            "relative_difference_of_item_factors": apart,
        }
    console.print(table(results, args))
    report = {
        "benchmark": "kernels",
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "problem": {name: getattr(args, name) for name in ("users", "items", "entries", "rank", "threads", "seed")},
        "cg_steps": CG_STEPS,
        "machine": before | {"load_average_after": [round(load, 2) for load in os.getloadavg()]},
        "results": results,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=2) + "\n")
    summary = {
        solver: {"seconds": r["median_seconds"], "times_as_fast": r["times_as_fast"]} for solver, r in results.items()
    }
    print(json.dumps({"benchmark": "kernels", "out": str(args.out), "results": summary}))


def table(results: dict[str, Any], args: argparse.Namespace) -> Table:
    """Return the medians with their range; ``apart`` is the relative difference of the two's item factors."""
    shown = Table(
        title=f"Seconds per iteration, median (range)\n{args.entries:,} entries, {args.users:,} x {args.items:,}, "
        f"rank {args.rank}, {args.threads} threads"
    )
    for heading in ("solver", "lakefactor", "implicit", "ratio", "apart"):
        shown.add_column(heading, justify="left" if heading == "solver" else "right")
    for solver, result in results.items():
        cells = [
            f"{result['median_seconds'][name]:.2f} ({min(times):.2f} - {max(times):.2f})"
            for name, times in result["seconds"].items()
        ]
        name = {"cg": f"CG-{CG_STEPS}", "cholesky": "exact"}.get(solver, solver)
        apart = result["relative_difference_of_item_factors"]
        shown.add_row(name, *cells, f"{result['times_as_fast']:.1f}", f"{apart:.0e}")
    return shown


if __name__ == "__main__":
    main()
