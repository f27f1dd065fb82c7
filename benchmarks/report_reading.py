"""The parts of docs/results.md on lists and on the service."""

from __future__ import annotations

from typing import Any

from machine import measured


def recommended(record: dict[str, Any]) -> list[str]:
    """Return the part on lists of all users."""
    problem, own, job = record["problem"], record["in_process"], record["job"]
    lines = [
        "## Lists of all users",
        "",
        f"`make bench-recommend`: top-{problem['n']} of {problem['users']:,} users among {problem['items']:,} items, "
        f"rank {problem['rank']}. In one process, {problem['cores']} threads, medians of {problem['repeats']} in turn; "
        "as Spark jobs, once, for the same users. " + measured(record["machine"]),
        "",
        "| | seconds | users per second |",
        "|---|---|---|",
    ]
    for runs, how in ((own, "in one process"), (job, "Spark job")):
        lines += [f"| {name}, {how} | {took:.1f} | {problem['users'] / took:,.0f} |" for name, took in runs.items()]
    lines += ["", *(f"- `{name}`: {value:.3g}" for name, value in record["headline"].items())]
    differing = record["differing"]["implicit"]
    return [*lines, f"- scores that differ from `implicit`'s by more than 1e-5 of the largest: {differing:.2%}", ""]


def served(record: dict[str, Any]) -> list[str]:
    """Return the part on the service."""
    index, loads = record["approximate"], ("recommend", "similar", "fold_in", "published_under_load")
    lines = [
        "## The service",
        "",
        f"`make bench-serve`: {record['items']:,} items, rank {record['rank']}, exact; {record['rate']} requests a "
        "second, sent when they are due by a process on the same cores; latency counts from then. "
        + measured(record["machine"] | {"load_average_after": record["load_average_after"]}),
        "",
        "| | requests per second | p50 ms | p99 ms | CPU ms of the service per request | errors |",
        "|---|---|---|---|---|---|",
    ]
    for name in loads:
        row = record[name]
        times = f"{row['p50_ms']:.2f} | {row['p99_ms']:.2f} | {row['service_cpu_ms_per_request']:.2f}"
        lines.append(f"| {name.replace('_', ' ')} | {row['requests_per_second']:.1f} | {times} | {row['errors']} |")
    versions = len(record["published_under_load"]["versions"])
    return [
        *lines,
        "",
        f"While a version was published under load, {versions} versions answered, each request from one.",
        "",
        f"Approximate search among {index['items']:,} items: recall@100 {index['recall_at_100']:.3f}, median "
        f"{index['approximate_ms']:.1f} ms beside {index['exact_ms']:.1f} ms of the exact scan; the index is made in "
        f"{index['seconds_to_make']:.0f} s.",
        "",
        "Oryx 2's documentation gives, for 250 features and 1M items on 32 cores, 24 requests per second exact and 160 "
        "by hashing with 30 % of the items looked at; another machine and rank, so no comparison.",
        "",
    ]
