"""Seconds per iteration (both half-steps) of the torch backend on one CUDA device, and its share of what that can do.

``python benchmarks/gpu.py``: synthetic entries as in kernels.py, 10M and 100M, rank 64, 128, 256. Prints one JSON
object as the last line and writes it to benchmarks/results/gpu.json. Without a CUDA device it says so, writes nothing
and exits with 0. ``--device cpu`` with a small ``--entries`` tries the script, not a GPU.

The model of a half-step with n rows and nnz entries, in float32 (padding is not counted, so shares are lower bounds):
flops: cholesky 2 nnz k^2 + n k^3 / 3 + 4 nnz k (residual); cg (steps + 1) (4 nnz k + 2 n k^2) + 2 nnz k.
bytes: each panel of 4 k bytes an entry is gathered (read, written) and scaled (read, written), then read once for the
right-hand side, and once (cholesky) or 2 (steps + 1) times (cg) for products, 2 more for the residual of cholesky; 12
bytes an entry of indices, weights, targets; cholesky writes and reads n k x k matrices 4 times.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kernels import REG, synthetic
from machine import machine

from lakefactor.kernels import Method, System, gramian, initial_factors
from lakefactor.kernels.backends import PRECISIONS, prepare

RESULTS = Path(__file__).resolve().parent / "results" / "gpu.json"
STEPS = 3


def cost(solver: str, n: int, nnz: int, k: int) -> tuple[float, float]:
    """Return flops and bytes of a half-step by the model above."""
    if solver == "cholesky":
        return 2 * nnz * k**2 + n * k**3 / 3 + 4 * nnz * k, nnz * (12 + 4 * k * 8) + 4 * 4 * n * k**2
    products = STEPS + 1
    return products * (4 * nnz * k + 2 * n * k**2) + 2 * nnz * k, nnz * (12 + 4 * k * (5 + 2 * products))


def wait(device: str) -> None:
    """Wait until the device has done what it was told."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def measured(sides: list[Any], k: int, solver: Any, precision: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Return seconds and rates of one solver, rank and precision."""
    method = Method(solver, STEPS)
    half_steps = [prepare(system, method, "torch", args.device, precision) for system, _ in sides]
    start = [initial_factors(np.arange(s.rows, dtype=np.uint64), 0, k, name) for s, name in sides]
    seconds = []
    for repeat in range(-1, args.repeats):
        factors = [array.copy() for array in start]
        wait(args.device)
        began = time.perf_counter()
        for own, half_step in enumerate(half_steps):
            source = factors[1 - own]
            half_step(source, gramian(source).astype(np.float32), factors[own])
        wait(args.device)
        if repeat >= 0:
            seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds)
    flops, moved = np.sum([cost(solver, s.rows, len(s.indices), k) for s, _ in sides], axis=0).tolist()
    result = {"solver": solver, "rank": k, "precision": precision, "seconds": seconds, "median_seconds": median}
    result |= {"model_flops": flops, "model_bytes": moved}
    if args.peak_tflops and args.peak_gbps:
        result["share_of_flops"] = flops / median / (args.peak_tflops * 1e12)
        result["share_of_bandwidth"] = moved / median / (args.peak_gbps * 1e9)
    return result


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--entries", type=int, nargs="+", default=[10_000_000, 100_000_000])
    parser.add_argument("--ranks", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peak-tflops", type=float, help="the device's float32 peak, from its data sheet")
    parser.add_argument("--peak-gbps", type=float, help="the device's memory bandwidth, from its data sheet")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.device != "cpu" and not torch.cuda.is_available():
        reason = "torch finds no CUDA device on this machine; nothing was measured"
        print(reason)
        print(json.dumps({"benchmark": "gpu", "skipped": reason}))
        return
    results = []
    for entries in args.entries:
        users, items = max(1000, entries // 140), max(2000, entries // 1000)  # few entries need enough pairs
        drawn = synthetic(users, items, entries, 0)
        sides = []
        for (indptr, indices, strengths), name in ((drawn.by_user, "user"), (drawn.by_item, "item")):
            reg = np.full(len(indptr) - 1, REG, np.float32)
            sides.append((System(indptr, indices, strengths, 1 + strengths, reg, reg), name))
        for k in args.ranks:
            for solver in ("cg", "cholesky"):
                for precision in args.precisions:
                    results.append({"entries": entries} | measured(sides, k, solver, precision, args))
                    print(json.dumps(results[-1]))
    report = {
        "benchmark": "gpu",
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": args.device if args.device == "cpu" else torch.cuda.get_device_name(args.device),
        "torch": torch.__version__,
        "peaks": {"tflops": args.peak_tflops, "gbps": args.peak_gbps},
        "machine": machine(("lakefactor", "torch", "numpy")),
        "results": results,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps({key: report[key] for key in ("benchmark", "device", "results")}))


if __name__ == "__main__":
    main()
