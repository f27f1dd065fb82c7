"""The training engine beside its peers, everything in one run: ``make bench-train``.

Parts: ``kernels`` (beside `implicit`), ``svd`` and ``nmf`` (beside scikit-learn), ``growth`` (time and memory against
entries), ``time_to_quality`` (beside `implicit` and MLlib) and ``job`` (Delta to Delta, beside MLlib). To run some of
them: ``make bench-train ARGS="svd nmf"``. Every part keeps its repetitions; ratios are of medians of repetitions in
turn. Writes benchmarks/results/train.json (a part that was not run keeps its earlier record); the last line is one
JSON object with the figures of the parts that this run measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from machine import machine

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "train.json"
LIBRARIES = ("lakefactor", "pyspark", "delta-spark", "implicit", "scikit-learn", "numba", "numpy", "scipy", "torch")
PARTS = ("kernels", "svd", "nmf", "growth", "time_to_quality", "job")
CALL = "import json, {part}; print(json.dumps({part}.run({arguments})))"


def run_part(part: str, repeats: int) -> dict[str, Any]:
    """Run a part in a process of its own, so that none inherits the memory or the threads of another."""
    arguments = {
        "time_to_quality": "",
        "job": f"70_000, 10_000, 10_000_000, 64, 10, {repeats}, 2",
    }.get(part, f"repeats={repeats}")
    before, started = machine(LIBRARIES), time.perf_counter()
    code = CALL.format(part=part, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    after = machine(())
    return {
        "machine": before | {"load_average_after": after["load_average"]},
        "seconds": round(time.perf_counter() - started, 1),
        "repeats": repeats,
        **found,
    }


def headline(parts: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return the ratios, errors and exponents of some parts, by the names that others rely on."""
    return {
        key: float(f"{value:.5g}")
        for part in parts.values()
        for key, value in part.items()
        if isinstance(value, float) and key != "seconds"
    }


def main() -> None:
    """Measure the named parts, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions in turn; default 3")
    args = parser.parse_args()
    unknown = [part for part in args.parts if part not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; parts: {', '.join(PARTS)}")
    record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    measured = {}
    for part in args.parts or PARTS:
        print(f"== {part}", file=sys.stderr, flush=True)
        measured[part] = record[part] = run_part(part, args.repeats)
        RESULTS.write_text(json.dumps({name: record[name] for name in PARTS if name in record}, indent=1) + "\n")
    print(json.dumps(headline(measured)))


if __name__ == "__main__":
    main()
