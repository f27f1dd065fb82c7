"""Model versions: all of them over time, and one in full."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.datastructures import QueryParams

from lakefactor.dashboard.overview import DECISION_COLUMNS
from lakefactor.dashboard.page import Page, command
from lakefactor.dashboard.store import MODEL_TABLES, Look
from lakefactor.pages.charts import Chart, Series, line_chart
from lakefactor.pages.model import named_version, read_model_page
from lakefactor.pages.numbers import words

SHOWN_VERSIONS = 30
SHOWN_DECISIONS = 20


def all_models(look: Look, path: Mapping[str, str], query: QueryParams) -> Page:
    """Return the versions, newest first, with the gate's metric over time and the decisions."""
    if not look.exists("models"):
        return Page.empty("Models", "No model version has been trained yet.", command(look.config, "train"))
    metric = look.config.publish.metric
    models = look.hold(
        "models",
        ["models", "live_model", "evaluations"],
        lambda: look.reader.models().to_pylist(maps_as_pydicts="lossy"),
    )
    removed = {row["model_version"]: row["removed_at"] for row in look.rows("models", ("model_version", "removed_at"))}
    figures = [
        row
        | {
            "value": (row["metrics"] or {}).get(metric),
            "popular": (row["popularity"] or {}).get(metric),
            "removed_at": removed.get(row["model_version"]),
        }
        for row in models
    ]
    context = {
        "models": figures,
        "metric": metric,
        "chart": _over_time(figures[:SHOWN_VERSIONS], metric),
        "decisions": look.newest("decisions", DECISION_COLUMNS, "decided_at", SHOWN_DECISIONS),
    }
    return Page("models.html", context)


def one_model(look: Look, path: Mapping[str, str], query: QueryParams) -> Page:
    """Return everything about one version."""
    if not look.exists("models"):
        return Page.empty("Models", "No model version has been trained yet.", command(look.config, "train"), 404)
    given = path["version"]
    version = look.hold(("version", given), ["models", "live_model"], lambda: named_version(look.config.tables, given))
    found = look.hold(("model", version), (*MODEL_TABLES, "evaluations"), lambda: read_model_page(look.lake, version))
    decisions = look.newest("decisions", DECISION_COLUMNS, "decided_at", SHOWN_DECISIONS, model_version=version)
    return Page("model.html", {"model": found, "metric": look.config.publish.metric, "decisions": decisions})


def _over_time(models: list[dict[str, Any]], metric: str) -> Chart | None:
    measured = [row for row in reversed(models) if row["value"] is not None]
    if not measured:
        return None
    places = range(1, len(measured) + 1)
    series = [
        Series("model", [(n, row["value"]) for n, row in zip(places, measured, strict=True)]),
        Series("popularity", [(n, row["popular"]) for n, row in zip(places, measured, strict=True)]),
    ]
    return line_chart(
        f"{words(metric)} by model version",
        series,
        description="Newest evaluation of each version, oldest to newest; not all need be on the same data.",
        x_name="model version",
        x_labels=[(n, _short(row["model_version"])) for n, row in zip(places, measured, strict=True)],
        from_zero=True,
        style="marked",
    )


def _short(version: str) -> str:
    """Return what tells a version from others in little room: its day and time.

    >>> _short("20261120-080000-aaaa"), _short("other")
    ('11-20 08:00', 'other')
    """
    day, _, rest = version.partition("-")
    if len(day) == 8 and day.isdigit() and rest[:4].isdigit():
        return f"{day[4:6]}-{day[6:]} {rest[:2]}:{rest[2:4]}"
    return version[:12]
