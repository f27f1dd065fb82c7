"""Make docs/results.md, and the measured table of docs/scaling.md, from the raw results.

``python benchmarks/report.py``, or ``make docs``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from machine import measured
from report_reading import recommended, served

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
    quality, engine = results("quality"), results("train")
    return "\n".join(
        [
            "# Results",
            "",
            "Made by `make docs` from benchmarks/results/*.json; not written by hand.",
            "",
            *_quality(quality),
            *_engine(engine),
            *_stream(results("stream")),
            *_soak(results("stream_soak")),
            *_stream_quality(results("stream_quality")),
            *_month(results("month")),
            *recommended(results("recommend")),
            *served(results("serve")),
        ]
    )


def scaling_page(text: str) -> str:
    """Return the text of docs/scaling.md with its measured table made anew."""
    before, rest = text.split(MARKS[0])
    _, after = rest.split(MARKS[1])
    return before + MARKS[0] + "\n".join(_scaling(results("scaling"))) + "\n" + MARKS[1] + after


def _scaling(record: dict[str, Any]) -> list[str]:
    lines = [
        f"Measured by `python benchmarks/scaling.py` on {record['runs'][0]['entries']:,} entries, "
        f"k = {record['rank']}, {record['cores']} cores; means over the ranks, in MB.",
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


def _engine(record: dict[str, Any]) -> list[str]:
    """Return the parts of ``make bench-train`` that were measured."""
    lines = [
        "## The training engine beside its peers",
        "",
        "`make bench-train`: medians of repetitions in turn (fastest to slowest). A load average above the number of "
        "cores means that others used the machine: read the ratio there, not the seconds.",
        "",
    ]
    for name, part in record.items():
        lines += [
            f"### {TITLES[name]}",
            "",
            measured(part["machine"], f", {part['repeats']} repetitions"),
            "",
            *SECTIONS[name](part),
            "",
        ]
    return lines


def _kernels(part: dict[str, Any]) -> list[str]:
    lines = ["| entries | rank | run | seconds per iteration | objective after it |", "|---|---|---|---|---|"]
    for result in part["results"].values():
        problem = result["problem"]
        for run, times in result["seconds"].items():
            spread = _spread(result["median_seconds"][run], times)
            reached = f"{result['objective'][run]:.7g}"
            lines.append(f"| {problem['entries']:,} | {problem['rank']} | {run} | {spread} | {reached} |")
    return [*lines, "", *_ratios(part)]


def _svd(part: dict[str, Any]) -> list[str]:
    lines = [
        "| data | lakefactor, s | TruncatedSVD (arpack, tol 0), s | largest relative error of a singular value |",
        "|---|---|---|---|",
    ]
    for name, result in part["data"].items():
        spread = " | ".join(_spread(result["median_seconds"][who], times) for who, times in result["seconds"].items())
        problem = result["problem"]
        lines.append(
            f"| {name}, {problem['entries']:,} entries, rank {problem['rank']} | {spread} | "
            f"{result['max_relative_error']:.1e} |"
        )
    return lines


def _nmf(part: dict[str, Any]) -> list[str]:
    problem = part["problem"]
    lines = [
        f"{problem['entries']:,} entries, {problem['users']:,} x {problem['items']:,}, rank {problem['rank']}, "
        f"{problem['iterations']} iterations of each.",
        "",
        "| | seconds | objective |",
        "|---|---|---|",
    ]
    for who, runs in part["repetitions"].items():
        median = part["medians"][who]
        spread = _spread(median["seconds"], [run["seconds"] for run in runs])
        lines.append(f"| {who} | {spread} | {median['objective']:.6g} |")
    return [*lines, "", *_ratios(part)]


def _growth(part: dict[str, Any]) -> list[str]:
    lines = ["| entries | seconds | peak memory above the start, MB |", "|---|---|---|"]
    for entries, runs in part["repetitions"].items():
        seconds, sizes = ([run[key] for run in runs] for key in ("seconds", "bytes"))
        megabytes = [size / 1e6 for size in sizes]
        lines.append(
            f"| {int(entries):,} | {_spread(median(seconds), seconds)} | {_spread(median(megabytes), megabytes)} |"
        )
    return [*lines, "", *_ratios(part)]


def _job(part: dict[str, Any]) -> list[str]:
    problem = part["problem"]
    lines = [
        f"{problem['entries']:,} entries with string ids, {problem['users']:,} x {problem['items']:,}, rank "
        f"{problem['rank']}, {problem['iterations']} iterations, local[{part['cores']}], the same Spark session.",
        "",
        "| | seconds in all | seconds per iteration | objective |",
        "|---|---|---|---|",
    ]
    for who, runs in part["repetitions"].items():
        cells = [
            _spread(part["medians"][who][key], [run[key] for run in runs])
            for key in ("seconds", "seconds_per_iteration")
        ]
        lines.append(f"| {who} | {' | '.join(cells)} | {part['medians'][who]['objective']:.6g} |")
    return [*lines, "", *_ratios(part)]


def _time_to_quality(part: dict[str, Any]) -> list[str]:
    if "data" not in part:
        return [part["skipped"]]
    return [
        f"Rank {part['rank']}, alpha {part['alpha']}, {part['threads']} threads each.",
        "",
        "![held-out NDCG against seconds of training](time_to_quality.svg)",
    ]


def _stream(record: dict[str, Any]) -> list[str]:
    problem, retrain = record["problem"], record["mllib_retrain"]
    lines = [
        "## Freshness of a stream",
        "",
        f"`make bench-stream`: {problem['events']:,} events of {problem['users']:,} users and {problem['items']:,} "
        f"items in the table, a published model of rank {problem['rank']}, local[{problem['cores']}]; files of new "
        "events arrive one after the other. Seconds are from arrival to factors that can be read; events/s are by "
        f"the whole micro-batch. {problem['batches']} micro-batches of each size after a first that is left out. "
        + measured(record["machine"]),
        "",
        "| rules (users, items) | events | p50 s | p95 s | events/s | MB written | Spark jobs |",
        "|---|---|---|---|---|---|---|",
    ]
    for rule, run in record["rules"].items():
        for size, found in run["sizes"].items():
            cells = (f"{found['p50_seconds']:.2f}", f"{found['p95_seconds']:.2f}", f"{found['events_per_second']:,.0f}")
            rest = (f"{found['bytes_per_batch'] / 1e6:.2f}", f"{found['spark_jobs_per_batch']:.0f}")
            lines.append(f"| {rule} | {size} | {' | '.join(cells + rest)} |")
    sizes = record["rules"]["exact"]["sizes"]
    steps = [
        step for step in sizes["1k"]["step_seconds"] if any(s["step_seconds"][step] >= 0.01 for s in sizes.values())
    ]
    lines += [
        "",
        "Where the time of `exact` goes, medians in seconds (`append` is what is waited for it after learning):",
        "",
        f"| events | {' | '.join(steps)} |",
        f"|---|{'---|' * len(steps)}",
    ]
    for size, found in sizes.items():
        lines.append(f"| {size} | " + " | ".join(f"{found['step_seconds'][step]:.2f}" for step in steps) + " |")
    growth = record["growth"]
    lines += [
        "",
        "The same 1k micro-batches after shorter histories, and what of `events` they read:",
        "",
        "| events in the table | p50 s | history s | of the touched users | files read | one user: files, row groups |",
        "|---|---|---|---|---|---|",
    ]
    for events, point in growth["points"].items():
        all_users, one = point["history"], point["history_of_one_user"]
        lines.append(
            f"| {int(events):,} | {point['p50_seconds']:.2f} | {point['history_step_seconds']:.2f} "
            f"| {all_users['events_of_the_users']:,} | {all_users['files_opened']} of {all_users['files']} "
            f"| {one['files_opened']} of {one['files']}, {one['row_groups_read']} of {one['row_groups_of_those']} |"
        )
    if retrain is not None:
        ratio = record["headline"]["cost_ratio_vs_mllib_retrain"]
        lines += [
            "",
            f"A retraining by MLlib for the same freshness: {retrain['seconds']:.0f} s, {ratio:.0f} times a whole 1k "
            "micro-batch.",
        ]
    return [*lines, ""]


def _soak(record: dict[str, Any]) -> list[str]:
    problem, found, samples = record["problem"], record["checks"], record["samples"]
    lines = [
        "## A stream at a steady rate",
        "",
        f"`make soak-stream`: {problem['batch']} events every {problem['every']} s for {problem['minutes']} minutes, "
        f"and {found['repeated'] / found['arrived']:.0%} of them again, after {problem['events']:,} events; half-way "
        f"another version is trained and published in the same Spark session, on the same {problem['cores']} cores. "
        + measured(record["machine"]),
        "",
        "| quarter | lag, s: median, largest | lag, events: median, largest | memory of Python, MB | of the JVM, MB |",
        "|---|---|---|---|---|",
    ]
    size = -(-len(samples) // 4)
    for number in range(4):
        some = samples[number * size : (number + 1) * size]
        cells = []
        for name, form in (("lag_seconds", ".1f"), ("lag_events", ",d")):
            values = sorted(sample[name] for sample in some)
            cells.append(f"{values[len(values) // 2]:{form}}, {values[-1]:{form}}")
        cells += [f"{median(sample[name] for sample in some) / 1e6:,.0f}" for name in ("python_bytes", "jvm_bytes")]
        lines.append(f"| {number + 1} | {' | '.join(cells)} |")
    retrained = record["retrained"]["published"] - record["retrained"]["began"]
    return [
        *lines,
        "",
        f"{found['arrived']:,} events arrived, {found['in_events_distinct']:,} are in `events`, each once; the ledger "
        f"counts {found['in_ledger']:,} new ones and {found['duplicates_in_ledger']:,} duplicates of "
        f"{found['repeated']:,} that were sent again. {found['batches']} micro-batches; the training took "
        f"{retrained:.0f} s beside the stream.",
        "",
    ]


def _stream_quality(record: dict[str, Any]) -> list[str]:
    ranks, ratings = record["results"]["ndcg_at_10"], record["results"]["rmse"]
    lines = [
        "## What a stream keeps of a retraining's gain",
        "",
        f"`{record['command']}`, on ml-100k in time order: trained on the first 80 % of the events, 1,000 "
        "micro-batches of the rest; every fifth streamed event is held out, never learned, and measured at the end. A "
        "share of 1 is what a training on all of it gains over the stale model. "
        f"Mean of {len(ranks['stale']['runs'])} runs.",
        "",
        "| user rule, item rule | NDCG@10 | share kept | RMSE | share kept |",
        "|---|---|---|---|---|",
    ]
    for name, figures in ranks.items():
        cells = [f"{part['figure']:.4f} | {part['share_kept']:.3f}" for part in (figures, ratings[name])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    defaults = record["defaults"]
    return [*lines, "", f"Defaults: {defaults['user_rule']}, {defaults['item_rule']}, rho {defaults['rho']:g}.", ""]


def _month(record: dict[str, Any]) -> list[str]:
    problem, first, second = record["problem"], *record["problem"]["shifts"]
    lines = [
        "## A month with two shifts of taste",
        "",
        f"`make bench-month`: {problem['days']} days of {problem['events_per_day']:,} synthetic events of "
        f"{problem['users']:,} users and {problem['items']:,} items, after {problem['history_days']} days that the "
        f"first model is trained on. With day {first} and day {second}, {problem['shifted']:.0%} of the users change "
        "tastes with one another. `nightly` trains every midnight, `stream` learns as events arrive and never trains, "
        "`stream_drift` trains where the pipeline `quality` asks for it. NDCG@10 is measured before each third of a "
        "day is learned, on the same users' new items for all; seconds are those in pipelines. Settings: "
        f"{', '.join(f'`{one}`' for one in problem['settings'])}; else the defaults. " + measured(record["machine"]),
        "",
        "![NDCG@10 per day of each way, with its trainings](images/month.svg)",
        "",
        "| | NDCG@10 | the day of each shift | three days later | trainings | rollbacks | seconds in pipelines |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, arm in record["arms"].items():
        days = arm["ndcg_per_day"]
        shown = [", ".join(f"{days[day + later]:.4f}" for day in (first, second)) for later in (0, 3)]
        counts = f"{len(arm['retrained_at_days'])} | {len(arm['rolled_back_at_days'])}"
        seconds = ", ".join(f"{pipeline} {took:.0f}" for pipeline, took in arm["seconds"].items())
        lines.append(
            f"| {name} | {arm['ndcg']:.4f} | {' | '.join(shown)} | {counts} "
            f"| {sum(arm['seconds'].values()):.0f} ({seconds}) |"
        )
    return [*lines, ""]


def _spread(middle: float, values: Sequence[float]) -> str:
    return f"{middle:.3g} ({min(values):.3g} to {max(values):.3g})"


def _ratios(part: dict[str, Any]) -> list[str]:
    """Return the figures that the part is after."""
    return [f"- `{key}`: {value:.4g}" for key, value in part.items() if isinstance(value, float) and key != "seconds"]


TITLES = {
    "kernels": "Kernels",
    "svd": "Truncated SVD",
    "nmf": "Non-negative factorization",
    "growth": "Growth with the entries",
    "time_to_quality": "Time to quality",
    "job": "The whole job, Delta to Delta",
}
SECTIONS = {
    "kernels": _kernels,
    "svd": _svd,
    "nmf": _nmf,
    "growth": _growth,
    "time_to_quality": _time_to_quality,
    "job": _job,
}


def _pyplot() -> Any:
    """Return matplotlib's, set to draw the same SVG of the same figures."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "lakefactor"
    from matplotlib import pyplot

    return pyplot


