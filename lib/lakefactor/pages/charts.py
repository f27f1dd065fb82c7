"""Charts as places on a plot: what the template ``chart.html`` draws as inline SVG, and the table beside it.

Places are per cent of the plot's width and height, from its upper left corner, so that a chart is as wide as its page
lets it be while its text keeps its size. Nothing here knows colours: a mark names its series by number, and the
stylesheet does the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from lakefactor.pages.numbers import brief, number
from lakefactor.pages.scales import Scale, scale_of, widened

BOX = 1000
"""Width and height of the coordinates of a path; it is stretched over the plot."""

PLOT_HEIGHT, ROW_HEIGHT = 190, 28
"""Pixels."""

LONGEST_LABEL = 20

Value = float | None
Text = Callable[[Value], str]


class Series(NamedTuple):
    """A line: its name, and points by ascending x; a y of None leaves a gap."""

    name: str
    points: Sequence[tuple[float, Value]]


class Rule(NamedTuple):
    """Something that happened at an x: its kind, with the sign that is drawn for it, and what it was."""

    x: float
    kind: Literal["publish", "drift"]
    text: str


class Row(NamedTuple):
    """A row of a chart of rows: a value, the interval around it, and what to compare it with."""

    label: str
    value: Value
    low: Value = None
    high: Value = None
    reference: Value = None


class Tick(NamedTuple):
    """A place on an axis, and what is written there."""

    place: float
    text: str


class Dot(NamedTuple):
    """A point of a series, or (series -1) a reference."""

    x: float
    y: float
    series: int
    text: str


class Stroke(NamedTuple):
    """A horizontal stroke: a bar of a row, or an interval."""

    x1: float
    x2: float
    y: float
    kind: Literal["bar", "interval"]


class Path(NamedTuple):
    """SVG path data in a square of `BOX`."""

    d: str
    series: int
    kind: Literal["line", "area"]


@dataclass(frozen=True)
class Chart:
    """What is drawn.

    Attributes
    ----------
    title, description : str
        What it shows, and what is to be seen there; for those who do not see it, too.
    x_name, y_name : str
        Names of the axes, with units.
    header, rows
        The table with the same data.
    """

    title: str
    description: str
    x_name: str
    y_name: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    height: int = PLOT_HEIGHT
    x_ticks: tuple[Tick, ...] = ()
    y_ticks: tuple[Tick, ...] = ()
    paths: tuple[Path, ...] = ()
    dots: tuple[Dot, ...] = ()
    strokes: tuple[Stroke, ...] = ()
    rules: tuple[tuple[float, str, str], ...] = ()
    legend: tuple[tuple[int, str], ...] = ()
    is_rows: bool = False
    zero: float | None = None
    """Where x is 0 in a chart of rows."""

    @property
    def key(self) -> str:
        """Name of the chart on its page, of letters, digits and hyphens."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    description: str = "",
    x_name: str = "",
    y_name: str = "",
    x_text: Text = number,
    y_text: Text = number,
    x_labels: Sequence[tuple[float, str]] = (),
    from_zero: bool = False,
    log_x: bool = False,
    log_y: bool = False,
    style: Literal["line", "area", "dots", "marked"] = "line",
    rules: Sequence[Rule] = (),
) -> Chart:
    """Return a chart of lines, of filled lines, of points, or of lines with their points.

    Parameters
    ----------
    title : str
    series : sequence of Series
        Points that a logarithmic axis cannot hold are left out.
    description, x_name, y_name : str
    x_text, y_text : callable
        How values are written on the axes and in the table.
    x_labels : sequence of (float, str)
        What stands on the x axis instead of round numbers, and in the table.
    from_zero : bool
        The y axis begins at 0.
    log_x, log_y : bool
    style : {"line", "area", "dots", "marked"}
    rules : sequence of Rule
        Marked at the top, as far as they lie on the axis.
    """
    drawn = [
        [(x, y) for x, y in one.points if not (log_x and x <= 0) and not (log_y and y is not None and y <= 0)]
        for one in series
    ]
    across = scale_of((x for points in drawn for x, _ in points), logarithmic=log_x)
    up = widened(
        scale_of((y for points in drawn for _, y in points if y is not None), from_zero=from_zero, logarithmic=log_y)
    )
    places = [[(across.place(x), None if y is None else 1 - up.place(y)) for x, y in points] for points in drawn]
    has_dots = [style in ("dots", "marked") or len(points) == 1 for points in drawn]
    texts = dict(x_labels)

    def at(x: float) -> str:
        return texts.get(x) or x_text(x)

    return Chart(
        title,
        description,
        x_name,
        y_name,
        *_table(series, x_name or "x", at, y_text),
        x_ticks=_across(across, all(x % 1 == 0 for points in drawn for x, _ in points), x_labels, x_text),
        y_ticks=tuple(Tick(100 * (1 - up.place(y)), brief(y_text(y))) for y in up.ticks()),
        paths=tuple(
            path for n, line in enumerate(places) if style != "dots" for path in _paths(line, n, style == "area")
        ),
        dots=tuple(
            Dot(100 * px, 100 * py, n, f"{series[n].name}: {y_text(y)} at {at(x)}")
            for n, line in enumerate(places)
            if has_dots[n]
            for (px, py), (x, y) in zip(line, drawn[n], strict=True)
            if py is not None
        ),
        rules=tuple(
            (100 * across.place(rule.x), rule.kind, rule.text) for rule in rules if across.low <= rule.x <= across.high
        ),
        legend=tuple((n, one.name) for n, one in enumerate(series)) if len(series) > 1 else (),
    )


