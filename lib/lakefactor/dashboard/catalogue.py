"""The catalogue: which items people have to do with, and which ones the recommendations show them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from starlette.datastructures import QueryParams

from lakefactor.dashboard.page import Page, command
from lakefactor.dashboard.store import MODEL_TABLES, Look
from lakefactor.metrics import coverage, exposure_gini, mean_popularity
from lakefactor.pages.charts import Chart, Series, line_chart
from lakefactor.pages.numbers import number, share

SHOWN_ITEMS = 10
CURVE_POINTS = 60


class Exposure(NamedTuple):
    """What the stored lists of a model version show, by item of the model's catalogue.

    Attributes
    ----------
    counts : int64 ndarray, shape (m,)
        Lists that an item is in.
    best : int64 ndarray, shape (m,)
        Its best position; 0 where it is in none.
    n_lists : int
    """

    counts: NDArray[np.int64]
    best: NDArray[np.int64]
    n_lists: int


def page(look: Look, path: Mapping[str, str], query: QueryParams) -> Page:
    """Return the page."""
    if look.live_version is None:
        return Page.empty("Catalogue", "No model is published yet.", command(look.config, "publish"))
    return Page("catalogue.html", look.hold("catalogue", (*MODEL_TABLES, "recommendations"), lambda: _content(look)))


def exposure(look: Look) -> Exposure | None:
    """Return what the lists of the live version show; None: `recommend` has not made any of it."""
    version = look.live_version
    if version is None or not look.exists("recommendations"):
        return None
    return look.hold("exposure", (*MODEL_TABLES, "recommendations"), lambda: _exposure(look, version))


def _exposure(look: Look, version: str) -> Exposure | None:
    rows = look.lake.rows("recommendations", ("item_id", "position"), {"model_version": version})
    if not rows.num_rows:
        return None
    found = rows.group_by("item_id").aggregate([("position", "count"), ("position", "min")])
    items = look.client().items
    columns = items.columns_of(found["item_id"].combine_chunks())
    known = columns >= 0
    counts, best = np.zeros(len(items.ids), np.int64), np.zeros(len(items.ids), np.int64)
    counts[columns[known]] = found["position_count"].to_numpy()[known]
    best[columns[known]] = found["position_min"].to_numpy()[known]
    return Exposure(counts, best, pc.sum(pc.equal(rows["position"], pa.scalar(1, pa.int32()))).as_py())


def _content(look: Look) -> dict[str, Any]:
    client, shown = look.client(), exposure(look)
    popularity = client.items.n_entries
    figures = None
    charts = [concentration(popularity, None if shown is None else shown.counts)]
    if shown is not None:
        figures = {
            "coverage": coverage(shown.counts),
            "gini": exposure_gini(shown.counts),
            "popularity": mean_popularity(shown.counts, popularity),
            "n_lists": shown.n_lists,
        }
        charts.append(coverage_curve(shown.best))
    charts.append(long_tail(popularity, None if shown is None else shown.counts))
    return {
        "version": client.model_version,
        "n_items": len(popularity),
        "mean_entries": float(popularity.mean()) if len(popularity) else None,
        "figures": figures,
        "charts": charts,
        "popular": client.popular(SHOWN_ITEMS).to_pylist(),
        "representative": client.representative(SHOWN_ITEMS).to_pylist(),
        "recommend": command(look.config, "recommend"),
    }


def concentration(popularity: NDArray[np.int64], counts: NDArray[np.int64] | None) -> Chart:
    """Return which share of all interactions, and of all recommendations, the top items have."""
    series = [Series("interactions", _cumulated(popularity))]
    if counts is not None:
        series.insert(0, Series("recommendations", _cumulated(counts)))
    return line_chart(
        "Concentration on the top items",
        series,
        description="The share that the most frequent items have; a straight line from corner to corner is evenness.",
        x_name="share of the catalogue, most frequent first",
        x_text=share,
        y_text=share,
        from_zero=True,
    )


def coverage_curve(best: NDArray[np.int64]) -> Chart:
    """Return which share of the catalogue is in the first k positions of somebody's list."""
    longest = int(best.max())
    within = np.cumsum(np.bincount(best[best > 0], minlength=longest + 1))[1:] / len(best)
    return line_chart(
        "Coverage by length of the lists",
        [Series("coverage", [(float(k), float(y)) for k, y in enumerate(within, start=1)])],
        description="Items that stand within the first k positions of at least one list.",
        x_name="k",
        y_text=share,
        from_zero=True,
        style="area",
    )


def long_tail(popularity: NDArray[np.int64], counts: NDArray[np.int64] | None) -> Chart:
    """Return interactions and recommendations by rank of popularity, as means of ranks that lie close."""
    order = np.argsort(-popularity, kind="stable")
    edges = np.unique(np.geomspace(1, len(order) + 1, CURVE_POINTS // 2).astype(int))
    places = [float(np.sqrt(low * (high - 1))) for low, high in pairwise(edges)]

    def means(values: NDArray[np.int64]) -> list[tuple[float, float]]:
        ranked = values[order]
        parts = [float(ranked[low - 1 : high - 1].mean()) for low, high in pairwise(edges)]
        return list(zip(places, parts, strict=True))

    series = [Series("interactions", means(popularity))]
    if counts is not None:
        series.insert(0, Series("recommendations", means(counts)))
    return line_chart(
        "The long tail",
        series,
        description="Interactions of items, and lists that they are in, by rank of popularity; both scales in decades.",
        x_name="rank by popularity",
        x_text=lambda x: number(None if x is None else round(x)),
        log_x=True,
        log_y=True,
    )


def _cumulated(values: NDArray[np.int64]) -> list[tuple[float, float]]:
    total, m = int(values.sum()), len(values)
    if not total:
        return [(0.0, 0.0), (1.0, 0.0)]
    sums = np.concatenate([[0], np.cumsum(np.sort(values)[::-1])]) / total
    chosen = np.unique(np.round(np.linspace(0, 1, CURVE_POINTS) ** 2 * m).astype(int))
    return [(float(n / m), float(sums[n])) for n in chosen]
