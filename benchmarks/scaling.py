"""Hold the byte and memory formulas of `factorization.cost` against real gloo processes, W = 1, 2, 4, 8.

    python benchmarks/scaling.py [ENTRIES]

Bytes are what the ranks handed to each other; memory is the most that a fit allocated in each process (tracemalloc:
numpy arrays, not the kernels' own, which the formula therefore leaves out here), and for the shard the high-water mark
of the resident set above what it was.
Writes benchmarks/results/scaling.json and prints it as the last line.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import sys
import tracemalloc
from pathlib import Path

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}

import numpy as np

RESULT = Path(__file__).parent / "results" / "scaling.json"
K = 64
USERS_PER_ENTRY, ITEMS_PER_ENTRY = 1 / 20, 1 / 100


def _memory(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(field)).split()[1]) * 1024


def _fresh_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _table(entries: int):
    from lakefactor.testing.interactions import random_interactions

    return random_interactions(
        int(entries * USERS_PER_ENTRY), int(entries * ITEMS_PER_ENTRY), entries, seed=1, long_ids=True
    )


def _rank(pipe, proc_rank: int, size: int, entries: int) -> None:
    import pyarrow as pa

    from lakefactor.comm.torch_dist import connect
    from lakefactor.config import Model, Train
    from lakefactor.factorization import als
    from lakefactor.factorization.fitting import count, fit
    from lakefactor.factorization.shard import build_shard, owner_of

    def share(text: str) -> list[str]:
        pipe.send(text)
        return pipe.recv()

    with connect(proc_rank, size, "127.0.0.1", share, 120) as comm:
        model, train = Model(rank=K), Train(iterations=1)
        fit(build_shard(comm, _table(20_000).to_batches() if proc_rank == 0 else []), comm, model, train)  # compile
        table = _table(entries)
        table = table.filter(pa.array(owner_of(table["user_id"].combine_chunks(), size) == proc_rank))
        batches = table.to_batches(max_chunksize=10_000)
        before, sent = _fresh_peak(), comm.bytes_sent
        shard = build_shard(comm, batches)
        built = {"peak": _memory("VmHWM") - before, "sent": comm.bytes_sent - sent}
        degrees = {side: shard.rows[side].n_entries.tolist() for side in shard.rows}
        tracemalloc.start()  # the resident set would hide what is allocated in pages that were freed before
        fit(shard, comm, model, train)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        algorithm = als.Als(shard, comm, model, train, count(shard, comm))
        sent = comm.bytes_sent
        for side in ("user", "item"):
            algorithm._solve(side)
        pipe.send(
            {
                "built": built,
                "peak": peak,
                "sent": comm.bytes_sent - sent,
                "entries": len(shard.rows["user"].strengths),
                "item_entries": len(shard.rows["item"].strengths),
                "own": [len(degrees[side]) for side in ("user", "item")],
                "panel": [shard.plans[side].rows * (size > 1) for side in ("user", "item")],
                "gathered": [shard.plans[side].gathered(proc_rank) for side in ("user", "item")],
                "split": max(int(np.diff(half.split.indptr).max(initial=0)) for half in algorithm._halves.values()),
                "degrees": degrees,
            }
        )
        pipe.recv()


def measure(size: int, entries: int) -> dict:
    """Run one training on ``size`` processes; return measured and predicted bytes."""
    from lakefactor.factorization import cost

    context = multiprocessing.get_context("spawn")
    pipes = []
    for proc_rank in range(size):
        ours, theirs = context.Pipe()
        context.Process(target=_rank, args=(theirs, proc_rank, size, entries)).start()
        pipes.append(ours)
    if size > 1:
        addresses = [pipe.recv() for pipe in pipes]
        for pipe in pipes:
            pipe.send(addresses)
    ranks = [pipe.recv() for pipe in pipes]
    for pipe in pipes:
        pipe.send(None)
    degrees = {side: np.concatenate([rank["degrees"][side] for rank in ranks]) for side in ("user", "item")}
    fetched = sum(cost.fetched_bytes(degrees[side], size, K) + cost.sum_bytes(size, K) for side in degrees)
    predicted = [
        cost.fit_bytes(
            rank["entries"] / 2 + rank["item_entries"] / 2,
            *map(tuple, (rank["own"], rank["panel"], rank["gathered"])),
            K,
            threads=0,
            split=rank["split"],
        )
        for rank in ranks
    ]
    peaks = [rank["peak"] for rank in ranks]
    return {
        "ranks": size,
        "entries": int(degrees["user"].sum()),
        "sent_bytes_per_iteration": {"measured": float(np.mean([r["sent"] for r in ranks])), "formula": fetched},
        "fit_peak_bytes": {"measured": float(np.mean(peaks)), "formula": float(np.mean(predicted)), "each": peaks},
        "build_peak_bytes": [rank["built"]["peak"] for rank in ranks],
        "build_sent_bytes": [rank["built"]["sent"] for rank in ranks],
    }


def main() -> None:
    """Measure every W and write the result."""
    entries = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000
    runs = []
    for size in (1, 2, 4, 8):
        runs.append(measure(size, entries))
        print(runs[-1], file=sys.stderr, flush=True)
    result = {"machine": platform.machine(), "cores": os.cpu_count(), "rank": K, "runs": runs}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
