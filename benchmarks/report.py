"""Make docs/results.md, and the measured table of docs/scaling.md, from the raw results.

``python benchmarks/report.py``, or ``make docs``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results.md"
SCALING = ROOT / "docs" / "scaling.md"
MARKS = "<!-- measured: made by make docs -->\n", "<!-- end of measured -->\n"
LOWER_IS_BETTER = ("rmse", "mae")
SPLITS = {
    "ml100k_explicit": ("ml-100k, ratings", "5-fold"),
    "ml100k": ("ml-100k, every rating is relevant", "5-fold"),
    "ml100k_7525": ("ml-100k, every rating is relevant", "25 % of each user"),
    "lastfm": ("lastfm, plays", "20 % of each user"),
    "amazon_book": ("amazon-book", "20 % of each user"),
}


def results(name: str) -> dict[str, Any]:
    """Return a raw result file."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def page() -> str:
    """Return the text of docs/results.md."""
    quality, kernels = results("quality"), results("kernels")
    return "\n".join(
        [
            "# Results",
            "",
            "Made by `make docs` from benchmarks/results/*.json; not written by hand.",
            "",
            *_quality(quality),
            *_kernels(kernels),
        ]
    )


def scaling_page(text: str) -> str:
    """Return the text of docs/scaling.md with its measured table made anew."""
    before, rest = text.split(MARKS[0])
    _, after = rest.split(MARKS[1])
    return before + MARKS[0] + "\n".join(_scaling(results("scaling"))) + "\n" + MARKS[1] + after


def _scaling(record: dict[str, Any]) -> list[str]:
    lines = [
        f"Measured by `python benchmarks/scaling.py` on {record['runs'][0]['entries']:,} entries, k = {record['rank']}, "
        f"{record['cores']} cores; means over the ranks, in MB.",
        "",
        "| ranks | sent per iteration | formula | off by | peak of a fit | formula | off by |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in record["runs"]:
        cells = []
        for name in ("sent_bytes_per_iteration", "fit_peak_bytes"):
            measured, formula = run[name]["measured"], run[name]["formula"]
            off = formula / measured - 1 if measured else 0.0
            cells += [f"{measured / 1e6:.1f}", f"{formula / 1e6:.1f}", f"{off:+.1%}"]
        lines.append(f"| {run['ranks']} | {' | '.join(cells)} |")
    return lines


def _quality(record: dict[str, Any]) -> list[str]:
    lines = [
        "## Quality, through the whole pipeline (ingest to evaluate)",
        "",
        f"`{record['command']}`, on {record['machine']['cpu']}, {record['machine']['cores']} cores; "
        + ", ".join(f"{name} {number}" for name, number in record["machine"]["libraries"].items())
        + ".",
        "",
        "`implicit` got the same folds, and parameters tuned by benchmarks/tune_peers.py for each metric on validation "
        "parts of a training part; ours come from the same parts (benchmarks/tune_ours.py, or as stated in "
        "benchmarks/quality.py). For RMSE and MAE the baseline predicts the item's mean.",
        "",
        "| data | split | metric | lakefactor | implicit | popularity | wanted |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (data, split) in SPLITS.items():
        if name not in record["tasks"]:
            lines.append(f"| {data} | {split} | not measured | | | | |")
            continue
        task = record["tasks"][name]
        for metric in _metrics(task, name):
            figures = [task["figures"].get(who, {}).get(metric) for who in ("model", "implicit", "popularity")]
            wanted = task["wanted"].get(metric)
            bound = "" if wanted is None else f"{'<=' if metric in LOWER_IS_BETTER else '>='} {wanted}"
            shown = " | ".join("" if value is None else f"{value:.4f}" for value in figures)
            lines.append(f"| {data} | {split} | {metric} | {shown} | {bound} |")
    lines += ["", "Settings, as `--set` takes them:", ""]
    for name, task in record["tasks"].items():
        settings = " ".join(s for s in task["settings"] if not s.startswith(("tables.", "evaluate.ks")))
        lines.append(f"- {name} ({task['interactions']:,} interactions, measured {task['measured_at']}): `{settings}`")
    return [*lines, ""]


def _metrics(task: dict[str, Any], name: str) -> list[str]:
    if name == "ml100k_explicit":
        return ["rmse", "mae"]
    return list(task["figures"]["implicit"])


def _kernels(record: dict[str, Any]) -> list[str]:
    problem, machine = record["problem"], record["machine"]
    lines = [
        "## Kernels beside `implicit`",
        "",
        f"`make bench-kernels`: {problem['entries']:,} entries, {problem['users']:,} x {problem['items']:,}, rank "
        f"{problem['rank']}, {problem['threads']} threads on {machine['cpu']}, {machine['cores']} cores; the two in "
        f"turn. Load average {machine['load_average'][0]:.1f} before and {machine['load_average_after'][0]:.1f} after: "
        "where it is above the number of cores, read the ratio and not the seconds.",
        "",
        "| solver | lakefactor, s per iteration | implicit, s per iteration | times as fast | item factors differ by |",
        "|---|---|---|---|---|",
    ]
    for solver, result in record["results"].items():
        spread = {who: f"{min(times):.2f} to {max(times):.2f}" for who, times in result["seconds"].items()}
        median = result["median_seconds"]
        lines.append(
            f"| {solver} | {median['lakefactor']:.2f} ({spread['lakefactor']}) | {median['implicit']:.2f} "
            f"({spread['implicit']}) | {result['times_as_fast']:.1f} | "
            f"{result['relative_difference_of_item_factors']:.1e} |"
        )
    return [*lines, ""]


if __name__ == "__main__":
    PAGE.write_text(page())
    SCALING.write_text(scaling_page(SCALING.read_text()))
