"""A/B tests: variants, and their differences with intervals."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import QueryParams

from lakefactor.dashboard.page import Page, command
from lakefactor.dashboard.store import Look
from lakefactor.metrics.experiment import SUSPECT
from lakefactor.pages.charts import Chart, Row, row_chart
from lakefactor.pages.numbers import signed, words

_COLUMNS = ("experiment", "variants", "shares", "control", "window_days", "planned_users", "started_at", "ended_at")
_RESULTS = ("experiment", "analysis_id", "analysed_at", "metric", "variant", "users", "value", "difference", "low",
            "high", "p_value", "any_time_low", "any_time_high", "sample_ratio_p_value")  # fmt: skip


def page(look: Look, path: Mapping[str, str], query: QueryParams) -> Page:
    """Return all tests, newest first."""
    tests = look.rows("experiments", _COLUMNS)
    if not tests:
        said = "No A/B test has been started yet."
        return Page.empty("Experiments", said, command(look.config, "experiment start NAME"))
    results = look.rows("experiment_results", _RESULTS)
    tests = sorted(tests, key=lambda row: row["started_at"], reverse=True)
    return Page("experiments.html", {"tests": [_told(look, test, results) for test in tests]})


def _told(look: Look, test: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a test with its newest analysis."""
    own = [row for row in results if row["experiment"] == test["experiment"]]
    newest = max(own, key=lambda row: (row["analysed_at"], row["analysis_id"]), default=None)
    rows = [row | {"lift": _lift(row)} for row in own if newest and row["analysis_id"] == newest["analysis_id"]]
    rows.sort(key=lambda row: (row["metric"], row["variant"] != test["control"], row["variant"]))
    p_value = newest["sample_ratio_p_value"] if newest else None
    return test | {
        "rows": rows,
        "analyse": command(look.config, f"experiment analyse {shlex.quote(test['experiment'])}"),
        "analysed_at": newest["analysed_at"] if newest else None,
        "sample_ratio": p_value,
        "is_skewed": p_value is not None and p_value < SUSPECT,
        "charts": [chart for chart in (_chart(test, rows, metric) for metric in _metrics(rows)) if chart],
    }


def _metrics(rows: list[dict[str, Any]]) -> list[str]:
    return sorted({row["metric"] for row in rows})


def _lift(row: dict[str, Any]) -> float | None:
    """Return the difference as a share of the control's value.

    >>> _lift({"value": 0.55, "difference": 0.05}), _lift({"value": 0.5, "difference": None})
    (0.1, None)
    """
    if row["difference"] is None or row["value"] is None or row["value"] == row["difference"]:
        return None
    return round(row["difference"] / (row["value"] - row["difference"]), 12)


def _chart(test: dict[str, Any], rows: list[dict[str, Any]], metric: str) -> Chart | None:
    shown = [row for row in rows if row["metric"] == metric and row["difference"] is not None]
    if not shown:
        return None
    return row_chart(
        f"{test['experiment']}: {words(metric)}",
        [Row(row["variant"], row["difference"], row["any_time_low"], row["any_time_high"]) for row in shown],
        description=f"Difference to {test['control']}, with the 95 % interval that holds whenever one looks.",
        value_name="difference",
        text=signed,
        style="intervals",
    )
