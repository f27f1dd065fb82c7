"""How time and peak memory of a training grow with the entries: one fresh process for each size.

Users and items grow with the entries (7,000 x 1,000 for each million), ids are strings. A process reads its entries
from a file in batches, as a rank gets them from Spark, builds the shard and trains; its memory is the peak resident
size (Linux: VmHWM) above what it held before. ``make bench-train`` runs this with the others.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

SIZES = (1_000_000, 3_000_000, 10_000_000, 30_000_000)
USERS_PER_MILLION, ITEMS_PER_MILLION = 7_000, 1_000
RANK, ITERATIONS, BATCH_ROWS = 64, 3, 100_000


def write_entries(file: Path, entries: int) -> None:
    """Draw entries and write them as an Arrow stream, in random order."""
    from kernels import synthetic

    users, items = (per * entries // 1_000_000 for per in (USERS_PER_MILLION, ITEMS_PER_MILLION))
    indptr, indices, strengths = synthetic(users, items, entries, seed=0).by_user
    order = np.random.default_rng(0).permutation(entries)
    user_of = np.repeat(np.arange(users, dtype=np.int32), np.diff(indptr))[order]
    indices, strengths = indices[order], strengths[order]
    names = [
        pa.array([f"{side}-{number:08d}" for number in range(n)]) for side, n in (("user", users), ("item", items))
    ]
    schema = pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("strength", pa.float64())])
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for start in range(0, entries, BATCH_ROWS):
            some = slice(start, start + BATCH_ROWS)
            columns = [
                names[0].take(pa.array(user_of[some])),
                names[1].take(pa.array(indices[some])),
                pa.array(strengths[some].astype(np.float64)),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def train(file: Path) -> dict[str, float]:
    """Train on the entries of a file in this process; return seconds and bytes."""
    from lakefactor.comm.local import Local
    from lakefactor.config import Model, Train
    from lakefactor.factorization.fitting import fit
    from lakefactor.factorization.shard import build_shard

    def batches(path: Path) -> Iterator[pa.RecordBatch]:
        with pa.OSFile(str(path), "rb") as source, pa.ipc.open_stream(source) as reader:
            yield from reader

    model = Model(rank=RANK, user_reg=0.1, item_reg=0.1, reg_exponent=1.0)
    settings = Train(iterations=ITERATIONS, solver="cg", threads_per_rank=2)
    small = pa.record_batch({"user_id": ["a", "b"], "item_id": ["x", "y"], "strength": [1.0, 2.0]})
    fit(build_shard(Local(), [small]), Local(), model, settings)  # loads and compiles everything
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _resident("VmRSS")
    start = time.perf_counter()
    shard = build_shard(Local(), batches(file))
    loaded = time.perf_counter()
    result = fit(shard, Local(), model, settings)
    done = time.perf_counter()
    return {
        "shard_seconds": loaded - start,
        "iterations_seconds": done - loaded,
        "seconds": done - start,
        "bytes_before": before,
        "bytes": _resident("VmHWM") - before,
        "objective": result.history[-1].objective,
    }


def _resident(key: str) -> int:
    """Return a size of this process in bytes: VmRSS is now, VmHWM the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def run(sizes: Sequence[int] = SIZES, repeats: int = 3) -> dict[str, Any]:
    """Measure every size in turn, ``repeats`` times; return all of it and the fitted exponents of the medians."""
    found: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    with tempfile.TemporaryDirectory() as folder:
        files = {size: Path(folder, f"{size}.arrows") for size in sizes}
        for size, file in files.items():
            write_entries(file, size)
        for _ in range(repeats):
            for size, file in files.items():
                done = subprocess.run(
                    [sys.executable, __file__, "--file", str(file)], check=True, capture_output=True, text=True
                )
                found[size].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"growth: {size:,} entries {found[size][-1]['seconds']:.1f} s", file=sys.stderr)
    return {
        "problem": {"rank": RANK, "iterations": ITERATIONS, "threads": 2},
        "repetitions": {str(size): runs for size, runs in found.items()},
        "time_exponent": _exponent(found, "seconds"),
        "memory_exponent": _exponent(found, "bytes"),
    }


def _exponent(found: dict[int, list[dict[str, float]]], key: str) -> float:
    """Return the slope of log(median) over log(entries)."""
    medians = [float(np.median([run[key] for run in runs])) for runs in found.values()]
    return float(np.polyfit(np.log(list(found)), np.log(medians), 1)[0])


def main() -> None:
    """Measure all sizes, or train on one file; print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, help="train on this file alone, in this process")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="entries")
    parser.add_argument("--repeats", type=int, default=3, help="default 3")
    args = parser.parse_args()
    print(json.dumps(train(args.file) if args.file else run(args.sizes, args.repeats)))


if __name__ == "__main__":
    main()