def row_chart(
    title: str,
    rows: Sequence[Row],
    *,
    description: str = "",
    x_name: str = "",
    value_name: str = "value",
    reference_name: str = "",
    text: Text = number,
    style: Literal["bars", "intervals"] = "bars",
) -> Chart:
    """Return a chart with a bar, or a dot with its interval, for every row; 0 is always on it.

    Parameters
    ----------
    title : str
    rows : sequence of Row
    description, x_name, value_name : str
    reference_name : str
        What the references are; empty: there are none.
    text : callable
        How values are written.
    style : {"bars", "intervals"}
    """
    shown = [x for row in rows for x in (row.value, row.low, row.high, row.reference) if x is not None]
    across = widened(scale_of(shown, from_zero=True))
    dots, strokes = [], []
    for n, row in enumerate(rows):
        y = 100 * (n + 0.5) / len(rows)
        if row.value is not None and style == "bars":
            ends = sorted((across.place(0), across.place(row.value)))
            strokes.append(Stroke(100 * ends[0], 100 * ends[1], y, "bar"))
        if row.low is not None and row.high is not None:
            strokes.append(Stroke(100 * across.place(row.low), 100 * across.place(row.high), y, "interval"))
        if row.reference is not None:
            dots.append(Dot(100 * across.place(row.reference), y, -1, f"{reference_name}: {text(row.reference)}"))
        if row.value is not None and style == "intervals":
            dots.append(Dot(100 * across.place(row.value), y, 0, f"{row.label}: {text(row.value)}"))
    has_intervals = any(row.low is not None for row in rows)
    columns = [
        "",
        value_name,
        *(["95 % interval"] if has_intervals else []),
        *([reference_name] * bool(reference_name)),
    ]
    return Chart(
        title,
        description,
        x_name,
        "",
        tuple(columns),
        tuple(_cells(row, has_intervals, bool(reference_name), text) for row in rows),
        height=ROW_HEIGHT * max(1, len(rows)),
        x_ticks=tuple(Tick(100 * across.place(x), brief(text(x))) for x in across.ticks(4)),
        y_ticks=tuple(Tick(100 * (n + 0.5) / len(rows), shortened(row.label)) for n, row in enumerate(rows)),
        dots=tuple(dots),
        strokes=tuple(strokes),
        legend=((0, value_name), (-1, reference_name)) if reference_name else (),
        is_rows=True,
        zero=100 * across.place(0),
    )


def shortened(label: str) -> str:
    """Return a label that fits beside a plot.

    >>> shortened("heavy users"), shortened("x" * 30)
    ('heavy users', 'xxxxxxxxxxxxxxxxxxx…')
    """
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"


def _across(across: Scale, whole: bool, labels: Sequence[tuple[float, str]], text: Text) -> tuple[Tick, ...]:
    if not labels:
        return tuple(Tick(100 * across.place(x), brief(text(x))) for x in across.ticks(whole=whole))
    step = -(-len(labels) // 5)
    return tuple(Tick(100 * across.place(x), label) for x, label in labels[::step])


def _paths(line: Sequence[tuple[float, Value]], series: int, is_area: bool) -> list[Path]:
    """Return a path for each unbroken part of a line.

    >>> _paths([(0, 1), (0.5, 0), (0.6, None), (0.8, 0.5), (1, 0.25)], 2, False)
    [Path(d='M0 1000L500 0M800 500L1000 250', series=2, kind='line')]
    """
    parts: list[list[tuple[float, float]]] = [[]]
    for x, y in line:
        if y is None:
            parts.append([])
        else:
            parts[-1].append((x, y))
    drawn = [part for part in parts if len(part) > 1]
    if not drawn:
        return []
    texts = ["M" + "L".join(f"{BOX * x:.4g} {BOX * y:.4g}" for x, y in part) for part in drawn]
    found = [Path("".join(texts), series, "line")]
    if is_area:
        closed = [
            f"{text}L{BOX * part[-1][0]:.4g} {BOX}L{BOX * part[0][0]:.4g} {BOX}Z"
            for text, part in zip(texts, drawn, strict=True)
        ]
        found.insert(0, Path("".join(closed), series, "area"))
    return found


def _table(
    series: Sequence[Series], x_name: str, x_text: Callable[[float], str], y_text: Text
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    columns = [dict(one.points) for one in series]
    xs = sorted({x for one in series for x, _ in one.points})
    rows = tuple((x_text(x), *(y_text(column.get(x)) for column in columns)) for x in xs)
    return (x_name, *(one.name for one in series)), rows


def _cells(row: Row, has_intervals: bool, has_references: bool, text: Text) -> tuple[str, ...]:
    interval = text(None) if row.low is None or row.high is None else f"{text(row.low)} to {text(row.high)}"
    return (
        row.label,
        text(row.value),
        *([interval] if has_intervals else []),
        *([text(row.reference)] if has_references else []),
    )