def plot_month(record: dict[str, Any]) -> None:
    """Draw docs/images/month.svg: NDCG per day, a dot on it where an arm trained, a line where tastes shift."""
    figure, axis = _pyplot().subplots(figsize=(9, 4))
    for name, arm in record["arms"].items():
        days = arm["ndcg_per_day"]
        trained = [min(int(moment), len(days) - 1) for moment in arm["retrained_at_days"]]
        axis.plot(days, label=name, marker="o", markevery=sorted(set(trained)), markersize=4)
    for shift in record["problem"]["shifts"]:
        axis.axvline(shift, color="grey", linestyle=":")
    axis.set(xlabel="day (dots: a training was published)", ylabel="NDCG@10, before learning")
    axis.legend()
    figure.tight_layout()
    images = ROOT / "docs" / "images"
    images.mkdir(exist_ok=True)
    figure.savefig(images / "month.svg", metadata={"Date": None})


def plot(part: dict[str, Any]) -> None:
    """Draw docs/time_to_quality.svg, one panel for each data set."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(1, len(part["data"]), figsize=(5 * len(part["data"]), 4), squeeze=False)
    for axis, (name, found) in zip(axes[0], part["data"].items(), strict=True):
        for trainer, points in found.items():
            if isinstance(points, list):
                axis.plot(*zip(*points, strict=True), marker=".", label=trainer)
        axis.set(title=name, xlabel="seconds of training", ylabel=found["metric"], xscale="log")
    axes[0][-1].legend()
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "time_to_quality.svg", metadata={"Date": None})


if __name__ == "__main__":
    PAGE.write_text(page())
    SCALING.write_text(scaling_page(SCALING.read_text()))
    engine = results("train")
    if "data" in engine.get("time_to_quality", {}):
        plot(engine["time_to_quality"])
    plot_month(results("month"))
